"""The `window` node: which messages are one, when that comes out, what is too late, and that nothing of it is lost."""

from __future__ import annotations

import math
import re
import statistics
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.holders import START_S, Held, flow_of, holding, msg, outcome, run, turns
from voltflow.engine.held_store import HeldStore
from voltflow.message import Msg
from voltflow.node import ConfigError
from voltflow.nodelib.aggregate import FUNCTIONS, aggregated, percentile
from voltflow.nodes.window import WindowNode

T = 1_699_999_980
"""Where a minute begins, in seconds; START_S is 20 s later."""
VALUES = [
    {"function": "last", "property": "payload.v", "name": "last"},
    {"function": "sum", "property": "payload.v", "name": "sum"},
]


def at(second: float, v: Any = 1, pack: str = "P1") -> Msg:
    """A message of a device at a time within or after that minute."""
    return msg({"ts_ms": round((T + second) * 1000), "v": v, "pack": pack}, "t")


def spans(payloads: list[Any]) -> list[tuple[float, float, int]]:
    """Begin, end (in seconds of T) and count of windows."""
    return [((item["start_ms"]) / 1000 - T, item["end_ms"] / 1000 - T, item["count"]) for item in payloads]


# -- which windows ------------------------------------------------------------------------------------------------


def test_tumbling_windows_come_out_when_the_next_begins() -> None:
    found, late, errors = outcome("window", [at(0), at(59.999), at(60), at(130)], rules=[])
    assert spans(found) == [(0, 60, 2), (60, 120, 1)]
    assert found[0] == {"start_ms": T * 1000, "end_ms": (T + 60) * 1000, "count": 2}
    assert (late, errors) == ([], [])


def test_sliding_windows_hold_a_message_several_times() -> None:
    found, _, _ = outcome(
        "window", [at(35), at(45), at(200)], mode="sliding", size=60, every="20", idle=10_000
    )
    assert spans(found) == [(-20, 40, 1), (0, 60, 2), (20, 80, 2), (40, 100, 1)]


def test_session_ends_with_silence() -> None:
    steps = [at(0), at(20), at(49), at(90), at(200)]
    found, _, _ = outcome("window", steps, mode="session", gap="30", idle=10_000)
    assert spans(found) == [(0, 49, 3), (90, 90, 1)]


def test_message_that_joins_two_sessions_makes_them_one() -> None:
    steps = [at(0, 1), at(50, 4), at(25, 2), at(300)]
    found, late, _ = outcome("window", steps, mode="session", gap=30, lateness=60, idle=10_000, rules=VALUES)
    assert spans(found) == [(0, 50, 3)]
    assert (found[0]["last"], found[0]["sum"], late) == (4, 7, [])


def test_keys_have_windows_of_their_own() -> None:
    steps = [at(0), at(10, 5, "P2"), at(70), at(80, 7, "P2")]
    found, _, _ = outcome("window", steps, key="payload.pack", rules=VALUES)
    assert [(item["key"], item["sum"]) for item in found] == [("P1", 1), ("P2", 5)]


def test_receive_time_goes_by_the_clock() -> None:
    steps = [at(-10_000), 30, at(0), 9.9, at(99_999), 0.2]
    found, late, _ = outcome("window", steps, time="receive", rules=[])
    assert (spans(found), late) == ([(0, 60, 3)], [])


# -- late messages ------------------------------------------------------------------------------------------------


def test_message_for_a_window_that_is_over_leaves_by_the_second_output() -> None:
    found, late, _ = outcome("window", [at(0), at(60), at(59, "late"), at(130)])
    assert (spans(found), late) == ([(0, 60, 1), (60, 120, 1)], [at(59, "late").payload])


def test_window_waits_for_late_messages_as_long_as_it_is_allowed() -> None:
    steps = [at(0, 1), at(64, 9), at(59, 2), at(65, 9), at(58, 3), at(130)]
    found, late, _ = outcome("window", steps, lateness="5", rules=VALUES)
    assert (spans(found), found[0]["last"], found[0]["sum"]) == ([(0, 60, 2), (60, 120, 2)], 2, 3)
    assert [item["v"] for item in late] == [3]


def test_message_that_is_late_for_one_sliding_window_is_in_the_others() -> None:
    found, late, _ = outcome(
        "window", [at(45), at(61), at(41), at(200)], mode="sliding", size=60, every=20, idle=10_000
    )
    assert spans(found) == [(0, 60, 1), (20, 80, 3), (40, 100, 3), (60, 120, 1)]
    assert late == []


def test_session_that_is_over_takes_nothing_more() -> None:
    steps = [at(0), at(100), at(10), at(300)]
    found, late, _ = outcome("window", steps, mode="session", gap=30, idle=10_000)
    assert (spans(found), len(late)) == ([(0, 0, 1), (100, 100, 1)], 1)


# -- silence ------------------------------------------------------------------------------------------------------


def test_key_that_falls_silent_is_closed_by_the_clock() -> None:
    found, late, _ = outcome("window", [at(50), 39], lateness=10, idle=20)
    assert found == []
    found, late, _ = outcome("window", [at(50), 40, at(55, "late")], lateness=10, idle=20)
    assert (spans(found), [item["v"] for item in late]) == ([(0, 60, 1)], ["late"])


def test_backlog_after_silence_is_not_late() -> None:
    """A device that was away sends an hour of messages at once."""
    steps = [at(0), 4000, [at(second) for second in range(60, 3660, 30)], 4000]
    found, late, _ = outcome("window", steps, rules=[])
    assert (late, [item["count"] for item in found]) == ([], [1, *[2] * 60])


def test_clock_of_a_device_need_not_be_right() -> None:
    found, _, _ = outcome("window", [at(-1e6), at(-1e6 + 61), 200])
    assert len(found) == 2


# -- aggregates ---------------------------------------------------------------------------------------------------


ALL = [
    {"function": name, "property": "payload.v", "name": name}
    for name in ("count", "first", "last", *FUNCTIONS)
]


def test_all_aggregates_of_the_values_that_are_there() -> None:
    steps = [at(2, 2.0), at(1, 6), at(3, None), at(4, 4.0), msg({"ts_ms": (T + 5) * 1000}), at(60)]
    rules = [
        *ALL,
        {"function": "percentile", "property": "payload.v", "percent": 50},
        {"function": "count", "name": "all"},
    ]
    found, _, _ = outcome("window", steps, rules=rules)
    assert found[0] == {
        "start_ms": T * 1000, "end_ms": (T + 60) * 1000, "count": 3, "first": 6, "last": 4.0, "sum": 12.0, "mean": 4.0, "min": 2.0,
        "max": 6, "stddev": 2.0, "v_p50": 4.0, "all": 5,
    }  # fmt: skip


def test_window_without_values_has_none() -> None:
    found, _, _ = outcome("window", [at(0, None), at(60)], rules=ALL)
    assert found[0]["count"] == 0
    assert {found[0][name] for name in ("first", "last", *FUNCTIONS) if name != "sum"} == {None}


def test_first_and_last_take_texts() -> None:
    rules = [{"function": "last", "property": "payload.v"}, {"function": "first", "property": "topic"}]
    found, _, _ = outcome("window", [at(0, "a"), at(1, "b"), at(60)], rules=rules)
    assert (found[0]["v_last"], found[0]["topic_first"]) == ("b", "t")


@given(st.lists(st.floats(-1e6, 1e6), min_size=2), st.floats(0, 100))
def test_aggregates_agree_with_those_of_libraries(values: list[float], percent: float) -> None:
    close = dict(rel_tol=1e-9, abs_tol=1e-6)
    assert math.isclose(aggregated("mean", values), statistics.fmean(values), **close)
    assert math.isclose(aggregated("stddev", values), statistics.stdev(values), **close)
    assert math.isclose(percentile(values, percent) or 0.0, float(np.percentile(values, percent)), **close)


def test_numbers_beyond_all_numbers_are_none() -> None:
    assert [aggregated(name, [1.7e308, 1.7e308]) for name in ("sum", "mean", "stddev", "max")] == [
        None,
        None,
        None,
        1.7e308,
    ]
    assert aggregated("sum", [math.nan, math.inf, "x", True, 2]) == 3


class Reading(msgspec.Struct):
    """Stands for a payload of the gateway's own."""

    ts_ms: int
    soc_pct: float


def test_payloads_of_the_gateways_own_are_looked_into() -> None:
    steps = [msg(Reading(T * 1000, 71.5)), at(60)]
    found, _, _ = outcome("window", steps, rules=[{"function": "mean", "property": "payload.soc_pct"}])
    assert found[0]["soc_pct_mean"] == 71.5


# -- what goes wrong ----------------------------------------------------------------------------------------------


def test_message_without_time_key_or_number_fails_alone() -> None:
    bad = [
        msg({"v": 1, "pack": "P1"}),
        msg({"ts_ms": True, "pack": "P1"}),
        msg({"ts_ms": T * 1000}),
        at(1, "x"),
    ]
    found, _, errors = outcome("window", [[at(0), *bad, at(2)], at(60)], key="payload.pack", rules=VALUES)
    assert found[0]["count"] == 2
    assert errors == [
        "ValueError: payload.ts_ms is undefined, expected are milliseconds since 1970",
        "ValueError: payload.ts_ms is True, expected are milliseconds since 1970",
        "TypeError: payload.pack is undefined, expected is a text or a number to tell messages apart",
        "ValueError: payload.v is 'x', expected is a number",
    ]


@pytest.mark.parametrize(
    ("properties", "error"),
    [
        ({"rules": [{"function": "median", "property": "a"}]}, "property \"rules\": function of rule 1 is 'median', allowed are count, "),
        ({"rules": [{"function": "mean"}]}, 'property "rules": rule 1 (mean) needs a property'),
        ({"rules": [{"function": "mean", "property": "a..b"}]}, "property \"rules\": 'a..b' is not a property: "),
        ({"rules": [{"function": "percentile", "property": "a", "percent": 101}]}, 'property "rules": percent of rule 1 is 101, allowed is 0 … 100'),
        ({"rules": [*VALUES, VALUES[0]]}, "property \"rules\": 'last' is there twice"),
        ({"rules": [{"function": "count", "name": "key"}]}, "property \"rules\": 'key' is there twice"),
        ({"key": "a["}, "property \"key\": 'a[' is not a property: "),
        ({"timestamp": "a b"}, "property \"timestamp\": 'a b' is not a property: "),
        ({"mode": "sliding", "size": 60, "every": 0.5}, 'property "every": a message would be in 120 windows, allowed are 100'),
        ({"mode": "sliding", "size": 60, "every": 61}, 'property "every": 61 s is longer than size, 60 s'),
        ({"size": "0"}, 'property "size": 0.0 is out of range, allowed is 0.001 … 2678400 s'),
    ],
)  # fmt: skip
def test_property_that_cannot_work_is_named(properties: dict[str, Any], error: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(error)}"):
        WindowNode.spec.build("w", properties, {})


# -- batches, restarts, deploys -----------------------------------------------------------------------------------


MODES = st.sampled_from([
    {"mode": "tumbling"}, {"mode": "tumbling", "lateness": 30}, {"mode": "sliding", "every": 20}, {"mode": "session", "gap": 25},
    {"mode": "session", "gap": 25, "lateness": 30},
])  # fmt: skip
COMING = st.lists(st.tuples(st.integers(0, 300), st.sampled_from(["P1", "P2"])), max_size=25)


@settings(max_examples=25)
@given(MODES, COMING)
def test_batch_gives_what_single_messages_give(mode: dict[str, Any], coming: list[tuple[int, str]]) -> None:
    msgs = [at(second, number, pack) for number, (second, pack) in enumerate(coming)]
    properties = {**mode, "key": "payload.pack", "rules": VALUES, "idle": 100}
    assert outcome("window", [msgs, 1000], **properties) == outcome("window", [*msgs, 1000], **properties)


@settings(max_examples=25)
@given(MODES, COMING)
def test_every_message_is_in_a_window_or_late(mode: dict[str, Any], coming: list[tuple[int, str]]) -> None:
    msgs = [at(second, number, pack) for number, (second, pack) in enumerate(coming)]
    found, late, errors = outcome("window", [*msgs, 1000], **{**mode, "key": "payload.pack", "size": 60})
    copies = 3 if mode["mode"] == "sliding" else 1
    assert errors == []
    counted = sum(item["count"] for item in found)
    assert len(msgs) - len(late) <= counted <= copies * (len(msgs) - len(late))
    assert copies > 1 or counted == len(msgs) - len(late)


@pytest.mark.parametrize(
    "mode", [{"mode": "tumbling"}, {"mode": "sliding", "every": 20}, {"mode": "session"}]
)
def test_open_windows_survive_a_restart(mode: dict[str, Any], tmp_path: Path) -> None:
    properties: dict[str, Any] = {**mode, "key": "payload.pack", "rules": VALUES, "idle": 1000}
    before, after = [at(1, 1), at(50, 2), at(30, 5, "P2")], [at(55, 3), at(45, 9), at(500), at(500, 1, "P2")]
    whole, _, _ = outcome("window", [*before, *after], **properties)
    found: list[Any] = []

    async def scenario() -> None:
        async with holding("window", state_dir=tmp_path, **properties) as held:
            await held.give(*before)
            found.extend(held.payloads())
        async with holding("window", state_dir=tmp_path, at_s=START_S + 30, **properties) as held:
            assert held.lab["n"].status()["keys"] == 2
            await held.give(*after)
            found.extend(held.payloads())

    run(scenario)
    assert found == whole


def test_only_what_is_looked_at_is_held_on_disk(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with holding("window", state_dir=tmp_path, rules=VALUES) as held:
            await held.give(msg({"ts_ms": T * 1000, "v": 1, "more": "x" * 10_000}, "t"))
        [row] = await HeldStore(tmp_path).open()
        assert row.msg.payload == {
            "k": "",
            "s": T * 1000,
            "e": (T + 60) * 1000,
            "t": T * 1000,
            "v": {"payload.v": 1},
        }
        assert row.msg.origin is None

    run(scenario)


def test_message_is_acknowledged_when_it_is_on_disk_and_forgotten_when_its_window_is_safe(
    tmp_path: Path,
) -> None:
    async def scenario() -> None:
        async with holding("window", state_dir=tmp_path) as held:
            first = await held.give(at(0))
            assert not first.done()
            await _until_done(held, first)
            await _until_done(held, await held.give(at(60)))
            assert spans(held.payloads()) == [(0, 60, 1)]
        assert [row.msg.payload["t"] for row in await HeldStore(tmp_path).open()] == [(T + 60) * 1000]

    run(scenario)


async def _until_done(held: Held, task: Any) -> None:
    import asyncio

    async with asyncio.timeout(10):
        while not task.done():
            await held.pass_s(0.3)
            await asyncio.sleep(0.001)


def test_other_settings_end_open_windows_as_they_began() -> None:
    async def scenario() -> None:
        async with holding("window", size=60, rules=VALUES) as held:
            await held.give(at(0, 1), at(10, 2))
            await held.deploy(
                *flow_of("window", size=30, rules=[{"function": "max", "property": "payload.v"}])
            )
            await held.give(at(40, 3), at(61, 4))
            await turns()
            assert held.failures() == []
            assert spans(held.payloads()) == [(0, 60, 2), (30, 60, 1)]
            assert [item["v_max"] for item in held.payloads()] == [2, 3]

    run(scenario)
