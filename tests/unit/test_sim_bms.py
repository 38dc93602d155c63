"""What the simulated BMS makes of the truth: quantisation, its own SoC, invalid values, gaps, messages."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from sim_device import encode, faults
from sim_device.bms import NUMERIC, Bms
from sim_device.packs import CHEMISTRY_NAMES, draw_packs
from sim_device.plant import Plant
from voltflow.battery.chemistry import valid_ranges
from voltflow.telemetry import Telemetry, decode_telemetry

Floats = NDArray[np.float64]
START_S = 1.72e9
RESOLUTION = {
    "pack_voltage_v": 0.1, "pack_current_a": 0.1, "cell_voltage_min_v": 0.001, "cell_voltage_max_v": 0.001,
    "cell_voltage_avg_v": 0.001, "cell_temp_max_c": 1.0, "cell_temp_min_c": 1.0, "coolant_inlet_c": 0.5,
    "insulation_kohm": 1.0, "soh_bms_pct": 0.5, "speed_kmh": 0.1, "odometer_km": 0.1,
}  # fmt: skip


@pytest.fixture(scope="module")
def day() -> tuple[Bms, dict[str, Floats], dict[str, Floats]]:
    """A day of 120 packs at 30 s: what the BMS reports and what is true, arrays (time, pack)."""
    plant = Plant(draw_packs(120, seed=2), START_S)
    bms = Bms(plant, seed=2)
    reported: dict[str, list[Floats]] = {name: [] for name in (*NUMERIC, "published")}
    true: dict[str, list[Floats]] = {"soc": [], "spread": []}
    for _ in range(2880):
        truth = plant.step(30.0)
        for name, column in bms.read(truth, 30.0).items():
            reported[name].append(column.copy())
        reported["published"].append(bms.published)
        true["soc"].append(truth.soc)
    stacked = {name: np.stack(rows) for name, rows in reported.items()}
    return bms, stacked, {"soc": np.stack(true["soc"])}


@pytest.mark.parametrize("name", list(RESOLUTION))
def test_values_are_quantised_as_in_the_field(day: tuple[Bms, dict[str, Floats], object], name: str) -> None:
    values = day[1][name]
    steps = values[~np.isnan(values)] / RESOLUTION[name]
    assert np.abs(steps - np.rint(steps)).max() < 1e-6 * max(1.0, np.abs(steps).max())


def test_soc_resolution_is_a_tenth_or_one_percent(day: tuple[Bms, dict[str, Floats], object]) -> None:
    bms, values, _ = day
    whole = np.all(values["soc_pct"] == np.rint(values["soc_pct"]), axis=0)
    assert (whole == (bms.packs.soc_resolution == 1.0)).all()


def test_soc_error_is_larger_for_lfp(day: tuple[Bms, dict[str, Floats], dict[str, Floats]]) -> None:
    """The flat curve tells an LFP BMS nothing at rest."""
    bms, values, true = day
    error = np.abs(values["soc_pct"] - 100.0 * true["soc"]).mean(axis=0)
    by_name = {n: error[bms.packs.chemistry == i].mean() for i, n in enumerate(CHEMISTRY_NAMES)}
    assert by_name["LFP"] > 1.5 * by_name["NMC"]
    assert 0.2 < by_name["NMC"] < 3.0


def test_cell_and_probe_spread_are_those_of_real_packs(day: tuple[Bms, dict[str, Floats], object]) -> None:
    bms, values, _ = day
    nmc = bms.packs.chemistry == CHEMISTRY_NAMES.index("NMC")
    cells_v = (values["cell_voltage_max_v"] - values["cell_voltage_min_v"])[:, nmc]
    probes_c = values["cell_temp_max_c"] - values["cell_temp_min_c"]
    assert 0.012 <= np.nanmedian(cells_v) <= 0.030
    assert 1.0 <= np.nanmedian(probes_c) <= 4.0


def test_values_of_sound_packs_are_in_the_valid_ranges(day: tuple[Bms, dict[str, Floats], object]) -> None:
    bms, values, _ = day
    for i, name in enumerate(bms.packs.chemistry_names()):
        ranges = valid_ranges(name, int(bms.packs.cells_series[i]))
        for field in NUMERIC:
            if field in ranges:
                column = values[field][:, i]
                low, high = ranges[field]
                assert np.nanmin(column) >= low, field
                assert np.nanmax(column) <= high, field


def test_sensors_fail_now_and_then_and_a_few_packs_often(day: tuple[Bms, dict[str, Floats], object]) -> None:
    missing = np.isnan(day[1]["cell_voltage_min_v"]).mean(axis=0)
    assert 0.0 < missing[missing < 0.05].mean() < 0.002
    assert 1 <= (missing > 0.05).sum() <= 15


def test_gaps_last_minutes_to_hours(day: tuple[Bms, dict[str, Floats], object]) -> None:
    sent = day[1]["published"].astype(bool)
    assert 0.3 < sent.mean() < 0.9
    lengths = []
    for column in sent.T:
        edges = np.diff(np.concatenate([[1], column.astype(int), [1]]))
        lengths += list(np.flatnonzero(edges == 1) - np.flatnonzero(edges == -1))
    hours = np.array(lengths) * 30.0 / 3600.0
    assert np.mean(hours * 60 > 1.0) > 0.5
    assert 0.5 <= np.sum(hours > 1.0) / sent.shape[1] <= 6.0


def test_without_gaps_every_message_is_sent() -> None:
    plant = Plant(draw_packs(50, seed=3), START_S)
    bms = Bms(plant, seed=3, gaps=False)
    for _ in range(300):
        bms.read(plant.step(30.0), 30.0)
        assert bms.published.all()


def first_message(bms: Bms, plant: Plant, pack: int = 0) -> Telemetry:
    values = bms.read(plant.step(1.0), 1.0)
    return decode_telemetry(encode.Reading(bms, values, 7, 1_720_000_000_000).encode(pack, 4, 99))


def test_message_has_the_charging_sign_and_the_key() -> None:
    packs = draw_packs(30, seed=4)
    plant = Plant(packs, START_S, busy=True)
    charging = int(np.flatnonzero(plant.duty.mode == 2)[0])
    message = first_message(Bms(plant, seed=4), plant, charging)
    assert (message.pack, message.boot, message.seq, message.sent_ms) == (packs.id[charging], 7, 4, 99)
    assert message.charging_state == "charging"
    assert message.pack_current_a is not None
    assert message.pack_current_a > 1.0  # positive: into the battery
    assert isinstance(message.cell_voltage_min_id, int)


def test_invalid_value_is_null_and_named() -> None:
    plant = Plant(draw_packs(3, seed=5), START_S)
    bms = Bms(plant, seed=5)
    values = bms.read(plant.step(1.0), 1.0)
    values["cell_temp_max_c"][1] = np.nan
    message = decode_telemetry(encode.Reading(bms, values, 7, 0).encode(1, 0, 0))
    assert message.cell_temp_max_c is None
    assert "cell_temp_max_c" in message.quality.invalid


def test_low_insulation_is_an_alarm_with_its_code() -> None:
    packs = draw_packs(2, seed=6)
    ended = np.full(2, START_S)
    defects = faults.Faults(np.full(2, faults.INSULATION), ended - 9e5, ended, np.ones(2))
    plant = Plant(packs, START_S, defects=defects)
    message = first_message(Bms(plant, seed=6, gaps=False), plant)
    assert message.alarm_level == 3
    assert message.dtc == ["P0AA6"]


def test_birth_is_the_nameplate() -> None:
    packs = replace(draw_packs(1, seed=1), capacity_rated_ah=np.array([150.0]))
    (state,) = encode.birth(packs, 5, 6)
    assert (state.pack, state.online, state.boot, state.capacity_rated_ah) == ("SIM000000", True, 5, 150.0)
    assert state.cells_series == int(packs.cells_series[0])
