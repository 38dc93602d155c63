"""The kernel's three forms agree, however a batch is cut; late rows change nothing; NaN never stays."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from voltflow.battery import twin_states
from voltflow.battery.compiled import EMITTED, ESTIMATES, INPUTS, PACK, STATE
from voltflow.battery.features import FEATURES
from voltflow.battery.kernel import step
from voltflow.battery.nameplate import Nameplate, pack_data
from voltflow.battery.records import Pack, Row, State, Work
from voltflow.battery.snapshot import SnapshotError
from voltflow.battery.twin_states import Outputs, TwinStates

NAMEPLATES = [Nameplate("NMC", 150.0, 96), Nameplate("LFP", 645.0, 180), Nameplate("NCA", 230.0, None),
              Nameplate(None, 100.0, 96), Nameplate("NMC", None, 96)]  # fmt: skip
Columns = dict[str, NDArray[np.float64]]


def random_fleet(seed: int, packs: int, rows: int) -> tuple[NDArray[np.intp], Columns]:
    """Messages of some hours in random order of packs: charges, drives, rests, gaps, missing values."""
    rng = np.random.default_rng(seed)
    n = packs * rows
    slots = rng.permutation(np.repeat(np.arange(packs), rows))
    place = np.empty(n, np.intp)
    for slot in range(packs):
        place[slots == slot] = np.arange(rows)
    dt_ms = rng.choice(
        [500.0, 1000.0, 10_000.0, 60_000.0, 400_000.0, 4e6],
        (packs, rows),
        p=[0.2, 0.2, 0.5, 0.06, 0.03, 0.01],
    )
    phase = (np.arange(rows)[None, :] // 60 + np.arange(packs)[:, None]) % 3
    c_rate = np.choose(
        phase, [np.full((packs, rows), 0.5), -rng.random((packs, rows)), np.zeros((packs, rows))]
    )
    soc = np.clip(0.3 + np.cumsum(c_rate * np.minimum(dt_ms, 1e5) / 3.6e6, axis=1), 0.02, 0.99)
    volts = 3.2 + 0.9 * soc + 0.05 * c_rate + rng.normal(0.0, 0.002, soc.shape)
    temp = np.round(20.0 + 12.0 * rng.random((packs, rows)))
    table = {
        "ts_ms": 1.7e12 + np.cumsum(dt_ms, axis=1), "charging": (phase == 0).astype(float), "soc_pct": np.round(100 * soc),
        "pack_current_a": 150.0 * c_rate, "pack_voltage_v": 96 * volts, "cell_voltage_avg_v": volts,
        "cell_voltage_min_v": volts - 0.01, "cell_voltage_max_v": volts + 0.012, "cell_temp_min_c": temp - 2,
        "cell_temp_max_c": temp + 1, "cell_temp_avg_c": temp, "coolant_inlet_c": temp - 5, "coolant_outlet_c": temp - 4,
        "ambient_c": temp - 8, "insulation_kohm": 3000 + 100 * rng.random((packs, rows)),
        "speed_kmh": np.where(phase == 1, 60.0, 0.0), "efc": 100 + np.cumsum(np.abs(c_rate), axis=1) / 500,
    }  # fmt: skip
    assert set(table) == set(INPUTS)
    for name in INPUTS[1:]:
        table[name] = np.where(rng.random((packs, rows)) < 0.05, np.nan, table[name])
    return slots, {name: values[slots, place] for name, values in table.items()}


def fleet_twins(packs: int) -> TwinStates:
    twins = TwinStates()
    for i in range(packs):
        twins.set_nameplate(twins.slot_for(f"fleet/{i}"), *NAMEPLATES[i % len(NAMEPLATES)])
    return twins


def everything(
    twins: TwinStates, slots: NDArray[np.intp], columns: Columns, cuts: list[int]
) -> dict[str, Any]:
    """Outputs of the batches between the cuts, put together, and the state at the end."""
    edges = [0, *sorted(cuts), len(slots)]
    parts: list[tuple[int, Outputs]] = [
        (a, twins.run(slots[a:b], {k: v[a:b] for k, v in columns.items()}))
        for a, b in itertools.pairwise(edges)
    ]
    joined: dict[str, Any] = {"state": twins.snapshot()}
    joined["late"] = np.concatenate([out.late for _, out in parts])
    for name in parts[0][1].estimates:
        joined[name] = np.concatenate([out.estimates[name] for _, out in parts])
    for model in FEATURES:
        joined[f"{model} rows"] = np.concatenate([a + out.features[model].rows for a, out in parts])
        joined[f"{model} values"] = np.concatenate([out.features[model].values for _, out in parts])
    joined["sessions"] = np.concatenate([a + out.sessions.rows for a, out in parts])
    joined["capacity"] = np.concatenate([out.sessions.capacity_est_ah for _, out in parts])
    return joined


def assert_same(a: dict[str, Any], b: dict[str, Any]) -> None:
    for name, values in a.items():
        if isinstance(values, bytes):
            state_a, state_b = (TwinStates.restore(d[name])._state for d in (a, b))
            np.testing.assert_allclose(state_a, state_b, rtol=1e-9, atol=1e-12, err_msg=name)
        else:
            np.testing.assert_allclose(values, b[name], rtol=1e-9, atol=1e-12, err_msg=name)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1), packs=st.integers(1, 9), cuts=st.lists(st.integers(0, 2000), max_size=8)
)
def test_any_interleaving_and_any_cut_give_the_same(seed: int, packs: int, cuts: list[int]) -> None:
    """Loop and numpy forms, one batch and many, the same to the last bits."""
    slots, columns = random_fleet(seed, packs, 240)
    cuts = [cut % len(slots) for cut in cuts]
    results = []
    for vector_rows, chosen in ((10**9, []), (1, []), (3, cuts)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(twin_states, "VECTOR_ROWS", vector_rows)
            results.append(everything(fleet_twins(packs), slots, columns, chosen))
    assert_same(results[0], results[1])
    assert_same(results[0], results[2])


def test_fast_forms_equal_the_plain_step() -> None:
    """The kernel as it is written, called row by row, is what the derived forms compute."""
    slots, columns = random_fleet(7, 5, 400)
    out = fleet_twins(5).run(slots, columns)
    emitted: dict[str, list[tuple[int, list[float]]]] = {kind: [] for kind in EMITTED}
    plain = np.full((len(ESTIMATES), len(slots)), np.nan)
    for slot in range(5):
        data: dict[str, Any] = dict(zip(PACK, pack_data(NAMEPLATES[slot]), strict=True))
        pack = Pack(**{name: int(v) if name.endswith("_base") else v for name, v in data.items()})
        state = State()
        for i in np.flatnonzero(slots == slot).tolist():
            work = Work()
            step(state, Row(**{name: float(columns[name][i]) for name in INPUTS}), pack, work)
            plain[:, i] = state.soc, state.p00, work.r0_ohm, work.residual_v
            for kind, values in work.emitted:
                emitted[kind].append((i, [values[name] for name in EMITTED[kind]]))
    np.testing.assert_allclose(out.estimates["soc_pct"], 100 * plain[0], rtol=1e-9)
    np.testing.assert_allclose(out.estimates["voltage_residual_mv"], 1000 * plain[3], rtol=1e-9, atol=1e-9)
    for model in FEATURES:
        rows = sorted(emitted[model])
        assert [row for row, _ in rows] == out.features[model].rows.tolist()
        if rows:
            expected = np.array([values for _, values in rows], np.float32)
            np.testing.assert_allclose(
                out.features[model].values.astype(float), expected.astype(float), rtol=1e-6
            )
    assert len(emitted["session"]) == len(out.sessions.rows) > 0


@pytest.mark.parametrize("vector_rows", [1, 10**9])
def test_late_and_repeated_rows_change_nothing(vector_rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(twin_states, "VECTOR_ROWS", vector_rows)
    slots, columns = random_fleet(3, 4, 200)
    once, doubled = fleet_twins(4), fleet_twins(4)
    first = once.run(slots, columns)
    twice = doubled.run(np.repeat(slots, 2), {name: np.repeat(v, 2) for name, v in columns.items()})
    assert not first.late.any()
    assert twice.late[1::2].all()
    assert not twice.late[::2].any()
    assert np.isnan(twice.estimates["soc_pct"][1::2]).all()
    before = doubled.snapshot()
    assert before == once.snapshot()
    earlier = doubled.run(slots, columns | {"ts_ms": columns["ts_ms"] - 1e9})
    assert earlier.late.all()
    assert all(len(rows.rows) == 0 for rows in earlier.features.values())
    assert doubled.snapshot() == before


def test_nan_does_not_stay() -> None:
    """What was known before an hour of messages without any value is known after it."""
    slots, columns = random_fleet(11, 1, 200)
    for name in INPUTS[1:]:
        columns[name][100:] = np.nan
    twins = fleet_twins(1)
    twins.run(slots[:100], {name: values[:100] for name, values in columns.items()})
    before = np.isfinite(twins._state[0])
    before[STATE.index("voltage_v")] = False  # the last message's, for steps between two
    out = twins.run(slots[100:], {name: values[100:] for name, values in columns.items()})
    assert np.isfinite(twins._state[0])[before].all()
    assert np.isfinite(out.estimates["soc_pct"]).all()


def test_empty_batch_and_absent_columns() -> None:
    twins = fleet_twins(1)
    empty = twins.run(np.array([], np.intp), {"ts_ms": np.array([])})
    assert len(empty.late) == 0
    out = twins.run(np.array([0, 0]), {"ts_ms": np.array([0.0, 1e4])})
    assert not out.late.any()
    assert out.features["temperature"].ready.tolist() == [False, False]


def test_nameplate_again_keeps_the_estimate_and_another_starts_anew() -> None:
    slots, columns = random_fleet(5, 1, 100)
    twins = fleet_twins(1)
    twins.run(slots, columns)
    before = twins.snapshot()
    twins.set_nameplate(0, *NAMEPLATES[0])
    assert twins.snapshot() == before
    twins.set_nameplate(0, "LFP", 150.0, 96)
    assert twins.last_ms(0) == columns["ts_ms"].max()
    assert np.isnan(twins._state[0, STATE.index("soc")])


def test_snapshot_goes_on_where_it_was() -> None:
    slots, columns = random_fleet(9, 4, 100)
    half = len(slots) // 2
    whole, first = fleet_twins(4), fleet_twins(4)
    whole.run(slots, columns)
    first.run(slots[:half], {k: v[:half] for k, v in columns.items()})
    second = TwinStates.restore(first.snapshot())
    second.run(slots[half:], {k: v[half:] for k, v in columns.items()})
    assert second.snapshot() == whole.snapshot()
    assert second.slot_for("fleet/2") == 2
    with pytest.raises(SnapshotError, match="damaged"):
        TwinStates.restore(first.snapshot()[:-9] + b"123456789")


def test_many_packs_grow_the_arrays() -> None:
    twins = fleet_twins(1000)
    out = twins.run(np.arange(1000), {"ts_ms": np.zeros(1000), "soc_pct": np.full(1000, 50.0)})
    assert len(twins) == 1000
    assert not out.late.any()
