"""Nominal data of the three chemistries: open-circuit voltage, circuit, temperature dependence, valid ranges.

Nominal means: a typical cell of the chemistry, not yours. The curves are rounded from the shape that low-rate (C/20 to
C/30) measurements at 25 °C of commercial cells show: NMC 532/622 automotive pouches and prismatics, graphite against
LFP (A123 26650 and large prismatics, mean of charge and discharge branch), NCA 18650/2170. A single pack differs by 10
to 40 mV, so whoever simulates draws deviations, and whoever estimates must treat the curve as uncertain
(`ocv_sigma_v`). Circuit values are scaled by capacity: a cell (or a group of parallel cells) of Q Ah has
`r0_mohm_ah / Q` mΩ.

>>> round(ocv_v("NMC", 0.5), 3), round(soc_from_ocv("NMC", 3.735), 2)
(3.735, 0.5)
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from math import exp
from typing import Final

GAS_CONSTANT: Final = 8.314462618
"""J/(mol K)."""
REFERENCE_C: Final = 25.0


@dataclass(frozen=True, slots=True)
class CellData:
    """What is typical of one chemistry. Voltages of one cell; resistances times capacity (mΩ·Ah) at 25 °C, 50 % SoC."""

    name: str
    ocv_soc: tuple[float, ...]
    """State of charge (0–1) of the points of the open-circuit curve."""
    ocv_v: tuple[float, ...]
    """Open-circuit voltage at `ocv_soc`, V, 25 °C, strictly rising."""
    ocv_sigma_v: float
    """How far a healthy pack's rest voltage lies from the curve (one sigma, V), hysteresis included."""
    hysteresis_v: float
    """Half the distance between the charge and the discharge branch after rest, V."""
    cell_voltage_v: tuple[float, float]
    """What a working cell and its sensor can show, V: wider than what a battery should be used at."""
    charge_end_v: float
    discharge_end_v: float
    r0_mohm_ah: float
    """Ohmic resistance: the immediate answer to a step of current."""
    r1_mohm_ah: float
    tau1_s: float
    """Fast RC: charge transfer."""
    r2_mohm_ah: float
    tau2_s: float
    """Slow RC: diffusion."""
    activation_j_mol: float
    """Arrhenius activation energy of the resistances."""
    charge_edges_v: tuple[float, float, float, float]
    """Rest voltages between which the charge taken up is compared over life: where the curve is steep enough that
    10 mV of error moves the edge little (for LFP the two steps of graphite staging and the end of charge)."""


_SOC_GRID: Final = (0.0, 0.02, 0.05, *(round(0.10 + 0.05 * i, 2) for i in range(18)), 0.98, 1.0)

# Resistances: 50 Ah NMC prismatic about 1.4 mΩ, 280 Ah LFP prismatic about 0.35 mΩ, 5 Ah NCA 2170 about 18 mΩ at
# 25 °C (data sheets, 1 s pulse). Time constants and activation energies: the ranges in which published fits lie
# (tau 5-20 s and 100-600 s; 20-25 kJ/mol).
NMC: Final = CellData(
    name="NMC",
    ocv_soc=_SOC_GRID,
    ocv_v=(
        3.000,
        3.230,
        3.380,
        3.480,
        3.540,
        3.580,
        3.610,
        3.635,
        3.655,
        3.675,
        3.700,
        3.735,
        3.780,
        3.835,
        3.885,
        3.930,
        3.975,
        4.020,
        4.060,
        4.095,
        4.135,
        4.165,
        4.190,
    ),
    ocv_sigma_v=0.015,
    hysteresis_v=0.002,
    cell_voltage_v=(2.0, 4.5),
    charge_end_v=4.20,
    discharge_end_v=2.80,
    r0_mohm_ah=70.0,
    r1_mohm_ah=25.0,
    tau1_s=12.0,
    r2_mohm_ah=35.0,
    tau2_s=250.0,
    activation_j_mol=22_000.0,
    charge_edges_v=(3.65, 3.80, 3.95, 4.08),
)
LFP: Final = CellData(
    name="LFP",
    ocv_soc=_SOC_GRID,
    ocv_v=(
        2.700,
        3.000,
        3.140,
        3.195,
        3.215,
        3.235,
        3.258,
        3.279,
        3.286,
        3.289,
        3.291,
        3.293,
        3.296,
        3.304,
        3.325,
        3.3295,
        3.3305,
        3.3315,
        3.3325,
        3.334,
        3.337,
        3.355,
        3.450,
    ),
    ocv_sigma_v=0.012,
    hysteresis_v=0.008,
    cell_voltage_v=(1.5, 3.9),
    charge_end_v=3.65,
    discharge_end_v=2.50,
    r0_mohm_ah=100.0,
    r1_mohm_ah=40.0,
    tau1_s=15.0,
    r2_mohm_ah=50.0,
    tau2_s=400.0,
    activation_j_mol=25_000.0,
    charge_edges_v=(3.25, 3.31, 3.345, 3.40),
)
NCA: Final = CellData(
    name="NCA",
    ocv_soc=_SOC_GRID,
    ocv_v=(
        2.900,
        3.120,
        3.270,
        3.390,
        3.460,
        3.510,
        3.555,
        3.595,
        3.628,
        3.658,
        3.690,
        3.725,
        3.768,
        3.815,
        3.865,
        3.910,
        3.952,
        3.995,
        4.040,
        4.075,
        4.110,
        4.150,
        4.185,
    ),
    ocv_sigma_v=0.015,
    hysteresis_v=0.004,
    cell_voltage_v=(2.0, 4.5),
    charge_end_v=4.20,
    discharge_end_v=2.70,
    r0_mohm_ah=90.0,
    r1_mohm_ah=30.0,
    tau1_s=10.0,
    r2_mohm_ah=40.0,
    tau2_s=250.0,
    activation_j_mol=21_000.0,
    charge_edges_v=(3.65, 3.80, 3.95, 4.06),
)
CHEMISTRIES: Final[dict[str, CellData]] = {cell.name: cell for cell in (NMC, LFP, NCA)}
"""By the name that `bms.state/1` uses."""


def _interpolate(xs: tuple[float, ...], ys: tuple[float, ...], x: float) -> float:
    if x <= xs[0]:
        return ys[0]
    if x >= xs[-1]:
        return ys[-1]
    i = bisect_right(xs, x)
    return ys[i - 1] + (ys[i] - ys[i - 1]) * (x - xs[i - 1]) / (xs[i] - xs[i - 1])


def ocv_v(chemistry: str, soc: float) -> float:
    """Nominal open-circuit voltage (V, 25 °C) at a state of charge (0–1, clipped)."""
    cell = CHEMISTRIES[chemistry]
    return _interpolate(cell.ocv_soc, cell.ocv_v, soc)


def soc_from_ocv(chemistry: str, volts: float) -> float:
    """State of charge (0–1) at which the nominal open-circuit voltage is `volts`; for LFP's plateau nearly arbitrary."""
    cell = CHEMISTRIES[chemistry]
    return _interpolate(cell.ocv_v, cell.ocv_soc, volts)


def arrhenius(activation_j_mol: float, temp_c: float) -> float:
    """Resistance at `temp_c` relative to that at 25 °C: exp(Ea/R (1/T − 1/T_ref)); above 1 when colder.

    >>> round(arrhenius(22_000, 0.0), 2)
    2.25
    """
    kelvin = temp_c + 273.15
    return exp(activation_j_mol / GAS_CONSTANT * (1.0 / kelvin - 1.0 / (REFERENCE_C + 273.15)))


Range = tuple[float, float]

# Inclusive. Where the value comes through GB/T 32960.3 its 0xFE/0xFF codes fall outside: 65.535 V, -40 °C as what a
# raw 0 becomes, 214/215 °C (and 255 °C undecoded), 1310.7 V (65535 in units of 20 mV), 65534/65535 kΩ, 254/255 % SoC.
_FIELDS: Final[dict[str, Range]] = {
    "speed_kmh": (0.0, 300.0),
    "odometer_km": (0.0, 5_000_000.0),
    "pack_voltage_v": (0.0, 1000.0),
    "pack_current_a": (-3000.0, 3000.0),
    "soc_pct": (0.0, 100.0),
    "soh_bms_pct": (0.0, 120.0),
    "cell_voltage_min_id": (0.0, 1000.0),
    "cell_voltage_max_id": (0.0, 1000.0),
    "cell_temp_min_c": (-39.0, 120.0),
    "cell_temp_max_c": (-39.0, 120.0),
    "cell_temp_avg_c": (-39.0, 120.0),
    "coolant_inlet_c": (-39.0, 120.0),
    "coolant_outlet_c": (-39.0, 120.0),
    "ambient_c": (-55.0, 65.0),
    "insulation_kohm": (0.0, 60_000.0),
    "limit_charge_kw": (0.0, 5000.0),
    "limit_discharge_kw": (0.0, 5000.0),
    "charge_throughput_ah": (0.0, 1e9),
    "discharge_throughput_ah": (0.0, 1e9),
    "efc": (0.0, 1e5),
    "balancing_cells": (0.0, 1000.0),
    "alarm_level": (0.0, 3.0),
}
_CELL_VOLTAGES: Final = ("cell_voltage_min_v", "cell_voltage_max_v", "cell_voltage_avg_v")


def _cell_range(chemistry: str | None) -> Range:
    if chemistry is not None:
        return CHEMISTRIES[chemistry].cell_voltage_v
    ranges = [cell.cell_voltage_v for cell in CHEMISTRIES.values()]
    return min(low for low, _ in ranges), max(high for _, high in ranges)


def valid_ranges(chemistry: str | None = None, cells_series: int | None = None) -> dict[str, Range]:
    """What is physically possible, inclusive, for every numeric field of `bms.telemetry/1`; outside is null.

    An unknown chemistry (None) gets the union of all. With `cells_series` the pack voltage must be that of so many
    cells; without, only the 1000 V that GB/T 32960 can express bound it.

    >>> valid_ranges("LFP")["cell_voltage_max_v"]
    (1.5, 3.9)
    >>> valid_ranges("NMC", cells_series=91)["pack_voltage_v"]
    (182.0, 409.5)
    """
    low, high = _cell_range(chemistry)
    ranges = dict(_FIELDS) | dict.fromkeys(_CELL_VOLTAGES, (low, high))
    if cells_series is not None:
        ranges["pack_voltage_v"] = (low * cells_series, min(1000.0, high * cells_series))
    return ranges
