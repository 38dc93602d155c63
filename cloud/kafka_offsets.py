"""Which offsets may be committed: of each partition those below the first that is not settled.

>>> offsets = Offsets()
>>> offsets.assigned(["p0"])
>>> first, second = offsets.taken("p0", 10, 14), offsets.taken("p0", 14, 20)
>>> offsets.settled(second)
>>> offsets.to_commit()
{}
>>> offsets.settled(first)
>>> offsets.to_commit()
{'p0': 20}
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

P = TypeVar("P")
"""A partition."""


@dataclass(eq=False)
class Taken(Generic[P]):
    """A run of records of one partition on its way through the flow: offsets `first` up to, not including, `end`."""

    partition: P
    first: int
    end: int
    settled: bool = False
    current: bool = True
    """False when the partition was taken away or is read again from before: whoever holds it may drop it."""


@dataclass
class _Partition(Generic[P]):
    under_way: deque[Taken[P]] = field(default_factory=deque)
    settled_to: int | None = None
    read_again_from: int | None = None


class Offsets(Generic[P]):
    """Shared by the thread that reads records and the event loop that settles them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._partitions: dict[P, _Partition[P]] = {}
        self.read_again = 0
        """How often a partition was read again from before a batch that failed."""

    @property
    def partitions(self) -> list[P]:
        with self._lock:
            return list(self._partitions)

    @property
    def under_way(self) -> int:
        """Offsets that were taken and are not settled."""
        with self._lock:
            return sum(t.end - t.first for p in self._partitions.values() for t in p.under_way)

    def assigned(self, partitions: Iterable[P]) -> None:
        """These are ours now; what is still under way of an earlier time counts no more."""
        self.revoked(partitions)
        with self._lock:
            self._partitions.update({partition: _Partition() for partition in partitions})

    def revoked(self, partitions: Iterable[P]) -> None:
        """These are ours no longer: nothing of them is committed any more."""
        with self._lock:
            for partition in partitions:
                gone = self._partitions.pop(partition, None)
                for taken in gone.under_way if gone else ():
                    taken.current = False

    def taken(self, partition: P, first: int, end: int) -> Taken[P] | None:
        """Records go into the flow; None where they must not, because something before them comes first."""
        with self._lock:
            found = self._partitions.get(partition)
            if found is None or found.read_again_from is not None:
                return None
            taken = Taken(partition, first, end)
            found.under_way.append(taken)
            return taken

    def settled(self, taken: Taken[P]) -> None:
        """The records are safe."""
        with self._lock:
            taken.settled = True
            found = self._partitions.get(taken.partition)
            if found is None or not taken.current:
                return
            while found.under_way and found.under_way[0].settled:
                found.settled_to = found.under_way.popleft().end

    def failed(self, taken: Taken[P]) -> None:
        """The records are not safe: the partition is read again from the first that is not."""
        with self._lock:
            found = self._partitions.get(taken.partition)
            if found is None or not taken.current:
                return
            found.read_again_from = found.under_way[0].first
            self.read_again += 1
            for other in found.under_way:
                other.current = False
            found.under_way.clear()

    def to_commit(self) -> dict[P, int]:
        """The next offset to read of each partition where that has moved since the last call."""
        with self._lock:
            moved = {
                p: state.settled_to for p, state in self._partitions.items() if state.settled_to is not None
            }
            for partition in moved:
                self._partitions[partition].settled_to = None
            return moved

    def to_read_again(self) -> dict[P, int]:
        """Where to go back to; the caller does so before it reads more."""
        with self._lock:
            back = {
                p: s.read_again_from for p, s in self._partitions.items() if s.read_again_from is not None
            }
            for partition in back:
                self._partitions[partition].read_again_from = None
            return back
