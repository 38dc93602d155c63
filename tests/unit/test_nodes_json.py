"""The `json` node."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.transforms import Bench, batch_is_one_by_one, msg, refused
from voltflow.message import Msg
from voltflow.nodelib.json_schema import MOST_SCHEMAS


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


# -- msg.schema ---------------------------------------------------------------------------------------------------

PRICED = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "price": {"type": "number", "minimum": 0}},
    "required": ["name"],
}


@pytest.mark.parametrize(
    ("action", "payload", "expected"),
    [
        ("", '{"name":"a","price":1}', {"name": "a", "price": 1}),
        ("", b'{"name":"a"}', {"name": "a"}),
        ("", {"name": "a"}, '{"name":"a"}'),
        ("obj", {"name": "a"}, {"name": "a"}),
        ("obj", '{"name":"a"}', {"name": "a"}),
        ("str", {"name": "a"}, '{"name":"a"}'),
        ("str", '{"name": "a"}', '{"name": "a"}'),
    ],
)
def test_what_fits_its_schema_goes_on_without_it(action: str, payload: Any, expected: Any) -> None:
    [made] = Bench("json", action=action)(msg(payload, schema=PRICED, kept=1))
    assert (made.payload, made.props) == (expected, {"kept": 1})


@pytest.mark.parametrize("action", ["", "str", "obj"])
@pytest.mark.parametrize("form", [dict, json.dumps, lambda value: json.dumps(value).encode()])
def test_what_does_not_fit_fails_with_all_that_is_wrong(action: str, form: Any) -> None:
    with pytest.raises(ValueError, match=r"^msg\.payload does not fit msg\.schema: ") as caught:
        Bench("json", action=action)(msg(form({"price": -1}), schema=PRICED))
    assert '"name" is a required property' in str(caught.value)
    assert "/price: -1 is less than the minimum of 0" in str(caught.value)


@pytest.mark.parametrize(
    ("schema", "problem"),
    [
        ({"type": "nonsense"}, "msg.schema is no JSON schema: /type: "),
        ({"pattern": "("}, "msg.schema is no JSON schema: /pattern: "),
        ("a text", "msg.schema is no JSON schema: it is 'a text', not an object"),
        ({"$ref": "http://127.0.0.1:9/schema.json"}, "msg.schema is no JSON schema: "),
        ({"type": "array", "maxItems": 0}, "msg.payload does not fit msg.schema: "),
    ],
)
def test_schema_at_fault_is_named(schema: Any, problem: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - what it says is looked at
        Bench("json")(msg("[" + "1," * 999 + "1]", schema=schema))
    assert str(caught.value).startswith(problem)
    assert len(str(caught.value)) < 400


def test_many_schemas_are_each_the_own() -> None:
    """More than are kept, twice: none is taken for another."""
    bench = Bench("json", action="obj")
    for limit in [*range(2 * MOST_SCHEMAS), *range(2 * MOST_SCHEMAS)]:
        schema = {"maximum": limit}
        assert bench.payloads(msg(limit, schema=schema)) == [limit]
        with pytest.raises(ValueError, match=f"{limit + 1} is greater than the maximum of {limit}"):
            bench(msg(limit + 1, schema=schema))


def test_schema_without_the_package_fails_naming_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """To pass the message on would let through what somebody wanted stopped."""
    monkeypatch.setitem(sys.modules, "jsonschema_rs", None)
    with pytest.raises(
        RuntimeError, match=r"needs the package jsonschema-rs: pip install 'voltflow\[edge,schema\]'"
    ):
        Bench("json")(msg("1", schema={"type": "number"}))
    assert Bench("json").payloads(msg("1")) == [1]


def test_package_is_loaded_with_the_first_schema_only() -> None:
    code = "import voltflow.nodes.json_node, sys; assert 'jsonschema_rs' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


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
