"""So many a second: what people look at is bounded, whatever flows."""

from __future__ import annotations

import time


class Allowance:
    """As many as a second's worth at once, and no more than that each second.

    >>> Allowance(2).take(5)
    2
    """

    def __init__(self, per_s: float) -> None:
        self._per_s = self._left = per_s
        self._at_s = time.monotonic()

    def take(self, wanted: int) -> int:
        """How many of so many are allowed now."""
        now_s = time.monotonic()
        self._left = min(self._per_s, self._left + (now_s - self._at_s) * self._per_s)
        self._at_s = now_s
        taken = min(wanted, int(self._left))
        self._left -= taken
        return taken
