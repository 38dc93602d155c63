"""What MQTT 5 says beside the payload: into a flow, out of it and over its troubles, with mosquitto's own clients beside."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests import servers
from tests.conftest import Use, do_without
from tests.flows import Lab, raw, running, until
from tests.mqtt import Inbox, StubBroker, cut, linked
from voltflow.message import Msg
from voltflow.mqtt.link import MqttLink
from voltflow.mqtt.properties import encode_properties
from voltflow.node import ConfigError, load_nodes
from voltflow.nodes.mqtt_in import MqttIn
from voltflow.nodes.mqtt_out import MqttOut

load_nodes("voltflow.nodes")

SAID: Mapping[str, Any] = {
    "responseTopic": "ask/ä", "correlationData": b"id 7", "contentType": "text/csv", "userProperties": {"site": "depot", "n": "1"},
    "payloadFormatIndicator": True,
}  # fmt: skip
PRINTED = ("responseTopic %R", "correlationData %D", "contentType %C", "userProperties %P", "payloadFormatIndicator %F", "expiry %E")  # fmt: skip


def run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(scenario())


def client(name: str, port: int, *arguments: str) -> str:
    """What `mosquitto_pub` or `mosquitto_sub` prints."""
    try:
        program = servers.program(name, "mosquitto-clients")
    except servers.Missing as reason:
        do_without(reason)
    command = [program, "-V", "mqttv5", "-p", str(port), *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, timeout=60, text=True).stdout


def kept(port: int, topic: str) -> dict[str, str]:
    """What `mosquitto_sub` prints of a topic's retained message: the payload, and what else was said."""
    form = "\\n".join(("payload %p", *PRINTED))
    lines = client("mosquitto_sub", port, "-t", topic, "-C", "1", "-W", "30", "-F", form).splitlines()
    found = dict(line.split(" ", 1) for line in lines)  # type: ignore[misc]
    return {name: value for name, value in found.items() if value}


def broker_node(port: int, name: str) -> dict[str, Any]:
    return {"id": "b", "type": "mqtt-broker", "port": port, "clientid": name}


@asynccontextmanager
async def publishing(port: int, name: str, state_dir: Path, **properties: Any) -> AsyncIterator[Lab]:
    """A flow that publishes what is fed into `s`."""
    out = {"id": "out", "type": "mqtt out", "broker": "b", **properties}
    nodes = [broker_node(port, name), raw("s", "source", ["out"]), out, raw("dead", "dead letters")]
    async with running(*nodes, state_dir=state_dir) as lab:
        yield lab


async def watch(link: MqttLink, topic: str, qos: int = 2) -> Inbox:
    inbox = Inbox(link, topic, qos)
    await link.subscribed(topic)
    return inbox


# -- in -----------------------------------------------------------------------------------------------------------------


def test_what_a_publisher_says_is_in_the_message(
    mosquitto: servers.Mosquitto, unique: str, tmp_path: Path
) -> None:
    """Two filters that overlap: their identifiers are the client's business."""
    topic = f"{unique}/a"
    properties = ("response-topic ask/ä", "correlation-data id 7", "content-type text/csv", "payload-format-indicator 1",
                  "message-expiry-interval 3600")  # fmt: skip
    options = [part for text in properties for part in ("-D", "publish", *text.split(" ", 1))]
    for pair in (("site", "depot"), ("n", "1"), ("n", "2")):
        options += ["-D", "publish", "user-property", *pair]

    async def scenario() -> None:
        nodes = [
            {"id": "in", "type": "mqtt in", "topic": f"{unique}/#", "qos": 2, "broker": "b", "wires": [["k"]]},
            {"id": "also", "type": "mqtt in", "topic": topic, "qos": 2, "broker": "b", "wires": [["other"]]},
        ]  # fmt: skip
        sinks = [raw("k", "sink"), raw("other", "sink")]
        async with running(*nodes, *sinks, broker_node(mosquitto.port, unique), state_dir=tmp_path) as lab:
            receiver = await until(lambda: lab.run.done() or lab["b"].receiver, "the receiver")
            for each in (f"{unique}/#", topic):
                await receiver.subscribed(each)
            for said in ([*options, "-q", "1"], ["-q", "0"], ["-q", "2", "-r"]):
                await asyncio.to_thread(
                    client, "mosquitto_pub", mosquitto.port, "-t", topic, "-m", "1,2", *said
                )
            await until(lambda: len(lab["k"].safe()) == len(lab["other"].safe()) == 3, "the messages", 30)
        for name in ("k", "other"):
            told, *plain = [dict(msg.props) for msg in lab[name].safe()]
            assert 0 < told.pop("messageExpiryInterval") <= 3600
            assert told == {
                **SAID,
                "userProperties": {"site": "depot", "n": '["1","2"]'},
                "qos": 1,
                "retain": False,
            }
            assert plain == [{"qos": 0, "retain": False}, {"qos": 2, "retain": False}]

    run(scenario)


@pytest.mark.parametrize(
    ("datatype", "props", "data", "payload"),
    [
        ("auto-detect", {"contentType": "text/plain"}, b"12", "12"),
        ("auto-detect", {"contentType": "Application/JSON"}, b"12", 12),
        ("auto-detect", {"contentType": "image/png"}, b"12", b"12"),
        ("auto-detect", {"contentType": "text/csv"}, b"12", 12),
        ("auto-detect", {"contentType": "text/csv"}, b"a\x00", b"a\x00"),
        ("auto-detect", {"payloadFormatIndicator": True}, b"a\x00", "a\x00"),
        ("auto-detect", {"payloadFormatIndicator": True}, b"12", 12),
        ("auto-detect", {"payloadFormatIndicator": False}, b"a\x00", b"a\x00"),
        ("auto", {"contentType": "application/json"}, b"12", "12"),
        ("auto", {"payloadFormatIndicator": True}, b"a\x00", "a\x00"),
        ("auto", {"contentType": "application/zip"}, b"12", b"12"),
        ("utf8", {"contentType": "image/png"}, b"12", "12"),
        ("json", {"contentType": "text/plain"}, b"12", 12),
        ("buffer", {"contentType": "application/json"}, b"12", b"12"),
    ],
)  # fmt: skip
def test_payload_is_what_its_publisher_says_where_that_is_detected(
    datatype: str, props: dict[str, Any], data: bytes, payload: Any
) -> None:
    source = MqttIn(topic="t", broker="b", datatype=datatype)
    told = Msg("t", data, props={"qos": 1, "retain": False, **props})
    assert [msg.payload for msg in source.process([told])] == [payload]
    among = source.process([told, Msg("t", b"5"), told])
    assert [msg.payload for msg in among[::2]] == [payload, payload]
    assert among[1].payload == source.process([Msg("t", b"5")])[0].payload


@pytest.mark.parametrize(("media", "data"), [("application/json", b"{"), ("text/plain", b"\xff")])
def test_payload_that_is_not_what_its_publisher_says_fails(media: str, data: bytes) -> None:
    source = MqttIn(topic="t", broker="b")
    with pytest.raises(ValueError, match=r".+"):
        source.process([Msg("t", data, props={"contentType": media})])


# -- out ----------------------------------------------------------------------------------------------------------------

OWN = {
    "respTopic": "own",
    "correl": "own id",
    "contentType": "text/html",
    "userProps": ' {"own": 1}',
    "expiry": "4000",
}
ALL_PRINTED = {"responseTopic": "ask/ä", "correlationData": "id 7", "contentType": "text/csv",
               "userProperties": "site:depot n:1", "payloadFormatIndicator": "1"}  # fmt: skip
OWN_PRINTED = {
    "responseTopic": "own",
    "correlationData": "own id",
    "contentType": "text/html",
    "userProperties": "own:1",
}


@pytest.mark.parametrize(
    ("node", "props", "printed"),
    [
        ({}, None, {}),
        ({}, SAID, ALL_PRINTED),
        (OWN, None, OWN_PRINTED),
        (OWN, SAID, {**OWN_PRINTED, "payloadFormatIndicator": "1"}),
        ({"contentType": "text/html"}, SAID, {**ALL_PRINTED, "contentType": "text/html"}),
        ({}, {"correlationData": [105, 100], "payloadFormatIndicator": "false", "userProperties": {"a": {"b": 1}, "c": None}},
         {"correlationData": "id", "userProperties": 'a:{"b":1}', "payloadFormatIndicator": "0"}),
        ({}, {"responseTopic": 5, "contentType": "", "userProperties": "x", "messageExpiryInterval": -1, "topicAlias": 3}, {}),
    ],
    ids=["nothing", "message", "node", "node before message", "some of each", "values of other types", "no sense"],
)  # fmt: skip
def test_what_node_and_message_say_is_published(
    mosquitto: servers.Mosquitto, unique: str, tmp_path: Path, node: dict[str, Any], props: dict[str, Any] | None,
    printed: dict[str, str],
) -> None:  # fmt: skip
    async def scenario() -> None:
        async with publishing(mosquitto.port, unique, tmp_path, retain="true", **node) as lab:
            await lab["s"].feed([Msg(unique, b"1,2", props=props)])

    run(scenario)
    found = kept(mosquitto.port, unique)
    expiry = found.pop("expiry", "")
    assert found == {"payload": "1,2", **printed}
    assert bool(expiry) == ("expiry" in node)
    assert not expiry or 0 < int(expiry) <= 4000


def test_expiry_is_the_brokers_business(mosquitto: servers.Mosquitto, unique: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with publishing(mosquitto.port, unique, tmp_path, retain="true") as lab:
            await lab["s"].feed([Msg(unique, b"1", props={"messageExpiryInterval": "3600 s"})])

    run(scenario)
    assert 0 < int(kept(mosquitto.port, unique)["expiry"]) <= 3600


@pytest.mark.parametrize(
    ("node", "said", "qos"),
    [("", None, 1), ("", 2, 2), ("", "2", 2), ("", 0, 1), ("", 7, 1), ("1", 2, 1), ("2", 1, 2), ("0", 2, 0), (None, 2, 2)],
)  # fmt: skip
def test_qos_is_as_the_node_says_or_else_the_message(
    mosquitto: servers.Mosquitto, unique: str, tmp_path: Path, node: Any, said: Any, qos: int
) -> None:
    async def scenario() -> None:
        async with (
            linked(mosquitto.port) as watcher,
            publishing(mosquitto.port, unique, tmp_path, qos=node) as lab,
        ):
            inbox = await watch(watcher, unique)
            await until(lab["b"].sender.connected.is_set, "the sender", 30)
            await lab["s"].feed([Msg(unique, b"1", props={"qos": said})])
            await inbox.have(1)
            assert inbox.msgs[0].props == {"qos": qos, "retain": False}

    run(scenario)


def test_message_without_topic_goes_to_its_response_topic(
    mosquitto: servers.Mosquitto, unique: str, tmp_path: Path
) -> None:
    async def scenario() -> None:
        async with linked(mosquitto.port) as watcher, publishing(mosquitto.port, unique, tmp_path) as lab:
            inbox = await watch(watcher, f"{unique}/#")
            await lab["s"].feed(
                [Msg("", b"answer", props={"responseTopic": f"{unique}/ask"}), Msg("", b"lost")]
            )
            await inbox.have(1)
            assert [(msg.topic, msg.payload) for msg in inbox.msgs] == [(f"{unique}/ask", b"answer")]
            assert "not a topic to publish to: ''" in lab["dead"].safe()[0].payload.error

    run(scenario)


def test_messages_that_are_published_differently_keep_their_order_and_one_at_fault_costs_no_other(
    mosquitto: servers.Mosquitto, unique: str, tmp_path: Path
) -> None:
    def props(i: int) -> dict[str, Any] | None:
        if i % 3 == 0:
            return None
        text = "line\nfeed" if i == 31 else str(i)
        return {"userProperties": {"n": text}, "retain": i % 7 == 0}

    async def scenario() -> None:
        async with linked(mosquitto.port) as watcher, publishing(mosquitto.port, unique, tmp_path) as lab:
            inbox = await watch(watcher, unique)
            msgs = [Msg(unique, b"%d" % i, props=props(i)) for i in range(100)]
            await asyncio.gather(*(lab["s"].feed(msgs[i : i + 10]) for i in range(0, 100, 10)))
            await inbox.have(99)
            assert [int(payload) for payload in inbox.payloads] == [i for i in range(100) if i != 31]
            for msg in inbox.msgs:
                i = int(msg.payload)
                assert msg.props.get("userProperties") == ({"n": str(i)} if i % 3 else None)
            assert "may take no text with '\\n'" in lab["dead"].safe()[0].payload.error
            assert lab["b"].sender.reconnects == 0
        assert kept(mosquitto.port, unique)["payload"] == "98"

    run(scenario)


def test_flow_passes_on_what_it_was_told(mosquitto: servers.Mosquitto, unique: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        nodes = [
            {"id": "in", "type": "mqtt in", "topic": f"{unique}/in", "qos": 2, "datatype": "buffer", "broker": "b", "wires": [["out"]]},
            {"id": "out", "type": "mqtt out", "topic": f"{unique}/out", "qos": "", "broker": "b"},
        ]  # fmt: skip
        async with running(*nodes, broker_node(mosquitto.port, unique), state_dir=tmp_path) as lab:
            receiver = await until(lambda: lab.run.done() or lab["b"].receiver, "the receiver")
            await receiver.subscribed(f"{unique}/in")
            async with linked(mosquitto.port) as link:
                inbox = await watch(link, f"{unique}/out")
                properties = encode_properties(SAID)
                for qos in (1, 2):
                    await link.publish_batch([(f"{unique}/in", b"x")], qos=qos, properties=properties)
                    await inbox.have(qos)
                assert [msg.props for msg in inbox.msgs] == [
                    {**SAID, "qos": qos, "retain": False} for qos in (1, 2)
                ]

    run(scenario)


# -- trouble ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("qos", [1, 2])
def test_what_is_sent_again_says_the_same(own: Use[servers.Mosquitto], unique: str, qos: int) -> None:
    broker = own(servers.Mosquitto())

    async def scenario() -> None:
        async with linked(broker.port, client_id=unique) as link:
            os.kill(broker.pid, signal.SIGSTOP)  # what is sent to it stays unanswered
            try:
                sent = link.publish_batch(
                    [(unique, b"1")], qos=qos, retain=True, properties=encode_properties(SAID)
                )
                await until(lambda: link.published == 1, "the message is under way")
                cut(link)
            finally:
                os.kill(broker.pid, signal.SIGCONT)
            async with asyncio.timeout(60):
                await sent
            assert link.published == 2

    run(scenario)
    assert kept(broker.port, unique) == {"payload": "1", **ALL_PRINTED}


def test_broker_of_version_3_gets_topic_and_payload(unique: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with StubBroker(b"\x20\x03\x00\x84\x00") as broker:
            async with publishing(broker.port, unique, tmp_path, **OWN) as lab:
                await lab["s"].feed([Msg("t", b"1", props=SAID), Msg("t", b"2", props={"qos": 1})])
            assert broker.published == [b"1", b"2"]

    run(scenario)


def test_out_of_the_spool_comes_what_the_node_says(
    own: Use[servers.Mosquitto], unique: str, tmp_path: Path
) -> None:
    broker = own(servers.Mosquitto())
    node = {"qos": "", "contentType": "text/html", "expiry": 4000, "spool": True, "spoolAfter": 0.2}
    said = {"qos": 2, "retain": True, "userProperties": {"n": "1"}}

    async def scenario() -> None:
        async with publishing(broker.port, unique, tmp_path, **node) as lab, linked(broker.port) as watcher:
            inbox = await watch(watcher, unique)
            await lab["s"].feed([Msg(unique, b"direct", props=said)])
            await inbox.have(1)
            await asyncio.to_thread(broker.stop)
            await lab["s"].feed([Msg(unique, b"spooled", props=said)])
            assert lab.engine.spools.backlog_messages == 1
            await asyncio.to_thread(broker.start)
            await inbox.have(2, 60)
            for msg in inbox.msgs:
                assert 0 < msg.props.pop("messageExpiryInterval") <= 4000
            common = {"retain": False, "contentType": "text/html"}
            assert [msg.props for msg in inbox.msgs] == [
                {**common, "qos": 2, "userProperties": {"n": "1"}},
                {**common, "qos": 1},
            ]

    run(scenario)


@pytest.mark.parametrize(
    ("properties", "error"),
    [
        ({"respTopic": "a/#"}, 'property "respTopic": not a topic to publish to'),
        ({"contentType": "a\nb"}, 'property "contentType": contentType: a broker may take no text'),
        ({"correl": "x" * 65536}, 'property "correl": correlationData: 65536 bytes'),
        ({"userProps": "[1]"}, 'property "userProps": not a JSON object'),
        ({"userProps": '{"a": '}, 'property "userProps": not a JSON object'),
        (
            {"userProps": '{"a": "\\u0000"}'},
            'property "userProps": userProperties: a broker may take no text',
        ),
        ({"expiry": -1}, 'property "expiry": -1 is out of range'),
        ({"expiry": "soon"}, 'property "expiry": '),
        ({"qos": "0", "spool": True}, 'property "spool": with QoS 0'),
        ({"qos": 3}, 'property "qos": 3 is not one of'),
    ],
)
def test_wrong_properties_are_named(properties: dict[str, Any], error: str) -> None:
    with pytest.raises(ConfigError) as info:
        MqttOut.spec.build("n", {"broker": "b", **properties}, {})
    assert str(info.value).startswith(error)
