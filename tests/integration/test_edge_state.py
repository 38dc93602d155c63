"""The agent's state over restarts and kills, with real brokers: what follows is what an agent that never ended would say."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import msgspec
import paho.mqtt.client as paho
import pytest

from edge.snapshot import mark_after_crash, restore_twins
from tests import servers
from tests.programs import Agent
from tests.servers import wait_until
from tests.twins import Chain, reading
from voltflow.state import file as state_file
from voltflow.state.file import CLEAN_FILE, FILE
from voltflow.telemetry import Alert, TwinPrediction

PACK = "P0"
HOT_C, COOL_C = 47.0, 30.0  # above and below the limits of cell_temp_warning
DEFAULT_FLOW = servers.REPOSITORY / "edge" / "flows.json"


class Client:
    """A device on one broker and the cloud's ears on another."""

    def __init__(self, devices: servers.Mosquitto, uplink: servers.Mosquitto) -> None:
        self.alerts: list[Alert] = []
        self.twins: dict[int, TwinPrediction] = {}
        self._device, self._cloud = self._connect(devices.port), self._connect(uplink.port)
        self._cloud.on_message = self._on_message
        self._cloud.subscribe([(f"ev/v1/depot/+/{kind}", 1) for kind in ("alert", "twin")])

    @staticmethod
    def _connect(port: int) -> paho.Client:
        client = paho.Client(paho.CallbackAPIVersion.VERSION2)
        client.connect("127.0.0.1", port, keepalive=600)
        client.loop_start()
        return client

    def _on_message(self, client: object, userdata: object, message: paho.MQTTMessage) -> None:
        if message.topic.endswith("/alert"):
            self.alerts.append(msgspec.json.decode(message.payload, type=Alert))
        else:
            twin = msgspec.json.decode(message.payload, type=TwinPrediction)
            self.twins[twin.seq] = twin

    def birth(self) -> None:
        state = {"schema": "bms.state/1", "pack": PACK, "online": True, "chemistry": "NMC", "cells_series": 96,
                 "capacity_rated_ah": 150.0, "boot": 1}  # fmt: skip
        self._publish("state", state, retain=True)

    def publish(self, items: list[dict[str, Any]]) -> None:
        """Return when the devices' broker has all of them."""
        for item in items:
            self._publish("telemetry", item)

    def _publish(self, kind: str, item: dict[str, Any], *, retain: bool = False) -> None:
        info = self._device.publish(f"ev/v1/depot/{PACK}/{kind}", msgspec.json.encode(item), 1, retain)
        info.wait_for_publish(10)
        assert info.is_published()

    def close(self) -> None:
        for client in (self._device, self._cloud):
            client.loop_stop()
            client.disconnect()


class House:
    """Two brokers, an agent between them, a client at both ends. The agent's sinks have no spool: what the uplink has not
    confirmed stays unacknowledged at the devices' broker, and comes again."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        flow = json.loads(DEFAULT_FLOW.read_text())
        for node in flow:
            if "spool" in node:
                node["spool"] = False
        flow_file = folder / "flows.json"
        flow_file.write_text(json.dumps(flow))
        self.devices, self.uplink = servers.Mosquitto(), servers.Mosquitto()
        self.state_dir = folder / "agent"
        self._arguments = ("--flow", str(flow_file), *arguments)

    def __enter__(self) -> Self:
        self.devices.start()
        self.uplink.start()
        self.agent = Agent(
            self.devices, self.state_dir, "--uplink-host", "127.0.0.1", "--uplink-port", str(self.uplink.port),
            "--state-period-s", "3600", *self._arguments,
        )  # fmt: skip
        self.client = Client(self.devices, self.uplink)
        self.agent.start()
        self.client.birth()
        return self

    def __exit__(self, *_: object) -> None:
        self.uplink.resume()
        self.client.close()
        for server in (self.agent, self.uplink, self.devices):
            server.kill()

    def detailed(self) -> dict[str, Any]:
        answer: dict[str, Any] = self.agent.get(f"/api/battery/detailed?pack={PACK}")
        return answer

    def wait_for(self, messages: int) -> None:
        """Until the agent's twin has taken in so many."""
        wait_until(lambda: self.detailed()["messages"] >= messages, f"{messages} messages", 30)

    def wait_for_acknowledgements(self) -> None:
        def under_way() -> int:
            nodes = self.agent.get("/api/flow")["nodes"]
            return sum(node["status"].get("in_flow", 0) for node in nodes)

        wait_until(lambda: under_way() == 0, "everything to be acknowledged")

    def wait_for_twin(self, seq: int) -> None:
        """Until the cloud has the message."""
        wait_until(lambda: seq in self.client.twins, f"the twin message of {seq}", 30)

    def metric(self, name: str) -> float:
        lines = [line for line in self.agent.metrics().splitlines() if line.startswith(f"{name} ")]
        return float(lines[0].split(" ")[1])

    def wait_for_write(self) -> None:
        wait_until(lambda: self.metric("voltflow_state_writes_total") >= 1, "the state to be written", 30)


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with House(tmp_path) as house:
        yield house


def _items(first: int, last: int, temp_c: float = COOL_C) -> list[dict[str, Any]]:
    return [reading(PACK, seq, cell_temp_max_c=temp_c) for seq in range(first, last)]


def _uninterrupted(items: list[dict[str, Any]]) -> tuple[dict[int, TwinPrediction], list[Alert], Chain]:
    """What an agent says that never ended."""
    chain = Chain()
    chain.birth(PACK)
    return {twin.seq: twin for twin in chain.feed(items)}, chain.alerts, chain


def _said(twin: TwinPrediction) -> tuple[Any, ...]:
    """Without what depends on which messages made one batch: a prediction meets its actual in a later one."""
    values = {name: (p.value, p.reason) for name, p in twin.predictions.items()}
    return twin.seq, twin.late, twin.estimate, values


def _keys(alerts: list[Alert]) -> list[tuple[Any, ...]]:
    return [(alert.pack, alert.boot, alert.seq, alert.code, alert.state) for alert in alerts]


def test_a_clean_restart_changes_nothing_of_what_follows(house: House) -> None:
    items = [*_items(0, 90), *_items(90, 100, HOT_C), *_items(100, 150, HOT_C), *_items(150, 160)]
    house.client.publish(items[:100])
    house.wait_for_twin(99)
    house.agent.stop()
    assert house.agent.exit_code == 0
    assert [path.name for path in house.state_dir.glob("state*")] == [CLEAN_FILE]
    house.client.publish(items[100:120])  # what comes while it is away waits at the broker
    house.agent.start()
    assert "state of 1 packs from" in house.agent.log
    assert "s ago, clean" in house.agent.log
    assert [path.name for path in house.state_dir.glob("state*")] == [FILE], "a crash would be recognised"
    house.client.publish(items[120:])
    house.wait_for_twin(159)

    expected, alerts, chain = _uninterrupted(items)
    for seq, twin in expected.items():
        assert _said(house.client.twins[seq]) == _said(twin)
    wait_until(lambda: len(house.client.alerts) >= len(alerts), "the alerts")
    assert _keys(house.client.alerts) == _keys(alerts), "an alert that stands is not raised again"
    assert house.detailed()["messages"] == chain.store.packs[0].messages == 160


def test_after_a_kill_what_comes_again_is_applied_once(house: House) -> None:
    """The state was written while all that was acknowledged was in it, so nothing is missing and nothing is doubled: not
    the messages whose effect was in memory but not safe at the kill, nor the alert that was raised in them."""
    items = [*_items(0, 99), *_items(99, 110, HOT_C), *_items(110, 160)]
    house.client.publish(items[:100])  # the last one raises an alert, which is reason to write
    house.wait_for_write()
    house.uplink.pause()
    house.client.publish(items[100:120])  # the alert is cleared in these
    house.wait_for(120)
    assert house.detailed()["alerts"] == []
    assert house.metric("voltflow_state_writes_total") == 1, "what is not safe at the uplink is not written"
    house.agent.kill()
    house.uplink.resume()
    house.agent.start()
    assert "s ago, after a crash" in house.agent.log
    house.client.publish(items[120:])
    house.wait_for_twin(159)

    expected, alerts, chain = _uninterrupted(items)
    for seq, twin in expected.items():
        assert _said(house.client.twins[seq]) == _said(twin)
    last = house.detailed()
    assert last["messages"] == chain.store.packs[0].messages == 160
    assert last["late_messages"] == 0
    assert last["estimate"]["soc_pct"] == chain.store.packs[0].estimate.soc_pct
    wait_until(lambda: set(_keys(alerts)) <= set(_keys(house.client.alerts)), "the alerts")
    assert set(_keys(house.client.alerts)) == set(_keys(alerts)), "none is lost, none has a second key"


def test_after_a_kill_with_a_hole_predictions_warm_up_and_estimates_go_on(house: House) -> None:
    """What was acknowledged after the state was written is known to the cloud, but not to the next life of the agent."""
    items = [*_items(0, 99), *_items(99, 110, HOT_C), *_items(110, 260)]
    house.client.publish(items[:100])
    house.wait_for_write()
    house.client.publish(items[100:105])
    house.wait_for_twin(104)
    house.wait_for_acknowledgements()
    house.agent.kill()
    house.agent.start()
    assert house.detailed()["messages"] == 100
    house.client.publish(items[105:])
    house.wait_for_twin(259)

    first = 360 - house.detailed()["messages"]  # the last acknowledgement may be lost with the connection
    assert 100 < first <= 105
    twins = [house.client.twins[seq] for seq in range(105, 260)]
    made = {twin.seq: twin.predictions["temperature"] for twin in twins if "temperature" in twin.predictions}
    for seq, prediction in made.items():
        warming = (prediction.reason or "").startswith("warming: the last 15 min hold a hole")
        assert warming == (prediction.value is None) == (seq < first + 90), seq
    assert set(range(110, 260)) <= set(made), "a vector every 10 s"
    assert all(twin.estimate.soc_pct is not None and not twin.late for twin in twins)
    assert sorted(house.client.twins) == list(range(260)), "every message went on"
    failure = house.detailed()["predictions"]["failure"]
    assert "value" not in failure
    assert failure["reason"].startswith(
        "warming: the last 60 min hold a hole that a crash of the gateway left, until"
    )
    compared = house.agent.get(f"/api/battery/comparison?pack={PACK}")["comparisons"]["failure"]
    assert compared["reason"].startswith("no prediction: warming: ")


@pytest.mark.parametrize("kills", [1, 3])
def test_kills_in_the_middle_of_a_stream_apply_nothing_twice(tmp_path: Path, kills: int) -> None:
    """What the last life of the agent says is what follows, in one process, from the file it found and from the messages
    after that: none twice, none of those that it was sent left out."""
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    items: list[dict[str, Any]] = []
    enough = threading.Event()

    def publish() -> None:
        while not enough.is_set():
            seq = len(items)
            items.append(reading(PACK, seq, cell_temp_max_c=HOT_C if seq // 200 % 2 else COOL_C))
            house.client.publish(items[-1:])

    with House(tmp_path, "--state-period-s", "1") as house:
        stream = threading.Thread(target=publish, name="device of a test")
        stream.start()
        try:
            for _ in range(kills):
                house.wait_for_write()
                house.wait_for_twin(max(house.client.twins) + rng.randrange(200))
                house.agent.kill()
                found, clean = state_file.read(house.state_dir) or (None, None)
                assert clean is False
                house.agent.start()
            house.wait_for_twin(max(house.client.twins) + 200)
        finally:
            enough.set()
        stream.join(60)
        house.wait_for_twin(len(items) - 1)
        last = house.detailed()
        assert sorted(house.client.twins) == list(range(len(items))), "the cloud has them all"

        assert found is not None
        restored = Chain()
        restore_twins(restored.store, found.parts["twins"])
        mark_after_crash(restored.store)
        before = restored.store.packs[0]
        again = (
            last["late_messages"] - before.late
        )  # acknowledged by the agent, but the broker never heard of it
        applied = last["messages"] - before.messages - again
        for twin in restored.feed(items[-applied:]):
            assert _said(house.client.twins[twin.seq]) == _said(twin)
        assert last["estimate"]["soc_pct"] == before.estimate.soc_pct
        expected = set(_keys(restored.alerts))
        wait_until(lambda: expected <= set(_keys(house.client.alerts)), "the alerts of the last life")


def test_a_damaged_file_is_set_aside_and_the_agent_runs(house: House) -> None:
    house.client.publish(_items(0, 10))
    house.wait_for_twin(9)
    house.agent.stop()
    file = house.state_dir / CLEAN_FILE
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    house.agent.start()
    assert (
        f"'{file}' cannot be used: damaged: its checksum is wrong; set aside as {file.name}.damaged"
        in house.agent.log
    )
    assert file.with_name(f"{file.name}.damaged").read_bytes() == content
    house.client.publish(_items(10, 20))
    house.wait_for_twin(19)
    assert house.detailed()["messages"] == 10
