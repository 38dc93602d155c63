"""Three faults with hidden onset: an internal short, loss of cooling, falling insulation. They act through physics.

A fault grows from its onset to the moment it is critical and further; the BMS reports only what its sensors then see.
The label is onset and critical time, so that a warning's lead time can be scored.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

KINDS = ("none", "internal_short", "cooling_loss", "insulation_drop")
NONE, SHORT, COOLING, INSULATION = range(4)
DAY_S = 86400.0

SHORT_START_OHM, SHORT_CRITICAL_OHM = 1000.0, 2.0
INSULATION_START_OHM, INSULATION_CRITICAL_OHM = 20e6, 30e3
BALANCING_A = 0.075


@dataclass(frozen=True)
class Faults:
    """One possible fault per pack: its kind (index into KINDS), times in seconds since 1970, severity at the end."""

    kind: Ints
    onset_s: Floats
    critical_s: Floats
    severity: Floats

    @property
    def any(self) -> bool:
        return bool((self.kind != NONE).any())

    def progress(self, t_s: Floats | float, kind: int) -> Floats:
        """0 before the onset (and without this fault) … `severity` when critical and ever after."""
        share = np.clip((t_s - self.onset_s) / (self.critical_s - self.onset_s), 0.0, 1.0)
        return np.where(self.kind == kind, share * self.severity, 0.0)

    def short_ohm(self, t_s: Floats | float) -> Floats:
        """Resistance across one group, falling exponentially; infinite without the fault."""
        share = self.progress(t_s, SHORT)
        ohm = SHORT_START_OHM * (SHORT_CRITICAL_OHM / SHORT_START_OHM) ** share
        return np.where(share > 0, ohm, np.inf)

    def cooling(self, t_s: Floats | float) -> Floats:
        """What is left of the cooling loop: 1 = sound, 0.1 = the pump stands still."""
        return 1.0 - 0.9 * self.progress(t_s, COOLING)

    def insulation_ohm(self, t_s: Floats | float) -> Floats:
        """The fault's path to the chassis; infinite without it."""
        share = self.progress(t_s, INSULATION)
        ohm = INSULATION_START_OHM * (INSULATION_CRITICAL_OHM / INSULATION_START_OHM) ** share
        return np.where(share > 0, ohm, np.inf)

    def lost_soc(self, t_s: float, capacity_ah: Floats, cell_v: float = 3.6) -> Floats:
        """How far the shorted group is already below the others at a time: leaked minus balanced, day by day."""
        lost = np.zeros(len(self.kind))
        for day in np.arange(60.0, 0.0, -1.0):
            leak_a = cell_v / self.short_ohm(t_s - day * DAY_S) - 0.04 * BALANCING_A
            lost = np.clip(lost + leak_a * 24.0 / capacity_ah, 0.0, 0.3)
        return lost

    def take(self, index: Ints) -> Faults:
        return Faults(self.kind[index], self.onset_s[index], self.critical_s[index], self.severity[index])


def no_faults(n: int) -> Faults:
    """Sound packs."""
    return Faults(np.zeros(n, np.int64), np.zeros(n), np.ones(n), np.zeros(n))


def draw_faults(
    n: int, rng: np.random.Generator, start_s: Floats, length_s: float, prevalence: float
) -> Faults:
    """Faults whose growth overlaps the windows `start_s` … `+ length_s`, in a share `prevalence` of the packs.

    Growth takes 4 to 35 days; a fault becomes critical from the window's start until ten days after its end, so some
    end inside, some are cut off, and some are so young that nothing can be seen yet. One in five stays mild.
    """
    kind = np.where(rng.random(n) < prevalence, rng.integers(1, len(KINDS), n), NONE)
    growth_s = rng.uniform(4.0, 35.0, n) * DAY_S
    critical_s = start_s + rng.uniform(0.2, 1.0, n) * (length_s + 10.0 * DAY_S)
    severity = np.where(rng.random(n) < 0.2, rng.uniform(0.5, 0.8, n), 1.0)
    return Faults(kind, critical_s - growth_s, critical_s, severity)
