"""`mqtt out` with a spool on a real mosquitto."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests import servers
from tests.flows import Lab, raw, until
from tests.mqtt import Inbox, cut, linked, reconnected
from voltflow.engine.engine import Engine
from voltflow.flow.flow import Flow
from voltflow.message import Msg
from voltflow.node import load_nodes

load_nodes("voltflow.nodes")


@pytest.mark.parametrize("spool", ["true", "false"])
def test_batches_that_nobody_hears_are_not_remembered_beyond_their_end(
    mosquitto: servers.Mosquitto, unique: str, tmp_path: Path, spool: str
) -> None:
    """With a spool they are not written again by the same call, so that what was noted of them would stay for ever."""

    async def scenario() -> None:
        broker = {"id": "b", "type": "mqtt-broker", "port": mosquitto.port, "clientid": unique}
        out = {"id": "out", "type": "mqtt out", "topic": unique, "broker": "b", "needsSubscriber": True,
               "spool": spool}  # fmt: skip
        engine = Engine(Flow([raw("s", "source", ["out"]), broker, out]), env={}, state_dir=tmp_path)
        lab = Lab(engine)
        await until(lambda: hasattr(lab["s"], "fail") and lab["b"].sender.connected.is_set(), "the start")
        fed = [lab.feed("s", str(i)) for i in range(20)]
        await until(lambda: not engine.circuit("out").closed, "an open circuit")
        async with linked(mosquitto.port, client_id=f"{unique}-in") as link:
            inbox = Inbox(link, unique)
            await asyncio.wait_for(asyncio.gather(*fed), 30)
            await inbox.have(20)
            await until(lambda: not engine.spools.backlog_messages, "an empty spool")
            assert lab["out"]._publisher._unfinished == {}
        assert await lab.end()

    asyncio.run(scenario())


@pytest.mark.parametrize("patient", [True, False])
def test_what_nobody_hears_after_a_reconnect_waits_only_where_it_shall(
    mosquitto: servers.Mosquitto, unique: str, tmp_path: Path, patient: bool
) -> None:
    """A request to a device that takes none must not hold up the readings that came with it."""

    async def scenario() -> None:
        broker = {"id": "b", "type": "mqtt-broker", "port": mosquitto.port, "clientid": unique}
        out = {"id": "out", "type": "mqtt out", "broker": "b", "patient": patient}
        lab = Lab(Engine(Flow([raw("s", "source", ["out"]), broker, out]), env={}, state_dir=tmp_path))
        await until(lambda: hasattr(lab["s"], "fail") and lab["b"].sender.connected.is_set(), "the start")
        async with linked(mosquitto.port, client_id=f"{unique}-in") as link:
            heard = Inbox(link, f"{unique}/heard")
            async with asyncio.timeout(20):
                while not heard.msgs:  # until the subscription stands
                    await lab["s"].feed([Msg(f"{unique}/heard", b"1")])
            before = lab["b"].sender.reconnects
            cut(lab["b"].sender)
            await reconnected(lab["b"].sender, before)
            fed = lab["s"].feed([Msg(f"{unique}/nobody", b"2")])
            if patient:
                await until(lambda: "nobody" in lab.engine.circuit("out").reason, "it is held")
                assert not fed.done()
                Inbox(link, f"{unique}/nobody")
            await asyncio.wait_for(fed, 10)
        assert await lab.end()

    asyncio.run(scenario())
