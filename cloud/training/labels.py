"""What each model is to learn, read from a visit's truth and labels for rows at (step, pack)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from cloud.training.dataset import Dataset, Pack, Visit
from cloud.training.errors import TrainError

F64 = NDArray[np.float64]
Ints = NDArray[np.int64]

TEMPERATURE_HORIZON_S = 600
FAULT_KINDS = ("internal_short", "cooling_loss", "insulation_drop")
FAILURE_HORIZON_MS = 7 * 86_400_000
RUL_HORIZON_DAYS = 20 * 365.25
"""The simulator looks no further ahead; a pack that lives longer is right-censored there."""


class VisitTruth:
    """One visit of a dataset: its time axis, and truth by (step, pack)."""

    def __init__(self, dataset: Dataset, visit: int) -> None:
        self.dataset, self.number = dataset, visit
        self.packs: list[Pack] = dataset.packs
        self.labels: list[Visit] = [pack.visits[visit] for pack in self.packs]

    @cached_property
    def ts_ms(self) -> Ints:
        return self.dataset.column(self.number, "ts_ms").astype(np.int64)

    @cached_property
    def soh_pct(self) -> F64:
        return self.dataset.column(self.number, "truth_soh_pct").astype(np.float64)

    @cached_property
    def temp_max_c(self) -> F64:
        """As the BMS shows it, NaN where it does not: the gateway compares with this, not with the truth."""
        return self.dataset.column(self.number, "cell_temp_max_c").astype(np.float64)

    def of_visit(self, name: str) -> F64:
        """A field of the visit's labels for each pack, NaN for null."""
        values = [getattr(label, name) for label in self.labels]
        return np.array([np.nan if v is None else float(v) for v in values])

    def of_pack(self, name: str) -> F64:
        return np.array([float(getattr(pack, name)) for pack in self.packs])


Labelled = tuple[F64, Mapping[str, F64]]
Label = Callable[[VisitTruth, Ints, Ints], Labelled]
"""(visit, steps, packs' positions) -> target, extras; a row whose target is NaN is left out."""


def soh(visit: VisitTruth, step: Ints, pack: Ints) -> Labelled:
    """Hidden capacity over rated capacity, percent."""
    extra = {
        "age_days": visit.of_visit("age_days")[pack],
        "efc": visit.of_visit("efc")[pack],
    }
    return visit.soh_pct[step, pack], extra


def temperature(visit: VisitTruth, step: Ints, pack: Ints) -> Labelled:
    """Highest cell temperature as the BMS shows it 600 s later, °C."""
    ahead = _steps_ahead(visit.ts_ms)
    later = np.minimum(step + ahead, len(visit.ts_ms) - 1)
    in_time = visit.ts_ms[later] - visit.ts_ms[step] == TEMPERATURE_HORIZON_S * 1000
    target = np.where(in_time, visit.temp_max_c[later, pack], np.nan)
    return target, {"now": visit.temp_max_c[step, pack]}


def _steps_ahead(ts_ms: Ints) -> int:
    step_ms = int(ts_ms[1] - ts_ms[0]) if len(ts_ms) > 1 else 1000
    ahead, rest = divmod(TEMPERATURE_HORIZON_S * 1000, step_ms)
    if rest:
        raise TrainError(
            f"step_s = {step_ms / 1000:g} does not fit: {TEMPERATURE_HORIZON_S} s must be a whole number of "
            "steps; take 5, 10, 20 or 30"
        )
    return ahead


def rul(visit: VisitTruth, step: Ints, pack: Ints) -> Labelled:
    """Equivalent full cycles until 80 % capacity; for a right-censored pack what it certainly still does.

    A censored pack outlives the horizon; at the pace it kept so far it makes `pace * horizon` cycles till then.
    """
    age, efc = visit.of_visit("age_days"), visit.of_visit("efc")
    censored = visit.of_visit("rul_censored") > 0
    bound = efc / np.maximum(age, 1.0) * RUL_HORIZON_DAYS
    left = np.where(censored, bound, visit.of_visit("rul_efc"))
    extra = {
        "censored": censored.astype(float),
        "soh": visit.of_visit("soh_pct"),
        "efc": efc,
        "age_days": age,
    }
    return left[pack], {name: values[pack] for name, values in extra.items()}


def failure(visit: VisitTruth, step: Ints, pack: Ints) -> Labelled:
    """1 where a fault becomes critical within the next 7 days; no row once it is critical."""
    critical = np.array([_first_critical_ms(label) for label in visit.labels])[pack]
    left_ms = critical - visit.ts_ms[step]
    target = np.where(left_ms <= 0, np.nan, (left_ms <= FAILURE_HORIZON_MS).astype(float))
    faulty = np.array([float(bool(label.faults)) for label in visit.labels])
    kind = np.array([_kind(label) for label in visit.labels])
    return target, {"faulty": faulty[pack], "kind": kind[pack], "left_days": left_ms / 86_400_000.0}


def _kind(label: Visit) -> float:
    """Position in FAULT_KINDS of the visit's first fault, -1 without one."""
    return float(FAULT_KINDS.index(label.faults[0].kind)) if label.faults else -1.0


def _first_critical_ms(label: Visit) -> float:
    times = [fault.critical_ms for fault in label.faults if fault.critical_ms is not None]
    return float(min(times, default=np.inf))


LABELS: dict[str, Label] = {"soh": soh, "temperature": temperature, "rul": rul, "failure": failure}
