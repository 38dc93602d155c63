"""Training data: a simulated fleet looked at several times over its life, as files of arrays.

Every pack is visited `visits` times; between visits its ageing is fast-forwarded with the pack's own use. Files:
`visitVV_dayDD.npz` with arrays (time, pack), and `packs.json` with nameplates and labels. `datasets/README.md` is the
card that describes them.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim_device import ageing, faults
from sim_device.bms import NUMERIC, Bms
from sim_device.packs import Packs, draw_packs
from sim_device.plant import MAX_STEP_S, Plant, Truth, life_stress

Floats = NDArray[np.float64]

DAY_S = 86400.0
MONTH_D = 30.4375
START_S = datetime(2020, 1, 15, tzinfo=UTC).timestamp()
"""The day of the first visit; packs were built up to six years before."""
BETWEEN_VISITS_D = 500
"""Not a multiple of a year, so that every visit falls into another season."""
OLDEST_AT_START_D = 6.0 * 365.25
HORIZON_D = 20.0 * 365.25
END_OF_LIFE = 0.80
LANES = 600
"""How many packs times visits are simulated at once; bounds the memory."""
PREVALENCE = {"fleet": 0.004, "faults": 0.5}
TRUTH = ("truth_soc_pct", "truth_soh_pct", "truth_cell_temp_max_c")


@dataclass(frozen=True)
class Plan:
    """What to make."""

    packs: int
    visits: int = 6
    days: int = 5
    step_s: float = 10.0
    seed: int = 1
    kind: str = "fleet"


Progress = Callable[[str], None]


def _silent(_: str) -> None:
    """No progress wanted."""


def write_dataset(plan: Plan, out: Path, progress: Progress = _silent) -> list[Path]:
    """Make the files of a plan in the folder `out` (created if needed); returns their paths."""
    out.mkdir(parents=True, exist_ok=True)
    packs = draw_packs(plan.packs, plan.seed)
    life = _live(packs, plan)
    defects = [_defects(plan, visit) for visit in range(plan.visits)]
    target = out / "packs.json"
    target.write_text(json.dumps(_labels(packs, plan, life, defects), indent=1) + "\n")
    written = [target]
    per_turn = max(1, LANES // max(plan.packs, 1))
    for first in range(0, plan.visits, per_turn):
        visits = range(first, min(first + per_turn, plan.visits))
        written += _simulate(packs, plan, visits, life, defects, out, progress)
    return written


def visit_start_s(visit: int) -> float:
    """When a visit begins (seconds since 1970), the same for every pack."""
    return START_S + visit * BETWEEN_VISITS_D * DAY_S


# -- life between the visits ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Life:
    """Per visit: health and this year's activity; and what is left until 80 % (NaN beyond the horizon)."""

    health: list[ageing.Health]
    activity: list[Floats]
    rul_days: list[Floats]
    rul_efc: list[Floats]


def _live(packs: Packs, plan: Plan) -> Life:
    """Fast-forward every pack in steps of a month from its first day to each visit, and on to the end of its life."""
    rng = np.random.default_rng([plan.seed, 21])
    first_age_d = rng.uniform(30.0, OLDEST_AT_START_D, len(packs))
    years = int((OLDEST_AT_START_D + plan.visits * BETWEEN_VISITS_D + HORIZON_D) / 365.25) + 2
    activity = _activity(rng, len(packs), years)
    law, health, now_s = ageing.Ageing(packs), ageing.new_health(len(packs)), START_S
    # Up to the first visit the packs differ in age: each lives its own months, scaled to end at START_S.
    months = int(np.ceil(OLDEST_AT_START_D / MONTH_D))
    for month in range(months):
        t_s = START_S - float(np.mean(first_age_d)) * DAY_S * (1.0 - month / months)
        health = _month(law, packs, health, first_age_d / months, t_s, activity[0])
    found = Life([], [], [], [])
    for visit in range(plan.visits):
        target_s = visit_start_s(visit)
        while now_s < target_s - 1.0:
            days = min(MONTH_D, (target_s - now_s) / DAY_S)
            health = _month(law, packs, health, days, now_s, activity[_year(now_s)])
            now_s += days * DAY_S
        found.health.append(health)
        found.activity.append(activity[_year(now_s)])
        left_d, left_efc = _left(law, packs, health, now_s, activity)
        found.rul_days.append(left_d)
        found.rul_efc.append(left_efc)
    return found


def _activity(rng: np.random.Generator, n: int, years: int) -> Floats:
    """How much a pack is used in each year, relative to its mean (years, n): habits drift, which nobody foresees."""
    level, rows = rng.normal(0.0, 0.12, n), []
    for _ in range(years):
        level = 0.8 * level + rng.normal(0.0, 0.07, n)
        rows.append(np.exp(level))
    return np.stack(rows)


def _year(t_s: float) -> int:
    return int((t_s - START_S) / (365.25 * DAY_S))


def _month(
    law: ageing.Ageing,
    packs: Packs,
    health: ageing.Health,
    days: float | Floats,
    t_s: float,
    activity: Floats,
) -> ageing.Health:
    return law.advance(health, days, life_stress(packs, t_s, activity))


def _left(
    law: ageing.Ageing, packs: Packs, health: ageing.Health, now_s: float, activity: Floats
) -> tuple[Floats, Floats]:
    """Days and full cycles until 80 % of the rated capacity; 0 when past it, NaN when beyond the horizon."""
    start, soh = health, _soh(packs, health)
    days = np.where(soh <= END_OF_LIFE, 0.0, np.nan)
    cycles = days.copy()
    for _ in range(int(HORIZON_D / MONTH_D)):
        after = _month(law, packs, health, MONTH_D, now_s, activity[_year(now_s)])
        soh_after = _soh(packs, after)
        ends = np.isnan(days) & (soh_after <= END_OF_LIFE)
        part = np.where(ends, (soh - END_OF_LIFE) / np.maximum(soh - soh_after, 1e-12), 0.0)
        days = np.where(ends, health.age_d - start.age_d + part * MONTH_D, days)
        cycles = np.where(ends, health.efc + part * (after.efc - health.efc) - start.efc, cycles)
        health, soh, now_s = after, soh_after, now_s + MONTH_D * DAY_S
    return days, cycles


def _soh(packs: Packs, health: ageing.Health) -> Floats:
    return packs.capacity_scale * (1.0 - health.loss)


def _defects(plan: Plan, visit: int) -> faults.Faults:
    rng = np.random.default_rng([plan.seed, 31, visit])
    start = np.full(plan.packs, visit_start_s(visit))
    return faults.draw_faults(plan.packs, rng, start, plan.days * DAY_S, PREVALENCE[plan.kind])


# -- labels ---------------------------------------------------------------------------------------------------------


def _labels(packs: Packs, plan: Plan, life: Life, defects: list[faults.Faults]) -> list[dict[str, Any]]:
    chemistry, climate = packs.chemistry_names(), packs.climate_names()
    return [
        {
            "id": packs.id[i],
            "chemistry": chemistry[i],
            "capacity_rated_ah": float(packs.capacity_rated_ah[i]),
            "cells_series": int(packs.cells_series[i]),
            "climate": climate[i],
            "visits": [_visit_labels(packs, life, defects[v], v, i) for v in range(plan.visits)],
        }
        for i in range(len(packs))
    ]


def _visit_labels(packs: Packs, life: Life, defects: faults.Faults, visit: int, i: int) -> dict[str, Any]:
    health, censored = life.health[visit], bool(np.isnan(life.rul_days[visit][i]))
    return {
        "visit": visit,
        "start_ms": int(visit_start_s(visit) * 1000),
        "age_days": round(float(health.age_d[i]), 1),
        "efc": round(float(health.efc[i]), 1),
        "soh_pct": round(100.0 * float(_soh(packs, health)[i]), 3),
        "rul_days": None if censored else round(float(life.rul_days[visit][i]), 1),
        "rul_efc": None if censored else round(float(life.rul_efc[visit][i]), 1),
        "rul_censored": censored,
        "faults": _fault_labels(defects, i),
    }


def _fault_labels(defects: faults.Faults, i: int) -> list[dict[str, Any]]:
    """Critical is a fault that reaches full severity; a mild one has no critical time."""
    kind = int(defects.kind[i])
    if kind == faults.NONE:
        return []
    full = defects.severity[i] >= 1.0
    return [
        {
            "kind": faults.KINDS[kind],
            "onset_ms": int(defects.onset_s[i] * 1000),
            "severity": round(float(defects.severity[i]), 3),
            "critical_ms": int(defects.critical_s[i] * 1000) if full else None,
        }
    ]


# -- the visits -----------------------------------------------------------------------------------------------------


def _simulate(
    packs: Packs,
    plan: Plan,
    visits: range,
    life: Life,
    defects: list[faults.Faults],
    out: Path,
    progress: Progress,
) -> Iterator[Path]:
    """Simulate several visits side by side (they don't depend on each other) and write a file per visit and day."""
    n = len(packs)
    lanes = packs.take(np.tile(np.arange(n), len(visits)))
    lanes.visit[:] = np.repeat(np.array(visits), n)
    plant = Plant(
        lanes,
        np.repeat([visit_start_s(v) for v in visits], n),
        health=_join_health([life.health[v] for v in visits]),
        defects=_join_faults([defects[v] for v in visits]),
        activity=np.concatenate([life.activity[v] for v in visits]),
    )
    bms = Bms(plant, plan.seed * 1000 + visits.start)
    for day in range(plan.days):
        table = _one_day(plant, bms, plan.step_s)
        for place, visit in enumerate(visits):
            path = out / f"visit{visit:02d}_day{day:02d}.npz"
            part = slice(place * n, (place + 1) * n)
            arrays = {name: values[:, part] for name, values in table.items()}
            start_s = visit_start_s(visit) + day * DAY_S
            steps = np.arange(1, len(table["charging"]) + 1)
            arrays["ts_ms"] = np.round((start_s + steps * plan.step_s) * 1000).astype(np.int64)
            save_npz(path, arrays)
            progress(f"visit {visit + 1}/{plan.visits} day {day + 1}/{plan.days} -> {path.name}")
            yield path


def _one_day(plant: Plant, bms: Bms, step_s: float) -> dict[str, NDArray[Any]]:
    """Arrays (time, lane) of one day; NaN (and `charging` -1) where no message was sent."""
    steps, lanes = round(DAY_S / step_s), len(plant.packs)
    table: dict[str, NDArray[Any]] = {
        name: np.empty((steps, lanes), np.float32) for name in (*NUMERIC, *TRUTH)
    }
    table["charging"] = np.empty((steps, lanes), np.int8)
    for row in range(steps):
        truth, values = _advance(plant, bms, step_s)
        for name, column in values.items():
            table[name][row] = np.where(bms.published, column, np.nan)
        table["charging"][row] = np.where(bms.published, bms.charging, -1)
        table["truth_soc_pct"][row] = truth.soc * 100.0
        table["truth_soh_pct"][row] = truth.soh * 100.0
        table["truth_cell_temp_max_c"][row] = truth.temp_max_c
    return table


def _advance(plant: Plant, bms: Bms, step_s: float) -> tuple[Truth, dict[str, Floats]]:
    """One message's step, cut into parts where it is too long for the physics."""
    parts = int(np.ceil(step_s / MAX_STEP_S))
    for _ in range(parts):
        truth = plant.step(step_s / parts)
    return truth, bms.read(truth, step_s)


def _join_health(parts: list[ageing.Health]) -> ageing.Health:
    names = ("age_d", "efc", "q_cal", "q_cyc")
    return ageing.Health(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def _join_faults(parts: list[faults.Faults]) -> faults.Faults:
    names = ("kind", "onset_s", "critical_s", "severity")
    return faults.Faults(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def save_npz(path: Path, arrays: dict[str, NDArray[Any]]) -> None:
    """What `numpy.savez_compressed` writes, at zlib's level 1: four times as fast, a fifth larger."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, values in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.ascontiguousarray(values), allow_pickle=False)
