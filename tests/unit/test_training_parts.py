"""The parts of training that need no simulator: splits, scores, export, censored lives, calibration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

from cloud.training import onnx_export, rows, scores
from cloud.training.recipes import RECIPES, Failure, Recipe, Rul
from cloud.training.recipes.failure import PREVALENCE, at_prevalence
from cloud.training.recipes.soh import equal_packs
from cloud.training.rows import Rows
from cloud.training.splits import ROLES, split_packs
from cloud.training.trees import Change, EdgeModel, Head, Interval, Percent, Value
from voltflow.battery.features import names

Array = NDArray[Any]


def _rows(n: int, packs: int, target: Array, features: Array, **extra: Array) -> Rows:
    pack = np.array([f"p{i % packs:04d}" for i in range(n)])
    zeros = np.zeros(n, np.int64)
    return Rows(features.astype(np.float32), target.astype(float), pack, zeros, zeros + np.arange(n), extra)


# -- splits ----------------------------------------------------------------------------------------------------------


@given(n=st.integers(8, 200), seed=st.integers(0, 2**31 - 1), strata=st.integers(1, 6))
def test_split_puts_every_pack_on_exactly_one_side(n: int, seed: int, strata: int) -> None:
    split = split_packs({f"p{i}": ("fleet", str(i % strata)) for i in range(n)}, seed)
    packs = np.array([f"p{i}" for i in range(n)])
    sides = np.stack([split.mask(packs, role) for role in ROLES])
    assert (sides.sum(axis=0) == 1).all()
    assert all(count > 0 for count in split.counts().values())


def test_split_does_not_depend_on_the_order_of_packs() -> None:
    strata = {f"p{i}": ("fleet", str(i % 3)) for i in range(30)}
    assert split_packs(strata, 1).roles == split_packs(dict(reversed(strata.items())), 1).roles


def test_split_gives_every_climate_its_share_of_test_packs() -> None:
    strata = {f"p{i:03d}": ("fleet", "cold" if i < 20 else "hot") for i in range(100)}
    split = split_packs(strata, 5)
    cold = [split.roles[pack] for pack, of in strata.items() if of[1] == "cold"]
    assert 3 <= cold.count("test") <= 7


# -- scores ----------------------------------------------------------------------------------------------------------


def test_skill_is_zero_for_the_baseline_and_one_for_the_truth() -> None:
    truth, stays = np.array([1.0, 2.0, 4.0]), np.array([1.0, 1.0, 1.0])
    every = np.arange(3)
    assert scores.skill(truth, stays, stays)(every) == 0.0
    assert scores.skill(truth, truth, stays)(every) == 1.0


def test_interval_over_packs_is_wider_than_over_rows_when_rows_of_a_pack_repeat_each_other() -> None:
    rng = np.random.default_rng(0)
    per_pack = rng.normal(size=20)
    error = np.repeat(per_pack, 50)
    packs = np.repeat([f"p{i}" for i in range(20)], 50)
    by_pack = scores.score(lambda i: float(error[i].mean()), packs)
    by_row = scores.score(lambda i: float(error[i].mean()), np.arange(1000).astype(str))
    assert by_pack.high - by_pack.low > 3 * (by_row.high - by_row.low)


def test_ece_tells_a_calibrated_probability_from_a_boastful_one() -> None:
    rng = np.random.default_rng(1)
    p = rng.random(20_000)
    truth, weight, every = rng.random(20_000) < p, np.ones(20_000), np.arange(20_000)
    assert scores.ece(truth, p, weight)(every) < 0.02
    assert scores.ece(truth, np.sqrt(p), weight)(every) > 0.1


def test_auroc_of_one_class_only_is_not_a_number_and_null_on_a_card() -> None:
    nothing = scores.score(scores.auroc(np.zeros(4, bool), np.arange(4.0)), np.array(list("aabb")))
    assert nothing.as_dict() == {"value": None, "ci95": [], "rows": 4, "packs": 2}


# -- rows ------------------------------------------------------------------------------------------------------------


def test_rows_come_back_from_a_file_as_they_were(tmp_path: Path) -> None:
    made = _rows(10, 3, np.arange(10.0), np.ones((10, 2)), now=np.arange(10.0))
    made.save(tmp_path / "r.npz")
    back = rows.load(tmp_path / "r.npz")
    assert back.pack.tolist() == made.pack.tolist()
    assert back.extra["now"].tolist() == made.extra["now"].tolist()
    assert len(rows.join([back, made])) == 20


def test_equal_packs_gives_every_pack_the_same_total_weight() -> None:
    pack = np.array(["a"] * 9 + ["b"])
    zeros = np.zeros(10, np.int64)
    weight = equal_packs(Rows(np.zeros((10, 1), np.float32), np.zeros(10), pack, zeros, zeros))
    assert weight[:9].sum() == pytest.approx(weight[9])


# -- export ----------------------------------------------------------------------------------------------------------

RNG = np.random.default_rng(0)
X = RNG.normal(size=(1500, 5)).astype(np.float32)
X[RNG.random(X.shape) < 0.1] = np.nan
Y = np.nan_to_num(X[:, 0] * X[:, 1]) + 0.1 * RNG.normal(size=1500)


def _model(head: Head) -> EdgeModel:
    small: dict[str, Any] = {"max_iter": 20, "max_depth": 4, "early_stopping": False}
    if isinstance(head, Percent):
        return EdgeModel.of([HistGradientBoostingClassifier(**small).fit(X, Y > 0.5)], head).corrected(
            [1.3], [-2]
        )
    if isinstance(head, Interval):
        made = [HistGradientBoostingRegressor(loss="quantile", quantile=q, **small) for q in (0.1, 0.5, 0.9)]
        return EdgeModel.of([b.fit(X, Y + 2) for b in made], head).corrected([1, 1, 1], [-0.2, 0, 0.1])
    return EdgeModel.of([HistGradientBoostingRegressor(**small).fit(X, Y)], head)


MODELS = {type(h).__name__: _model(h) for h in (Value(), Change(1), Interval(40.0), Percent())}
GRAPHS = {name: onnx_export.to_onnx(model, 5, {}) for name, model in MODELS.items()}


@pytest.mark.parametrize("name", [name for name in MODELS if name != "Change"])
def test_export_answers_as_scikit_learn_does_missing_inputs_included(name: str) -> None:
    assert max(onnx_export.check(GRAPHS[name], MODELS[name], X).values()) < 1e-4


def test_export_of_a_change_adds_it_to_its_input() -> None:
    known = X[~np.isnan(X[:, 1])]
    change = MODELS["Value"].predict(known)["value"]
    assert onnx_export.check(GRAPHS["Change"], MODELS["Change"], known)["value"] < 1e-4
    assert MODELS["Change"].predict(known)["value"] == pytest.approx(known[:, 1] + change)


@given(
    st.lists(
        st.lists(st.floats(width=32, allow_infinity=False), min_size=5, max_size=5), min_size=1, max_size=8
    )
)
def test_export_answers_as_scikit_learn_does_for_any_float(table: list[list[float]]) -> None:
    found = np.array(table, np.float32)
    assert onnx_export.check(GRAPHS["Value"], MODELS["Value"], found)["value"] < 1e-4
    differences = onnx_export.check(GRAPHS["Interval"], MODELS["Interval"], found)
    assert max(differences.values()) < 1e-3


def test_export_keeps_a_row_on_its_side_of_a_threshold_between_two_float32() -> None:
    """Rounding thresholds to the nearest float32 sent such rows the other way."""
    thresholds = np.array([0.1, 1 / 3, 1e-9, -0.7, 16777217.0])
    below = onnx_export.float32_below(thresholds)
    above = np.nextafter(below, np.float32(np.inf))
    assert (below.astype(float) <= thresholds).all()
    assert (above.astype(float) > thresholds).all()


def test_interval_is_ordered_and_capped() -> None:
    found = MODELS["Interval"].predict(X)
    assert (found["low"] <= found["value"]).all()
    assert (found["value"] <= found["high"]).all()
    assert found["low"].min() >= 0
    assert found["high"].max() <= 40.0


def test_graph_hash_is_of_the_graph_not_of_the_metadata() -> None:
    again = onnx_export.to_onnx(MODELS["Value"], 5, {"created": "another day"})
    assert onnx_export.graph_hash(again) == onnx_export.graph_hash(GRAPHS["Value"])
    assert onnx_export.graph_hash(again) != onnx_export.graph_hash(GRAPHS["Percent"])


# -- remaining life --------------------------------------------------------------------------------------------------


def _lives(n: int = 3000) -> tuple[Rows, Array]:
    """Lives of 800 cycles (lognormal), looked at for different times: half are censored."""
    rng = np.random.default_rng(3)
    life = 800.0 * rng.lognormal(0.0, 0.4, n)
    bound = rng.uniform(200.0, 1500.0, n)
    censored = life > bound
    features = rng.normal(size=(n, len(names("rul"))))
    zeros = np.zeros(n)
    extra = {"censored": censored.astype(float), "soh": zeros + 90, "efc": zeros + 100, "age_days": zeros}
    return _rows(n, n, np.minimum(life, bound), features, **extra), life


def test_rul_neither_drops_censored_lives_nor_takes_their_bound_for_their_end() -> None:
    seen, life = _lives()
    assert 0.3 < seen.extra["censored"].mean() < 0.7
    nobody = seen.take(np.zeros(len(seen), bool))
    answers = Rul(names("rul")).fit(seen, nobody, 0).model.predict(seen.features)
    true = np.median(life)
    dropped = np.median(seen.target[seen.extra["censored"] == 0])
    taken = np.median(seen.target)
    found = float(np.median(answers["value"]))
    assert abs(found - true) < 0.4 * abs(dropped - true)
    assert abs(found - true) < 0.4 * abs(taken - true)


def test_rul_interval_covers_what_it_says_on_lives_it_has_not_seen() -> None:
    rng = np.random.default_rng(5)
    features = rng.normal(size=(3000, len(names("rul"))))
    life = 800.0 * np.exp(0.3 * features[:, 0] + 0.3 * rng.normal(size=3000))
    none = np.zeros(3000)
    made = _rows(3000, 3000, life, features, censored=none, soh=none + 90, efc=none + 100, age_days=none)
    train, calibrate, test = (made.take(np.arange(3000) % 3 == i) for i in range(3))
    answers = Rul(names("rul")).fit(train, calibrate, 0).model.predict(test.features)
    covered = ((answers["low"] <= test.target) & (test.target <= answers["high"])).mean()
    assert 0.75 <= covered <= 0.85


# -- failure ---------------------------------------------------------------------------------------------------------


def test_at_prevalence_weighs_faulty_visits_as_often_as_they_are_in_the_field() -> None:
    faulty = (np.arange(400) % 2).astype(float)
    made = _rows(400, 400, faulty, np.zeros((400, len(names("failure")))), faulty=faulty, kind=faulty - 1)
    weight = at_prevalence(made)
    assert weight[faulty > 0].sum() / weight.sum() == pytest.approx(PREVALENCE)


def test_failure_probability_is_right_at_the_stated_prevalence() -> None:
    rng = np.random.default_rng(2)
    n = 8000
    faulty = rng.random(n) < 0.5
    features = rng.normal(size=(n, len(names("failure"))))
    features[:, 0] += 1.5 * faulty
    made = _rows(
        n,
        n,
        faulty.astype(float),
        features,
        faulty=faulty.astype(float),
        kind=faulty - 1.0,
        left_days=np.where(faulty, 3.0, np.inf),
    )
    train, calibrate, test = (made.take(np.arange(n) % 3 == i) for i in range(3))
    fitted = Failure(names("failure")).fit(train, calibrate, 0)
    p = fitted.model.predict(test.features)["value"] / 100
    weight = at_prevalence(test)
    assert np.average(p, weights=weight) == pytest.approx(PREVALENCE, rel=0.25)
    assert scores.ece(test.target > 0, p, weight)(np.arange(len(test))) < 0.005


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_recipe_says_what_is_weak_and_what_it_is_held_against(recipe: type[Recipe]) -> None:
    assert recipe.weak
    assert recipe.bars
