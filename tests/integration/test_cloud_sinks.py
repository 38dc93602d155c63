"""`timescale out` when the database is in trouble: deadlocks, a standby, a full disk, a row it chokes on alone."""

import asyncio
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import psycopg2
import pytest

from cloud import history_writer
from cloud.nodes.timescale_out import TimescaleOut
from cloud.probe import probe_row
from cloud.rows import TABLES
from tests import cloud_samples as samples
from tests import servers
from tests.cloud_samples import query, run_sink, twin
from voltflow.message import Msg
from voltflow.node import Rejected, SinkUnavailable


def seqs(dsn: str) -> list[int]:
    return [row["seq"] for row in query(dsn, "SELECT seq FROM telemetry ORDER BY pack, seq")]


def run_sql(dsn: str, *statements: str) -> None:
    with closing(psycopg2.connect(dsn)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)


def name(dsn: str) -> str:
    return str(query(dsn, "SELECT current_database() AS name")[0]["name"])


# -- conflicts with other transactions ------------------------------------------------------------------------------


def test_write_deadlock_is_tried_again_inside_the_sink(database: str) -> None:
    """Two sinks upsert the same packs in opposite order, and a row lock in between makes them wait for each other."""
    one = [samples.state(f"SIM{number:06d}", boot=1) for number in range(300)]
    sinks = [TimescaleOut(database=database), TimescaleOut(database=database)]

    async def main() -> None:
        for sink in sinks:
            sink.id = "sink"
            await sink.start(samples.context())
        await sinks[0].write(one)
        run_sql(database, f"ALTER DATABASE {name(database)} SET deadlock_timeout = '50ms'")
        for sink in sinks:
            sink._history.close()
        try:
            for _ in range(200):
                await asyncio.gather(sinks[0].write(one), sinks[1].write(one[::-1]))
                if sum(sink.status()["conflicts"] for sink in sinks):
                    break
            assert sum(sink.status()["conflicts"] for sink in sinks) > 0
        finally:
            for sink in sinks:
                await sink.stop()

    asyncio.run(main())
    assert query(database, "SELECT count(*) AS n FROM pack") == [{"n": 300}]


CONFLICT = """
CREATE SEQUENCE tries;
CREATE FUNCTION conflict() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN IF nextval('tries') <= {times} THEN RAISE EXCEPTION 'another one was first' USING ERRCODE = '{state}'; END IF;
RETURN NEW; END $$;
CREATE TRIGGER conflicts BEFORE INSERT ON telemetry FOR EACH STATEMENT EXECUTE FUNCTION conflict()
"""


@pytest.mark.parametrize("state", ["40001", "40P01"])
@pytest.mark.parametrize("others", [[], [samples.alert(1)]], ids=["one_table", "two_tables"])
def test_write_conflicts_in_a_row(database: str, state: str, others: list[Msg]) -> None:
    """A few are waited out inside the sink; more of them count as the database being away, never as the data's fault."""

    async def use(sink: TimescaleOut) -> None:
        await sink._first
        run_sql(database, CONFLICT.format(times=7, state=state))
        with pytest.raises(SinkUnavailable, match="another one was first"):
            await sink.write([twin(0), *others])  # five tries
        await sink.write([twin(0), *others])  # two in vain, the third stores it
        assert sink.status()["conflicts"] == 6
        assert sink.status()["refused"] == 0

    run_sink(TimescaleOut(database=database), use)
    assert seqs(database) == [0]


# -- a database that takes nothing ----------------------------------------------------------------------------------


def test_write_to_a_standby_waits_and_goes_on_where_it_becomes_writable(database: str) -> None:
    """SQLSTATE 25006, as a server answers that was demoted; each attempt connects anew and may reach another."""

    async def use(sink: TimescaleOut) -> None:
        await sink.write([twin(0)])
        run_sql(database, f"ALTER DATABASE {name(database)} SET default_transaction_read_only = on")
        sink._history.close()
        for _ in range(2):
            with pytest.raises(SinkUnavailable, match="read-only transaction"):
                await sink.write([twin(1)])
        assert "read-only" in sink.status()["error"]
        run_sql(
            database, "SET default_transaction_read_only = off", f"ALTER DATABASE {name(database)} RESET ALL"
        )
        await sink.write([twin(1)])

    run_sink(TimescaleOut(database=database), use)
    assert seqs(database) == [0, 1]


def test_write_connection_ended_by_an_administrator(database: str) -> None:
    """`admin_shutdown` (57P01): the batch waits for the next attempt, which connects anew."""

    async def use(sink: TimescaleOut) -> None:
        await sink.write([twin(0)])
        run_sql(
            database,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'voltflow-bridge'",
        )
        with pytest.raises(SinkUnavailable, match=r"terminating connection|closed the connection"):
            await sink.write([twin(1)])
        await sink.write([twin(1)])
        assert sink.status()["connects"] == 2

    run_sink(TimescaleOut(database=database), use)
    assert seqs(database) == [0, 1]


@pytest.fixture
def small_disk(own: Any) -> Iterator[tuple[servers.Postgres, Path]]:
    """A server and a file system of 4 MB that it may write to; needs the right to mount one."""
    server = own(servers.Postgres())
    folder = server.folder / "small"
    folder.mkdir()
    options = f"size=4m,mode=700,uid={psutil.Process(server.pid).uids().effective}"
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip(f"no right to mount a file system: {mounted.stderr.decode().strip()}")
    try:
        yield server, folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


async def write_until_full(sink: TimescaleOut) -> int:
    """Batches of 500 until one is not stored; how many rows were."""
    for stored in range(0, 50_000, 500):
        try:
            await sink.write([twin(seq) for seq in range(stored, stored + 500)])
        except SinkUnavailable as error:
            assert "No space left on device" in str(error)  # noqa: PT017 - which of the writes raises is open
            return stored
    raise AssertionError("the disk did not run full")


def test_write_full_disk_waits_until_there_is_room(small_disk: tuple[servers.Postgres, Path]) -> None:
    """The table is on a tablespace that runs full (53100): no row is refused, and none is lost when there is room again."""
    server, folder = small_disk
    stored = 0

    async def use(sink: TimescaleOut) -> None:
        nonlocal stored
        await sink._first
        run_sql(
            server.dsn,
            f"CREATE TABLESPACE small LOCATION '{folder}'",
            "ALTER TABLE telemetry SET TABLESPACE small",
        )
        stored = await write_until_full(sink)
        assert sink.status()["refused"] == 0
        await asyncio.to_thread(subprocess.run, ["mount", "-o", "remount,size=64m", str(folder)], check=True)
        await sink.write([twin(seq) for seq in range(stored, stored + 500)])

    run_sink(TimescaleOut(database=server.dsn), use)
    assert stored > 0
    assert seqs(server.dsn) == list(range(stored + 500))


def test_write_server_killed_under_load_again_and_again(own: Any) -> None:
    """kill -9 of all of PostgreSQL while three sinks write: each batch is tried until it is safe, one row each."""
    server = own(servers.Postgres())
    ended = threading.Event()

    async def write(pack: str) -> None:
        sink = TimescaleOut(database=server.dsn)
        sink.id = pack
        await sink.start(samples.context())
        for at in range(0, 2000, 50):
            batch = [twin(seq, pack) for seq in range(at, at + 50)]
            while True:
                try:
                    await sink.write(batch)
                    break
                except SinkUnavailable:
                    await asyncio.sleep(0.05)
        await sink.stop()

    def trouble() -> None:
        for _ in range(3):
            servers.wait_until(lambda: has_more_than(server, 300) or ended.is_set(), "rows", 60)
            server.kill()
            server.start()

    async def main() -> None:
        killing = asyncio.create_task(asyncio.to_thread(trouble))
        await asyncio.gather(*(write(f"SIM{number}") for number in range(3)))
        ended.set()
        await killing

    asyncio.run(main())
    assert seqs(server.dsn) == [*range(2000)] * 3


def has_more_than(server: servers.Postgres, more: int) -> bool:
    """Whether so many rows came since the last time this was true."""
    try:
        found = int(query(server.dsn, "SELECT count(*) AS n FROM telemetry")[0]["n"])
    except psycopg2.Error:
        return False
    known = getattr(server, "known_rows", 0)
    if found > known + more:
        server.known_rows = found  # type: ignore[attr-defined]
        return True
    return False


# -- a row that alone is refused ------------------------------------------------------------------------------------

REFUSES = """
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION 'no room in the map' USING ERRCODE = '54000'; END $$;
CREATE TRIGGER refuses BEFORE INSERT ON telemetry FOR EACH ROW WHEN ({condition}) EXECUTE FUNCTION refuse()
"""


@pytest.fixture
def short_doubt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history_writer, "DOUBT_S", 0.2)


async def attempts(sink: TimescaleOut, batch: list[Msg]) -> tuple[int, Rejected | None]:
    """Write as the engine does until it is stored, refused, or was tried often; how often it was unavailable."""
    for unavailable in range(20):
        try:
            await sink.write(batch)
        except SinkUnavailable:
            await asyncio.sleep(0.05)
        except Rejected as rejected:
            return unavailable, rejected
        else:
            return unavailable, None
    return 20, None


@pytest.mark.usefixtures("short_doubt")
@pytest.mark.parametrize("size", [1, 2])
def test_write_lone_row_that_the_database_chokes_on_is_refused_after_some_attempts(
    database: str, size: int
) -> None:
    """A plain row goes in meanwhile, so it is not the database; nothing of the plain row is left."""
    batch = [twin(3, f"SIM{number}") for number in range(size)]

    async def use(sink: TimescaleOut) -> None:
        await sink._first
        run_sql(database, REFUSES.format(condition="NEW.seq = 3"))
        unavailable, rejected = await attempts(sink, batch)
        assert history_writer.DOUBT_ATTEMPTS - 1 <= unavailable < 20
        assert rejected is not None
        assert [msg for msg, _ in rejected.refused] == batch
        assert "54000: no room in the map" in rejected.refused[0][1]
        await sink.write([twin(4)])

    run_sink(TimescaleOut(database=database), use)
    assert seqs(database) == [4]
    assert query(database, "SELECT pack FROM telemetry WHERE pack = 'probe'") == []


@pytest.mark.usefixtures("short_doubt")
def test_write_lone_row_while_the_database_takes_nothing_waits(database: str) -> None:
    async def use(sink: TimescaleOut) -> None:
        await sink._first
        run_sql(database, REFUSES.format(condition="true"))
        assert await attempts(sink, [twin(3)]) == (20, None)
        run_sql(database, "DROP TRIGGER refuses ON telemetry")
        assert await attempts(sink, [twin(3)]) == (0, None)

    run_sink(TimescaleOut(database=database), use)
    assert seqs(database) == [3]


@pytest.mark.parametrize("server", ["database", "timescale"])
def test_probe_row_of_every_table_can_be_stored_and_is_not(
    request: pytest.FixtureRequest, server: str
) -> None:
    found = request.getfixturevalue(server)
    dsn = found if isinstance(found, str) else found.dsn

    async def use(sink: TimescaleOut) -> None:
        await sink._first
        await asyncio.to_thread(sink._history.probe, {kind: [probe_row(kind)] for kind in TABLES})
        await sink.write([twin(0)])

    run_sink(TimescaleOut(database=dsn), use)
    for table in TABLES.values():
        assert query(dsn, f"SELECT count(*) AS n FROM {table.name}")[0]["n"] == (table.name == "telemetry")
