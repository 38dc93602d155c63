"""What was sent and what came, message by message: two files, one written by the source, one by the sink.

A file has a fixed record for each message; both clocks are CLOCK_MONOTONIC, one for the whole machine.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path

import numpy as np

RECORD = np.dtype([("pack", "<u4"), ("seq", "<u4"), ("at_s", "<f8"), ("what", "u1")])
_PACKED = struct.Struct("<IIdB")
assert _PACKED.size == RECORD.itemsize
LIVE, REPLAYED, DEAD, LOST = range(4)
"""`what`: a message, one that waited in a spool and says so, a dead letter of it, a loss record that names it."""
PROBE_PACK = 99_999
"""Its messages only ask whether the system under test works yet; nobody counts them."""


class Log:
    """Writes records; they are in the file after `flush`."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        self._waiting = bytearray()

    def add(self, pack: int, seq: int, at_s: float, what: int = LIVE) -> None:
        self._waiting += _PACKED.pack(pack, seq, at_s, what)

    def flush(self) -> None:
        if self._waiting:
            os.write(self._fd, self._waiting)
            self._waiting.clear()


def read(path: Path, first: int = 0) -> np.ndarray:
    """The records from the given one on, without those of probes."""
    found = np.fromfile(path, RECORD, offset=first * RECORD.itemsize)
    kept: np.ndarray = found[found["pack"] != PROBE_PACK]
    return kept


def count(path: Path) -> int:
    """How many records there are, probes too."""
    return path.stat().st_size // RECORD.itemsize if path.exists() else 0
