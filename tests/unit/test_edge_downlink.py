"""The `downlink` node: what the cloud may have published at the devices' broker, and when it has to wait."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import msgspec
import pytest

from edge.agent import load_flow
from edge.nodes.downlink import Downlink
from edge.settings import AgentSettings
from voltflow import topics
from voltflow.engine.network_sink import NetworkSink
from voltflow.engine.sink_queue import NodeStats
from voltflow.engine.store_forward import SpoolingQueue, SpoolRegistry
from voltflow.message import Msg
from voltflow.node import Context, Sink, node
from voltflow.spool.spool import Record, Spool, SpoolOptions
from voltflow.telemetry import Downlink as DownlinkMessage
from voltflow.telemetry import ReplayCommand

CMD = topics.CMD.of("depot", "P1")
TELEMETRY = topics.TELEMETRY.of("depot", "P1")


@node("test away sink", category="test")
class Away(NetworkSink):
    """Never gets rid of anything."""

    async def write(self, msgs: list[Msg]) -> None:
        await asyncio.get_running_loop().create_future()


def _down(topic: str, payload: bytes) -> Msg:
    return Msg("gw/v1/gw1/down", msgspec.json.encode(DownlinkMessage("gw.down/1", topic, payload)))


def _started(spools: SpoolRegistry | None = None) -> Downlink:
    built = Downlink()
    services: dict[type, object] = {} if spools is None else {SpoolRegistry: spools}
    asyncio.run(built.start(Context({}, services, "gw1", "rev", Path())))
    return built


def test_the_inner_message_goes_on_as_it_is() -> None:
    request = msgspec.json.encode(ReplayCommand(7, 1, 5))
    passed = _started().process([_down(CMD, request), _down(TELEMETRY, b"\xff any bytes")])
    assert [(msg.topic, msg.payload) for msg in passed] == [(CMD, request), (TELEMETRY, b"\xff any bytes")]
    assert json.loads(request) == {"cmd": "replay", "boot": 7, "from": 1, "to": 5}


@pytest.mark.parametrize(
    "topic", [topics.STATE.of("f", "p"), topics.TWIN.of("f", "p"), "gw/v1/gw2/down", "ev/v1/f/+/cmd", "$SYS/x", ""]
)  # fmt: skip
def test_nothing_else_gets_to_the_devices(topic: str) -> None:
    with pytest.raises(ValueError, match="is not the cmd or telemetry of a pack"):
        _started().process([_down(topic, b"")])


@pytest.mark.parametrize("data", [b"", b"{}", b'{"schema":"gw.down/2","topic":"","payload":""}'])
def test_what_is_no_downlink_message_fails(data: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        _started().process([Msg("gw/v1/gw1/down", data)])


def test_requests_wait_while_this_gateways_spool_has_what_the_cloud_misses(tmp_path: Path) -> None:
    async def scenario() -> None:
        spool = Spool(SpoolOptions(tmp_path, 10**6, 3600.0, 10**6))
        queue = SpoolingQueue(Away(), NodeStats(), _refuse, spool)
        built = Downlink()
        await built.start(Context({}, {SpoolRegistry: SpoolRegistry([queue])}, "gw1", "rev", tmp_path))
        await spool.open()
        both = [_down(CMD, b"{}"), _down(TELEMETRY, b"{}")]
        assert len(built.process(both)) == 2
        await spool.append([Record("ev/v1/depot/P1/twin", b"{}")])
        assert [msg.topic for msg in built.process(both)] == [TELEMETRY]
        chunk = await spool.read()
        assert chunk is not None
        await spool.delivered(chunk)
        assert len(built.process(both)) == 2
        assert built.status() == {"passed": 5, "held_back": 1, "retained": 0}
        await spool.close()

    asyncio.run(scenario())


async def _refuse(_: Sink, refused: list[tuple[Msg, str]]) -> None:
    raise AssertionError(refused)


@pytest.mark.parametrize(("uplink", "forwarded"), [("", False), ("mqtt.example.org", True)])
def test_states_are_forwarded_only_to_another_broker(uplink: str, forwarded: bool) -> None:
    flow, env = load_flow(AgentSettings(gateway="gw1", uplink_host=uplink))
    built = flow.build(env)
    assert ("states" in built) == forwarded
    assert ("states" in built["validate"].targets[1]) == forwarded
    assert "sequence" in built["validate"].targets[1]
    assert env["VOLTFLOW_AGENT_DOWN_TOPIC"] == "gw/v1/gw1/down"


def test_what_the_broker_had_retained_is_not_done_again_with_each_connection() -> None:
    downlink = _started()
    fresh = _down(CMD, b"{}")
    kept = Msg(fresh.topic, fresh.payload, props={"retain": True})
    assert len(downlink.process([kept, fresh])) == 1
    assert downlink.status() == {"passed": 1, "held_back": 0, "retained": 1}
