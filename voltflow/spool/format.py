"""How a spool's bytes look: segment files `voltflow.spool/1`, written in groups that one fsync makes safe.

    file header   magic, version, level, `covers`, CRC
    [losses]      what a rewritten segment has lost of its messages: ranges of sequence numbers
    group …       records, then an end mark that repeats their heads
    [losses]      the same once more
    [footer]      counts of the whole file; only where the segment was closed

Everything is a frame: a prefix of 32 bytes with a CRC of its own (marker, kind, lengths, ordinal number, the CRCs of head
and body), a head (what the record is: topic, key, times) and a body (the payload). So one wrong bit is mended
wherever it is (`spool_crc`). Larger damage costs the record it hits: reading goes on at the next marker, and the numbers
say how many records are missing and the end mark's heads which ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct
from typing import NamedTuple
from zlib import adler32, crc32

import msgspec

from voltflow import topics


class Record(msgspec.Struct, array_like=True):
    """A message in the spool; without a `pack` it has no key (`fleet`, `pack`, `boot`, `seq`)."""

    topic: str
    payload: bytes
    received_ms: int = 0
    fleet: str = ""
    pack: str = ""
    boot: int = -1
    seq: int = -1
    ts_ms: int = 0

    @property
    def has_key(self) -> bool:
        return bool(self.fleet and self.pack) and self.boot >= 0 and self.seq >= 0


class Range(msgspec.Struct, array_like=True, frozen=True):
    """Messages of one boot that are gone, and why."""

    fleet: str
    pack: str
    boot: int
    seq_from: int
    seq_to: int
    reason: str


class Lost(NamedTuple):
    """A record that could not be read; `head` is None where not even what it was is known."""

    head: Record | None

    @property
    def range(self) -> Range | None:
        """The loss, where it is known of what."""
        head = self.head
        if head is None or not head.has_key:
            return None
        return Range(head.fleet, head.pack, head.boot, head.seq, head.seq, DAMAGED)


Entry = Record | Lost | Range


class Group(NamedTuple):
    """What was read: its entries, where the next group begins, that group's first number, how many bits were mended."""

    entries: list[Entry]
    end: int
    number: int
    repaired: int


class Header(NamedTuple):
    """`level` says how often the segment was rewritten; `covers` is the first number of those made into this one."""

    version: int
    level: int
    covers: int


class Footer(NamedTuple):
    """Counts of a closed segment: `oldest_ms` is the first time of receipt that is known, `newest_ms` that of the last
    write. Records from number `torn_from` on were never acknowledged."""

    records: int = 0
    ranges: int = 0
    oldest_ms: int = 0
    newest_ms: int = 0
    torn_from: int = 0
    losses_at: int = 0


DAMAGED = "spool_damaged"
VERSION = 1
MAGIC = b"voltflow.spool\x00\x00"
MARKER = b"\xf5\xb2VF"
"""Never part of UTF-8 text, so no JSON payload holds one."""
RECORD, END, LOSSES, FOOTER = 1, 2, 3, 4

HEADER = Struct("<16sHHQI")
PREFIX = Struct("<4sIIIIII")
"""Marker; kind in the top byte and the head's length in the other three; number; the body's length; three sums."""
SUM = Struct("<I")
TOTALS = Struct("<6Q")
HEADER_BYTES = HEADER.size
PREFIX_BYTES = PREFIX.size + SUM.size
FOOTER_BYTES = PREFIX_BYTES + TOTALS.size

_encode = msgspec.msgpack.Encoder().encode
_Head = tuple[str, int, int, int, int] | tuple[str, int, int, int, int, str, str]


def encode_header(level: int = 0, covers: int = 0) -> bytes:
    """The first bytes of a segment file."""
    data = HEADER.pack(MAGIC, VERSION, level, covers, 0)[: -SUM.size]
    return data + SUM.pack(crc32(data))


def encode_group(records: Sequence[Record], number: int, kept_ms: int) -> bytes:
    """Records as one group; `number` is the first one's ordinal number in its segment, `kept_ms` the time of writing."""
    heads = [_head_of(record) for record in records]
    parts: list[bytes] = []
    for index, record in enumerate(records):
        parts += _frame(RECORD, number + index, _encode(heads[index]), record.payload)
    parts += _frame(END, number + len(records), _encode(kept_ms), _encode(heads))
    return b"".join(parts)


def encode_losses(ranges: Sequence[Range]) -> bytes:
    """The ranges that a rewritten segment explains."""
    return b"".join(_frame(LOSSES, 0, b"", _encode(ranges)))


def encode_footer(footer: Footer) -> bytes:
    """The last bytes of a closed segment."""
    return b"".join(_frame(FOOTER, footer.records, b"", TOTALS.pack(*footer)))


def _frame(kind: int, number: int, head: bytes, body: bytes) -> tuple[bytes, bytes, bytes, bytes]:
    kind_and_length = kind << 24 | len(head)
    prefix = PREFIX.pack(MARKER, kind_and_length, number, len(body), crc32(head), crc32(body), adler32(body))
    return prefix, SUM.pack(crc32(prefix)), head, body


def _head_of(record: Record) -> _Head:
    """Fleet and pack are written only where the topic does not say them."""
    common = (record.topic, record.received_ms, record.boot, record.seq, record.ts_ms)
    place = topics.parse(record.topic)
    if place is not None and (place.fleet, place.pack) == (record.fleet, record.pack):
        return common
    return (*common, record.fleet, record.pack)
