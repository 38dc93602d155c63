"""Probability that a fault becomes critical within seven days, calibrated at a stated prevalence."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from cloud.training.errors import TrainError
from cloud.training.labels import FAULT_KINDS
from cloud.training.recipes.base import F64, Answers, Bar, Fitted, Recipe, Size
from cloud.training.rows import Rows
from cloud.training.scores import Metric, Score, auroc, brier, ece, pr_auc, rows_by_pack, score
from cloud.training.trees import EdgeModel, Percent, trainable

PREVALENCE = 0.004
"""Share of pack-visits with a fault to which probabilities and scores refer, as in the simulated fleet. Real fleets
have 0.0004 to 0.0008 faulty vehicles (DOMAIN 2a), too few to learn from or to measure with."""
WEEK_MS = 7 * 86_400_000
FALSE_ALERTS_PER_WEEK = 0.01
INSULATION = "insulation_log10"


class Failure(Recipe):
    """A critical fault in the next seven days, in percent."""

    name = "failure"
    unit = "pct"
    target = "a fault (internal short, loss of cooling, falling insulation) becomes critical within 7 days"
    horizon = "7 days"
    sources = ("faults",)
    cadence_s = 900.0
    most_rows = 500_000
    size = Size(trees=70, depth=3, rate=0.08, min_rows=200)
    bars: ClassVar[tuple[Bar, ...]] = (
        Bar("auroc_by_visit", ">=", 0.85, ""),
        Bar("auroc_by_visit", "<=", 0.98, "above it a leak is likely"),
        Bar("ece", "<=", 0.03, ""),
    )
    weak = (
        "It knows the three simulated faults and no other; there is no open set of real faults to check it with. "
        "A cooling loop that fails shows only in the few minutes of hard use, and is hardly found. "
        "Faults come in more than life does: the probability is right at the stated prevalence only."
    )

    def fit(self, train: Rows, calibrate: Rows, seed: int) -> Fitted:
        if not 0 < train.target.mean() < 1 or not 0 < calibrate.target.mean() < 1:
            raise TrainError(
                "failure: the training or the calibration packs hold no fault or nothing else; "
                "raise fault_packs or take another seed"
            )
        booster = self.size.classifier(seed).fit(trainable(train.features), train.target > 0)
        model = EdgeModel.of([booster], Percent())
        slope, offset = _platt(model.raw(calibrate.features)[:, 0], calibrate)
        model = model.corrected([slope], [offset])
        threshold = alert_threshold(model.predict(calibrate.features)["value"], calibrate)
        return Fitted(model, {
            "prevalence": PREVALENCE,
            "calibration": {"kind": "Platt, folded into the graph", "slope": slope, "offset": offset},
            "alert_threshold_pct": threshold,
        })  # fmt: skip

    def baselines(self, train: Rows, rows: Rows) -> Answers:
        """The mean rate; and how near insulation is to the 500 Ohm/V at which a BMS warns."""
        weight = at_prevalence(train)
        rate = float(np.average(train.target, weights=weight))
        ohm_per_v = rows.features[:, self.inputs.index(INSULATION)].astype(np.float64)
        return {"prevalence": np.full(len(rows), rate), "insulation": -np.nan_to_num(ohm_per_v, nan=9.0)}

    def scores(self, rows: Rows, answers: Answers, baselines: Answers) -> dict[str, Score]:
        truth, p, packs = rows.target > 0, answers["value"] / 100.0, rows.pack
        weight, insulation = at_prevalence(rows), baselines["insulation"]
        visits = highest_of_visit(rows, p)
        visits_ohm = highest_of_visit(rows, insulation)
        return {
            "auroc_by_visit": score(auroc(visits.truth, visits.highest), visits.pack),
            **_by_kind(visits),
            "auroc": score(auroc(truth, p), packs),
            "pr_auc": score(pr_auc(truth, p, weight), packs),
            "brier": score(brier(truth, p, weight), packs),
            "ece": score(ece(truth, p, weight), packs),
            "predicted_over_observed": score(_ratio_of_means(truth, p, weight), packs),
            "baseline_insulation_auroc_by_visit": score(
                auroc(visits_ohm.truth, visits_ohm.highest), visits.pack
            ),
            "baseline_insulation_pr_auc": score(pr_auc(truth, insulation, weight), packs),
            "baseline_prevalence_pr_auc": score(_rate(truth, weight), packs),
            "baseline_prevalence_brier": score(brier(truth, baselines["prevalence"], weight), packs),
        }

    def alert_scores(self, rows: Rows, answers: Answers, threshold_pct: float) -> dict[str, Score]:
        """Share of critical faults warned of at the card's threshold, days of warning, false alerts per 100 weeks."""
        ends = rows.take((rows.target > 0) | np.isfinite(rows.extra["left_days"]))
        alarm = answers["value"] >= threshold_pct
        in_ends = alarm[(rows.target > 0) | np.isfinite(rows.extra["left_days"])]
        due = highest_of_visit(ends, in_ends.astype(float))
        lead = np.array([_lead(ends, in_ends, i) for i in visit_groups(ends)])
        critical, caught = due.truth, due.truth & (due.highest > 0)
        return {
            "recall_at_threshold": score(lambda i: _ratio(caught[i], critical[i]), due.pack),
            "lead_days_median": score(lambda i: float(np.nanmedian(lead[i])) if np.isfinite(lead[i]).any() else np.nan,
                                      due.pack),
            "false_alerts_per_100_weeks": _false_alerts(rows, alarm),
        }  # fmt: skip


def at_prevalence(rows: Rows) -> F64:
    """Weights that make faulty pack-visits PREVALENCE of all, however many were simulated; mean 1.

    Counted in pack-visits, so that the weight does not depend on how long a pack was looked at.
    """
    first = np.array([group[0] for group in visit_groups(rows)], dtype=np.intp)
    share = float(rows.extra["faulty"][first].mean()) if len(first) else 0.0
    if not 0 < share < 1:
        return np.ones(len(rows))
    faulty = rows.extra["faulty"] > 0
    weight = np.where(faulty, PREVALENCE / share, (1 - PREVALENCE) / (1 - share))
    return np.asarray(weight / weight.mean())


def visit_groups(rows: Rows) -> list[NDArray[np.intp]]:
    """Row positions of each pack at each visit, in time order."""
    keys = np.char.add(np.char.add(rows.pack, "/"), rows.visit.astype(str))
    return [group[np.argsort(rows.ts_ms[group], kind="stable")] for group in rows_by_pack(keys)]


class Visits:
    """One entry for each pack-visit: its pack, whether a fault was due in it, the highest output."""

    def __init__(self, rows: Rows, output: F64) -> None:
        groups = visit_groups(rows)
        self.pack = np.array([rows.pack[g[0]] for g in groups], dtype=rows.pack.dtype)
        self.truth = np.array([bool(rows.target[g].any()) for g in groups], dtype=bool)
        self.highest = np.array([float(output[g].max()) for g in groups], dtype=float)
        self.kind = np.array([rows.extra["kind"][g[0]] for g in groups], dtype=int)


def highest_of_visit(rows: Rows, output: F64) -> Visits:
    """The model as a vehicle's watchman: one decision per pack and visit."""
    return Visits(rows, output)


def _by_kind(visits: Visits) -> dict[str, Score]:
    """Each kind of fault against visits without any."""
    found = {}
    for number, kind in enumerate(FAULT_KINDS):
        some = (visits.truth & (visits.kind == number)) | (visits.kind < 0)
        found[f"auroc_by_visit_{kind}"] = score(
            auroc(visits.truth[some], visits.highest[some]), visits.pack[some]
        )
    return found


def alert_threshold(value_pct: F64, rows: Rows) -> float:
    """The lowest output above which sound packs alert at most once in 100 pack-weeks; for the card."""
    sound = rows.take(rows.extra["faulty"] == 0)
    highest = np.sort(highest_of_visit(sound, value_pct[rows.extra["faulty"] == 0]).highest)[::-1]
    allowed = int(FALSE_ALERTS_PER_WEEK * _weeks(sound).sum())
    limit = highest[min(allowed, len(highest) - 1)] if len(highest) else 100.0
    return float(np.nextafter(limit, np.inf))


def _weeks(rows: Rows) -> F64:
    """How long each pack was looked at in each visit, in weeks."""
    spans = [rows.ts_ms[g[-1]] - rows.ts_ms[g[0]] for g in visit_groups(rows)]
    return np.array(spans, dtype=float) / WEEK_MS


def _false_alerts(rows: Rows, alarm: NDArray[np.bool_]) -> Score:
    """100 x visits of sound packs with an alert / their weeks."""
    sound = rows.extra["faulty"] == 0
    part = rows.take(sound)
    weeks, visits = _weeks(part), highest_of_visit(part, alarm[sound].astype(float))
    return score(
        lambda i: 100.0 * float(visits.highest[i].sum()) / max(float(weeks[i].sum()), 1e-9), visits.pack
    )


def _platt(raw: F64, rows: Rows) -> tuple[float, float]:
    """Slope and offset of the log-odds at PREVALENCE, from packs that the trees did not see."""
    fit = LogisticRegression(C=1e6).fit(raw[:, None], rows.target > 0, sample_weight=at_prevalence(rows))
    return float(fit.coef_[0, 0]), float(fit.intercept_[0])


def _lead(rows: Rows, alarm: NDArray[np.bool_], group: NDArray[np.intp]) -> float:
    """Days from the first alert within the horizon to the critical moment; NaN without one."""
    hits = group[alarm[group] & (rows.target[group] > 0)]
    return float(rows.extra["left_days"][hits[0]]) if len(hits) else np.nan


def _rate(truth: NDArray[np.bool_], weight: F64) -> Metric:
    return lambda rows: float(np.average(truth[rows], weights=weight[rows]))


def _ratio_of_means(truth: NDArray[np.bool_], p: F64, weight: F64) -> Metric:
    """Mean probability over the share of faults: what a small ECE at a small prevalence does not show."""

    def metric(rows: NDArray[np.intp]) -> float:
        observed = float(np.average(truth[rows], weights=weight[rows]))
        return float(np.average(p[rows], weights=weight[rows])) / observed if observed > 0 else np.nan

    return metric


def _ratio(part: NDArray[np.bool_], whole: NDArray[np.bool_]) -> float:
    return 100.0 * float(part.sum()) / float(whole.sum()) if whole.any() else np.nan
