"""The recipes on data that others measured, split by vehicle time and by cell; skipped where the data are missing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cloud.training import field_month, real_data

FOLDER = real_data.data_folder()
pytestmark = pytest.mark.skipif(FOLDER is None, reason=real_data.missing_reason())


def _folder() -> Path:
    assert FOLDER is not None
    return FOLDER


def test_temperature_recipe_beats_persistence_on_the_field_month() -> None:
    """DOMAIN 2b: RMSE skill 25 %, event error 0.40 of persistence with a default forest of the same kind."""
    found = real_data.temperature_field_month(_folder(), seed=0).scores
    assert 0.20 <= found["skill_over_persistence"].value <= 0.45  # above it something of the future leaks
    assert found["event_mae_ratio"].value <= 0.5
    assert found["baseline_persistence_rmse"].value == pytest.approx(0.674, abs=0.08)


def test_soh_recipe_holds_by_cell_on_xjtu() -> None:
    found = real_data.soh_xjtu(_folder(), seed=0).scores
    assert 0.9 <= found["mae"].value <= 1.3  # random rows give 0.7: below 0.9 a cell is on both sides
    assert found["mae"].value < found["baseline_ridge_mae"].value


def test_severson_variance_model_gives_the_published_error() -> None:
    found = real_data.life_severson(_folder()).scores
    assert found["mape"].value == pytest.approx(14.7, abs=0.5)
    assert found["baseline_mean_life_mape"].value > 30


@pytest.mark.parametrize("vehicle", ["V01", "V08", "V09"])
def test_field_month_has_no_impossible_value_left_and_current_is_positive_into_the_battery(
    vehicle: str,
) -> None:
    month = field_month.read_month(_folder() / "field_month" / f"{vehicle}.csv")
    assert np.nanmax(month["cell_voltage_max_v"]) < 5
    assert np.nanmin(month["cell_temp_max_c"]) > -40
    assert np.nanmax(month["pack_voltage_v"]) < 1000
    assert (np.diff(month["ts_ms"]) >= 0).all()
    charging = month["charging"] == 1
    assert np.nanmedian(month["pack_current_a"][charging]) > 0


def test_field_rows_keep_vehicle_days_apart_and_times_rising() -> None:
    rows = field_month.field_rows(_folder() / "field_month" / "V01.csv")
    assert (np.diff(rows.ts_ms) > 0).all()
    assert 20 <= len(np.unique(rows.pack)) <= 40
    assert np.isfinite(rows.target).all()
