"""The `delay` node: later, or not more often than wanted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.holders import Step, holding, msg, outcome, run
from voltflow.message import Msg
from voltflow.node import REGISTRY, ConfigError


def passed(steps: list[Any], **properties: Any) -> list[Any]:
    payloads, _, failures = outcome("delay", steps, **properties)
    assert failures == []
    return payloads


# -- delays ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("unit", "seconds"),
    [("milliseconds", 0.05), ("seconds", 50), ("minutes", 3000), ("hours", 180_000), ("days", 4_320_000)],
)
def test_fixed_delay_passes_each_message_after_its_time_and_in_order(unit: str, seconds: float) -> None:
    steps: list[Step] = [msg(1), msg(2), seconds * 0.98]
    assert passed(steps, timeout="50", timeoutUnits=unit) == []
    assert passed([*steps, seconds * 0.03], timeout="50", timeoutUnits=unit) == [1, 2]


def test_defaults_are_five_seconds() -> None:
    assert passed([msg(1), 4.9]) == []
    assert passed([msg(1), 5.1]) == [1]


def test_delay_of_nothing_passes_at_once() -> None:
    assert passed([msg(1), msg(2)], timeout="0") == [1, 2]


@pytest.mark.parametrize(("delay", "at_s"), [(2000, 2), ("1500", 1.5), (-5, 0), ("soon", 5), (None, 5)])
def test_variable_delay_is_that_of_the_message(delay: Any, at_s: float) -> None:
    steps: list[Step] = [msg(1, delay=delay), max(0.0, at_s - 0.1)]
    assert passed(steps, pauseType="delayv") == ([] if at_s else [1])
    assert passed([*steps, 0.2], pauseType="delayv") == [1]


def test_variable_delays_let_a_later_message_overtake() -> None:
    assert passed([msg(1, delay=3000), msg(2, delay=1000), 4.0], pauseType="delayv") == [2, 1]


def test_random_delay_lies_between_its_ends() -> None:
    steps: list[Step] = [*(msg(i) for i in range(20)), 1.9]
    limits = dict(pauseType="random", randomFirst="2", randomLast="4", randomUnits="seconds")
    assert passed(steps, **limits) == []
    assert sorted(passed([*steps, 2.2], **limits)) == list(range(20))


@pytest.mark.parametrize("kind", ["delay", "delayv", "random"])
def test_reset_clears_what_waits_and_goes_no_further(kind: str) -> None:
    assert passed([msg(1), msg(2), msg(3, reset=True), 10.0, msg(4), 6.0], pauseType=kind) == [4]


@pytest.mark.parametrize("kind", ["delay", "delayv", "random"])
@pytest.mark.parametrize(("flush", "expected"), [(True, [1, 2, 3]), (2, [1, 2]), (9, [1, 2, 3]), (0, [])])
def test_flush_lets_the_first_so_many_out(kind: str, flush: Any, expected: list[int]) -> None:
    steps: list[Step] = [msg(1), msg(2), msg(3), 0.5, msg(None, flush=flush)]
    limits = dict(pauseType=kind, randomFirst=2)
    assert passed(steps, **limits) == expected
    assert sorted(passed([*steps, 10.0], **limits)) == [1, 2, 3], "and none twice"


def test_flush_with_a_payload_is_a_message_too() -> None:
    assert passed([msg(1), msg(2, flush=True), 10.0]) == [1, 2]


# -- limits ---------------------------------------------------------------------------------------------------------


def test_limit_passes_the_first_at_once_and_the_others_in_their_time() -> None:
    steps: list[Step] = [msg(1), msg(2), msg(3), 0.49]
    limit = dict(pauseType="rate", rate="2")
    assert passed(steps, **limit) == [1]
    assert passed([*steps, 0.02], **limit) == [1, 2]
    assert passed([*steps, 0.52], **limit) == [1, 2, 3]


def test_limit_counts_from_the_last_message_while_its_time_runs() -> None:
    assert passed([msg(1), 0.9, msg(2)], pauseType="rate") == [1]
    assert passed([msg(1), 1.1, msg(2)], pauseType="rate") == [1, 2]


@pytest.mark.parametrize(
    ("unit", "number", "every_s"),
    [("second", 3, 3), ("minute", 1, 60), ("hour", 2, 7200), ("day", 1, 86_400)],
)
def test_limit_has_units_of_time(unit: str, number: int, every_s: float) -> None:
    steps: list[Step] = [msg(1), msg(2), every_s * 0.99]
    limit = dict(pauseType="rate", rateUnits=unit, nbRateUnits=str(number))
    assert passed(steps, **limit) == [1]
    assert passed([*steps, every_s * 0.02], **limit) == [1, 2]


def test_limit_of_many_a_second_keeps_its_rate() -> None:
    assert passed([[msg(i) for i in range(500)], 1.0], pauseType="rate", rate="100") == list(range(101))


def test_message_to_the_front_is_the_next_one() -> None:
    steps: list[Step] = [msg(1), msg(2), msg(3), msg(4, toFront=True), 3.1]
    assert passed(steps, pauseType="rate") == [1, 4, 2, 3]


def test_limit_is_flushed_and_reset() -> None:
    waiting: list[Step] = [msg(1), msg(2), msg(3), msg(4)]
    limit = dict(pauseType="rate")
    assert passed([*waiting, msg(None, flush=True)], **limit) == [1, 2, 3, 4]
    assert passed([*waiting, msg(None, flush=1)], **limit) == [1, 2]
    assert passed([*waiting, msg(None, flush=1), 1.1], **limit) == [1, 2, 3]
    assert passed([*waiting, msg(None, reset=True), 5.0], **limit) == [1]
    assert passed([*waiting, msg(None, reset=True), msg(5)], **limit) == [1, 5]
    assert passed([*waiting, msg(6, reset=True, flush=True), 5.0], **limit) == [1, 2, 3, 4, 6]


def test_flushed_message_no_longer_says_so() -> None:
    async def scenario() -> None:
        async with holding("delay", pauseType="rate") as held:
            await held.give(msg(1), msg(2, flush=True, other=1))
            assert [found.props for found in held.sent()] == [None, {"other": 1}]

    run(scenario)


@pytest.mark.parametrize(("allow", "expected"), [(True, [1, 2, 3]), (False, [1])])
def test_message_may_set_the_rate_where_that_is_allowed(allow: bool, expected: list[int]) -> None:
    steps: list[Step] = [msg(1), msg(2, rate=100), msg(3), 0.25]
    assert passed(steps, pauseType="rate", allowrate=allow) == expected


def test_rate_of_a_message_ends_with_a_reset() -> None:
    steps: list[Step] = [msg(1, rate=100), msg(None, reset=True), msg(2), msg(3), 0.9]
    assert passed(steps, pauseType="rate", allowrate=True) == [1, 2]


@pytest.mark.parametrize(("outputs", "second"), [(1, []), (2, [2, 3, 5])])
def test_limit_that_drops_gives_what_is_too_much_to_the_second_output(
    outputs: int, second: list[int]
) -> None:
    steps: list[Step] = [msg(1), msg(2), 0.5, msg(3), 0.6, msg(4), msg(5), msg(None, reset=True), msg(6)]
    assert outcome("delay", steps, pauseType="rate", drop=True, outputs=outputs) == ([1, 4, 6], second, [])


@pytest.mark.parametrize(("outputs", "second"), [(1, []), (2, [3, 4, 6])])
def test_burst_passes_so_many_in_any_time(outputs: int, second: list[int]) -> None:
    steps: list[Step] = [
        msg(1),
        5.0,
        msg(2),
        msg(3),
        msg(4),
        5.1,
        msg(5),
        msg(6),
        msg(None, reset=True),
        msg(7),
    ]
    properties = dict(pauseType="burst", rate="2", nbRateUnits="10", outputs=outputs)
    assert outcome("delay", steps, **properties) == ([1, 2, 5, 7], second, [])


def test_limit_after_a_pause_does_not_send_what_others_would_have_passed() -> None:
    """Nobody could wake the node for ten seconds."""

    async def scenario() -> None:
        async with holding("delay", pauseType="rate") as held:
            await held.give(*(msg(i) for i in range(8)))
            held.time._now_s += 10
            await held.pass_s(0)
            assert held.payloads() == [0, 1]

    run(scenario)


# -- topics ---------------------------------------------------------------------------------------------------------


def topics(*names: str) -> list[Msg]:
    return [msg(f"{name}{i}", name) for i, name in enumerate(names)]


@pytest.mark.parametrize(("outputs", "second"), [(1, []), (2, ["a0", "b1"])])
def test_queue_passes_one_topic_at_a_time_each_with_its_last_message(outputs: int, second: list[str]) -> None:
    steps: list[Step] = [*topics("a", "b", "a", "c", "b"), 1.1]
    properties = dict(pauseType="queue", outputs=outputs)
    assert outcome("delay", steps, **properties) == (["a2"], second, [])
    assert outcome("delay", [*steps, 2.0], **properties) == (["a2", "b4", "c3"], second, [])


def test_timed_passes_all_topics_at_once() -> None:
    steps: list[Step] = [*topics("a", "b", "a", "c", "b"), 0.9]
    assert passed(steps, pauseType="timed") == []
    assert passed([*steps, 0.2], pauseType="timed") == ["a2", "b4", "c3"]


def test_turns_go_on_while_nobody_waits() -> None:
    assert passed([3.9, *topics("a"), 0.2], pauseType="queue") == ["a0"]


def test_topics_are_flushed_and_reset() -> None:
    waiting: list[Step] = [*topics("a", "b", "c")]
    assert passed([*waiting, msg(None, flush=True)], pauseType="queue") == ["a0", "b1", "c2"]
    assert passed([*waiting, msg(None, flush=2)], pauseType="timed") == ["a0", "b1"]
    assert passed([*waiting, msg(None, reset=True), 3.0], pauseType="timed") == []


# -- what is around it ----------------------------------------------------------------------------------------------


def test_badge_counts_what_waits() -> None:
    async def scenario() -> None:
        async with holding("delay") as held:
            node = held.lab["n"]
            await held.give(msg(1))
            assert node.badge == {"fill": "blue", "shape": "dot", "text": "1"}
            await held.give(msg(2), msg(3))
            await held.pass_s(0.6)
            assert node.badge["text"] == "3"
            await held.pass_s(5)
            assert node.badge["text"] == "0"

    run(scenario)


@pytest.mark.parametrize("kind", ["delay", "delayv", "random", "rate", "queue", "timed"])
def test_what_waits_survives_a_restart_and_its_flush_is_over(kind: str, tmp_path: Path) -> None:
    properties: dict[str, Any] = dict(pauseType=kind, timeout=100, randomFirst=100, randomLast=100, rate=0.01)

    async def scenario() -> None:
        async with holding("delay", state_dir=tmp_path, **properties) as held:
            await held.give(msg(0, "x"), msg(1, "a", flush=0), msg(2, "b"))
            before = held.payloads()
            assert before == ([0] if kind == "rate" else [])
        async with holding("delay", state_dir=tmp_path, **properties) as held:
            assert held.payloads() == []
            await held.pass_s(350)
            assert sorted(before + held.payloads()) == [0, 1, 2]

    run(scenario)


STEPS: dict[str, list[Msg]] = {
    "plain": topics("a", "b", "a", "c", "b", "a"),
    "told": [*topics("a", "b"), msg(None, flush=1), msg("x", "c", toFront=True), msg(None, reset=True), *topics("d")],
    "rates": [msg(1, "a", rate=200), msg(2, "b", rate="300"), msg(3, "c", delay=10)],
}  # fmt: skip


@pytest.mark.parametrize("kind", ["delay", "delayv", "rate", "burst", "queue", "timed"])
@pytest.mark.parametrize("name", STEPS)
def test_batch_gives_what_its_messages_give_one_by_one(kind: str, name: str) -> None:
    properties = dict(pauseType=kind, outputs=2, allowrate=True)
    assert outcome("delay", [STEPS[name], 9.0], **properties) == outcome(
        "delay", [*STEPS[name], 9.0], **properties
    )


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("timeout", "-1", 'property "timeout": -1.0 is out of range'),
        ("timeout", "five", 'property "timeout": '),
        ("rate", "0", 'property "rate": 0.0 is out of range'),
        ("pauseType", "sleep", "property \"pauseType\": 'sleep' is not one of"),
        ("outputs", "3", 'property "outputs": 3 is not one of 1, 2'),
    ],
)
def test_wrong_property_is_named(name: str, value: str, told: str) -> None:
    with pytest.raises(ConfigError) as error:
        REGISTRY["delay"].build("n", {name: value}, {})
    assert told in str(error.value)
