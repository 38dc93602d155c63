"""The `trigger` node: something now, something later."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.flows import raw
from tests.holders import START_S, Step, holding, msg, outcome, run
from voltflow.engine.context import Contexts
from voltflow.message import Msg
from voltflow.node import REGISTRY, ConfigError


def sent(steps: list[Any], **properties: Any) -> list[Any]:
    payloads, _, failures = outcome("trigger", steps, **properties)
    assert failures == []
    return payloads


def test_defaults_send_1_and_then_0_after_a_quarter_of_a_second() -> None:
    assert sent([msg("x"), 0.2]) == ["1"]
    assert sent([msg("x"), msg("y"), 0.3]) == ["1", "0"]
    assert sent([msg("x"), 0.3, msg("y"), 0.3]) == ["1", "0", "1", "0"]


@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [
        ("true", "val", True), ("false", "val", False), ("null", "val", None), ("12", "val", "12"),
        ("12", "num", 12), ("true", "bool", True), ('{"a":[1]}', "json", {"a": [1]}), ("[1,2]", "bin", b"\x01\x02"),
        ("text", "str", "text"), ("{{payload}} of {{topic}}", "str", "x of t"), ("{{payload}}", "val", "x"),
        ("", "pay", "x"), ("", "date", int(START_S * 1000)),
    ],
)  # fmt: skip
def test_first_and_second_are_typed(value: str, kind: str, expected: Any) -> None:
    first = dict(op1=value, op1type=kind, op2type="nul")
    assert sent([msg("x", "t"), 1.0], **first) == [expected]
    if kind != "date":
        assert sent([msg("x", "t"), 1.0], op1type="nul", op2=value, op2type=kind) == [expected]


def test_second_of_a_context_or_a_time_is_taken_when_it_goes() -> None:
    async def scenario() -> None:
        contexts = Contexts()
        flow = contexts.scope("flow")
        async with holding(
            "trigger", contexts=contexts, op1type="nul", op2="level.a", op2type="flow"
        ) as held:
            await held.give(msg("x"))
            flow.set("level", {"a": 7})
            await held.pass_s(0.3)
            assert held.payloads() == [7]

    run(scenario)
    assert sent([msg("x"), 10.0], op1type="nul", op2="", op2type="date", duration=2, units="s") == [
        int((START_S + 2) * 1000)
    ]


@pytest.mark.parametrize(("unit", "seconds"), [("ms", 0.02), ("s", 20), ("min", 1200), ("hr", 72_000)])
def test_duration_has_units(unit: str, seconds: float) -> None:
    steps: list[Step] = [msg("x"), seconds * 0.95]
    assert sent(steps, duration="20", units=unit) == ["1"]
    assert sent([*steps, seconds * 0.1], duration="20", units=unit) == ["1", "0"]


def test_nothing_may_be_the_first_or_the_second() -> None:
    assert sent([msg("x"), 1.0], op1type="nul") == ["0"]
    assert sent([msg("x"), msg("y"), 0.3, msg("z"), 1.0], op2type="nul") == ["1", "1"]
    assert sent([msg("x"), 1.0], op1type="nul", op2type="nul") == []


def test_first_payload_and_last_message_are_sent_later() -> None:
    steps: list[Step] = [msg("a"), 0.1, msg("b"), 0.1, msg("c"), 0.06]
    assert sent(steps, op1type="nul", op2type="pay") == ["a"]
    assert sent(steps, op1type="nul", op2type="payl") == ["c"]


def test_what_is_sent_is_the_message_with_another_payload() -> None:
    async def scenario() -> None:
        async with holding("trigger", op2type="payl") as held:
            await held.give(msg("a", "t", pack="p1"), msg("b", "t", pack="p2"))
            await held.pass_s(0.3)
            assert [(found.payload, found.topic, found.props) for found in held.sent()] == [
                ("1", "t", {"pack": "p1"}), ("b", "t", {"pack": "p2"}),
            ]  # fmt: skip

    run(scenario)


def test_another_message_begins_the_time_anew_where_it_extends() -> None:
    steps: list[Step] = [msg("a"), 0.2, msg("b"), 0.2, msg("c"), 0.2]
    assert sent(steps, extend="true") == ["1"]
    assert sent([*steps, 0.1], extend="true") == ["1", "0"]
    assert sent([*steps, 0.1], extend=True, op2type="pay") == ["1", "a"]
    assert sent([*steps, 0.1], extend=True, op2type="payl") == ["1", "c"]
    assert sent([*steps, 0.1, msg("d")], extend=True, op2type="nul") == ["1", "1"]


def test_duration_of_0_waits_for_a_reset() -> None:
    assert sent([msg("a"), 1e6, msg("b"), msg(None, reset=True), msg("c")], duration="0") == ["1", "1"]


def test_duration_below_0_sends_again_and_again_until_a_reset() -> None:
    steps: list[Step] = [msg("a"), 2.5, msg("b"), 2.5, msg(None, reset=1), 9.0]
    assert sent(steps, duration="-1", units="s", op1type="pay") == ["a", "a", "a", "b", "b", "b"]
    assert sent(steps, duration="-1", units="s", op1type="nul") == []


def test_time_is_that_of_the_moment_whenever_it_is_sent_again() -> None:
    found = sent([msg("a"), 2.5], duration="-1", units="s", op1="", op1type="date")
    assert found == [int((START_S + second) * 1000) for second in range(3)]


@pytest.mark.parametrize(
    ("reset", "payload"),
    [("stop", "stop"), ("0", 0), ("true", True), ("1.5", 1.5), ("1,2", [1, 2]), ("x", b"x")],
)
def test_payload_resets_it(reset: str, payload: Any) -> None:
    assert sent([msg("a"), msg(payload), 1.0, msg("b")], reset=reset) == ["1", "1"]


def test_reset_before_anything_came_does_nothing() -> None:
    assert sent([msg(None, reset=True), 1.0]) == []


@pytest.mark.parametrize(("override", "at_s"), [(True, 2.0), (False, 0.25)])
def test_message_says_how_long_where_that_is_allowed(override: bool, at_s: float) -> None:
    steps: list[Step] = [msg("a", delay="2000"), at_s - 0.05]
    assert sent(steps, overrideDelay=override) == ["1"]
    assert sent([*steps, 0.1], overrideDelay=override) == ["1", "0"]


def test_topics_are_told_apart_by_a_property() -> None:
    steps: list[Step] = [msg("x", "a"), msg("y", "b"), msg("z", "a"), msg(None, "b", reset=True), 1.0]
    assert sent(steps, bytopic="topic", op1type="pay", op2type="pay") == ["x", "y", "x"]
    assert sent(steps, op1type="pay", op2type="pay") == ["x"]
    by_pack: list[Step] = [msg("x", pack="1"), msg("y", pack="2"), msg("z", pack="1")]
    assert sent(by_pack, bytopic="topic", topic="pack", op1type="pay") == ["x", "y"]


def test_second_goes_to_the_second_output_where_there_is_one() -> None:
    assert outcome("trigger", [msg("x"), 1.0], outputs=2) == (["1"], ["0"], [])
    looped = dict(outputs=2, duration=-1, units="s")
    assert outcome("trigger", [msg("x"), 1.5], **looped) == (["1", "1"], [], [])


def test_badge_counts_topics() -> None:
    async def scenario() -> None:
        async with holding("trigger", bytopic="topic") as held:
            badges = []
            for topic in "ab":
                await held.give(msg(1, topic))
                badges.append(held.lab["n"].badge)
            await held.pass_s(1)
            assert badges == [
                {"fill": "blue", "shape": "dot", "text": ""}, {"fill": "blue", "shape": "dot", "text": "2"},
            ]  # fmt: skip
            assert held.lab["n"].badge == {}

    run(scenario)


@pytest.mark.parametrize(
    ("properties", "steps", "then", "expected"),
    [
        (dict(duration=60, units="s", op2type="pay"), [msg("a")], [msg("b"), 61.0], ["a"]),
        (dict(duration=60, units="s", op2type="payl"), [msg("a"), 30.0, msg("b")], [28.0], []),
        (dict(duration=60, units="s", op2type="payl"), [msg("a"), 30.0, msg("b")], [31.0], ["b"]),
        (dict(duration=60, units="s", extend=True, op2type="pay"), [msg("a"), 30.0, msg("b")], [61.0], ["a"]),
        (dict(duration=-60, units="s", op1type="pay"), [msg("a")], [61.0, 60.0], ["a", "a"]),
        (dict(duration=0), [msg("a")], [msg("b"), msg(None, reset=1), msg("c")], ["1"]),
        (dict(duration=60, units="s", op2type="nul"), [msg("a")], [msg("b"), 61.0, msg("c")], ["1"]),
    ],
    ids=["first payload", "last message waits", "last message", "extended", "loop", "until a reset", "nothing later"],
)  # fmt: skip
def test_what_is_to_be_sent_survives_a_restart(
    properties: dict[str, Any], steps: list[Any], then: list[Any], expected: list[Any], tmp_path: Path
) -> None:
    async def scenario() -> None:
        async with holding("trigger", state_dir=tmp_path, **properties) as held:
            for step in steps:
                await (held.give(step) if isinstance(step, Msg) else held.pass_s(step))
            now_s = held.time.now_s()
        async with holding("trigger", state_dir=tmp_path, at_s=now_s, **properties) as held:
            for step in then:
                await (held.give(step) if isinstance(step, Msg) else held.pass_s(step))
            assert held.payloads() == expected

    run(scenario)


def test_removed_node_leaves_dead_letters_only_of_what_was_still_to_be_sent() -> None:
    async def scenario(expected: int, **properties: Any) -> None:
        async with holding("trigger", **properties) as held:
            await held.give(msg("a"))
            await held.deploy(raw("s", "source", ["k1"]), raw("k1", "sink"), raw("d", "dead letters"))
            assert len(held.failures()) == expected

    run(lambda: scenario(1))
    run(lambda: scenario(0, duration=-1))
    run(lambda: scenario(0, duration=0))
    run(lambda: scenario(0, op2type="nul"))


BATCHES: dict[str, list[Msg]] = {
    "topics": [msg(1, "a"), msg(2, "b"), msg(3, "a"), msg(None, "b", reset=1), msg(4, "b"), msg(5, "a")],
    "delays": [msg(1, delay=10), msg(2, delay=900), msg("stop"), msg(3)],
}


@pytest.mark.parametrize("name", BATCHES)
@pytest.mark.parametrize(
    "properties",
    [{}, dict(extend=True, op2type="pay"), dict(op2type="payl", overrideDelay=True), dict(duration=-300, op1type="pay")],
)  # fmt: skip
def test_batch_gives_what_its_messages_give_one_by_one(name: str, properties: dict[str, Any]) -> None:
    properties = {**properties, "bytopic": "topic", "reset": "stop"}
    batch = outcome("trigger", [BATCHES[name], 1.0], **properties)
    assert batch == outcome("trigger", [*BATCHES[name], 1.0], **properties)
    assert batch[0]


@pytest.mark.parametrize(
    ("properties", "told"),
    [
        (dict(op1="12x", op1type="num"), "property \"op1\": '12x' is not a number"),
        (dict(op2="{", op2type="json"), 'property "op2": '),
        (dict(op1="{{#a}}", op1type="str"), 'property "op1": the template cannot be read'),
        (dict(topic="a..b", bytopic="topic"), 'property "topic": '),
        (dict(units="days"), "property \"units\": 'days' is not one of"),
    ],
)
def test_wrong_property_is_named(properties: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError) as error:
        REGISTRY["trigger"].build("n", properties, {})
    assert told in str(error.value)
