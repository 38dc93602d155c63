"""Ageing: calendar and cycle loss with per-pack random effects, added up step by step, fast-forwardable by days.

Semi-empirical, in the usual form (for example Schmalstieg 2014, and the LFP model of doi 10.1016/j.est.2023.109042):

    q_cal = k_cal t^0.5,      k_cal ~ exp(-Ea/T) exp(c (SoC - 0.6))
    q_cyc = k_cyc EFC^0.75,   k_cyc ~ depth, C-rate, temperature (plating below 10 °C while charging)

Both are advanced at the present loss, q' = (q^(1/z) + k^(1/z) dt)^z, so that stress may change over life. The
reference rates are set so that ten years at 25 °C with 1,825 full cycles leave what published models leave (tests hold
them to that envelope). Resistance grows with the lost capacity. Past a pack's own knee the cycle loss triples.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sim_device.packs import CHEMISTRY_NAMES, Packs

Floats = NDArray[np.float64]

TEN_YEARS_D, TEN_YEARS_EFC = 3652.5, 1825.0
REFERENCE_LOSS = {"NMC": (0.046, 0.040), "LFP": (0.055, 0.045), "NCA": (0.080, 0.080)}
"""Calendar and cycle loss (fraction) after ten reference years, for a cell whose rates are 1."""
SOC_STRESS = {"NMC": 1.2, "LFP": 0.7, "NCA": 1.3}
Z_CAL, Z_CYC = 0.5, 0.75
ACTIVATION_K = 5000.0


@dataclass(frozen=True)
class Stress:
    """How packs are used, per pack: mean cell temperature, mean SoC, depth of a cycle, C-rate, cycles per day."""

    temp_c: Floats
    soc: Floats
    depth: Floats
    c_rate: Floats
    efc_per_day: Floats


@dataclass(frozen=True)
class Health:
    """How old packs are: losses are fractions of the capacity when new."""

    age_d: Floats
    efc: Floats
    q_cal: Floats
    q_cyc: Floats

    @property
    def loss(self) -> Floats:
        return np.minimum(self.q_cal + self.q_cyc, 0.6)

    def take(self, index: NDArray[np.int64]) -> Health:
        return Health(self.age_d[index], self.efc[index], self.q_cal[index], self.q_cyc[index])


def new_health(n: int) -> Health:
    """Packs that left the factory today."""
    return Health(np.zeros(n), np.zeros(n), np.zeros(n), np.zeros(n))


class Ageing:
    """The ageing law of every pack."""

    def __init__(self, packs: Packs) -> None:
        names = [CHEMISTRY_NAMES[i] for i in packs.chemistry]
        reference = np.array([REFERENCE_LOSS[name] for name in names])
        self._k_cal = reference[:, 0] * packs.cal_rate / TEN_YEARS_D**Z_CAL
        self._k_cyc = reference[:, 1] * packs.cyc_rate / TEN_YEARS_EFC**Z_CYC
        self._soc_stress = np.array([SOC_STRESS[name] for name in names])
        self._knee = packs.knee_loss

    def advance(self, health: Health, days: float | Floats, stress: Stress) -> Health:
        """The health after `days` (a fraction of a day or a month) of constant stress."""
        k_cal = self._k_cal * arrhenius(stress.temp_c) * np.exp(self._soc_stress * (stress.soc - 0.6))
        q_cal = np.sqrt(health.q_cal**2 + k_cal**2 * days)
        knee = np.where(health.loss > self._knee, 3.0, 1.0)
        k_cyc = self._k_cyc * cycle_stress(stress) * knee
        cycles = stress.efc_per_day * days
        q_cyc = (health.q_cyc ** (1 / Z_CYC) + k_cyc ** (1 / Z_CYC) * cycles) ** Z_CYC
        return replace(health, age_d=health.age_d + days, efc=health.efc + cycles, q_cal=q_cal, q_cyc=q_cyc)


def arrhenius(temp_c: Floats) -> Floats:
    """Calendar rate relative to 25 °C."""
    return np.exp(-ACTIVATION_K * (1.0 / (temp_c + 273.15) - 1.0 / 298.15))


def cycle_stress(stress: Stress) -> Floats:
    """Cycle rate relative to the reference cycle (50 % deep, 0.25 C, 25 °C): deeper, faster, hotter, frozen is worse."""
    depth = 0.55 + 0.9 * stress.depth
    rate = 0.9 + 0.4 * stress.c_rate
    heat = np.exp(0.03 * np.maximum(stress.temp_c - 25.0, 0.0))
    plating = 1.0 + 0.04 * np.maximum(10.0 - stress.temp_c, 0.0) * np.minimum(stress.c_rate / 0.25, 3.0)
    return np.asarray(depth * rate * heat * plating)
