"""The models in `models/`: they fit the gateway, cost what they may, and say where they come from."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from cloud.training import cards, cost, report
from voltflow.battery.features import FEATURES

MODELS = Path(__file__).resolve().parents[2] / "models"
NAMES = tuple(FEATURES)
MOST_BYTES = 5_000_000


def _card(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((MODELS / name / "card.json").read_text())
    return found


def test_there_are_exactly_the_four_models() -> None:
    assert sorted(path.parent.name for path in MODELS.glob("*/model.onnx")) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_model_takes_the_features_as_they_are(name: str) -> None:
    """A change of voltflow/battery/features.py needs `cloud-train run`: the gateway would refuse the models."""
    proto = onnx.load(str(MODELS / name / "model.onnx"))
    stated = json.loads({p.key: p.value for p in proto.metadata_props}["inputs"])
    assert [(i["name"], i["unit"]) for i in stated] == [(f.name, f.unit) for f in FEATURES[name]]
    assert stated == _card(name)["inputs"]


@pytest.mark.parametrize("name", NAMES)
def test_model_reproduces_its_golden_vectors(name: str) -> None:
    assert set(cards.check_golden(MODELS / name)) == set(_card(name)["outputs"])


@pytest.mark.parametrize("name", NAMES)
def test_card_is_of_this_file_and_names_no_machine(name: str) -> None:
    data = (MODELS / name / "model.onnx").read_bytes()
    assert _card(name)["sha256"] == hashlib.sha256(data).hexdigest()
    for text in (data.decode("latin-1"), (MODELS / name / "card.json").read_text()):
        assert not re.search(r"/(home|root|tmp|work|Users)/", text)


@pytest.mark.parametrize("name", NAMES)
def test_card_has_data_split_scores_interval_baseline_and_weakness(name: str) -> None:
    card = _card(name)
    for field in ("trained_on", "dataset_hash", "split", "seed", "target", "horizon", "baseline", "left_out", "weak",
                  "versions", "mlflow_run_id", "created"):  # fmt: skip
        assert card[field] not in (None, "", {}), field
    for bar in card["bars"]:
        assert len(card["scores"][bar["score"]]["ci95"]) == 2 or bar["score"] == "p95_of_pack_mae"


@pytest.mark.parametrize("name", NAMES)
def test_card_shows_no_score_that_is_too_good_to_be_honest(name: str) -> None:
    scores = {key: value["value"] for key, value in _card(name)["scores"].items()}
    limits = {"soh": ("mae", 0.2), "temperature": ("rmse", 0.25), "rul": ("mape", 4.0)}
    if name == "failure":
        assert scores["auroc_by_visit"] <= 0.98
    else:
        assert scores[limits[name][0]] >= limits[name][1]


def test_models_are_small_together() -> None:
    assert sum(path.stat().st_size for path in MODELS.glob("*/model.onnx")) <= MOST_BYTES


def test_cost_is_told_of_each_model_and_of_all_together() -> None:
    """The figures themselves are for `cloud-train cost`: on a shared machine a test of them would fail at random."""
    found = cost.released(MODELS)
    assert len(found) == len(NAMES) + 1
    assert all(c.alone_us > 0 and c.batch_us > 0 for c in found)


@pytest.mark.parametrize("name", NAMES)
def test_answers_stay_in_their_range_for_any_input(name: str) -> None:
    rng = np.random.default_rng(0)
    width = len(FEATURES[name])
    wild = (rng.normal(size=(500, width)) * 10.0 ** rng.integers(-3, 5, (500, width))).astype(np.float32)
    wild[rng.random(wild.shape) < 0.2] = np.nan
    wild[:, 0] = np.nan_to_num(wild[:, 0])  # required of every model
    session = cost.session((MODELS / name / "model.onnx").read_bytes())
    found = dict(
        zip(_card(name)["outputs"], session.run(_card(name)["outputs"], {"features": wild}), strict=True)
    )
    assert all(values.shape == (500, 1) and np.isfinite(values).all() for values in found.values())
    value = found["value"]
    if name == "failure":
        assert value.min() >= 0
        assert value.max() <= 100
    if name == "soh":
        assert 40 < value.min() <= value.max() < 120
    if name == "rul":
        assert (found["low"] <= value).all()
        assert (value <= found["high"]).all()
        assert found["low"].min() >= 0


def test_page_shows_the_scores_of_the_cards() -> None:
    """`cloud-train scores` prints what belongs between the marks."""
    page = (MODELS.parent / "docs" / "models.md").read_text("utf-8")
    shown = page.split(report.START)[1].split(report.END)[0]
    assert shown.strip() == report.tables(MODELS).strip()
