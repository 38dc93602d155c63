"""The `yaml` node, and how YAML is read and written."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.transforms import Bench, batch_is_one_by_one, msg, refused
from voltflow.message import Msg
from voltflow.nodelib.yaml_text import YamlError, dump, load


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("employees:\n  - first: Ann\n    last: B\n", {"employees": [{"first": "Ann", "last": "B"}]}),
        ("[yes, no, on, y, true, False]", ["yes", "no", "on", "y", True, False]),
        ("[12, 0o17, 0x1f, 017, 1_000, 1:30, +5]", [12, 15, 31, 17, "1_000", "1:30", 5]),
        ("[1e3, .5, 2., -.inf, 1.5e-3]", [1000.0, 0.5, 2.0, float("-inf"), 0.0015]),
        ("- ~\n- null\n-\n- nullable", [None, None, None, "nullable"]),
        ("2026-01-31", "2026-01-31"),
        ("when: !!timestamp 2026-01-31", {"when": "2026-01-31"}),
        ("1: a\n~: b", {"1": "a", "null": "b"}),
        ("base: &b {x: 1}\nmore: {<<: *b, y: 2}", {"base": {"x": 1}, "more": {"x": 1, "y": 2}}),
        ("a: |\n  l1\n  l2\n", {"a": "l1\nl2\n"}),
        ("!!binary aGk=", b"hi"),
        ("!!set {a, b}", {"a": None, "b": None}),
        ("", None),
    ],
)  # fmt: skip
def test_text_is_read_by_yaml_1_2(text: str, expected: Any) -> None:
    assert Bench("yaml").payloads(msg(text)) == [expected]


def test_bomb_is_refused_at_once() -> None:
    """Nine lines that stand for ten to the ninth texts."""
    lines = ["a: &a [" + ",".join("x" * 10) + "]"]
    lines += [
        f"{name}: &{name} [{','.join([f'*{before}'] * 10)}]"
        for before, name in zip("abcdefgh", "bcdefghi", strict=True)
    ]
    with pytest.raises(YamlError, match=r"^with its aliases it stands for more than 1000000 values$"):
        load("\n".join(lines))


@pytest.mark.parametrize(
    ("payload", "problem"),
    [
        ("employees:\n-fir\n- la", "msg.payload is not YAML: while "),
        ("a: b: c", "msg.payload is not YAML: mapping values are not allowed"),
        ("--- 1\n--- 2", "msg.payload is not YAML: expected a single document"),
        ("&x [*x]", "msg.payload is not YAML: a value contains itself"),
        ("!!python/object:os.system x", "msg.payload is not YAML: could not determine a constructor"),
        ("!!bool maybe", "msg.payload is not YAML: a value is not what its tag says: "),
        ("? [a]\n: 1", "msg.payload is not YAML: while constructing a mapping"),
        (5, "msg.payload is int, expected a text, an object or a list"),
        (None, "msg.payload is NoneType, expected a text, an object or a list"),
        (b"a: 1", "msg.payload is bytes, expected a text, an object or a list"),
        ({"a": {1, 2}.__iter__()}, "msg.payload cannot be written as YAML: "),
    ],
)
def test_what_cannot_be_converted_fails(payload: Any, problem: str) -> None:
    with pytest.raises((ValueError, TypeError)) as caught:
        Bench("yaml")(msg(payload))
    assert str(caught.value).startswith(problem)


def test_deep_nesting_is_refused() -> None:
    with pytest.raises(YamlError):
        load("[" * 100_000)


def test_objects_become_lines() -> None:
    value = {
        "pack": "P1",
        "cells": [1, {"v": None}],
        "note": "two\nlines",
        "yes": "no",
        "n": "1e3",
        "none": {},
    }
    [text] = Bench("yaml").payloads(msg(value))
    assert text == (
        "pack: P1\ncells:\n  - 1\n  - v: null\nnote: |-\n  two\n  lines\n'yes': 'no'\nn: '1e3'\nnone: {}\n"
    )


def test_other_properties() -> None:
    before = msg({"raw": "a: 1"})
    assert Bench("yaml", property="payload.raw").payloads(before) == [{"raw": {"a": 1}}]
    [made] = Bench("yaml", property="payload.raw", propertyOut="parsed")(before)
    assert (made.payload, made.props) == ({"raw": "a: 1"}, {"parsed": {"a": 1}})
    without = msg({"id": 1})
    assert Bench("yaml", property="payload.raw")(without) == [without]


def test_wrong_properties_are_named() -> None:
    assert refused("yaml", property="a..b").startswith('property "property": ')
    assert refused("yaml", propertyOut="a..b").startswith('property "propertyOut": ')


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(VALUES)
def test_there_and_back_is_the_same(value: Any) -> None:
    assert load(dump(value)) == value


@given(st.lists(st.builds(msg, VALUES | st.sampled_from(["a: 1", "a: b: c", b"x"])), max_size=6))
def test_batch_is_one_by_one(msgs: list[Msg]) -> None:
    batch_is_one_by_one("yaml", msgs)
