"""`cloud-train` end to end on a tiny fleet: the real simulator, scikit-learn, MLflow on SQLite, ONNX Runtime."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from cloud.training import cards
from cloud.training.dataset import DONE, Plan, make
from cloud.training.errors import TrainError
from cloud.training.settings import TrainSettings
from voltflow.battery.features import FEATURES
from voltflow.settings import load

TINY = {
    "packs": 20, "visits": 2, "days": 2, "step_s": 30, "fault_packs": 48, "fault_visits": 1, "fault_days": 3,
    "seed": 1,
}  # fmt: skip
MODELS = tuple(FEATURES)
pytestmark = pytest.mark.timeout(300)  # a machine with busy cores; alone it takes half a minute


@dataclass(frozen=True)
class Place:
    """Folders of one training."""

    root: Path

    @property
    def models(self) -> Path:
        return self.root / "models"

    def run(self, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        folders = {"CACHE": "cache", "MODELS": "models", "MLFLOW_DB": "ml/mlflow.db", "PLOTS": "plots"}
        settings = {f"VOLTFLOW_TRAIN_{name}": str(self.root / path) for name, path in folders.items()}
        tiny = {f"VOLTFLOW_TRAIN_{name.upper()}": str(value) for name, value in TINY.items()}
        return subprocess.run(
            [sys.executable, "-m", "cloud.training.cli", *words],
            env={**os.environ, "OMP_NUM_THREADS": "1", **settings, **tiny, **environment},
            capture_output=True, text=True, timeout=280, check=False,
        )  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    made = Place(tmp_path_factory.mktemp("train"))
    done = made.run("run", "--quick")
    assert done.returncode == 0, done.stderr
    return made


def _card(place: Place, model: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((place.models / model / "card.json").read_text())
    return found


@pytest.mark.parametrize("model", MODELS)
def test_run_writes_a_model_whose_inputs_are_the_features_in_order(place: Place, model: str) -> None:
    proto = onnx.load(str(place.models / model / "model.onnx"))
    properties = {item.key: item.value for item in proto.metadata_props}
    expected = [{"name": f.name, "unit": f.unit, "required": f.required} for f in FEATURES[model]]
    assert json.loads(properties["inputs"]) == expected
    assert properties["name"] == model
    assert json.loads(properties["card"])["seed"] == TINY["seed"]
    assert proto.graph.input[0].name == "features"
    assert proto.graph.input[0].type.tensor_type.shape.dim[1].dim_value == len(expected)
    assert {o.name for o in proto.graph.output} == ({"value", "low", "high"} if model == "rul" else {"value"})


@pytest.mark.parametrize("model", MODELS)
def test_run_writes_a_card_with_interval_and_baseline_beside_each_bar(place: Place, model: str) -> None:
    card = _card(place, model)
    for bar in card["bars"]:
        assert card["scores"][bar["score"]]["value"] is not None, bar
    assert card["baseline"]
    assert card["dataset_hash"]
    assert card["weak"]
    assert max(card["onnx_minus_sklearn_max"].values()) < 0.1
    for place_name in ("seed", "split", "trained_on", "target", "horizon", "versions", "created", "sha256"):
        assert card[place_name]


@pytest.mark.parametrize("model", MODELS)
def test_run_writes_golden_vectors_that_the_model_reproduces(place: Place, model: str) -> None:
    assert cards.check_golden(place.models / model)


def test_golden_vectors_of_another_model_are_refused(place: Place, tmp_path: Path) -> None:
    folder = tmp_path / "soh"
    folder.mkdir()
    (folder / "model.onnx").write_bytes((place.models / "soh" / "model.onnx").read_bytes())
    vectors = json.loads((place.models / "soh" / "golden.json").read_text())
    vectors["outputs"]["value"][0] += 1.0
    (folder / "golden.json").write_text(json.dumps(vectors))
    with pytest.raises(TrainError, match=r"value differs by 1(\.0\d*)? from golden.json"):
        cards.check_golden(folder)


def test_run_keeps_runs_metrics_plots_and_registry_in_mlflow(place: Place) -> None:
    """Asked in a process of its own: MLflow changes logging and warnings of the one it is in."""
    asked = """
import json, sys
from mlflow import MlflowClient
client = MlflowClient(sys.argv[1])
experiment = client.get_experiment_by_name("voltflow")
runs = client.search_runs([experiment.experiment_id])
print(json.dumps({
    "registered": sorted(m.name for m in client.search_registered_models()),
    "runs": {r.info.run_id: [sorted(r.data.metrics), sorted(r.data.params),
             [a.path for a in client.list_artifacts(r.info.run_id, "plots")]] for r in runs},
}))
"""
    uri = f"sqlite:///{place.root / 'ml' / 'mlflow.db'}"
    done = subprocess.run(
        [sys.executable, "-c", asked, uri], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["registered"] == sorted(f"voltflow-{model}" for model in MODELS)
    metrics, parameters, plots = found["runs"][_card(place, "soh")["mlflow_run_id"]]
    assert {"mae", "mae_low", "mae_high", "baseline_age_throughput_mae"} <= set(metrics)
    assert {"seed", "split", "max_iter", Plan("fleet", 20, 2, 2, 30.0, 1).folder} <= set(parameters)
    assert plots == ["plots/soh.png"]


def test_run_again_with_the_same_seed_learns_the_same_from_the_cache(place: Place, tmp_path: Path) -> None:
    done = place.run("run", "--quick", "--models", str(tmp_path / "again"))
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("is there") == 4  # two datasets, their features
    for model in MODELS:
        again = json.loads((tmp_path / "again" / model / "card.json").read_text())
        assert again["graph_sha256"] == _card(place, model)["graph_sha256"]
        assert again["scores"] == _card(place, model)["scores"]


def test_run_says_what_each_step_does_and_how_long_it_takes(place: Place) -> None:
    done = place.run("features")
    assert done.returncode == 0
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == list(MODELS)


def test_cost_measures_every_model_and_all_together(place: Place) -> None:
    done = place.run("cost", "--json")
    assert done.returncode == 0, done.stderr
    found: list[Mapping[str, Any]] = json.loads(done.stdout)
    assert [c["name"] for c in found] == [*sorted(MODELS), "together"]
    assert all(c["alone_us"] > 0 and c["batch_us"] > 0 for c in found)


def test_data_of_a_run_that_was_broken_off_is_made_anew(tmp_path: Path) -> None:
    """A folder without its mark of completeness is never taken for the whole."""
    plan = Plan("fleet", packs=8, visits=1, days=1, step_s=30.0, seed=1)
    partial = tmp_path / f"{plan.folder}.partial"
    partial.mkdir()
    (partial / "visit00_day00.npz").write_bytes(b"half")
    said: list[str] = []
    made = make(plan, tmp_path, said.append)
    assert (made.folder / DONE).is_file()
    assert not partial.exists()
    assert np.isfinite(made.column(0, "truth_soh_pct")).all()
    make(plan, tmp_path, said.append)
    assert said[-1].endswith("is there")


# -- errors ----------------------------------------------------------------------------------------------------------


def test_a_step_that_does_not_fit_the_horizon_is_refused(place: Place) -> None:
    done = place.run("data", "--step-s", "7")
    assert done.returncode == 2
    assert "step_s = 7: 600 s must be a whole number of steps; take 5, 10, 20 or 30" in done.stderr


def test_too_few_days_are_an_error_that_says_what_to_do(place: Place) -> None:
    done = place.run("run", "--quick", "--packs", "8", "--visits", "1", "--days", "1")
    assert done.returncode == 2
    assert "simulate more packs, visits or days" in done.stderr
    assert "Traceback" not in done.stderr


def test_check_real_without_data_says_where_to_put_them(place: Place, tmp_path: Path) -> None:
    done = place.run("check-real", VOLTFLOW_SHARED_DATA=str(tmp_path / "nowhere"))
    assert done.returncode == 2
    assert "set VOLTFLOW_SHARED_DATA to the folder with field_month, xjtu and severson" in done.stderr


def test_ui_before_the_first_run_says_what_makes_its_file(place: Place, tmp_path: Path) -> None:
    done = place.run("ui", "--mlflow-db", str(tmp_path / "none.db"))
    assert done.returncode == 2
    assert "cloud-train run makes it" in done.stderr


def test_cost_without_models_says_where_to_get_them(place: Place, tmp_path: Path) -> None:
    done = place.run("cost", "--models", str(tmp_path))
    assert done.returncode == 2
    assert "run cloud-train run, or name the folder with --models" in done.stderr


@pytest.mark.parametrize("command", ["", "run", "data", "features", "ui", "check-real", "cost", "scores"])
def test_help_teaches_with_examples(place: Place, command: str) -> None:
    done = place.run(*filter(None, [command]), "--help")
    assert done.returncode == 0
    assert "examples:\n  cloud-train" in done.stdout


def test_defaults_simulate_fleet_and_faults_with_different_seeds() -> None:
    settings = load(TrainSettings, "train", environ={}).values
    assert settings.fleet.seed != settings.faults.seed
    assert settings.fleet.folder != settings.faults.folder
