"""The dataset's files: their format, their labels, the same arguments the same bytes."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from sim_device.bms import NUMERIC
from sim_device.dataset import TRUTH, Plan, visit_start_s, write_dataset
from voltflow.telemetry import Telemetry

PLAN = Plan(packs=24, visits=3, days=1, step_s=60.0, seed=5, kind="faults")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dataset")
    write_dataset(PLAN, out)
    return out


def labels(folder: Path) -> list[dict[str, Any]]:
    content: list[dict[str, Any]] = json.loads((folder / "packs.json").read_text())
    return content


def test_files_are_one_per_visit_and_day(folder: Path) -> None:
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["packs.json", "visit00_day00.npz", "visit01_day00.npz", "visit02_day00.npz"]


def test_arrays_are_named_like_telemetry_and_have_time_and_pack(folder: Path) -> None:
    with np.load(folder / "visit01_day00.npz") as data:
        assert set(data.files) == {*NUMERIC, *TRUTH, "charging", "ts_ms"}
        assert set(NUMERIC) <= {field.name for field in msgspec.structs.fields(Telemetry)}
        assert all(data[name].dtype == np.float32 for name in (*NUMERIC, *TRUTH))
        assert data["soc_pct"].shape == (1440, 24)
        assert data["charging"].dtype == np.int8
        times = data["ts_ms"]
    assert times.dtype == np.int64
    assert (np.diff(times) == 60_000).all()
    assert times[0] == round(visit_start_s(1) * 1000) + 60_000


def test_row_that_was_not_sent_is_nan_in_every_column_but_the_truth(folder: Path) -> None:
    with np.load(folder / "visit00_day00.npz") as data:
        silent = data["charging"] == -1
        assert 0.1 < silent.mean() < 0.7
        for name in NUMERIC:
            assert np.isnan(data[name][silent]).all(), name
        assert not np.isnan(data["truth_soc_pct"]).any()
        assert np.isnan(data["soc_pct"][~silent]).sum() == 0


def test_labels_say_what_the_truth_says(folder: Path) -> None:
    packs = labels(folder)
    for visit in range(PLAN.visits):
        with np.load(folder / f"visit{visit:02d}_day00.npz") as data:
            true = data["truth_soh_pct"][0]
        told = [pack["visits"][visit]["soh_pct"] for pack in packs]
        assert np.abs(true - told).max() < 0.05


def test_life_runs_down_between_visits(folder: Path) -> None:
    for pack in labels(folder):
        visits = pack["visits"]
        assert [v["age_days"] for v in visits] == sorted(v["age_days"] for v in visits)
        assert [v["soh_pct"] for v in visits] == sorted((v["soh_pct"] for v in visits), reverse=True)
        for before, after in itertools.pairwise(visits):
            if before["rul_days"] and after["rul_days"]:
                assert before["rul_days"] - after["rul_days"] == pytest.approx(500.0, abs=40.0)
            assert (before["rul_efc"] is None) == before["rul_censored"]


def test_half_of_the_visits_have_a_fault_with_onset_before_critical(folder: Path) -> None:
    found = [fault for pack in labels(folder) for visit in pack["visits"] for fault in visit["faults"]]
    assert 0.25 < len(found) / (PLAN.packs * PLAN.visits) < 0.75
    assert {fault["kind"] for fault in found} == {"internal_short", "cooling_loss", "insulation_drop"}
    assert all(f["critical_ms"] is None or f["onset_ms"] < f["critical_ms"] for f in found)
    assert any(f["critical_ms"] is None for f in found)


def test_same_arguments_same_content(folder: Path, tmp_path: Path) -> None:
    write_dataset(PLAN, tmp_path)
    assert (tmp_path / "packs.json").read_bytes() == (folder / "packs.json").read_bytes()
    with np.load(tmp_path / "visit02_day00.npz") as again, np.load(folder / "visit02_day00.npz") as first:
        for name in first.files:
            assert np.array_equal(again[name], first[name], equal_nan=name not in {"ts_ms", "charging"}), name


def test_committed_sample_has_the_format_of_today(folder: Path) -> None:
    """`datasets/README.md` has the command that makes it anew."""
    sample = Path(__file__).parents[2] / "datasets" / "sample"
    assert sum(path.stat().st_size for path in sample.iterdir()) < 300_000
    with np.load(sample / "visit01_day00.npz") as old, np.load(folder / "visit01_day00.npz") as new:
        assert old.files == new.files
        assert [old[name].dtype for name in old.files] == [new[name].dtype for name in new.files]
    assert labels(sample)[0].keys() == labels(folder)[0].keys()
    assert labels(sample)[0]["visits"][0].keys() == labels(folder)[0]["visits"][0].keys()
