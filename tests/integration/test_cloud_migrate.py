"""The schema in real databases."""

import contextlib
import threading

import psycopg2
import pytest

from cloud.history import History
from cloud.migrate import SchemaError, current_version, migrate, migrations
from tests import servers
from tests.cloud_samples import query
from voltflow.node import SinkUnavailable

NEWEST = len(migrations())


def test_migrate_from_empty_and_again(database: str) -> None:
    with contextlib.closing(psycopg2.connect(database)) as conn:
        assert [item.version for item in migrate(conn)] == list(range(1, NEWEST + 1))
        assert migrate(conn) == []
        assert current_version(conn) == NEWEST


def test_migrate_two_runners_at_once_apply_each_file_once(database: str) -> None:
    """Bridges that start together must not stumble over each other."""
    applied: list[int] = []
    barrier = threading.Barrier(4)

    def runner() -> None:
        with contextlib.closing(psycopg2.connect(database)) as conn:
            barrier.wait()
            applied.extend(item.version for item in migrate(conn))

    threads = [threading.Thread(target=runner) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(applied) == list(range(1, NEWEST + 1))


def test_migrate_refuses_a_newer_database(database: str) -> None:
    with contextlib.closing(psycopg2.connect(database)) as conn:
        migrate(conn)
        with conn, conn.cursor() as cursor:
            cursor.execute("INSERT INTO schema_version (version, name) VALUES (9999, 'future')")
        text = f"the database has schema version 9999, this program knows up to {NEWEST}: upgrade voltflow"
        with pytest.raises(SchemaError) as error:
            migrate(conn)
        assert str(error.value) == text
    with pytest.raises(SinkUnavailable, match="upgrade voltflow"):
        History(database).connect()


def test_migrate_a_failing_file_leaves_nothing_behind(database: str, tmp_path: object) -> None:
    from pathlib import Path

    folder = Path(str(tmp_path))
    (folder / "0001_good.sql").write_text("CREATE TABLE good (x int)")
    (folder / "0002_bad.sql").write_text("CREATE TABLE half (x int); SELECT 1/0")
    with contextlib.closing(psycopg2.connect(database)) as conn:
        with pytest.raises(psycopg2.errors.DivisionByZero):
            migrate(conn, folder)
        assert current_version(conn) == 1
    assert query(database, "SELECT to_regclass('half') AS half") == [{"half": None}]


def test_migrate_timescale_makes_a_hypertable(timescale: servers.Timescale) -> None:
    with contextlib.closing(psycopg2.connect(timescale.dsn)) as conn:
        migrate(conn)
        with conn.cursor() as cursor:
            cursor.execute("SELECT hypertable_name FROM timescaledb_information.hypertables")
            assert cursor.fetchall() == [("telemetry",)]
