"""A gateway in one file: what it keeps in its state folder, its flow, users, files and settings.

`write(folders, FILE, …)` makes it, `restore(FILE, folders)` puts it back. The file is a gzipped tar: first `voltflow.backup`
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
import shutil
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import IO

import msgspec

from voltflow import __version__, kept_file
from voltflow.folder_lock import FolderInUse, FolderLock
from voltflow.state import file as state_file

FORMAT = 1
HEAD, MANIFEST = "voltflow.backup", "manifest.json"
_CHUNK_BYTES = 1 << 20
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
        first = relative.parts[0]
        if relative.name in _NEVER or relative.suffix in {".new", ".tmp"} or first.startswith(OF_RESTORING):
            continue
        if len(relative.parts) == 1 and is_backup(path):  # in a container only this folder takes one
            continue
        if manifest.live and first.startswith(_NOT_LIVE):
            continue
        if manifest.credentials or not relative.name.startswith(_CREDENTIALS):
            yield f"state/{relative}", path
    for place, path in places.outside().items():
        if not manifest.credentials and place in {"users", "settings"}:
            continue
        if place == "files":
            yield from (
                (f"files/{relative}", found)
                for relative, found in _files_of(path)
                if not relative.parts[0].startswith(OF_RESTORING)
            )
            continue
        for found in _with_companions(place, path):
            if manifest.credentials or not found.name.startswith(_companion_names(path)):
                yield f"{place}/{found.name}", found


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
    """Regular files below a folder; links are not followed."""
    for root, folders, names in os.walk(folder):
        folders.sort()
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
        summed = _Summed(file)
        tar.addfile(info, summed)
    return Entry(name, info.size, summed.sha256.hexdigest(), info.mode)


class _Summed(io.RawIOBase):
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


def restore(source: Path, places: Places) -> tuple[Manifest, list[str]]:
    """Put it back; the second is what was done, in words. Raises BackupError, and then nothing has changed.

    What was there is kept beside it as `NAME.before-TIME`.
    """
    target = places.state
    staged = target.with_name(f"{target.name}.restoring")
    lock = FolderLock(target, "state_dir")
    if target.is_dir():
        try:
            lock.take()
        except FolderInUse as error:
            raise BackupError(str(error)) from None
    try:
        shutil.rmtree(staged, ignore_errors=True)
        staged.mkdir(parents=True, mode=0o700)
        manifest = _unpack(source, staged)
        (staged / "state").mkdir(exist_ok=True)
        # The gateway may have gone on since: what it sends next tells whether there is a hole, as after a crash.
        state_file.mark(staged / "state", clean=False)
        return manifest, _put_in_place(staged, places, manifest)
    finally:
        lock.release()
        shutil.rmtree(staged, ignore_errors=True)


def _unpack(source: Path, staged: Path) -> Manifest:
    """The files into the folder, checked."""
    sums: dict[str, tuple[int, str]] = {}
    try:
        with tarfile.open(source, "r|gz") as tar:
            members = iter(tar)
            head = next(members, None)
            if head is None or head.name != HEAD:
                raise BackupError(f"'{source}' is no backup of a gateway")
            _check_version(msgspec.json.decode(_content(tar, head), type=Head))
            for member in members:
                if member.name == MANIFEST:
                    manifest = msgspec.json.decode(_content(tar, member), type=Manifest)
                    break
                sums[member.name] = _unpack_file(tar, member, staged)
            else:
                raise BackupError(f"'{source}' is cut off: take another copy of it")
    except (tarfile.TarError, EOFError, gzip.BadGzipFile, msgspec.DecodeError, ValueError, OSError) as error:
        if isinstance(error, BackupError):
            raise
        raise BackupError(f"'{source}' cannot be read: {error}; take another copy of it") from None
    wanted = {entry.name: (entry.size_bytes, entry.sha256) for entry in manifest.files}
    if damaged := sorted(name for name in wanted.keys() | sums.keys() if wanted.get(name) != sums.get(name)):
        raise BackupError(
            f"'{source}' is damaged: {damaged[0]} is not what was put in; take another copy of it"
        )
    return manifest


def _check_version(head: Head) -> None:
    if head.format > FORMAT or _numbers(head.program) > _numbers(__version__):
        raise BackupError(
            f"the backup was made by Voltflow {head.program}, this is {__version__}: upgrade first, older programs cannot "
            "read what newer ones keep"
        )


def _numbers(version: str) -> tuple[int, ...]:
    """
    >>> _numbers("0.10.1") > _numbers("0.9")
    True
    """
    return tuple(int(part) for part in version.split(".") if part.isdecimal())


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    assert file is not None
    return file.read()


def _unpack_file(tar: tarfile.TarFile, member: tarfile.TarInfo, staged: Path) -> tuple[int, str]:
    """A name that would lead out of the folder, and anything but a file, is refused."""
    name = PurePosixPath(member.name)
    file = tar.extractfile(member)
    if file is None or not member.isreg() or name.is_absolute() or ".." in name.parts or len(name.parts) < 2:
        raise BackupError(f"there is something in it that no backup has: {member.name!r}")
    path = staged / name
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    summed = _Summed(file)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, member.mode & 0o777)
    with os.fdopen(fd, "wb") as out:
        shutil.copyfileobj(summed, out, _CHUNK_BYTES)
        out.flush()
        os.fsync(out.fileno())
    os.utime(path, (member.mtime, member.mtime))
    return member.size, summed.sha256.hexdigest()


def _put_in_place(staged: Path, places: Places, manifest: Manifest) -> list[str]:
    suffix = f".before-{dt.datetime.now(dt.UTC):%Y%m%dT%H%M%SZ}"
    done = [_replace(staged / "state", places.state, suffix)]
    outside = {**places.outside()}
    for folder in sorted(staged.iterdir()):
        place = folder.name
        if place == "files":
            done.append(_replace(folder, outside.get(place) or places.state / "files", suffix))
            continue
        for file in sorted(folder.iterdir()):
            target = _target_of(place, file, places, manifest)
            target.parent.mkdir(parents=True, exist_ok=True)
            done.append(_replace(file, target, suffix))
    return done


def _target_of(place: str, file: Path, places: Places, manifest: Manifest) -> Path:
    """Where a file goes that lay outside the state folder: where the settings say now, else into that folder. Settings
    themselves are a matter of the machine: those that are there stay."""
    outside = places.outside()
    if place == "settings":
        target = outside.get("settings") or places.state / file.name
        return target.with_name(f"{target.name}.from-backup") if target.exists() else target
    if (configured := outside.get(place)) is None:
        return places.state / file.name
    if place == "users":
        return configured
    flow = next(e.name for e in manifest.files if e.name.startswith("flow/")).partition("/")[2]
    return configured.with_name(file.name.replace(Path(flow).stem, configured.stem, 1))


def _replace(new: Path, target: Path, suffix: str) -> str:
    """Put a file or folder where another one may be, which is kept and whose owner the new one gets."""
    kept = ""
    if target.exists():
        _own(new, target.stat())
        before = target.with_name(target.name + suffix)
        target.rename(before)
        kept = f"; what was there is '{before}'"
    new.rename(target)
    return f"'{target}' is restored{kept}"


def _own(path: Path, owner: os.stat_result) -> None:
    """Only root may give files to somebody else, and only then they belong to another user."""
    if os.geteuid() != 0:
        return
    for each in [path, *path.rglob("*")] if path.is_dir() else [path]:
        os.chown(each, owner.st_uid, owner.st_gid)
    if path.is_dir():
        path.chmod(owner.st_mode & 0o777)
