"""What stands below the nodes of a broker, as Node-RED shows it, and what `status` nodes hear of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from tests import servers
from tests.editors import TAB, Socket, editing, inject_to_debug
from tests.flows import raw, running, until
from voltflow.flow.flow import Flow
from voltflow.mqtt.link import MqttLink
from voltflow.node import load_nodes

load_nodes("voltflow.nodes")
Own = Callable[[AbstractContextManager[servers.Mosquitto]], servers.Mosquitto]
NODES = ("in", "out", "latest", "dead")
CONNECTED = {"fill": "green", "shape": "dot", "text": "connected"}
CONNECTING = {"fill": "yellow", "shape": "ring", "text": "connecting"}
DISCONNECTED = {"fill": "red", "shape": "ring", "text": "disconnected"}


def flow(port: int, name: str, **broker: Any) -> list[dict[str, Any]]:
    return [
        {"id": "b", "type": "mqtt-broker", "port": port, "clientid": name, **broker},
        {"id": "in", "type": "mqtt in", "topic": f"{name}/in", "broker": "b", "wires": [["out"]]},
        {"id": "out", "type": "mqtt out", "topic": f"{name}/out", "broker": "b"},
        {"id": "latest", "type": "mqtt latest", "broker": "b"},
        {"id": "dead", "type": "dead letter", "broker": "b"},
        {"id": "status", "type": "status", "scope": ["in"], "wires": [["heard"]]},
        raw("heard", "sink"),
        raw("s", "source", ["latest"]),
    ]


def test_badges_follow_the_connection_and_status_nodes_hear_of_it(
    own: Own, unique: str, tmp_path: Path
) -> None:
    broker = own(servers.Mosquitto())

    async def scenario() -> None:
        async with running(*flow(broker.port, unique), state_dir=tmp_path) as lab:

            def heard() -> list[str]:
                return [(msg.props or {})["status"]["text"] for msg in lab["heard"].safe()]

            async def all_show(badge: dict[str, str]) -> None:
                await until(lambda: all(lab[id].badge == badge for id in NODES), f"all {badge['text']}", 30)

            await all_show(CONNECTED)
            await asyncio.to_thread(broker.stop)
            await all_show(CONNECTING)
            await asyncio.to_thread(broker.start)
            await all_show(CONNECTED)
            await until(lambda: heard()[-1:] == ["connected"], "the last")
            assert heard()[-5:] == ["connecting", "connected", "disconnected", "connecting", "connected"]
            await lab["b"].disconnect("asked to")
            await all_show(DISCONNECTED)

    asyncio.run(scenario())


def test_broker_that_is_never_there_is_being_connected_to(unique: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(*flow(servers.free_port(), unique), state_dir=tmp_path) as lab:
            await until(lambda: lab["b"].receiver.reconnects > 1, "several attempts", 60)
            assert [lab[id].badge for id in NODES] == [CONNECTING] * 4
            texts = [(msg.props or {})["status"]["text"] for msg in lab["heard"].safe()]
            assert texts.count("connecting") == 1, "attempts are not told one by one"

    asyncio.run(scenario())


def test_broker_that_connects_only_when_it_is_told_to_is_disconnected(unique: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(*flow(servers.free_port(), unique, autoConnect=False), state_dir=tmp_path) as lab:
            assert [lab[id].badge for id in NODES] == [DISCONNECTED] * 4

    asyncio.run(scenario())


def test_nodes_that_a_deploy_takes_away_hear_nothing_more(unique: str, tmp_path: Path) -> None:
    def watchers(link: MqttLink) -> int:
        return len(link.watchers)

    async def scenario() -> None:
        nodes = flow(servers.free_port(), unique)
        async with running(*nodes, state_dir=tmp_path) as lab:
            links = lab["b"].receiver, lab["b"].sender
            assert tuple(map(watchers, links)) == (1, 3)
            moved = [{**node, "topic": "other"} if node["id"] in ("in", "out") else node for node in nodes]
            await lab.engine.deploy(Flow([node for node in moved if node["id"] != "dead"]))
            assert (lab["b"].receiver, lab["b"].sender) == links, "the broker stays"
            assert tuple(map(watchers, links)) == (1, 2)

    asyncio.run(scenario())


def test_editor_shows_the_connection_and_what_flows(own: Own, unique: str, tmp_path: Path) -> None:
    broker = own(servers.Mosquitto())
    press = {**inject_to_debug("hello")[1], "topic": "t", "wires": [["out"]]}
    out = {"id": "out", "type": "mqtt out", "z": "tab", "broker": "b", "x": 300, "y": 40, "wires": []}
    nodes = [TAB, {"id": "b", "type": "mqtt-broker", "port": broker.port, "clientid": unique}, press, out]
    with editing(tmp_path, nodes) as gateway, Socket(gateway.url) as socket:
        socket.send(subscribe="status/#")
        socket.until("status/out", **CONNECTED)
        assert gateway.ask("POST", "/inject/press").status == 200
        while not (told := socket.until("status/out", fill="green", shape="dot"))["text"].endswith("/s"):
            pass
        assert told["text"].startswith("connected, ")
