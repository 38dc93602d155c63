"""Deploys under traffic on a real mosquitto: nothing lost, nothing doubled, the order of each topic kept."""

from __future__ import annotations

import asyncio
import gc
import itertools
import time
import weakref
from collections import defaultdict
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from edge.agent import load_flow
from edge.settings import AgentSettings
from edge.twin import TwinStore
from tests import servers
from tests.flows import Lab, raw, until
from tests.mqtt import Inbox, cut, linked, reconnected
from voltflow.engine import deploy as deploying
from voltflow.engine.engine import DeployError, Engine
from voltflow.flow.flow import Flow
from voltflow.message import Msg
from voltflow.mqtt.link import MqttLink
from voltflow.node import Node, Transform, config, load_nodes, node

load_nodes("voltflow.nodes")
Own = Callable[[AbstractContextManager[servers.Mosquitto]], servers.Mosquitto]
RATE_PER_S, TOPICS = 500, 7
SECONDS = 6.0


def run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(scenario())


@node("test forward", category="test")
class Forward(Transform):
    """Give a message the topic that it is to be published to."""

    mark: int = config(0, help="changed by a deploy, and nothing else")

    def process(self, msgs: list[Msg]) -> list[Msg]:
        return [msg.derive(topic=msg.topic.replace("/in/", "/out/")) for msg in msgs]


class House:
    """A flow from `NAME/in/+` to `NAME/out/+` of which a deploy changes something."""

    def __init__(self, port: int, name: str, state_dir: Path, uplink_port: int = 0) -> None:
        self.port, self.name, self.state_dir, self.uplink_port = port, name, state_dir, uplink_port or port

    def flow(self, **changed: dict[str, Any]) -> Flow:
        nodes: list[dict[str, Any]] = [
            {"id": "b", "type": "mqtt-broker", "port": self.port, "clientid": self.name},
            {"id": "up", "type": "mqtt-broker", "port": self.uplink_port, "clientid": f"{self.name}-up"},
            {"id": "in", "type": "mqtt in", "topic": f"{self.name}/in/+", "qos": 1, "datatype": "buffer", "broker": "b",
             "wires": [["t"]]},
            raw("t", "forward", ["out"]),
            {"id": "out", "type": "mqtt out", "qos": 1, "broker": "up"},
            {"id": "dead", "type": "dead letter", "broker": "b"},
        ]  # fmt: skip
        return Flow([{**each, **changed.get(each["id"], {})} for each in nodes])

    def lab(self) -> Lab:
        return Lab(Engine(self.flow(), env={}, state_dir=self.state_dir, gateway="gw"))


async def subscribed(lab: Lab) -> None:
    def ready() -> bool:
        link = lab["b"].receiver
        client = link and link._client
        return bool(client and client.subscriptions and all(s.acknowledged for s in client.subscriptions))

    await until(lambda: lab.run.done() or ready(), "the subscription")


async def publish_steadily(sender: MqttLink, name: str, stop: asyncio.Event) -> int:
    """Numbers, in turn over the topics, until told to stop; how many."""
    count, started = 0, time.monotonic()
    sent = []
    while not stop.is_set():
        while count < (time.monotonic() - started) * RATE_PER_S:
            sent.append(sender.publish(f"{name}/in/{count % TOPICS}", b"%d" % count))
            count += 1
        await asyncio.sleep(0.005)  # the rate
    await asyncio.gather(*sent)
    return count


def assert_each_once_and_in_order(inbox: Inbox, count: int) -> None:
    numbers = [int(payload) for payload in inbox.payloads]
    assert sorted(numbers) == list(range(count)), (
        f"lost {sorted(set(range(count)) - set(numbers))[:20]}, "
        f"doubled {sorted(n for n in set(numbers) if numbers.count(n) > 1)[:20]}"
    )
    by_topic = defaultdict(list)
    for msg in inbox.msgs:
        by_topic[msg.topic].append(int(msg.payload))
    assert len(by_topic) == TOPICS
    assert all(of_topic == sorted(of_topic) for of_topic in by_topic.values())


def transform(name: str) -> Iterator[dict[str, Any]]:
    return ({"t": {"mark": mark}} for mark in itertools.count(1))


def sink(name: str) -> Iterator[dict[str, Any]]:
    return ({"out": {"qos": qos, "needsSubscriber": qos == 2}} for qos in itertools.cycle((2, 1)))


def topic_filter(name: str) -> Iterator[dict[str, Any]]:
    """Filters that all have all of the topics: for a moment the broker sends a message for both."""
    return ({"in": {"topic": f"{name}/{topic}"}} for topic in itertools.cycle(("in/#", "in/+")))


def qos(name: str) -> Iterator[dict[str, Any]]:
    return ({"in": {"qos": qos}} for qos in itertools.cycle((2, 1)))


def broker(name: str) -> Iterator[dict[str, Any]]:
    return ({"b": {"keepalive": keepalive}} for keepalive in itertools.cycle((31, 32)))


def uplink(name: str) -> Iterator[dict[str, Any]]:
    return ({"up": {"keepalive": keepalive}} for keepalive in itertools.cycle((31, 32)))


def everything(name: str) -> Iterator[dict[str, Any]]:
    each = (broker(name), uplink(name), topic_filter(name), transform(name))
    return ({**a, **b, **c, **d} for a, b, c, d in zip(*each, strict=False))


@pytest.mark.parametrize("changes", [transform, sink, topic_filter, qos, broker, uplink, everything])
def test_deploys_under_traffic_lose_nothing_and_double_nothing(
    mosquitto: servers.Mosquitto,
    unique: str,
    tmp_path: Path,
    changes: Callable[[str], Iterator[dict[str, Any]]],
) -> None:
    async def scenario() -> None:
        house = House(mosquitto.port, unique, tmp_path)
        lab, stop = house.lab(), asyncio.Event()
        async with linked(mosquitto.port) as watcher, linked(mosquitto.port) as sender:
            inbox = Inbox(watcher, f"{unique}/out/+", 2)
            await until(lambda: watcher._client.subscriptions[0].acknowledged, "the watcher")
            await subscribed(lab)
            sending = asyncio.create_task(publish_steadily(sender, unique, stop))
            ends = time.monotonic() + SECONDS
            for change in changes(unique):
                arrived = len(inbox.msgs)
                await lab.engine.deploy(house.flow(**change))
                await until(lambda seen=arrived: len(inbox.msgs) > seen, "traffic after a deploy")
                if time.monotonic() > ends:
                    break
            stop.set()
            count = await sending
            await inbox.have(count)
            print(f"\n{changes.__name__}: {lab.engine.deploys} deploys, {count} messages, "
                  f"longest pause {lab.engine.longest_pause_s * 1000:.0f} ms")  # fmt: skip
            assert await lab.end()
            assert_each_once_and_in_order(inbox, count)
            assert lab.engine.deploys > 5

    run(scenario)


def test_filter_that_is_no_longer_wanted_leaves_the_session(
    mosquitto: servers.Mosquitto, unique: str, tmp_path: Path
) -> None:
    """What the broker kept for it would else come at the next start, and nobody would want it."""

    async def scenario() -> None:
        house = House(mosquitto.port, unique, tmp_path)
        lab = house.lab()
        async with linked(mosquitto.port) as watcher, linked(mosquitto.port) as sender:
            inbox = Inbox(watcher, f"{unique}/out/+", 2)
            await until(lambda: watcher._client.subscriptions[0].acknowledged, "the watcher")
            await subscribed(lab)
            await lab.engine.deploy(house.flow(**{"in": {"topic": f"{unique}/in/1"}}))
            memory = tmp_path / "mqtt-b.json"
            await until(
                lambda: memory.read_text() == f'["{unique}/in/1"]', "the session without the old filter"
            )
            assert await lab.end()
            for topic in ("2", "1"):
                await sender.publish(f"{unique}/in/{topic}", topic.encode())
            again = Lab(Engine(house.flow(**{"in": {"topic": f"{unique}/in/1"}}), env={}, state_dir=tmp_path))
            assert await inbox.have(1) == [b"1"]
            assert again["b"].status()["unrouted"] == 0
            assert await again.end()

    run(scenario)


def test_broker_that_is_replaced_says_farewell_and_has_it_confirmed(
    mosquitto: servers.Mosquitto, unique: str, tmp_path: Path
) -> None:
    """A client that waits for it in vain holds up the deploy, and has its will published."""
    said = {f"{what}{name}": value for what in ("birth", "close", "will") for name, value in {
        "Topic": f"{unique}/state", "Payload": what, "Retain": False}.items()}  # fmt: skip

    async def scenario() -> None:
        house = House(mosquitto.port, unique, tmp_path)
        async with linked(mosquitto.port) as watcher:
            inbox = Inbox(watcher, f"{unique}/state")
            await until(lambda: watcher._client.subscriptions[0].acknowledged, "the watcher")
            lab = Lab(Engine(house.flow(b=said), env={}, state_dir=tmp_path, gateway="gw"))
            assert await inbox.have(1) == [b"birth"]
            await subscribed(lab)
            for keepalive in (31, 32):
                seen = len(inbox.msgs)
                await lab.engine.deploy(house.flow(b={**said, "keepalive": keepalive}))
                assert (await inbox.have(seen + 2))[seen:] == [b"close", b"birth"]
            assert await lab.end()
            assert (await inbox.have(6))[5:] == [b"close"]

    run(scenario)


def test_no_node_of_the_default_flow_outlives_the_deploy_that_replaces_it(
    mosquitto: servers.Mosquitto, unique: str, tmp_path: Path
) -> None:
    async def scenario() -> None:
        settings = AgentSettings(
            broker_host="127.0.0.1", broker_port=mosquitto.port, gateway=unique, state_dir=tmp_path
        )
        flow, env = load_flow(settings)
        services: dict[type, object] = {TwinStore: TwinStore()}
        lab = Lab(Engine(flow, env=env, services=services, gateway=unique, state_dir=tmp_path))
        await until(lambda: lab.run.done() or lab.engine.is_running, "the start", 60)
        old: list[weakref.ref[Node]] = []
        for _ in range(3):
            old += [weakref.ref(wired.node) for wired in lab.engine.nodes.values()]
            await lab.engine.deploy(flow, restart_all=True)

        def alive() -> list[Node]:
            gc.collect()
            return [node for ref in old if (node := ref()) is not None]

        await until(lambda: not alive(), "all old nodes to be gone")
        assert await lab.end()

    run(scenario)


async def refused(deploy: Awaitable[None]) -> DeployError:
    with pytest.raises(DeployError) as info:
        await deploy
    return info.value


@pytest.mark.parametrize("changed", ["up", "out", "in", "b"])
def test_deploy_while_the_uplink_is_away_is_refused_and_the_old_flow_goes_on(
    own: Own, unique: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: str
) -> None:
    monkeypatch.setattr(deploying, "DRAIN_S", 1.0)
    change = {
        "up": {"keepalive": 31},
        "out": {"qos": 2},
        "in": {"topic": f"{unique}/in/#"},
        "b": {"keepalive": 31},
    }

    async def scenario() -> None:
        local, far = own(servers.Mosquitto()), own(servers.Mosquitto())
        house = House(local.port, unique, tmp_path, far.port)
        lab, stop = house.lab(), asyncio.Event()
        async with linked(local.port) as sender, linked(far.port, client_id="watcher") as watcher:
            inbox = Inbox(watcher, f"{unique}/out/+", 2)
            await until(lambda: watcher._client.subscriptions[0].acknowledged, "the watcher")
            await subscribed(lab)
            sending = asyncio.create_task(publish_steadily(sender, unique, stop))
            await inbox.have(100)
            await asyncio.to_thread(far.stop)
            await until(lambda: lab.engine.transactions, "something that waits for the uplink")
            before = lab.engine.wiring
            error = await refused(lab.engine.deploy(house.flow(**{changed: change[changed]})))
            assert (
                "has taken is not safe after 1 s: bring its far side back, or leave the node as it is"
                in str(error)
            )
            assert error.node_id == "out"
            assert lab.engine.wiring is before
            stop.set()
            count = await sending
            await asyncio.to_thread(far.start)
            await inbox.have(count, 40)
            assert lab["b"].status()["reconnects"] == 0
            await lab.engine.deploy(house.flow(**{changed: change[changed]}))
            assert lab.engine.wiring is not before
            assert await lab.end()
            assert set(map(int, inbox.payloads)) == set(range(count))

    run(scenario)


@pytest.mark.parametrize(("first", "dynamic"), [("in", False), ("out", False), ("in", True)])
def test_broker_that_gets_its_other_connection_by_a_deploy_says_birth_and_will_once(
    mosquitto: servers.Mosquitto, unique: str, tmp_path: Path, first: str, dynamic: bool
) -> None:
    state = f"{unique}/state"
    said = {f"{what}{name}": value for what in ("birth", "will") for name, value in {
        "Topic": state, "Payload": what, "Retain": False}.items()}  # fmt: skip

    subscribed_to = {"inputs": 1, "topic": ""} if dynamic else {"topic": f"{unique}/in"}

    def flow(*kinds: str) -> Flow:
        nodes = [
            {"id": "b", "type": "mqtt-broker", "port": mosquitto.port, "clientid": unique, **said},
            raw("s", "source", ["out"] if "out" in kinds else []),
            {"id": "in", "type": "mqtt in", **subscribed_to, "datatype": "utf8", "broker": "b", "wires": [["k"]]},
            {"id": "out", "type": "mqtt out", "topic": f"{unique}/in", "broker": "b"},
            raw("k", "sink"),
            raw("dead", "dead letters"),
        ]  # fmt: skip
        return Flow([each for each in nodes if each["id"] not in {"in", "out"} - set(kinds)])

    async def scenario() -> None:
        async with linked(mosquitto.port) as watcher:
            inbox = Inbox(watcher, state)
            await until(lambda: watcher._client.subscriptions[0].acknowledged, "the watcher")
            lab = Lab(Engine(flow(first), env={}, state_dir=tmp_path, gateway="gw"))
            assert await inbox.have(1) == [b"birth"]
            broker = lab["b"]
            await lab.engine.deploy(flow("in", "out"))
            assert lab["b"] is broker, "it goes on as it was"
            await until(
                lambda: broker.status()["connected"] and len(broker.status()["client_ids"]) == 2, "both", 20
            )
            if not dynamic:
                lab.feed("s", "through both")
                await until(lambda: lab["k"].payloads() == ["through both"], "the message", 20)
            speaks, is_silent = (
                (broker.receiver, broker.sender) if first == "in" else (broker.sender, broker.receiver)
            )
            for link in (is_silent, speaks):
                before = link.reconnects
                cut(link)
                await reconnected(link, before)
            assert await inbox.have(3) == [b"birth", b"will", b"birth"]
            assert await lab.end()
            await watcher.publish(state, b"end")  # what the others said was before it
            assert await inbox.have(4) == [b"birth", b"will", b"birth", b"end"]

    run(scenario)
