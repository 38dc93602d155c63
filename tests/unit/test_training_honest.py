"""Per model: nothing of the target reaches the inputs, and no pack is on both sides of a split.

Names can lie, so the first is also tried out: the twin is run again on the same telemetry with another truth, with
another future, with another SoH claimed by the BMS, and must compute the same features.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cloud.training import collect, dataset
from cloud.training.dataset import NOT_SENT, TRUTH, Dataset, Plan
from cloud.training.labels import TEMPERATURE_HORIZON_S
from cloud.training.pipeline import LEAVE_OUT, Sources, recipes, split_rows
from cloud.training.rows import Rows
from voltflow.battery.features import FEATURES

PLAN = Plan("fleet", packs=12, visits=2, days=2, step_s=30.0, seed=3)
FAULTS = Plan("faults", packs=12, visits=1, days=2, step_s=30.0, seed=4)
FORBIDDEN = ("truth", "soh_bms", "rul", "life", "alarm", "fault", "dtc", "age_days", "odometer")
"""Parts of names that would give a target or its label away, or make age the only driver."""
MODELS = tuple(FEATURES)


def _quiet(text: str) -> None:
    pass


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Dataset]:
    cache = tmp_path_factory.mktemp("honest")
    return {plan.kind: dataset.make(plan, cache, _quiet) for plan in (PLAN, FAULTS)}


@pytest.fixture(scope="module")
def rows(made: dict[str, Dataset]) -> dict[str, Rows]:
    found = _features(made)
    assert sorted(found) == sorted(MODELS)
    assert all(len(of_model) for of_model in found.values()), {n: len(r) for n, r in found.items()}
    return found


def _changed(data: Dataset, folder: Path, change: Any) -> Dataset:
    """A copy of the dataset with each file's arrays passed through `change(arrays, visit, day)`."""
    shutil.copytree(data.folder, folder)
    for path in folder.glob("visit*.npz"):
        with np.load(path) as archive:
            arrays = {name: archive[name] for name in archive.files}
        change(arrays, int(path.stem[5:7]), int(path.stem[11:13]))
        np.savez(path, **arrays)
    return Dataset(folder)


def _features(data: Mapping[str, Dataset]) -> dict[str, Rows]:
    """Rows of all models, each from its kind of dataset."""
    plans = {"fleet": PLAN, "faults": FAULTS}
    parts = [collect.collect(of_kind, plans[kind], recipes(), _quiet) for kind, of_kind in data.items()]
    return {name: of_model for part in parts for name, of_model in part.items()}


# -- no target among the inputs --------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", MODELS)
def test_no_input_is_named_after_a_target_or_its_label(model: str) -> None:
    for feature in FEATURES[model]:
        assert not any(part in feature.name for part in FORBIDDEN), feature.name


def test_temperature_inputs_do_not_change_with_what_comes_after(
    made: dict[str, Dataset], rows: dict[str, Rows], tmp_path: Path
) -> None:
    """Its target is a later measurement: with another second day the first day's features stay the same."""

    def later(arrays: dict[str, NDArray[Any]], visit: int, day: int) -> None:
        if (visit, day) == (0, 1):
            arrays["cell_temp_max_c"] = arrays["cell_temp_max_c"] + 10.0
            arrays["pack_current_a"] = -arrays["pack_current_a"]

    other = _features({"fleet": _changed(made["fleet"], tmp_path / "later", later)})["temperature"]
    ours, theirs = _first_day(rows["temperature"]), _first_day(other)
    assert len(ours) > 100
    np.testing.assert_array_equal(ours.features, theirs.features)
    assert not np.array_equal(rows["temperature"].target, other.target)


def _first_day(of_model: Rows) -> Rows:
    """Rows of the first visit's first day, but those whose target lies on the second."""
    start = int(of_model.ts_ms[of_model.visit == 0].min()) // 86_400_000 * 86_400_000
    return of_model.take(of_model.ts_ms < start + 86_400_000 - 1000 * TEMPERATURE_HORIZON_S)


@pytest.mark.parametrize("model", MODELS)
def test_inputs_do_not_change_with_truth_labels_or_what_the_bms_claims(
    model: str, made: dict[str, Dataset], rows: dict[str, Rows], untrue: dict[str, Rows]
) -> None:
    np.testing.assert_array_equal(rows[model].features, untrue[model].features)
    if model in ("soh", "rul"):
        assert not np.array_equal(rows[model].target, untrue[model].target)


@pytest.fixture(scope="module")
def untrue(made: dict[str, Dataset], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Rows]:
    """Features of the same telemetry with another truth, other labels, another `soh_bms_pct` and alarm level."""
    rng = np.random.default_rng(9)

    def lie(arrays: dict[str, NDArray[Any]], visit: int, day: int) -> None:
        for name in (*TRUTH, "soh_bms_pct", "alarm_level"):
            noise = rng.uniform(50, 100, arrays[name].shape).astype(np.float32)
            arrays[name] = np.where(np.isfinite(arrays[name]), noise, np.nan)

    folder = tmp_path_factory.mktemp("untrue")
    changed = {kind: _changed(data, folder / kind, lie) for kind, data in made.items()}
    for data in changed.values():
        packs = json.loads((data.folder / "packs.json").read_text())
        for pack in packs:
            for visit in pack["visits"]:
                visit |= {"soh_pct": 50.0, "rul_efc": 1.0, "rul_days": 1.0, "rul_censored": False}
        (data.folder / "packs.json").write_text(json.dumps(packs))
    return _features(changed)


@pytest.mark.parametrize("model", MODELS)
def test_no_single_input_orders_rows_as_the_target_does(
    model: str, rows: dict[str, Rows], made: dict[str, Dataset]
) -> None:
    """A monotone function of the target has a rank correlation of one with it; nothing honest comes near.

    The temperature now does come near the temperature later (that is persistence), so there it is the change.
    """
    found = rows[model]
    target = found.target - found.features[:, 0] if model == "temperature" else found.target
    for column, feature in enumerate(FEATURES[model]):
        values = found.features[:, column]
        known = np.isfinite(values)
        if known.sum() > 20 and len(np.unique(values[known])) > 1 and len(np.unique(target[known])) > 1:
            assert abs(_rank_correlation(values[known], target[known])) < 0.985, feature.name


def _rank_correlation(a: NDArray[Any], b: NDArray[Any]) -> float:
    from scipy.stats import spearmanr

    return float(spearmanr(a, b).statistic)


# -- no pack on both sides -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", recipes(), ids=lambda recipe: recipe.name)
def test_no_pack_is_on_both_sides_of_the_split(
    recipe: Any, made: dict[str, Dataset], rows: dict[str, Rows]
) -> None:
    kind = recipe.sources[0]
    found = replace(rows[recipe.name], pack=np.char.add(f"{kind}/", rows[recipe.name].pack))
    groups = {name: {f"{kind}/{p.id}": getattr(p, name) for p in made[kind].packs} for name in LEAVE_OUT}
    sources = Sources((PLAN,), (made[kind],), {recipe.name: found}, groups)
    split, (train, calibrate, test) = split_rows(recipe, sources, seed=7)
    sides = [set(part.pack.tolist()) for part in (train, calibrate, test)]
    assert not sides[0] & sides[1]
    assert not sides[0] & sides[2]
    assert not sides[1] & sides[2]
    assert sum(len(part) for part in (train, calibrate, test)) == len(found)
    assert set(split.roles) == set.union(*sides)


def test_fleet_and_faults_are_different_packs(made: dict[str, Dataset]) -> None:
    """They share ids; with the same seed they would share everything, and a pack would be on both sides."""
    fleet, faults = (
        {(p.id, p.chemistry, p.capacity_rated_ah, p.visits[0].age_days) for p in made[kind].packs}
        for kind in ("fleet", "faults")
    )
    assert not fleet & faults


# -- labels ----------------------------------------------------------------------------------------------------------


def test_temperature_target_is_what_the_bms_showed_600_s_later(
    made: dict[str, Dataset], rows: dict[str, Rows]
) -> None:
    data, found = made["fleet"], rows["temperature"].take(rows["temperature"].visit == 0)
    ts_ms, shown = data.column(0, "ts_ms"), data.column(0, "cell_temp_max_c")
    places = {pack.id: i for i, pack in enumerate(data.packs)}
    at = np.searchsorted(ts_ms, found.ts_ms + 1000 * TEMPERATURE_HORIZON_S)
    pack = np.array([places[str(p)] for p in found.pack])
    np.testing.assert_array_equal(ts_ms[at], found.ts_ms + 1000 * TEMPERATURE_HORIZON_S)
    np.testing.assert_array_equal(shown[at, pack], found.target)


def test_no_row_comes_from_a_message_that_was_not_sent(
    made: dict[str, Dataset], rows: dict[str, Rows]
) -> None:
    data = made["fleet"]
    sent = data.column(0, "charging") != NOT_SENT
    assert not sent.all()
    places = {pack.id: i for i, pack in enumerate(data.packs)}
    for found in (rows["soh"], rows["temperature"], rows["rul"]):
        first = found.take(found.visit == 0)
        step = np.searchsorted(data.column(0, "ts_ms"), first.ts_ms)
        assert sent[step, [places[str(p)] for p in first.pack]].all()


def test_failure_has_no_row_after_the_fault_is_critical(rows: dict[str, Rows]) -> None:
    found = rows["failure"]
    left = found.extra["left_days"]
    assert (left > 0).all()
    np.testing.assert_array_equal(found.target > 0, left <= 7.0)
