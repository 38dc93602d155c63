"""Twins as bytes: a JSON header with the names of everything, then the state as float64, then a checksum."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from zlib import crc32

import msgspec
import numpy as np
from numpy.typing import NDArray

from voltflow.battery.nameplate import Nameplate

_MAGIC: Final = b"voltflow.twins/1\n"


class SnapshotError(ValueError):
    """The bytes are not a snapshot, or not a whole one."""


class _Header(msgspec.Struct):
    fields: list[str]
    names: list[str]
    nameplates: list[Nameplate]


def write_snapshot(
    fields: Sequence[str], names: Sequence[str], nameplates: Sequence[Nameplate], state: NDArray[np.float64]
) -> bytes:
    """`state` (packs, fields) with its names."""
    header = msgspec.json.encode(_Header(list(fields), list(names), list(nameplates)))
    body = _MAGIC + header + b"\n" + state.astype("<f8").tobytes()
    return body + crc32(body).to_bytes(4, "little")


def read_snapshot(data: bytes) -> tuple[list[str], list[Nameplate], list[str], NDArray[np.float64]]:
    """Names, nameplates, field names and state of `write_snapshot`'s bytes."""
    body, checksum = data[:-4], data[-4:]
    if not body.startswith(_MAGIC) or crc32(body).to_bytes(4, "little") != checksum:
        raise SnapshotError("twin snapshot: not one or damaged; delete it to start with empty twins")
    head, _, values = body[len(_MAGIC) :].partition(b"\n")
    header = msgspec.json.decode(head, type=_Header)
    state = np.frombuffer(values, "<f8").reshape(len(header.names), len(header.fields))
    return header.names, header.nameplates, header.fields, state
