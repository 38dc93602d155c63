"""What is to happen when, by key.

>>> due = DueTimes()
>>> due["a"], due["b"], due["c"] = 5.0, 3.0, math.inf
>>> due.next_s(), due.pop_due(4.0), due.next_s(), due.pop_due(9.0), list(due)
(3.0, ['b'], 5.0, ['a'], ['c'])
"""

from __future__ import annotations

import heapq
import itertools
import math


class DueTimes(dict[str, float]):
    """Times by key; an infinite one never comes. Setting and taking one costs little, however many there are."""

    def __init__(self) -> None:
        super().__init__()
        self._heap: list[tuple[float, int, str]] = []
        """With what is no longer so: told by the time by its key."""
        self._numbers = itertools.count()

    def __setitem__(self, key: str, due_s: float) -> None:
        super().__setitem__(key, due_s)
        if due_s == math.inf:
            return
        if len(self._heap) > 100 + 4 * len(self):
            self._heap = [
                (time_s, number, key) for time_s, number, key in self._heap if self.get(key) == time_s
            ]
            heapq.heapify(self._heap)
        heapq.heappush(self._heap, (due_s, next(self._numbers), key))

    def clear(self) -> None:
        super().clear()
        self._heap.clear()

    def next_s(self) -> float | None:
        """The first time, None where there is none."""
        while self._heap and self.get(self._heap[0][2]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def pop_due(self, now_s: float, most: int | None = None) -> list[str]:
        """Take out the keys whose time has come, the first ones first."""
        keys: list[str] = []
        while (most is None or len(keys) < most) and (due_s := self.next_s()) is not None and due_s <= now_s:
            keys.append(heapq.heappop(self._heap)[2])
            del self[keys[-1]]
        return keys
