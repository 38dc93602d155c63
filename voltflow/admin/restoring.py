"""Puts a gateway's backup back: first all of it beside what is there, checked, then by renamings that can be taken back.

The state folder and that of the nodes' files stay: either may be a mount point, and on a read-only root nothing beside them can
be written. What is in them is exchanged entry by entry, the old ones go into `.before-TIME` there. A file elsewhere is copied
beside the one it replaces, which stays as `NAME.before-TIME`.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import gzip
import os
import shutil
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Final

import msgspec

from voltflow import __version__, release
from voltflow.admin.backup import (
    FORMAT,
    HEAD,
    MANIFEST,
    OF_RESTORING,
    BackupError,
    Head,
    Manifest,
    Places,
    Summed,
    is_backup,
)
from voltflow.folder_lock import FolderInUse, FolderLock
from voltflow.kept_file import sync_folder
from voltflow.state import file as state_file

STDIN: Final = Path("-")
_STAGED: Final = ".restoring"
_LOCK: Final = "lock"
_CHUNK_BYTES = 1 << 20


def restore(source: Path, places: Places) -> tuple[Manifest, list[str]]:
    """Put it back; the second is what was done, in words. `-` is read from standard input.

    Raises BackupError, and then nothing has changed. What was there is kept, see above.
    """
    with _taken(places.state), contextlib.ExitStack() as copies:
        staged = _stage_in(places.state, copies)
        try:
            manifest = _unpack(source, staged)
            (staged / "state").mkdir(exist_ok=True)
            # The gateway may have gone on since: what it sends next tells whether there is a hole, as after a crash.
            state_file.mark(staged / "state", clean=False)
            return manifest, _put_in_place(staged, places, manifest, copies)
        except OSError as error:
            raise BackupError(f"it cannot be put back: {error}; everything is as it was") from None


@contextlib.contextmanager
def _taken(state: Path) -> Iterator[None]:
    """The state folder, made where there is none, and its lock."""
    made = not state.is_dir()
    try:
        if made:
            state.mkdir(parents=True, mode=0o700)
            _own([state], state.parent)
        lock = FolderLock(state, "state_dir")
        lock.take()
    except FolderInUse as error:
        raise BackupError(str(error)) from None
    except OSError as error:
        raise BackupError(f"state_dir = '{state}' cannot be made: {error.strerror}") from None
    try:
        if (state / _LOCK).exists():
            _own([state / _LOCK], state)
        yield
    except BaseException:
        if made:
            (state / _LOCK).unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                state.rmdir()
        raise
    finally:
        lock.release()


def _stage_in(folder: Path, copies: contextlib.ExitStack) -> Path:
    """A folder in it to put things together in; what is still there at the end goes."""
    staged = folder / _STAGED
    try:
        if staged.exists():
            shutil.rmtree(staged)
        staged.mkdir(mode=0o700)
    except OSError as error:
        raise BackupError(f"'{folder}' cannot be written: {error.strerror}; nothing has changed") from None
    copies.callback(shutil.rmtree, staged, ignore_errors=True)
    return staged


# -- out of the file ----------------------------------------------------------------------------------------------


def _unpack(source: Path, staged: Path) -> Manifest:
    """The files into the folder, checked."""
    sums: dict[str, tuple[int, str]] = {}
    try:
        with _opened(source) as tar:
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


def _opened(source: Path) -> tarfile.TarFile:
    if source == STDIN:
        return tarfile.open(fileobj=sys.stdin.buffer, mode="r|gz")
    return tarfile.open(source, "r|gz")


def _check_version(head: Head) -> None:
    if head.format > FORMAT or release.numbers(head.program) > release.numbers(__version__):
        raise BackupError(
            f"the backup was made by Voltflow {head.program}, this is {__version__}: upgrade first, older programs cannot "
            "read what newer ones keep"
        )


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
    summed = Summed(file)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, member.mode & 0o777)
    with os.fdopen(fd, "wb") as out:
        shutil.copyfileobj(summed, out, _CHUNK_BYTES)
        out.flush()
        os.fsync(out.fileno())
    os.utime(path, (member.mtime, member.mtime))
    return member.size, summed.sha256.hexdigest()


# -- to its places ------------------------------------------------------------------------------------------------


def _put_in_place(
    staged: Path, places: Places, manifest: Manifest, copies: contextlib.ExitStack
) -> list[str]:
    """Copies first, which may fail for want of room; then renamings, all of them or none."""
    suffix = f".before-{dt.datetime.now(dt.UTC):%Y%m%dT%H%M%SZ}"
    files, outside = [], places.outside()
    contents = [(staged / "state", places.state)]
    for folder in sorted(path for path in staged.iterdir() if path.name != "state"):
        place = folder.name
        if place not in outside:
            _into_state(folder, staged / "state")
        elif place == "files":
            outside["files"].mkdir(parents=True, exist_ok=True)
            near = shutil.copytree(folder, _stage_in(outside["files"], copies) / "files", copy_function=_copy)
            contents.append((near, outside["files"]))
        else:
            files += [
                _copied(file, _target_of(place, file, outside[place], manifest), copies)
                for file in folder.iterdir()
            ]
    done = []
    with contextlib.ExitStack() as undo:
        for new, folder in contents:
            _own([new, *new.rglob("*")], folder)
            done.append(_exchange_contents(new, folder, suffix, undo))
        for new, target in files:
            done.append(_exchange_file(new, target, suffix, undo))
        undo.pop_all()
    for folder in {folder for _, folder in contents} | {target.parent for _, target in files}:
        sync_folder(folder)
    return done


def _into_state(folder: Path, state: Path) -> None:
    """What lay outside and has no place of its own here goes into the state folder."""
    if folder.name == "files":
        shutil.copytree(folder, state / "files", dirs_exist_ok=True)
        return
    for file in folder.iterdir():
        target = state / file.name
        if folder.name == "settings" and target.exists():
            target = target.with_name(f"{target.name}.from-backup")
        file.rename(target)


def _target_of(place: str, file: Path, configured: Path, manifest: Manifest) -> Path:
    """Where a file goes that lay outside the state folder: where the settings say now. Settings themselves are a matter of
    the machine: those that are there stay."""
    if place == "settings" and configured.exists():
        return configured.with_name(f"{configured.name}.from-backup")
    if place != "flow":
        return configured
    flow = next(e.name for e in manifest.files if e.name.startswith("flow/")).partition("/")[2]
    return configured.with_name(file.name.replace(Path(flow).stem, configured.stem, 1))


def _copied(file: Path, target: Path, copies: contextlib.ExitStack) -> tuple[Path, Path]:
    """A copy beside its target, which may be on another disk than the state folder."""
    target.parent.mkdir(parents=True, exist_ok=True)
    near = target.with_name(f"{_STAGED}-{target.name}")
    near.unlink(missing_ok=True)
    copies.callback(near.unlink, missing_ok=True)
    near.touch(0o600)  # never readable by more before it is whole
    _copy(file, near)
    _own([near], target if target.exists() else target.parent)
    return near, target


def _copy(file: str | Path, target: str | Path) -> None:
    """Durably, with its permissions and time."""
    shutil.copy2(file, target)
    with Path(target).open("rb") as copied:
        os.fsync(copied.fileno())


def _exchange_contents(new: Path, folder: Path, suffix: str, undo: contextlib.ExitStack) -> str:
    """What is in the folder goes, but for its lock, backups and what earlier restores put aside; what is in `new` comes."""
    coming = sorted(new.iterdir())
    names = {path.name for path in coming}
    going = [path for path in sorted(folder.iterdir()) if path.name in names or not _stays(path)]
    before = folder / suffix
    if going:
        before.mkdir(mode=0o700)
        undo.callback(before.rmdir)
        _own([before], folder)
    for path in going:
        _rename(path, before / path.name, undo.callback)
    for path in coming:
        _rename(path, folder / path.name, undo.callback)
    return f"'{folder}' is restored" + (f"; what was there is in '{before}'" if going else "")


def _stays(path: Path) -> bool:
    return path.name == _LOCK or path.name.startswith(OF_RESTORING) or (path.is_file() and is_backup(path))


def _exchange_file(new: Path, target: Path, suffix: str, undo: contextlib.ExitStack) -> str:
    kept = ""
    if target.exists():
        before = target.with_name(target.name + suffix)
        _rename(target, before, undo.callback)
        kept = f"; what was there is '{before}'"
    _rename(new, target, undo.callback)
    return f"'{target}' is restored{kept}"


def _rename(path: Path, target: Path, undo: Callable[..., object]) -> None:
    path.rename(target)
    undo(target.rename, path)


def _own(paths: list[Path], like: Path) -> None:
    """Give them the owner of `like`. Only root may give files to somebody else, and only then they belong to another user."""
    if os.geteuid() == 0:
        owner = like.stat()
        for path in paths:
            os.chown(path, owner.st_uid, owner.st_gid)
