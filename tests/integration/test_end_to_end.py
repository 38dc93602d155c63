"""The spine: recorded months of three vehicles from MQTT through agent and bridge into rows of a real database."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from kafka import KafkaConsumer

from tests import servers
from tests.programs import SHARED_DATA, Agent, Bridge, device, finish
from voltflow.ledger.ledger import load_expected, verify

MONTH = SHARED_DATA / "field_month"
VEHICLES = ("V01", "V08", "V09")
needs_month = pytest.mark.skipif(not MONTH.is_dir(), reason=f"the recorded vehicle months are not in {MONTH}")
ARRIVE_S = 120.0
MONTH_IN_130_S = "20000"


@dataclass
class House:
    """Broker, agent, bridge and database of one test."""

    broker: servers.Mosquitto
    agent: Agent
    bridge: Bridge
    dsn: str

    def ask(self, query: str) -> list[tuple[Any, ...]]:
        with closing(psycopg2.connect(self.dsn)) as connection, connection.cursor() as cursor:
            cursor.execute(query)
            return cursor.fetchall()

    def rows(self) -> int:
        return int(self.ask("SELECT count(*) FROM telemetry")[0][0])

    def wait_for_rows(self, wanted: int) -> None:
        servers.wait_until(lambda: self.rows() >= wanted, f"{wanted} rows", ARRIVE_S, interval_s=0.2)


@pytest.fixture
def house(tmp_path: Path, database: str) -> Iterator[House]:
    with (
        servers.Mosquitto() as broker,
        Bridge(broker, database, tmp_path / "bridge") as bridge,
        Agent(broker, tmp_path / "agent") as agent,
    ):
        yield House(broker, agent, bridge, database)


@needs_month
@pytest.mark.timeout(600)
def test_a_real_month_arrives_message_by_message_and_nothing_impossible_is_believed(
    house: House, tmp_path: Path
) -> None:
    files = [MONTH / f"{name}.csv" for name in VEHICLES]
    total = sum(map(_lines, files))
    rss_mb: list[float] = []
    with device(house.broker, "replay", "--speedup", "0", *map(str, files)) as publishing:
        while house.rows() < total:
            rss_mb.append(house.agent.rss_mb)
            goal = min(house.rows() + total // 20, total)
            servers.wait_until(
                lambda goal=goal: house.rows() >= goal, f"{goal} rows", ARRIVE_S, interval_s=0.2
            )
        summary = finish(publishing)

    assert house.rows() == summary["confirmed"] == total
    per_pack = dict(house.ask("SELECT pack, count(DISTINCT seq) FROM telemetry GROUP BY pack"))
    assert per_pack == {file.stem: _lines(file) for file in files}
    assert house.ask("SELECT count(*) FROM dead_letter") == [(0,)]
    expected = tmp_path / "sim.json"
    expected.write_text(json.dumps(summary))
    report = verify(house.dsn, load_expected(expected))
    assert report.missing == report.duplicates == 0

    _nothing_impossible_is_stored(house, files)
    predictions = house.ask(
        "SELECT count(temperature_predicted_c), count(*) FILTER (WHERE temperature_predicted_c IS NOT NULL"
        " AND cell_temp_max_c IS NULL) FROM telemetry"
    )[0]
    assert predictions[0] > 0, "temperatures are predicted from real telemetry"
    assert predictions[1] == 0, "none is predicted from a temperature that was invalid"

    _the_agent_tells_of_the_last_message(house)

    half = len(rss_mb) // 2
    assert max(rss_mb[half:]) < 1.15 * max(rss_mb[: half + 1]), f"memory stays flat: {rss_mb}"
    print(
        f"agent: {house.agent.rss_mb:.0f} MB, bridge: {house.bridge.rss_mb:.0f} MB, rows {summary['confirmed']}"
    )


def _the_agent_tells_of_the_last_message(house: House) -> None:
    """The endpoints and the metrics have real values of a real vehicle."""
    assert house.agent.get("/api/health")["status"] == "ok"
    status = house.agent.get("/api/battery/status?pack=V01")
    assert (
        status["soc_pct"]
        == house.ask("SELECT soc_pct FROM telemetry WHERE pack = 'V01' ORDER BY seq DESC LIMIT 1")[0][0]
    )
    assert house.agent.get("/api/battery/detailed?pack=V01")["estimate"]["soc_pct"] is not None
    compared = house.agent.get("/api/battery/comparison?pack=V01")["comparisons"]
    assert compared["temperature"]["actual"] is not None
    assert compared["rul"]["actual"] is None
    assert compared["rul"]["reason"]
    assert len(house.agent.get("/api/battery/history?pack=V01")["points"]) > 100
    metrics = house.agent.metrics()
    assert servers.promtool_check_metrics(metrics) == ""
    assert 'battery_temp_predicted{fleet="demo",pack="V01"}' in metrics


def _nothing_impossible_is_stored(house: House, files: list[Path]) -> None:
    """Each impossible raw value is null and named; each possible one of the same column is there."""
    impossible: dict[str, int] = {}
    checks = {
        "cell_voltage_max_v": ("cell_voltage_max_V", lambda value: not 0.5 < value < 5.0),
        "cell_voltage_min_v": ("cell_voltage_min_V", lambda value: not 0.5 < value < 5.0),
        "cell_temp_max_c": ("cell_temp_max_C", lambda value: value in (-40.0, 254.0, 255.0)),
        "cell_temp_min_c": ("cell_temp_min_C", lambda value: value in (-40.0, 254.0, 255.0)),
        "pack_voltage_v": ("pack_voltage_V", lambda value: value > 1000.0),
    }
    for file in files:
        with file.open() as lines:
            for row in csv.DictReader(lines):
                for field, (column, is_impossible) in checks.items():
                    if row[column] and is_impossible(float(row[column])):
                        impossible[field] = impossible.get(field, 0) + 1
    assert set(impossible) == set(checks), "the recorded months hold every kind of impossible value"
    for field, count in impossible.items():
        named, believed = house.ask(
            f"SELECT count(*) FILTER (WHERE '{field}' = ANY(invalid)),"
            f" count(*) FILTER (WHERE '{field}' = ANY(invalid) AND {field} IS NOT NULL) FROM telemetry"
        )[0]
        assert named >= count, f"{field}: {count} impossible values, {named} named"
        assert believed == 0
    lows = house.ask(
        "SELECT min(cell_voltage_min_v) > 0.5, max(cell_voltage_max_v) < 5.0, min(cell_temp_min_c) > -40,"
        " max(cell_temp_max_c) < 200, max(pack_voltage_v) <= 1000 FROM telemetry"
    )
    assert lows == [(True, True, True, True, True)]


def _lines(file: Path) -> int:
    with file.open("rb") as lines:
        return sum(1 for _ in lines) - 1


@needs_month
@pytest.mark.timeout(600)
def test_ten_kills_of_agent_and_bridge_leave_one_row_a_message(house: House, tmp_path: Path) -> None:
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    files = [MONTH / "V08.csv", MONTH / "V09.csv"]
    total = sum(map(_lines, files))
    victims = [house.agent, house.bridge] * 10
    rng.shuffle(victims)
    with device(house.broker, "replay", "--speedup", MONTH_IN_130_S, *map(str, files)) as publishing:
        for kill, victim in enumerate(victims):
            goal = house.rows() + rng.randrange(1500)
            servers.wait_until(lambda goal=goal: house.rows() > goal, "progress", ARRIVE_S)
            assert publishing.poll() is None, f"kill {kill} is in the middle of the work"
            victim.kill()
            victim.start()
        summary = finish(publishing)
    house.wait_for_rows(total)

    assert house.rows() == summary["confirmed"] == total
    expected = tmp_path / "sim.json"
    expected.write_text(json.dumps(summary))
    report = verify(house.dsn, load_expected(expected))
    assert (report.missing, report.duplicates) == (0, 0)
    assert house.ask("SELECT count(*) FROM (SELECT DISTINCT pack, boot, seq FROM telemetry) AS keys") == [
        (total,)
    ]


@pytest.mark.timeout(120)
def test_a_clean_stop_of_the_agent_leaves_nothing_unacknowledged(house: House) -> None:
    """SIGTERM under load: exit 0 within the grace period, and after the next start nothing is missing or doubled."""
    with device(house.broker, "run", "--packs", "50", "--hz", "10", "--seconds", "8") as publishing:
        servers.wait_until(lambda: house.rows() > 500, "rows", ARRIVE_S)
        house.agent.stop()
        assert house.agent.exit_code == 0
        house.agent.start()
        house.bridge.stop()
        assert house.bridge.exit_code == 0
        house.bridge.start()
        summary = finish(publishing)
    house.wait_for_rows(summary["confirmed"])
    assert house.rows() == summary["confirmed"]


@pytest.mark.timeout(180)
def test_every_sink_has_the_same_messages(
    mosquitto: servers.Mosquitto,
    timescale: servers.Timescale,
    kafka: servers.Kafka,
    victoria: servers.Victoria,
    unique: str,
    tmp_path: Path,
) -> None:
    """TimescaleDB, the Kafka protocol and Influx line protocol, fed by one bridge: a row, a record and a point each."""
    sinks = ["--kafka-bootstrap", kafka.bootstrap, "--influx-url", victoria.url]
    with (
        Bridge(mosquitto, timescale.dsn, tmp_path / "bridge", "--name", unique, *sinks) as bridge,
        Agent(mosquitto, tmp_path / "agent"),
    ):
        with device(
            mosquitto, "run", "--fleet", unique, "--packs", "5", "--hz", "10", "--seconds", "5"
        ) as publishing:
            summary = finish(publishing)
        servers.wait_until(lambda: _stored(bridge) >= summary["confirmed"], "the rows", ARRIVE_S)
        bridge.stop()  # TimescaleDB here takes one connection at a time
    with closing(psycopg2.connect(timescale.dsn)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT pack, boot, seq FROM telemetry WHERE fleet = %s", (unique,))
        rows = {(pack, int(boot), int(seq)) for pack, boot, seq in cursor.fetchall()}
        cursor.execute(
            "SELECT count(*) FROM timescaledb_information.hypertables WHERE hypertable_name = 'telemetry'"
        )
        assert cursor.fetchone() == (1,)
    published = {
        (pack, counts["boot"], seq)
        for pack, counts in summary["packs"].items()
        for seq in range(counts["confirmed"])
    }
    assert rows == published
    assert _in_kafka(kafka, unique) == published
    assert _in_influx(victoria, unique) == {(pack, seq) for pack, _, seq in published}


def _stored(bridge: Bridge) -> float:
    """New rows of telemetry by the bridge's own count."""
    lines = [line for line in bridge.metrics().splitlines() if line.startswith("voltflow_rows_total")]
    return sum(float(line.split()[-1]) for line in lines if 'table="telemetry"' in line)


def _in_kafka(kafka: servers.Kafka, fleet: str) -> set[tuple[str, int, int]]:
    consumer = KafkaConsumer(
        "ev.twin", bootstrap_servers=kafka.bootstrap, auto_offset_reset="earliest", consumer_timeout_ms=3000
    )
    with closing(consumer):
        headers = [{name: value.decode() for name, value in record.headers} for record in consumer]
    return {(h["pack"], int(h["boot"]), int(h["seq"])) for h in headers if h["fleet"] == fleet}


def _in_influx(victoria: servers.Victoria, fleet: str) -> set[tuple[str, int]]:
    series = victoria.export(f'telemetry_seq{{fleet="{fleet}"}}')
    return {(item["metric"]["pack"], int(seq)) for item in series for seq in item["values"]}
