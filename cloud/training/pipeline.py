"""From simulated data to released models: collect, split by pack, fit, score, keep in MLflow, export, check."""

from __future__ import annotations

import contextlib
import multiprocessing
import shutil
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from cloud.training import cards, collect, dataset, plots, rows, scores
from cloud.training.blanking import blank
from cloud.training.dataset import Dataset, Plan, Progress
from cloud.training.errors import TrainError
from cloud.training.onnx_export import check, graph_hash, to_onnx
from cloud.training.real_data import Check, all_checks, data_folder, missing_reason
from cloud.training.recipes import RECIPES, Failure, Recipe
from cloud.training.recipes.base import Answers, Fitted
from cloud.training.rows import Rows
from cloud.training.scores import Score
from cloud.training.settings import TrainSettings
from cloud.training.splits import ROLES, Split, split_packs
from cloud.training.tracking import Tracking
from cloud.training.trees import EdgeModel
from voltflow.battery.features import names

LEAVE_OUT = ("climate", "chemistry")
"""What is kept out of training once per value, to see how the method does on packs unlike any it learnt from."""
FEWEST_PACKS = 8
LEFT_OUT_ROWS = 100_000
LEFT_OUT_TEST_ROWS = 30_000


@dataclass(frozen=True)
class Sources:
    """The datasets of a run, and their feature rows by model; pack ids are `kind/id`, for ids repeat among them."""

    plans: tuple[Plan, ...]
    datasets: tuple[Dataset, ...]
    rows: Mapping[str, Rows]
    groups: Mapping[str, Mapping[str, str]]
    """`climate` and `chemistry` by pack."""

    def hash(self, kinds: tuple[str, ...]) -> dict[str, str]:
        """Hash of each dataset of these kinds."""
        pairs = zip(self.plans, self.datasets, strict=True)
        return {plan.folder: data.hash() for plan, data in pairs if plan.kind in kinds}

    def described(self, kinds: tuple[str, ...]) -> str:
        parts = [
            f"{p.packs} packs x {p.visits} visits x {p.days} days at {p.step_s:g} s ({p.kind}, seed {p.seed})"
            for p in self.plans
            if p.kind in kinds
        ]
        return "simulated: " + "; ".join(parts)


@dataclass(frozen=True)
class Trained:
    """A fitted model with its scores on test packs."""

    recipe: Recipe
    fitted: Fitted
    split: Split
    test: Rows
    answers: Answers
    baselines: Answers
    scores: Mapping[str, Score]
    left_out: Mapping[str, Mapping[str, Score]]


def recipes() -> list[Recipe]:
    """The four, told their inputs."""
    return [make(names(make.name)) for make in RECIPES]


def make_data(settings: TrainSettings, progress: Progress) -> list[Dataset]:
    """Both datasets, simulated side by side unless they are in the cache."""
    with ThreadPoolExecutor(2) as pool:
        plans = (settings.fleet, settings.faults)
        return list(pool.map(lambda plan: dataset.make(plan, settings.cache / "data", progress), plans))


def make_features(settings: TrainSettings, progress: Progress) -> Sources:
    """Rows of all models, from the cache where data and code are the same; `progress` must be picklable."""
    plans, made = (settings.fleet, settings.faults), make_data(settings, progress)
    parts: dict[str, list[Rows]] = {}
    groups: dict[str, dict[str, str]] = {name: {} for name in LEAVE_OUT}
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        places = [settings.cache / "features"] * len(plans)
        collected = list(pool.map(_collect, made, plans, places, [progress] * len(plans)))
    for plan, data, found in zip(plans, made, collected, strict=True):
        for name, of_model in found.items():
            parts.setdefault(name, []).append(_prefixed(of_model, plan.kind))
        for pack in data.packs:
            for name in LEAVE_OUT:
                groups[name][f"{plan.kind}/{pack.id}"] = getattr(pack, name)
    return Sources(plans, tuple(made), {name: rows.join(p) for name, p in parts.items()}, groups)


def _collect(data: Dataset, plan: Plan, cache: Path, progress: Progress) -> dict[str, Rows]:
    """Of one dataset, in a process of its own."""
    return collect.cached(data, plan, recipes(), cache, progress)


def _prefixed(part: Rows, kind: str) -> Rows:
    return replace(part, pack=np.char.add(f"{kind}/", part.pack))


def split_rows(recipe: Recipe, sources: Sources, seed: int) -> tuple[Split, tuple[Rows, Rows, Rows]]:
    """The recipe's rows to train on, to calibrate on, to test on; no pack is in two of them."""
    found = sources.rows[recipe.name]
    packs = [str(pack) for pack in np.unique(found.pack)]
    if len(packs) < FEWEST_PACKS:
        raise TrainError(
            f"{recipe.name}: only {len(packs)} packs gave a feature row; simulate more packs, visits or days"
        )
    strata = {pack: (pack.split("/")[0], *(sources.groups[g][pack] for g in LEAVE_OUT)) for pack in packs}
    split = split_packs(strata, seed)
    train, calibrate, test = (found.take(split.mask(found.pack, role)) for role in ROLES)
    return split, (train, calibrate, test)


def train_one(recipe: Recipe, sources: Sources, seed: int, *, full: bool = True) -> Trained:
    """Fit on training packs, correct on calibration packs, score on test packs."""
    split, (train, calibrate, test) = split_rows(recipe, sources, seed)
    fitted = recipe.fit(blank(train, recipe.name, seed), calibrate, seed)
    answers, baselines = fitted.model.predict(test.features), recipe.baselines(train, test)
    figures = recipe.scores(test, answers, baselines)
    if isinstance(recipe, Failure):
        figures |= recipe.alert_scores(test, answers, fitted.facts["alert_threshold_pct"])
    left_out = _left_out(recipe, (train, calibrate, test), sources, seed) if full else {}
    return Trained(recipe, fitted, split, test, answers, baselines, figures, left_out)


def _left_out(
    recipe: Recipe, parts: tuple[Rows, Rows, Rows], sources: Sources, seed: int
) -> dict[str, Mapping[str, Score]]:
    """Scores on all packs of one climate or chemistry by a model that learnt from none of them."""
    found: dict[str, Mapping[str, Score]] = {}
    for group in LEAVE_OUT:
        of_pack = sources.groups[group]
        for value in sorted(set(of_pack.values())):
            inside = [np.array([of_pack[str(p)] == value for p in part.pack], dtype=bool) for part in parts]
            train, calibrate = parts[0].take(~inside[0]), parts[1].take(~inside[1])
            test = rows.join([part.take(of) for part, of in zip(parts, inside, strict=True)])
            enough = all(len(np.unique(part.pack)) >= 2 for part in (train, calibrate, test))
            if enough:
                with contextlib.suppress(TrainError):  # no fault left to learn from: only in a very small run
                    found[f"{group}={value}"] = _unlike(recipe, train, calibrate, test, seed)
    return found


def _unlike(recipe: Recipe, train: Rows, calibrate: Rows, test: Rows, seed: int) -> Mapping[str, Score]:
    test = test.at_most(LEFT_OUT_TEST_ROWS, seed)
    model = recipe.fit(blank(train, recipe.name, seed).at_most(LEFT_OUT_ROWS, seed), calibrate, seed).model
    return recipe.scores(test, model.predict(test.features), recipe.baselines(train, test))


def run(settings: TrainSettings, progress: Progress, *, full: bool = True) -> list[dict[str, Any]]:
    """Everything; returns the cards that were written. Not `full`: without left-out groups and real data."""
    started = time.monotonic()
    sources = make_features(settings, progress)
    tracking = Tracking(settings)
    written = []
    with tracking.run("cloud-train run", {"seed": str(settings.seed)}):
        trained = []
        for recipe in recipes():
            trained.append(train_one(recipe, sources, settings.seed, full=full))
            progress(f"train: {summary(trained[-1])}")
        checks = (
            check_real(settings, {t.recipe.name: t.fitted.model for t in trained}, progress) if full else []
        )
        for one in trained:
            written.append(_release(one, sources, checks, settings, tracking))
            progress(f"models: {settings.models / one.recipe.name} ({written[-1]['bytes'] / 1000:.0f} kB)")
    progress(f"done in {time.monotonic() - started:.0f} s; look at the runs with: cloud-train ui")
    return written


def check_real(settings: TrainSettings, released: Mapping[str, EdgeModel], progress: Progress) -> list[Check]:
    """The checks on real data, none where the data are missing."""
    folder = data_folder()
    if folder is None:
        progress(f"real data: skipped, {missing_reason()}")
        return []
    found = all_checks(folder, settings.seed, released)
    for item in found:
        first = "; ".join(f"{name} {s.value:.3g}" for name, s in item.scores.items())
        progress(f"real data: {item.name}: {first} -> {'passed' if item.passed else 'MISSED'} ({item.bar})")
    return found


def summary(one: Trained) -> str:
    """A line on how a model did against its bars."""
    marks = [
        f"{bar.score} {one.scores[bar.score].value:.3g} {bar.rule} {bar.limit:g}"
        f" {'ok' if bar.passed(one.scores) else 'MISSED'}"
        for bar in one.recipe.bars
    ]
    return (
        f"{one.recipe.name}: {len(one.test)} test rows of {one.split.counts()['test']} packs; "
        + ", ".join(marks)
    )


def _release(
    one: Trained, sources: Sources, checks: list[Check], settings: TrainSettings, tracking: Tracking
) -> dict[str, Any]:
    """One model: its own run, ONNX checked against scikit-learn, files, registry."""
    recipe, name = one.recipe, one.recipe.name
    hashes = sources.hash(recipe.sources)
    with tracking.run(name, {"model": name}) as run_id, tempfile.TemporaryDirectory() as temporary:
        proto = to_onnx(one.fitted.model, len(recipe.inputs), {})
        differences = _checked(one, proto)
        card = _card(one, sources, checks, settings) | {
            "dataset_hash": hashes,
            "onnx_minus_sklearn_max": differences,
            "graph_sha256": graph_hash(proto),
            "mlflow_run_id": run_id,
        }
        full = cards.write(
            settings.models / name, card, proto, cards.golden(one.fitted.model, one.test.features, 0)
        )
        picture = Path(temporary) / f"{name}.png"
        plots.draw(name, one.test, one.answers, one.baselines, picture)
        if settings.plots is not None:
            settings.plots.mkdir(parents=True, exist_ok=True)
            shutil.copy(picture, settings.plots / f"model-{name}.png")
        tracking.parameters(
            {**recipe.parameters(), "seed": settings.seed, "split": one.split.describe(), **hashes}
        )
        tracking.metrics(_metrics(one, checks))
        tracking.files(Path(temporary), "plots")
        tracking.files(settings.models / name, "release")
        tracking.register(name, proto)
    return full


def _checked(one: Trained, proto: Any) -> dict[str, float]:
    """Largest difference between ONNX and scikit-learn on all test rows; too large a one is an error."""
    differences = check(proto, one.fitted.model, one.test.features)
    for output, difference in differences.items():
        allowed = cards.tolerance(one.answers[output].astype(np.float32))
        if difference > allowed:
            raise TrainError(
                f"{one.recipe.name}: ONNX {output} differs from scikit-learn by {difference:g}, allowed {allowed:g}: "
                "this scikit-learn stores its trees otherwise; see cloud/training/onnx_export.py"
            )
    return differences


def _card(one: Trained, sources: Sources, checks: list[Check], settings: TrainSettings) -> dict[str, Any]:
    recipe = one.recipe
    return cards.describe(recipe, one.fitted.model) | {
        "trained_on": sources.described(recipe.sources),
        "split": one.split.describe(),
        "seed": settings.seed,
        "scores": cards.score_table({n: s for n, s in one.scores.items() if not n.startswith("baseline_")}),
        "baseline": cards.score_table({n: s for n, s in one.scores.items() if n.startswith("baseline_")}),
        "bars": [
            {
                "score": bar.score,
                "rule": f"{bar.rule} {bar.limit:g}",
                "unit": bar.unit,
                "passed": bar.passed(one.scores),
            }
            for bar in recipe.bars
        ],
        "left_out": {
            group: {bar.score: figures[bar.score].as_dict() for bar in recipe.bars}
            for group, figures in one.left_out.items()
        },
        "real_data": {item.name: item.as_dict() for item in checks if item.model == recipe.name},
        "facts": dict(one.fitted.facts),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _metrics(one: Trained, checks: list[Check]) -> dict[str, float]:
    found = scores.flat(one.scores)
    for item in checks:
        if item.model == one.recipe.name:
            found |= {f"real_{item.name}_{name}": value for name, value in scores.flat(item.scores).items()}
    for group, figures in one.left_out.items():
        key = group.replace("=", "_")
        found |= {
            f"without_{key}_{bar.score}": figures[bar.score].value
            for bar in one.recipe.bars
            if np.isfinite(figures[bar.score].value)
        }
    return found
