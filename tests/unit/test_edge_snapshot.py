"""The twins as bytes and back: everything is there, what follows is the same, and after a crash nothing is invented."""

from __future__ import annotations

import asyncio
import dataclasses
from array import array
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import generate_latest

from edge.comparison import compare
from edge.health import health
from edge.metrics import make_registry
from edge.sessions import SessionLog
from edge.snapshot import (
    NOT_KEPT,
    _encode,
    _Fleet,
    _framed,
    _Pack,
    copy_twins,
    restore_twins,
)
from edge.twin import PackTwin, TwinStore
from edge.warming import warming
from tests.gateway import Gateway
from tests.twins import START_MS, Chain, reading
from voltflow.battery.features import WINDOW_S
from voltflow.battery.twin_states import TwinStates
from voltflow.sequence import Boot, Hole, Sequence
from voltflow.state.state import StateStore
from voltflow.telemetry import Estimate, Session, Telemetry, TwinPrediction

GOLDEN = Path(__file__).parents[1] / "golden"


@settings(max_examples=10)
@given(st.integers(1, 4), st.integers(0, 120), st.integers(0, 120), st.integers(1, 50))
def test_a_clean_restart_anywhere_changes_nothing_of_what_follows(
    packs: int, before: int, after: int, batch: int
) -> None:
    """Estimates, predictions, joins, alerts and counters are those of a gateway that was never restarted."""
    items = [reading(f"P{number}", seq) for seq in range(before + after) for number in range(packs)]
    once = Chain()
    for number in range(packs):
        once.birth(f"P{number}")
    chain, said, expected = once, [], Chain()
    for number in range(packs):
        expected.birth(f"P{number}")
    cut = before * packs
    alerts = []
    for start in (*range(0, cut, batch), None, *range(cut, len(items), batch)):
        if start is None:
            alerts += chain.alerts
            chain = chain.restarted()
        else:
            end = min(start + batch, cut if start < cut else len(items))
            said += chain.feed(items[start:end])
            assert said[start:end] == expected.feed(items[start:end])
    assert alerts + chain.alerts == expected.alerts
    for twin, other in zip(chain.store.packs, expected.store.packs, strict=True):
        for field in dataclasses.fields(PackTwin):
            if field.name != "history_ms":
                assert getattr(twin, field.name) == getattr(other, field.name), field.name
    assert list(chain.store.recent_alerts) == list(expected.store.recent_alerts)
    assert chain.store.predictions_made == expected.store.predictions_made
    assert chain.store.states.snapshot() == expected.store.states.snapshot()


def test_every_field_of_a_pack_is_kept_or_said_not_to_be() -> None:
    """Who adds one to PackTwin decides here whether it survives a restart."""
    names = {field.name for field in dataclasses.fields(PackTwin)}
    assert names == set(_Pack.__struct_fields__) | NOT_KEPT


def test_a_copy_does_not_follow_what_happens_after_it() -> None:
    chain = Chain()
    chain.birth("P0")
    chain.feed([reading("P0", seq) for seq in range(30)])
    copy = copy_twins(chain.store)
    before = b"".join(copy())
    chain.feed([reading("P0", seq, cell_temp_max_c=70.0) for seq in range(30, 100)])
    twin = chain.store.packs[0]
    twin.sequence.see(1, 5)
    assert twin.state is not None
    twin.state.online = False
    chain.store.pack("depot", "P1")
    assert b"".join(copy()) == before


def test_twins_that_an_earlier_version_wrote_are_read_with_everything_in_them() -> None:
    """`tests/golden/twins_1/twins.bin` is what version 0.1.0 made of two packs, never to be made anew: 80 messages each, a
    hot cell in P1, a charge session of P0. It knew nothing of the sessions of a pack."""
    store = TwinStore()
    restore_twins(store, (GOLDEN / "twins_1" / "twins.bin").read_bytes())
    cool, hot = store.packs
    assert (cool.name, cool.messages, hot.name, hot.messages) == ("depot/P0", 80, "depot/P1", 80)
    assert sorted(hot.alerts) == ["cell_temp_critical", "cell_temp_predicted", "cell_temp_warning"]
    assert len(store.recent_alerts) == 4
    assert (cool.wide_session, hot.session) == (
        Session(1_700_000_000_000, 1_700_000_100_000, 20.0, 90.0, 100.0, 135.0, 25.0, 50.0), None,
    )  # fmt: skip
    assert hot.telemetry is not None
    assert (hot.telemetry.seq, hot.telemetry.cell_temp_max_c) == (79, 71.0)
    assert (len(cool.pending), len(cool.predictions)) == (240, 3)
    assert store.states.last_ms(1) == hot.telemetry.ts_ms
    assert [twin.sessions for twin in store.packs] == [SessionLog(), SessionLog()]
    chain = Chain(store)
    assert not chain.feed([reading("P0", 80)])[0].late, "and it goes on from there"


def test_sessions_of_a_later_version_are_forgotten_and_the_rest_is_kept() -> None:
    states = TwinStates()
    states.slot_for("depot/P0")
    later = _encode({"messages": 5, "sessions": {"ended": b"123", "version": 2, "more": 1}})
    store = TwinStore()
    restore_twins(store, _framed(_encode(_Fleet(states.snapshot()))) + _framed(later))
    assert store.packs == [PackTwin(0, "depot", "P0", messages=5)]


def test_names_with_all_that_is_allowed_and_holes_to_ask_for_come_back() -> None:
    store, after = TwinStore(), TwinStore()
    twin = store.pack("a-b_C", "9_-Z")
    twin.sequence = Sequence(
        [Boot(3, 0, 9, 5, [Hole(1, 2, 1, False, 123.5), Hole(4, 4, 9, True, 5.0)])], False, 7
    )
    twin.received_ms, twin.skew_ms = None, -3.5
    restore_twins(after, b"".join(copy_twins(store)()))
    found = after.find("a-b_C/9_-Z")
    assert found is not None
    assert (found.received_ms, found.skew_ms) == (None, -3.5)
    assert found.sequence.boots[0].holes[0] == Hole(1, 2, 1, False, 0.0), "due by a clock that began anew"
    assert found.sequence.boots[0].holes[1].given_up
    assert after.pack("a-b_C", "9_-Z") is found
    assert after.pack("x", "new").slot == 1


def test_fields_of_another_version_do_no_harm() -> None:
    class Later(msgspec.Struct):
        """A pack's record with a field that is not known here and without most that are."""

        messages: int
        colour: str

    states = TwinStates()
    states.slot_for("depot/P0")
    store = TwinStore()
    restore_twins(store, _framed(_encode(_Fleet(states.snapshot()))) + _framed(_encode(Later(5, "blue"))))
    assert store.packs == [PackTwin(0, "depot", "P0", messages=5)]


def test_a_pack_that_cannot_be_read_keeps_its_estimates_and_the_others_everything(
    caplog: pytest.LogCaptureFixture,
) -> None:
    chain = Chain()
    for pack in ("P0", "P1"):
        chain.birth(pack)
        chain.feed([reading(pack, seq) for seq in range(30)])
    fleet = _framed(_encode(_Fleet(chain.store.states.snapshot())))
    records = [_encode({"messages": "many"}), _encode(_Pack(messages=30))]
    store = TwinStore()
    restore_twins(store, fleet + b"".join(map(_framed, records)))
    assert [twin.messages for twin in store.packs] == [0, 30]
    assert store.states.last_ms(0) == chain.store.states.last_ms(0)
    assert "1 of 2 packs cannot be restored, only their estimates go on; the first is depot/P0" in caplog.text


# -- after a crash ----------------------------------------------------------------------------------------------------


def _lives(seen: int, first: int, count: int, *, clean: bool = False) -> tuple[Chain, list[TwinPrediction]]:
    """What is said after a restart whose snapshot knew `seen` messages; the next one has the number `first`."""
    chain = Chain()
    chain.birth("P0")
    chain.feed([reading("P0", seq) for seq in range(seen)])
    chain = chain.restarted(clean=clean)
    return chain, chain.feed([reading("P0", seq) for seq in range(first, first + count)])


def _reasons(said: list[TwinPrediction], model: str) -> list[tuple[int, str | None]]:
    return [(twin.seq, twin.predictions[model].reason) for twin in said if model in twin.predictions]


def test_a_hole_after_a_crash_makes_predictions_warm_up_for_their_window() -> None:
    _, said = _lives(seen=120, first=125, count=400)
    for model in ("temperature", "failure"):
        steps = round(WINDOW_S[model] / 10)
        silent = [seq for seq, reason in _reasons(said, model) if reason is not None]
        spoken = [seq for seq, reason in _reasons(said, model) if reason is None]
        assert silent, model
        assert spoken, model
        assert max(silent) < 125 + steps <= min(spoken), model
        assert all(
            twin.predictions[model].value is None
            for twin in said
            if twin.seq in silent and model in twin.predictions
        )
    assert _reasons(said, "temperature")[0][1] == (
        "warming: the last 15 min hold a hole that a crash of the gateway left, until 2023-11-14T22:49:10Z"
    )
    assert all(twin.estimate.soc_pct is not None for twin in said), "estimates go on"


def test_no_hole_no_warming() -> None:
    """What the snapshot knew was the last that was acknowledged: the message after it is the next one."""
    for first in (120, 100):  # and where some come again, they are late, and tell nothing about a hole
        _, said = _lives(seen=120, first=first, count=60)
        assert {reason for _, reason in _reasons(said, "temperature")} == {None}
    _, said = _lives(seen=120, first=125, count=60, clean=True)
    assert {reason for _, reason in _reasons(said, "temperature")} == {None}, (
        "after a clean end a gap is a device's own"
    )


def test_warming_outlives_further_restarts_and_the_api_says_why() -> None:
    chain, _ = _lives(seen=120, first=125, count=30)
    chain = chain.restarted()
    said = chain.feed([reading("P0", seq) for seq in range(155, 158)])
    reason = _reasons(said, "temperature")[-1][1]
    assert reason is not None
    assert reason.startswith("warming: ")
    assert chain.store.packs[0].predictions["temperature"].reason == reason
    chain.store.packs[0].joined.clear()
    assert f"no prediction: {reason}" in (
        compare(chain.store.packs[0]).comparisons["temperature"].reason or ""
    )
    late = Chain().restarted(clean=False)
    assert late.store.packs == []


def test_a_crash_that_is_not_yet_answered_outlives_a_clean_restart() -> None:
    """The pack is silent meanwhile; whether it has a hole shows at its next message."""
    chain = Chain()
    chain.birth("P0")
    chain.feed([reading("P0", seq) for seq in range(120)])
    chain = chain.restarted(clean=False).restarted().restarted()
    said = chain.feed([reading("P0", seq) for seq in range(125, 130)])
    assert all((reason or "").startswith("warming") for _, reason in _reasons(said, "temperature"))


def _at(ts_ms: int, session_start_ms: int | None = None) -> TwinPrediction:
    telemetry = Telemetry(schema_="bms.telemetry/1", pack="P0", boot=1, seq=0, ts_ms=ts_ms)
    session = (
        None
        if session_start_ms is None
        else Session(session_start_ms, ts_ms, 10.0, 90.0, 100.0, None, None, None)
    )
    return TwinPrediction(
        schema_="twin.prediction/1", fleet="f", pack="P0", boot=1, seq=0, ts_ms=ts_ms, gateway="g", flow_rev="r",
        received_ms=None, telemetry=telemetry, estimate=Estimate(session=session),
    )  # fmt: skip


def test_health_says_nothing_of_a_charge_session_with_a_hole_and_speaks_of_the_next() -> None:
    hour_ms = 3_600_000
    hole_ms = START_MS + hour_ms
    with_hole = warming("soh", _at(START_MS + 3 * hour_ms, START_MS), hole_ms)
    assert (
        with_hole
        == "warming: the charge session holds a hole that a crash of the gateway left, until the next one ends"
    )
    assert warming("soh", _at(START_MS + 3 * hour_ms, hole_ms), hole_ms) == ""
    assert warming("rul", _at(START_MS + 3 * hour_ms, START_MS), hole_ms) == with_hole
    assert warming("rul", _at(START_MS + 3 * hour_ms), hole_ms) == ""
    assert "60 min" in warming("rul", _at(hole_ms + hour_ms - 1), hole_ms)


def test_at_the_end_of_time_there_is_still_a_text() -> None:
    assert warming("failure", _at(253402300799999), 253402300799999).endswith("until 9999-12-31T23:59:59Z")


def test_waiting_predictions_are_kept_exactly() -> None:
    store, after = TwinStore(), TwinStore()
    store.pack("f", "p").pending = array("d", [1.5, 2.25, -3.0])
    restore_twins(after, b"".join(copy_twins(store)()))
    assert after.packs[0].pending == array("d", [1.5, 2.25, -3.0])


def test_health_and_metrics_tell_of_a_state_that_cannot_be_written(tmp_path: Path) -> None:
    gateway = Gateway(tmp_path)
    in_the_way = tmp_path / "file"
    in_the_way.write_text("not a folder")
    gateway.state.durable = durable = StateStore(in_the_way)
    durable.register("twins", lambda: copy_twins(gateway.store), lambda _: None)
    asyncio.run(durable.close())
    reasons = {reason.code: reason.message for reason in health(gateway.state).reasons}
    assert reasons["state_not_written"] == f"state_dir = '{in_the_way}' cannot be written: File exists"
    text = generate_latest(make_registry(gateway.state)).decode()
    assert "voltflow_state_write_failures_total 1.0" in text
    gateway.state.durable = None
    assert "state_not_written" not in {reason.code for reason in health(gateway.state).reasons}
