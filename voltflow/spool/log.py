"""One class of the spool on disk: a folder of segment files, the newest of which is written to."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from voltflow.spool.disk import Disk, read_all
from voltflow.spool.format import (
    FOOTER_BYTES,
    HEADER_BYTES,
    VERSION,
    Footer,
    Record,
    encode_footer,
    encode_group,
    encode_header,
)
from voltflow.spool.read import READERS, decode_header, earlier, guess_header

log = logging.getLogger(__name__)


@dataclass(eq=False)
class Segment:
    """A file; `end` is where its good bytes end, `begun_ms` when this program began it."""

    path: Path
    number: int
    level: int
    covers: int
    footer: Footer
    end: int
    version: int = VERSION
    begun_ms: int = 0

    @property
    def messages(self) -> int:
        """Records and ranges of lost ones: each will be a message."""
        return self.footer.records + self.footer.ranges


class Log:
    """The segments of a folder in the order of their numbers; errors of the disk are raised as OSError.

    A group is written behind the last good byte and made safe by one fdatasync. After a failed write the file is cut
    back; after a failed fsync, or where cutting fails, the file is given up and the next group begins a new one: the
    kernel marks pages clean that it could not write, so their file cannot be trusted to be written later.
    """

    def __init__(self, folder: Path, segment_bytes: int, disk: Disk) -> None:
        self.folder, self.segment_bytes, self._disk = folder, segment_bytes, disk
        self.segments: list[Segment] = []
        self.bytes = self.messages = 0
        self.next_number = 1
        self._fd: int | None = None

    @property
    def active(self) -> Segment | None:
        """The segment that is being written to."""
        return self.segments[-1] if self._fd is not None else None

    # Start and end

    def open(self) -> None:
        """Finds what is there. Damage is not an error; only a folder that cannot be made or listed is."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for leftover in self.folder.glob("*.tmp"):
            with suppress(OSError):
                leftover.unlink()
        paths = sorted(path for path in self.folder.glob("*.seg") if path.stem.isdecimal())
        for path in paths:
            self.next_number = max(self.next_number, int(path.stem) + 1)
            segment = self._inspected(path)
            if segment is not None:
                while self.segments and self.segments[-1].number >= segment.covers:
                    self._forget(self.segments[-1:])
                self._count(segment)
                self.segments.append(segment)

    def _inspected(self, path: Path) -> Segment | None:
        try:
            return self._inspect(path)
        except OSError as error:
            log.warning("spool: %s cannot be read and is left alone: %s", path, error.strerror)
            return None

    def _inspect(self, path: Path) -> Segment | None:
        size, number = path.stat().st_size, int(path.stem)
        start = read_all(path, 0, min(size, HEADER_BYTES))
        header = decode_header(start)
        if header is None:
            header = guess_header(read_all(path), number)
        if header.version not in READERS:
            self._set_aside(path, header.version)
            return None
        tail = read_all(path, max(0, size - FOOTER_BYTES), size)
        footer = READERS[header.version].decode_footer(tail)
        segment = Segment(path, number, header.level, header.covers, footer or Footer(), size, header.version)
        if footer is None:
            self._recover(segment)
        if not segment.messages:
            self._discard(path)
            return None
        return segment

    def _set_aside(self, path: Path, version: int) -> None:
        aside = path.with_suffix(f".seg.version-{version}")
        with suppress(OSError):
            path.rename(aside)
        self._disk.counters.set_aside += 1
        log.error(
            "spool: %s has format version %d, this program reads up to %d: set aside as %s, its messages are not"
            " delivered; install the version that wrote it and rename it back to deliver them",
            path, version, max(READERS), aside.name,
        )  # fmt: skip

    def _discard(self, path: Path) -> None:
        """A file that a crash left before its first message was safe."""
        with suppress(OSError):
            path.unlink()

    def _recover(self, segment: Segment) -> None:
        """Counts what a file without footer holds and closes it, as far as the disk allows."""
        data = read_all(segment.path)
        segment.footer, segment.end = READERS[segment.version].recover(data)
        if segment.end < len(data) or segment.footer.torn_from < segment.footer.records:
            self._disk.counters.torn += 1
            log.warning(
                "spool: %s: the last write was cut off; %d messages are there", segment.path, segment.messages
            )
        if segment.version == VERSION and segment.messages:
            with suppress(OSError):
                fd = os.open(segment.path, os.O_RDWR | os.O_CLOEXEC)
                try:
                    os.ftruncate(fd, segment.end)
                    self._close_segment(segment, fd)
                finally:
                    os.close(fd)

    def _close_segment(self, segment: Segment, fd: int) -> None:
        data = encode_footer(segment.footer)
        self._disk.write(fd, data, segment.end)
        self._disk.sync(fd)
        segment.end += len(data)

    def seal(self) -> None:
        """Closes the segment that is being written; without its footer it is only slower to open."""
        segment, fd = self.active, self._fd
        if segment is None or fd is None:
            return
        before = segment.end
        try:
            self._close_segment(segment, fd)
        except OSError:
            with suppress(OSError):
                os.ftruncate(fd, before)
        self.bytes += segment.end - before
        self._fd = None
        os.close(fd)

    # Writing

    def append(self, records: Sequence[Record], kept_ms: int) -> tuple[int, Footer]:
        """Makes the records safe, at a time; what comes back undoes it (`retract`)."""
        estimate = sum(len(record.payload) + 2 * len(record.topic) + 100 for record in records)
        active = self.active
        if active is not None and active.end + estimate > self.segment_bytes:
            self.seal()
        segment, fd = self._writable()
        before = segment.end, segment.footer
        start = b"" if segment.end else encode_header(covers=segment.number)
        segment.begun_ms = segment.begun_ms or kept_ms
        data = start + encode_group(records, segment.footer.records, kept_ms)
        try:
            self._disk.write(fd, data, segment.end)
        except OSError:
            self._cut(segment, fd)
            raise
        try:
            self._disk.sync(fd)
            if start:
                self._disk.sync_folder(self.folder)
        except OSError:
            self._give_up(segment, fd)
            raise
        self._grow(segment, segment.end + len(data), counted(segment.footer, records, kept_ms))
        return before

    def _writable(self) -> tuple[Segment, int]:
        if self._fd is None:
            path = self.folder / f"{self.next_number:010}.seg"
            self._fd = self._disk.create(path)
            self.segments.append(Segment(path, self.next_number, 0, self.next_number, Footer(), 0))
            self.next_number += 1
        return self.segments[-1], self._fd

    def retract(self, before: tuple[int, Footer]) -> None:
        """Takes the last group back."""
        segment, fd = self.active, self._fd
        assert segment is not None
        assert fd is not None
        self._grow(segment, *before)
        self._cut(segment, fd)

    def _grow(self, segment: Segment, end: int, footer: Footer) -> None:
        self.bytes += end - segment.end
        self.messages += footer.records - segment.footer.records
        segment.end, segment.footer = end, footer

    def _cut(self, segment: Segment, fd: int) -> None:
        """Takes away what stands behind the last good byte."""
        try:
            os.ftruncate(fd, segment.end)
        except OSError:
            self._give_up(segment, fd)
            return
        if not segment.end:
            self._give_up(segment, fd)

    def _give_up(self, segment: Segment, fd: int) -> None:
        """Writes no more to this file; its groups that are safe stay readable."""
        self._fd = None
        with suppress(OSError):
            os.ftruncate(fd, segment.end)
        with suppress(OSError):
            os.close(fd)
        if not segment.end:
            self.segments.remove(segment)
            self._discard(segment.path)

    # Whole segments

    def at(self, number: int) -> Segment | None:
        """The segment of a number, or the next one."""
        return next((segment for segment in self.segments if segment.number >= number), None)

    def remove(self, segments: Iterable[Segment]) -> None:
        """Deletes files; one that cannot be deleted now is found again at the next start, and delivered again."""
        if self._forget(segments):
            with suppress(OSError):
                self._disk.sync_folder(self.folder)

    def _forget(self, segments: Iterable[Segment]) -> int:
        count = 0
        for segment in segments:
            if segment is self.active:
                assert self._fd is not None
                os.close(self._fd)
                self._fd = None
            self.segments.remove(segment)
            self.bytes -= segment.end
            self.messages -= segment.messages
            count += 1
            try:
                segment.path.unlink(missing_ok=True)
            except OSError as error:
                log.warning("spool: %s cannot be deleted: %s", segment.path, error.strerror)
        return count

    def replace(self, run: Sequence[Segment], new: Segment, data: bytes) -> None:
        """Puts a new file in the place of the last of a run of segments, then deletes the others.

        The new one `covers` them: where a crash comes before the deletion, the next start does it.
        """
        self._disk.replace(new.path, data, sync=True)
        place = self.segments.index(run[0])
        self.segments[place : place + len(run)] = [*run[:-1], new]
        self.bytes += new.end - run[-1].end
        self.messages += new.messages - run[-1].messages
        self.remove(run[:-1])

    def _count(self, segment: Segment) -> None:
        self.bytes += segment.end
        self.messages += segment.messages


def counted(footer: Footer, records: Sequence[Record], kept_ms: int) -> Footer:
    """The counts with more records."""
    oldest_ms, count = footer.oldest_ms, footer.records + len(records)
    for record in records:
        oldest_ms = earlier(oldest_ms, record.received_ms)
    return footer._replace(
        records=count, oldest_ms=oldest_ms, newest_ms=max(footer.newest_ms, kept_ms), torn_from=count
    )
