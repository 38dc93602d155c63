"""`mqtt in` with dynamic subscription on a real mosquitto: messages say what to subscribe to."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import AbstractContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests import servers
from tests.flows import Lab, raw, until
from tests.mqtt import StubBroker, cut, linked, reconnected
from voltflow.engine import deploy as deploying
from voltflow.engine.engine import DeployError, Engine
from voltflow.flow.flow import Flow
from voltflow.lab.lab import FlowLab
from voltflow.message import Msg
from voltflow.node import load_nodes

load_nodes("voltflow.nodes")
Own = Callable[[AbstractContextManager[servers.Mosquitto]], servers.Mosquitto]


def run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(scenario())


def nodes_of(port: int, name: str, **changed: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What is fed into `s` goes into the mqtt in node, what that gives out ends in `k`, what fails in `dead`."""
    nodes: list[dict[str, Any]] = [
        {"id": "b", "type": "mqtt-broker", "port": port, "clientid": name},
        raw("s", "source", ["in"]),
        {"id": "in", "type": "mqtt in", "topic": "", "inputs": 1, "datatype": "utf8", "broker": "b", "wires": [["k"]]},
        {"id": "done", "type": "complete", "scope": ["in"], "wires": [["c"]]},
        raw("k", "sink"),
        raw("c", "sink"),
        raw("dead", "dead letters"),
    ]  # fmt: skip
    return [{**each, **changed.get(each["id"], {})} for each in nodes]


class Gateway(Lab):
    async def say(self, action: Any, topic: Any = "", **props: Any) -> None:
        """Returns when the message is settled."""
        text = topic if isinstance(topic, str) else json.dumps(topic)
        async with asyncio.timeout(20):
            await self["s"].feed([Msg(text, "said", None, 0, {"action": action, **props})])

    async def subscriptions(self) -> list[dict[str, Any]]:
        await self.say("getSubscriptions")
        last = self["k"].safe()[-1]
        assert last.topic == "subscriptions"
        found: list[dict[str, Any]] = last.payload
        return found

    async def got(self, count: int) -> list[Any]:
        """What came by the broker."""

        def found() -> list[Any]:
            return [msg.payload for msg in self["k"].safe() if msg.topic != "subscriptions"]

        await until(lambda: len(found()) >= count, f"{count} messages of {found()}", 20)
        return found()

    def failures(self) -> list[str]:
        return [msg.payload.error for msg in self["dead"].safe()]


@asynccontextmanager
async def gateway(
    port: int, name: str, state_dir: Path, **changed: Mapping[str, Any]
) -> AsyncIterator[Gateway]:
    flow = Flow(nodes_of(port, name, **changed))
    lab = Gateway(Engine(flow, env={}, state_dir=state_dir, gateway="gw"))
    await until(lambda: lab.run.done() or hasattr(lab["s"], "fail"), "the start")
    try:
        yield lab
    finally:
        await lab.end()


def test_subscribe_list_unsubscribe(mosquitto: servers.Mosquitto, unique: str, tmp_path: Path) -> None:
    a, b, c = (f"{unique}/{name}" for name in "abc")

    async def scenario() -> None:
        async with gateway(mosquitto.port, unique, tmp_path) as lab, linked(mosquitto.port) as sender:
            assert await lab.subscriptions() == []
            await lab.say("subscribe", a)
            await sender.publish(
                a, b"1"
            )  # the broker knows of it: the message before was settled by its SUBACK
            assert await lab.got(1) == ["1"]
            await lab.say("subscribe", [{"topic": b, "qos": "1", "datatype": "json"}, c])
            await sender.publish(b, b'{"v": 2}')
            await sender.publish(c, b"3")
            assert await lab.got(3) == ["1", {"v": 2}, "3"]
            assert await lab.subscriptions() == [
                {"topic": a, "qos": 2}, {"topic": b, "qos": 1, "datatype": "json"}, {"topic": c, "qos": 2},
            ]  # fmt: skip
            await lab.say("unsubscribe", [a, {"topic": c}])
            await sender.publish(a, b"gone")
            await sender.publish(b, b"4")
            assert await lab.got(4) == ["1", {"v": 2}, "3", 4]
            assert [item["topic"] for item in await lab.subscriptions()] == [b]
            await lab.say("unsubscribe", True)
            assert await lab.subscriptions() == []
            await sender.publish(b, b"gone")
            assert lab["b"].status()["unrouted"] == 0
            assert sum(msg.payload == "said" for msg in lab["c"].safe()) == 8, (
                "each message to it is complete"
            )
            assert lab.failures() == []

    run(scenario)
    assert not list(tmp_path.glob("subscriptions*"))


@pytest.mark.parametrize(
    ("action", "topic", "error"),
    [
        ("reset", "", "msg.action is 'reset', it has to be one of subscribe, unsubscribe"),
        (None, "t", "msg.action is None"),
        ("subscribe", "", "not a topic filter: '': it is empty"),
        ("subscribe", ["ok", "a/#/b"], "not a topic filter: 'a/#/b'"),
        ("subscribe", {"topic": "t", "qos": 3}, "qos 3 is not one of 0, 1, 2"),
        ("subscribe", {"topic": "t", "datatype": "xml"}, "datatype 'xml' is not one of"),
        ("unsubscribe", {"qos": 1}, "a subscription is a topic filter or an object"),
    ],
)
def test_what_makes_no_sense_fails_and_changes_nothing(
    mosquitto: servers.Mosquitto, unique: str, tmp_path: Path, action: Any, topic: Any, error: str
) -> None:
    async def scenario() -> None:
        async with gateway(mosquitto.port, unique, tmp_path) as lab:
            await lab.say(action, topic)
            assert error in lab.failures()[0]
            assert await lab.subscriptions() == []

    run(scenario)


def test_batch_is_done_in_its_order_and_one_at_fault_stands_alone(
    mosquitto: servers.Mosquitto, unique: str, tmp_path: Path
) -> None:
    async def scenario() -> None:
        said = [
            ("subscribe", "a"),
            ("nonsense", ""),
            ("subscribe", "b"),
            ("unsubscribe", "a"),
            ("getSubscriptions", ""),
        ]
        batch = [
            Msg(f"{unique}/{topic}" if topic else "", None, None, 0, {"action": action})
            for action, topic in said
        ]
        async with gateway(mosquitto.port, unique, tmp_path) as lab:
            await lab["s"].feed(batch)
            assert [item["topic"] for item in lab["k"].safe()[-1].payload] == [f"{unique}/b"]
            assert len(lab.failures()) == 1

    run(scenario)


def test_refused_subscription_fails_and_is_forgotten(unique: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with StubBroker(granted=0x87) as broker, gateway(broker.port, unique, tmp_path) as lab:
            await lab.say("subscribe", "secret/1")
            text = "the broker refuses the subscription to secret/1: 0x87 (not authorized)"
            assert text in lab.failures()[0]
            assert await lab.subscriptions() == []
            assert lab["b"].status()["refused_subscriptions"] == {}

    run(scenario)
    assert not list(tmp_path.glob("subscriptions*"))


def test_they_outlive_a_reconnect_and_a_restart(
    mosquitto: servers.Mosquitto, unique: str, tmp_path: Path
) -> None:
    topic = f"{unique}/x"

    async def scenario() -> None:
        async with linked(mosquitto.port) as sender:
            async with gateway(mosquitto.port, unique, tmp_path, b={"cleansession": True}) as lab:
                await lab.say("subscribe", topic)
                link = lab["b"].receiver
                before = link.reconnects
                cut(link)
                await reconnected(link, before)
                await link.subscribed(topic)
                await sender.publish(topic, b"1")
                assert await lab.got(1) == ["1"]
            async with gateway(mosquitto.port, unique, tmp_path) as lab:
                await lab["b"].receiver.subscribed(topic)
                assert [item["topic"] for item in await lab.subscriptions()] == [topic]
            await sender.publish(topic, b"2")  # while it is away: the session has the subscription
            async with gateway(mosquitto.port, unique, tmp_path) as lab:
                assert await lab.got(1) == ["2"]

    run(scenario)


def test_message_waits_for_a_broker_that_is_away_and_nobody_waits_for_it(
    own: Own, unique: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deploying, "DRAIN_S", 0.5)

    async def scenario() -> None:
        broker = own(servers.Mosquitto())
        async with gateway(broker.port, unique, tmp_path) as lab:
            await until(lab["b"].receiver.connected.is_set, "the connection", 20)
            await asyncio.to_thread(broker.stop)
            await until(lambda: not lab["b"].receiver.connected.is_set(), "the end of the connection", 20)
            said = asyncio.create_task(lab.say("subscribe", "x"))
            assert [item["topic"] for item in await until_subscribed(lab, "x")] == ["x"]
            assert not said.done(), "not settled without the broker's answer"
            with pytest.raises(DeployError, match="what mqtt in:in has taken is not safe"):
                await lab.engine.deploy(Flow(nodes_of(broker.port, unique, **{"in": {"datatype": "json"}})))
            await asyncio.to_thread(broker.start)
            await said
            async with linked(broker.port) as sender:
                await sender.publish("x", b"1")
            assert await lab.got(1) == ["1"]

    run(scenario)


async def until_subscribed(lab: Gateway, topic: str) -> list[dict[str, Any]]:
    while True:
        found = await lab.subscriptions()
        if any(item["topic"] == topic for item in found):
            return found


@pytest.mark.parametrize(
    "changed", [{"in": {"datatype": "json"}}, {"b": {"keepalive": 31}}, {"s": {"name": "other"}}]
)
def test_deploy_takes_them_over(
    mosquitto: servers.Mosquitto, unique: str, tmp_path: Path, changed: dict[str, dict[str, Any]]
) -> None:
    topic = f"{unique}/x"

    async def scenario() -> None:
        async with gateway(mosquitto.port, unique, tmp_path) as lab, linked(mosquitto.port) as sender:
            await lab.say("subscribe", topic)
            sent = [sender.publish(topic, b"%d" % number) for number in range(500)]
            await lab.engine.deploy(Flow(nodes_of(mosquitto.port, unique, **changed)))
            sent += [sender.publish(topic, b"%d" % number) for number in range(500, 1000)]
            await asyncio.gather(*sent)
            assert [int(payload) for payload in await lab.got(1000)] == list(range(1000))
            assert [item["topic"] for item in await lab.subscriptions()] == [topic]

    run(scenario)


def test_removed_or_made_static_it_leaves_the_session(
    mosquitto: servers.Mosquitto, unique: str, tmp_path: Path
) -> None:
    async def scenario() -> None:
        async with gateway(mosquitto.port, unique, tmp_path) as lab:
            await lab.say("subscribe", f"{unique}/x")
            static: dict[str, Any] = {"in": {"inputs": 0, "topic": f"{unique}/y"}, "s": {"wires": [["k"]]}}
            await lab.engine.deploy(Flow(nodes_of(mosquitto.port, unique, **static)))
            memory = tmp_path / "mqtt-b.json"
            await until(lambda: memory.read_text() == f'["{unique}/y"]', "the session without it", 20)

    run(scenario)


def test_disconnect_and_connect_are_for_the_broker(
    mosquitto: servers.Mosquitto, unique: str, tmp_path: Path
) -> None:
    topic = f"{unique}/x"

    async def scenario() -> None:
        farewell: dict[str, Any] = {
            "closeTopic": f"{unique}/state",
            "closePayload": "left",
            "autoConnect": False,
        }
        async with (
            gateway(mosquitto.port, unique, tmp_path, b=farewell) as lab,
            linked(mosquitto.port) as sender,
        ):
            broker = lab["b"]
            await lab.say(
                "subscribe", topic
            )  # settled at once, there is no connection that it could wait for
            assert not broker.receiver.connected.is_set()
            await lab.say("connect")
            await broker.receiver.subscribed(topic)
            await lab.say("disconnect")
            assert not broker.receiver.connected.is_set()
            assert "disconnected by a message to mqtt in:in" in broker.status()["error"]
            await sender.publish(topic, b"meanwhile")
            await lab.say("connect")
            assert broker.receiver.connected.is_set()
            assert await lab.got(1) == ["meanwhile"]
            await lab.say("connect", broker={"broker": "elsewhere"})
            assert "msg.broker is not taken" in lab.failures()[0]

    run(scenario)


def test_wire_into_a_static_one_is_refused() -> None:
    static = nodes_of(1883, "x", **{"in": {"inputs": 0, "topic": "t"}})
    assert any("which has no input" in str(problem) for problem in Flow(static).check({}))
    assert not any(problem.severity == "error" for problem in Flow(nodes_of(1883, "x")).check({}))


def test_in_a_lab_it_answers_as_it_is_told() -> None:
    nodes = [each for each in nodes_of(1883, "x") if each["id"] in ("b", "in", "k")]
    with FlowLab(Flow([raw("g", "transform", ["in"]), *nodes]), answers={"in": [{"payload": []}]}) as lab:
        lab.send("g", topic="", action="getSubscriptions")
        assert [seen.payload for seen in lab.reached("k")] == [[]]
