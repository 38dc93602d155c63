"""The `debug` node: what the sidebar, the badge and the log get of a message."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.flows import raw, running, until
from voltflow.engine.events import Events
from voltflow.flow.properties import UNDEFINED
from voltflow.message import Msg, message_id
from voltflow.node import ConfigError, Context
from voltflow.nodes.debug import TOLD_PER_S, Debug
from voltflow.shown import DEPTH, LIMIT, shown
from voltflow.telemetry import Prediction


def debug(**properties: Any) -> Debug:
    node = Debug.spec.build("d1", {"z": "tab1", "name": "look", **properties}, {})
    assert isinstance(node, Debug)
    return node


def told(*msgs: Msg, heard: bool = True, **properties: Any) -> list[dict[str, Any]]:
    """What the sidebar is told of messages."""
    node, events, found = debug(**properties), Events(), []

    async def scenario() -> None:
        await node.start(Context({}, {}, "gw", "rev", Path(), events=events))
        if not heard:
            await node.write(list(msgs))
            return
        with events.listening(lambda topic, data: found.append({"to": topic, **data})):
            await node.write(list(msgs))

    asyncio.run(scenario())
    return found


def badges(*msgs: Msg, **properties: Any) -> list[Any]:
    node, seen = debug(tostatus=True, **properties), []
    node.on_badge = lambda node: seen.append(dict(node.badge))

    async def scenario() -> None:
        await node.start(Context({}, {}, "gw", "rev", Path()))
        for msg in msgs:
            await node.write([msg])

    asyncio.run(scenario())
    return seen


def test_sidebar_is_told_of_the_payload() -> None:
    assert told(Msg("t", {"a": 1})) == [
        {"to": "debug", "id": "d1", "z": "tab1", "path": "tab1", "name": "look", "topic": "t", "property": "payload",
         "format": "Object", "msg": '{"a":1}'},
    ]  # fmt: skip


def test_sidebar_is_told_of_a_property_an_expression_or_the_whole_message() -> None:
    msg = Msg("t", {"a": [1, 2]}, props={"unit": "V"})
    found = told(msg, complete="payload.a")[0]
    assert (found["property"], found["format"], found["msg"]) == ("payload.a", "array[2]", "[1,2]")
    assert told(msg, complete="unit", targetType="msg")[0]["msg"] == "V"
    found = told(msg, complete="none.there")[0]
    assert (found["format"], found["msg"]) == ("undefined", "(undefined)")
    found = told(msg, complete="$sum(payload.a)", targetType="jsonata")[0]
    assert ("property" in found, found["format"], found["msg"]) == (False, "number", "3")
    found = told(msg, complete="true", targetType="full")[0]
    assert "property" not in found
    assert json.loads(found["msg"]) == {
        "_msgid": message_id(msg),
        "topic": "t",
        "payload": {"a": [1, 2]},
        "unit": "V",
    }


def test_expression_that_fails_is_shown_as_an_error() -> None:
    found = told(Msg("t", "x"), complete="payload + 1", targetType="jsonata")[0]
    assert found["format"] == "error"
    assert set(json.loads(found["msg"])) == {"name", "message"}


@pytest.mark.parametrize("properties", [{"active": False}, {"tosidebar": False}])
def test_sidebar_is_told_nothing_where_that_is_off(properties: dict[str, Any]) -> None:
    assert told(Msg("t", 1), **properties) == []
    assert told(Msg("t", 1), heard=False) == []


def test_sidebar_is_told_of_a_thousand_a_second_at_most() -> None:
    """The editor must not slow down the flow it looks at."""
    node, events, count = debug(), Events(), []

    async def scenario() -> None:
        await node.start(Context({}, {}, "gw", "rev", Path(), events=events))
        with events.listening(lambda topic, _: count.append(topic)):
            await node.write([Msg("t", number) for number in range(TOLD_PER_S + 500)])

    asyncio.run(scenario())
    assert len(count) == TOLD_PER_S
    assert node.status()["not_told"] == 500


@pytest.mark.parametrize(
    ("value", "format", "text"),
    [
        pytest.param("text", "string[4]", "text", id="text"),
        pytest.param("🔋", "string[2]", "🔋", id="characters as JavaScript counts"),
        pytest.param("x" * 1001, "string[1001]", "x" * 1000 + "...", id="long text"),
        pytest.param("\ud800", "string[1]", "\ufffd", id="half of a pair"),
        pytest.param(5, "number", "5", id="int"),
        pytest.param(2.0, "number", "2", id="float"),
        pytest.param(0.5, "number", "0.5", id="fraction"),
        pytest.param(float("nan"), "number", "NaN", id="NaN"),
        pytest.param(True, "boolean", "true", id="bool"),
        pytest.param(None, "null", "(undefined)", id="null"),
        pytest.param(UNDEFINED, "undefined", "(undefined)", id="undefined"),
        pytest.param(b"\x00\xff", "buffer[2]", "00ff", id="bytes"),
        pytest.param(bytes(600), "buffer[600]", "00" * 500, id="long bytes"),
        pytest.param([1, "a", None], "array[3]", '[1,"a",null]', id="list"),
        pytest.param({"a": b"\x01"}, "Object", '{"a":{"type":"Buffer","data":[1],"__enc__":true,"length":1}}', id="bytes inside"),
        pytest.param([float("inf")], "array[1]", '[{"__enc__":true,"type":"number","data":"Infinity"}]', id="infinite"),
        pytest.param(ValueError("no"), "error", '{"name":"ValueError","message":"no"}', id="error"),
        pytest.param(Prediction("c", "m", 1.5), "Object", '{"unit":"c","model":"m","value":1.5}', id="the gateway's own"),
    ],
)  # fmt: skip
def test_format_of_a_value(value: Any, format: str, text: str) -> None:
    assert shown(value) == (format, text)


def test_long_lists_are_cut_and_say_so() -> None:
    format, text = shown(list(range(1500)))
    assert format == "array[1500]"
    assert json.loads(text) == {"__enc__": True, "type": "array", "data": list(range(LIMIT)), "length": 1500}
    inner = json.loads(shown({"a": ["x" * 2000] * 1001})[1])["a"]
    assert (inner["length"], len(inner["data"]), inner["data"][0]) == (1001, LIMIT, "x" * LIMIT + "...")


def test_deep_and_circular_values_are_shown_as_far_as_that_goes() -> None:
    circular: list[Any] = []
    circular.append(circular)
    format, text = shown(circular)
    assert format == "array[1]"
    assert text.startswith("[" * DEPTH)


@settings(max_examples=50)
@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.just(object()),
                    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))  # fmt: skip
def test_everything_can_be_shown_and_sent(value: Any) -> None:
    format, text = shown(value)
    assert isinstance(format, str)
    text.encode()
    if format == "Object" or format.startswith("array["):
        json.loads(text)


RING = {"fill": "grey", "shape": "ring"}


@pytest.mark.parametrize(
    ("msg", "properties", "badge"),
    [
        pytest.param(Msg("t", "a"), {}, ("grey", "dot", "a"), id="text"),
        pytest.param(Msg("t", "x" * 40), {}, ("grey", "dot", "x" * 32 + "..."), id="long text"),
        pytest.param(Msg("t", {"a": 1}), {}, ("grey", "dot", '{"a":1}'), id="object"),
        pytest.param(Msg("t", {"fill": "red", "shape": "ring", "text": "hot"}), {}, ("red", "ring", "hot"), id="a badge"),
        pytest.param(Msg("t", 1, props={"error": {"message": "bad"}}), {}, ("red", "dot", "bad"), id="of a catch node"),
        pytest.param(Msg("t", 1, props={"status": {"fill": "blue", "text": "s"}}), {}, ("blue", "ring", "s"), id="of a status node"),
        pytest.param(Msg("t", 1), {"statusVal": "topic", "statusType": "msg"}, ("grey", "dot", "t"), id="a property"),
        pytest.param(Msg("t", 1), {"statusVal": "payload & ' V'", "statusType": "jsonata"}, ("grey", "dot", "1 V"), id="jsonata"),
        pytest.param(Msg("t", 1), {"statusType": "counter"}, ("blue", "ring", "1"), id="counter"),
        pytest.param(Msg("t", {"a": 3}), {"complete": "payload.a"}, ("grey", "dot", "3"), id="as elsewhere"),
    ],
)  # fmt: skip
def test_badge_shows_the_message(msg: Msg, properties: dict[str, Any], badge: tuple[str, str, str]) -> None:
    assert badges(msg, **properties) == [RING, dict(zip(("fill", "shape", "text"), badge, strict=True))]


def test_own_badge_heard_by_a_status_node_is_not_shown_again() -> None:
    assert badges(Msg("", None, props={"status": {"text": "1", "source": {"id": "d1"}}})) == [RING]


def test_log_gets_every_message_even_when_the_button_is_off(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "voltflow.debug"):
        told(Msg("t", {"a": 1}), console=True, active=False)
    assert [record.getMessage() for record in caplog.records] == ['look: t {"a":1}']


def test_property_that_is_none_is_named() -> None:
    with pytest.raises(ConfigError, match=r"^property \"complete\": 'payload..a' is not a property: "):
        debug(complete="payload..a")
    with pytest.raises(ConfigError, match=r"^property \"complete\": '\$sum\(' is not a JSONata expression: "):
        debug(complete="$sum(", targetType="jsonata")


def test_debug_in_a_running_flow() -> None:
    async def scenario() -> None:
        nodes = raw("s", "source", ["d"]), {"id": "d", "type": "debug", "z": "t1", "wires": []}
        async with running(*nodes) as lab:
            heard: list[Any] = []
            with lab.engine.events.listening(lambda topic, data: heard.append((topic, data["msg"]))):
                await lab.feed("s", 1, "two")
                await until(lambda: len(heard) == 2, "both messages")
            assert heard == [("debug", "1"), ("debug", "two")]

    asyncio.run(scenario())


def test_the_last_messages_are_remembered_and_of_a_flood_the_newest() -> None:
    node = debug()

    async def scenario() -> None:
        await node.start(Context({}, {}, "gw", "rev", Path()))
        for number in range(3):
            await node.write([Msg("t", number)])
        assert [item["payload"] for item in node.status()["recent"]] == ["0", "1", "2"]
        for number in range(1000):
            await node.write([Msg("t", [number, place]) for place in range(150)])

    asyncio.run(scenario())
    assert [item["payload"] for item in node.status()["recent"]] == [
        f"[999,{place}]" for place in range(50, 150)
    ]
