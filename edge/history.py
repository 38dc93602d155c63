"""Short histories of all packs, for the page's charts, in as many bytes as are allowed for all together."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import isnan, nan
from statistics import median
from struct import Struct

PERIOD_MS = 10_000
BUDGET_BYTES = 12_000_000
LEAST_ROWS, MOST_ROWS = 20, 720
_HUGE = 3e38
VALUES = (
    "soc_pct", "soc_est_pct", "soh_predicted_pct", "soh_low_pct", "soh_high_pct", "voltage_v", "current_a", "temp_c",
    "temp_predicted_c", "rul_efc", "rul_low_efc", "rul_high_efc", "failure_pct",
)  # fmt: skip
"""What a row holds beside its time, in single precision: more digits than are measured or predicted."""
_ROW = Struct(f"<q{len(VALUES)}f")
_DIGITS = 3


class History:
    """A ring of rows for each pack; with more packs each keeps fewer rows, so that the bytes are bounded."""

    def __init__(self, budget_bytes: int = BUDGET_BYTES) -> None:
        self._budget = budget_bytes
        self._rings = _Rings(0, LEAST_ROWS)
        """Replaced as a whole, because other threads read."""

    def append(self, slot: int, ts_ms: int, values: Sequence[float | None]) -> None:
        """Add a row, the oldest one goes; `values` in the order of VALUES."""
        rings = self._rings
        if slot >= len(rings.counts):
            rings = self._rings = self._grown(max(16, 2 ** (slot + 1).bit_length()))
        count = rings.counts[slot]
        place = (slot * rings.length + count % rings.length) * _ROW.size
        known = [nan if value is None else value for value in values]
        try:
            _ROW.pack_into(rings.data, place, ts_ms, *known)
        except OverflowError:  # beyond single precision, which nothing that is measured can be
            _ROW.pack_into(
                rings.data, place, ts_ms, *(value if abs(value) < _HUGE else nan for value in known)
            )
        rings.counts[slot] = count + 1

    def rows(self, slot: int, limit: int) -> list[tuple[int, dict[str, float | None]]]:
        """The last rows, oldest first: time and values by name. From any thread."""
        rings = self._rings
        if slot >= len(rings.counts):
            return []
        return [
            (ts_ms, {name: None if isnan(value) else round(value, _DIGITS) for name, value in zip(VALUES, row, strict=True)})
            for ts_ms, *row in _ROW.iter_unpack(rings.last(slot, limit))
        ]  # fmt: skip

    def _grown(self, slots: int) -> _Rings:
        grown = _Rings(slots, min(MOST_ROWS, max(LEAST_ROWS, self._budget // (slots * _ROW.size))))
        for slot in range(len(self._rings.counts)):
            kept = self._rings.last(slot, grown.length)
            first = slot * grown.length * _ROW.size
            grown.data[first : first + len(kept)] = kept
            grown.counts[slot] = len(kept) // _ROW.size
        return grown


class _Rings:
    """As many rings of `length` rows as there are slots, and how many rows each has got so far."""

    def __init__(self, slots: int, length: int) -> None:
        self.length = length
        self.data = bytearray(
            slots * length * _ROW.size
        )  # memory is taken where a row is written, not before
        self.counts = [0] * slots

    def last(self, slot: int, limit: int) -> bytearray:
        """The last rows of a ring as they are kept, oldest first."""
        count, length = self.counts[slot], self.length
        wanted, begin = min(limit, count, length), slot * length
        first, end = (count - wanted) % length, count % length
        if wanted and first >= end:
            return self._cut(begin + first, begin + length) + self._cut(begin, begin + end)
        return self._cut(begin + first, begin + end)

    def _cut(self, first: int, end: int) -> bytearray:
        return self.data[first * _ROW.size : end * _ROW.size]


def step_ms(times: Sequence[int]) -> int:
    """What usually lies between two rows; at least the period at which rows are kept.

    >>> step_ms([0, 60_000, 120_000, 900_000]), step_ms([0])
    (60000, 10000)
    """
    return max(PERIOD_MS, int(median(b - a for a, b in pairwise(times)))) if len(times) > 1 else PERIOD_MS
