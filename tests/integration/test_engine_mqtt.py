"""Flows of mqtt in and mqtt out on a real mosquitto: nothing lost over stops and troubles, order, dead letters."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests import servers
from tests.flows import Lab, raw, until
from tests.mqtt import Inbox, StubBroker, cut, linked
from voltflow.engine.engine import Engine
from voltflow.flow.flow import Flow
from voltflow.message import Msg
from voltflow.mqtt.link import MqttLink, MqttOptions
from voltflow.node import Context, load_nodes
from voltflow.nodes import mqtt_in
from voltflow.telemetry import Dead

load_nodes("voltflow.nodes")
Own = Callable[[AbstractContextManager[servers.Mosquitto]], servers.Mosquitto]
PACKS = 20


def run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(scenario())


class Bench:
    """A broker's port and names of a test's own."""

    def __init__(self, port: int, name: str, state_dir: Path) -> None:
        self.port, self.name, self.state_dir = port, name, state_dir

    def broker(self, **more: Any) -> dict[str, Any]:
        return {"id": "b", "type": "mqtt-broker", "port": self.port, "clientid": self.name, **more}

    def source(self, *targets: str, **more: Any) -> dict[str, Any]:
        topic = f"ev/v1/{self.name}/+/telemetry"
        return {"id": "in", "type": "mqtt in", "topic": topic, "datatype": "buffer", "broker": "b",
                "wires": [list(targets)], **more}  # fmt: skip

    def out(self, topic: str = "", **more: Any) -> dict[str, Any]:
        return {"id": "out", "type": "mqtt out", "topic": topic, "broker": "b", **more}

    def dead(self, **more: Any) -> dict[str, Any]:
        return {"id": "dead", "type": "dead letter", "broker": "b", **more}

    def engine(self, *nodes: dict[str, Any], **options: Any) -> Engine:
        return Engine(Flow(list(nodes)), env={}, state_dir=self.state_dir, gateway="gw", **options)

    def topic(self, pack: int, kind: str = "telemetry") -> str:
        return f"ev/v1/{self.name}/p{pack}/{kind}"

    def items(self, first: int, count: int) -> list[tuple[str, bytes]]:
        return [(self.topic(i % PACKS), b"%d" % i) for i in range(first, first + count)]


@pytest.fixture
def bench(mosquitto: servers.Mosquitto, unique: str, tmp_path: Path) -> Bench:
    return Bench(mosquitto.port, unique, tmp_path)


async def subscribed(lab: Lab) -> None:
    """Until the source's subscription stands."""

    def ready() -> bool:
        client = lab["b"].receiver and lab["b"].receiver._client
        return bool(client and client.subscriptions and all(s.acknowledged for s in client.subscriptions))

    await until(lambda: lab.run.done() or ready(), "the subscription")


def renamed(kind: str) -> Callable[[list[Msg]], list[Msg]]:
    return lambda msgs: [msg.derive(topic=msg.topic.replace("telemetry", kind)) for msg in msgs]


def by_pack(inbox: Inbox) -> dict[str, list[int]]:
    found = defaultdict(list)
    for msg in inbox.msgs:
        found[msg.topic].append(int(msg.payload))
    return found


@pytest.mark.parametrize("qos", [1, 2])
def test_every_message_passes_once_and_in_order(bench: Bench, qos: int) -> None:
    async def scenario() -> None:
        lab = Lab(bench.engine(bench.broker(), bench.source("t", qos=qos), raw("t", "transform", ["out"]),
                               bench.out(qos=qos), bench.dead()))  # fmt: skip
        lab["t"].process_ = renamed("twin")
        async with linked(bench.port) as watcher, linked(bench.port) as sender:
            inbox = Inbox(watcher, f"ev/v1/{bench.name}/+/twin", qos)
            await until(lambda: watcher._client.subscriptions[0].acknowledged, "the watcher")
            await subscribed(lab)
            await sender.publish_batch(bench.items(0, 3000), qos=qos)
            await inbox.have(3000)
            assert await lab.end()
            assert len(inbox.msgs) == 3000
            assert all(seqs == sorted(seqs) for seqs in by_pack(inbox).values())
            assert len(by_pack(inbox)) == PACKS

    run(scenario)


def test_what_waits_in_the_session_is_not_lost_while_the_nodes_start(bench: Bench) -> None:
    """A sink that takes its time to start once let the link connect before the source had subscribed: what the broker
    sent at once was acknowledged unseen, and the subscription dropped from the session."""

    async def scenario() -> None:
        nodes = (bench.broker(), bench.out("elsewhere"), bench.dead(), bench.source("k"), raw("k", "sink"))
        lab = Lab(bench.engine(*nodes))
        await subscribed(lab)
        assert await lab.end()
        async with linked(bench.port) as sender:
            await sender.publish_batch(bench.items(0, 200))
            engine = bench.engine(*nodes)
            slow = engine.nodes["k"].node

            async def start(ctx: Context) -> None:
                broker: Any = ctx.nodes["b"]
                link = await broker.open_receiver()
                await until(lambda: link.received >= 200, "the messages before the sink has started")

            slow.start = start  # type: ignore[method-assign]
            lab = Lab(engine)
            await until(lambda: len(lab["k"].safe()) == 200 or lab.run.done(), "the messages in the sink")
            await sender.publish_batch(bench.items(200, 1))
            await until(lambda: len(lab["k"].safe()) == 201, "one of after the start")
            assert lab["b"].status()["unrouted"] == 0
            assert await lab.end()

    run(scenario)


def test_what_a_hanging_sink_held_comes_again_after_the_restart(bench: Bench) -> None:
    async def scenario() -> None:
        nodes = (bench.broker(), bench.source("a", "k"), raw("a", "sink"), raw("k", "sink"))
        lab = Lab(bench.engine(*nodes, grace_s=0.2))

        async def hang(msgs: list[Msg]) -> None:
            await asyncio.Event().wait()

        lab["k"].write_ = hang
        await subscribed(lab)
        async with linked(bench.port) as sender:
            await sender.publish_batch(bench.items(0, 50))
            await until(lambda: len(lab["a"].safe()) == 50, "the other sink")
            assert await lab.end() is False
            again = Lab(bench.engine(*nodes))
            await until(lambda: len(again["k"].safe()) == 50, "all of them again")
            assert [int(payload) for payload in again["k"].payloads()] == list(range(50))
            assert await again.end()
            last = Lab(bench.engine(*nodes))
            await subscribed(last)
            await sender.publish_batch(bench.items(50, 1))
            await until(last["k"].safe, "the next message")
            assert last["k"].payloads() == [b"50"], "what was acknowledged does not come again"
            assert await last.end()

    run(scenario)


def test_broker_restart_in_the_middle_loses_nothing(own: Own, unique: str, tmp_path: Path) -> None:
    broker = own(servers.Mosquitto())
    bench = Bench(broker.port, unique, tmp_path)

    async def scenario() -> None:
        lab = Lab(
            bench.engine(bench.broker(), bench.source("t"), raw("t", "transform", ["out"]), bench.out())
        )
        lab["t"].process_ = renamed("twin")
        async with (
            linked(bench.port, client_id="w", clean_start=False) as watcher,
            linked(bench.port) as sender,
        ):
            inbox = Inbox(watcher, f"ev/v1/{bench.name}/+/twin")
            await until(lambda: watcher._client.subscriptions[0].acknowledged, "the watcher")
            await subscribed(lab)
            batches = [sender.publish_batch(bench.items(first, 500)) for first in range(0, 5000, 500)]
            await inbox.have(200)
            await asyncio.to_thread(broker.restart)
            async with asyncio.timeout(30):
                await asyncio.gather(*batches)
            await until(lambda: len(set(inbox.payloads)) == 5000, "every message", 30)
            assert await lab.end()
            for seqs in by_pack(inbox).values():
                first_arrivals = list(dict.fromkeys(seqs))
                assert first_arrivals == sorted(first_arrivals)

    run(scenario)


def test_message_that_cannot_be_published_is_a_dead_letter_and_the_others_keep_their_order(
    bench: Bench,
) -> None:
    async def scenario() -> None:
        lab = Lab(
            bench.engine(
                bench.broker(), bench.source("t"), raw("t", "transform", ["out"]), bench.out(), bench.dead()
            )
        )

        def process(msgs: list[Msg]) -> list[Msg]:
            return [
                msg.derive(
                    topic="with/a/+" if int(msg.payload) % 100 == 7 else f"{bench.name}/out",
                    payload=msg.payload,
                )
                for msg in msgs
            ]

        lab["t"].process_ = process
        async with linked(bench.port) as watcher, linked(bench.port) as sender:
            good = Inbox(watcher, f"{bench.name}/out")
            dead = Inbox(watcher, f"ev/v1/{bench.name}/+/dead")
            await until(lambda: all(s.acknowledged for s in watcher._client.subscriptions), "the watcher")
            await subscribed(lab)
            await asyncio.gather(
                *(sender.publish_batch(bench.items(first, 50)) for first in range(0, 1000, 50))
            )
            await good.have(990)
            await dead.have(10)
            assert await lab.end()
            assert [int(payload) for payload in good.payloads] == [i for i in range(1000) if i % 100 != 7]
            letter = json.loads(dead.payloads[0])
            assert (letter["node"], letter["topic"]) == ("out", bench.topic(7))
            assert letter["error"] == "ValueError: not a topic to publish to: 'with/a/+'"

    run(scenario)


@pytest.mark.parametrize("reason", [0x97, 0x91], ids=["quota exceeded", "packet identifier in use"])
def test_message_that_the_broker_cannot_take_now_is_published_again(
    unique: str, tmp_path: Path, reason: int
) -> None:
    """Such an answer says nothing about the message: it is no dead letter, and what was taken is not sent twice."""

    async def scenario() -> None:
        async with StubBroker() as broker:
            bench = Bench(broker.port, unique, tmp_path)
            lab = Lab(bench.engine(bench.broker(), raw("s", "source", ["out"]), bench.out("t")))
            await until(lambda: lab.run.done() or hasattr(lab["s"], "emit"), "the start")
            broker.reasons.extend([0, reason, 0, 0x99])
            await lab.feed("s", b"0", b"1", b"2", b"3")
            assert broker.published == [b"0", b"1", b"2", b"3", b"1"]
            assert lab.engine.stats["out"].failures == 1, "a wrong payload format stays wrong"
            assert lab.engine.circuit("out").opened == 1
            await lab.end()

    run(scenario)


def test_message_says_whether_it_is_retained_where_the_node_does_not(bench: Bench) -> None:
    """And keeps its place among the others."""

    async def scenario() -> None:
        lab = Lab(bench.engine(bench.broker(), raw("s", "source", ["out"]), bench.out(retain="")))
        await until(lambda: lab.run.done() or hasattr(lab["s"], "emit"), "the start")
        said: list[Any] = [True, None, "true", False, True, "false"]
        msgs = [
            Msg(f"{bench.name}/{i}", b"%d" % i, props={"retain": said}) for i, said in enumerate(said * 3)
        ]
        async with linked(bench.port) as watcher:
            live = Inbox(watcher, f"{bench.name}/#")
            await until(lambda: watcher._client.subscriptions[0].acknowledged, "the watcher")
            await asyncio.gather(*(lab["s"].feed(msgs[i : i + 6]) for i in (0, 6, 12)))
            assert [int(payload) for payload in await live.have(18)] == list(range(18))
        async with linked(bench.port) as later:
            kept = Inbox(later, f"{bench.name}/#")
            await kept.have(9)
            assert sorted(int(payload) for payload in kept.payloads) == [0, 2, 4, 6, 8, 10, 12, 14, 16]
        await lab.end()

    run(scenario)


def test_payloads_are_published_as_node_red_publishes_them(unique: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with StubBroker() as broker:
            bench = Bench(broker.port, unique, tmp_path)
            lab = Lab(bench.engine(bench.broker(), raw("s", "source", ["out"]), bench.out("t")))
            await until(lambda: lab.run.done() or hasattr(lab["s"], "emit"), "the start")
            await lab.feed("s", b"\xff", "ä", 5, True, {"a": None}, [None], None)
            assert broker.published == [b"\xff", "ä".encode(), b"5", b"true", b'{"a":null}', b"[null]", b""]
            await lab.end()

    run(scenario)


def test_refused_message_is_found_among_retained_ones_and_others(unique: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with StubBroker() as broker:
            bench = Bench(broker.port, unique, tmp_path)
            lab = Lab(bench.engine(bench.broker(), raw("s", "source", ["out"]), bench.out("t")))
            await until(lambda: lab.run.done() or hasattr(lab["s"], "emit"), "the start")
            broker.reasons.extend([0, 0, 0x97, 0])
            await lab["s"].feed([Msg("t", b"%d" % i, props={"retain": i % 3 == 0}) for i in range(4)])
            assert broker.published == [b"0", b"1", b"2", b"3", b"2"]
            await lab.end()

    run(scenario)


def test_original_larger_than_the_broker_takes_is_cut_so_that_the_dead_letter_arrives(
    own: Own, unique: str, tmp_path: Path
) -> None:
    """base64 makes a third more of it: what just came in would not get out again, and nobody would ever see it."""
    broker = own(servers.Mosquitto(max_packet_size="50000"))
    bench = Bench(broker.port, unique, tmp_path)

    async def scenario() -> None:
        lab = Lab(bench.engine(bench.broker(), bench.source("t"), raw("t", "transform"), bench.dead()))

        def fail(msgs: list[Msg]) -> list[Msg]:
            raise ValueError("never good enough")

        lab["t"].process_ = fail
        async with linked(bench.port) as watcher, linked(bench.port) as sender:
            dead = Inbox(watcher, f"ev/v1/{bench.name}/+/dead")
            await until(lambda: watcher._client.subscriptions[0].acknowledged, "the watcher")
            await subscribed(lab)
            original = bytes(range(256)) * 190
            await sender.publish_batch([(bench.topic(1), original), (bench.topic(1), b"small")])
            first, second = [msgspec.json.decode(payload, type=Dead) for payload in await dead.have(2)]
            assert (first.truncated, first.size_bytes) == (True, len(original))
            assert 30_000 < len(first.payload) < 37_500
            assert original.startswith(first.payload)
            assert (second.payload, second.truncated, second.error) == (
                b"small",
                False,
                "ValueError: never good enough",
            )
            assert await lab.end()
            assert lab.engine.dropped == {}

    run(scenario)


def test_dead_letter_of_a_dead_letter_is_dropped_and_counted(bench: Bench) -> None:
    async def scenario() -> None:
        source = bench.source("k", topic=f"ev/v1/{bench.name}/+/dead")
        lab = Lab(bench.engine(bench.broker(), source, raw("k", "sink"), bench.dead()))

        async def refuse(msgs: list[Msg]) -> None:
            raise ValueError("no such table")

        lab["k"].write_ = refuse
        await subscribed(lab)
        async with linked(bench.port) as sender:
            await sender.publish(bench.topic(1, "dead"), b"{}")
            await until(lambda: lab["dead"].status()["dropped"] == 1, "the drop")
        assert await lab.end()
        assert lab["dead"].count == 0

    run(scenario)


def test_flood_of_qos_0_is_bounded_and_the_drops_are_counted(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mqtt_in, "QOS0_LIMIT", 100)
    monkeypatch.setattr(mqtt_in, "IN_FLOW_LIMIT", 100)

    async def scenario() -> None:
        lab = Lab(bench.engine(bench.broker(), bench.source("k", qos=0), raw("k", "sink")))
        release = asyncio.Event()

        async def hang(msgs: list[Msg]) -> None:
            await release.wait()

        lab["k"].write_ = hang
        await subscribed(lab)
        async with linked(bench.port) as sender:
            await sender.publish_batch(bench.items(0, 5000))
            await until(lambda: lab["b"].receiver.received == 5000, "all of them")
            status = lab["in"].status()
            assert status["dropped_qos0"] > 3000
            release.set()
            await until(lambda: len(lab["k"].safe()) == 5000 - status["dropped_qos0"], "the rest")
        assert await lab.end()

    run(scenario)


def test_connection_that_is_lost_again_and_again_piles_nothing_up(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each new connection brings a Receive Maximum of messages again; with a sink that is away that had no end."""
    monkeypatch.setattr(mqtt_in, "IN_FLOW_LIMIT", 50)

    async def scenario() -> None:
        lab = Lab(bench.engine(bench.broker(receiveMaximum=20), bench.source("k"), raw("k", "sink")))
        release = asyncio.Event()

        async def hang(msgs: list[Msg]) -> None:
            await release.wait()

        lab["k"].write_ = hang
        await subscribed(lab)
        async with linked(bench.port) as sender:
            await sender.publish_batch(bench.items(0, 500))
            link = lab["b"].receiver
            for lost in range(6):
                before = link.received
                cut(link)
                await until(
                    lambda lost=lost, before=before: link.reconnects > lost and link.received > before,
                    "the next",
                    20,
                )
            assert lab["in"].status()["in_flow"] < 50 + 20
            assert len(lab["in"]._waiting) <= 20
            release.set()
            await until(lambda: len(set(lab["k"].payloads())) == 500, "every message", 20)
        assert await lab.end()

    run(scenario)


@pytest.mark.parametrize(
    ("datatype", "data", "payload"),
    [
        ("auto-detect", b' {"a": 1}', {"a": 1}), ("auto-detect", b"12", 12), ("auto-detect", b"open", "open"),
        ("auto-detect", b"\xff", b"\xff"), ("auto-detect", b"a\x00", b"a\x00"), ("auto-detect", b"a\tb\r\n", "a\tb\r\n"),
        ("auto", b"12", "12"), ("auto", b"{}", "{}"), ("auto", b"\x7f", b"\x7f"), ("auto", b"", ""),
        ("utf8", b"a\x00", "a\x00"), ("json", b"12", 12), ("base64", b"\xff", "/w=="), ("buffer", b"12", b"12"),
    ],
)  # fmt: skip
def test_bytes_become_what_the_datatype_says(datatype: str, data: bytes, payload: Any) -> None:
    source = mqtt_in.MqttIn(topic="t", broker="b", datatype=datatype)
    [msg] = source.process([Msg("t", data)])
    assert msg.payload == payload


def test_decoding_that_fails_is_a_dead_letter_with_the_original_bytes(bench: Bench) -> None:
    async def scenario() -> None:
        lab = Lab(
            bench.engine(bench.broker(), bench.source("k", datatype="json"), raw("k", "sink"), bench.dead())
        )
        async with linked(bench.port) as watcher, linked(bench.port) as sender:
            dead = Inbox(watcher, f"ev/v1/{bench.name}/+/dead")
            await until(lambda: watcher._client.subscriptions[0].acknowledged, "the watcher")
            await subscribed(lab)
            await sender.publish_batch(
                [(bench.topic(1), data) for data in (b'{"a":1}', b"\xff\xfe", b'{"a":2}')]
            )
            letter = json.loads((await dead.have(1))[0])
            assert (letter["node"], letter["payload"]) == ("in", "//4=")
            assert lab["k"].payloads() == [{"a": 1}, {"a": 2}]
        assert await lab.end()

    run(scenario)


def test_what_the_flow_failed_to_settle_is_sent_again_over_a_new_connection(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker sends a message again over a new connection only; its gap held up all later acknowledgements."""

    async def scenario() -> None:
        lab = Lab(bench.engine(bench.broker(), bench.source("k"), raw("k", "sink")))
        await subscribed(lab)
        transact, failed = lab.engine.sources._transact, []

        async def fail_once(source: str, msgs: list[Msg]) -> None:
            if not failed:
                failed.append(msgs)
                raise OSError("no space left on device")
            await transact(source, msgs)

        monkeypatch.setattr(lab.engine.sources, "_transact", fail_once)
        async with linked(bench.port) as sender:
            await sender.publish_batch(bench.items(0, 2000))
            await until(lambda: len(set(lab["k"].payloads())) == 2000, "every message", 20)
            link = lab["b"].receiver
            await until(lambda: link.remade and link.connected.is_set(), "the new connection")
            await sender.publish_batch(bench.items(2000, 1))
            await until(lambda: b"2000" in lab["k"].payloads(), "the last, behind all that came again")
            await until(lambda: not link._inbound._unacked, "the acknowledgements")
            assert lab["in"].status()["failed_batches"] == lab["b"].status()["remade"] == 1
            assert [int(payload) for payload in lab["k"].payloads()][-2001:] == list(range(2001))
        assert await lab.end()

    run(scenario)


def test_two_sources_of_one_filter_both_get_its_messages(bench: Bench) -> None:
    async def scenario() -> None:
        nodes = (bench.broker(), bench.source("a"), {**bench.source("k", qos=2), "id": "in2"})
        lab = Lab(bench.engine(*nodes, raw("a", "sink"), raw("k", "sink")))
        await subscribed(lab)
        async with linked(bench.port) as sender:
            await sender.publish_batch(bench.items(0, 300))
            for sink in ("a", "k"):
                await until(lambda sink=sink: len(lab[sink].safe()) == 300, "the messages")
        assert await lab.end()
        assert lab["a"].payloads() == lab["k"].payloads() == [b"%d" % i for i in range(300)]

    run(scenario)


@pytest.mark.parametrize("subscription", ["$share/bridges/", ""])
def test_nothing_is_lost_when_the_publisher_is_back_before_the_bridge(
    own: Own, unique: str, tmp_path: Path, subscription: str
) -> None:
    """mosquitto 2.0 forgets shared subscriptions at a restart and confirms what it then throws away."""
    broker = own(servers.Mosquitto())
    bench = Bench(broker.port, unique, tmp_path)

    async def scenario() -> None:
        shared = f"{subscription}ev/v1/{unique}/+/twin"
        dead = f"{subscription}ev/v1/unknown/unknown/dead"
        async with linked(bench.port, client_id="bridge", clean_start=False) as link:
            Inbox(link, shared)
            Inbox(link, dead)
            await until(lambda: all(s.acknowledged for s in link._client.subscriptions), "the bridge")
        nodes = (raw("s", "source", ["t"]), raw("t", "transform", ["out"]), bench.broker(),
                 bench.out(needsSubscriber="true"), bench.dead(needsSubscriber="true"))  # fmt: skip
        lab = Lab(bench.engine(*nodes))
        await until(lambda: hasattr(lab["s"], "fail") and lab["b"].sender.connected.is_set(), "the start")

        def process(msgs: list[Msg]) -> list[Msg]:
            return [
                msg.derive(topic=bench.topic(1, "+" if msg.payload % 50 == 7 else "twin")) for msg in msgs
            ]

        lab["t"].process_ = process
        before = lab["b"].sender.reconnects
        await asyncio.to_thread(broker.restart)
        await until(lambda: lab["b"].sender.reconnects > before, "the reconnect", 20)
        fed = [lab.feed("s", *range(first, first + 50)) for first in range(0, 500, 50)]
        if subscription:
            await until(lambda: lab["b"].status()["without_subscriber"] > 500, "a second attempt", 20)
            assert not any(task.done() for task in fed)
            assert "nobody subscribes to" in lab.engine.circuit("out").reason
        else:
            await asyncio.wait(fed)
        link = MqttLink(MqttOptions(port=bench.port, client_id="bridge"))
        inbox, letters = Inbox(link, shared), Inbox(link, dead)
        await link.open()
        async with asyncio.timeout(60):
            await asyncio.gather(*fed)
        await inbox.have(490)
        await letters.have(10)
        seqs = list(dict.fromkeys(int(payload) for payload in inbox.payloads))
        assert seqs == [i for i in range(500) if i % 50 != 7], "first arrivals are complete and in order"
        assert lab["dead"].status()["dead_letters"] == 10
        assert await lab.end()
        await link.close()

    run(scenario)
