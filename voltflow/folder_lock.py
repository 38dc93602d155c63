"""Keeps a second program out of a folder that only one may write to.

>>> import tempfile
>>> with tempfile.TemporaryDirectory() as folder:
...     lock = FolderLock(Path(folder), "state_dir")
...     lock.take()
...     lock.release()
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
from contextlib import suppress
from pathlib import Path
from typing import Final

log = logging.getLogger(__name__)

_FILE: Final = "lock"
_TAKEN: Final = {errno.EACCES, errno.EAGAIN}


class FolderInUse(OSError):
    """Another program has the folder; the message names both, and what to do."""

    def __str__(self) -> str:
        return str(self.args[0])


class FolderLock:
    """A lock of the process: the operating system gives it up when that ends, however it ends."""

    def __init__(self, folder: Path, setting: str) -> None:
        self._path, self._setting = folder / _FILE, setting
        self._fd: int | None = None

    def take(self) -> None:
        """Raises FolderInUse. Where a file system knows no locks or takes no file, there is none, and the log says so."""
        try:
            # open for reading only: a file open for writing would keep the file system from being made read-only
            fd = os.open(self._path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            log.warning(
                "%s cannot be made: %s; a second program would not be kept out", self._path, error.strerror
            )
            return
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            owner = os.pread(fd, 20, 0).decode(errors="replace").strip()
            os.close(fd)
            if error.errno in _TAKEN:
                raise FolderInUse(
                    f"'{self._path.parent}' is in use by another program (process {owner or 'unknown'}): stop that one,"
                    f" or give each a {self._setting} of its own"
                ) from None
            log.warning(
                "%s cannot be locked: %s; a second program would not be kept out", self._path, error.strerror
            )
            return
        with suppress(OSError):  # a full or read-only disk: the lock holds all the same
            self._path.write_bytes(b"%-20d" % os.getpid())
        self._fd = fd

    def release(self) -> None:
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)
