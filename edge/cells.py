"""The newest voltages and temperatures of single cells, by pack, in as many bytes as are allowed for all packs together."""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from math import nan

VALUES_KEPT = 4_000_000
"""Of all packs, four bytes each: 20,000 packs of 200 values."""


@dataclass(frozen=True, slots=True)
class PackCells:
    """A pack's cells at `ts_ms` (device time). NaN: not known, `invalid` of them because the value was impossible."""

    ts_ms: int
    voltages_v: array[float]
    temps_c: array[float]
    balancing: bytes | None
    """0 or 1 for each cell."""
    invalid: int = 0


class CellsOfPacks:
    """By slot of the pack. Where there would be too many values those of the pack go that was heard of least lately."""

    def __init__(self, limit: int = VALUES_KEPT) -> None:
        self._limit = limit
        self._kept: OrderedDict[int, PackCells] = OrderedDict()
        self._values = 0

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, slot: int) -> PackCells | None:
        """The newest of a pack; None where none has come, or too many others since."""
        return self._kept.get(slot)

    def put(self, slot: int, cells: PackCells) -> None:
        """Replace what is known of a pack."""
        self._forget(self._kept.pop(slot, None))
        self._kept[slot] = cells
        self._values += _size(cells)
        while self._values > self._limit and len(self._kept) > 1:
            self._forget(self._kept.popitem(last=False)[1])

    def _forget(self, cells: PackCells | None) -> None:
        self._values -= 0 if cells is None else _size(cells)


def compact(values: Sequence[float | None]) -> array[float]:
    """Four bytes a value, NaN for null."""
    return array("f", [nan if value is None else value for value in values])


def _size(cells: PackCells) -> int:
    return len(cells.voltages_v) + len(cells.temps_c) + len(cells.balancing or b"") // 4
