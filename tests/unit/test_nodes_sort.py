"""The `sort` node: a list, or the messages of a sequence, in order."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from tests.holders import holding, msg, outcome, run
from voltflow.message import Msg
from voltflow.node import REGISTRY, ConfigError

SEQUENCE: dict[str, Any] = dict(targetType="seq")


def part(payload: Any, index: int, count: int | None = 3, id: str = "x") -> Msg:
    return msg(payload, parts={"id": id, "index": index, **({} if count is None else {"count": count})})


@pytest.mark.parametrize(
    ("items", "properties", "expected"),
    [
        ([3, 1, 2], {}, [1, 2, 3]),
        ([3, 1, 2], dict(order="descending"), [3, 2, 1]),
        (["b", "a", "c"], {}, ["a", "b", "c"]),
        (["10", "9", "1"], {}, ["1", "10", "9"]),
        (["10", "9", "1"], dict(as_num=True), ["1", "9", "10"]),
        ([10, "9", 1.5], {}, [1.5, "9", 10]),
        ([], {}, []),
        ([{"v": 2}, {"v": 1}], dict(msgKey="v", msgKeyType="jsonata"), [{"v": 1}, {"v": 2}]),
        (["bbb", "a", "cc"], dict(msgKey="$length($)", msgKeyType="jsonata"), ["a", "cc", "bbb"]),
        ([{"v": 1, "n": 1}, {"v": 0, "n": 2}, {"v": 1, "n": 3}], dict(msgKey="v", msgKeyType="jsonata", order="descending"),
         [{"v": 1, "n": 1}, {"v": 1, "n": 3}, {"v": 0, "n": 2}]),
    ],
)  # fmt: skip
def test_list_is_sorted(items: list[Any], properties: dict[str, Any], expected: list[Any]) -> None:
    given = list(items)
    assert outcome("sort", [msg(given)], **properties) == ([expected], [], [])
    assert given == items, "a payload is never changed in place"


def test_list_may_be_any_property() -> None:
    assert outcome("sort", [msg({"v": [2, 1], "w": 0})], target="payload.v")[0] == [{"v": [1, 2], "w": 0}]


def test_message_without_the_list_fails() -> None:
    assert outcome("sort", [msg(5)])[2] == ["TypeError: msg.payload is no list, but 5"]


@pytest.mark.parametrize(
    ("payloads", "properties", "expected"),
    [
        ([3, 1, 2], {}, [1, 2, 3]),
        ([3, 1, 2], dict(order="descending"), [3, 2, 1]),
        (["10", "9", "1"], dict(as_num=True), ["1", "9", "10"]),
        ([{"v": 3}, {"v": 1}, {"v": 2}], dict(seqKey="payload.v"), [{"v": 1}, {"v": 2}, {"v": 3}]),
        ([1, 2, 3], dict(seqKey="-payload", seqKeyType="jsonata"), [3, 2, 1]),
    ],
)
def test_sequence_is_sorted_when_it_is_complete(
    payloads: list[Any], properties: dict[str, Any], expected: list[Any]
) -> None:
    parts = [part(payload, index) for index, payload in enumerate(payloads)]
    assert outcome("sort", parts[:2], **SEQUENCE, **properties) == ([], [], [])

    async def scenario() -> None:
        async with holding("sort", **SEQUENCE, **properties) as held:
            random.Random(5).shuffle(parts)
            await held.give(*parts)
            assert held.payloads() == expected
            assert [found.props["parts"] for found in held.sent()] == [
                {"id": "x", "index": index, "count": 3} for index in range(3)
            ]

    run(scenario)


def test_sequences_are_told_apart_and_their_length_may_come_with_the_last() -> None:
    msgs = [part(2, 0, None, "x"), part(9, 0, None, "y"), part(1, 1, 2, "x"), part(8, 1, 2, "y")]
    assert outcome("sort", msgs, **SEQUENCE)[0] == [1, 2, 8, 9]


def test_message_that_comes_again_counts_once() -> None:
    """After a crash its source sends it again while it is held on disk."""
    assert outcome("sort", [part(2, 0, 2), part(2, 0, 2)], **SEQUENCE)[0] == []
    assert outcome("sort", [part(2, 0, 2), part(2, 0, 2), part(1, 1, 2)], **SEQUENCE)[0] == [1, 2]


def test_message_of_no_sequence_fails() -> None:
    assert outcome("sort", [msg(1), part(2, 0, 1)], **SEQUENCE) == (
        [2], [], ["ValueError: msg.parts with id and index is missing: it is part of no sequence"],
    )  # fmt: skip


def test_sequence_an_expression_fails_on_becomes_dead_letters() -> None:
    parts = [part("a", 0, 2), part("b", 1, 2), part(1, 0, 1, "y")]
    payloads, _, failures = outcome("sort", parts, **SEQUENCE, seqKey="-payload", seqKeyType="jsonata")
    assert (payloads, len(failures)) == ([1], 2)


def test_what_was_gathered_survives_a_restart(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with holding("sort", state_dir=tmp_path, **SEQUENCE) as held:
            await held.give(part(3, 0), part(1, 1))
        async with holding("sort", state_dir=tmp_path, **SEQUENCE) as held:
            await held.give(part(2, 2))
            assert held.payloads() == [1, 2, 3]

    run(scenario)


def test_batch_gives_what_its_messages_give_one_by_one() -> None:
    msgs = [part(2, 0, 2, "x"), msg(0), part(9, 0, 2, "y"), part(1, 1, 2, "x"), part(8, 1, 2, "y")]
    assert outcome("sort", [msgs], **SEQUENCE) == outcome("sort", msgs, **SEQUENCE)
    lists = [msg([2, 1]), msg(3), msg(["b", "a"])]
    assert outcome("sort", [lists]) == outcome("sort", lists)


@pytest.mark.parametrize(
    ("properties", "told"),
    [
        (dict(order="up"), "property \"order\": 'up' is not one of"),
        (dict(target="a..b"), 'property "target": '),
        (dict(msgKey="(", msgKeyType="jsonata"), 'property "msgKey": '),
        (dict(targetType="seq", seqKey="a..b"), 'property "seqKey": '),
    ],
)
def test_wrong_property_is_named(properties: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError) as error:
        REGISTRY["sort"].build("n", properties, {})
    assert told in str(error.value)
