"""The `json` node."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.transforms import Bench, batch_is_one_by_one, msg, refused
from voltflow.message import Msg


@pytest.mark.parametrize(
    ("action", "payload", "expected"),
    [
        ("", '{"employees":[{"n":1.5}]}', {"employees": [{"n": 1.5}]}),
        ("", "[1,2]", [1, 2]),
        ("", '"text"', "text"),
        ("", "null", None),
        ("", b'{"a":"\xc3\xa9"}', {"a": "é"}),
        ("", {"a": [1, 2.0, None, True, "é"]}, '{"a":[1,2,null,true,"é"]}'),
        ("", [1, 2], "[1,2]"),
        ("", 5, "5"),
        ("", True, "true"),
        ("", None, "null"),
        ("", {"n": float("nan"), "b": b"\x01"}, '{"n":null,"b":{"type":"Buffer","data":[1]}}'),
        ("obj", "5", 5),
        ("obj", {"a": 1}, {"a": 1}),
        ("obj", 5, 5),
        ("obj", b"[1]", [1]),
        ("str", "no json", "no json"),
        ("str", b"no json", b"no json"),
        ("str", {"a": 1}, '{"a":1}'),
    ],
)
def test_conversion(action: str, payload: Any, expected: Any) -> None:
    [made] = Bench("json", action=action).payloads(msg(payload))
    assert (made, type(made)) == (expected, type(expected))


def test_pretty_text_has_lines() -> None:
    assert Bench("json", pretty=True).payloads(msg({"a": [1]})) == ['{\n    "a": [\n        1\n    ]\n}']


def test_another_property_is_converted_and_one_that_is_not_there_passes() -> None:
    bench = Bench("json", property="payload.raw")
    before = msg({"raw": "[1]", "id": 1})
    assert bench.payloads(before) == [{"raw": [1], "id": 1}]
    assert before.payload == {"raw": "[1]", "id": 1}
    without = msg({"id": 1})
    assert bench(without) == [without]


@pytest.mark.parametrize(
    ("payload", "problem"),
    [
        ("[foo]", "msg.payload is not JSON: Expecting value: line 1 column 2 (char 1): '[foo]'"),
        ("", "msg.payload is not JSON: "),
        ("{'a':1}", "msg.payload is not JSON: "),
        ("[1,]", "msg.payload is not JSON: "),
        ("NaN", "msg.payload is not JSON: "),
        ("[" * 100_000, "msg.payload is not JSON: maximum recursion depth"),
        (b"\xff", "msg.payload is not JSON: its bytes are no UTF-8 text: "),
        ({"a": {1, 2}}, "msg.payload cannot be written as JSON: JSON cannot say a set"),
    ],
)
def test_what_cannot_be_converted_fails(payload: Any, problem: str) -> None:
    with pytest.raises((ValueError, TypeError)) as caught:
        Bench("json")(msg(payload))
    assert str(caught.value).startswith(problem)


def test_message_that_asks_for_validation_fails() -> None:
    """To pass it on without would let through what somebody wanted stopped."""
    with pytest.raises(ValueError, match=r"^msg\.schema asks for validation, which this node does not have"):
        Bench("json")(msg("1", schema={"type": "number"}))


def test_wrong_properties_are_named() -> None:
    assert refused("json", property="a..b").startswith('property "property": ')
    assert "property \"action\": 'xml' is not one of" in refused("json", action="xml")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@given(VALUES)
def test_there_and_back_is_the_same(value: Any) -> None:
    [text] = Bench("json", action="str").payloads(msg({"v": value}))
    assert json.loads(text) == {"v": value}
    assert Bench("json", action="obj").payloads(msg(text)) == [{"v": value}]


@given(
    st.lists(st.builds(msg, VALUES | st.sampled_from(['{"a":1}', "{", b"1", b"\xff"])), max_size=6),
    st.sampled_from(["", "str", "obj"]),
)
def test_batch_is_one_by_one(msgs: list[Msg], action: str) -> None:
    batch_is_one_by_one("json", msgs, action=action)
