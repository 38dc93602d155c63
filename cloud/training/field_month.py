"""A raw vehicle month (GB/T 32960, 0.1 Hz) through the gateway's twin: rows of the temperature model."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cloud.training.labels import TEMPERATURE_HORIZON_S
from cloud.training.rows import Rows
from voltflow.battery.chemistry import valid_ranges
from voltflow.battery.twin_states import TwinStates

F64 = NDArray[np.float64]
LATEST_MS = 60_000
"""The measurement that counts as "600 s later" comes at most this much after."""
COLUMNS = {
    "speed_kmh": "speed_kmh", "odometer_km": "odometer_km", "pack_voltage_V": "pack_voltage_v",
    "soc_pct": "soc_pct", "cell_voltage_max_V": "cell_voltage_max_v", "cell_voltage_min_V": "cell_voltage_min_v",
    "cell_temp_max_C": "cell_temp_max_c", "cell_temp_min_C": "cell_temp_min_c",
}  # fmt: skip
CHARGING = 1.0


class Vehicle(NamedTuple):
    """What the data's page says of a vehicle; the number of cells is taken from its voltages."""

    chemistry: str
    capacity_rated_ah: float


VEHICLES = {"V01": Vehicle("NMC", 150.0), "V08": Vehicle("LFP", 645.0), "V09": Vehicle("LFP", 505.0)}


def read_month(path: Path) -> dict[str, F64]:
    """Telemetry columns of a file: current turned positive into the battery, impossible values NaN."""
    with path.open(newline="") as file:
        header, *lines = csv.reader(file)
    table = dict(zip(header, zip(*lines, strict=True), strict=True))
    numbers = {to: _numbers(table[source]) for source, to in COLUMNS.items()}
    numbers["pack_current_a"] = -_numbers(table["pack_current_A"])
    state = _numbers(table["charging_state"])
    numbers["charging"] = np.where(np.isnan(state), np.nan, (state == CHARGING).astype(float))
    times = np.array(table["timestamp_placeholder_year"], dtype="datetime64[ms]")
    numbers["ts_ms"] = times.astype(np.int64).astype(np.float64)
    order = np.argsort(numbers["ts_ms"], kind="stable")
    return _plausible({name: column[order] for name, column in numbers.items()}, VEHICLES[path.stem])


def _numbers(texts: tuple[str, ...]) -> F64:
    return np.array([float(text) if text else np.nan for text in texts])


def _plausible(columns: dict[str, F64], vehicle: Vehicle) -> dict[str, F64]:
    """What the gateway's validation does: a value outside its physical range is missing."""
    for name, (low, high) in valid_ranges(vehicle.chemistry).items():
        if name in columns:
            values = columns[name]
            columns[name] = np.where((values >= low) & (values <= high), values, np.nan)
    return columns


def field_rows(path: Path) -> Rows:
    """Feature rows of one vehicle's month with the temperature measured 600 s later; groups are vehicle-days."""
    columns, vehicle = read_month(path), VEHICLES[path.stem]
    cells = np.nanmedian(columns["pack_voltage_v"] / columns["cell_voltage_max_v"])
    twins = TwinStates()
    slot = twins.slot_for(f"field/{path.stem}")
    twins.set_nameplate(
        slot, vehicle.chemistry, capacity_rated_ah=vehicle.capacity_rated_ah, cells_series=round(cells)
    )
    found = twins.run(np.full(len(columns["ts_ms"]), slot), columns).features["temperature"]
    at = found.rows[found.ready]
    target = _later(columns)[at]
    known = np.isfinite(target)
    ts_ms = columns["ts_ms"][at][known].astype(np.int64)
    days = np.char.add(f"{path.stem}/", (ts_ms // 86_400_000).astype(str))
    visit = np.zeros(len(ts_ms), np.int64)
    return Rows(found.values[found.ready][known], target[known], days, visit, ts_ms, {})


def _later(columns: dict[str, F64]) -> F64:
    """For each message the first valid temperature from 600 s on, as the gateway joins it; NaN if none comes soon."""
    valid = np.isfinite(columns["cell_temp_max_c"])
    times, temps = columns["ts_ms"][valid], columns["cell_temp_max_c"][valid]
    due = columns["ts_ms"] + TEMPERATURE_HORIZON_S * 1000
    place = np.minimum(np.searchsorted(times, due), len(times) - 1)
    late = times[place] - due
    return np.where((late >= 0) & (late <= LATEST_MS), temps[place], np.nan)
