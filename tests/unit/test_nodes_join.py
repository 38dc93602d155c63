"""The `join` node: one message of several."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.flows import raw
from tests.holders import Step, holding, msg, outcome, run
from voltflow.message import Msg
from voltflow.node import REGISTRY, ConfigError


def joined(steps: list[Any], **properties: Any) -> list[Any]:
    payloads, _, failures = outcome("join", steps, **properties)
    assert failures == []
    return payloads


def part(payload: Any, index: int, count: int | None = None, id: str = "x", **others: Any) -> Msg:
    parts = {"id": id, "index": index, **({} if count is None else {"count": count}), **others}
    return msg(payload, parts=parts)


# -- what msg.parts says --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("msgs", "expected"),
    [
        ([part("b", 1, 2, type="string", ch=","), part("a", 0, 2, type="string", ch=",")], "a,b"),
        ([part("a", 0, 2, type="string", ch=[44]), part("b", 1, 2, type="string", ch=[44])], "a,b"),
        ([part(b"b", 1, 2, type="buffer", ch="\n"), part(b"a", 0, 2, type="buffer", ch="\n")], b"a\nb"),
        ([part(b"ab", 0, 2, type="buffer", len=2), part(b"c", 1, 2, type="buffer", len=2)], b"abc"),
        ([part(2, 1, 2, type="array", len=1), part(1, 0, 2, type="array", len=1)], [1, 2]),
        ([part([1, 2], 0, 2, type="array", len=2), part([3], 1, 2, type="array", len=2)], [1, 2, 3]),
        ([part([1], 0, 2, type="array", len=1), part([3], 1, 2, type="array", len=1)], [[1], [3]]),
        ([part(1, 0, 2, type="object", key="a"), part(2, 1, 2, type="object", key="b")], {"a": 1, "b": 2}),
        ([part(1, 0, 2), part(2, 1, 2)], [1, 2]),
    ],
    ids=["text", "by bytes", "buffers", "buffers by length", "list", "pieces of a list", "lists", "object", "no type"],
)  # fmt: skip
def test_sequence_is_put_together_by_its_parts(msgs: list[Msg], expected: Any) -> None:
    assert joined(msgs) == [expected]
    assert joined(msgs[:1]) == []


def test_sequences_are_told_apart_and_their_last_message_gives_the_rest() -> None:
    async def scenario() -> None:
        async with holding("join") as held:
            for one in (part(1, 0, 2, "x"), part(10, 0, 2, "y"), part(20, 1, 2, "y"), part(2, 1, 2, "x")):
                await held.give(
                    one.derive(topic=f"t{one.payload}", props={**(one.props or {}), f"p{one.payload}": 1})
                )
            assert [(found.payload, found.topic, found.props) for found in held.sent()] == [
                ([10, 20], "t20", {"p10": 1, "p20": 1}), ([1, 2], "t2", {"p1": 1, "p2": 1}),
            ]  # fmt: skip

    run(scenario)


def test_part_that_comes_twice_counts_once() -> None:
    """After a crash its source sends it again while it is held on disk."""
    assert joined([part(1, 0, 2), part(1, 0, 2)]) == []
    assert joined([part(1, 0, 2), part(1, 0, 2), part(2, 1, 2)]) == [[1, 2]]


def test_what_a_sequence_was_part_of_comes_back() -> None:
    async def scenario() -> None:
        async with holding("join") as held:
            await held.give(part(1, 0, 1, parts={"id": "outer", "index": 3}))
            assert held.sent()[0].props == {"parts": {"id": "outer", "index": 3}}

    run(scenario)


def test_another_property_was_split() -> None:
    async def scenario() -> None:
        async with holding("join") as held:
            await held.give(*(
                msg({"cells": i, "soc": 5}, parts={"id": "x", "index": i, "count": 2, "type": "array", "property": "payload.cells"})
                for i in range(2)
            ))  # fmt: skip
            assert held.payloads() == [{"cells": [0, 1], "soc": 5}]

    run(scenario)


def test_complete_ends_a_sequence_whose_length_is_not_known() -> None:
    last = msg(3, complete=True, parts={"id": "x", "index": 2})
    assert joined([part(1, 0), part(2, 1)]) == []
    assert joined([part(1, 0), part(2, 1), last]) == [[1, 2, 3]]


def test_reset_clears_its_sequence_or_all() -> None:
    reset = msg(None, reset=True, parts={"id": "x"})
    steps: list[Step] = [part(1, 0, 2, "x"), part(1, 0, 2, "y")]
    more: list[Step] = [part(2, 1, 2, "x"), part(2, 1, 2, "y")]
    assert joined([*steps, reset, *more]) == [[1, 2]]
    assert joined([*steps, msg(None, reset=True), *more]) == []


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        (msg(1), "ValueError: msg.parts with an id is missing: it is part of nothing"),
        (
            part(1, 0, 2, "z", type="object"),
            "ValueError: msg.parts.key is missing: it is the key of an object's value",
        ),
        (part(1.5, 0, 2, "z", type="buffer"), "TypeError: a float cannot be part of a buffer"),
    ],
)
def test_message_that_can_be_no_part_fails(bad: Msg, told: str) -> None:
    payloads, _, failures = outcome("join", [part(1, 0, 2), bad, part(2, 1, 2)])
    assert payloads == [[1, 2]]
    assert failures[0].startswith(told)


# -- what the node says ---------------------------------------------------------------------------------------------

THREE = [msg(1, "a"), msg("2", "b"), msg(3, "c")]


@pytest.mark.parametrize(
    ("properties", "expected"),
    [
        (dict(build="array"), [1, "2", 3]),
        (dict(build="object"), {"a": 1, "b": "2", "c": 3}),
        (dict(build="string"), "1\n2\n3"),
        (dict(build="string", joiner=", "), "1, 2, 3"),
        (dict(build="string", joiner="[45]", joinerType="bin"), "1-2-3"),
        (dict(build="string", joiner=""), "123"),
        (dict(build="array", property="topic"), ["a", "b", "c"]),
    ],
)
def test_so_many_are_joined(properties: dict[str, Any], expected: Any) -> None:
    found = outcome("join", THREE, mode="custom", count="3", **properties)
    if properties.get("property") == "topic":
        assert found[2] == []
    else:
        assert found == ([expected], [], [])
    assert joined(THREE[:2], mode="custom", count="3", **properties) == []


def test_buffers_are_joined() -> None:
    steps = [msg(b"a"), msg("b"), msg([99])]
    assert joined(steps, mode="custom", build="buffer", count=3, joiner="") == [b"abc"]
    assert joined(steps, mode="custom", build="buffer", count=3, joiner="[0]", joinerType="bin") == [
        b"a\0b\0c"
    ]


def test_objects_are_merged_until_they_have_so_many_keys() -> None:
    steps = [msg({"a": 1, "b": 1}), msg({"b": 2}), msg({"c": 3})]
    assert joined(steps, mode="custom", build="merged", count=3) == [{"a": 1, "b": 2, "c": 3}]
    failures = outcome("join", [msg(5)], mode="custom", build="merged", count=3)[2]
    assert failures == ["TypeError: only objects can be merged, this is 5"]


def test_whole_messages_are_joined() -> None:
    found = joined(
        [msg(1, "a", p=1), msg(2, "b")], mode="custom", build="array", propertyType="full", count=2
    )
    assert [{key: one[key] for key in one if key != "_msgid"} for one in found[0]] == [
        {"topic": "a", "payload": 1, "p": 1}, {"topic": "b", "payload": 2},
    ]  # fmt: skip


def test_value_of_a_key_that_comes_again_is_replaced() -> None:
    steps: list[Step] = [msg(1, "a"), msg(2, "a"), msg(3, "b")]
    assert joined(steps, mode="custom", count=2) == [{"a": 2, "b": 3}]


def test_replaced_value_is_done_with() -> None:
    async def scenario() -> None:
        async with holding("join", mode="custom", count=3) as held:
            for i in range(5):
                await held.give(msg(i, "a"))
            assert held.lab["n"].held.size == 1

    run(scenario)


@pytest.mark.parametrize("build", ["object", "merged"])
def test_object_that_accumulates_is_sent_after_each_message_once_it_is_complete(build: str) -> None:
    def given(topic: str, value: int) -> Msg:
        return msg({topic: value} if build == "merged" else value, topic)

    steps: list[Step] = [given("a", 1), given("b", 2), given("a", 3)]
    properties = dict(mode="custom", build=build, count=2, accumulate=True)
    assert joined(steps, **properties) == [{"a": 1, "b": 2}, {"a": 3, "b": 2}]
    ended = [*steps, msg({"b": 9} if build == "merged" else 9, "b", complete=1), given("c", 5)]
    assert joined(ended, **properties)[2:] == [{"a": 3, "b": 9}]


def test_complete_sends_what_there_is() -> None:
    properties = dict(mode="custom", build="array", count=9)
    assert joined([msg(1), msg(2, complete=True), msg(3)], **properties) == [[1, 2]]
    assert joined([msg(1), msg(None, complete=True)], **properties) == [[1]]
    objects = dict(mode="custom", count=9)
    assert joined([msg(1, "a"), msg(None, complete=True)], **objects) == [{"a": 1}]
    assert joined([msg(None, complete=True)], **objects) == []


def test_complete_is_no_longer_said_of_what_is_sent() -> None:
    async def scenario() -> None:
        async with holding("join", mode="custom", build="array") as held:
            await held.give(msg(1, complete=True, other=2))
            assert held.sent()[0].props == {"other": 2}

    run(scenario)


def test_group_is_sent_after_its_time_which_may_begin_anew() -> None:
    properties = dict(mode="custom", build="array", timeout="2", count="")
    steps: list[Step] = [msg(1), 1.0, msg(2), 0.9]
    assert joined(steps, **properties) == []
    assert joined([*steps, 0.2, msg(3), 2.1], **properties) == [[1, 2], [3]]
    again: list[Step] = [msg(1), 1.5, msg(2, restartTimeout=True), 1.5]
    assert joined(again, **properties) == []
    assert joined([*again, 0.6], **properties) == [[1, 2]]


def test_reset_clears_the_group_and_its_time() -> None:
    properties = dict(mode="custom", build="array", timeout=2, count=3)
    assert joined([msg(1), msg(None, reset=True), 3.0, msg(2), 2.1], **properties) == [[2]]


@pytest.mark.parametrize(("useparts", "expected"), [(True, [[1, 3], [2, 4]]), (False, [])])
def test_parts_are_heeded_where_no_count_is_set(useparts: bool, expected: list[Any]) -> None:
    steps: list[Step] = [part(1, 0, 2, "x"), part(2, 0, 2, "y"), part(3, 1, 2, "x"), part(4, 1, 2, "y")]
    assert joined(steps, mode="custom", build="array", count="", useparts=useparts) == expected


def test_message_without_the_key_fails() -> None:
    assert outcome("join", [msg(1)], mode="custom")[2] == [
        "ValueError: msg.topic is missing: it is the key of an object's value"
    ]


def test_group_that_does_not_fit_together_becomes_dead_letters() -> None:
    properties = dict(mode="custom", build="array", property="payload.a", count=2)
    steps: list[Step] = [msg({"a": 1}), msg({"a": 2}, complete=1).derive(payload={"a": 2})]
    assert joined(steps, **properties) == [{"a": [1, 2]}]
    full = dict(mode="custom", build="buffer", propertyType="msg", count=2)
    assert outcome("join", [msg(b"a"), msg([300])], **full)[2][0].startswith("ValueError")


# -- an expression for each message ---------------------------------------------------------------------------------

REDUCE: dict[str, Any] = dict(mode="reduce", reduceExp="$A + payload", reduceInit="10", reduceInitType="num")


def test_sequence_is_reduced_in_its_order() -> None:
    steps: list[Step] = [part(2, 1, 3), part(1, 0, 3), part(3, 2, 3)]
    assert joined(steps, **REDUCE) == [16]
    text = dict(
        mode="reduce", reduceExp="$A & payload & $I & '/' & $N & ' '", reduceInit="", reduceInitType="str"
    )
    assert joined(steps, **text) == ["10/3 21/3 32/3 "]
    assert joined(steps, **text, reduceRight=True) == ["32/3 21/3 10/3 "]


def test_reduced_value_is_finished() -> None:
    steps: list[Step] = [part(20, 0, 2), part(10, 1, 2)]
    assert joined(steps, **REDUCE, reduceFixup="$A / $N") == [20]


def test_message_of_no_sequence_is_not_reduced() -> None:
    assert joined([msg(7)], **REDUCE) == [7]


def test_sequence_an_expression_fails_on_becomes_dead_letters() -> None:
    steps: list[Step] = [part("a", 0, 2), part("b", 1, 2)]
    payloads, _, failures = outcome("join", steps, **REDUCE)
    assert payloads == []
    assert len(failures) == 2


# -- what is around it ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("properties", "before", "after", "expected"),
    [
        ({}, [part(1, 0, 3), part(3, 2, 3)], [part(2, 1, 3)], [[1, 2, 3]]),
        (dict(mode="custom", count=2), [msg(1, "a")], [msg(2, "b")], [{"a": 1, "b": 2}]),
        (dict(mode="custom", build="array", timeout=10), [msg(1), 6.0, msg(2)], [5.0], [[1, 2]]),
        (dict(mode="custom", count=2, accumulate=True), [msg(1, "a"), msg(2, "b")], [msg(3, "a")], [{"a": 1, "b": 2}, {"a": 3, "b": 2}]),
        (REDUCE, [part(1, 0, 2)], [part(2, 1, 2)], [13]),
    ],
    ids=["auto", "count", "time", "accumulated, sent again", "reduced"],
)  # fmt: skip
def test_what_was_gathered_survives_a_restart(
    properties: dict[str, Any], before: list[Any], after: list[Any], expected: list[Any], tmp_path: Path
) -> None:
    async def scenario() -> None:
        async with holding("join", state_dir=tmp_path, **properties) as held:
            for step in before:
                await (held.give(step) if isinstance(step, Msg) else held.pass_s(step))
            now_s = held.time.now_s()
        async with holding("join", state_dir=tmp_path, at_s=now_s, **properties) as held:
            for step in after:
                await (held.give(step) if isinstance(step, Msg) else held.pass_s(step))
            assert held.payloads() == expected

    run(scenario)


def test_removed_node_leaves_no_dead_letter_of_what_was_sent() -> None:
    async def scenario() -> None:
        async with holding("join", mode="custom", count=2, accumulate=True) as held:
            await held.give(msg(1, "a"), msg(2, "b"))
            await held.deploy(raw("s", "source", ["k1"]), raw("k1", "sink"), raw("d", "dead letters"))
            assert held.failures() == []

    run(scenario)


SEQUENCES = [part(i, i // 2, 2, "xy"[i % 2], type="array") for i in range(4)]


@pytest.mark.parametrize(
    ("properties", "msgs"),
    [
        ({}, [*SEQUENCES[:3], msg("bad"), SEQUENCES[3]]),
        (dict(mode="custom", count=2), [msg(1, "a"), msg(2), msg(3, "b"), msg(4, "c", complete=1), msg(5, "a", reset=1)]),
        (dict(mode="custom", build="merged", accumulate=True, count=1), [msg({"a": 1}), msg(3), msg({"b": 2})]),
        (REDUCE, [*SEQUENCES, msg(9)]),
    ],
    ids=["auto", "custom", "merged", "reduce"],
)  # fmt: skip
def test_batch_gives_what_its_messages_give_one_by_one(properties: dict[str, Any], msgs: list[Msg]) -> None:
    found = outcome("join", [msgs], **properties)
    assert found == outcome("join", msgs, **properties)
    assert found[0]


@pytest.mark.parametrize(
    ("properties", "told"),
    [
        (dict(mode="reduce", reduceExp="$A +"), 'property "reduceExp": '),
        (dict(mode="reduce", reduceExp="$A", reduceInit="x", reduceInitType="num"), "property \"reduceInit\": 'x' is not"),
        (dict(joiner="[300]", joinerType="bin"), 'property "joiner": '),
        (dict(count="-1"), 'property "count": -1 is out of range'),
        (dict(timeout="soon"), 'property "timeout": '),
        (dict(property="a..b"), 'property "property": '),
        (dict(build="tree"), "property \"build\": 'tree' is not one of"),
    ],
)  # fmt: skip
def test_wrong_property_is_named(properties: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError) as error:
        REGISTRY["join"].build("n", properties, {})
    assert told in str(error.value)
