"""`mqtt latest` at a real mosquitto: the newest of each topic arrives, retained, whatever happened to the broker."""

from __future__ import annotations

import asyncio
import subprocess
from typing import Any

import pytest

from tests import servers
from tests.conftest import Use
from tests.flows import raw, running, until
from voltflow.flow.flow import Flow
from voltflow.message import Msg
from voltflow.node import SinkUnavailable, load_nodes

load_nodes("voltflow.nodes")


def retained(port: int, topic: str) -> dict[str, str]:
    """By topic, what a new subscriber gets at once."""
    command = [
        servers.program("mosquitto_sub", "mosquitto-clients"),
        "-p",
        str(port),
        "-t",
        topic,
        "-v",
        "-W",
        "1",
    ]
    said = subprocess.run(command, check=False, stdout=subprocess.PIPE, timeout=20, text=True).stdout
    return dict(line.split(" ", 1) for line in said.splitlines())  # type: ignore[misc]


def test_only_the_newest_state_of_each_device_is_published_when_the_broker_is_back(
    own: Use[servers.Mosquitto], tmp_path: Any
) -> None:
    broker = own(servers.Mosquitto())
    broker.stop()

    async def scenario() -> None:
        nodes = [
            raw("s", "source", ["k"]),
            {"id": "k", "type": "mqtt latest", "broker": "b", "wires": []},
            {"id": "b", "type": "mqtt-broker", "broker": "127.0.0.1", "port": broker.port},
        ]
        async with running(*nodes, state_dir=tmp_path) as lab:
            for i in range(100):
                msgs = [Msg(f"ev/v1/f/p{pack}/state", f"{i}".encode()) for pack in range(3)]
                await lab["s"].feed(msgs)  # returns although nobody is there
            assert lab["k"].status()["waiting"] <= 3
            await asyncio.to_thread(broker.start)
            await until(
                lambda: lab["k"].published >= 3 and not lab["k"].status()["waiting"], "the states", 30
            )
            found = await asyncio.to_thread(retained, broker.port, "ev/v1/f/+/state")
            assert found == {f"ev/v1/f/p{pack}/state": "99" for pack in range(3)}
            published = lab["k"].published
            assert published <= 6, "what was under way when the broker went, and the newest"
            await lab["s"].feed([Msg("ev/v1/f/p0/state", b"99"), Msg("ev/v1/f/p1/state", b"100")])
            await until(lambda: lab["k"].published > published, "the one that is new", 30)
            assert lab["k"].published == published + 1

    asyncio.run(scenario())


def latest(port: int, keepalive: int = 30) -> list[dict[str, Any]]:
    return [
        raw("s", "source", ["k"]),
        {"id": "k", "type": "mqtt latest", "broker": "b", "wires": []},
        {"id": "b", "type": "mqtt-broker", "broker": "127.0.0.1", "port": port, "keepalive": keepalive},
    ]


def state(pack: int, payload: bytes) -> Msg:
    return Msg(f"ev/v1/f/p{pack}/state", payload)


def test_a_deploy_hands_on_what_waits_for_the_broker(own: Use[servers.Mosquitto], tmp_path: Any) -> None:
    broker = own(servers.Mosquitto())
    broker.stop()

    async def scenario() -> None:
        async with running(*latest(broker.port), state_dir=tmp_path) as lab:
            await lab["s"].feed([state(pack, b"old") for pack in range(3)])
            await until(lambda: not lab["k"]._waiting, "all of it under way")
            await lab["s"].feed([state(0, b"new")])
            before = lab["k"]
            await lab.engine.deploy(Flow(latest(broker.port, 31)))
            assert lab["k"] is not before
            await lab["s"].feed([state(1, b"newest")])
            await asyncio.to_thread(broker.start)
            await until(
                lambda: lab["k"].published >= 3 and not lab["k"].status()["waiting"], "the states", 30
            )
            found = await asyncio.to_thread(retained, broker.port, "ev/v1/f/+/state")
            assert list(found.values()) == ["new", "newest", "old"]
            assert lab.engine.dropped == {}

    asyncio.run(scenario())


def test_what_a_newer_state_has_come_for_is_not_inherited(tmp_path: Any) -> None:
    async def scenario() -> None:
        async with running(*latest(1), state_dir=tmp_path) as lab:
            node = lab["k"]
            await lab["s"].feed([state(0, b"new")])
            node._last["ev/v1/f/p1/state"] = 7
            node.inherit({msg.topic: msg for msg in (state(0, b"old"), state(1, b"old"), state(2, b"old"))})
            waiting = {**node._sending, **node._waiting}
            assert [msg.payload for msg in waiting.values()] == [b"new", b"old"]

    asyncio.run(scenario())


def test_what_waits_in_a_node_that_is_removed_is_counted(
    caplog: pytest.LogCaptureFixture, tmp_path: Any
) -> None:
    async def scenario() -> None:
        async with running(*latest(1), state_dir=tmp_path) as lab:
            await lab["s"].feed([state(pack, b"x") for pack in range(3)])
            await lab.engine.deploy(Flow([raw("s", "source")]))
            assert lab.engine.dropped == {"removed_by_deploy": 3}
        assert (
            "mqtt latest:k: 3 messages that waited in it are dropped, a deploy has removed it"
            in caplog.messages
        )

    asyncio.run(scenario())


def test_a_broker_that_takes_a_state_later_gets_it_later(
    mosquitto: servers.Mosquitto, unique: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one whose quota is used up says."""

    async def scenario() -> None:
        async with running(*latest(mosquitto.port), state_dir=tmp_path) as lab:
            publisher = lab["k"]._publisher
            write, errors = publisher.write, [SinkUnavailable("quota exceeded")]

            async def later(msgs: list[Msg]) -> int:
                if errors:
                    raise errors.pop()
                count: int = await write(msgs)
                return count

            monkeypatch.setattr(publisher, "write", later)
            await lab["s"].feed([Msg(f"ev/v1/f/{unique}/state", b"1")])
            await until(lambda: lab["k"].published == 1, "the state", 30)

    asyncio.run(scenario())


def test_an_error_nobody_foresaw_costs_what_it_hit_only(
    mosquitto: servers.Mosquitto, unique: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        nodes = [
            raw("s", "source", ["k"]),
            {"id": "k", "type": "mqtt latest", "broker": "b", "wires": []},
            {"id": "b", "type": "mqtt-broker", "broker": "127.0.0.1", "port": mosquitto.port},
        ]
        async with running(*nodes, state_dir=tmp_path) as lab:
            publisher = lab["k"]._publisher
            write, errors = publisher.write, [RuntimeError("odd")]

            async def odd(msgs: list[Msg]) -> int:
                if errors:
                    raise errors.pop()
                count: int = await write(msgs)
                return count

            monkeypatch.setattr(publisher, "write", odd)
            await lab["s"].feed([Msg(f"ev/v1/f/{unique}/state", b"1")])
            await until(lambda: not errors, "the error")
            await lab["s"].feed([Msg(f"ev/v1/f/{unique}/state", b"2")])
            await until(lambda: lab["k"].published == 1, "the next one")

    asyncio.run(scenario())
