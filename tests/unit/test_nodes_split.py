"""The `split` node: the parts of a message as messages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.holders import holding, msg, outcome, run
from voltflow.node import REGISTRY, ConfigError


def split(*steps: Any, **properties: Any) -> list[Any]:
    found: list[Any] = []

    async def scenario() -> None:
        async with holding("split", **properties) as held:
            await held.give(*steps)
            assert held.failures() == []
            found.extend(held.sent())

    run(scenario)
    return found


def parts(found: list[Any], *names: str) -> list[tuple[Any, ...]]:
    return [tuple(part.props["parts"].get(name) for name in names) for part in found]


@pytest.mark.parametrize(
    ("payload", "properties", "pieces"),
    [
        ("a\nb\nc", {}, ["a", "b", "c"]),
        ("a\n\nb\n", {}, ["a", "", "b", ""]),
        ("one", {}, ["one"]),
        ("", {}, [""]),
        ("a\tb", dict(splt="\\t"), ["a", "b"]),
        ("a, b", dict(splt=", "), ["a", "b"]),
        ("a\r\nb", dict(splt="[13,10]", spltType="bin"), ["a", "b"]),
        ("abcdefgh", dict(splt="3", spltType="len"), ["abc", "def", "gh"]),
        ("abcdef", dict(splt="3", spltType="len"), ["abc", "def"]),
        (b"a\nb", {}, [b"a", b"b"]),
        (b"a\x00b", dict(splt="[0]", spltType="bin"), [b"a", b"b"]),
        (b"abcde", dict(splt="2", spltType="len"), [b"ab", b"cd", b"e"]),
        ([1, "b", None], {}, [1, "b", None]),
        ([1, 2, 3], dict(arraySplt="2"), [[1, 2], [3]]),
        ([], {}, []),
        ({"a": 1, "b": [2]}, {}, [1, [2]]),
        ({}, {}, []),
        (5, {}, []),
        (True, {}, []),
        (None, {}, []),
    ],
)  # fmt: skip
def test_value_is_split_by_its_type(payload: Any, properties: dict[str, Any], pieces: list[Any]) -> None:
    found = split(msg(payload, "t", other=1), **properties)
    assert [part.payload for part in found] == pieces
    assert parts(found, "index", "count") == [(i, len(pieces)) for i in range(len(pieces))]
    assert {part.topic for part in found} <= {"t"}
    assert {part.props["other"] for part in found} <= {1}
    assert len(set(parts(found, "id"))) == min(1, len(pieces))


@pytest.mark.parametrize(
    ("payload", "properties", "expected"),
    [
        ("a\nb", {}, {"type": "string", "ch": "\n"}),
        ("ab", dict(splt="1", spltType="len"), {"type": "string", "ch": "", "len": 1}),
        (b"a\nb", {}, {"type": "buffer", "ch": "\n"}),
        (b"ab", dict(splt=1, spltType="len"), {"type": "buffer", "len": 1}),
        ("a\nb", dict(splt="[10]", spltType="bin"), {"type": "string", "ch": [10]}),
        ([1, 2], {}, {"type": "array", "len": 1}),
        ({"k": 1}, {}, {"type": "object", "key": "k"}),
    ],
)
def test_parts_say_how_to_join_them(
    payload: Any, properties: dict[str, Any], expected: dict[str, Any]
) -> None:
    first = split(msg(payload), **properties)[0].props["parts"]
    assert {name: first[name] for name in first if name not in ("id", "index", "count")} == expected


def test_key_of_an_object_is_put_where_that_is_wanted() -> None:
    found = split(msg({"a": 1, "b": 2}, "t"), addname="topic")
    assert [(part.topic, part.payload) for part in found] == [("a", 1), ("b", 2)]
    found = split(msg({"a": 1}), addname="pack.name")
    assert found[0].props["pack"] == {"name": "a"}


def test_another_property_may_be_split() -> None:
    found = split(msg({"cells": [3, 4], "soc": 5}), property="payload.cells")
    assert [part.payload for part in found] == [{"cells": 3, "soc": 5}, {"cells": 4, "soc": 5}]
    assert parts(found, "property", "type") == [("payload.cells", "array")] * 2
    found = split(msg("x", lines="a\nb"), property="lines")
    assert [part.props["lines"] for part in found] == ["a", "b"]


def test_part_of_a_sequence_keeps_what_it_was_part_of() -> None:
    outer = {"id": "o", "index": 1, "count": 3}
    found = split(msg([1, 2], parts=outer))
    assert parts(found, "parts") == [(outer,), (outer,)]


def test_stream_is_split_where_its_messages_are_joined() -> None:
    found = split(msg("ab\nc"), msg("d\ne"), msg("f"), msg("\n"), stream=True)
    assert [part.payload for part in found] == ["ab", "cd", "ef"]
    assert parts(found, "index", "count") == [(0, None), (1, None), (2, None)]
    found = split(msg(b"abcd"), msg(b"ef"), stream=True, splt=3, spltType="len")
    assert [part.payload for part in found] == [b"abc", b"def"]


def test_rest_of_a_stream_survives_a_restart(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with holding("split", state_dir=tmp_path, stream=True) as held:
            task = await held.give(msg("a\nb"))
            assert not task.done(), "its end has not come out"
        async with holding("split", state_dir=tmp_path, stream=True) as held:
            await held.give(msg("c\n"))
            assert [(part.payload, part.props["parts"]["index"]) for part in held.sent()] == [("bc", 1)]
            await held.pass_s(1)
            assert held.lab["n"].held.size == 0

    run(scenario)


@pytest.mark.parametrize("stream", [False, True])
def test_batch_gives_what_its_messages_give_one_by_one(stream: bool) -> None:
    msgs = [msg("a\nb"), msg([1, 2]), msg("c\nd"), msg(b"x\ny"), msg({"k": 1}), msg("e\n"), msg(7)]
    found = outcome("split", [msgs], stream=stream)
    assert found == outcome("split", msgs, stream=stream)
    assert found[0]


small = st.integers(-9, 9)


@settings(max_examples=20, deadline=None)
@given(
    st.text(min_size=1)
    | st.binary(min_size=1)
    | st.lists(small, min_size=1)
    | st.dictionaries(st.text(), small, min_size=1)
)
def test_join_puts_together_what_was_split(value: Any) -> None:
    pieces = split(msg(value))
    joined = outcome("join", list(reversed(pieces)))
    assert joined == ([value], [], [])


@pytest.mark.parametrize(
    ("properties", "told"),
    [
        (dict(splt="0", spltType="len"), 'property "splt": 0 is out of range, allowed is ≥ 1'),
        (dict(splt="x", spltType="len"), 'property "splt": '),
        (dict(splt="[300]", spltType="bin"), "property \"splt\": '[300]' is not a JSON list of bytes"),
        (dict(arraySplt="0"), 'property "arraySplt": 0 is out of range'),
        (dict(property="a..b"), 'property "property": '),
    ],
)
def test_wrong_property_is_named(properties: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError) as error:
        REGISTRY["split"].build("n", properties, {})
    assert told in str(error.value)
