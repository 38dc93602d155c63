"""Charge and discharge sessions: where they begin and end, what moved, what was measured, what survives a restart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edge import pack_views
from edge.sessions import KEPT, PAUSE_MS, SILENCE_MS, SessionLog, SessionRow
from edge.snapshot import copy_twins, restore_twins
from edge.twin import TwinStore
from tests.gateway import START_MS, Gateway, ask, request
from voltflow.telemetry import Session, Telemetry

HOUR_MS = 3_600_000


def point(ts_ms: int, current_a: float | None, **fields: Any) -> Telemetry:
    fields = {"pack_voltage_v": 400.0, "cell_temp_max_c": 25.0, **fields}
    return Telemetry("bms.telemetry/1", "P1", 1, 0, ts_ms, pack_current_a=current_a, **fields)


def charge(log: SessionLog, start_ms: int, minutes: int = 60, *, soc_pct: float = 20.0) -> int:
    """50 A for so long, with counters and a degree more every 10 minutes; when it ended."""
    for second in range(0, minutes * 60 + 1, 10):
        charged = 100.0 + 50.0 * second / 3600
        log.see(
            point(start_ms + second * 1000, 50.0, charging_state="charging", cell_temp_max_c=25.0 + second / 600,
                  charge_throughput_ah=charged, discharge_throughput_ah=70.0),
            soc_pct + 50.0 * second / 3600,
        )  # fmt: skip
    return start_ms + minutes * 60_000


def test_a_charge_is_followed_to_its_end() -> None:
    log = SessionLog()
    end_ms = charge(log, START_MS)
    (now,) = log.rows(10)
    assert (now.kind, now.start_ms, now.end_ms) == ("charge", START_MS, None)
    log.see(point(end_ms + PAUSE_MS, 0.0, charging_state="complete"), 70.0)
    assert log.rows(10)[0].end_ms is None, "it may only be a pause"
    log.see(point(end_ms + PAUSE_MS + 1, 0.0, charging_state="complete"), 70.0)
    (ended,) = log.rows(10)
    assert ended == ("charge", START_MS, end_ms, 20.0, 70.0, 20.0, 50.0, 31.0, None)


def test_a_gap_loses_nothing_of_what_the_counters_tell() -> None:
    log = SessionLog()
    for minute in (0, 1, 25, 26):
        log.see(point(START_MS + minute * 60_000, -100.0, vehicle_state="driving",
                      charge_throughput_ah=5.0, discharge_throughput_ah=70.0 + 2 * minute), 80.0)  # fmt: skip
    assert (log.rows(1)[0].kind, log.rows(1)[0].charge_ah, log.rows(1)[0].energy_kwh) == (
        "discharge",
        52.0,
        20.8,
    )


def test_without_counters_the_current_is_integrated_but_not_over_a_gap() -> None:
    log = SessionLog()
    for minute in (0, 1, 2, 22):
        log.see(point(START_MS + minute * 60_000, -60.0), None)
    (row,) = log.rows(1)
    assert (row.charge_ah, row.soc_from_pct, row.soc_to_pct) == (3.0, None, None)


def test_a_counter_that_begins_anew_does_not_count() -> None:
    log = SessionLog()
    for second, charged in ((0, 9000.0), (60, 9001.0), (120, 0.0)):
        log.see(point(START_MS + second * 1000, 60.0, charging_state="charging", charge_throughput_ah=charged,
                      discharge_throughput_ah=0.0), 50.0)  # fmt: skip
    assert log.rows(1)[0].charge_ah == 2.0


def test_recuperation_is_taken_off_and_does_not_end_a_drive() -> None:
    log = SessionLog()
    for second in range(0, 601, 10):
        current_a = 30.0 if second % 60 == 0 else -60.0
        log.see(point(START_MS + second * 1000, current_a, vehicle_state="driving"), 60.0)
    (row,) = log.rows(5)
    assert row.charge_ah == pytest.approx((50 * 60 - 10 * 30) / 360, abs=0.01)


def test_recuperation_does_not_end_a_drive_of_which_only_the_current_is_known() -> None:
    log = SessionLog()
    for second in range(0, 1201, 10):
        log.see(point(START_MS + second * 1000, 30.0 if second % 60 >= 40 else -60.0), 60.0)
    (drive,) = log.rows(5)
    assert (drive.kind, drive.start_ms, drive.end_ms) == ("discharge", START_MS, None)
    assert drive.charge_ah == pytest.approx(20 * (40 * 60 - 20 * 30) / 3600, abs=0.2)


def test_current_that_goes_on_the_other_way_is_another_session_from_where_it_turned() -> None:
    log = SessionLog()
    for second in range(0, 301, 10):
        log.see(point(START_MS + second * 1000, -60.0), 60.0)
    turned_ms = START_MS + 310_000
    for second in range(0, 61, 10):
        assert [row.kind for row in log.rows(5)] == ["discharge"], "it may be recuperation"
        log.see(point(turned_ms + second * 1000, 50.0), 55.0 + second / 60)
    charge, drive = log.rows(5)
    assert (charge.kind, charge.start_ms, charge.soc_from_pct, charge.soc_to_pct) == (
        "charge", turned_ms, 55.0, 56.0,
    )  # fmt: skip
    assert charge.charge_ah == pytest.approx(50 / 60, abs=0.01)
    assert (drive.end_ms, drive.charge_ah, drive.soc_to_pct) == (START_MS + 300_000, 5.0, 60.0)


def test_current_that_turns_is_another_session_at_once_where_the_device_says_so() -> None:
    log = SessionLog()
    log.see(point(START_MS, -60.0), 60.0)
    log.see(point(START_MS + 60_000, -60.0), 60.0)
    log.see(point(START_MS + 70_000, 50.0), 60.0)
    log.see(point(START_MS + 80_000, 50.0, charging_state="charging"), 60.0)
    assert [(row.kind, row.start_ms, row.end_ms) for row in log.rows(5)] == [
        ("charge", START_MS + 70_000, None), ("discharge", START_MS, START_MS + 60_000),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("gap_ms", "sessions"), [(SILENCE_MS, 1), (SILENCE_MS + 1, 2)], ids=["a gap", "long silence"]
)
def test_after_a_long_silence_it_is_another_session(gap_ms: int, sessions: int) -> None:
    log = SessionLog()
    end_ms = charge(log, START_MS, minutes=2)
    charge(log, end_ms + gap_ms, minutes=2)
    assert len(log.rows(5)) == sessions


def test_a_charge_that_follows_a_drive_at_once_is_one_of_its_own_and_short_ones_are_not_kept() -> None:
    log = SessionLog()
    log.see(point(START_MS, -50.0), 80.0)
    log.see(point(START_MS + 90_000, -50.0), 79.0)
    log.see(point(START_MS + 100_000, 50.0, charging_state="charging"), 79.0)  # plugged in for a moment
    log.see(point(START_MS + 110_000, -50.0, charging_state="not_charging"), 79.0)
    assert [row.kind for row in log.rows(5)] == ["discharge", "discharge"]
    assert [row.end_ms for row in log.rows(5)] == [None, START_MS + 90_000]


def test_the_last_ones_are_kept_newest_first() -> None:
    log = SessionLog()
    for day in range(KEPT + 5):
        charge(log, START_MS + day * 24 * HOUR_MS, minutes=2)
    starts = [(row.start_ms - START_MS) // (24 * HOUR_MS) for row in log.rows(100)]
    assert starts == list(range(KEPT + 4, 3, -1))
    assert len(log.rows(3)) == 3


def test_what_was_measured_goes_to_the_charge_it_was_measured_in() -> None:
    log = SessionLog()
    first_end = charge(log, START_MS)
    for minute in range(10):
        log.see(point(first_end + 60_000 * (10 + minute), -50.0), 70.0)
    charge(log, START_MS + 24 * HOUR_MS)
    log.measured(START_MS + 1000, first_end, 91.234)
    log.measured(START_MS - HOUR_MS, START_MS - 1, 50.0)  # before any
    assert [(row.kind, row.soh_pct) for row in log.rows(5)] == [
        ("charge", None), ("discharge", None), ("charge", 91.23),
    ]  # fmt: skip
    end_ms = START_MS + 25 * HOUR_MS
    log.see(point(end_ms + 10_000, -50.0), 70.0)
    log.measured(START_MS + 24 * HOUR_MS, end_ms, 90.0)
    assert log.rows(1)[0].soh_pct == 90.0, "also in the one that has not been ended here yet"
    log.see(point(end_ms + 70_000, -50.0), 70.0)
    assert [(row.kind, row.soh_pct) for row in log.rows(2)] == [("discharge", None), ("charge", 90.0)]


def test_a_restart_changes_nothing() -> None:
    store, after = TwinStore(), TwinStore()
    log = store.pack("depot", "P1").sessions
    charge(log, START_MS, minutes=2)
    log.see(point(START_MS + 130_000, -50.0), None)
    restore_twins(after, b"".join(copy_twins(store)()))
    found = after.packs[0].sessions
    assert found == log
    for each in (log, found):
        each.see(point(START_MS + 200_000, -50.0), 40.0)
    assert found.rows(5) == log.rows(5)


def test_api_tells_of_sessions_and_why_nothing_was_measured(tmp_path: Path) -> None:
    gateway = Gateway(tmp_path)
    gateway.birth("depot/P1")
    for minute in range(60):
        gateway.feed("depot/P1", START_MS + minute * 60_000, charging_state="charging", vehicle_state="parked",
                     pack_current_a=100.0, soc_pct=20.0 + minute)  # fmt: skip
    twin = gateway.store.packs[0]

    def sessions() -> Any:
        return ask(gateway.state, lambda server: request(server, "/api/packs/P1/sessions?limit=5")).json()

    (now,) = sessions()["sessions"]
    assert (now["end_ms"], now["soc_to_pct"]) == (None, 79.0)
    assert now["reason"] == "the session goes on, or its end has not been heard of"
    gateway.feed("depot/P1", START_MS + 90 * 60_000, pack_current_a=-90.0)
    drive, ended = sessions()["sessions"]
    assert drive["reason"] == "only a charge session measures the capacity"
    assert ended["reason"].startswith(
        "the charge at its two ends was not known well enough: the cells' voltage says it"
    )
    end_ms = START_MS + 59 * 60_000
    gateway.store.on_session(twin, Session(START_MS, end_ms, 20.0, 79.0, 88.0, 138.0, 25.0, 100.0))
    assert [(row["soh_measured_pct"], row["reason"]) for row in sessions()["sessions"]][1] == (92.0, None)


@pytest.mark.parametrize(
    ("birth", "step_s", "before_s", "reason"),
    [
        (True, 150, 0, "for 99 % of it messages came more than 120 s apart: what flowed in between is not known"),
        (True, 60, 0, "the charge at its two ends was not known well enough: the cells' voltage says it only after a rest"),
        (True, 60, 3600, ("the charge at its two ends was not known well enough: the cells' voltage says it only after a rest; "
                          "or messages were missing, the gateway's history does not reach back to it")),
        (False, 60, 0, "the rated capacity is not known: the pack's birth message does not say it"),
    ],
)  # fmt: skip
def test_a_charge_that_measured_nothing_has_its_one_reason(
    tmp_path: Path, birth: bool, step_s: int, before_s: int, reason: str
) -> None:
    gateway = Gateway(tmp_path)
    if birth:
        gateway.birth("depot/P1")
    for second in range(0, 6000, step_s):
        gateway.feed("depot/P1", START_MS + second * 1000, charging_state="charging", vehicle_state="parked",
                     pack_current_a=100.0, soc_pct=20.0 + second / 100)  # fmt: skip
    twin = gateway.store.packs[0]
    begun_ms = START_MS - 1000 * before_s
    row = SessionRow("charge", begun_ms, START_MS + 5_900_000, 20.0, 79.0, 1.0, 1.0, None, None)
    times = [ts_ms for ts_ms, _ in gateway.store.history.rows(twin.slot, 720)]
    assert pack_views._why_no_soh(twin, row, times) == reason


def test_history_has_intervals_and_says_what_lies_between_points(tmp_path: Path) -> None:
    gateway = Gateway(tmp_path)
    gateway.feed("depot/P1", START_MS)
    gateway.predict("depot/P1", "soh", 92.0, low=90.5, high=93.5)
    gateway.predict("depot/P1", "rul", None, low=1.0, high=2.0, reason="no efc")
    for minute in (1, 2, 30, 31, 32):
        gateway.feed("depot/P1", START_MS + minute * 60_000)
    history = ask(gateway.state, lambda server: request(server, "/api/packs/P1/history")).json()
    assert (history["period_ms"], history["step_ms"]) == (10_000, 60_000)
    first, *_, last = history["points"]
    assert (first["soh_predicted_pct"], first["soh_low_pct"]) == (None, None)
    assert (last["soh_low_pct"], last["soh_predicted_pct"], last["soh_high_pct"]) == (90.5, 92.0, 93.5)
    assert last["rul_efc"] is None


def test_what_are_no_sessions_is_refused() -> None:
    with pytest.raises(ValueError, match="sessions of another format"):
        SessionLog(b"12345678")
    with pytest.raises(ValueError, match="sessions of another format"):
        SessionLog(turn=[1.0])
