"""What each model is told: names, units and meaning of its inputs, in the order of the feature matrix.

The values come from `voltflow.battery.kernel`, for training and at run time alike. Only what the gateway can know at
that moment goes in: no target, no function of a target, nothing of the battery management system's own state of health
(`soh_bms_pct`: with it the model would repeat the BMS's estimate), no capacity read back from the BMS's state of
charge (the same by a detour), no alarm level (an effect of the fault that is to be predicted).

A missing input is NaN. A *required* one that is missing makes the row not ready: no prediction, with a reason. The
others may be NaN: many vehicles have no coolant probe, and a charge need not cross every voltage window. So a model is
trained with optional inputs blanked in part of the packs, or it would meet its first NaN in the field.

>>> [feature.name for feature in FEATURES["temperature"]][:2]
['cell_temp_max_c', 'cell_temp_spread_c']
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

SESSION_MIN_SOC_PCT: Final = 30.0
"""A charge session tells about capacity only when it spans this much; below, the error of both ends dominates."""
PERIOD_S: Final[dict[str, float]] = {"temperature": 10.0, "rul": 3600.0, "failure": 60.0}
"""Least device time between two vectors of a model; `soh` has none: it is due where a charge session ended."""
TEMPERATURE_HORIZON_S: Final = 600.0
WINDOW_S: Final[dict[str, float]] = {"temperature": 900.0, "rul": 3600.0, "failure": 3600.0}
"""Device time that a vector speaks of: its longest moving mean of what was just measured. Means over days count observed
time only, so a hole is not in them: what a `rul` vector says anew is the hour since the last one. `soh` speaks of the
charge session that ended."""


@dataclass(frozen=True, slots=True)
class Feature:
    """One input of a model. `required`: without it there is no prediction."""

    name: str
    unit: str
    help: str
    required: bool = False


def _need(name: str, unit: str, text: str) -> Feature:
    return Feature(name, unit, text, required=True)


_IS_LFP: Final = _need("is_lfp", "1", "1 for LFP, else 0, from the nameplate")
_IS_NCA: Final = _need("is_nca", "1", "1 for NCA, else 0, from the nameplate")
_RESISTANCE: Final = Feature(
    "resistance_rel",
    "1",
    "ohmic resistance at 25 °C over the chemistry's nominal one, from steps of the current",
)

_SOH: Final = (
    _need(
        "capacity_ocv_rel", "1", "charge of the session over its open-circuit SoC window, over rated capacity"
    ),
    _need(
        "capacity_sigma_rel",
        "1",
        "expected standard deviation of capacity_ocv_rel from both ends' OCV slopes",
    ),
    _need(
        "capacity_filtered_rel",
        "1",
        "Kalman mean of capacity_ocv_rel over the sessions so far, this one included",
    ),
    Feature(
        "charge_window_1_rel",
        "1",
        "charge between rest voltages 1 and 2 of the chemistry, over rated capacity",
    ),
    Feature(
        "charge_window_2_rel",
        "1",
        "charge between rest voltages 2 and 3 of the chemistry, over rated capacity",
    ),
    Feature(
        "charge_window_3_rel",
        "1",
        "charge between rest voltages 3 and 4 of the chemistry, over rated capacity",
    ),
    _need("charge_rel", "1", "charge of the session over rated capacity"),
    _need("soc_start_pct", "%", "SoC at its start from the rest-corrected cell voltage"),
    _need("soc_end_pct", "%", "SoC at its end from the rest-corrected cell voltage"),
    _need("c_rate_avg", "1/h", "mean current of the session over rated capacity"),
    Feature("cv_share", "1", "share of the charge taken below half of the session's highest current"),
    Feature("temp_avg_c", "°C", "mean cell temperature of the session"),
    _RESISTANCE,
    Feature("residual_avg_mv", "mV", "mean difference of measured and modelled cell voltage in the session"),
    _need("gap_share", "1", "share of the session's time in which nothing was heard for over two minutes"),
    _need("efc", "1", "equivalent full cycles: the BMS's charge counters over rated capacity"),
    _IS_LFP,
    _IS_NCA,
)

_TEMPERATURE: Final = (
    _need("cell_temp_max_c", "°C", "highest cell temperature now; the model answers with a change of it"),
    Feature("cell_temp_spread_c", "°C", "highest minus lowest probe"),
    _need("temp_max_minus_1min_c", "°C", "highest cell temperature minus its 1 min moving mean"),
    _need("temp_max_minus_5min_c", "°C", "highest cell temperature minus its 5 min moving mean"),
    _need("temp_max_minus_15min_c", "°C", "highest cell temperature minus its 15 min moving mean"),
    _need("c_rate", "1/h", "current over rated capacity, positive into the battery"),
    _need("c_rate_5min", "1/h", "its 5 min moving mean"),
    _need("c_rate_sq_1min", "1/h²", "1 min moving mean of its square: ohmic heat"),
    _need("c_rate_sq_5min", "1/h²", "5 min moving mean of its square"),
    _need("c_rate_sq_15min", "1/h²", "15 min moving mean of its square"),
    Feature("soc_est_pct", "%", "state of charge by the twin; a fast charge tapers with it"),
    Feature("cell_voltage_v", "V", "mean cell voltage"),
    Feature("charging", "1", "1 while the BMS says charging"),
    Feature("charging_s", "s", "how long the charge session has been going on, 0 outside, at most 4 h"),
    Feature("resting_s", "s", "how long there has been no current, at most 4 h"),
    Feature("speed_kmh", "km/h", "speed"),
    Feature("speed_5min_kmh", "km/h", "its 5 min moving mean"),
    Feature("coolant_inlet_minus_max_c", "°C", "coolant inlet minus highest cell temperature"),
    Feature("coolant_rise_c", "°C", "coolant outlet minus inlet"),
    Feature("ambient_minus_max_c", "°C", "ambient minus highest cell temperature"),
    _RESISTANCE,
)

_RUL: Final = (
    _need("capacity_filtered_pct", "%", "capacity over rated: Kalman mean over the charge sessions so far"),
    _need("capacity_sigma_pct", "%", "standard deviation that the filter claims for it"),
    Feature(
        "fade_pct_per_100efc", "%", "slope of the sessions' capacity over cycles, weighted by their certainty"
    ),
    _need("sessions", "1", "charge sessions that told about capacity"),
    _RESISTANCE,
    _need("efc", "1", "equivalent full cycles: the BMS's charge counters over rated capacity"),
    Feature("efc_per_day", "1/d", "cycles per day since the pack was first heard; NaN in its first half day"),
    Feature("temp_mean_c", "°C", "mean cell temperature over about 30 observed days"),
    Feature("share_below_10c", "1", "share of observed time with mean cell temperature below 10 °C"),
    Feature("share_above_30c", "1", "share above 30 °C: calendar ageing doubles every 10 to 15 K"),
    Feature("share_above_40c", "1", "share above 40 °C"),
    Feature("soc_mean_pct", "%", "mean state of charge over about 30 observed days"),
    Feature("share_soc_above_80", "1", "share of observed time above 80 % state of charge"),
    Feature("session_depth_pct", "%", "mean SoC span of charge sessions"),
    Feature("session_c_rate", "1/h", "mean current of charge sessions over rated capacity"),
    Feature(
        "c_rate_sq_30d", "1/h²", "mean square of current over rated capacity over about 30 observed days"
    ),
    _IS_LFP,
    _IS_NCA,
)

_FAILURE: Final = (
    _need("spread_mv", "mV", "highest minus lowest cell voltage, 10 min moving mean"),
    Feature("spread_rest_mv", "mV", "the same at rest, moving mean over 1 h of rest: what differs is charge"),
    Feature("spread_rest_trend_mv", "mV", "spread_rest_mv minus its mean over 5 d: a cell that drifts away"),
    Feature(
        "spread_load_mv",
        "mV",
        "spread above 0.2 C, moving mean over 30 min of load: what differs is resistance",
    ),
    Feature("spread_load_trend_mv", "mV", "spread_load_mv minus its mean over 5 d"),
    Feature("weak_cell_rest_mv", "mV", "mean minus lowest cell voltage at rest, over 1 h of rest"),
    Feature(
        "weak_cell_rest_trend_mv",
        "mV",
        "weak_cell_rest_mv minus its mean over 5 d: self-discharge of one group",
    ),
    Feature("residual_mv", "mV", "measured minus modelled cell voltage, 1 h moving mean"),
    Feature("residual_abs_mv", "mV", "its absolute value, 1 h moving mean"),
    Feature("residual_abs_trend_mv", "mV", "residual_abs_mv minus its mean over 5 d"),
    _RESISTANCE,
    Feature("resistance_trend_rel", "1", "resistance_rel minus its mean over 5 d"),
    Feature(
        "contact_mv",
        "mV",
        "extra pack voltage per cell in the direction of the current, above 0.2 C: contacts",
    ),
    Feature("contact_trend_mv", "mV", "contact_mv minus its mean over 5 d"),
    Feature("insulation_log10", "1", "log10 of insulation in Ω/V, 10 min moving mean (critical at 2.0)"),
    Feature("insulation_trend", "1", "insulation_log10 minus its mean over 5 d"),
    Feature("probe_spread_c", "°C", "highest minus lowest temperature probe, 10 min moving mean"),
    Feature("probe_spread_trend_c", "°C", "probe_spread_c minus its mean over 5 d"),
    Feature("over_coolant_c", "°C", "highest cell temperature minus coolant inlet, 30 min moving mean"),
    Feature("over_coolant_trend_c", "°C", "over_coolant_c minus its mean over 5 d: cooling that fails"),
    Feature("coolant_rise_c", "°C", "coolant outlet minus inlet, 30 min moving mean"),
    Feature(
        "soc_residual_pct",
        "%",
        "the BMS's SoC minus the twin's, 1 h moving mean: a current sensor that drifts",
    ),
    _need("cell_temp_max_c", "°C", "highest cell temperature now"),
    _need(
        "c_rate_sq_1h",
        "1/h²",
        "1 h moving mean of (current over rated capacity)²: tells hard use from a fault",
    ),
    Feature("resting", "1", "1 at rest, else 0"),
)

FEATURES: Final[dict[str, tuple[Feature, ...]]] = {
    "soh": _SOH,
    "temperature": _TEMPERATURE,
    "rul": _RUL,
    "failure": _FAILURE,
}
"""Inputs by model, in the order of the columns."""

REQUIRED: Final[dict[str, NDArray[np.intp]]] = {
    model: np.array([i for i, feature in enumerate(features) if feature.required])
    for model, features in FEATURES.items()
}
"""Columns by model without which there is no prediction."""


def names(model: str) -> tuple[str, ...]:
    """The model's inputs in column order."""
    return tuple(feature.name for feature in FEATURES[model])


def missing(model: str, vector: NDArray[np.float32]) -> list[str]:
    """Which required inputs a vector lacks: the reason of a null prediction; empty when it is complete."""
    features = FEATURES[model]
    return [features[i].name for i in REQUIRED[model] if not np.isfinite(vector[i])]
