"""Clocks that are wrong: a device that is far in the future makes nothing late in the nodes that go by event time."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.holders import holding, msg, run
from voltflow.message import Msg

BEGIN_S = 1_699_999_980
"""Where a minute begins."""
VALUES = [{"function": name, "property": "payload.v", "name": name} for name in ("last", "sum")]


def received(second: float, v: Any, at_s: float, pack: str = "P1") -> Msg:
    """A message with a time, that came at another one, in seconds of that minute."""
    found = msg({"ts_ms": round((BEGIN_S + second) * 1000), "v": v, "pack": pack}, "t")
    found.received_ms = round((BEGIN_S + at_s) * 1000)
    return found


Put = tuple[list[Any], list[tuple[Any, str]], dict[str, Any]]


def put(kind: str, steps: list[Msg], **properties: Any) -> Put:
    """What comes out, what was put aside with its reason, the node's status in the end."""
    found: list[Put] = []

    async def scenario() -> None:
        async with holding(kind, **properties) as held:
            for step in steps:
                await held.give(step)
            await held.pass_s(10_000)
            aside = [(item.payload["v"], item.props["late"]) for item in held.sent(2)]
            found.append((held.payloads(), aside, held.lab["n"].status()))

    run(scenario)
    return found[0]


# -- window -------------------------------------------------------------------------------------------------------


MODES = st.sampled_from([
    {"mode": "tumbling"}, {"mode": "tumbling", "lateness": 30}, {"mode": "sliding", "every": 20}, {"mode": "session", "gap": 25},
])  # fmt: skip
COMING = st.lists(st.tuples(st.integers(1, 300), st.sampled_from(["P1", "P2"])), max_size=25)
AHEAD = st.lists(
    st.tuples(st.integers(0, 25), st.floats(3601, 1e9), st.sampled_from(["P1", "P2"])), max_size=5
)
KEYS = st.sampled_from(["", "payload.pack"])
ODD = -1.0
"""The value of messages from the future."""


def right_and_mixed(
    coming: list[tuple[int, str]], odd: list[tuple[int, float, str]]
) -> tuple[list[Msg], list[Msg]]:
    """Messages that came at their time, in any order; and with others from the future between them."""
    right = [received(second, float(number), second, pack) for number, (second, pack) in enumerate(coming)]
    mixed = [*right]
    for place, ahead_s, pack in odd:
        mixed.insert(place, received(300 + ahead_s, ODD, 300, pack))
    return right, mixed


@pytest.mark.parametrize("key", ["", "payload.pack"])
def test_message_from_the_far_future_makes_nothing_late_for_a_window(key: str) -> None:
    steps = [received(1, 1, 1), received(3e8, ODD, 10), received(20, 2, 20), received(61, 3, 61)]
    windows, aside, status = put("window", steps, key=key, rules=VALUES)
    assert ([item["sum"] for item in windows], aside) == ([3, 3], [(ODD, "future")])
    assert (status["late"], status["future"]) == (0, 1)
    _, aside, _ = put("window", steps, key=key, ahead=0)
    assert aside == [(2, "late"), (3, "late")], "so it was, and is without a limit"


def test_how_far_ahead_is_too_far_is_counted_from_the_receiving() -> None:
    steps = [received(110, 1, 10), received(111, 2, 10), received(111, 3, 11)]
    assert put("window", steps, ahead=100)[1] == [(2, "future")]


def test_gateway_that_does_not_know_the_time_puts_nothing_aside() -> None:
    steps = [received(0, 1, -BEGIN_S), received(3e8, 2, -BEGIN_S)]
    assert (
        put("window", steps)[2]["future"]
        == put("resample", steps, properties=["payload.v"])[2]["future"]
        == 0
    )


def test_by_receive_time_no_message_is_from_the_future() -> None:
    windows, aside, _ = put("window", [received(3e8, 1, 0)], time="receive")
    assert (len(windows), aside) == (1, [])


@settings(max_examples=25)
@given(MODES, COMING, AHEAD, KEYS)
def test_wrong_clocks_change_nothing_in_the_windows_of_right_ones(
    mode: dict[str, Any], coming: list[tuple[int, str]], odd: list[tuple[int, float, str]], key: str
) -> None:
    properties = {**mode, "key": key, "rules": VALUES, "idle": 100}
    right, mixed = right_and_mixed(coming, odd)
    windows, aside, status = put("window", mixed, **properties)
    expected, late, _ = put("window", right, **properties)
    assert windows == expected
    assert [item for item in aside if item[0] != ODD] == late
    assert aside.count((ODD, "future")) == status["future"] == len(odd)


@settings(max_examples=25)
@given(MODES, st.lists(st.tuples(st.integers(0, 40), st.integers(-50, 500), st.booleans()), max_size=25))
def test_who_waits_for_late_messages_as_long_as_clocks_may_be_ahead_finds_none_late_that_is_on_time(
    mode: dict[str, Any], coming: list[tuple[int, int, bool]]
) -> None:
    """However far ahead the clocks of the others are."""
    now_s, steps = 0, []
    for number, (passed_s, ahead_s, right) in enumerate(coming):
        now_s += passed_s
        steps.append(received(now_s + (0 if right else ahead_s), (number, right), now_s))
    _, aside, _ = put("window", steps, **{**mode, "ahead": 100, "lateness": 100, "idle": 10_000})
    assert [number for (number, right), _ in aside if right] == []


# -- resample -----------------------------------------------------------------------------------------------------


def test_message_from_the_far_future_makes_nothing_late_for_a_grid() -> None:
    steps = [received(5, 1.0, 5), received(3e8, ODD, 6), received(15, 2.0, 15), received(14, 3.0, 16)]
    points, aside, status = put("resample", steps, properties=["payload.v"])
    assert ([item["v"] for item in points], aside) == ([1.5], [(ODD, "future"), (3.0, "late")])
    assert (status["future"], status["late"]) == (1, 1)
    _, aside, _ = put("resample", steps, properties=["payload.v"], ahead=0)
    assert aside == [(2.0, "late"), (3.0, "late")], "so it was, and is without a limit"


@settings(max_examples=25)
@given(COMING, AHEAD, st.sampled_from(["last", "mean", "linear"]), KEYS)
def test_wrong_clocks_change_nothing_in_the_grid_of_right_ones(
    coming: list[tuple[int, str]], odd: list[tuple[int, float, str]], method: str, key: str
) -> None:
    properties = dict(properties=["payload.v"], method=method, key=key)
    right, mixed = right_and_mixed(coming, odd)
    points, aside, status = put("resample", mixed, **properties)
    expected, late, _ = put("resample", right, **properties)
    assert points == expected
    assert [item for item in aside if item[0] != ODD] == late
    assert aside.count((ODD, "future")) == status["future"] == len(odd)
