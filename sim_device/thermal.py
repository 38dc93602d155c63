"""The thermal model: cells, coolant, pump, chiller and heater; two coupled nodes, solved exactly for any step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

CELL_J_PER_K_KWH = 6.0e3
COOLANT_J_PER_K = 2.5e4
UA_CELL_AIR = 10.0
UA_COOLANT = {"pump": 700.0, "still": 25.0}
UA_RADIATOR = {"pump": 220.0, "still": 6.0}
FLOW_W_PER_K = 650.0
CHILLER_W, HEATER_W = 3500.0, 4000.0
CHILLER_ON_C, CHILLER_OFF_C = 33.0, 29.0
HEATER_ON_C, HEATER_OFF_C = 4.0, 10.0
PUMP_ON_C = 16.0
PROBE_TAU_S = 90.0
"""A probe sits on the surface and follows the core."""


@dataclass
class Heat:
    """Flows of one step in W, means over it; what goes in minus what goes out is what is stored."""

    heater_w: Floats
    chiller_w: Floats
    to_air_w: Floats


class Thermal:
    """Temperatures of every pack: `cell_c`, `coolant_c`, `probe_c` (the surface)."""

    def __init__(self, energy_kwh: Floats, ua_scale: Floats, start_c: Floats) -> None:
        self.cell_j_k = CELL_J_PER_K_KWH * energy_kwh
        self.ua_scale = ua_scale
        self.cell_c, self.coolant_c, self.probe_c = start_c.copy(), start_c.copy(), start_c.copy()
        self.chilling = np.zeros(len(start_c), bool)
        self.heating = np.zeros(len(start_c), bool)
        self.pump = np.zeros(len(start_c), bool)

    def advance(self, step_s: float, heat_w: Floats, air_c: Floats, awake: Bools, cooling: Floats) -> Heat:
        """One step with `heat_w` in the cells; `cooling` is what a fault leaves of the loop (1 = sound)."""
        self._switch(awake)
        chill_w = np.where(self.chilling & (self.coolant_c > 8.0), CHILLER_W, 0.0) * cooling
        warm_w = np.where(self.heating & (self.coolant_c < 35.0), HEATER_W, 0.0) * np.maximum(cooling, 0.1)
        g12 = self._conductance(UA_COOLANT) * cooling * self.ua_scale
        g2 = self._conductance(UA_RADIATOR) * cooling * np.where(self.heating, 0.1, 1.0)
        self._two_nodes(step_s, heat_w, warm_w - chill_w, air_c, g12, g2)
        decay = np.exp(-step_s / PROBE_TAU_S)
        self.probe_c = self.cell_c + (self.probe_c - self.cell_c) * decay
        return Heat(warm_w, chill_w, self._lost_w)

    def coolant_ports_c(self, cooling: Floats) -> tuple[Floats, Floats]:
        """Inlet and outlet: the coolant takes up what the cells give it; a clogged loop flows slower and warms more."""
        taken_w = self._conductance(UA_COOLANT) * cooling * self.ua_scale * (self.cell_c - self.coolant_c)
        half = np.where(self.pump, 0.5 * taken_w / (FLOW_W_PER_K * cooling), 0.0)
        return self.coolant_c - half, self.coolant_c + half

    def _switch(self, awake: Bools) -> None:
        """Thresholds with hysteresis; a sleeping car controls nothing."""
        t = self.cell_c
        self.chilling = awake & ((t > CHILLER_ON_C) | (self.chilling & (t > CHILLER_OFF_C)))
        self.heating = awake & ((t < HEATER_ON_C) | (self.heating & (t < HEATER_OFF_C)))
        self.pump = awake & (self.chilling | self.heating | (t > PUMP_ON_C))

    def _conductance(self, values: dict[str, float]) -> Floats:
        return np.where(self.pump, values["pump"], values["still"])

    def _two_nodes(
        self, h: float, cell_w: Floats, coolant_w: Floats, air_c: Floats, g12: Floats, g2: Floats
    ) -> None:
        """x' = A x + b for x = (cell, coolant) above ambient; exp(A h) of a 2x2 matrix with real eigenvalues.

        exp(A h) = e^(m h) (cosh(s h) I + sinh(s h)/s (A - m I)), m = tr A / 2, s = sqrt(m^2 - det A).
        """
        c1, c2, g1 = self.cell_j_k, COOLANT_J_PER_K, UA_CELL_AIR
        a11, a12, a21, a22 = -(g1 + g12) / c1, g12 / c1, g12 / c2, -(g12 + g2) / c2
        det = a11 * a22 - a12 * a21
        b1, b2 = cell_w / c1, coolant_w / c2
        end1, end2 = (a12 * b2 - a22 * b1) / det, (a21 * b1 - a11 * b2) / det  # -A^-1 b
        m = 0.5 * (a11 + a22)
        s = np.sqrt(np.maximum(m * m - det, 1e-18))
        plus, minus = np.exp((m + s) * h), np.exp((m - s) * h)
        even, odd = 0.5 * (plus + minus), 0.5 * (plus - minus) / s
        x1, x2 = self.cell_c - air_c - end1, self.coolant_c - air_c - end2
        new1 = end1 + even * x1 + odd * ((a11 - m) * x1 + a12 * x2)
        new2 = end2 + even * x2 + odd * (a21 * x1 + (a22 - m) * x2)
        before = c1 * (self.cell_c - air_c) + c2 * (self.coolant_c - air_c)
        self._lost_w = cell_w + coolant_w - (c1 * new1 + c2 * new2 - before) / h
        self.cell_c, self.coolant_c = air_c + new1, air_c + new2
