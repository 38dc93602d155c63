"""The packs of a simulated fleet: nameplates and hidden parameters, drawn per pack around the nominal cell.

A pack's draws depend on the seed and its own number only, so pack 7 is the same in a fleet of 10 and of 1,000. The
estimator knows the nominal cell; what is drawn here it must not know.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim_device.climate import CLIMATES, Climate
from voltflow.battery.chemistry import CHEMISTRIES

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

CHEMISTRY_NAMES = tuple(CHEMISTRIES)
CELLS = tuple(CHEMISTRIES.values())
CHEMISTRY_SHARE = {"NMC": 0.5, "LFP": 0.35, "NCA": 0.15}
CLIMATE_SHARE = (0.5, 0.2, 0.3)
NAMEPLATES: dict[str, tuple[tuple[int, int, float], ...]] = {
    "NMC": ((96, 2, 150.0), (108, 2, 156.0), (96, 3, 177.0)),
    "LFP": ((104, 1, 161.0), (120, 1, 138.0), (106, 1, 173.0)),
    "NCA": ((96, 46, 210.0), (96, 31, 155.0)),
}
"""Per chemistry: cells in series, in parallel, rated capacity in Ah; cars of 50 to 75 kWh."""


@dataclass(frozen=True)
class Packs:
    """Parameters as arrays of one value per pack; voltages and resistances are those of one group of parallel cells."""

    id: list[str]
    chemistry: Ints
    cells_series: Floats
    cells_parallel: Floats
    capacity_rated_ah: Floats
    capacity_scale: Floats
    ocv_shift_v: Floats
    ocv_scale: Floats
    ocv_stretch: Floats
    r0_ohm: Floats
    r1_ohm: Floats
    tau1_s: Floats
    r2_ohm: Floats
    tau2_s: Floats
    activation_k: Floats
    hysteresis_v: Floats
    soc_spread: Floats
    """how far the fullest and the emptiest cell lie from the average (fraction)"""
    r_spread: Floats
    cell_noise_v: Floats
    probe_spread_c: Floats
    heat_ua_scale: Floats
    cal_rate: Floats
    cyc_rate: Floats
    """ageing of this pack relative to the chemistry's reference: cell generation times a lognormal random effect"""
    r_growth: Floats
    knee_loss: Floats
    climate: Ints
    weather_phase: Floats
    consumption: Floats
    trips_per_day: Floats
    trip_s: Floats
    road: Floats
    """share of city, country, motorway (n, 3)"""
    plug_below: Floats
    charge_to: Floats
    dc_share: Floats
    dc_power_w: Floats
    ac_power_w: Floats
    insulation_ohm: Floats
    current_offset_a: Floats
    current_gain: Floats
    soh_bias: Floats
    soc_resolution: Floats
    seed: Ints
    number: Ints
    visit: Ints
    """tells the same pack's several lives in one simulation apart (dataset.py)"""

    def __len__(self) -> int:
        return len(self.id)

    def take(self, index: Ints) -> Packs:
        """The packs of an index, repeated where it repeats."""
        arrays: dict[str, Any] = {
            f.name: getattr(self, f.name)[index] for f in fields(self) if f.name != "id"
        }
        return Packs(id=[self.id[i] for i in index], **arrays)

    def generators(self) -> list[np.random.Generator]:
        """One for each pack, for what happens to it."""
        rows = zip(self.seed.tolist(), self.number.tolist(), self.visit.tolist(), strict=True)
        return [pack_rng(seed, number, 1 + visit) for seed, number, visit in rows]

    def weather(self) -> Climate:
        """The climate these packs live in."""
        return Climate(self.climate, self.weather_phase)

    def chemistry_names(self) -> list[str]:
        return [CHEMISTRY_NAMES[i] for i in self.chemistry]

    def climate_names(self) -> list[str]:
        return [CLIMATES[i] for i in self.climate]

    def energy_kwh(self) -> Floats:
        """Rated energy at the chemistry's nominal voltage."""
        volts = np.array([CELLS[c].ocv_v[len(CELLS[c].ocv_v) // 2] for c in self.chemistry])
        return np.asarray(self.capacity_rated_ah * self.cells_series * volts / 1000.0)


def pack_rng(seed: int, number: int, purpose: int) -> np.random.Generator:
    """The generator of one pack for one purpose (0 parameters, from 1 on the duty of its visits)."""
    return np.random.default_rng([seed, number, purpose])


def draw_packs(n: int, seed: int, prefix: str = "SIM") -> Packs:
    """`n` packs of a fleet, the same for the same seed."""
    rows = [_draw_one(pack_rng(seed, i, 0)) for i in range(n)]
    columns = {key: np.array([row[key] for row in rows]) for key in rows[0]}
    names = [f"{prefix}{i:06d}" for i in range(n)]
    zeros = np.zeros(n, np.int64)
    return Packs(id=names, seed=zeros + seed, number=np.arange(n), visit=zeros, **columns)


def _draw_one(rng: np.random.Generator) -> dict[str, Any]:
    name = str(rng.choice(list(CHEMISTRY_SHARE), p=list(CHEMISTRY_SHARE.values())))
    series, parallel, rated = NAMEPLATES[name][rng.integers(len(NAMEPLATES[name]))]
    nameplate = {"chemistry": CHEMISTRY_NAMES.index(name), "cells_series": float(series),
                 "cells_parallel": float(parallel), "capacity_rated_ah": rated}  # fmt: skip
    cell, life = _draw_cell(rng, name, rated), _draw_ageing(rng, name)
    return nameplate | cell | life | _draw_use(rng, name) | _draw_bms(rng)


def _draw_cell(rng: np.random.Generator, name: str, rated_ah: float) -> dict[str, Any]:
    cell = CHEMISTRIES[name]
    per_ah = 1e-3 / rated_ah * rng.lognormal(0.0, 0.10)
    return {
        "capacity_scale": 1.0 + rng.normal(0.008, 0.010),
        "ocv_shift_v": rng.normal(0.0, 0.4 * cell.ocv_sigma_v),
        "ocv_scale": 1.0 + rng.normal(0.0, 0.012),
        "ocv_stretch": rng.normal(0.0, 0.025),
        "r0_ohm": cell.r0_mohm_ah * per_ah * rng.lognormal(0.0, 0.06),
        "r1_ohm": cell.r1_mohm_ah * per_ah * rng.lognormal(0.0, 0.15),
        "tau1_s": np.clip(cell.tau1_s * rng.lognormal(0.0, 0.25), 5.0, 20.0),
        "r2_ohm": cell.r2_mohm_ah * per_ah * rng.lognormal(0.0, 0.15),
        "tau2_s": np.clip(cell.tau2_s * rng.lognormal(0.0, 0.25), 100.0, 600.0),
        "activation_k": cell.activation_j_mol / 8.314 * rng.lognormal(0.0, 0.06),
        "hysteresis_v": cell.hysteresis_v * rng.lognormal(0.0, 0.2),
        "soc_spread": rng.uniform(0.004, 0.011),
        "r_spread": rng.uniform(0.03, 0.08),
        "cell_noise_v": rng.uniform(0.002, 0.004),
        "probe_spread_c": rng.uniform(1.0, 3.2),
        "heat_ua_scale": rng.lognormal(0.0, 0.12),
    }


GENERATION = {"NMC": (0.9, 2.2), "LFP": (0.9, 1.5), "NCA": (0.8, 1.3)}
"""Cells of one chemistry differ by generation: the spread of the published ageing models (DOMAIN.md 3a)."""
RANDOM_EFFECT_SIGMA = 0.15


def _draw_ageing(rng: np.random.Generator, name: str) -> dict[str, Any]:
    generation = rng.uniform(*GENERATION[name])
    return {
        "cal_rate": generation * rng.lognormal(0.0, RANDOM_EFFECT_SIGMA),
        "cyc_rate": generation * rng.lognormal(0.0, RANDOM_EFFECT_SIGMA),
        "r_growth": 1.5 * rng.lognormal(0.0, 0.15),
        "knee_loss": rng.lognormal(np.log(0.24), 0.15),
    }


CHARGE_TO_SHARE = {"NMC": (0.35, 0.4, 0.25), "LFP": (0.1, 0.2, 0.7), "NCA": (0.4, 0.4, 0.2)}
"""How many charge to 80, 90 and 100 %; LFP makers ask for full charges, the BMS has no other way to know its charge."""


def _draw_use(rng: np.random.Generator, name: str) -> dict[str, Any]:
    charge_to = float(rng.choice([0.8, 0.9, 1.0], p=CHARGE_TO_SHARE[name]))
    return {
        "climate": rng.choice(len(CLIMATES), p=CLIMATE_SHARE),
        "weather_phase": rng.uniform(0.0, 2 * np.pi, 3),
        "consumption": rng.uniform(0.9, 1.2),
        "trips_per_day": rng.uniform(3.0, 7.0),
        "trip_s": rng.uniform(1200.0, 2400.0),
        "road": rng.dirichlet([2.5, 2.5, 2.0]),
        "charge_to": charge_to,
        "plug_below": charge_to - rng.uniform(0.33, 0.55),
        "dc_share": rng.beta(1.2, 2.5),
        "dc_power_w": rng.choice([50e3, 100e3, 150e3]),
        "ac_power_w": rng.choice([7.0e3, 10.5e3], p=[0.4, 0.6]),
    }


def _draw_bms(rng: np.random.Generator) -> dict[str, Any]:
    return {
        "insulation_ohm": rng.uniform(2.5e6, 9e6),
        "current_offset_a": rng.normal(0.0, 0.15),
        "current_gain": 1.0 + rng.normal(0.0, 0.003),
        "soh_bias": rng.normal(0.0, 0.015),
        "soc_resolution": rng.choice([0.1, 1.0]),
    }
