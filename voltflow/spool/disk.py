"""The disk as the spool sees it: every write, fsync, rename and deletion goes through here and is counted."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import msgspec

_BLOCK_BYTES = 4096


class SpoolCounters(msgspec.Struct):
    """What happened since the start. `fsyncs` counts files and folders, `damaged` records that could not be read,
    `repaired` single bits turned back, `torn` writes that a crash cut off, `set_aside` files of an unknown version."""

    appended: int = 0
    delivered: int = 0
    fsyncs: int = 0
    bytes_written: int = 0
    damaged: int = 0
    repaired: int = 0
    torn: int = 0
    set_aside: int = 0
    thinned: int = 0
    lost_by_reason: dict[str, int] = msgspec.field(default_factory=dict)

    def count_lost(self, reason: str, count: int) -> None:
        if count:
            self.lost_by_reason = {**self.lost_by_reason, reason: self.lost_by_reason.get(reason, 0) + count}


class Disk:
    """Counts what it does in `counters`; errors are the operating system's."""

    def __init__(self, counters: SpoolCounters) -> None:
        self.counters = counters

    def create(self, path: Path) -> int:
        """The descriptor of a new file; that it exists is safe only after `sync_folder`."""
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    def write(self, fd: int, data: bytes, offset: int) -> None:
        """All of the data; a short write goes on, so that the reason of the shortness is raised."""
        view = memoryview(data)
        while view:
            written = os.pwrite(fd, view, offset)
            self.counters.bytes_written += written
            view, offset = view[written:], offset + written

    def sync(self, fd: int) -> None:
        self.counters.fsyncs += 1
        os.fdatasync(fd)

    def sync_folder(self, folder: Path) -> None:
        """Makes safe which files a folder holds."""
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self.counters.fsyncs += 1
            os.fsync(fd)
        finally:
            os.close(fd)

    def replace(self, path: Path, data: bytes, *, sync: bool) -> None:
        """The file with other contents: all of them or, after a crash, the old ones."""
        temporary = path.with_suffix(".tmp")
        temporary.unlink(missing_ok=True)
        try:
            fd = self.create(temporary)
            try:
                self.write(fd, data, 0)
                if sync:
                    self.sync(fd)
            finally:
                os.close(fd)
            temporary.rename(path)
        except OSError:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        if sync:
            self.sync_folder(path.parent)


def read_all(path: Path, offset: int = 0, end: int | None = None) -> bytes:
    """A file's bytes; what the disk cannot read any more comes as zeros, and is found as damage."""
    with path.open("rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size if end is None else end
        try:
            return _read(file.fileno(), offset, size)
        except OSError:
            return b"".join(
                _read_or_zeros(file.fileno(), at, min(at + _BLOCK_BYTES, size))
                for at in range(offset, size, _BLOCK_BYTES)
            )


def _read(fd: int, offset: int, end: int) -> bytes:
    parts = []
    while offset < end and (part := os.pread(fd, end - offset, offset)):
        parts.append(part)
        offset += len(part)
    return b"".join(parts)


def _read_or_zeros(fd: int, offset: int, end: int) -> bytes:
    try:
        return _read(fd, offset, end)
    except OSError:
        return bytes(end - offset)
