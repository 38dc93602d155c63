"""A gateway in one file: what it keeps in its state folder, its flow, users, files and settings.

`write(places, FILE, …)` makes it, `restore(FILE, places)` in `restoring` puts it back. The file is a gzipped tar: first `voltflow.backup`
with the versions, then the files by their place (`state/state.bin`), at the end `manifest.json` with their checksums.

A gateway that runs holds the lock of its folder. Then only what it replaces as a whole is copied (`live`): not the spool and
not what nodes hold, whose files belong together.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import gzip
import hashlib
import io
import os
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import IO

import msgspec

from voltflow import __version__, kept_file
from voltflow.folder_lock import FolderInUse, FolderLock

FORMAT = 1
HEAD, MANIFEST = "voltflow.backup", "manifest.json"
_NEVER = frozenset({"lock", "tokens.json"})
"""Locks, and who is logged in at the moment."""
OF_RESTORING = (".restoring", ".before-")
"""Beginnings of names at the top of a folder: what a restore has there, and what it has put aside."""
_NOT_LIVE = ("spool", "held")
"""Beginnings of names in the state folder that a running gateway changes bit by bit."""
_CREDENTIALS = ("credential_secret", "flows_cred", ".flows_cred", "users")


class BackupError(ValueError):
    """It cannot be made or put back; the message says why and what to do."""


class Entry(msgspec.Struct):
    """A file in it. `name` is its place, then the path there; `mode` its permissions."""

    name: str
    size_bytes: int
    sha256: str
    mode: int


class Head(msgspec.Struct):
    """What it is, before anything else is read."""

    format: int
    program: str


class Manifest(msgspec.Struct):
    """What is in it. `live`: the gateway was running; `credentials`: secrets are in it."""

    made: dt.datetime
    gateway: str
    live: bool
    credentials: bool
    files: list[Entry]


class Places(msgspec.Struct, frozen=True):
    """Where a gateway keeps its things. What is None lies in the state folder, or is not there."""

    state: Path
    flow: Path | None = None
    users: Path | None = None
    files: Path | None = None
    settings: Path | None = None

    def outside(self) -> Mapping[str, Path]:
        """What does not lie in the state folder, by its place."""
        named = {"flow": self.flow, "users": self.users, "files": self.files, "settings": self.settings}
        state = self.state.resolve()
        return {
            name: path for name, path in named.items() if path and not path.resolve().is_relative_to(state)
        }


def write(
    places: Places, out: Path, *, gateway: str = "", live: bool = False, credentials: bool = True
) -> Manifest:
    """Make FILE, readable by its owner only; raises BackupError, also where the gateway runs and `live` is not wanted."""
    if not places.state.is_dir():
        raise BackupError(f"state_dir = '{places.state}' is not there: name the gateway's with --state-dir")
    if out.exists():
        raise BackupError(f"'{out}' is there already: name another file, or remove it")
    lock = FolderLock(places.state, "state_dir")
    running = False
    try:
        lock.take()
    except FolderInUse as error:
        if not live:
            raise BackupError(
                f"{error}; stop the gateway for a backup of everything, or use --live for one without the messages that "
                "wait in its spool and nodes"
            ) from None
        running = True
    manifest = Manifest(dt.datetime.now(dt.UTC), gateway, running, credentials, [])
    temporary = out.with_name(f"{out.name}.new")
    try:
        temporary.unlink(missing_ok=True)
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as raw:
            with gzip.GzipFile(fileobj=raw, mode="wb", compresslevel=1) as packed:
                _fill(packed, places, manifest)
            raw.flush()
            os.fsync(raw.fileno())
        kept_file.put_new(temporary, out)
    finally:
        lock.release()
        temporary.unlink(missing_ok=True)
    return manifest


def _fill(packed: gzip.GzipFile, places: Places, manifest: Manifest) -> None:
    with tarfile.open(fileobj=packed, mode="w|", format=tarfile.PAX_FORMAT) as tar:
        _add_bytes(tar, HEAD, msgspec.json.encode(Head(FORMAT, __version__)))
        for name, path in _found(places, manifest):
            with contextlib.suppress(
                FileNotFoundError
            ):  # gone since it was found: replaced by what is found too
                manifest.files.append(_add_file(tar, name, path))
        _add_bytes(tar, MANIFEST, msgspec.json.encode(manifest))


def _found(places: Places, manifest: Manifest) -> Iterator[tuple[str, Path]]:
    """Every file that belongs in it."""
    for relative, path in _files_of(places.state):
        if _belongs(relative, path, manifest):
            yield f"state/{relative}", path
    for place, path in places.outside().items():
        if not manifest.credentials and place in {"users", "settings"}:
            continue
        if place == "files":
            yield from ((f"files/{relative}", found) for relative, found in _files_of(path))
            continue
        for found in _with_companions(place, path):
            if manifest.credentials or not found.name.startswith(_companion_names(path)):
                yield f"{place}/{found.name}", found


def _belongs(relative: PurePosixPath, path: Path, manifest: Manifest) -> bool:
    """Whether a file of the state folder goes into it."""
    if relative.name in _NEVER or relative.suffix in {".new", ".tmp"}:
        return False
    if manifest.live and relative.parts[0].startswith(_NOT_LIVE):
        return False
    if len(relative.parts) == 1 and is_backup(path):  # in a container only this folder takes one
        return False
    return manifest.credentials or not relative.name.startswith(_CREDENTIALS)


def is_backup(path: Path) -> bool:
    """Whether a file is what `write` makes, whatever it is called."""
    try:
        with gzip.open(path) as packed:
            return packed.read(len(HEAD)) == HEAD.encode()
    except (OSError, EOFError, zlib.error):
        return False


def _companion_names(flow: Path) -> tuple[str, ...]:
    return f"{flow.stem}_cred", f".{flow.stem}_cred"


def _with_companions(place: str, path: Path) -> list[Path]:
    """A file, and of a flow also its credentials and those of the deploy before."""
    if place != "flow":
        return [path] if path.is_file() else []
    cred = f"{path.stem}_cred{path.suffix}"
    names = [path.name, cred, f".{path.name}.backup", f".{cred}.backup"]
    return [found for name in names if (found := path.with_name(name)).is_file()]


def _files_of(folder: Path) -> Iterator[tuple[PurePosixPath, Path]]:
    """Regular files below a folder, without what a restore put aside there; links are not followed."""
    for root, folders, names in os.walk(folder):
        at_top = Path(root) == folder
        folders[:] = sorted(name for name in folders if not (at_top and name.startswith(OF_RESTORING)))
        for name in sorted(names):
            path = Path(root) / name
            if path.is_file() and not path.is_symlink():
                yield PurePosixPath(path.relative_to(folder).as_posix()), path


def _add_bytes(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(data), 0o600
    tar.addfile(info, io.BytesIO(data))


def _add_file(tar: tarfile.TarFile, name: str, path: Path) -> Entry:
    """As long as it was when it was opened: a log that grows must not shift what follows."""
    with path.open("rb") as file:
        status = os.fstat(file.fileno())
        info = tarfile.TarInfo(name)
        info.size, info.mode, info.mtime = status.st_size, status.st_mode & 0o777, int(status.st_mtime)
        summed = Summed(file)
        tar.addfile(info, summed)
    return Entry(name, info.size, summed.sha256.hexdigest(), info.mode)


class Summed(io.RawIOBase):
    """A file that sums up what is read of it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.sha256 = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        data = self._file.read(size)
        self.sha256.update(data)
        return data
