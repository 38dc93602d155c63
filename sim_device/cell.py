"""The electrical model: open-circuit voltage, hysteresis and two RC elements, solved exactly for any step.

Inside the simulator a current is positive when it discharges; the BMS turns the sign. All functions work on arrays of
one value per pack; a leading axis for groups of cells would pass through unchanged.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim_device.packs import CELLS, Packs

Floats = NDArray[np.float64]

GRID = 1000
HYSTERESIS_RATE = 25.0
"""The branch changes over about 1/25 of the capacity."""


def _table(cell: int) -> Floats:
    """OCV on a fine grid, corners of the nominal points rounded (they would be seen in dQ/dV), still rising."""
    soc = np.linspace(-0.06, 1.06, GRID + 121)
    volts = np.interp(soc, CELLS[cell].ocv_soc, CELLS[cell].ocv_v)
    slope_low = (volts[70] - volts[60]) / (soc[70] - soc[60])
    volts[:60] = volts[60] + (soc[:60] - soc[60]) * slope_low
    volts[-60:] = volts[-61] + (soc[-60:] - soc[-61]) * (volts[-61] - volts[-71]) / (soc[-61] - soc[-71])
    kernel = np.hanning(37)
    smooth = np.convolve(volts, kernel / kernel.sum(), "same")
    return smooth[60:-60]


TABLES = np.concatenate([_table(i) for i in range(len(CELLS))])
MIDDLE_V = np.array([_table(i)[GRID // 2] for i in range(len(CELLS))])


class Ocv:
    """The packs' own open-circuit voltage curves."""

    def __init__(self, packs: Packs) -> None:
        self._base = packs.chemistry * (GRID + 1)
        self._stretch = packs.ocv_stretch
        self._scale = packs.ocv_scale
        self._offset_v = packs.ocv_shift_v + (1.0 - packs.ocv_scale) * MIDDLE_V[packs.chemistry]

    def volts(self, soc: Floats) -> Floats:
        """V at a state of charge (0–1)."""
        return self.volts_and_slope(soc)[0]

    def volts_and_slope(self, soc: Floats) -> tuple[Floats, Floats]:
        """V and dV/dSoC (V per 1)."""
        bent = soc + self._stretch * soc * (1.0 - soc)
        place = np.minimum(np.maximum(bent, 0.0), 1.0) * GRID
        low = np.minimum(place.astype(np.int64), GRID - 1)
        left = TABLES[self._base + low]
        rise = TABLES[self._base + low + 1] - left
        return self._offset_v + self._scale * (left + (place - low) * rise), self._scale * GRID * rise


@dataclass
class CellState:
    """What the circuit remembers; voltages of one group, `hysteresis` from -1 (discharged last) to 1."""

    soc: Floats
    v1: Floats
    v2: Floats
    hysteresis: Floats


@dataclass
class Step:
    """The circuit over one step: values at its end, and what the energy balance needs as means over it."""

    voltage_v: Floats
    ocv_v: Floats
    ocv_slope: Floats
    heat_w: Floats
    voltage_mean_v: Floats
    emf_mean_v: Floats


class Circuit:
    """The 2RC circuit of every pack. `prepare` fixes temperature and step length, `solve` and `advance` use them."""

    def __init__(self, packs: Packs, soc: Floats) -> None:
        n = len(packs)
        self.packs = packs
        self.ocv = Ocv(packs)
        self.state = CellState(soc.copy(), np.zeros(n), np.zeros(n), np.zeros(n))
        self._emf_v = self._emf(self.ocv.volts(soc))

    def prepare(self, step_s: float, temp_c: Floats, capacity_ah: Floats, growth: Floats) -> None:
        """Resistances at this temperature and charge, decay over this step."""
        p, s = self.packs, self.state
        factor = growth * np.exp(p.activation_k * (1.0 / (temp_c + 273.15) - 1.0 / 298.15))
        self.r0 = p.r0_ohm * factor * (1.0 + 6.0 * np.maximum(0.1 - s.soc, 0.0))
        self.r1, self.r2 = p.r1_ohm * factor, p.r2_ohm * factor
        self.a1, self.a2 = np.exp(-step_s / p.tau1_s), np.exp(-step_s / p.tau2_s)
        self.step_s, self.capacity_ah = step_s, capacity_ah
        self.ocv_v, slope = self.ocv.volts_and_slope(s.soc)
        self._fall = slope * step_s / (3600.0 * capacity_ah)
        self.free_v = self._emf_v - self.a1 * s.v1 - self.a2 * s.v2
        self.r_step = self.r0 + self.r1 * (1.0 - self.a1) + self.r2 * (1.0 - self.a2) + self._fall

    def current_for_power(self, power_w: Floats) -> Floats:
        """The current with which a group delivers `power_w` (both > 0 = discharge) at the end of the step."""
        under = np.maximum(self.free_v**2 - 4.0 * self.r_step * power_w, 0.0)
        return np.asarray((self.free_v - np.sqrt(under)) / (2.0 * self.r_step))

    def current_for_voltage(self, voltage_v: Floats) -> Floats:
        """The current with which the terminal voltage is `voltage_v` at the end of the step (constant voltage)."""
        return np.asarray((self.free_v - voltage_v) / self.r_step)

    def advance(self, current_a: Floats) -> Step:
        """Let `current_a` flow for the prepared step."""
        s, h = self.state, self.step_s
        s.soc = s.soc - current_a * h / (3600.0 * self.capacity_ah)
        self._turn_hysteresis(current_a)
        ocv, slope = self.ocv.volts_and_slope(s.soc)
        emf_before, self._emf_v = self._emf_v, self._emf(ocv)
        mean1 = _mean(s.v1, self.r1 * current_a, self.a1, self.packs.tau1_s, h)
        mean2 = _mean(s.v2, self.r2 * current_a, self.a2, self.packs.tau2_s, h)
        s.v1 = self.a1 * s.v1 + self.r1 * (1.0 - self.a1) * current_a
        s.v2 = self.a2 * s.v2 + self.r2 * (1.0 - self.a2) * current_a
        drop = self.r0 * current_a + mean1 + mean2
        emf_mean = 0.5 * (emf_before + self._emf_v)
        voltage = self._emf_v - self.r0 * current_a - s.v1 - s.v2
        return Step(voltage, ocv, slope, drop * current_a, emf_mean - drop, emf_mean)

    def _emf(self, ocv_v: Floats) -> Floats:
        return np.asarray(ocv_v + self.packs.hysteresis_v * self.state.hysteresis)

    def _turn_hysteresis(self, current_a: Floats) -> None:
        """dh/dq = k (sign - h), exact for a constant current; charging pulls to the upper branch."""
        moved = np.abs(current_a) * self.step_s / (3600.0 * self.capacity_ah)
        target = -np.sign(current_a)
        self.state.hysteresis = target + (self.state.hysteresis - target) * np.exp(-HYSTERESIS_RATE * moved)


def _mean(start: Floats, end: Floats, decay: Floats, tau_s: Floats, step_s: float) -> Floats:
    """Mean over the step of what goes from `start` towards `end` with a time constant."""
    return np.asarray(end + (start - end) * (1.0 - decay) * tau_s / step_s)
