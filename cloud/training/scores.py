"""Scores with their uncertainty: every figure has a 95 % bootstrap interval over packs, not over rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score

F64 = NDArray[np.float64]
Metric = Callable[[NDArray[np.intp]], float]
"""A metric of the rows at these positions."""
BOOTSTRAPS = 200


@dataclass(frozen=True)
class Score:
    """A figure with its 95 % interval over resampled packs; `n` rows of `packs` packs."""

    value: float
    low: float
    high: float
    n: int
    packs: int

    def as_dict(self) -> dict[str, float | int | list[float] | None]:
        """For a card: rounded to 4 significant digits, null where it could not be computed."""
        return {
            "value": rounded(self.value),
            "ci95": [v for v in (rounded(self.low), rounded(self.high)) if v is not None],
            "rows": self.n,
            "packs": self.packs,
        }


def rounded(value: float) -> float | None:
    """Four significant digits, None for NaN: JSON has none.

    >>> rounded(1.23456), rounded(float("nan"))
    (1.235, None)
    """
    return float(f"{value:.4g}") if np.isfinite(value) else None


def score(metric: Metric, packs: NDArray[np.str_], seed: int = 0) -> Score:
    """A metric of all rows, and its 2.5 and 97.5 percentile when whole packs are drawn with replacement.

    >>> x = np.array([1.0, 3.0])
    >>> s = score(lambda rows: float(x[rows].mean()), np.array(["a", "b"]))
    >>> s.value, s.packs
    (2.0, 2)
    """
    rows_of = rows_by_pack(packs)
    rng = np.random.default_rng(seed)
    draws = []
    for _ in range(BOOTSTRAPS if len(rows_of) > 1 else 0):
        chosen = rng.integers(0, len(rows_of), len(rows_of))
        draws.append(metric(np.concatenate([rows_of[i] for i in chosen])))
    usable = np.array([d for d in draws if np.isfinite(d)])
    low, high = np.quantile(usable, [0.025, 0.975]) if len(usable) else (np.nan, np.nan)
    value = metric(np.arange(len(packs))) if len(packs) else np.nan
    return Score(value, float(low), float(high), len(packs), len(rows_of))


def rows_by_pack(packs: NDArray[np.str_]) -> list[NDArray[np.intp]]:
    """Row positions of each pack, in order of pack id."""
    order = np.argsort(packs, kind="stable")
    _, starts = np.unique(packs[order], return_index=True)
    return [part for part in np.split(order, starts[1:]) if len(part)]


def mae(truth: F64, predicted: F64) -> Metric:
    """Mean absolute error, in the unit of the target."""
    error = np.abs(predicted - truth)
    return lambda rows: _mean(error[rows])


def rmse(truth: F64, predicted: F64) -> Metric:
    """Root mean squared error, in the unit of the target."""
    square = (predicted - truth) ** 2
    return lambda rows: float(np.sqrt(_mean(square[rows])))


def skill(truth: F64, predicted: F64, baseline: F64) -> Metric:
    """1 - RMSE / RMSE of the baseline: 0 is no better than the baseline, 1 is perfect."""
    ours, theirs = rmse(truth, predicted), rmse(truth, baseline)
    return lambda rows: 1.0 - ours(rows) / theirs(rows) if theirs(rows) > 0 else np.nan


def ape(truth: F64, predicted: F64) -> Metric:
    """Mean absolute error relative to the truth, percent; for truths above zero."""
    error = 100.0 * np.abs(predicted - truth) / truth
    return lambda rows: _mean(error[rows])


def share(hits: NDArray[np.bool_]) -> Metric:
    """Share of rows that hit, percent."""
    return lambda rows: 100.0 * _mean(hits[rows].astype(np.float64))


def p95_of_pack_mae(truth: F64, predicted: F64, packs: NDArray[np.str_]) -> float:
    """The 95th percentile over packs of each pack's mean absolute error."""
    error = np.abs(predicted - truth)
    per_pack = [error[rows].mean() for rows in rows_by_pack(packs)]
    return float(np.quantile(per_pack, 0.95)) if per_pack else np.nan


def auroc(truth: NDArray[np.bool_], predicted: F64) -> Metric:
    """Area under the ROC curve; NaN where only one class is drawn."""
    return lambda rows: float(roc_auc_score(truth[rows], predicted[rows])) if _both(truth[rows]) else np.nan


def pr_auc(truth: NDArray[np.bool_], predicted: F64, weight: F64) -> Metric:
    """Average precision, rows weighted to the stated prevalence."""
    return lambda rows: (
        float(average_precision_score(truth[rows], predicted[rows], sample_weight=weight[rows]))
        if _both(truth[rows])
        else np.nan
    )


def brier(truth: NDArray[np.bool_], probability: F64, weight: F64) -> Metric:
    """Weighted mean squared error of a probability (0–1)."""
    square = (probability - truth) ** 2
    return lambda rows: float(np.average(square[rows], weights=weight[rows]))


def ece(truth: NDArray[np.bool_], probability: F64, weight: F64, bins: int = 10) -> Metric:
    """Expected calibration error: weighted mean of |observed share - mean probability| over quantile bins."""

    def metric(rows: NDArray[np.intp]) -> float:
        order = rows[np.argsort(probability[rows], kind="stable")]
        parts = [p for p in np.array_split(order, bins) if len(p)]
        gaps = [abs(np.average(truth[p] - probability[p], weights=weight[p])) for p in parts]
        return float(np.average(gaps, weights=[weight[p].sum() for p in parts]))

    return metric


def flat(scores: Mapping[str, Score]) -> dict[str, float]:
    """Scores as numbers for MLflow: `name`, `name_low`, `name_high`, without what could not be computed."""
    found = {}
    for name, item in scores.items():
        parts = ((name, item.value), (f"{name}_low", item.low), (f"{name}_high", item.high))
        found.update({key: float(value) for key, value in parts if np.isfinite(value)})
    return found


def _mean(values: F64) -> float:
    return float(values.mean()) if len(values) else np.nan


def _both(truth: NDArray[np.bool_]) -> bool:
    return bool(truth.any() and not truth.all())
