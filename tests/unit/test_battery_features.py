"""What the models are told: nothing that knows the answer, and every name with unit and meaning."""

from __future__ import annotations

import numpy as np
import pytest

from voltflow.battery.compiled import INPUTS
from voltflow.battery.features import FEATURES, missing, names

FORBIDDEN = ("soh_bms", "truth", "target", "label", "rul", "failure", "fault", "alarm", "dtc", "severity", "onset",
             "age_days", "odometer", "cycle_no", "eol")  # fmt: skip
ANSWERS = {"soh": {"soh_pct", "soh", "soh_bms_pct"}, "temperature": {"cell_temp_max_c_600s", "temp_change_c"},
           "rul": {"rul_efc", "rul_days"}, "failure": {"failure_pct"}}  # fmt: skip


@pytest.mark.parametrize("model", sorted(FEATURES))
def test_no_feature_names_an_answer(model: str) -> None:
    assert not set(names(model)) & ANSWERS[model]
    assert not [name for name in names(model) if any(word in name for word in FORBIDDEN)]


def test_kernel_never_reads_the_bms_state_of_health() -> None:
    """What is not among the kernel's inputs cannot come back by a detour."""
    assert not {"soh_bms_pct", "alarm_level", "odometer_km"} & set(INPUTS)
    assert not [name for name in INPUTS if name.startswith("truth")]


@pytest.mark.parametrize("model", sorted(FEATURES))
def test_features_have_unit_and_help_and_unique_names(model: str) -> None:
    features = FEATURES[model]
    assert len({f.name for f in features}) == len(features)
    assert all(f.unit and f.help for f in features)
    assert any(f.required for f in features)


def test_missing_names_what_is_required() -> None:
    vector = np.zeros(len(FEATURES["temperature"]), np.float32)
    assert missing("temperature", vector) == []
    vector[names("temperature").index("c_rate")] = np.nan
    vector[names("temperature").index("speed_kmh")] = np.nan
    assert missing("temperature", vector) == ["c_rate"]
