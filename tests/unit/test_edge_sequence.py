"""The `sequence` node: what is marked, what is asked for and when, and which alerts come and go."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.gaps import LATER_MESSAGES, RING_MESSAGES
from edge.nodes.sequence import SequenceNode
from edge.nodes.validate import Validate
from edge.twin import TwinStore
from voltflow.message import Key, Msg
from voltflow.node import Context
from voltflow.sequence import DUPLICATE, HOLES
from voltflow.telemetry import Alert, ReplayCommand, State, Telemetry

MINUTE_MS = 60_000


class Bench:
    """A node with a clock of its own. What it has asked for and raised so far is in `requests` and `alerts`."""

    def __init__(self, store: TwinStore | None = None, now_s: float = 1000.0, **options: Any) -> None:
        self.now_s = now_s
        self.store = store or TwinStore()
        self.node = SequenceNode(**options)
        self.node.clock = lambda: self.now_s
        self.requests: list[tuple[int, int, int]] = []
        self.alerts: list[tuple[str, str]] = []
        asyncio.run(self.node.start(Context({}, {TwinStore: self.store}, "gw1", "rev", Path())))

    def telemetry(self, *seqs: int, **fields: Any) -> list[bool]:
        """One batch; whether each of it was passed on marked as a duplicate."""
        return self.batch([_telemetry(seq, **fields) for seq in seqs])

    def state(self, **fields: Any) -> None:
        state = State(schema_="bms.state/1", pack="P1", **{"online": True, **fields})
        assert self.batch([Msg("ev/v1/depot/P1/state", msgspec.json.encode(state))]) == []

    def batch(self, msgs: list[Msg]) -> list[bool]:
        passed, requests, alerts = self.node.process(msgs)
        for msg in requests:
            command: ReplayCommand = msg.payload
            assert msg.topic == "ev/v1/depot/P1/cmd"
            self.requests.append((command.boot, command.from_, command.to))
        for msg in alerts:
            alert: Alert = msg.payload
            assert msg.topic == "ev/v1/depot/P1/alert"
            self.alerts.append((alert.code, alert.state))
        return [bool(msg.props and msg.props.get(DUPLICATE)) for msg in passed]

    def asked(self) -> list[tuple[int, int, int]]:
        """What was asked for since the last call."""
        asked, self.requests = self.requests, []
        return asked

    def later(self, seconds: float) -> None:
        self.now_s += seconds

    @property
    def counted(self) -> dict[str, int]:
        return {event: count for event, count in self.node.status().items() if count}


def _telemetry(seq: int, boot: int = 1, ts_ms: int | None = None, replay: bool = False) -> Msg:
    ts_ms = 10**12 + 1000 * seq if ts_ms is None else ts_ms
    item = Telemetry(schema_="bms.telemetry/1", pack="P1", boot=boot, seq=seq, ts_ms=ts_ms, replay=replay)
    return Msg("ev/v1/depot/P1/telemetry", item, Key("P1", boot, seq), props={"retain": False})


# -- duplicates -----------------------------------------------------------------------------------------------------


def test_what_was_seen_is_marked_and_everything_passes_on() -> None:
    bench = Bench()
    assert bench.telemetry(0, 1, 1, 2, 0) == [False, False, True, False, True]
    assert bench.counted == {"duplicate": 2}


def test_a_mark_is_on_a_new_message_and_keeps_the_other_properties() -> None:
    bench = Bench()
    bench.telemetry(0)
    again = _telemetry(0)
    (passed,), _, _ = bench.node.process([again])
    assert again.props == {"retain": False}
    assert passed.props == {"retain": False, "duplicate": True}
    assert (passed.payload, passed.key, passed.origin) == (again.payload, again.key, again)


def test_a_batch_that_fails_leaves_no_trace() -> None:
    """The engine gives the rest of it again: it must not look like duplicates then."""
    bench = Bench()
    bench.store.fleet_limit = 1
    other = Msg("ev/v1/depot/P2/telemetry", _telemetry(0).payload)
    with pytest.raises(ValueError, match="depot/P2 would be one pack more"):
        bench.batch([_telemetry(0), other])
    with pytest.raises(TypeError, match="wire a validate node"):
        bench.batch([_telemetry(0), Msg("ev/v1/depot/P1/telemetry", 5)])
    assert bench.telemetry(0, 1) == [False, False]


# -- what is missing ------------------------------------------------------------------------------------------------


def test_a_hole_is_asked_for_after_the_grace_and_again_with_growing_pauses_until_it_is_given_up() -> None:
    bench = Bench(attempts=3)
    bench.telemetry(0, 4)
    assert bench.asked() == []
    bench.later(1.9)
    bench.telemetry(5)
    assert bench.asked() == []
    bench.later(0.2)
    bench.telemetry(6)
    assert bench.asked() == [(1, 1, 3)]
    for seq, pause_s in ((7, 2), (9, 4)):
        bench.later(pause_s - 0.1)
        bench.telemetry(seq)
        assert bench.asked() == [], f"before {pause_s} s are over"
        bench.later(0.2)
        bench.telemetry(seq + 1)
        assert bench.asked() == [(1, 1, 3)]
    assert bench.counted == {"asked": 3, "request": 3, "holes_open": 1}
    bench.later(8.1)
    bench.telemetry(11)
    assert bench.asked() == []
    assert bench.counted == {"asked": 3, "request": 3, "given_up": 3}


def test_what_came_late_by_itself_is_not_asked_for() -> None:
    bench = Bench()
    bench.telemetry(0, 2, 1)
    bench.later(10)
    bench.telemetry(3)
    assert bench.asked() == []
    assert bench.counted == {}


def test_a_hole_is_asked_for_at_once_when_many_later_messages_have_come() -> None:
    bench = Bench()
    bench.telemetry(0, *range(2, 2 + LATER_MESSAGES - 1))
    assert bench.asked() == []
    bench.telemetry(2 + LATER_MESSAGES - 1)
    assert bench.asked() == [(1, 1, 1)]


def test_answers_fill_the_hole_and_what_is_still_on_the_way_is_not_asked_for_twice() -> None:
    bench = Bench()
    bench.telemetry(0, 10)
    bench.later(2.1)
    bench.telemetry(11)
    assert bench.asked() == [(1, 1, 9)]
    for seq in range(1, 7):  # slowly, for longer than the pause before the next request
        bench.later(1.0)
        assert bench.telemetry(seq, replay=True) == [False]
        bench.telemetry(11 + seq)
    assert bench.asked() == []
    bench.later(4.1)
    bench.telemetry(20)
    bench.later(4.1)
    bench.telemetry(21)
    assert (1, 7, 9) in bench.asked()
    bench.telemetry(7, 8, 9, replay=True)
    assert bench.counted["filled"] == 9


def test_a_large_hole_is_asked_for_in_parts_one_after_the_other() -> None:
    bench = Bench(max_ask=100)
    bench.telemetry(0, 251)
    bench.later(2.1)
    bench.telemetry(252)
    assert bench.requests == [(1, 1, 100)]
    bench.later(1.0)
    bench.telemetry(253)
    assert bench.requests == [(1, 1, 100)], "a hundred are on the way"
    asked: list[int] = []
    live = 254
    while bench.counted.get("filled", 0) < 250:
        requests = bench.asked()
        if not requests:
            bench.later(2.1)
            bench.telemetry(live)
            live += 1
        of_these = [seq for _, first, last in requests for seq in range(first, last + 1)]
        assert len(of_these) <= 100
        bench.telemetry(*of_these, replay=True)
        asked += of_these
    assert asked == list(range(1, 251)), "each once"
    assert bench.counted["asked"] == 250


def test_what_is_further_back_than_a_device_keeps_is_given_up_at_once() -> None:
    bench = Bench()
    bench.telemetry(0, 2**50)
    bench.later(2.1)
    bench.telemetry(2**50 + 1)
    (first,) = bench.asked()
    assert first[1] == 2**50 + 2 - RING_MESSAGES
    assert bench.counted["given_up"] == first[1] - 1


def test_a_lost_end_is_noticed_by_the_devices_own_count() -> None:
    bench = Bench()
    bench.telemetry(0)
    bench.state(boot=1, published=4)
    bench.later(2.1)
    bench.state(boot=1, published=4)
    assert bench.asked() == [(1, 1, 3)]
    assert bench.telemetry(1, 2, 3, replay=True) == [False] * 3
    assert bench.counted["filled"] == 3


def test_a_device_that_says_good_bye_is_not_asked() -> None:
    bench = Bench()
    bench.telemetry(0)
    bench.state(boot=1, published=4, online=False)
    bench.later(60)
    bench.state(boot=1, published=4, online=False)
    assert bench.asked() == []
    bench.state(boot=2, published=0)
    assert bench.asked() == [(1, 1, 3)]


def test_a_state_that_overtakes_what_waits_in_the_broker_asks_for_nothing() -> None:
    bench = Bench()
    bench.telemetry(0)
    bench.state(boot=1, published=1000)
    for seq in range(1, 1000, 3):
        assert bench.telemetry(seq, seq + 1, seq + 2) == [False] * 3
        bench.later(0.5)
    bench.telemetry(1000)
    assert bench.asked() == []


def test_a_message_that_is_no_telemetry_is_not_asked_for_again() -> None:
    """It is a dead letter already; the answer would be another one."""
    bench = Bench()
    validate = Validate()
    asyncio.run(validate.start(Context({}, {TwinStore: bench.store}, "gw1", "rev", Path())))
    bench.telemetry(0)
    bad = b'{"schema":"bms.telemetry/1","pack":"P1","boot":1,"seq":1,"ts_ms":0,"soc_pct":NaN}'
    with pytest.raises(msgspec.DecodeError):
        validate.process([Msg("ev/v1/depot/P1/telemetry", bad)])
    bench.telemetry(2, 4)
    bench.later(2.1)
    bench.telemetry(5)
    assert bench.asked() == [(1, 3, 3)]


def test_a_restart_of_the_device_is_counted_and_its_first_messages_are_asked_for() -> None:
    bench = Bench()
    bench.telemetry(7)
    bench.telemetry(2, boot=2, ts_ms=5)
    bench.later(2.1)
    bench.telemetry(3, boot=2, ts_ms=6)
    assert bench.asked() == [(2, 0, 1)]
    assert bench.counted["new_boot"] == 1
    assert bench.alerts == []


def test_more_holes_than_are_remembered_are_given_up() -> None:
    bench = Bench()
    bench.telemetry(*range(0, 2 * HOLES + 7, 2))
    bench.later(2.1)
    bench.telemetry(2 * HOLES + 7)
    assert bench.counted["given_up"] == 3


def test_a_new_start_goes_on_with_what_is_missing_and_raised() -> None:
    bench = Bench()
    bench.telemetry(0, 2)
    bench.telemetry(2, ts_ms=2 * 10**12)
    bench.later(2.1)
    bench.telemetry(3)
    assert bench.asked() == [(1, 1, 1)]
    after = Bench(bench.store, now_s=5.0)  # a machine that was started anew counts from 0
    after.telemetry(4, 6, ts_ms=2 * 10**12 + 1)
    after.later(2.1)
    after.telemetry(7, ts_ms=2 * 10**12 + 2)
    assert after.asked() == [(1, 5, 5), (1, 1, 1)]
    after.telemetry(8, ts_ms=2 * 10**12 + 11 * MINUTE_MS)
    assert after.alerts == [("seq_back", "cleared")]


@given(st.integers(0, 2**32), st.floats(0.0, 0.4))
def test_whatever_is_lost_on_the_way_is_there_in_the_end(seed: int, loss: float) -> None:
    """A device answers each request, and requests, answers and messages are lost alike."""
    rng, bench = random.Random(seed), Bench(max_ask=20, attempts=50)
    arrived = {0}
    bench.telemetry(0)

    def send(seq: int, replay: bool = False) -> None:
        if rng.random() >= loss:
            assert bench.telemetry(seq, replay=replay) == [seq in arrived]
            arrived.add(seq)

    for seq in range(1, 100):
        send(seq)
        bench.later(rng.random())
    for _ in range(3000):
        bench.state(boot=1, published=100)
        for _, first, last in bench.asked():
            assert last - first < 20
            if rng.random() >= loss:
                for seq in range(first, last + 1):
                    send(seq, replay=True)
        if len(arrived) == 100:
            break
        bench.later(20.0)
    assert arrived == set(range(100))
    bench.later(400.0)
    bench.state(boot=1, published=100)
    assert bench.node.status()["holes_open"] == 0


# -- who sends ------------------------------------------------------------------------------------------------------


def _second(n: int, boot: int) -> Msg:
    return _telemetry(n, boot, ts_ms=10**12 + 1000 * n)


def test_two_devices_by_turns_are_an_alert_until_ten_minutes_are_calm() -> None:
    bench = Bench()
    bench.batch([_second(0, 1), _second(0, 2)])
    bench.batch([_second(1, 1)])
    assert bench.alerts == [], "one message that was held up is no second device"
    bench.batch([_second(2, 1), _second(1, 2)])
    assert bench.alerts == []
    bench.batch([_second(3, 1), _second(2, 2), _second(4, 1)])
    assert bench.alerts == [("identity_conflict", "raised")]
    assert list(bench.store.packs[0].alerts) == ["identity_conflict"]
    assert bench.counted["identity_conflict"] == 1
    for n in range(3, 603, 10):
        bench.batch([_telemetry(n, 2, ts_ms=10**12 + 1000 * n)])
    assert len(bench.alerts) == 1
    bench.batch([_telemetry(604, 2, ts_ms=10**12 + 604_000)])
    assert bench.alerts[1:] == [("identity_conflict", "cleared")]
    assert bench.store.packs[0].alerts == {}
    assert [alert.state for alert in bench.store.recent_alerts] == ["raised", "cleared"]


def test_a_device_that_restarts_and_messages_that_come_again_are_no_conflict() -> None:
    bench = Bench()
    for boot in range(1, 4):
        bench.batch([_telemetry(n, boot, ts_ms=10**12 + boot * 10**6 + n) for n in range(5)])
    for _ in range(3):  # the broker sends everything again
        for boot in range(1, 4):
            marked = bench.batch([_telemetry(n, boot, ts_ms=10**12 + boot * 10**6 + n) for n in range(5)])
            assert marked == [True] * 5
    for n in (5, 6, 7):
        bench.batch([_telemetry(n, 1, replay=True), _telemetry(n, 3)])
    assert bench.alerts == []


def test_numbers_that_begin_anew_within_a_boot_are_an_alert_and_no_duplicates() -> None:
    bench = Bench()
    bench.telemetry(*range(100))
    newer_ms = 2 * 10**12
    assert bench.batch([_telemetry(n, ts_ms=newer_ms + n) for n in range(5)]) == [False] * 5
    assert bench.alerts == [("seq_back", "raised")]
    assert bench.counted["seq_back"] == 5
    assert bench.store.packs[0].alerts["seq_back"].severity == "warning"
    assert bench.telemetry(3, ts_ms=newer_ms + 3) == [True], "that one once more"
    bench.telemetry(100, ts_ms=newer_ms + 5)
    bench.telemetry(101, ts_ms=newer_ms + 5 + 10 * MINUTE_MS)
    assert bench.alerts[1:] == [("seq_back", "cleared")]


def test_a_fleet_that_was_cut_off_is_asked_little_by_little() -> None:
    """A broker that lost a minute of 100 packs: all answers at once would push out what is new."""
    bench = Bench(fleet_ask=1000)

    def heard(seq: int) -> int:
        items = [(f"P{i}", _telemetry(seq).payload) for i in range(100)]
        batch = [Msg(f"ev/v1/depot/{pack}/telemetry", item, Key(pack, 1, seq)) for pack, item in items]
        requests = bench.node.process(batch)[1]
        return sum(msg.payload.to - msg.payload.from_ + 1 for msg in requests)

    heard(0)
    heard(100)
    asked = []
    for second in range(30):
        bench.later(1.0)
        asked.append(heard(101 + second))
    assert max(asked) <= 1000
    assert sum(asked) >= 100 * 99
