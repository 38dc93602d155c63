"""The general nodes where no broker is needed: debug, what becomes of a dead letter's original, topics to publish to."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest

from voltflow.message import Msg
from voltflow.mqtt.codec import check_topic
from voltflow.node import ConfigError, Context, Node, load_nodes
from voltflow.nodes.dead_letter import DeadLetter
from voltflow.nodes.debug import RECENT, TEXT_LIMIT, Debug
from voltflow.nodes.mqtt_broker import MqttBroker
from voltflow.nodes.mqtt_in import MqttIn
from voltflow.nodes.mqtt_out import MqttOut

load_nodes("voltflow.nodes")


def shown(*payloads: Any, **properties: Any) -> list[str]:
    node = Debug.spec.build("d", properties, {})
    assert isinstance(node, Debug)

    async def scenario() -> None:
        await node.start(Context({}, {}, "gw", "rev", Path()))
        await node.write([Msg("t", payload) for payload in payloads])

    asyncio.run(scenario())
    return [item["payload"] for item in node.status()["recent"]]


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def test_debug_shows_every_kind_of_payload_and_never_fails() -> None:
    """A debug node that raised would make dead letters of good messages."""
    assert shown({"a": 1}, "text", b"\xff", None) == ['{"a":1}', "text", "�", "null"]
    assert shown(object())[0].startswith("<object object")
    assert shown("\ud800") == ["'\\ud800'"]
    assert len(shown(nested(5000))) == 1
    assert len(shown("x" * 5000)[0]) == TEXT_LIMIT


def test_debug_keeps_the_last_ones_and_shows_one_property() -> None:
    assert shown(*range(RECENT + 50))[0] == "50"
    assert shown({"a": {"b": 2}}, {"a": 1}, complete="payload.a.b") == ["2", "null"]
    assert shown(1, active=False) == []


@pytest.mark.parametrize("topic", ["", "a/+", "a/#", "a\0b", "x" * 65536])
def test_topic_that_cannot_be_published_to_is_refused(topic: str) -> None:
    with pytest.raises(ValueError, match=r"^not a topic to publish to: "):
        check_topic(topic)


@pytest.mark.parametrize(
    ("node", "properties", "error"),
    [
        (MqttIn, {"topic": "a/#/c"}, "\"topic\": not a topic filter: 'a/#/c': # stands alone in the last level only"),
        (MqttIn, {"topic": ""}, "\"topic\": not a topic filter: '': it is empty"),
        (MqttOut, {"topic": "a/+"}, "\"topic\": not a topic to publish to: 'a/+'"),
        (MqttBroker, {"birthTopic": "state/+"}, "\"birthTopic\": not a topic to publish to: 'state/+'"),
        (MqttBroker, {"closeTopic": "#"}, "\"closeTopic\": not a topic to publish to: '#'"),
        (MqttBroker, {"willTopic": "a\0b"}, "\"willTopic\": not a topic to publish to: 'a\\x00b'"),
        (MqttOut, {"qos": 0, "needsSubscriber": True},
         '"needsSubscriber": with QoS 0 the broker answers nothing; use qos 1 or 2'),
    ],
)  # fmt: skip
def test_property_that_cannot_work_is_named(node: type[Node], properties: dict[str, Any], error: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape('property ' + error)}$"):
        node.spec.build("n", {"broker": "b", **properties}, {})


@pytest.mark.parametrize(
    ("datatype", "data", "payload"),
    [("auto-detect", b'{"a": 1}', {"a": 1}), ("auto-detect", b"text", "text"), ("auto-detect", b"\xff", b"\xff"),
     ("buffer", b"{}", b"{}"), ("utf8", b"{}", "{}"), ("json", b"[1]", [1]), ("base64", b"\xff", "/w==")],
)  # fmt: skip
def test_mqtt_in_decodes_as_its_datatype_says(datatype: str, data: bytes, payload: Any) -> None:
    node = MqttIn.spec.build("in", {"topic": "t", "broker": "b", "datatype": datatype}, {})
    assert isinstance(node, MqttIn)
    made = node.process([Msg("t", data)])
    assert [msg.payload for msg in made if isinstance(msg, Msg)] == [payload]


def test_dead_letter_topic_is_the_packs_or_unknown() -> None:
    from voltflow.nodes.dead_letter import _dead_topic

    assert _dead_topic("ev/v1/f/p/telemetry") == "ev/v1/f/p/dead"
    assert _dead_topic("anything else") == "ev/v1/unknown/unknown/dead"
    assert DeadLetter.pipelined


READING = b'"pack":"p","boot":1,"seq":2'


@pytest.mark.parametrize(
    ("topic", "data", "key"),
    [
        pytest.param("ev/v1/f/p/telemetry", b"{" + READING + b"}", ("p", 1, 2), id="telemetry"),
        pytest.param("ev/v1/f/p/twin", b"{" + READING + b',"telemetry":{}}', ("p", 1, 2), id="twin"),
        pytest.param("ev/v1/f/p/telemetry", b"{" + READING + b',"soc_pct":NaN}', ("p", 1, 2), id="NaN"),
        pytest.param(
            "ev/v1/f/p/telemetry", b"{" + READING + b',"dtc":["\xff"]}', ("p", 1, 2), id="not UTF-8"
        ),
        pytest.param(
            "ev/v1/f/p/alert", b"{" + READING + b"}", None, id="an alert, whose reading is not lost"
        ),
        pytest.param("ev/v1/f/q/telemetry", b"{" + READING + b"}", None, id="another pack"),
        pytest.param("elsewhere", b"{" + READING + b"}", None, id="no topic of ours"),
        pytest.param("ev/v1/f/p/telemetry", b'{"pack":"p","boot":1,"seq":-1}', None, id="impossible seq"),
        pytest.param("ev/v1/f/p/telemetry", b'{"pack":"p","boot":1,"seq":"2"}', None, id="wrong type"),
        pytest.param("ev/v1/f/p/telemetry", b"{" + READING, None, id="cut off"),
        pytest.param("ev/v1/f/p/telemetry", b"\xff\x00", None, id="bytes"),
        pytest.param("ev/v1/f/p/telemetry", b"[" * 100_000, None, id="deep"),
        pytest.param("ev/v1/f/p/telemetry", b'{"more":' * 100_000, None, id="deep objects"),
    ],
)
def test_readable_key(topic: str, data: bytes, key: tuple[str, int, int] | None) -> None:
    from voltflow.nodes.dead_letter import readable_key

    assert readable_key(topic, data) == key
