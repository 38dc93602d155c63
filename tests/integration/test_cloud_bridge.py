"""The whole bridge as a program: MQTT in, PostgreSQL and Kafka out, nothing lost, nothing doubled."""

import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest

from tests import servers
from tests.cloud_samples import dead, query, state, twin
from tests.servers import wait_until
from voltflow.ledger.ledger import verify
from voltflow.message import Msg


class Bridge:
    """`cloud-bridge run` as a process."""

    def __init__(self, folder: Path, broker: servers.Mosquitto, database: str, **more: str) -> None:
        self.metrics_port = servers.free_port()
        self.log = folder / "bridge.log"
        settings = {"MQTT_PORT": broker.port, "DATABASE": database, "NAME": "test", "STATE_DIR": folder / "state",
                    "METRICS_PORT": self.metrics_port, **more}  # fmt: skip
        self.env = {
            **os.environ,
            **{f"VOLTFLOW_BRIDGE_{name}": str(value) for name, value in settings.items()},
        }
        self.process = self.start()

    def start(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            command = [sys.executable, "-m", "cloud.cli", "run"]
            self.process = subprocess.Popen(
                command, env=self.env, stdout=log, stderr=log, cwd=servers.REPOSITORY
            )
        return self.process

    def metrics(self) -> str:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=5) as answer:
                return str(answer.read().decode())
        except (OSError, urllib.error.URLError):
            return ""

    def subscribed(self) -> bool:
        return (
            "connected to 127.0.0.1" in self.log.read_text() and "voltflow_messages_total" in self.metrics()
        )

    def ready(self) -> bool:
        return self.subscribed() and "the schema is up to date" in self.log.read_text()

    def end(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


def publish(port: int, msgs: list[Msg], *, retain: bool = False) -> None:
    client = paho.Client(paho.CallbackAPIVersion.VERSION2)
    client.connect("127.0.0.1", port)
    client.loop_start()
    for info in [client.publish(msg.topic, msg.payload, qos=1, retain=retain) for msg in msgs]:
        info.wait_for_publish(30)
    client.disconnect()
    client.loop_stop()


def answer(port: int, **headers: str) -> tuple[int, str]:
    """Status and body of /metrics."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}/metrics", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=5) as got:
            return got.status, got.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


@pytest.fixture
def broker(own: Any) -> servers.Mosquitto:
    return own(servers.Mosquitto(max_queued_messages="0"))  # type: ignore[no-any-return]


def rows(database: str) -> int:
    return int(query(database, "SELECT count(*) AS n FROM telemetry")[0]["n"])


def test_run_stores_every_message_once_over_kills(
    broker: servers.Mosquitto, database: str, tmp_path: Path
) -> None:
    bridge = Bridge(tmp_path, broker, database)
    try:
        wait_until(bridge.ready, "the bridge", 20)
        for part in range(4):
            publish(broker.port, [twin(seq) for seq in range(part * 500, part * 500 + 500)])
            bridge.kill()
            bridge.start()
        wait_until(lambda: rows(database) == 2000, "all rows", 30)
        assert verify(database).ok
        assert bridge.end() == 0
    finally:
        bridge.kill()


def test_run_refused_rows_become_dead_letters_and_metrics_are_sound(
    broker: servers.Mosquitto, database: str, tmp_path: Path
) -> None:
    publish(broker.port, [state(boot=7, chemistry="LFP")], retain=True)
    bridge = Bridge(tmp_path, broker, database)
    try:
        wait_until(bridge.ready, "the bridge", 20)
        publish(
            broker.port, [twin(0), twin(1, balancing_cells=2**40), Msg(twin(2).topic, b"{"), twin(3), dead()]
        )
        letters = "SELECT error FROM dead_letter ORDER BY error"
        wait_until(lambda: len(query(database, letters)) == 3, "the dead letters in the history", 20)
        assert rows(database) == 2
        assert query(database, "SELECT chemistry FROM pack") == [{"chemistry": "LFP"}]
        text = bridge.metrics()
        assert servers.promtool_check_metrics(text) == ""
        assert 'voltflow_rows_total{node="history",table="telemetry"} 2.0' in text
        assert 'voltflow_latency_seconds_count{node="history"} 2.0' in text
        lag = re.search(r'^voltflow_lag_seconds\{node="history"\} (\S+)$', text, re.MULTILINE)
        assert lag is not None
        assert 0 <= float(lag[1]) < 600
        assert bridge.end() == 0
    finally:
        bridge.kill()


def test_run_waits_for_a_database_that_is_away_at_the_start(
    broker: servers.Mosquitto, own: Any, tmp_path: Path
) -> None:
    server = own(servers.Postgres())
    database = server.dsn
    server.stop()
    bridge = Bridge(tmp_path, broker, database)
    try:
        wait_until(bridge.subscribed, "the bridge", 20)
        publish(broker.port, [twin(seq) for seq in range(100)])
        wait_until(
            lambda: 'voltflow_sink_up{node="history",type="timescale out"} 0.0' in bridge.metrics(),
            "the metric",
        )
        assert "not available" in bridge.log.read_text()
        server.start()
        wait_until(
            lambda: bridge.process.poll() is None and "available again" in bridge.log.read_text(),
            "recovery",
            40,
        )
        wait_until(lambda: rows(database) == 100, "the rows", 20)
        assert bridge.end() == 0
    finally:
        bridge.kill()


def test_run_taken_metrics_port_is_a_clear_error(
    database: str, tmp_path: Path, broker: servers.Mosquitto
) -> None:
    bridge = Bridge(tmp_path, broker, database, METRICS_PORT=str(broker.port))
    assert bridge.process.wait(20) == 2
    assert f"metrics_port = {broker.port} cannot be opened: Address already in use" in bridge.log.read_text()


def test_run_metrics_beyond_this_machine_need_a_token(
    broker: servers.Mosquitto, database: str, tmp_path: Path
) -> None:
    bridge = Bridge(tmp_path, broker, database, METRICS_HOST="0.0.0.0")
    assert bridge.process.wait(20) == 2
    assert (
        "metrics_host = '0.0.0.0' is reachable from other machines and metrics_token is not set: set metrics_token "
        "(or metrics_token_file), or metrics_host to 127.0.0.1"
    ) in bridge.log.read_text()

    token = "0123456789abcdef"
    bridge = Bridge(tmp_path, broker, database, METRICS_HOST="0.0.0.0", METRICS_TOKEN=token)
    try:
        wait_until(lambda: "connected to 127.0.0.1" in bridge.log.read_text(), "the bridge", 20)
        assert answer(bridge.metrics_port)[0] == 401
        assert answer(bridge.metrics_port, Authorization="Bearer wrong")[0] == 401
        status, text = answer(bridge.metrics_port, Authorization=f"Bearer {token}")
        assert status == 200
        assert servers.promtool_check_metrics(text) == ""
        assert token not in bridge.log.read_text()
        assert bridge.end() == 0
    finally:
        bridge.kill()


def test_run_metrics_without_a_token_are_not_for_foreign_web_pages(
    broker: servers.Mosquitto, database: str, tmp_path: Path
) -> None:
    bridge = Bridge(tmp_path, broker, database)
    try:
        wait_until(bridge.ready, "the bridge", 20)
        assert answer(bridge.metrics_port, Host="evil.example")[0] == 421
        assert answer(bridge.metrics_port, Host="localhost:9092")[0] == 200
    finally:
        bridge.kill()
