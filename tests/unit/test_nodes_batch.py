"""The `batch` node: sequences of single messages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.flows import raw
from tests.holders import Step, holding, msg, outcome, run
from voltflow.message import Msg
from voltflow.node import REGISTRY, ConfigError


def sequences(steps: list[Any], **properties: Any) -> list[list[Any]]:
    """The payloads of each sequence that came out; each is numbered as it should be."""
    found: list[list[Any]] = []

    async def scenario() -> None:
        async with holding("batch", **properties) as held:
            for step in steps:
                await (held.give(step) if isinstance(step, Msg) else held.pass_s(step))
            by_id: dict[str, list[Any]] = {}
            for part in held.sent():
                by_id.setdefault(part.props["parts"]["id"], []).append(part)
            for parts in by_id.values():
                places = [(part.props["parts"]["index"], part.props["parts"]["count"]) for part in parts]
                assert places == [(i, len(parts)) for i in range(len(parts))]
                found.append([part.payload for part in parts])
            assert held.failures() == []

    run(scenario)
    return found


def numbers(count: int) -> list[Step]:
    return [msg(i) for i in range(count)]


# -- so many --------------------------------------------------------------------------------------------------------


def test_sequences_of_so_many() -> None:
    assert sequences(numbers(7), count="3") == [[0, 1, 2], [3, 4, 5]]
    assert sequences(numbers(2), count=1) == [[0], [1]]
    assert [len(found) for found in sequences(numbers(25))] == [10, 10]


def test_sequences_that_overlap() -> None:
    assert sequences(numbers(6), count="3", overlap="2") == [[0, 1, 2], [1, 2, 3], [2, 3, 4], [3, 4, 5]]
    assert sequences(numbers(7), count=3, overlap=1) == [[0, 1, 2], [2, 3, 4], [4, 5, 6]]


def test_reset_clears_what_was_gathered() -> None:
    assert sequences([*numbers(2), msg(None, reset=True), *numbers(3)], count=3) == [[0, 1, 2]]
    overlapping = [*numbers(3), msg(None, reset=True), *numbers(2)]
    assert sequences(overlapping, count=3, overlap=1) == [[0, 1, 2]]


def part(payload: Any, index: int, count: int, id: str = "x", topic: str = "", **others: Any) -> Msg:
    return msg(payload, topic, parts={"id": id, "index": index, "count": count, **others})


def test_end_of_another_sequence_ends_this_one_where_that_is_wanted() -> None:
    steps: list[Step] = [part(i, i, 5) for i in range(5)]
    assert sequences(steps, count=3, honourParts=True) == [[0, 1, 2], [3, 4]]
    assert sequences(steps, count=3) == [[0, 1, 2]]


def test_what_else_was_said_of_a_part_stays() -> None:
    async def scenario() -> None:
        async with holding("batch", count=1) as held:
            await held.give(part(1, 3, 9, ch=",", type="string"))
            parts = held.sent()[0].props["parts"]
            assert parts == {"id": parts["id"], "index": 0, "count": 1, "ch": ",", "type": "string"}
            assert parts["id"] != "x"

    run(scenario)


# -- an interval ----------------------------------------------------------------------------------------------------


def test_sequences_of_an_interval_of_the_nodes_own_time() -> None:
    steps: list[Step] = [1.5, msg(1), msg(2), 0.4, msg(3), 0.2, msg(4), 2.1, 7.3, msg(5), 0.5, 0.5]
    assert sequences(steps, mode="interval", interval="2") == [[1, 2, 3], [4], [5]]


def test_interval_without_a_message_sends_an_empty_one_where_that_is_wanted() -> None:
    interval = dict(mode="interval", interval=2, allowEmptySequence=True)
    assert sequences([4.5, msg(1), 2.0], **interval) == [[None], [None], [1]]
    assert sequences([4.5, msg(1), 2.0], mode="interval", interval=2) == [[1]]


def test_reset_begins_the_interval_anew() -> None:
    steps: list[Step] = [msg(1), 1.5, msg(None, reset=True), msg(2), 1.5]
    assert sequences(steps, mode="interval", interval=2) == []
    assert sequences([*steps, 1.0], mode="interval", interval=2) == [[2]]


def test_interval_of_nothing_never_ends() -> None:
    assert sequences([msg(1), 1e6], mode="interval", interval=0, allowEmptySequence=True) == []


# -- sequences one after the other ----------------------------------------------------------------------------------

TOPICS: dict[str, Any] = dict(mode="concat", topics=[{"topic": "a"}, {"topic": "b"}])


def test_sequences_of_topics_are_put_together_in_their_order() -> None:
    steps: list[Step] = [part("b0", 0, 2, "1", "b"), part("a0", 0, 2, "2", "a"), msg("c", "c"), part("b1", 1, 2, "1", "b"),
                         part("a1", 1, 2, "2", "a")]  # fmt: skip
    assert sequences(steps, **TOPICS) == [["a0", "a1", "b0", "b1"]]


def test_first_sequence_of_each_topic_goes_first() -> None:
    steps: list[Step] = [
        part("a0", 0, 1, "1", "a"), part("A0", 0, 1, "2", "a"), part("b0", 0, 1, "3", "b"), part("B0", 0, 1, "4", "b"),
    ]  # fmt: skip
    assert sequences(steps, **TOPICS) == [["a0", "b0"], ["A0", "B0"]]


def test_reset_clears_the_sequences() -> None:
    steps: list[Step] = [part("a0", 0, 1, "1", "a"), msg(None, reset=1), part("b0", 0, 1, "2", "b")]
    assert sequences(steps, **TOPICS) == []
    assert sequences([*steps, part("a1", 0, 1, "3", "a")], **TOPICS) == [["a1", "b0"]]


def test_message_that_comes_again_counts_once() -> None:
    """After a crash its source sends it again while it is held on disk."""
    steps: list[Step] = [part("a0", 0, 2, "1", "a"), part("a0", 0, 2, "1", "a"), part("b0", 0, 1, "2", "b")]
    assert sequences(steps, **TOPICS) == []
    assert sequences([*steps, part("a1", 1, 2, "1", "a")], **TOPICS) == [["a0", "a1", "b0"]]


def test_message_that_is_part_of_no_sequence_fails() -> None:
    assert outcome("batch", [msg(1, "a")], **TOPICS)[2] == [
        "ValueError: msg.parts with id, index and count is missing: its sequence is not known"
    ]


# -- what is around it ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("properties", "before", "after", "expected"),
    [
        (dict(count=4), [msg(0), msg(1)], [msg(2), msg(3)], [0, 1, 2, 3]),
        (dict(count=3, overlap=2), [msg(0), msg(1), msg(2)], [msg(3)], [1, 2, 3]),
        (dict(mode="interval", interval=10), [msg(0), 5.0, msg(1)], [11.0], [0, 1]),
        (TOPICS, [part("a0", 0, 2, "1", "a")], [part("b0", 0, 1, "2", "b"), part("a1", 1, 2, "1", "a")], ["a0", "a1", "b0"]),
    ],
    ids=["count", "overlap", "interval", "concat"],
)  # fmt: skip
def test_what_was_gathered_survives_a_restart(
    properties: dict[str, Any], before: list[Any], after: list[Any], expected: list[Any], tmp_path: Path
) -> None:
    async def scenario() -> None:
        async with holding("batch", state_dir=tmp_path, **properties) as held:
            for step in before:
                await (held.give(step) if isinstance(step, Msg) else held.pass_s(step))
        async with holding("batch", state_dir=tmp_path, **properties) as held:
            for step in after:
                await (held.give(step) if isinstance(step, Msg) else held.pass_s(step))
            assert held.payloads() == expected

    run(scenario)


def test_removed_node_leaves_no_dead_letter_of_an_overlap() -> None:
    async def scenario() -> None:
        async with holding("batch", count=2, overlap=1) as held:
            await held.give(msg(0), msg(1))
            await held.deploy(raw("s", "source", ["k1"]), raw("k1", "sink"), raw("d", "dead letters"))
            assert held.failures() == []

    run(scenario)


@pytest.mark.parametrize(
    "properties", [dict(count=3), dict(count=3, overlap=2), dict(mode="interval"), TOPICS]
)
def test_batch_gives_what_its_messages_give_one_by_one(properties: dict[str, Any]) -> None:
    msgs = [part(i, i % 2, 2, str(i // 4), "ab"[i // 2 % 2]) for i in range(8)]
    msgs.insert(5, msg(None, reset=True))
    found = outcome("batch", [msgs, 10.0], **properties)
    assert found == outcome("batch", [*msgs, 10.0], **properties)
    assert found[0]


@pytest.mark.parametrize(
    ("properties", "told"),
    [
        (dict(count=3, overlap="3"), 'property "overlap": 3 is not less than count, which is 3'),
        (dict(count="0"), 'property "count": 0 is out of range'),
        (dict(topics=[{}]), 'property "topics": each is {"topic": "…"}'),
        (dict(mode="some"), "property \"mode\": 'some' is not one of"),
    ],
)
def test_wrong_property_is_named(properties: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError) as error:
        REGISTRY["batch"].build("n", properties, {})
    assert told in str(error.value)
