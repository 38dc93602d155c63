"""The folder below which nodes read and write files, and nothing outside of it; a service of the program.

What is written is on the disk when a call returns. An append that fails leaves the file as it was.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path

READ_LIMIT_BYTES = 16 * 1024 * 1024
"""Of a file that is read as a whole: messages are in memory."""
FULL = {errno.ENOSPC, errno.EDQUOT}
"""There may be room later."""


class OutsideError(ValueError):
    """A name leads out of the folder."""


class Files:
    """The files of one folder. It is made when the first one is written."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, name: str) -> Path:
        """Where a name leads, links followed; raises OutsideError where that is not below the folder.

        >>> Files(Path("/srv/files")).path("a/b.csv").as_posix()
        '/srv/files/a/b.csv'
        >>> Files(Path("/srv/files")).path("../b.csv")
        Traceback (most recent call last):
        voltflow.nodelib.files.OutsideError: '../b.csv' is not below '/srv/files', the only folder that nodes read and write
        """
        if not name or "\0" in name:
            raise OutsideError(f"{name!r} is not the name of a file")
        home = self.folder.resolve()
        path = (home / name).resolve()
        if home not in path.parents:
            raise OutsideError(
                f"{name!r} is not below '{self.folder}', the only folder that nodes read and write"
            )
        return path

    def append(self, name: str, pieces: Sequence[bytes], *, make_folders: bool = False) -> None:
        """Add to a file, which is made where it is not there."""
        path = self._prepared(name, make_folders)
        is_new = not path.exists()
        with path.open("ab", buffering=0) as file:
            size = file.seek(0, os.SEEK_END)
            try:
                _write(file.fileno(), b"".join(pieces))
                os.fsync(file.fileno())
            except OSError:
                file.truncate(size)
                raise
        if is_new:
            _sync_folder(path.parent)

    def replace(self, name: str, data: bytes, *, make_folders: bool = False) -> None:
        """The file has this content and nothing else; whoever reads it gets all of the old or all of the new."""
        path = self._prepared(name, make_folders)
        temporary = path.with_name(f".{path.name[:200]}.tmp")
        try:
            with temporary.open("wb", buffering=0) as file:
                _write(file.fileno(), data)
                os.fsync(file.fileno())
            temporary.replace(path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)

    def delete(self, name: str) -> None:
        """Raises FileNotFoundError where there is none."""
        path = self.path(name)
        path.unlink()
        _sync_folder(path.parent)

    def read(self, name: str) -> bytes:
        """All of it; raises OSError where it is not there or more than READ_LIMIT_BYTES."""
        path = self.path(name)
        with path.open("rb") as file:
            data = file.read(READ_LIMIT_BYTES + 1)
        if len(data) > READ_LIMIT_BYTES:
            raise OSError(
                errno.EFBIG, f"larger than {READ_LIMIT_BYTES // 2**20} MiB, which is what a node reads", name
            )
        return data

    def _prepared(self, name: str, make_folders: bool) -> Path:
        path = self.path(name)
        if (
            make_folders or path.parent == self.folder.resolve()
        ):  # the folder itself is there for nodes anyway
            path.parent.mkdir(parents=True, exist_ok=True)
        return path


def _write(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]


def _sync_folder(folder: Path) -> None:
    """So that a new name is there after a crash."""
    found = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(found)
    finally:
        os.close(found)
