"""Small files that a program keeps: replaced as a whole or not at all, and brought up to date step by step.

    {"version": 2, …}

Each step makes the next version of an older one; before the first a copy stays as `NAME.vN`.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from voltflow import finite_json

log = logging.getLogger(__name__)

_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS}
"""What file systems without hard links answer: vfat, exFAT, some network shares."""

Step = Callable[[Any], Any]
"""Makes a document of one version from one of the version before."""


def write(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Replace the file, durably and whole; raises OSError, and then the old one is still there.

    The owner stays: root may change a file that a service reads.
    """
    Prepared(path, data, mode=mode).take_place()


class Prepared:
    """What a file is to become, safe on disk beside it: a full disk shows now, and putting it in place is a renaming."""

    def __init__(self, path: Path, data: bytes, *, mode: int = 0o600) -> None:
        self.path = path
        self._temporary = path.with_name(f"{path.name}.new")
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._temporary.unlink(missing_ok=True)
            fd = os.open(self._temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
            with os.fdopen(fd, "wb") as file:
                _keep_owner(fd, path)
                file.write(data)
                file.flush()
                os.fsync(fd)
        except OSError:
            self.give_up()
            raise

    def take_place(self) -> None:
        """Durably; raises OSError, and then the old file is still there."""
        try:
            self._temporary.replace(self.path)
        except OSError:
            self.give_up()
            raise
        sync_folder(self.path.parent)

    def give_up(self) -> None:
        """Leave the file as it is; does nothing where it was replaced."""
        with contextlib.suppress(OSError):
            self._temporary.unlink(missing_ok=True)


def _keep_owner(fd: int, path: Path) -> None:
    if os.geteuid() == 0:
        known = path.stat() if path.exists() else path.parent.stat()
        with contextlib.suppress(OSError):
            os.fchown(fd, known.st_uid, known.st_gid)


def put_new(temporary: Path, path: Path) -> None:
    """Give a file that is whole its name, durably, where nothing has that name; raises FileExistsError and OSError.

    `temporary` lies in the same folder; where it is still there afterwards the caller removes it.
    """
    try:
        os.link(temporary, path)  # unlike a renaming it replaces nothing
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        if path.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from None
        temporary.rename(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_versioned(path: Path, steps: Sequence[Step]) -> Any:
    """The document in a JSON file, brought to the newest version (one more than there are steps).

    A file without a version, or that is no object, is version 1. Raises FileNotFoundError, OSError, and ValueError where
    it is not JSON or newer than this program knows.
    """
    raw = path.read_bytes()
    try:
        found = finite_json.loads(raw.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"'{path}' is not JSON: {error}") from None
    version, newest = version_of(found), len(steps) + 1
    if version > newest:
        raise ValueError(
            f"'{path}' was written by a newer version of Voltflow (version {version}, known is {newest})"
        )
    document = migrated(found, steps, version)
    if version < newest:
        _bring_up_to_date(path, raw, version, document, newest)
    return document


def _bring_up_to_date(path: Path, raw: bytes, version: int, document: Any, newest: int) -> None:
    kept = path.with_name(f"{path.name}.v{version}")
    try:
        write(kept, raw)
        write_versioned(path, document, newest)
    except OSError as error:
        log.warning("'%s' stays in version %d: %s; it is used all the same", path, version, error.strerror)
    else:
        log.info("'%s' is in version %d now; %s is as it was", path, newest, kept.name)


def version_of(document: Any) -> int:
    version = document.get("version", 1) if isinstance(document, dict) else 1
    if not isinstance(version, int) or version < 1:
        raise ValueError(f'"version" is {version!r}, it must be a whole number from 1')
    return version


def migrated(document: Any, steps: Sequence[Step], version: int) -> Any:
    """A document of a version as it is in the newest.

    >>> migrated(["a"], [lambda old: {"names": old}, lambda old: {**old, "more": []}], 1)
    {'names': ['a'], 'more': []}
    """
    for step in steps[version - 1 :]:
        document = step(document)
    return document


def write_versioned(path: Path, document: dict[str, Any], version: int) -> None:
    """Replace the file; raises OSError, and ValueError for a number that is not finite."""
    text = json.dumps({**document, "version": version}, indent=2, ensure_ascii=False, allow_nan=False)
    write(path, f"{text}\n".encode())
