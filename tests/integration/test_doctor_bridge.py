"""`voltflow doctor bridge` at real stores that are away, refuse it, or are not up to date."""

from __future__ import annotations

import contextlib
import http.server
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from cloud.migrate import SCHEMA_DIR, migrate, migrations
from tests import servers
from tests.doctors import Report, doctor
from tests.programs import Bridge

Own = Callable[[AbstractContextManager[servers.Server]], servers.Server]


def examine(folder: Path, dsn: str = "", **settings: object) -> Report:
    environment = {"VOLTFLOW_BRIDGE_DATABASE": dsn} if dsn else {}
    return doctor("bridge", folder, {"mqtt_port": 1, "metrics_port": 0, **settings}, environment=environment)


@contextlib.contextmanager
def connected(dsn: str) -> Iterator[Any]:
    with contextlib.closing(psycopg2.connect(dsn)) as conn:
        conn.autocommit = True
        with conn.cursor() as cursor:
            yield cursor


@contextlib.contextmanager
def role(dsn: str, name: str, options: str = "") -> Iterator[str]:
    """The connection string of a role of the test's own."""
    with connected(dsn) as cursor:
        cursor.execute(f"CREATE ROLE {name} LOGIN {options}")
    try:
        yield dsn.replace("//postgres", f"//{name}", 1) if "//postgres" in dsn else f"{dsn}&user={name}"
    finally:
        with connected(dsn) as cursor:
            cursor.execute(f"DROP OWNED BY {name}")
            cursor.execute(f"DROP ROLE {name}")


def migrated(dsn: str, folder: Path = SCHEMA_DIR) -> None:
    with contextlib.closing(psycopg2.connect(dsn)) as conn:
        migrate(conn, folder)


def test_a_database_that_is_up_to_date_is_well(database: str, tmp_path: Path) -> None:
    migrated(database)
    report = examine(tmp_path, database)
    assert report.status("database") == "ok", report.by_check["database"]
    assert f"its schema is up to date (version {migrations()[-1].version})" in report.texts("database", "ok")
    assert "no TimescaleDB" in report.texts("database", "ok")


def test_a_database_without_tables_and_one_that_is_behind(database: str, tmp_path: Path) -> None:
    assert "it has no tables yet; the bridge brings it up to date" in examine(tmp_path, database).texts(
        "database", "warning"
    )
    older = tmp_path / "schema"
    older.mkdir()
    for path in sorted(SCHEMA_DIR.glob("*.sql"))[:2]:
        (older / path.name).write_text(path.read_text())
    migrated(database, older)
    told = examine(tmp_path, database).texts("database", "warning")
    assert f"its schema is version 2, this program's is {migrations()[-1].version}" in told
    assert "cloud-bridge migrate" in told
    with connected(database) as cursor:
        cursor.execute("INSERT INTO schema_version (version, name) VALUES (99, 'future')")
    assert "version 99, this program knows up to" in examine(tmp_path, database).texts("database", "problem")


def test_a_role_without_rights(database: str, unique: str, tmp_path: Path) -> None:
    with role(database, unique) as dsn:
        told = examine(tmp_path, dsn).texts("database", "problem")
        assert f"it has no tables yet, and '{unique}' may make none in the schema 'public'" in told
        migrated(database)
        with connected(database) as cursor:
            cursor.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {unique}")
            cursor.execute(f"GRANT INSERT ON telemetry TO {unique}")
        told = examine(tmp_path, dsn).texts("database", "problem")
        assert f"'{unique}' may not INSERT in the table alert" in told
        assert f'GRANT SELECT, INSERT ON alert TO "{unique}"' in told
        assert f'GRANT SELECT, INSERT, UPDATE ON alert_now TO "{unique}"' in told
        assert "DELETE" not in told, "nothing is to be taken out"
        assert "the table telemetry" not in told


def test_a_role_that_may_not_take_out_what_is_old(database: str, unique: str, tmp_path: Path) -> None:
    migrated(database)
    tables = "telemetry, alert, alert_now, dead_letter, loss, pack, pack_boot"
    with role(database, unique) as dsn:
        with connected(database) as cursor:
            cursor.execute(f"GRANT SELECT, INSERT, UPDATE ON {tables} TO {unique}")
            cursor.execute(f"GRANT SELECT ON expired, schema_version TO {unique}")
        assert examine(tmp_path, dsn).texts("database", "problem") == ""
        told = examine(tmp_path, dsn, keep_alerts_days=30).texts("database", "problem")
        assert f"'{unique}' may not DELETE in the table alert" in told
        assert "expired" not in told
        told = examine(tmp_path, dsn, keep_telemetry_days=30).texts("database", "problem")
        assert f"'{unique}' may not DELETE in the table telemetry" in told
        assert f"'{unique}' may not INSERT and DELETE in the table expired" in told
        assert f'GRANT SELECT, INSERT, DELETE ON expired TO "{unique}"' in told
        assert (
            examine(tmp_path, dsn, keep_telemetry_days=30, retention_period_s=0).texts("database", "problem")
            == ""
        )
        with connected(database) as cursor:
            cursor.execute(f"GRANT INSERT, DELETE ON expired, telemetry TO {unique}")
        assert examine(tmp_path, dsn, keep_telemetry_days=30).texts("database", "problem") == ""


def test_tables_of_another_owner_cannot_be_brought_up_to_date(
    database: str, unique: str, tmp_path: Path
) -> None:
    older = tmp_path / "schema"
    older.mkdir()
    for path in sorted(SCHEMA_DIR.glob("*.sql"))[:2]:
        (older / path.name).write_text(path.read_text())
    migrated(database, older)
    with role(database, unique) as dsn:
        with connected(database) as cursor:
            cursor.execute(f"GRANT CREATE ON SCHEMA public TO {unique}")
            cursor.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {unique}")
        assert f"'{unique}' is not the owner of its tables" in examine(tmp_path, dsn).texts(
            "database", "problem"
        )


def test_a_wrong_password_is_told_and_never_shown(own: Own, unique: str, tmp_path: Path) -> None:
    server = servers.Postgres()
    own(server)  # type: ignore[arg-type]
    with connected(server.dsn) as cursor:
        cursor.execute(f"CREATE ROLE {unique} LOGIN PASSWORD 'right-one'")
        cursor.execute("SHOW hba_file")
        hba = Path(cursor.fetchone()[0])
        hba.write_text(f"local all {unique} scram-sha-256\n{hba.read_text()}")
        cursor.execute("SELECT pg_reload_conf()")
    dsn = server.dsn.replace("//postgres:", f"//{unique}:wrong-one-here", 1)
    assert unique in dsn
    report = examine(tmp_path, dsn)
    told = report.texts("database", "problem")
    assert "does not take this user and password" in told
    assert "VOLTFLOW_BRIDGE_DATABASE" in told
    assert "wrong-one-here" not in json.dumps(report.document)


@pytest.mark.parametrize(
    ("dsn", "told"),
    [
        ("postgresql://voltflow:hunter2-hunter2@127.0.0.1:1/voltflow", "it cannot be reached"),
        ("postgresql://voltflow@no-such-host.invalid/voltflow", "its host's name has no address"),
        ("hunter2-hunter2", "the connection string cannot be understood"),
    ],
)
def test_a_database_that_is_not_there(tmp_path: Path, dsn: str, told: str) -> None:
    report = examine(tmp_path, dsn)
    assert told in report.texts("database", "problem")
    assert "hunter2" not in json.dumps(report.document)
    assert report.exit_code == 2


def test_a_database_and_a_role_that_do_not_exist(database: str, tmp_path: Path) -> None:
    name = database.partition("?")[0].rpartition("/")[2]
    told = examine(tmp_path, database.replace(f"/{name}?", "/nothing?")).texts("database", "problem")
    assert "there is no such database" in told
    told = examine(tmp_path, database.replace("//postgres:", "//nobody:")).texts("database", "problem")
    assert "it does not know this user" in told


def test_timescaledb_is_seen(timescale: servers.Timescale, tmp_path: Path) -> None:
    report = examine(tmp_path, timescale.dsn)
    assert "TimescaleDB" in report.texts("database", "ok") + report.texts("database", "warning")


# -- Kafka, InfluxDB ----------------------------------------------------------------------------------------------


def test_kafka_away_and_there(kafka: servers.Kafka, tmp_path: Path) -> None:
    port = servers.free_port()
    assert f"127.0.0.1:{port}" in examine(tmp_path, kafka_bootstrap=f"127.0.0.1:{port}").texts(
        "kafka", "problem"
    )
    report = examine(tmp_path, kafka_bootstrap=kafka.bootstrap)
    assert "it answers" in report.texts("kafka", "ok") + report.texts("kafka", "warning")


def test_influx_away_and_there(victoria: servers.Victoria, tmp_path: Path) -> None:
    assert "it cannot be reached" in examine(tmp_path, influx_url="http://127.0.0.1:1").texts(
        "influx", "problem"
    )
    assert "it answers" in examine(tmp_path, influx_url=victoria.url).texts("influx", "ok")


@pytest.mark.parametrize(
    ("status", "told"), [(401, "does not take the token"), (404, "has no bucket"), (500, "it answers 500")]
)
def test_influx_that_refuses(tmp_path: Path, status: int, told: str) -> None:
    """VictoriaMetrics knows no tokens and buckets: a server says what InfluxDB says."""

    class Refusing(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            report = examine(tmp_path, influx_url=f"http://127.0.0.1:{server.server_port}")
        finally:
            server.shutdown()
    assert told in report.texts("influx", "problem")


# -- the bridge itself --------------------------------------------------------------------------------------------


def test_no_sink_at_all(tmp_path: Path) -> None:
    assert "no sink is configured: set one of database" in examine(tmp_path).texts("flow", "problem")


def test_the_shared_subscription_is_left_alone(own: Own, database: str, tmp_path: Path) -> None:
    """As a member of the group the doctor would get messages that are the bridge's."""
    broker = servers.Mosquitto(log_type="all")
    own(broker)
    migrated(database)
    report = examine(tmp_path, database, mqtt_port=broker.port, shared="true", name="b1")
    assert report.status("broker broker") == "ok", report.by_check["broker broker"]
    assert "br/v1/+/state, ev/v1/+/+/alert" in report.texts("broker broker", "ok")
    assert "$share" not in broker.log


def test_the_running_bridge_is_known_as_itself_and_tells_what_is_away(
    own: Own, database: str, tmp_path: Path
) -> None:
    broker = servers.Mosquitto()
    own(broker)
    bridge = Bridge(broker, database, tmp_path / "bridge", "--influx-url", "http://127.0.0.1:1")
    own(bridge)
    settings = {"mqtt_port": broker.port, "metrics_port": bridge.port, "state_dir": tmp_path / "bridge"}
    report = examine(tmp_path, database, **settings)
    assert "is that of the program, which runs" in report.texts("ports", "ok")
    assert report.status("running") in ("ok", "warning")
    assert report.status("database") == "ok"
