"""One flow in genuine Node-RED and in a gateway, fed with the same messages over real brokers: the same comes out."""

from __future__ import annotations

import asyncio
import json
import random
from collections import defaultdict
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from tests import servers
from tests.conftest import Use
from tests.flows import until
from tests.mqtt import Inbox, linked
from tests.node_red import NodeRed, Operator, flow_of, subscribed
from tests.programs import Agent
from voltflow.message import Msg
from voltflow.mqtt.link import Delivery, MqttLink

MESSAGES = 10_000
PACKS = 40
SLICE = 500
"""Messages that are published at once: what a broker has to queue stays far below its limits."""
END = "END"
PATHS = (
    "cold", "fine", "hot", "odd", "state", "string", "number", "boolean", "object", "array", "buffer", "null", "w-eq", "w-cont",
    "w-re", "w-num", "w-empty", "w-else",
)  # fmt: skip
"""The ways through the flow; each ends at topics `out/<path>/…`."""
Item = tuple[str, bytes]


def telemetry(rng: random.Random, pack: str, temp_c: Any) -> Item:
    payload = {
        "pack": pack, "v": round(rng.uniform(280, 400), 1), "pack_current_a": rng.choice([0, -12, 3.25, rng.uniform(-200, 200)]),
        "temp_c": temp_c, "driver": "Ann", "note": rng.choice(["12 km, stop & go", "stop, stop", "<b>3 km</b>", "", None, 7]),
        "cells": [{"v": round(rng.uniform(3, 4), 3)} for _ in range(rng.randrange(4))], "alarm": rng.random() < 0.3,
        "größe": "Ü☂😀",
    }  # fmt: skip
    for name in rng.sample(["driver", "note", "cells"], rng.randrange(3)):
        del payload[name]
    return f"pack/{pack}/telemetry", json.dumps(payload, ensure_ascii=rng.random() < 0.5).encode()


STATES: tuple[bytes, ...] = (
    b"open", b"closed", b'{"contactor": "open"}', b'{"contactor":"open"}', b"1", b'"1"', b"true", b"[1, 2]", b"[1,2]", b"null", b"0",
)  # fmt: skip
ANY: tuple[bytes, ...] = (
    b"plain text", b'"quoted"', b"12", b" 12 ", b"-0.5", b"1e3", b"-0", b"1.10", b"0.1e1", b"1.5e-7", b"[1e21]", b"true", b"null",
    b"{}", b"[]", b'{"a": {"b": [1, null]}}', b"[1, [2, {}]]", b'{"b":1,"a":2,"a":3}', b'{"__proto__": 1}', b"{not json", b"[1,]",
    b"01", b"", b" ", b"NaN", b"0x10", b"tru", b"tab\t", "Ü☂😀".encode(), "\ufeff{}".encode(), b"\xff\xfe\x00", b"a\x00b", b"\x7f",
)  # fmt: skip
"""What JavaScript cannot say is not among it: integers above 2^53 lose digits there, 1e400 is Infinity."""
TEXT: tuple[bytes, ...] = (
    b"ok", b"err 7", b"an error, err err", b"cycle 12", b"cycle x", b"100", b"99.5", b"250", b"1e3", b"", "Straße".encode(), b"OK", b"0150",
)  # fmt: skip


def inputs() -> list[Item]:
    """What is published, and at the end of each path a message that closes it."""
    rng = random.Random(20)
    names = [f"P{i:02d}" for i in range(PACKS)]
    temps_c = dict.fromkeys(names, 20.0)
    items: list[Item] = []
    while len(items) < MESSAGES:
        name, kind = rng.choice(names), rng.random()
        if kind < 0.6:
            temps_c[name] = round(temps_c[name] + rng.gauss(0, 3), 1) if rng.random() < 0.7 else temps_c[name]
            temp_c = temps_c[name] if rng.random() < 0.9 else rng.choice([None, "warm", "12", 80, -7.25])
            items.append(telemetry(rng, name, temp_c))
        elif kind < 0.8:
            items.append((f"pack/{name}/state", rng.choice(STATES)))
        elif kind < 0.9:
            items.append((f"any/{name}", rng.choice(ANY)))
        else:
            items.append((f"text/{name}", rng.choice(TEXT)))
    ends = [telemetry(rng, END, temp_c) for temp_c in (-1, 20, 60, "none")]
    ends += [(f"pack/{END}/state", b"end")]
    ends += [(f"any/{END}", payload) for payload in (b"end", b"1", b"true", b"{}", b"[]", b"\xff", b"null")]
    ends += [(f"text/{END}", payload) for payload in (b"ok", b"err", b"a 1", b"100", b"", b"end")]
    return items + ends


def canonical(payload: bytes) -> bytes:
    """JSON in one form, so that 400.0 and 400 are the same number; what is no JSON as it is."""
    try:
        value = json.loads(payload, parse_float=_number)
    except ValueError:
        return payload
    return json.dumps(value, sort_keys=True).encode()


def _number(text: str) -> int | float:
    value = float(text)
    return int(value) if value.is_integer() else value


class Outlet(Inbox):
    """What comes out, by topic."""

    def __init__(self, link: MqttLink) -> None:
        self.found: dict[str, list[bytes]] = defaultdict(list)
        super().__init__(link, "out/#")

    def _receive(self, msg: Msg, delivery: Delivery | None) -> None:
        self.found[msg.topic].append(canonical(msg.payload))
        super()._receive(msg, delivery)


def _subscriptions(link: MqttLink) -> Any:
    assert link._client is not None
    return link._client.subscriptions


def test_the_same_messages_come_out_of_node_red_and_of_a_gateway(own: Use[Any], tmp_path: Path) -> None:
    nodes, items = flow_of("same"), inputs()
    ends = {f"out/{path}/{END}" for path in PATHS}
    brokers = [own(servers.Mosquitto(log_type="subscribe")) for _ in range(2)]
    environments = [{"SAME_MQTT_PORT": str(broker.port)} for broker in brokers]
    agent = Agent(brokers[1], tmp_path / "state")
    agent.environment = environments[1]
    for program, broker in zip((NodeRed(environments[0]), agent), brokers, strict=True):
        own(program)
        with Operator(program) as operator:
            operator.deploy(nodes)
        subscribed(broker, nodes)

    async def outputs() -> list[dict[str, list[bytes]]]:
        async with AsyncExitStack() as stack:
            links = [await stack.enter_async_context(linked(broker.port)) for broker in brokers]
            outlets = [Outlet(link) for link in links]
            await until(lambda: all(_subscriptions(link)[0].acknowledged for link in links), "the watchers")
            for begin in range(0, len(items), SLICE):
                await asyncio.gather(*(link.publish_batch(items[begin : begin + SLICE]) for link in links))
            await until(
                lambda: all(ends <= outlet.found.keys() for outlet in outlets), "every path's end", 120
            )
            return [dict(outlet.found) for outlet in outlets]

    theirs, ours = asyncio.run(outputs())
    assert all(sum(topic.startswith(f"out/{path}/") for topic in theirs) > 1 for path in PATHS)
    different = sorted(topic for topic in {*theirs, *ours} if theirs.get(topic) != ours.get(topic))
    assert not different, {topic: (theirs.get(topic), ours.get(topic)) for topic in different[:3]}
    assert sum(map(len, ours.values())) > MESSAGES / 2
