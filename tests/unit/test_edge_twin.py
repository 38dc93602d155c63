"""The store of twins: how many packs it takes, and how predictions meet what is measured."""

from __future__ import annotations

import asyncio
import tracemalloc
from pathlib import Path

import msgspec
import pytest

from edge import answers, health
from edge.bands import is_silent
from edge.metrics import make_registry
from edge.nodes.twin import Twin
from edge.twin import FLEET_LIMIT, JOIN_TOLERANCE_MS, PENDING_LIMIT, FleetFullError, TwinStore
from tests.gateway import START_MS, Gateway
from tests.twins import Chain
from voltflow.clock import Clock
from voltflow.engine.turn import FailedMsg
from voltflow.message import Msg
from voltflow.node import Context
from voltflow.sequence import DUPLICATE
from voltflow.telemetry import Prediction, State, Telemetry


def _birth(pack: str) -> State:
    return State(schema_="bms.state/1", pack=pack, online=True)


def test_state_and_telemetry_of_one_pack_too_many_are_refused(tmp_path: Path) -> None:
    gateway = Gateway(tmp_path)
    gateway.store.fleet_limit = 2
    gateway.birth("depot/P1")
    gateway.feed("depot/P2")
    with pytest.raises(FleetFullError, match=r"depot/P3 would be one pack more than fleet_limit = 2"):
        gateway.birth("depot/P3")
    with pytest.raises(FleetFullError, match="twin node"):
        gateway.feed("depot/P3")
    gateway.birth("depot/P1")  # those that are known go on
    gateway.feed("depot/P2")
    assert [twin.name for twin in gateway.store.packs] == ["depot/P1", "depot/P2"]
    assert len(gateway.store.states) == 2


def test_limit_is_the_twin_nodes(tmp_path: Path) -> None:
    store = TwinStore()
    assert store.fleet_limit == FLEET_LIMIT
    asyncio.run(Twin(fleet_limit=7).start(Context({}, {TwinStore: store}, "gw1", "rev", tmp_path)))
    assert store.fleet_limit == 7


def test_made_up_packs_beyond_the_limit_take_no_memory() -> None:
    store = TwinStore()
    store.fleet_limit = 100
    for number in range(100):
        store.on_state("depot", _birth(f"P{number}"))
    tracemalloc.start()
    try:
        for number in range(100, 5000):
            with pytest.raises(FleetFullError):
                store.on_state("depot", _birth(f"P{number}"))
        assert tracemalloc.get_traced_memory()[0] < 100_000
    finally:
        tracemalloc.stop()


def _measured(ts_ms: int, temp_c: float | None = 31.0) -> Telemetry:
    return Telemetry(schema_="bms.telemetry/1", pack="P1", boot=1, seq=0, ts_ms=ts_ms, cell_temp_max_c=temp_c)


def _predict(store: TwinStore, made_ms: int, value: float = 30.0) -> None:
    prediction = Prediction(unit="c", model="0", value=value, made_ms=made_ms, target_ms=made_ms + 600_000)
    store.on_prediction(store.pack("depot", "P1"), "temperature", prediction)


def test_a_prediction_meets_the_first_measurement_at_its_time_in_the_models_unit() -> None:
    store = TwinStore()
    twin = store.pack("depot", "P1")
    _predict(store, START_MS, 30.0)
    _predict(store, START_MS + 10_000, 30.5)
    due_ms = START_MS + 600_000
    assert store.join(twin, _measured(due_ms - 1)) is None
    assert store.join(twin, _measured(due_ms, None)) is None  # not measured: it goes on waiting
    joined = store.join(twin, _measured(due_ms + 5))
    assert joined is not None
    assert (joined.predicted, joined.actual, joined.unit) == (30.0, 31.0, "c")
    assert (joined.made_ms, joined.target_ms) == (START_MS, due_ms)
    assert (type(joined.made_ms), len(twin.pending)) == (int, 3)
    assert store.join(twin, _measured(due_ms + 10_001 + JOIN_TOLERANCE_MS)) is None
    assert (store.missed_joins, len(twin.pending)) == (1, 0)


def test_waiting_predictions_are_bounded_the_newest_stay() -> None:
    store = TwinStore()
    for number in range(PENDING_LIMIT + 5):
        _predict(store, START_MS + number)
    pending = store.pack("depot", "P1").pending
    assert (len(pending), pending[1]) == (3 * PENDING_LIMIT, START_MS + 5)


def test_messages_are_dead_letters_not_lost_ones(tmp_path: Path) -> None:
    """validate raises for the one message alone: the engine halves the batch until it stands alone."""
    gateway = Gateway(tmp_path)
    gateway.store.fleet_limit = 1
    gateway.birth("depot/P1")
    twin = gateway.engine.nodes["validate"].node
    state = msgspec.json.encode(_birth("P2"))
    failed: list[FailedMsg] = []
    messages = [Msg("ev/v1/depot/P2/state", state), Msg("ev/v1/depot/P1/state", state.replace(b"P2", b"P1"))]
    gateway.engine._process(twin, messages, failed)  # type: ignore[arg-type]
    assert [item.msg.topic for item in failed] == ["ev/v1/depot/P2/state"]
    assert "FleetFullError: depot/P2 would be" in failed[0].error


def test_a_duplicate_changes_nothing_however_new_its_time_is(tmp_path: Path) -> None:
    gateway = Gateway(tmp_path)
    gateway.birth("depot/P1")
    gateway.feed("depot/P1", pack_current_a=-100.0)
    gateway.feed("depot/P1", pack_current_a=-100.0)
    before = gateway.store.states.snapshot()
    again = gateway.feed("depot/P1", props={DUPLICATE: True})
    assert again.twin.late
    assert again.twin.estimate.soc_pct is None
    assert gateway.store.states.snapshot() == before
    assert not gateway.feed("depot/P1").twin.late


def test_a_duplicate_in_a_large_batch_changes_nothing_either(tmp_path: Path) -> None:
    """From some dozens of packs on a batch is computed in numpy."""
    plain, doubled = Gateway(tmp_path), Gateway(tmp_path)
    names = [f"depot/P{number}" for number in range(100)]
    for gateway in (plain, doubled):
        for name in names:
            gateway.feed(name)
        gateway.feed_all(names)
    doubled.feed_all(names, props={DUPLICATE: True})
    assert doubled.store.states.snapshot() == plain.store.states.snapshot()
    assert not any(reading.twin.late for reading in plain.feed_all(names))


def test_a_duplicate_of_a_pack_the_estimator_does_not_know_is_its_first_message(tmp_path: Path) -> None:
    reading = Gateway(tmp_path).feed("depot/P1", props={DUPLICATE: True})
    assert not reading.twin.late
    assert reading.twin.estimate.soc_pct is None  # no nameplate yet


def test_prediction_does_not_expire_with_the_telemetry(tmp_path: Path) -> None:
    gateway = Gateway(tmp_path)
    gateway.birth("depot/P1")
    item = Telemetry("bms.telemetry/1", pack="P1", boot=1, seq=1, ts_ms=1_700_000_000_000)
    sent_with = {"messageExpiryInterval": 60, "contentType": "application/cbor", "site": "depot"}
    made = gateway.engine.nodes["twin"].node.process([Msg("ev/v1/depot/P1/telemetry", item, props=sent_with)])
    assert [msg.props for msg in made] == [{"site": "depot"}]


def test_skew_and_an_unknown_receive_time_are_passed_on(tmp_path: Path) -> None:
    gateway = Gateway(tmp_path)
    ahead = [gateway.feed("depot/P1", ts_ms=ms + 250, received_ms=ms) for ms in (START_MS, START_MS + 1000)]
    assert [reading.twin.skew_ms for reading in ahead] == [250, 250]
    sent = Gateway(tmp_path).feed("depot/P2", ts_ms=START_MS, sent_ms=START_MS + 40, received_ms=START_MS)
    assert sent.twin.skew_ms == 40  # what the device says is wall time goes before its time of measuring
    twin = gateway.store.packs[0]
    for _ in range(3):  # what was sent before says nothing of the device's clock
        gateway.feed("depot/P1", ts_ms=START_MS, received_ms=START_MS + 9_000_000, replay=True)
        gateway.feed("depot/P1", ts_ms=START_MS, received_ms=START_MS + 9_000_000, props={DUPLICATE: True})
    assert twin.skew_ms == 250
    assert answers.detailed(twin).skew_ms == 250
    reading = gateway.feed("depot/P1", received_ms=0)
    assert (reading.twin.skew_ms, reading.twin.received_ms, twin.received_ms) == (None, None, None)
    assert answers.row(twin).age_s is None
    assert not is_silent(twin)
    assert health.health(gateway.state).newest_message_age_s is None
    assert "no_telemetry" not in {reason.code for reason in health.health(gateway.state).reasons}


def test_doubted_clock_is_a_reason_of_health_and_a_metric(tmp_path: Path) -> None:
    """Times that a clock without a date gives are nobody's."""
    gateway = Gateway(tmp_path)
    gateway.store.clock = Clock(wall_ns=lambda: 0)
    reasons = {reason.code: reason.message for reason in health.health(gateway.state).reasons}
    assert "before this software was released" in reasons["clock_unknown"]
    registry = make_registry(gateway.state)
    assert registry.get_sample_value("voltflow_clock_state", {"state": "unknown"}) == 1.0
    assert registry.get_sample_value("voltflow_clock_state", {"state": "ok"}) == 0.0
    assert registry.get_sample_value("voltflow_clock_steps_total") == 0.0
    assert registry.get_sample_value("voltflow_device_skew_seconds", {"of": "median"}) is None


def test_skews_of_the_packs_are_a_metric(tmp_path: Path) -> None:
    gateway = Gateway(tmp_path)
    for pack, ahead_ms in (("P1", 500), ("P2", -4000), ("P3", 100)):
        gateway.feed(f"depot/{pack}", ts_ms=START_MS + ahead_ms, received_ms=START_MS)
    registry = make_registry(gateway.state)
    assert registry.get_sample_value("voltflow_device_skew_seconds", {"of": "median"}) == 0.1
    assert registry.get_sample_value("voltflow_device_skew_seconds", {"of": "farthest"}) == -4.0
    assert "clock_unknown" not in {reason.code for reason in health.health(gateway.state).reasons}


def test_nodes_behind_the_twin_say_what_they_need() -> None:
    for node in Chain().nodes[2:]:
        with pytest.raises(TypeError, match="wire a twin node before this one"):
            node.process([Msg("t", {"features": {}})])
