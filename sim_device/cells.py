"""Single cells: a pack's lowest, mean and highest values spread over all its cells and probes, the same way each time.

The plant knows a pack's mean cell and how far the others lie from it, not each of them: which cells are high and which low is
drawn once. The lowest and the highest are those that the telemetry names, and the probe at the lowest cell is the hottest,
as with an internal short.
"""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

from voltflow.telemetry import Cells

Floats = NDArray[np.float64]

CELLS_A_PROBE = 12
_encode = msgspec.json.Encoder().encode


def voltages_mv(low_v: float, mean_v: float, high_v: float, *, lowest: int, highest: int, of: Floats) -> list[float | None]:  # fmt: skip
    """Of each cell; `of` are their places between the lowest (-1) and the highest (1), `lowest` and `highest` numbers from
    1. A limit that is not known (NaN) is that cell's null, and the others lie at the mean."""
    below, above = (0.0 if np.isnan(limit - mean_v) else abs(limit - mean_v) for limit in (low_v, high_v))
    found: list[float | None] = np.round(
        1000.0 * (mean_v + np.where(of < 0, of * below, of * above))
    ).tolist()
    for number, limit_v in ((highest, high_v), (lowest, low_v)):
        found[number - 1] = None if np.isnan(limit_v) else round(1000.0 * limit_v)
    return found


def temps_c(low_c: float, high_c: float, *, hottest: int, probes: int) -> list[float | None]:
    """Of each probe, in steps of half a degree: the hottest at `hottest` (from 0), cooler with the distance."""
    if np.isnan(low_c) or np.isnan(high_c):
        return [None] * probes
    away = np.abs(np.arange(probes) - hottest)
    share = 1.0 - away / max(1, int(away.max()))
    half_degrees: list[float | None] = (np.round(2.0 * (low_c + share * (high_c - low_c))) / 2.0).tolist()
    return half_degrees


class CellReader:
    """Makes `bms.cells/1` of a pack's values; `seed` is the fleet's."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def encode(
        self, i: int, pack: str, values: dict[str, Floats], series: int, *, boot: int, ts_ms: int
    ) -> bytes:  # fmt: skip
        """The message of pack `i`, from the NUMERIC values of its BMS."""
        low_v, mean_v, high_v, lowest, highest, low_c, high_c, balanced = (
            float(values[name][i])
            for name in (
                "cell_voltage_min_v", "cell_voltage_avg_v", "cell_voltage_max_v", "cell_voltage_min_id",
                "cell_voltage_max_id", "cell_temp_min_c", "cell_temp_max_c", "balancing_cells",
            )
        )  # fmt: skip
        of, probes = self._places(i, series), -(-series // CELLS_A_PROBE)
        balancing = np.zeros(series, bool)
        balancing[np.argsort(of)[series - int(balanced) :]] = True
        return _encode(
            Cells(
                "bms.cells/1", pack, boot, ts_ms,
                voltages_mv(low_v, mean_v, high_v, lowest=int(lowest), highest=int(highest), of=of),
                temps_c(low_c, high_c, hottest=(int(lowest) - 1) // CELLS_A_PROBE, probes=probes),
                balancing.tolist(),
            )
        )  # fmt: skip

    def _places(self, i: int, series: int) -> Floats:
        """Where each cell lies between the pack's lowest (-1) and highest (1), most near the middle. Drawn each time, in some
        30 µs: for many packs they would be many megabytes."""
        drawn = np.random.default_rng([self._seed, 43, i]).normal(0.0, 0.35, series)
        return np.clip(drawn, -0.9, 0.9)
