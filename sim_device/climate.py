"""Ambient temperature and rain: climate, season, time of day and weather, without stored series."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

DAY_S = 86400.0
YEAR_S = 365.25 * DAY_S
CLIMATES = ("temperate", "cold", "hot")
MEAN_C = np.array([12.0, 5.0, 25.0])
SEASON_C = np.array([9.0, 13.0, 7.0])
DIURNAL_C = np.array([4.5, 4.0, 6.0])
WEATHER_PERIOD_S = np.array([3.3, 6.1, 13.7]) * DAY_S
"""Weather is a sum of three slow waves with a pack's own phases: hot spells happen and need no fault to explain them."""
WEATHER_C = 2.2


@dataclass(frozen=True)
class Climate:
    """What the ambient depends on, per pack: the climate (index into CLIMATES) and the phases of its weather (n, 3)."""

    kind: NDArray[np.int64]
    phase: Floats

    def ambient_c(self, t_s: Floats | float) -> Floats:
        """Ambient temperature at a time in seconds since 1970 (scalar or one per pack)."""
        return np.asarray(self.season_c(t_s) + self._diurnal_c(t_s) + WEATHER_C * self._weather(t_s).sum(-1))

    def season_c(self, t_s: Floats | float) -> Floats:
        """Mean temperature of the season; warmest on 20 July."""
        turn = 2 * np.pi * (np.asarray(t_s) / YEAR_S - 200.0 / 365.25)
        return np.asarray(MEAN_C[self.kind] + SEASON_C[self.kind] * np.cos(turn))

    def rain(self, t_s: Floats | float) -> Floats:
        """0 = dry … 1 = soaked: what lets a sound pack's insulation reading dip."""
        return np.asarray(np.clip(self._weather(np.asarray(t_s) + 4.4 * DAY_S).sum(-1) - 0.8, 0.0, 1.2) / 1.2)

    def _diurnal_c(self, t_s: Floats | float) -> Floats:
        return np.asarray(DIURNAL_C[self.kind] * np.cos(2 * np.pi * (np.asarray(t_s) / DAY_S - 15.0 / 24.0)))

    def _weather(self, t_s: Floats | float) -> Floats:
        return np.sin(2 * np.pi * np.asarray(t_s)[..., None] / WEATHER_PERIOD_S + self.phase)
