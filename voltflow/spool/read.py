"""Reads segment files of the spool (`spool_format`), whatever has happened to them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from zlib import adler32, crc32

import msgspec

from voltflow import topics
from voltflow.spool.crc import mend
from voltflow.spool.format import (
    END,
    FOOTER,
    FOOTER_BYTES,
    HEADER,
    HEADER_BYTES,
    LOSSES,
    MAGIC,
    MARKER,
    PREFIX,
    PREFIX_BYTES,
    RECORD,
    SUM,
    TOTALS,
    Entry,
    Footer,
    Group,
    Header,
    Lost,
    Range,
    Record,
)

_decode_head = msgspec.msgpack.Decoder(list[Any]).decode
_decode_heads = msgspec.msgpack.Decoder(list[list[Any]]).decode
_decode_time = msgspec.msgpack.Decoder(int).decode
_decode_ranges = msgspec.msgpack.Decoder(list[Range]).decode


class Frame(NamedTuple):
    """A frame of a file; head and body are None where they are damaged."""

    kind: int
    number: int
    start: int
    end: int
    head: bytes | None
    body: bytes | None
    repaired: int

    @property
    def is_record(self) -> bool:
        return self.kind == RECORD

    @property
    def is_losses(self) -> bool:
        return self.kind == LOSSES


def frames(data: bytes) -> Iterator[Frame]:
    """All that can be found in a file, in order."""
    at, number = HEADER_BYTES, 0
    while (frame := _next_frame(data, at, HEADER_BYTES, number)) is not None:
        yield frame
        at, number = frame.end, max(number, frame.number)


def decode_header(data: bytes) -> Header | None:
    """The header of a file, or None where it is damaged beyond one bit."""
    data = data[:HEADER_BYTES]
    if len(data) < HEADER_BYTES:
        return None
    mended = mend(data[: -SUM.size], SUM.unpack(data[-SUM.size :])[0])
    if mended is None:
        return None
    magic, version, level, covers, _ = HEADER.unpack(mended + bytes(SUM.size))
    return Header(version, level, covers) if magic == MAGIC else None


def guess_header(data: bytes, number: int) -> Header:
    """The header of a file of this version whose own is gone: one that was rewritten holds its losses."""
    frame, footer = _frame_at(data, HEADER_BYTES), decode_footer(data)
    rewritten = (frame is not None and frame.kind == LOSSES) or (footer is not None and footer.losses_at > 0)
    return Header(1, int(rewritten), number)


def decode_footer(data: bytes) -> Footer | None:
    """The footer that a closed file ends with, or None."""
    start = len(data) - FOOTER_BYTES
    frame = _frame_at(data, start) if start >= 0 else None
    if frame is None or frame.kind != FOOTER or frame.body is None or len(frame.body) != TOTALS.size:
        return None
    return Footer(*TOTALS.unpack(frame.body))


def read_group(data: bytes, start: int, number: int, footer: Footer) -> Group | None:
    """The group that begins at `start`, where record `number` is expected; None at the end of the segment.

    A group whose end mark is lost is read together with the next one.
    """
    frames: dict[int, Frame] = {}
    at, next_number, repaired = start, number, 0
    while (frame := _next_frame(data, at, start, next_number)) is not None:
        at, repaired = frame.end, repaired + frame.repaired
        if frame.kind == RECORD:
            frames[frame.number], next_number = frame, frame.number + 1
        elif frame.kind == END:
            entries = _entries(frames, range(number, frame.number), frame, footer)
            return Group(entries, at, frame.number, repaired)
    behind = max(footer.records, next_number)
    if behind == number:
        return None
    return Group(_entries(frames, range(number, behind), None, footer), len(data), behind, repaired)


def read_losses(data: bytes, footer: Footer) -> Group:
    """The ranges of a rewritten segment, from whichever of the two copies can be read."""
    first = _frame_at(data, HEADER_BYTES)
    if first is not None and first.kind == LOSSES:
        end = first.end
    else:  # its beginning is damaged: the records are where the next frame is
        behind = _next_frame(data, HEADER_BYTES + 1, HEADER_BYTES, 0)
        end = behind.start if behind is not None else len(data)
    for frame in (first, _frame_at(data, footer.losses_at)):
        if frame is not None and frame.kind == LOSSES and frame.body is not None:
            return Group(list(_decode_ranges(frame.body)), end, 0, frame.repaired)
    return Group([Lost(None)], end, 0, 0)


def recover(data: bytes) -> tuple[Footer, int]:
    """The counts of a file without a footer, and where its good part ends.

    Records behind the last end mark were not acknowledged; those that are whole are kept all the same, for it may be
    the mark that is damaged.
    """
    number = torn_from = oldest_ms = newest_ms = ranges = losses_at = 0
    end = HEADER_BYTES
    for frame in frames(data):
        if frame.kind == END:
            number, torn_from, end = frame.number, frame.number, frame.end
            newest_ms = max(newest_ms, _decode_time(frame.head) if frame.head is not None else 0)
        elif frame.kind == RECORD and frame.head is not None and frame.body is not None:
            number, end = frame.number + 1, frame.end
            oldest_ms = earlier(oldest_ms, _decode_head(frame.head)[1])
        elif frame.kind == LOSSES:
            losses_at, end = frame.start, frame.end
            ranges = ranges if frame.body is None else len(_decode_ranges(frame.body))
    return Footer(number, ranges, oldest_ms, newest_ms, torn_from, losses_at), end


def earlier(one_ms: int, other_ms: int) -> int:
    """The earlier of two times; 0 is a time that is not known."""
    return min(one_ms or other_ms, other_ms or one_ms)


def _entries(frames: dict[int, Frame], numbers: range, end: Frame | None, footer: Footer) -> list[Entry]:
    """A record or its loss for every number; what was torn off before it was acknowledged is no loss."""
    heads = {number: _record_of(_decode_head(frame.head)) for number, frame in frames.items() if frame.head}
    if len(heads) < len(numbers) and end is not None:
        heads = {**_heads_of(end), **heads}
    entries = ((number, _entry(frames.get(number), heads.get(number))) for number in numbers)
    return [entry for number, entry in entries if number < footer.torn_from or isinstance(entry, Record)]


def _heads_of(end: Frame) -> dict[int, Record]:
    if end.body is None:
        return {}
    heads = [_record_of(head) for head in _decode_heads(end.body)]
    return dict(enumerate(heads, end.number - len(heads)))


def _entry(frame: Frame | None, head: Record | None) -> Entry:
    if frame is None or frame.body is None or head is None:
        return Lost(head)
    head.payload = frame.body
    return head


def _record_of(head: list[Any]) -> Record:
    topic, received_ms, boot, seq, ts_ms, *names = head
    fleet, pack = names or (topics.parse(topic) or ("", ""))[:2]
    return Record(topic, b"", received_ms, fleet, pack, boot, seq, ts_ms)


def _next_frame(data: bytes, at: int, group_start: int, number: int) -> Frame | None:
    """The frame at a place, or the first one behind it where damage is.

    Its number must be possible: not smaller than expected, and not more records on than there is room for.
    """
    while 0 <= at < len(data):
        frame = _frame_at(data, at)
        if frame is not None:
            room = (frame.start - group_start) // PREFIX_BYTES
            if frame.kind in {LOSSES, FOOTER} or number <= frame.number <= number + room:
                return frame
        at = data.find(MARKER, at + 1)
    return None


def _frame_at(data: bytes, start: int) -> Frame | None:
    """The frame whose prefix stands there, with head and body None where they are damaged; None where none is."""
    behind = start + PREFIX_BYTES
    if behind > len(data):
        return None
    prefix, stored = data[start : behind - SUM.size], SUM.unpack_from(data, behind - SUM.size)[0]
    repaired = int(crc32(prefix) != stored)
    mended = mend(prefix, stored) if repaired else prefix
    if mended is None:
        return None
    marker, word, number, body_bytes, head_sum, body_sum, check = PREFIX.unpack(mended)
    kind, head_bytes = word >> 24, word & 0xFFFFFF
    end = behind + head_bytes + body_bytes
    if marker != MARKER or end > len(data):
        return None
    head, head_repaired = _checked(data[behind : behind + head_bytes], head_sum)
    body, body_repaired = _checked(data[behind + head_bytes : end], body_sum, check)
    return Frame(kind, number, start, end, head, body, repaired + head_repaired + body_repaired)


def _checked(data: bytes, stored: int, check: int | None = None) -> tuple[bytes | None, int]:
    """The data, mended if need be. A mended payload is believed only when its second sum is right, too: of large
    damage a few in a million would look like a single wrong bit."""
    if crc32(data) == stored:
        return data, 0
    mended = mend(data, stored)
    if mended is None or (check is not None and adler32(mended) != check):
        return None, 0
    return mended, 1


class Reader(NamedTuple):
    """How the files of one version are read."""

    decode_footer: Callable[[bytes], Footer | None]
    read_group: Callable[[bytes, int, int, Footer], Group | None]
    read_losses: Callable[[bytes, Footer], Group]
    recover: Callable[[bytes], tuple[Footer, int]]


READERS = {1: Reader(decode_footer, read_group, read_losses, recover)}
"""By the version in the file's header: what a released version wrote stays readable."""
