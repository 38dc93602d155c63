"""The same estimators on data that others measured: three vehicles' months, XJTU cells, Severson's cells.

These are checks of the method, not of the released models' figures: those were learnt from the simulator. The files are
read where they are (`VOLTFLOW_SHARED_DATA`, default `../shared/data` beside the repository) and never copied.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.dummy import DummyRegressor
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cloud.training.field_month import field_rows
from cloud.training.recipes import Soh, Temperature
from cloud.training.rows import Rows, join
from cloud.training.scores import Score, ape, mae, score
from cloud.training.trees import EdgeModel
from voltflow.battery import features as battery_features

F64 = NDArray[np.float64]
VARIABLE = "VOLTFLOW_SHARED_DATA"
FOLDS = 5
TRAIN_SHARE = 0.7


@dataclass(frozen=True)
class Check:
    """What a check found: how it was done, its figures, what they are held against."""

    name: str
    model: str
    method: str
    scores: Mapping[str, Score]
    bar: str
    passed: bool

    def as_dict(self) -> dict[str, Any]:
        found = {name: item.as_dict() for name, item in self.scores.items()}
        return {"method": self.method, "scores": found, "bar": self.bar, "passed": self.passed}


def data_folder() -> Path | None:
    """Where the real data are, or None."""
    beside = Path(__file__).resolve().parents[2].parent / "shared" / "data"
    folder = Path(os.environ.get(VARIABLE) or beside)
    return folder if folder.is_dir() else None


def missing_reason() -> str:
    """Why the checks cannot run, for a person."""
    return f"the real data are not there: set {VARIABLE} to the folder with field_month, xjtu and severson"


def temperature_field_month(folder: Path, seed: int, released: EdgeModel | None = None) -> Check:
    """Each vehicle's first 70 % of time to learn from, the last 30 % to score; by the temperature recipe."""
    train, test = _chronological(folder)
    recipe = Temperature(battery_features.names("temperature"))
    nobody = train.take(np.zeros(len(train), bool))
    model = recipe.fit(train, nobody, seed).model
    scores = recipe.scores(test, model.predict(test.features), recipe.baselines(train, test))
    if released is not None:
        ours = recipe.scores(test, released.predict(test.features), recipe.baselines(train, test))
        for name in ("skill_over_persistence", "event_mae_ratio"):
            scores[f"released_model_{name}"] = ours[name]
    passed = scores["skill_over_persistence"].value >= 0.2 and scores["event_mae_ratio"].value <= 0.5
    method = (
        "raw field months of 3 vehicles through the same twin and features; the recipe fitted anew on the first 70 % "
        "of each vehicle's time, scored on the last 30 %; interval by vehicle-day; released_model_* is the model "
        "learnt from the simulator, as it is"
    )
    bar = "RMSE skill >= 0.20 over persistence, event MAE <= 0.5 x persistence"
    return Check("field_month", "temperature", method, scores, bar, passed)


def _chronological(folder: Path) -> tuple[Rows, Rows]:
    """Rows of all vehicles before and after each one's cut; a row whose target lies after the cut is in neither."""
    before, after = [], []
    for path in sorted((folder / "field_month").glob("V*.csv")):
        rows = field_rows(path)
        cut = rows.ts_ms[0] + int(TRAIN_SHARE * (rows.ts_ms[-1] - rows.ts_ms[0]))
        before.append(rows.take(rows.ts_ms + 700_000 < cut))
        after.append(rows.take(rows.ts_ms >= cut))
    return join(before), join(after)


def soh_xjtu(folder: Path, seed: int) -> Check:
    """SoH from charge features of 18650 cells, folds by cell; by the soh recipe's trees, Ridge beside it."""
    table = read_table(folder / "xjtu" / "charge_features.csv")
    names = [n for n in table if n not in ("protocol", "cell_id", "cycle", "capacity_Ah", "soh_pct")]
    features = np.stack([_numbers(table[n]) for n in names], axis=1)
    target, cell = _numbers(table["soh_pct"]), table["cell_id"]
    size = Soh.size
    ours = _by_group(features, target, cell, lambda: size.regressor(seed))
    ridge = _by_group(
        features, target, cell, lambda: make_pipeline(SimpleImputer(), StandardScaler(), Ridge())
    )
    mean = _by_group(features, target, cell, DummyRegressor)
    scores = {
        "mae": score(mae(target, ours), cell),
        "baseline_ridge_mae": score(mae(target, ridge), cell),
        "baseline_mean_mae": score(mae(target, mean), cell),
    }
    method = f"{FOLDS} folds by cell, {len(np.unique(cell))} cells, 16 charge features, no cycle number"
    return Check("xjtu", "soh", method, scores, "MAE <= 1.3 pp", scores["mae"].value <= 1.3)


def _by_group(features: F64, target: F64, group: NDArray[Any], make: Callable[[], Any]) -> F64:
    """Out-of-fold predictions; no group on both sides."""
    predicted = np.full(len(target), np.nan)
    for train, test in GroupKFold(FOLDS).split(features, target, group):
        predicted[test] = make().fit(features[train], target[train]).predict(features[test])
    return predicted


def life_severson(folder: Path) -> Check:
    """Severson's variance model: cycle life from one early feature, on the paper's own split."""
    table = read_table(folder / "severson" / "early_cycle_features.csv")
    x, life = table["dQ100_10_log10_var"].astype(np.float64), table["cycle_life"].astype(np.float64)
    train, test = table["split"] == "train", table["split"] == "test1"
    line = LinearRegression().fit(x[train, None], np.log10(life[train]))
    ours, cells = 10.0 ** line.predict(x[test, None]), table["cell_id"][test]
    mean = np.full(int(test.sum()), life[train].mean())
    scores = {
        "mape": score(ape(life[test], ours), cells),
        "baseline_mean_life_mape": score(ape(life[test], mean), cells),
    }
    method = (
        f"log life on log variance of dQ(100-10), {int(train.sum())} cells -> {int(test.sum())} cells (test1)"
    )
    passed = scores["mape"].value < scores["baseline_mean_life_mape"].value
    bar = "below the mean life; published 14.7 %. Another input than rul has: a check of the method only"
    return Check("severson", "rul", method, scores, bar, passed)


def read_table(path: Path) -> dict[str, NDArray[np.str_]]:
    """A CSV file's columns as text."""
    with path.open(newline="") as file:
        header, *lines = csv.reader(file)
    return {name: np.array(column) for name, column in zip(header, zip(*lines, strict=True), strict=True)}


def _numbers(texts: NDArray[np.str_]) -> F64:
    return np.array([float(text) if text else np.nan for text in texts])


def all_checks(folder: Path, seed: int, released: Mapping[str, EdgeModel]) -> list[Check]:
    """Every check whose data are there."""
    found = []
    if (folder / "field_month").is_dir():
        found.append(temperature_field_month(folder, seed, released.get("temperature")))
    if (folder / "xjtu").is_dir():
        found.append(soh_xjtu(folder, seed))
    if (folder / "severson").is_dir():
        found.append(life_severson(folder))
    return found
