"""The file that a program's state is kept in: its format, and how it is replaced without ever being half there.

    voltflow.state/1                                     format and its version
    {"number":7,"written_ms":…,"program":"0.3.0",…}      what it is, one line of JSON
    …                                                    the parts, each compressed
    CRC-32 of everything before it, 4 bytes

`state.clean.bin` was written by a program that ended cleanly and had nothing under way; while a program runs, and after
a crash, the file is `state.bin`. The mark is the name because it has to be cleared at each start before the first
message: a renaming needs no room on a full disk and next to no wear.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from voltflow import __version__

log = logging.getLogger(__name__)

FILE: Final = "state.bin"
CLEAN_FILE: Final = "state.clean.bin"
_TEMPORARY: Final = "state.tmp"
_FAMILY: Final = b"voltflow.state/"
_MAGIC: Final = b"voltflow.state/1\n"
_CRC_BYTES: Final = 4
_LEVEL: Final = 1
"""Of zlib. Level 6 makes 1,000 packs' state 12 % smaller (0.94 instead of 1.08 MB) and takes four times as long."""


class StateFileError(ValueError):
    """The file is no state that this version can read; the message says why."""


class _Part(msgspec.Struct):
    name: str
    size_bytes: int


class _Header(msgspec.Struct):
    number: int
    written_ms: int
    parts: list[_Part]
    program: str = ""


@dataclass(frozen=True)
class StateFile:
    """What a state file holds: `number` counts up with every file written, `parts` are the bytes by name."""

    number: int
    written_ms: int
    parts: dict[str, bytes]

    @classmethod
    def load(cls, data: bytes) -> StateFile:
        """From a file's bytes; raises StateFileError.

        >>> StateFile.load(dump(7, 0, {"twins": [b"one", b"two"]}).data).parts
        {'twins': b'onetwo'}
        """
        if not data.startswith(_MAGIC):
            newer = data.startswith(_FAMILY)
            raise StateFileError("written by a newer version of Voltflow" if newer else "not a state file")
        body = data[:-_CRC_BYTES]
        if zlib.crc32(body).to_bytes(_CRC_BYTES, "little") != data[-_CRC_BYTES:]:
            raise StateFileError("damaged: its checksum is wrong")
        head, _, rest = body[len(_MAGIC) :].partition(b"\n")
        header = msgspec.json.decode(head, type=_Header)
        parts: dict[str, bytes] = {}
        for part in header.parts:
            parts[part.name] = zlib.decompress(rest[: part.size_bytes])
            rest = rest[part.size_bytes :]
        return cls(header.number, header.written_ms, parts)


class Dumped(NamedTuple):
    """A file's bytes, and what tells whether its parts are those of another one."""

    data: bytes
    digest: bytes


def dump(number: int, written_ms: int, parts: Mapping[str, Iterable[bytes]]) -> Dumped:
    """As `StateFile.load` reads it. A part comes in pieces: each is compressed, which lets other threads run meanwhile,
    and forgotten, so that the state of many packs is never in memory as a whole."""
    summed = hashlib.blake2b(digest_size=16)
    described: list[_Part] = []
    packed: list[bytes] = []
    for name, pieces in parts.items():
        summed.update(name.encode())
        compressor, first = zlib.compressobj(_LEVEL), len(packed)
        for piece in pieces:
            summed.update(piece)
            packed.append(compressor.compress(piece))
        packed.append(compressor.flush())
        described.append(_Part(name, sum(map(len, packed[first:]))))
    header = msgspec.json.encode(_Header(number, written_ms, described, __version__))
    body = b"".join([_MAGIC, header, b"\n", *packed])
    return Dumped(body + zlib.crc32(body).to_bytes(_CRC_BYTES, "little"), summed.digest())


def write(folder: Path, data: bytes, *, clean: bool) -> None:
    """Replace the state, durably and whole; raises OSError, and then the old file is still there."""
    temporary = folder / _TEMPORARY
    folder.mkdir(parents=True, exist_ok=True)
    try:
        temporary.unlink(missing_ok=True)
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(folder / (CLEAN_FILE if clean else FILE))
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)  # on a full disk it would hold the room of the next try
        raise
    if clean:
        (folder / FILE).unlink(missing_ok=True)
    _sync_folder(folder)


def mark(folder: Path, *, clean: bool) -> None:
    """Set or clear the mark of a clean end, durably; raises OSError. Does nothing where it is so already."""
    old, new = (FILE, CLEAN_FILE) if clean else (CLEAN_FILE, FILE)
    if (folder / old).exists():
        (folder / old).replace(folder / new)
        _sync_folder(folder)


def read(folder: Path) -> tuple[StateFile, bool] | None:
    """The newest state in the folder and whether its program ended cleanly; None where there is none.

    A file that cannot be read is set aside as `*.damaged` and said so; nothing here keeps a program from starting.
    """
    found = [
        (state, name == CLEAN_FILE)
        for name in (CLEAN_FILE, FILE)
        if (state := _read(folder / name)) is not None
    ]
    # Both are there when a program was killed between the last two steps of its end.
    return max(found, key=lambda item: item[0].number, default=None)


def _read(path: Path) -> StateFile | None:
    try:
        return StateFile.load(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        log.error("state file '%s' cannot be read: %s; starting without it", path, error.strerror or error)  # noqa: TRY400 - the message says it all
    except (StateFileError, msgspec.DecodeError, zlib.error) as error:
        set_aside(path, str(error))
    return None


def set_aside(path: Path, why: str) -> None:
    """Rename a file that cannot be used, so that the next write does not replace what a person may want to look at."""
    aside = path.with_name(f"{path.name}.damaged")
    try:
        path.replace(aside)
        done = f"set aside as {aside.name}"
    except OSError as error:
        done = f"it cannot be set aside either ({error.strerror or error})"
    log.error("state file '%s' cannot be used: %s; %s, what cannot be read starts empty", path, why, done)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
