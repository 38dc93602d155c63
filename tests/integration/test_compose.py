"""docker-compose.yml under way: every service that can be had here with its command, environment, mounts, user and networks
(`tests/containers.py`), from the simulated packs to the databases, metrics and models."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests import containers, servers
from tests.conftest import require
from voltflow.cli import main

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

ARRIVES_S = 180.0
ENVIRONMENT = {"SIM_PACKS": "3", "SIM_HZ": "2"}
REAL = ["agent", "bridge", "cloud-mosquitto", "mlflow", "mosquitto", "prometheus", "simulator", "timescale"]


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compose") / "secrets"
    assert main(["secrets", "--folder", str(folder), "--device", "demo/SIM000001"]) == 0
    return folder


@pytest.fixture(scope="module")
def house(secrets: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[containers.House]:
    with ExitStack() as stack:
        environment = {**ENVIRONMENT, "SECRETS": str(secrets)}
        yield require(stack, containers.project(tmp_path_factory.mktemp("house"), "full", environment))


def query(house: containers.House, sql: str) -> str:
    """What the database answers to its superuser."""
    return (
        house["timescale"]
        .run("psql", "-U", "postgres", "-d", "voltflow", "-v", "ON_ERROR_STOP=1", "-qtA", text=sql)
        .strip()
    )


def fetch(container: containers.Container, url: str) -> Any:
    return json.loads(container.run("wget", "-q", "-O", "-", url))


@pytest.mark.parametrize("name", REAL)
def test_the_health_check_passes_where_the_program_is_the_same(house: containers.House, name: str) -> None:
    assert house[name].is_healthy()


@pytest.mark.parametrize("name", REAL)
def test_a_program_runs_as_its_user_and_writes_to_its_volumes_only(
    house: containers.House, name: str
) -> None:
    container = house[name]
    user = container.service["user"].split(":")[0]
    status = container.run("cat", "/proc/self/status")
    assert f"Uid:\t{user}\t{user}\t{user}\t{user}\n" in status
    assert "CapEff:\t0000000000000000\n" in status
    assert "NoNewPrivs:\t1\n" in status
    assert "Read-only file system" in container.run("sh", "-c", "echo > /opt/x || echo > /x", check=False)


def test_every_message_of_the_packs_becomes_a_row(house: containers.House) -> None:
    def packs() -> bool:
        return (
            query(house, "SELECT count(DISTINCT pack) FROM telemetry WHERE twin_soc_pct IS NOT NULL") == "3"
        )

    servers.wait_until(packs, "rows of three packs with a twin", ARRIVES_S, 1.0)
    holes = query(house, "SELECT count(*) FROM (SELECT max(seq) - min(seq) + 1 - count(*) AS n FROM telemetry "
                  "GROUP BY pack, boot) t WHERE n <> 0")  # fmt: skip
    assert holes == "0"
    assert query(house, "SELECT DISTINCT gateway FROM telemetry") == "gateway-1"


def test_grafana_reads_the_history_and_cannot_change_it(house: containers.House, secrets: Path) -> None:
    password = (secrets / "grafana_database_password").read_text().strip()
    login = f"postgresql://grafana:{password}@timescale:5432/voltflow"

    def ask(sql: str) -> str:
        return house["bridge"].run("psql", login, "-tAc", sql, check=False)

    servers.wait_until(
        lambda: ask("SELECT count(*) > 0 FROM telemetry") == "0\nt\n", "rows for Grafana", ARRIVES_S, 1.0
    )
    assert "read-only transaction" in ask("DELETE FROM telemetry")
    assert "permission denied" in ask("BEGIN READ WRITE; DELETE FROM telemetry")
    wrong = login.replace(password, "wrong")
    assert "authentication failed" in house["bridge"].run("psql", wrong, "-c", "SELECT 1", check=False)


def test_the_bridge_owns_the_tables_and_is_no_superuser(house: containers.House) -> None:
    servers.wait_until(
        lambda: query(house, "SELECT tableowner FROM pg_tables WHERE tablename = 'telemetry'") == "bridge",
        "the bridge's tables", ARRIVES_S, 1.0,
    )  # fmt: skip
    assert query(house, "SELECT rolname FROM pg_roles WHERE rolsuper ORDER BY 1") == "postgres"


def test_roles_are_made_again_with_the_passwords_as_they_are(house: containers.House) -> None:
    before = query(house, "SELECT count(*) FROM pg_roles")
    house["timescale"].run("sh", "/docker-entrypoint-initdb.d/900-roles.sh")
    assert query(house, "SELECT count(*) FROM pg_roles") == before


CONSUME = """
from kafka import KafkaConsumer
import json
consumer = KafkaConsumer("ev.twin", bootstrap_servers="redpanda:9092", auto_offset_reset="earliest",
                         consumer_timeout_ms=60000)
print(json.loads(next(consumer).value)["schema"])
"""


def test_kafka_has_the_messages(house: containers.House) -> None:
    assert house["bridge"].run("python", "-c", CONSUME, timeout_s=ARRIVES_S).strip() == "twin.prediction/1"


def test_influx_has_the_points(house: containers.House) -> None:
    address = "http://influxdb:8086/api/v1/series/count"

    def count() -> int:
        found = fetch(house["bridge"], address)["data"]
        return int(found[0] if isinstance(found, list) else found)

    servers.wait_until(count, "series in InfluxDB's place", ARRIVES_S, 1.0)


def test_prometheus_reaches_everything_that_it_is_told_of(house: containers.House) -> None:
    def up() -> dict[str, str]:
        found = fetch(house["prometheus"], "http://127.0.0.1:9090/api/v1/query?query=up")["data"]["result"]
        return {series["metric"]["job"]: series["value"][1] for series in found}

    servers.wait_until(lambda: set(up().values()) == {"1"} and {"agent", "bridge"} <= set(up()),
                       "up == 1 for agent and bridge", ARRIVES_S, 1.0)  # fmt: skip
    rules = fetch(house["prometheus"], "http://127.0.0.1:9090/api/v1/rules")["data"]["groups"]
    assert rules
    assert [rule["lastError"] for group in rules for rule in group["rules"] if rule.get("lastError")] == []


LOG_A_RUN = """
import mlflow, pathlib
mlflow.set_tracking_uri("http://mlflow:5000")
mlflow.set_experiment("compose")
with mlflow.start_run() as run:
    mlflow.log_metric("rmse", 0.25)
    mlflow.log_text("card", "card.txt")
print(mlflow.artifacts.load_text(f"{run.info.artifact_uri}/card.txt"))
"""


def test_mlflow_keeps_runs_in_the_database_and_files_in_the_object_store(house: containers.House) -> None:
    assert house["mlflow"].run("python", "-c", LOG_A_RUN, timeout_s=300).strip().endswith("card")
    metrics = house["timescale"].run(
        "psql", "-U", "postgres", "-d", "mlflow", "-tAc", "SELECT value FROM metrics"
    )
    assert metrics.split() == ["0.25"]
    assert "/artifacts/card.txt" in house["minio"].log.read_text()  # its log has each request


def publish(container: containers.Container, user: str, password: str, topic: str, text: str = "x") -> str:
    """Publish with MQTT 5, where the broker says what it thinks of it; "0" and what was printed."""
    return container.run(
        "mosquitto_pub", "-V", "5", "-h", "mosquitto", "-p", "8883", "--cafile", "/run/secrets/ca.crt",
        "-u", user, "-P", password, "-q", "1", "-d", "-t", topic, "-m", text, check=False,
    )  # fmt: skip


def test_a_device_speaks_for_itself_only(house: containers.House, secrets: Path) -> None:
    password = (secrets / "devices" / "demo.SIM000001").read_text().strip()
    own = publish(house["simulator"], "demo.SIM000001", password, "ev/v1/demo/SIM000001/cells")
    other = publish(house["simulator"], "demo.SIM000001", password, "ev/v1/demo/SIM000002/cells")
    assert "(RC:0)" in own or "(Mid: 1, RC:0)" in own
    assert "RC:135" in other  # not authorized, MQTT 5 section 3.4.2.1


def test_the_brokers_know_whom_they_let_in(house: containers.House) -> None:
    assert "not authori" in publish(house["simulator"], "simulator", "wrong", "ev/v1/demo/x/cells").lower()
    anonymous = house["simulator"].run(
        "mosquitto_pub", "-h", "mosquitto", "-p", "8883", "--cafile", "/run/secrets/ca.crt", "-t", "a", "-m", "b", check=False
    )  # fmt: skip
    assert "not authori" in anonymous.lower()
    unencrypted = house["simulator"].run(
        "mosquitto_pub", "-h", "mosquitto", "-p", "8883", "-t", "a", "-m", "b", check=False
    )
    assert not unencrypted.startswith("0\n")


def test_pages_and_metrics_ask_for_their_tokens(house: containers.House) -> None:
    for name, address in (
        ("agent", "agent:5002/api/packs"),
        ("agent", "agent:9091/metrics"),
        ("bridge", "bridge:9092/metrics"),
    ):
        said = house["prometheus"].run("wget", "-q", "-S", "-O", "-", f"http://{address}", check=False)
        assert "401" in said, name


@pytest.mark.parametrize(
    ("here", "there"),
    [("simulator", "timescale"), ("simulator", "cloud-mosquitto"), ("agent", "timescale"), ("prometheus", "redpanda"),
     ("mlflow", "redpanda"), ("minio", "agent"), ("timescale", "cloud-mosquitto")],
)  # fmt: skip
def test_networks_are_apart(house: containers.House, here: str, there: str) -> None:
    assert not house.networks(here) & house.networks(there)
    said = house[here].run("python", "-c", f"import socket; socket.getaddrinfo({there!r}, 80)", check=False)
    assert "Name or service not known" in said or "name resolution" in said
    for address in house.addresses(there):
        said = house[here].run(
            "python", "-c", f"import socket; socket.create_connection(({address!r}, 22), 2)", check=False
        )
        assert "unreachable" in said or "timed out" in said


def test_published_ports_are_listened_on(house: containers.House) -> None:
    for container in house.containers.values():
        for port in container.service.get("ports") or ():
            assert port["host_ip"] == "127.0.0.1"
            with container.namespace.inside():
                command = ["ss", "-Hltn", f"sport = :{port['target']}"]
                listening = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            assert listening.split()[3].rpartition(":")[0] in ("0.0.0.0", "*", "[::]"), container.name


def test_all_end_within_their_grace(house: containers.House) -> None:
    """The last test: it ends what the others use."""
    statuses = {name: house[name].stop() for name in reversed(house.in_order())}
    assert {
        name: status for name, status in statuses.items() if status and name not in containers.OTHER_PROGRAM
    } == {}
