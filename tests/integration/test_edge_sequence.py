"""Missing, doubled and mixed-up messages at a real broker: what the agent asks for, marks, raises and passes on."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests import servers
from tests.flows import until
from tests.mqtt import Inbox, linked
from tests.programs import Agent
from voltflow.mqtt.link import MqttLink
from voltflow.telemetry import Alert, Downlink, ReplayCommand, TwinPrediction

Own = Callable[[AbstractContextManager[Any]], Any]
START_MS = 1_700_000_000_000
TELEMETRY, STATE, CMD = (f"ev/v1/depot/P1/{kind}" for kind in ("telemetry", "state", "cmd"))


def telemetry(seq: int, **changes: Any) -> tuple[str, bytes]:
    item = {
        "schema": "bms.telemetry/1", "pack": "P1", "boot": 1, "seq": seq, "ts_ms": START_MS + 60_000 * seq,
        "charging_state": "not_charging", "pack_voltage_v": 355.5, "pack_current_a": -75.0,
        "cell_voltage_avg_v": 3.7, "cell_temp_max_c": 25.0, **changes,
    }  # fmt: skip
    return TELEMETRY, json.dumps(item).encode()


def state(**changes: Any) -> bytes:
    nameplate = {"chemistry": "NMC", "cells_series": 96, "capacity_rated_ah": 150.0, "maker": "unknown to us"}
    return json.dumps(
        {"schema": "bms.state/1", "pack": "P1", "online": True, "boot": 1, **nameplate, **changes}
    ).encode()


class House:
    """What the devices' broker (`near`) and the one the agent publishes to (`far`) have been sent by the agent."""

    def __init__(self, near: MqttLink, far: MqttLink) -> None:
        self.device = near
        self.cmd = Inbox(near, CMD)
        self.twin = Inbox(far, "ev/v1/+/+/twin")
        self.alert = Inbox(far, "ev/v1/+/+/alert")
        self.dead = Inbox(far, "ev/v1/+/+/dead")

    async def send(self, items: Iterable[tuple[str, bytes]]) -> None:
        await self.device.publish_batch(list(items))

    async def twins(self, count: int) -> list[TwinPrediction]:
        return [msgspec.json.decode(data, type=TwinPrediction) for data in await self.twin.have(count)]

    def alerts(self) -> list[tuple[str, str]]:
        found = [msgspec.json.decode(data, type=Alert) for data in self.alert.payloads]
        return [(alert.code, alert.state) for alert in found]


@contextlib.asynccontextmanager
async def house(near: servers.Mosquitto, far: servers.Mosquitto) -> AsyncIterator[House]:
    async with linked(near.port) as at_near, linked(far.port) as at_far:
        built = House(at_near, at_far)
        for link in (at_near, at_far):
            await until(
                lambda link=link: all(s.acknowledged for s in link._client.subscriptions), "the watchers"
            )
        yield built


def metric(agent: Agent, name: str, event: str = "") -> float:
    label = f'{{event="{event}"}}' if event else ""
    lines = [line for line in agent.metrics().splitlines() if line.startswith(f"{name}{label} ")]
    assert len(lines) == 1, name
    return float(lines[0].split()[-1])


@pytest.fixture
def broker(own: Own) -> servers.Mosquitto:
    found: servers.Mosquitto = own(servers.Mosquitto())
    return found


def test_a_hole_is_asked_for_at_the_device_and_its_answer_closes_it(
    own: Own, broker: servers.Mosquitto, tmp_path: Path
) -> None:
    agent = own(Agent(broker, tmp_path))

    async def scenario() -> None:
        async with house(broker, broker) as at:
            await at.send(telemetry(seq) for seq in (0, 1, 5))
            await at.twins(3)
            assert metric(agent, "voltflow_sequence_holes_open") == 1
            live = 6
            while not at.cmd.msgs:  # a device goes on publishing; each message is an occasion to ask
                await at.send([telemetry(live)])
                live += 1
                await asyncio.sleep(0.2)
            command = msgspec.json.decode(at.cmd.payloads[0], type=ReplayCommand)
            assert command == ReplayCommand(1, 2, 4)
            await at.send(telemetry(seq, replay=True) for seq in range(command.from_, command.to + 1))
            twins = await at.twins(live)
            assert {item.seq for item in twins if item.late} == {2, 3, 4}
            assert sorted(item.seq for item in twins) == list(range(live)), "each once"
            await until(lambda: metric(agent, "voltflow_sequence_holes_open") == 0, "the closed hole")
            assert metric(agent, "voltflow_sequence_total", "filled") == 3
            assert metric(agent, "voltflow_sequence_total", "given_up") == 0
            assert at.alerts() == []

    asyncio.run(scenario())


def test_a_lost_end_is_asked_for_when_the_device_tells_how_much_it_has_published(
    own: Own, broker: servers.Mosquitto, tmp_path: Path
) -> None:
    own(Agent(broker, tmp_path))

    async def scenario() -> None:
        async with house(broker, broker) as at:
            await at.send([telemetry(0)])
            await at.twins(1)
            while not at.cmd.msgs:
                await at.device.publish(STATE, state(published=3), retain=True)
                await asyncio.sleep(0.2)
            assert msgspec.json.decode(at.cmd.payloads[0], type=ReplayCommand) == ReplayCommand(1, 1, 2)

    asyncio.run(scenario())


def test_what_comes_twice_is_not_counted_twice(own: Own, broker: servers.Mosquitto, tmp_path: Path) -> None:
    """An hour at a third of the capacity's current, with no voltage to correct by: the charge is what was counted."""
    agent = own(Agent(broker, tmp_path))

    async def scenario() -> None:
        async with house(broker, broker) as at:
            await at.device.publish(STATE, state(), retain=True)
            await until(lambda: agent.get("/api/packs")["total"] == 1, "the pack")
            blind: dict[str, Any] = {
                "pack_voltage_v": None,
                "cell_voltage_avg_v": None,
                "pack_current_a": -45.0,
            }
            readings = [telemetry(seq, **blind) for seq in range(60)]
            await at.send(readings)
            once = await at.twins(60)
            estimate = agent.get("/api/battery/detailed?pack=P1")["estimate"]
            assert once[0].estimate.soc_pct is not None
            assert estimate["soc_pct"] is not None
            assert estimate["soc_pct"] == pytest.approx(once[0].estimate.soc_pct - 30, abs=3)
            await at.send(readings)
            await at.send(readings[::-1])
            twins = await at.twins(180)
            assert all(item.late and item.estimate.soc_pct is None for item in twins[60:])
            assert agent.get("/api/battery/detailed?pack=P1")["estimate"] == estimate
            assert metric(agent, "voltflow_sequence_total", "duplicate") == 120
            await at.send([telemetry(60)])
            assert not (await at.twins(181))[180].late

    asyncio.run(scenario())


def test_two_devices_with_one_identity_are_an_alert_and_all_their_messages_pass(
    own: Own, broker: servers.Mosquitto, tmp_path: Path
) -> None:
    agent = own(Agent(broker, tmp_path))

    async def scenario() -> None:
        async with house(broker, broker) as at:
            for seq in range(5):
                await at.send([telemetry(seq, boot=1), telemetry(seq, boot=2)])
            twins = await at.twins(10)
            assert {(item.boot, item.seq) for item in twins} == {(b, s) for b in (1, 2) for s in range(5)}
            await at.alert.have(1)
            assert at.alerts() == [("identity_conflict", "raised")]
            assert [alert["code"] for alert in agent.get("/api/alerts")["alerts"]] == ["identity_conflict"]
            assert metric(agent, "voltflow_sequence_total", "identity_conflict") == 1
            await at.send([telemetry(seq, boot=2) for seq in range(5, 17)])  # a minute each
            await at.alert.have(2)
            assert at.alerts()[1:] == [("identity_conflict", "cleared")]
            assert agent.get("/api/alerts")["active"] == 0

    asyncio.run(scenario())


def test_between_two_brokers_states_go_up_retained_and_requests_come_down(
    own: Own, broker: servers.Mosquitto, tmp_path: Path
) -> None:
    far = own(servers.Mosquitto())
    agent = own(Agent(broker, tmp_path, "--uplink-host", "127.0.0.1", "--uplink-port", str(far.port)))

    async def scenario() -> None:
        async with house(broker, far) as at, linked(far.port) as cloud:
            birth = state(published=0)
            await at.device.publish(STATE, birth, retain=True)
            await until(lambda: agent.get("/api/packs")["total"] == 1, "the pack")
            async with linked(far.port) as late_comer:
                states = Inbox(late_comer, STATE)
                assert await states.have(1) == [birth], "as it came"
                assert states.msgs[0].props
                assert states.msgs[0].props.get("retain")
            request = msgspec.json.encode(ReplayCommand(1, 0, 9))
            down = "gw/v1/test/down"
            await cloud.publish(down, msgspec.json.encode(Downlink("gw.down/1", CMD, request)))
            assert await at.cmd.have(1) == [request]
            await cloud.publish(down, msgspec.json.encode(Downlink("gw.down/1", *telemetry(0))))
            assert (await at.twins(1))[0].seq == 0
            await cloud.publish(down, msgspec.json.encode(Downlink("gw.down/1", STATE, b"{}")))
            (dead,) = await at.dead.have(1)
            assert json.loads(dead)["node"] == "downlink"

    asyncio.run(scenario())
