"""What the dashboards are tested with and drawn from: the whole house with a past, troubles that really happen, Prometheus.

Two gateways, two brokers, a bridge to PostgreSQL (with the ledger) and one to TimescaleDB. Ten days of two simulated packs
go through the gateway: one of them falls below 80 % of its capacity and its insulation fails. A retrained model arrives,
the way to the cloud breaks until the spool gives up messages, garbage comes, a device loses numbers, a gateway ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import psycopg2

from edge.model import released_models
from grafana.answers import RunSql, Span
from sim_device import encode, faults
from sim_device.bms import Bms
from sim_device.options import Settings
from sim_device.run import Simulation
from tests import servers
from tests.mqtt import linked
from tests.programs import Agent, Bridge, device, finish
from voltflow import topics
from voltflow.message import now_ms

FLEET, WORN = "demo", "OLD000001"
DAYS, STEP_S = 10, 120.0
RULES = [servers.REPOSITORY / "grafana" / "prometheus" / name for name in ("recording.yml", "alerts.yml")]
PLAIN_FLOW = [
    {"id": "tab", "type": "tab", "label": "a flow that forgot its dead letters"},
    {"id": "local", "type": "mqtt-broker", "name": "local", "broker": "127.0.0.1", "port": "${VOLTFLOW_AGENT_BROKER_PORT}"},
    {"id": "in", "type": "mqtt in", "z": "tab", "topic": "plain/#", "qos": 1, "datatype": "buffer", "broker": "local", "wires": [["parse"]]},
    {"id": "parse", "type": "json", "z": "tab", "wires": [["out"]]},
    {"id": "out", "type": "mqtt out", "z": "tab", "topic": "parsed", "qos": 1, "broker": "local", "wires": []},
]  # fmt: skip


class Watcher(servers.Prometheus):
    """Prometheus with a job for gateways and one for bridges, as `grafana/prometheus/prometheus.yml` names them, and the rules."""

    def __init__(self, jobs: dict[str, Sequence[str]]) -> None:
        super().__init__()
        self.jobs = jobs

    def command(self) -> Sequence[str]:
        command = super().command()
        config = self.folder / "prometheus.yml"
        content = json.loads(config.read_text())
        content["scrape_configs"] = [
            {"job_name": name, "static_configs": [{"targets": list(targets)}]}
            for name, targets in self.jobs.items()
        ]
        content["global"]["evaluation_interval"] = "1s"
        content["rule_files"] = [str(path) for path in RULES]
        config.write_text(json.dumps(content))
        return command


class House:
    """See the module. After `live` nothing runs any more but Prometheus and the databases."""

    def __init__(self, folder: Path, history: str, timescale: str) -> None:
        self.folder, self.history, self.timescale = folder, history, timescale
        self.edge, self.cloud = servers.Mosquitto(), servers.Mosquitto()
        uplink = (
            "--uplink-host",
            "127.0.0.1",
            "--uplink-port",
            str(self.cloud.port),
            "--spool-max-mb",
            "1",
            "--spool-after-s",
            "4",
        )
        self.models = folder / "models"
        shutil.copytree(released_models(), self.models)
        flow = folder / "plain.json"
        flow.write_text(json.dumps(PLAIN_FLOW))
        self.gateway = Agent(
            self.edge, folder / "gw-1", *uplink, "--gateway", "gw-1", "--models-dir", str(self.models)
        )
        self.other = Agent(self.edge, folder / "gw-2", "--gateway", "gw-2", "--flow", str(flow))
        looks = (
            "--ledger-period-s",
            "1",
            "--repair-after-s",
            "1",
            "--repair-attempts",
            "1",
            "--name",
            "bridge-1",
        )
        self.bridge = Bridge(self.cloud, history, folder / "bridge-1", *looks)
        self.second = Bridge(
            self.cloud, timescale, folder / "bridge-2", "--ledger-period-s", "0", "--name", "bridge-2"
        )
        self.watcher = Watcher({
            "agent": [f"127.0.0.1:{agent.metrics_port}" for agent in (self.gateway, self.other)],
            "bridge": [f"127.0.0.1:{bridge.port}" for bridge in (self.bridge, self.second)],
        })  # fmt: skip
        self.live_span = self.past_span = Span(datetime.now(UTC), datetime.now(UTC))

    @property
    def instance(self) -> str:
        """The first gateway, as Prometheus names it."""
        return f"127.0.0.1:{self.gateway.metrics_port}"

    @property
    def other_instance(self) -> str:
        """The gateway with a flow of its own, which has ended."""
        return f"127.0.0.1:{self.other.metrics_port}"

    def stop(self) -> None:
        """All but Prometheus and the databases."""
        for part in (self.gateway, self.bridge, self.second, self.edge, self.cloud):
            part.stop()

    def rows(self) -> int:
        """Messages that are a row of the history."""
        return int(run_sql(self.history)("SELECT count(*) FROM telemetry")[1][0][0])

    def live(self, look: Callable[[], None], *, seconds: float, packs: int = 5) -> None:
        """All that happens; then, while the fleet lives, `look`."""
        started = datetime.now(UTC)
        past, half = self._past(), DAYS * 2 // 3
        self._publish(past[: self._at(half)])
        self._new_model()
        self._publish(past[self._at(half) :])
        self._outage()
        with device(
            self.edge,
            "run",
            "--fleet",
            FLEET,
            "--packs",
            "2",
            "--hz",
            "5",
            "--seconds",
            "2",
            "--prefix",
            "OFF",
        ) as gone:
            finish(gone)
        run = ("run", "--fleet", FLEET, "--packs", str(packs), "--hz", "5", "--speedup", "150")
        with device(self.edge, *run) as running:
            self._garbage()
            self._until(
                f'count_over_time(battery_voltage{{pack="SIM000000"}}[1h]) >= {seconds:.0f}',
                "live packs",
                60 + 3 * seconds,
            )
            self.other.stop()
            self._until('up{job="agent"} == 0', "the gateway that ended")
            end = datetime.now(UTC)
            self.live_span = Span(max(started, end - timedelta(minutes=5)), end)
            self.past_span = Span(end - timedelta(days=DAYS, hours=1), end + timedelta(hours=1))
            look()
            running.terminate()
            running.wait()

    def _past(self) -> list[tuple[str, bytes]]:
        """Topics and payloads of ten days of two packs."""
        start_s = now_ms() / 1000 - DAYS * 86400
        settings = Settings(packs=2, hz=1.0, speedup=STEP_S, prefix="OLD", gaps=False)
        simulation = Simulation(settings, start_s)
        plant, boot = simulation.plant, round(start_s * 1000)
        kinds, onset = np.array([0, faults.INSULATION]), np.full(2, start_s + 86400.0)
        plant.defects = faults.Faults(kinds, onset, onset + 4 * 86400.0, np.full(2, 1.2))
        aged = (
            plant.health.q_cal - plant.health.loss + np.array([0.1, 1 - 0.81 / plant.packs.capacity_scale[1]])
        )
        plant.health = replace(plant.health, q_cal=aged)
        plant._refresh_health()
        simulation.bms = Bms(plant, settings.seed, gaps=False)
        simulation.bms.soh = plant.capacity_ah / plant.packs.capacity_rated_ah
        found = [(f"ev/v1/{FLEET}/{state.pack}/state", msgspec.json.encode(state))
                 for state in encode.birth(simulation.packs, boot, boot)]  # fmt: skip
        for step in range(round(DAYS * 86400 / STEP_S)):
            reading, _ = simulation.advance(boot)
            found += [(topics.TELEMETRY.of(FLEET, pack), reading.encode(i, step, now_ms()))
                      for i, pack in enumerate(simulation.packs.id)]  # fmt: skip
            if step % 30 == 0:  # it ages 2 % in the ten days, which a real one does in a year
                worn = np.array([0.0, 0.02 / DAYS / 24])
                plant.health = replace(plant.health, q_cal=plant.health.q_cal + worn)
                plant._refresh_health()
                simulation.bms.soh = plant.capacity_ah / plant.packs.capacity_rated_ah
        return found

    def _at(self, days: float) -> int:
        """How many items of the past there are by then."""
        return 2 + 2 * round(days * 86400 / STEP_S)

    def _publish(self, items: list[tuple[str, bytes]], *, stored: bool = True) -> None:
        """To the devices' broker; `stored`: wait until each message is a row."""
        before = self.rows() if stored else 0

        async def publish() -> None:
            async with linked(self.edge.port) as link:
                for start in range(0, len(items), 500):
                    part = items[start : start + 500]
                    retained = [item for item in part if item[0].endswith("/state")]
                    for topic, payload in retained:
                        await link.publish(topic, payload, retain=True)
                    await link.publish_batch([item for item in part if item not in retained])

        asyncio.run(publish())
        count = sum(topic.endswith("/telemetry") for topic, _ in items)
        if stored:
            servers.wait_until(lambda: self.rows() >= before + count, f"{count} rows", 240, interval_s=0.2)

    def _new_model(self) -> None:
        """What a release brings: a model of another hash, with which the gateway starts again."""
        path = self.models / "temperature" / "model.onnx"
        model = onnx.load(path)
        model.doc_string = "retrained"
        onnx.save(model, path)
        self.gateway.restart()

    def _outage(self) -> None:
        """The cloud is away until the spool gives up messages and says so; then it gets the rest."""
        self.cloud.stop()
        boot = now_ms()
        simulation = Simulation(
            Settings(packs=20, hz=1.0, speedup=1.0, prefix="OUT", gaps=False), boot / 1000
        )
        readings = [simulation.advance(boot)[0] for _ in range(150)]
        states = encode.birth(simulation.packs, boot, boot)
        items = [(f"ev/v1/{FLEET}/{state.pack}/state", msgspec.json.encode(state)) for state in states]
        items += [(topics.TELEMETRY.of(FLEET, pack), reading.encode(i, seq, now_ms()))
                  for seq, reading in enumerate(readings) for i, pack in enumerate(simulation.packs.id)]  # fmt: skip
        self._publish(items, stored=False)
        lost = "voltflow_spool_lost_total > 0"
        servers.wait_until(
            lambda: self.watcher.query(lost), "messages that the spool gave up", 120, interval_s=0.2
        )
        self.cloud.start()
        found = "SELECT count(*) FROM loss"
        servers.wait_until(
            lambda: run_sql(self.history)(found)[1][0][0], "the declared losses", 120, interval_s=0.2
        )

    def _garbage(self) -> None:
        """Bytes nobody can read, an impossible value, a number twice, numbers that never come."""
        simulation = Simulation(Settings(packs=1, hz=1.0, prefix="BAD", gaps=False), now_ms() / 1000)
        boot = now_ms()
        readings = [simulation.advance(boot)[0].encode(0, seq, now_ms()) for seq in range(30)]
        impossible = msgspec.json.encode(
            {**msgspec.json.decode(readings[6]), "cell_temp_max_c": -40.0, "seq": 6}
        )
        twice = msgspec.json.encode({**msgspec.json.decode(readings[7]), "seq": 5})
        topic = topics.TELEMETRY.of(FLEET, "BAD000000")
        sent = [*readings[:6], impossible, *readings[12:], twice, readings[7]]
        self._publish([(topic, payload) for payload in sent], stored=False)
        unreadable = [(topic, b"\x00{"), (topic, impossible), ("plain/any", b"{")]
        counted = "sum(voltflow_dead_letters_total) + sum(voltflow_dropped_total)"
        for _ in range(3):  # with a scrape after each, so that there is a rate
            seen = self._value(counted)
            self._publish(unreadable, stored=False)
            servers.wait_until(
                lambda seen=seen: self._value(counted) > seen, "letters that are counted", 60, interval_s=0.2
            )
        for what in (
            'voltflow_repair_total{event="asked"}',
            'voltflow_ledger_messages{class="unexplained"} > 0',
        ):
            self._until(what, what)

    def _value(self, expression: str) -> float:
        found = self.watcher.query(expression)
        return float(found[0]["value"][1]) if found else 0.0

    def _until(self, expression: str, what: str, timeout_s: float = 60) -> None:
        servers.wait_until(lambda: self.watcher.query(expression), what, timeout_s, interval_s=0.2)


@contextlib.contextmanager
def housed(folder: Path, history: str, timescale: str) -> Iterator[House]:
    """The house, all of it running."""
    house = House(folder, history, timescale)
    with contextlib.ExitStack() as stack:
        stack.enter_context(house.watcher)
        for part in (house.edge, house.cloud, house.bridge, house.second, house.gateway, house.other):
            stack.enter_context(part)
        yield house


def run_sql(dsn: str, role: str = "") -> RunSql:
    """Runs queries as the role, each over a connection of its own."""

    def run(text: str) -> tuple[list[str], list[Sequence[Any]]]:
        with contextlib.closing(psycopg2.connect(dsn)) as connection, connection.cursor() as cursor:
            if role:
                cursor.execute(f"SET default_transaction_read_only = on; SET ROLE {role}")
            cursor.execute(text)
            return [column.name for column in cursor.description or []], list(cursor.fetchall())

    return run
