"""Remaining life in equivalent full cycles to 80 % capacity, with an 80 % interval, from right-censored lives.

A pack that outlives the horizon is not dropped (that would teach that all packs die early) and its bound is not
taken for its life. Its life is drawn from the model's own distribution above the bound, the models are fitted again,
and so on (stochastic imputation for censored quantile regression; Wei and Tanner 1991). The interval is then widened
or narrowed on packs that were not learnt from (conformalised quantile regression; Romano, Patterson, Candès 2019),
each side by itself. Tried and rejected: the quantile regression on min(life, bound) alone, unbiased only where every
bound is the same number of cycles, and here it depends on the pack's pace.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from cloud.training.recipes.base import F64, Answers, Bar, Fitted, Recipe, Size
from cloud.training.recipes.soh import equal_packs
from cloud.training.rows import Rows
from cloud.training.scores import Score, ape, mae, score, share
from cloud.training.trees import Booster, EdgeModel, Interval, trainable

CAP_EFC = 6000.0
QUANTILES = (0.1, 0.5, 0.9)
ROUNDS = 2
Z_80 = 2.5631
"""Width of the 80 % interval of a normal distribution in sigmas."""
NEAR_EFC = 1000.0
"""Life up to here is known of nearly every pack, censored or not: the figure that censoring does not bend."""
FEW_EFC = 100.0
"""Relative errors are taken where at least so many cycles are left."""


class Rul(Recipe):
    """Median and 80 % interval of the equivalent full cycles left."""

    name = "rul"
    unit = "efc"
    target = (
        "equivalent full cycles until the capacity is 80 % of the rated one; beyond 20 years right-censored"
    )
    horizon = "until 80 % capacity"
    cadence_s = 43_200.0
    most_rows = 60_000
    size = Size(trees=45, depth=3, rate=0.12)
    bars: ClassVar[tuple[Bar, ...]] = (
        Bar("mape", "<=", 20.0, "percent"),
        Bar("coverage", ">=", 75.0, "percent"),
        Bar("coverage", "<=", 85.0, "percent"),
        Bar("gain_over_extrapolation", ">=", 0.0, "percent less MAPE"),
    )
    weak = (
        "Each pack ages at a rate of its own that hardly shows before the loss does, and half of the lives are "
        "censored: read the interval, not the median. mape is over packs whose end is known, which are the short "
        "lives: it counts the long ones that the model must expect against it; mae_within_1000 is over all packs."
    )

    def fit(self, train: Rows, calibrate: Rows, seed: int) -> Fitted:
        rng = np.random.default_rng(seed)
        known, censored = logarithm(train.target), train.extra["censored"] > 0
        labels = known.copy()
        boosters = self._quantiles(train, labels, seed)
        for _ in range(ROUNDS if censored.any() else 0):
            labels[censored] = _imputed(boosters, train.take(censored), known[censored], rng)
            boosters = self._quantiles(train, labels, seed)
        model = EdgeModel.of(boosters, Interval(CAP_EFC))
        shift = _widening(model, calibrate)
        return Fitted(model.corrected((1.0, 1.0, 1.0), (-shift[0], 0.0, shift[1])), {
            "censored_share_train": round(float(censored.mean()), 3),
            "interval_shift_log": [round(s, 4) for s in shift],
        })  # fmt: skip

    def _quantiles(self, rows: Rows, labels: F64, seed: int) -> list[Booster]:
        weight = equal_packs(rows)
        made = [self.size.regressor(seed, loss="quantile", quantile=q) for q in QUANTILES]
        features = trainable(rows.features)
        return [booster.fit(features, labels, sample_weight=weight) for booster in made]

    def baselines(self, train: Rows, rows: Rows) -> Answers:
        """A straight line from new (100 %) through today's true SoH to 80 %; and the mean life seen in training.

        The line gets the true SoH, which no gateway has: a generous baseline.
        """
        soh, efc = rows.extra["soh"], rows.extra["efc"]
        line = efc * np.maximum(soh - 80.0, 0.0) / np.maximum(100.0 - soh, 0.5)
        ends = train.extra["censored"] == 0
        life = float(np.mean((train.target + train.extra["efc"])[ends])) if ends.any() else np.nan
        left = np.clip(life - efc, 0.0, CAP_EFC)
        return {"extrapolation": np.clip(line, 0.0, CAP_EFC), "mean_life": left}

    def scores(self, rows: Rows, answers: Answers, baselines: Answers) -> dict[str, Score]:
        ends = rows.extra["censored"] == 0
        found = _life_scores(rows, answers, baselines, ends & (rows.target >= FEW_EFC))
        inside = (answers["low"] <= rows.target) & (rows.target <= answers["high"])
        possible = np.where(ends, inside, answers["high"] >= rows.target)
        width = (answers["high"] - answers["low"]) / np.maximum(answers["value"], 1.0)
        found["coverage"] = score(share(inside[ends]), rows.pack[ends])
        found["coverage_with_censored"] = score(share(possible), rows.pack)
        known = ends | (rows.target >= NEAR_EFC)
        near = {"mae_within_1000": answers["value"]} | {
            f"baseline_{name}_mae_within_1000": values for name, values in baselines.items()
        }
        truth = np.minimum(rows.target[known], NEAR_EFC)
        for name, values in near.items():
            found[name] = score(mae(truth, np.minimum(values[known], NEAR_EFC)), rows.pack[known])
        found["relative_width"] = score(lambda i: float(np.median(width[i])), rows.pack)
        return found


def _life_scores(
    rows: Rows, answers: Answers, baselines: Answers, ends: NDArray[np.bool_]
) -> dict[str, Score]:
    """Errors of the median where the end is known and not near."""
    truth, ours, packs = rows.target[ends], answers["value"][ends], rows.pack[ends]
    line, life = baselines["extrapolation"][ends], baselines["mean_life"][ends]
    error, error_line = ape(truth, ours), ape(truth, line)
    return {
        "mape": score(error, packs),
        "mae": score(mae(truth, ours), packs),
        "baseline_extrapolation_mape": score(error_line, packs),
        "baseline_extrapolation_mae": score(mae(truth, line), packs),
        "baseline_mean_life_mape": score(ape(truth, life), packs),
        "gain_over_extrapolation": score(lambda i: 100.0 * (1.0 - error(i) / error_line(i)), packs),
    }


def logarithm(efc: F64) -> F64:
    """ln(1 + efc), what the ensembles learn: errors in life are relative."""
    return np.asarray(np.log1p(np.clip(efc, 0.0, CAP_EFC)))


def _imputed(boosters: list[Booster], rows: Rows, bound: F64, rng: np.random.Generator) -> F64:
    """Log lives of censored rows, one draw per pack from the predicted normal distribution above its bound."""
    low, median, high = (np.asarray(b.predict(rows.features)) for b in boosters)
    sigma = np.maximum((high - low) / Z_80, 0.1)
    _, pack = np.unique(rows.pack, return_inverse=True)
    luck = rng.random(int(pack.max()) + 1)[pack]  # one pack has one life, whatever the number of its rows
    below = ndtr((bound - median) / sigma)
    drawn = median + sigma * ndtri(np.clip(below + luck * (1.0 - below), 1e-6, 1.0 - 1e-6))
    return np.asarray(np.clip(drawn, bound, np.log1p(CAP_EFC)))


def _widening(model: EdgeModel, rows: Rows) -> tuple[float, float]:
    """How much lower the low and higher the high output must be, so that 10 % of calibration rows lie outside each."""
    if not len(rows):
        return 0.0, 0.0
    raw, life = model.raw(rows.features), logarithm(rows.target)
    ends = rows.extra["censored"] == 0
    too_low = raw[:, 0] - life
    beyond = life - raw[:, 2]
    # A censored life is above its bound: it certainly does not miss the low side; it may miss the high side by more
    # than is seen, which is counted as what is seen.
    too_low = np.where(ends, too_low, np.minimum(too_low, 0.0))
    weight = equal_packs(rows)
    return _quantile(too_low, weight, 0.9), _quantile(beyond, weight, 0.9)


def _quantile(values: F64, weight: F64, share_below: float) -> float:
    order = np.argsort(values, kind="stable")
    total = np.cumsum(weight[order]) / weight.sum()
    return float(values[order][min(int(np.searchsorted(total, share_below)), len(values) - 1)])
