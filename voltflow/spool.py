"""Durable store-and-forward of one network sink: what its far side did not take in time."""

# SPOOL: this file only holds the interface that engine and store_forward already import; replace it whole.

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import msgspec


class Record(msgspec.Struct, array_like=True):
    topic: str
    payload: bytes
    received_ms: int = 0
    fleet: str = ""
    pack: str = ""
    boot: int = -1
    seq: int = -1
    ts_ms: int = 0


@dataclass(frozen=True)
class SpoolOptions:
    folder: Path
    telemetry_bytes: int
    telemetry_age_s: float
    protected_bytes: int
    gateway: str
    segment_bytes: int = 4 * 2**20


class SpoolFull(Exception):
    pass


@dataclass
class Chunk:
    records: list[Record]


@dataclass
class Backlog:
    messages: int = 0
    bytes: int = 0
    oldest_ms: int | None = None
    by_class: dict[str, int] = field(default_factory=dict)


@dataclass
class SpoolCounters:
    appended: int = 0
    delivered: int = 0
    fsyncs: int = 0
    bytes_written: int = 0
    damaged: int = 0
    repaired: int = 0
    thinned: int = 0
    lost_by_reason: dict[str, int] = field(default_factory=dict)


class Spool:
    def __init__(self, options: SpoolOptions) -> None:
        self.options = options
        self.counters = SpoolCounters()

    @property
    def backlog(self) -> Backlog:
        return Backlog()

    async def open(self) -> None:
        raise NotImplementedError

    async def append(self, records: list[Record]) -> None:
        raise NotImplementedError

    async def read(self, limit: int = 100, max_bytes: int = 256 * 1024) -> Chunk | None:
        raise NotImplementedError

    async def delivered(self, chunk: Chunk) -> None:
        raise NotImplementedError

    async def close(self) -> None:
        raise NotImplementedError
