"""The twin's estimator on packs whose truth is known: an own circuit of two RC elements with its own resistance."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from voltflow.battery.chemistry import CHEMISTRIES, ocv_v
from voltflow.battery.twin_states import Outputs, TwinStates

F64 = NDArray[np.float64]
CAPACITY_AH, CELLS = 150.0, 96
WLTC_LIKE_A = (-60.0, -140.0, 30.0, 0.0, -220.0, -90.0, 60.0, -30.0)


def measured(chemistry: str, current_a: F64, dt_s: float, soc: float, *, r_scale: float = 1.0,
             soh: float = 1.0, seed: int = 1) -> dict[str, F64]:  # fmt: skip
    """What an ideal BMS of a pack with two RC elements reports; `soc` is the true start, SoC in `true_soc_pct`."""
    cell = CHEMISTRIES[chemistry]
    rng = np.random.default_rng(seed)
    r0, r1, r2 = (
        r_scale * r / CAPACITY_AH / 1000.0 for r in (cell.r0_mohm_ah, cell.r1_mohm_ah, cell.r2_mohm_ah)
    )
    a1, a2 = np.exp(-dt_s / cell.tau1_s), np.exp(-dt_s / cell.tau2_s)
    v1 = v2 = 0.0
    volts, socs = np.empty(len(current_a)), np.empty(len(current_a))
    for i, amps in enumerate(current_a):
        if i:
            mean_a = 0.5 * (amps + current_a[i - 1])
            soc += mean_a * dt_s / 3600.0 / (CAPACITY_AH * soh)
            v1, v2 = a1 * v1 + (1 - a1) * r1 * mean_a, a2 * v2 + (1 - a2) * r2 * mean_a
        volts[i] = ocv_v(chemistry, soc) + v1 + v2 + r0 * amps
        socs[i] = 100.0 * soc
    volts = np.round(volts + rng.normal(0.0, 0.001, len(volts)), 3)
    return {
        "ts_ms": 1000.0 * dt_s * np.arange(len(current_a)),
        "charging": (current_a > 20.0).astype(float),
        "pack_current_a": current_a,
        "cell_voltage_avg_v": volts,
        "cell_voltage_min_v": volts - 0.01,
        "cell_voltage_max_v": volts + 0.01,
        "pack_voltage_v": CELLS * volts,
        "cell_temp_min_c": np.full(len(volts), 24.0),
        "cell_temp_max_c": np.full(len(volts), 26.0),
        "efc": np.full(len(volts), 300.0),
        "true_soc_pct": socs,
    }


def run(
    columns: dict[str, F64], chemistry: str | None = "NMC", capacity_ah: float | None = CAPACITY_AH
) -> Outputs:
    twins = TwinStates()
    slot = twins.slot_for("f/p")
    twins.set_nameplate(slot, chemistry, capacity_ah, CELLS)
    return twins.run(np.full(len(columns["ts_ms"]), slot), columns)


def test_constant_current_discharge_is_the_coulomb_count() -> None:
    """Without any voltage or BMS SoC after the first row there is nothing but counting."""
    columns = measured("NMC", np.full(3600, -75.0), 1.0, 0.8, soh=0.95)
    columns["soc_pct"] = np.where(np.arange(3600) == 0, 80.0, np.nan)
    for name in ("cell_voltage_avg_v", "cell_voltage_min_v", "cell_voltage_max_v", "pack_voltage_v"):
        columns[name][:] = np.nan
    soc = run(columns).estimates["soc_pct"]
    expected = soc[0] - 75.0 * np.arange(3600) / 3600.0 / (CAPACITY_AH * 0.95) * 100.0
    # The very first interval has no current before it.
    assert np.abs(soc - expected).max() < 0.02


@pytest.mark.parametrize("start_pct", [20.0, 50.0, 95.0])
def test_wrong_first_soc_converges_on_nmc(start_pct: float) -> None:
    current = np.tile(np.repeat(WLTC_LIKE_A, 20), 30)
    columns = measured("NMC", current, 1.0, 0.75, soh=0.95)
    columns["soc_pct"] = np.where(np.arange(len(current)) == 0, start_pct, np.nan)
    error = run(columns).estimates["soc_pct"] - columns["true_soc_pct"]
    assert np.abs(error[1800:]).max() < 2.0


def test_soc_is_not_a_copy_of_the_bms() -> None:
    """A BMS that is 12 % off moves the estimate of an NMC pack by little; the rest shows in the residual."""
    current = np.tile(np.repeat(WLTC_LIKE_A, 20), 30)
    columns = measured("NMC", current, 1.0, 0.75)
    columns["soc_pct"] = columns["true_soc_pct"] - 12.0
    estimates = run(columns).estimates
    assert np.abs(estimates["soc_pct"] - columns["true_soc_pct"])[1800:].max() < 3.0
    assert np.median(estimates["soc_residual_pct"][1800:]) < -9.0


def test_sigma_is_honest_on_lfp_plateau() -> None:
    """Without a first SoC an LFP pack on its plateau is not known, and the twin says so."""
    columns = measured("LFP", np.full(600, -1.0), 1.0, 0.5)
    estimates = run(columns, "LFP").estimates
    assert estimates["soc_sigma_pct"][-1] > 5.0
    assert run(measured("NMC", np.full(600, -1.0), 1.0, 0.5)).estimates["soc_sigma_pct"][-1] < 4.0


@pytest.mark.parametrize("chemistry", ["NMC", "LFP", "NCA"])
@pytest.mark.parametrize("r_scale", [0.7, 1.0, 1.6])
@pytest.mark.parametrize("dt_s", [0.5, 1.0])
def test_resistance_from_pulses_within_15_percent(chemistry: str, r_scale: float, dt_s: float) -> None:
    current = np.tile(np.repeat(WLTC_LIKE_A, int(10 / dt_s)), 40)
    columns = measured(chemistry, current, dt_s, 0.8, r_scale=r_scale)
    columns["soc_pct"] = columns["true_soc_pct"]
    true_mohm = r_scale * CHEMISTRIES[chemistry].r0_mohm_ah / CAPACITY_AH
    assert run(columns, chemistry).estimates["resistance_mohm"][-1] == pytest.approx(true_mohm, rel=0.15)


def charge_profile(hours: float, dt_s: float) -> F64:
    steps = int(hours * 3600 / dt_s)
    return np.concatenate([np.zeros(int(1200 / dt_s)), np.full(steps, 50.0), np.zeros(int(900 / dt_s))])


@pytest.mark.parametrize("dt_s", [1.0, 10.0])
@pytest.mark.parametrize("soh", [0.8, 1.0])
def test_charge_session_tells_capacity(dt_s: float, soh: float) -> None:
    columns = measured("NMC", charge_profile(1.6, dt_s), dt_s, 0.2, soh=soh)
    columns["soc_pct"] = columns["true_soc_pct"]
    out = run(columns)
    assert len(out.sessions.rows) == 1
    assert out.sessions.charge_ah[0] == pytest.approx(80.0, rel=0.01)
    assert out.sessions.capacity_est_ah[0] == pytest.approx(CAPACITY_AH * soh, rel=0.06)
    assert out.sessions.temp_avg_c[0] == pytest.approx(25.0, abs=0.5)
    soh_rows = out.features["soh"]
    assert list(soh_rows.rows) == list(out.sessions.rows)
    assert soh_rows.ready.all()


def test_charge_with_a_gap_of_minutes_is_one_session() -> None:
    columns = measured("NMC", charge_profile(1.6, 10.0), 10.0, 0.2)
    columns["soc_pct"] = columns["true_soc_pct"]
    keep = np.ones(len(columns["ts_ms"]), bool)
    keep[300:360] = False  # ten minutes
    out = run({name: values[keep] for name, values in columns.items()})
    assert len(out.sessions.rows) == 1
    assert out.sessions.charge_ah[0] == pytest.approx(80.0, rel=0.02)


def test_charge_with_a_gap_of_a_day_is_two_sessions() -> None:
    columns = measured("NMC", charge_profile(1.6, 10.0), 10.0, 0.2)
    columns["soc_pct"] = columns["true_soc_pct"]
    columns["ts_ms"][400:] += 86_400_000.0
    assert len(run(columns).sessions.rows) == 2


def test_unknown_capacity_gives_no_electrical_estimate() -> None:
    out = run(measured("NMC", charge_profile(0.5, 10.0), 10.0, 0.2), capacity_ah=None)
    assert np.isnan(out.estimates["soc_pct"]).all()
    assert not out.features["temperature"].ready.any()
    assert len(out.sessions.rows) == 0


def test_unknown_chemistry_counts_from_the_bms() -> None:
    columns = measured("NMC", charge_profile(0.5, 10.0), 10.0, 0.2)
    columns["soc_pct"] = columns["true_soc_pct"]
    estimates = run(columns, None).estimates
    assert np.abs(estimates["soc_pct"] - columns["true_soc_pct"]).max() < 2.0
    assert np.isnan(estimates["voltage_residual_mv"]).all()


@pytest.mark.parametrize("source", ["avg", "min_max", "pack"])
def test_average_cell_voltage_falls_back(source: str) -> None:
    columns = measured("NMC", np.tile(np.repeat(WLTC_LIKE_A, 20), 10), 1.0, 0.75)
    lost = {"avg": (), "min_max": ("avg",), "pack": ("avg", "min")}[source]
    for name in lost:
        columns[f"cell_voltage_{name}_v"][:] = np.nan
    estimates = run(columns).estimates
    assert np.isfinite(estimates["voltage_residual_mv"]).all()
    assert abs(estimates["soc_pct"][-1] - columns["true_soc_pct"][-1]) < 3.0
