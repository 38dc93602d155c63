"""What runner, load source and sink see of each other: a file in memory that all three have mapped.

Every message has a place: `round * packs + pack`. The source writes when it sent it, the sink counts how often it came
and how long it took; both clocks are CLOCK_MONOTONIC, one for the whole machine.
"""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path

import numpy as np

CONTROL = ("go", "stop", "published", "confirmed", "received", "probes", "dead", "strange", "source_ended")
SHARED_MEMORY = Path("/dev/shm")


class Board:
    """`packs` x `rounds` places. The runner makes it, the others open it by its path."""

    def __init__(self, path: Path, packs: int, rounds: int, *, make: bool = False) -> None:
        self.path, self.packs, self.rounds = path, packs, rounds
        places = packs * rounds
        sizes = [len(CONTROL) * 8, places * 8, places * 4, places]
        if make:
            with path.open("wb") as file:
                file.truncate(sum(sizes))
        data = np.memmap(path, np.uint8, "r+", shape=(sum(sizes),))
        edges = np.cumsum([0, *sizes])
        parts = [data[a:b] for a, b in itertools.pairwise(edges.tolist())]
        self.control = parts[0].view(np.int64)
        self.sent_at_s = parts[1].view(np.float64)
        self.took_s = parts[2].view(np.float32)
        self.seen = parts[3]

    @classmethod
    def make(cls, packs: int, rounds: int) -> Board:
        folder = SHARED_MEMORY if SHARED_MEMORY.is_dir() else Path(tempfile.gettempdir())
        path = Path(tempfile.mkstemp(prefix="voltflow-bench-", dir=folder)[1])
        return cls(path, packs, rounds, make=True)

    def get(self, name: str) -> int:
        return int(self.control[CONTROL.index(name)])

    def set(self, name: str, value: int) -> None:
        self.control[CONTROL.index(name)] = value

    def verdict(self) -> tuple[int, int]:
        """How many of the published messages never came, and how many copies came too many."""
        sent = self.sent_at_s > 0
        missing = int(np.count_nonzero(sent & (self.seen == 0)))
        again = int(self.seen.sum(dtype=np.int64)) - int(np.count_nonzero(self.seen))
        return missing, again

    def latencies_ms(self, share: float) -> list[float]:
        """p50, p99 and the longest of the messages that came, without the first `share` of them."""
        came = np.flatnonzero(self.seen)
        took = self.took_s[came[int(len(came) * share) :]]
        return [float(np.quantile(took, q)) * 1000.0 for q in (0.5, 0.99, 1.0)] if len(took) else []

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)
