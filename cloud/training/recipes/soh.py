"""State of health from a finished charge session."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from sklearn.linear_model import LinearRegression

from cloud.training.recipes.base import F64, Answers, Bar, Fitted, Recipe, Size
from cloud.training.rows import Rows, join
from cloud.training.scores import Score, mae, p95_of_pack_mae, rmse, score, skill
from cloud.training.trees import EdgeModel, Value, trainable


class Soh(Recipe):
    """Hidden capacity over rated capacity, from a charge session over at least 30 % of charge."""

    name = "soh"
    unit = "pct"
    target = "actual capacity / rated capacity at reference temperature, percent (soh_basis: capacity)"
    horizon = "now, at the end of a charge session"
    most_rows = 60_000
    size = Size(trees=90, depth=4, rate=0.08)
    bars: ClassVar[tuple[Bar, ...]] = (
        Bar("mae", "<=", 1.5, "pct"),
        Bar("p95_of_pack_mae", "<=", 4.0, "pct"),
        Bar("gain_over_age_throughput", ">=", 25.0, "percent less MAE"),
    )
    weak = "A pack with a capacity or sensor error outside what was simulated is answered as the nearest simulated one."

    def fit(self, train: Rows, calibrate: Rows, seed: int) -> Fitted:
        train = join([train, calibrate])  # there is nothing to calibrate
        weight = equal_packs(train)
        booster = self.size.regressor(seed).fit(trainable(train.features), train.target, sample_weight=weight)
        return Fitted(EdgeModel.of([booster], Value()), {"learnt_from_calibration_packs": True})

    def baselines(self, train: Rows, rows: Rows) -> Answers:
        line = LinearRegression().fit(_use(train), train.target, sample_weight=equal_packs(train))
        mean = np.full(len(rows), np.average(train.target, weights=equal_packs(train)))
        return {"age_throughput": line.predict(_use(rows)), "mean": mean}

    def scores(self, rows: Rows, answers: Answers, baselines: Answers) -> dict[str, Score]:
        truth, ours, use = rows.target, answers["value"], baselines["age_throughput"]
        error, error_use = mae(truth, ours), mae(truth, use)
        p95 = p95_of_pack_mae(truth, ours, rows.pack)
        return {
            "mae": score(error, rows.pack),
            "rmse": score(rmse(truth, ours), rows.pack),
            "p95_of_pack_mae": Score(p95, np.nan, np.nan, len(rows), len(np.unique(rows.pack))),
            "r2": score(lambda i: r2(truth[i], ours[i]), rows.pack),
            "baseline_age_throughput_mae": score(error_use, rows.pack),
            "baseline_mean_mae": score(mae(truth, baselines["mean"]), rows.pack),
            "gain_over_age_throughput": score(lambda i: 100 * (1 - error(i) / error_use(i)), rows.pack),
            "skill_over_mean": score(skill(truth, ours, baselines["mean"]), rows.pack),
        }


def equal_packs(rows: Rows) -> F64:
    """Weights that let every pack count alike, however often it charges; mean 1."""
    _, inverse, counts = np.unique(rows.pack, return_inverse=True, return_counts=True)
    weight = 1.0 / counts[inverse]
    return np.asarray(weight / weight.mean(), np.float64)


def r2(truth: F64, predicted: F64) -> float:
    """Share of variance explained."""
    spread = float(((truth - truth.mean()) ** 2).sum())
    return 1.0 - float(((predicted - truth) ** 2).sum()) / spread if spread > 0 else np.nan


def _use(rows: Rows) -> F64:
    """Age and throughput, each also as a square root: ageing slows down."""
    age, efc = rows.extra["age_days"], rows.extra["efc"]
    return np.stack([age, np.sqrt(age), efc, np.sqrt(efc)], axis=1)
