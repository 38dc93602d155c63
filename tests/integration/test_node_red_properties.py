"""MQTT 5 properties in genuine Node-RED and in a gateway: flows are told the same, and say the same."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests import servers
from tests.conftest import Use
from tests.mqtt import Inbox, linked
from tests.node_red import NodeRed, Operator, subscribed
from tests.programs import Agent
from voltflow.flow.expand import RawNode
from voltflow.mqtt.properties import encode_properties

TEXTS = {"responseTopic": "ask", "contentType": "text/plain", "userProperties": {"site": "depot"}}

PUBLISHED: list[tuple[bytes, int, dict[str, Any]]] = [
    (b"12", 1, {}),
    (b"12", 2, {"contentType": "text/plain"}),
    (b"12", 1, {"contentType": "Application/JSON"}),
    (b"12", 1, {"contentType": "text/csv", "payloadFormatIndicator": True}),
    (b"a\x01", 1, {"payloadFormatIndicator": True}),
    (b"a\x01", 1, {"payloadFormatIndicator": False}),
    (b"a\x01", 1, {"contentType": "text/csv"}),
    (b"12", 1, {"contentType": "application/zip", "correlationData": b"id 7"}),
    (b"{}", 1, {**TEXTS, "messageExpiryInterval": 3630}),
    (b"\xff", 2, {"correlationData": b"\x00\xff", "userProperties": {"ä": "ö"}}),
]
"""What comes to the `mqtt in` node: payload, QoS, properties."""

Said = Mapping[str, tuple[str, str]]
"""Of an `inject` node: value and type by property."""

OWN = {
    "respTopic": "own",
    "correl": "own id",
    "contentType": "text/html",
    "userProps": '{"own": 1}',
    "expiry": "3630",
}
SAID: list[tuple[dict[str, Any], Said]] = [
    ({}, {}),
    ({}, {"responseTopic": ("ask", "str"), "contentType": ("text/plain", "str"), "correlationData": ("id", "str")}),
    ({}, {"correlationData": ("[1, 255]", "bin"), "messageExpiryInterval": ("3630", "num")}),
    ({}, {"correlationData": ("[1, 257]", "json"), "messageExpiryInterval": ("3630 s", "str")}),
    ({}, {"userProperties": ('{"a": "x", "b": 1.0, "c": [1, "ä"], "d": null, "e": true}', "json")}),
    ({}, {"userProperties": ("text", "str"), "responseTopic": ("5", "num"), "messageExpiryInterval": ("-1", "num")}),
    ({}, {"payloadFormatIndicator": ("true", "bool"), "contentType": ("", "str")}),
    ({}, {"payloadFormatIndicator": ("false", "str"), "userProperties": ("{}", "json")}),
    ({}, {"payloadFormatIndicator": ("1", "num"), "messageExpiryInterval": ("soon", "str")}),
    (OWN, {}),
    (OWN, {"responseTopic": ("ask", "str"), "userProperties": ('{"a": "x"}', "json"), "messageExpiryInterval": ("9", "num")}),
    ({"contentType": "text/html", "userProps": "{}"}, {"contentType": ("text/plain", "str"), "userProperties": ('{"a": "x"}', "json")}),
    ({"qos": ""}, {"qos": ("2", "num")}),
    ({"qos": ""}, {"qos": ("1", "str")}),
    ({"qos": "1"}, {"qos": ("2", "num")}),
    ({"topic": ""}, {"responseTopic": ("said/answer", "str")}),
]  # fmt: skip
"""An `mqtt out` node's own properties, and what the message says that comes to it."""


def flow(port: int) -> list[RawNode]:
    """What is published as `told` is shown and published as `out`; the buttons publish below `said`."""
    tab = {"z": "tab", "name": "", "x": 100, "y": 100}
    broker = {"broker": "127.0.0.1", "port": str(port), "clientid": "", "autoConnect": True, "usetls": False, "name": "",
              "protocolVersion": "5", "keepalive": "60", "cleansession": True, "autoUnsubscribe": True}  # fmt: skip
    out = {"type": "mqtt out", "qos": "1", "retain": "", "respTopic": "", "contentType": "", "userProps": "", "correl": "",
           "expiry": "", "broker": "b", "wires": [], **tab}  # fmt: skip
    nodes: list[RawNode] = [
        {"id": "tab", "type": "tab", "label": "properties", "disabled": False, "info": ""},
        {"id": "b", "type": "mqtt-broker", **broker},
        {"id": "in", "type": "mqtt in", "topic": "told", "qos": "2", "datatype": "auto-detect", "broker": "b", "nl": False,
         "rap": True, "rh": 0, "inputs": 0, "wires": [["show", "out"]], **tab},
        {"id": "show", "type": "debug", "active": True, "tosidebar": True, "console": False, "tostatus": False,
         "complete": "true", "targetType": "full", "wires": [], **tab},
        {**out, "id": "out", "topic": "out", "qos": ""},
    ]  # fmt: skip
    for i, (own, said) in enumerate(SAID):
        props = [{"p": "payload"}, *({"p": name, "v": v, "vt": vt} for name, (v, vt) in said.items())]
        nodes.append({"id": f"say-{i}", "type": "inject", "props": props, "repeat": "", "crontab": "", "once": False,
                      "onceDelay": 0.1, "topic": "", "payload": str(i), "payloadType": "str", "wires": [[f"out-{i}"]], **tab})  # fmt: skip
        nodes.append({**out, "id": f"out-{i}", "topic": f"said/{i}", **own})
    return nodes


def plain(props: Mapping[str, Any]) -> dict[str, Any]:
    """Without what differs from run to run: the broker counts an expiry down."""
    found = {name: value for name, value in props.items() if name not in ("_msgid", "_topic")}
    if "messageExpiryInterval" in found:
        found["messageExpiryInterval"] //= 60
    if isinstance(data := found.get("correlationData"), dict):
        found["correlationData"] = bytes(data["data"])
    return found


Seen = dict[str, list[Any]]


async def seen(broker: servers.Mosquitto, operator: Operator) -> Seen:
    """What the flow shows and publishes."""
    async with linked(broker.port) as link:
        inboxes = {name: Inbox(link, name, 2) for name in ("out", "said/#")}
        for name in inboxes:
            await link.subscribed(name)
        for count, (payload, qos, properties) in enumerate(PUBLISHED, 1):
            await link.publish_batch([("told", payload)], qos=qos, properties=encode_properties(properties))
            await inboxes["out"].have(count, 60)  # one by one: those of QoS 2 may be overtaken
        shown = await asyncio.to_thread(operator.values, len(PUBLISHED))
        await asyncio.to_thread(operator.press, *(f"say-{i}" for i in range(len(SAID))))
        await inboxes["said/#"].have(len(SAID), 60)
        published = {
            name: [(msg.topic, msg.payload, plain(msg.props or {})) for msg in inbox.msgs]
            for name, inbox in inboxes.items()
        }
    said = sorted(published["said/#"], key=lambda item: int(item[1]))
    return {"shown": [plain(each) for each in shown], "out": published["out"], "said": said}


def test_flows_are_told_and_say_the_same(own: Use[Any], tmp_path: Path) -> None:
    found: list[Seen] = []
    for name in ("node-red", "voltflow"):
        broker = own(servers.Mosquitto(log_type="subscribe"))
        nodes = flow(broker.port)
        program = own(NodeRed() if name == "node-red" else Agent(broker, tmp_path / "state"))
        with Operator(program) as operator:
            operator.deploy(nodes)
            subscribed(broker, nodes)
            found.append(asyncio.run(seen(broker, operator)))
    theirs, ours = found
    for name, expected in theirs.items():
        for case, (one, other) in enumerate(zip(expected, ours[name], strict=True)):
            assert other == one, (name, case)
    assert [each["payload"] for each in ours["shown"]][:4] == [12, "12", 12, 12]
    assert ours["said"][-1][0] == "said/answer"
