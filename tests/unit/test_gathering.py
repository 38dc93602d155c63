"""Nodes that gather sequences: what does not get complete is given up, in time and before it is too much."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.holders import Held, Step, holding, msg, outcome, run
from voltflow.engine.held_store import HeldStore
from voltflow.message import Msg

NODES: dict[str, tuple[str, dict[str, Any]]] = {
    "join": ("join", {}),
    "join by parts": ("join", dict(mode="custom", build="array", count="")),
    "join reduce": ("join", dict(mode="reduce", reduceExp="$A + $number(payload)", reduceInit="0", reduceInitType="num")),
    "sort": ("sort", dict(targetType="seq")),
    "batch": ("batch", dict(mode="concat", topics=[{"topic": "t"}])),
    "switch repair": ("switch", dict(repair=True, rules=[{"t": "nnull"}])),
    "switch tail": ("switch", dict(rules=[{"t": "tail", "v": "9", "vt": "num"}])),
    "csv": ("csv", dict(multi="mult", temp="a")),
}  # fmt: skip
every_node = pytest.mark.parametrize(("kind", "properties"), NODES.values(), ids=NODES)
LONG = "its sequence is given up: it is not complete, and nothing came for 60 s (giveUpAfter)"
MUCH = "its sequence is given up: it is not complete, and more than 3 messages are held (mostHeld)"


def part(index: int, count: int | None = 3, name: str = "x", payload: str = "1\n") -> Msg:
    parts: dict[str, Any] = {"id": name, "index": index, "type": "array"}
    return msg(payload, "t", parts=parts if count is None else {**parts, "count": count})


def lost(kind: str, steps: list[Step], **properties: Any) -> tuple[int, list[str]]:
    """How many messages left the node, and the errors of dead letters."""
    sent, _, errors = outcome(kind, steps, **properties)
    return len(sent), errors


@every_node
def test_sequence_of_which_nothing_comes_any_more_becomes_dead_letters(
    kind: str, properties: dict[str, Any]
) -> None:
    properties = {**properties, "giveUpAfter": 60}
    assert lost(kind, [part(0), part(1), 59], **properties) == (0, [])
    assert lost(kind, [part(0), part(1), 61], **properties) == (0, [LONG, LONG])
    assert lost(kind, [part(0), 59, part(1), 59], **properties) == (0, [])
    assert lost(kind, [part(0), 59, part(1), 59, part(2), 61], **properties)[1] == []
    assert lost(kind, [part(0), part(1, name="y"), 30, part(1), 31], **properties) == (0, [LONG])


@every_node
def test_part_that_comes_again_after_its_sequence_does_not_wait_for_ever(
    kind: str, properties: dict[str, Any]
) -> None:
    whole: list[Step] = [part(0), part(1), part(2)]
    sent, errors = lost(kind, [*whole, part(1), 61], **properties, giveUpAfter=60)
    assert sent
    assert errors == [LONG]
    assert lost(kind, [*whole, part(1), *whole], **properties, giveUpAfter=60) == (2 * sent, [])


@every_node
def test_without_a_limit_of_time_it_waits(kind: str, properties: dict[str, Any]) -> None:
    sent, errors = lost(kind, [part(0), part(1), 1e8, part(2)], **properties, giveUpAfter=0)
    assert sent
    assert errors == []


@every_node
def test_time_goes_on_over_a_restart(kind: str, properties: dict[str, Any], tmp_path: Path) -> None:
    properties = {**properties, "giveUpAfter": 60}

    async def scenario() -> None:
        async with holding(kind, state_dir=tmp_path, **properties) as held:
            await held.give(part(0))
            await held.pass_s(40)
            now_s = held.time.now_s()
        async with holding(kind, state_dir=tmp_path, at_s=now_s, **properties) as held:
            await held.pass_s(19)
            assert held.failures() == []
            await held.pass_s(2)
            assert [failure.error for failure in held.failures()] == [LONG]
            assert held_by(held) == 0
        assert await HeldStore(tmp_path).open() == []

    run(scenario)


def held_by(held: Held) -> int:
    size: int = held.lab["n"].held.size
    return size


@every_node
def test_where_too_much_is_held_the_sequence_that_waits_the_longest_is_given_up(
    kind: str, properties: dict[str, Any]
) -> None:
    async def scenario() -> None:
        async with holding(kind, **properties, mostHeld=3) as held:
            await held.give(part(0, name="x"), part(0, name="y"), part(1, name="x"))
            assert held.failures() == []
            await held.give(part(0, name="z"))
            assert [(failure.error) for failure in held.failures()] == [MUCH]
            assert held_by(held) == 3
            await held.give(part(2, name="x"))
            assert held.payloads(), "x went on meanwhile"
            assert (held_by(held), len(held.failures())) == (1, 1)

    run(scenario)


@every_node
def test_sequence_that_is_too_long_is_not_held(kind: str, properties: dict[str, Any]) -> None:
    """Where its length is known, none of it; otherwise it is given up when it is too much."""
    sent, errors = lost(kind, [part(0, 4), part(1, 4)], **properties, mostHeld=3)
    assert sent == 0
    assert errors == ["ValueError: its sequence has 4 messages, held are 3 at most (mostHeld)"] * 2
    if kind != "batch":  # it needs to know
        steps = [part(index, None) for index in range(5)]
        assert lost(kind, steps, **properties, mostHeld=3) == (0, [MUCH] * 4)


def test_group_that_nothing_tells_apart_is_bounded_and_has_its_own_time() -> None:
    properties = dict(mode="custom", build="array", giveUpAfter=60, mostHeld=3)
    steps: list[Step] = [msg(1), msg(2), msg(3), 1e6]
    assert outcome("join", [*steps, msg(4, complete=1)], **properties)[0] == [[1, 2, 3, 4]]
    _, _, errors = outcome("join", [*steps, msg(4), msg(5)], **properties)
    assert errors == [MUCH] * 4


def test_what_was_sent_already_is_not_given_up() -> None:
    """An object that is sent after each part, and goes on."""
    properties = dict(mode="custom", build="merged", count="", accumulate=True, giveUpAfter=60)
    parts = [msg({name: 1}, parts={"id": "x", "count": 1}) for name in "ab"]
    sent, _, errors = outcome("join", [parts[0], 59, parts[1], 61, parts[1]], **properties)
    assert (sent, errors) == ([{"a": 1}, {"a": 1, "b": 1}, {"b": 1}], [])


@pytest.mark.parametrize(
    ("kind", "properties", "bad"),
    [
        ("switch", dict(repair=True, rules=[{"t": "jsonata_exp", "v": "$number(payload) > 0", "vt": "jsonata"}]), "no number"),
        ("csv", dict(multi="mult", temp="a", hdrin=True), '"open\n'),
    ],
    ids=["switch", "csv"],
)  # fmt: skip
def test_sequence_with_a_message_that_nothing_can_be_made_of_fails_as_a_whole(
    kind: str, properties: dict[str, Any], bad: str
) -> None:
    msgs = [part(0, payload=bad), part(1), part(2)]
    sent, errors = lost(kind, [*msgs, part(0, 1, "y")], **properties)
    assert (sent, len(errors)) == (1, 3)
    assert len(set(errors)) == 1
    assert lost(kind, [[*msgs, part(0, 1, "y")]], **properties) == (sent, errors)


def test_part_that_comes_twice_counts_once() -> None:
    """After a crash its source sends it again while it is held on disk."""
    for kind, properties in (NODES["switch repair"], NODES["switch tail"], NODES["csv"]):
        assert lost(kind, [part(0), part(1), part(1)], **properties) == (0, [])
        assert lost(kind, [part(0), part(1), part(1), part(2)], **properties)[0] > 0
