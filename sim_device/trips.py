"""Generated trips: micro-trips (accelerate, cruise, brake, stop) and the power that they cost at the battery.

The traces are made once at 1 Hz and integrated, so that the mean power of a step of any length is exact: two
look-ups in the cumulated energy. Compare them with the regulatory cycles by `kwh_per_100km`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

TRACE_S = 3600
TRACES = 48
ROADS = ("city", "country", "motorway")
TARGET_KMH = {"city": (18.0, 55.0), "country": (45.0, 92.0), "motorway": (88.0, 122.0)}
CRUISE_S = {"city": 35.0, "country": 110.0, "motorway": 420.0}

# A compact electric car; a pack's `consumption` scales it (load, tyres, driver).
MASS_KG, CDA_M2, C_RR, AIR_KG_M3, GRAVITY = 1750.0, 0.66, 0.0098, 1.2, 9.81
ETA_DRIVE, ETA_REGEN, REGEN_MAX_W = 0.88, 0.62, 55e3


def road_load_w(speed_mps: Floats, step_s: float = 1.0) -> Floats:
    """Power at the battery terminals (W, > 0 = discharge) along a speed trace (m/s), without auxiliaries.

    P = (m a + 0.5 rho CdA v^2 + Crr m g) v, divided by the drive's efficiency when driving, multiplied by the
    recuperation's when braking and limited to 55 kW there; the rest goes into the brakes.
    """
    accel = np.diff(speed_mps, prepend=speed_mps[:1]) / step_s
    rolling = C_RR * MASS_KG * GRAVITY * (speed_mps > 0.1)
    force = MASS_KG * 1.04 * accel + 0.5 * AIR_KG_M3 * CDA_M2 * speed_mps**2 + rolling  # 4 %: rotating parts
    wheel = force * speed_mps
    return np.where(wheel > 0, wheel / ETA_DRIVE, np.maximum(wheel * ETA_REGEN, -REGEN_MAX_W))


def micro_trip(rng: np.random.Generator, road: str) -> Floats:
    """One stretch from stop to stop, m/s at 1 Hz."""
    top = rng.uniform(*TARGET_KMH[road]) / 3.6
    up = np.arange(0.0, top, rng.uniform(0.6, 1.9))
    down = np.arange(top, 0.0, -rng.uniform(0.5, 1.6))
    n = int(5 + rng.exponential(CRUISE_S[road]))
    wobble = np.convolve(rng.normal(0.0, 0.35, n + 14), np.ones(15) / 3.9, "valid")[:n]
    stop = np.zeros(int(3 + rng.exponential(16.0 if road == "city" else 8.0)))
    return np.concatenate([up, np.maximum(top + wobble, 1.0), down, stop])


@dataclass(frozen=True)
class Trips:
    """A library of one-hour traces; arrays (trace, second)."""

    speed_mps: Floats
    energy_j: Floats
    """cumulated from the start of the trace, one column more than there are seconds, continued past the end"""
    distance_m: Floats

    def between(self, table: Floats, trace: Ints, start_s: Floats, step_s: float) -> Floats:
        """How much a cumulated table grows from `start_s` over `step_s` (at most 60 s)."""
        return self._at(table, trace, start_s + step_s) - self._at(table, trace, start_s)

    @staticmethod
    def _at(table: Floats, trace: Ints, second: Floats) -> Floats:
        whole = second.astype(np.int64)
        low = table[trace, whole]
        return np.asarray(low + (second - whole) * (table[trace, whole + 1] - low))

    def mean_kmh(self, road: int) -> float:
        """The mean speed of one kind of road."""
        return float(self.speed_mps[road :: len(ROADS)].mean() * 3.6)


@lru_cache(maxsize=4)
def trips(seed: int = 1) -> Trips:
    """The library for a seed; trace i is of the kind ROADS[i % 3]."""
    rng = np.random.default_rng([seed, 77])
    speed = np.stack([_trace(rng, ROADS[i % len(ROADS)]) for i in range(TRACES)])
    power = np.stack([road_load_w(row) for row in speed])
    return Trips(speed, _cumulate(power), _cumulate(speed))


def _trace(rng: np.random.Generator, road: str) -> Floats:
    parts: list[Floats] = [np.zeros(5)]
    while sum(map(len, parts)) < TRACE_S - 1:
        near = road if rng.random() < 0.75 else "city"  # every way starts and ends in streets
        parts.append(micro_trip(rng, near))
    return np.concatenate(parts)[:TRACE_S]


def _cumulate(values: Floats) -> Floats:
    wrapped = np.concatenate([values, values[:, :70]], axis=1)
    return np.concatenate([np.zeros((len(values), 1)), np.cumsum(wrapped, axis=1)], axis=1)


def kwh_per_100km(speed_mps: Floats, aux_w: float = 500.0) -> float:
    """Consumption of the reference car on a 1 Hz trace, with its auxiliaries."""
    energy_j = road_load_w(speed_mps).sum() + aux_w * len(speed_mps)
    return float(energy_j / 3.6e6 / (speed_mps.sum() / 1000.0) * 100.0)
