"""Lookup tables of the kernel: OCV, its inverse and the Arrhenius factor, on even grids, one chemistry after the other.

A table is cheaper than a formula in the float path and the same in both. The fourth part of each table serves packs of
unknown chemistry (NMC's values, which then weigh nothing: `Pack.ocv_var`).
"""

from __future__ import annotations

from typing import Final

from voltflow.battery.chemistry import CHEMISTRIES, NMC, arrhenius, ocv_v, soc_from_ocv

ORDER: Final = (*CHEMISTRIES.values(), NMC)
"""Part k of each table belongs to ORDER[k]; the last to an unknown chemistry."""

OCV_CELLS: Final = 200.0
OCV_POINTS: Final = 202
"""201 points at 0, 0.5 % … 100 % and one more, so that the upper neighbour of the last exists."""
OCV_V: Final[list[float]] = [ocv_v(c.name, min(i / OCV_CELLS, 1.0)) for c in ORDER for i in range(OCV_POINTS)]

VOLT_LOW: Final = 2.0
VOLT_PER_CELL: Final = 400.0
VOLT_CELLS: Final = 1000.0
VOLT_POINTS: Final = 1001
SOC_AT_V: Final[list[float]] = [
    soc_from_ocv(c.name, VOLT_LOW + i / VOLT_PER_CELL) for c in ORDER for i in range(VOLT_POINTS)
]
"""SoC at 2.0, 2.0025 … 4.5 V."""

TEMP_LOW_C: Final = -40.0
TEMP_CELLS: Final = 160.0
TEMP_POINTS: Final = 162
ARRHENIUS: Final[list[float]] = [
    arrhenius(c.activation_j_mol, TEMP_LOW_C + min(i, TEMP_CELLS)) for c in ORDER for i in range(TEMP_POINTS)
]
"""Resistance relative to 25 °C at −40, −39 … 120 °C."""
