"""What is old leaves real databases, in steps, and the ledger knows that it was there."""

import contextlib
import datetime as dt
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from psycopg2.extensions import connection

import cloud.retention
from cloud.ledger_watch import Account, Watch
from cloud.migrate import migrate
from cloud.nodes.timescale_out import TimescaleOut
from cloud.retention import LOCK_KEY, Keep, Retention, Stopped
from tests import cloud_samples as samples
from tests import servers
from tests.cloud_samples import BOOT, query, run_sink, twin
from tests.conftest import require
from tests.programs import Bridge
from tests.servers import wait_until
from voltflow.ledger.ledger import Report, verify
from voltflow.message import Msg, now_ms

DAY_MS = 86_400_000
OLD_MS = now_ms() - 40 * DAY_MS
GO_ON = threading.Event()


def store(dsn: str, msgs: list[Msg]) -> None:
    async def use(sink: TimescaleOut) -> None:
        for start in range(0, len(msgs), 200):
            await sink.write(msgs[start : start + 200])

    run_sink(TimescaleOut(database=dsn), use)


def execute(dsn: str, sql: str) -> None:
    """A statement that stays (`query` takes back what it did)."""
    with contextlib.closing(psycopg2.connect(dsn)) as conn, conn, conn.cursor() as cursor:
        cursor.execute(sql)


def migrated(dsn: str) -> None:
    with contextlib.closing(psycopg2.connect(dsn)) as conn:
        migrate(conn)


def age(dsn: str, table: str = "telemetry", where: str = "true") -> None:
    """As if the rows that are there had been stored 40 days ago."""
    execute(dsn, f"UPDATE {table} SET stored = stored - interval '40 days' WHERE {where}")


def history(pack: str, seqs: range, missing: set[int], start_ms: int = OLD_MS) -> list[Msg]:
    """A reading every minute."""
    return [twin(seq, pack, ts_ms=start_ms + 60_000 * seq) for seq in seqs if seq not in missing]


def old_and_new(dsn: str) -> None:
    """Two packs, 1,000 readings that are 40 days old with holes and a doubled number, and 100 of today in the same boot."""
    msgs = [twin(20, ts_ms=OLD_MS + 60_000 * 20 + 1)]
    for pack in ("SIM000001", "SIM000002"):
        msgs += history(pack, range(1000), {10, 11, 500})
        msgs += history(pack, range(1000, 1100), {1050}, now_ms() - 60_000 * 1100)
    store(dsn, msgs)
    age(dsn, where="ts < now() - interval '30 days'")


def holes(report: Report) -> set[tuple[str, int, int]]:
    return {(entry.pack, item.first, item.last) for entry in report.entries for item in entry.missing}


HOLES = {
    (pack, *hole) for pack in ("SIM000001", "SIM000002") for hole in ((10, 11), (500, 500), (1050, 1050))
}


@pytest.fixture(scope="module")
def own_timescale() -> Iterator[servers.Timescale]:
    """Of this file's own: what other tests stored may be old."""
    with contextlib.ExitStack() as stack:
        server = require(stack, servers.Timescale())
        migrated(server.dsn)
        yield server


@pytest.fixture
def chunked(own_timescale: servers.Timescale) -> str:
    """An empty history in TimescaleDB, where all connections share one session."""
    execute(own_timescale.dsn, "DEALLOCATE ALL")
    execute(own_timescale.dsn, "SELECT drop_chunks('telemetry', older_than => now() + interval '10 years')")
    execute(own_timescale.dsn, "TRUNCATE expired")
    return own_timescale.dsn


@pytest.fixture(params=["postgres", "timescale"])
def dsn(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue("database" if request.param == "postgres" else "chunked"))


def test_old_rows_go_and_the_ledger_tells_them_from_lost_ones(dsn: str) -> None:
    old_and_new(dsn)
    before = verify(dsn)
    assert (before.received, holes(before), before.expired) == (2 * 1096, HOLES, 0)
    retention = Retention(dsn, Keep(telemetry=30), step_rows=300)
    assert retention.run(GO_ON)
    assert retention.removed["telemetry"] == 2 * 997 + 1
    after = verify(dsn)
    assert (after.received, holes(after), after.expired) == (2 * 99, HOLES, 2 * 997)
    assert (after.explained, after.duplicates) == (0, 0)
    ranges = query(
        dsn, "SELECT pack, seq_from, seq_to FROM expired WHERE pack = 'SIM000001' ORDER BY seq_from"
    )
    assert [(row["seq_from"], row["seq_to"]) for row in ranges] == [(0, 9), (12, 499), (501, 999)]
    assert retention.run(GO_ON)
    assert retention.removed["telemetry"] == 2 * 997 + 1
    assert retention.sizes["telemetry"].bytes > 0


def test_what_comes_again_after_it_was_taken_out_is_taken_out_again(database: str) -> None:
    """A device's ring may still have it; ranges join and do not double."""
    old_and_new(database)
    retention = Retention(database, Keep(telemetry=30))
    retention.run(GO_ON)
    store(database, history("SIM000001", range(5, 12), set()))
    report = verify(database)
    assert ("SIM000001", 10, 11) not in holes(report)
    retention.run(GO_ON)
    assert verify(database).received == 2 * 99 + 7, (
        "stored today, so it stays although it was measured long ago"
    )
    execute(
        database,
        "UPDATE telemetry SET stored = now() - interval '31 days' WHERE ts < now() - interval '30 days'",
    )
    retention.run(GO_ON)
    ranges = query(
        database, "SELECT seq_from, seq_to FROM expired WHERE pack = 'SIM000001' ORDER BY seq_from"
    )
    assert [(row["seq_from"], row["seq_to"]) for row in ranges] == [(0, 499), (501, 999)]


def test_a_device_whose_clock_is_far_behind_keeps_what_it_stored_today(dsn: str) -> None:
    store(dsn, [twin(seq, ts_ms=1_000 + seq) for seq in range(10)])
    retention = Retention(dsn, Keep(telemetry=30))
    retention.run(GO_ON)
    assert (retention.removed["telemetry"], verify(dsn).received) == (0, 10)


def test_a_device_whose_clock_is_years_ahead_does_not_keep_its_rows_for_ever(dsn: str) -> None:
    """They go by the time they were stored (with TimescaleDB a day's chunk at a time); a simulated pack that is some hours ahead is as any other."""
    far_ms = now_ms() + 1000 * DAY_MS
    msgs = [twin(seq, ts_ms=far_ms + seq) for seq in range(10)]
    msgs += [twin(seq, "SIM000002", ts_ms=far_ms + 2 * DAY_MS + seq) for seq in range(5)]
    msgs += [twin(seq, "SIM000003", ts_ms=now_ms() + 12 * 3_600_000 + seq) for seq in range(3)]
    store(dsn, msgs)
    age(dsn, where="pack <> 'SIM000002'")
    retention = Retention(dsn, Keep(telemetry=30), step_rows=4)
    retention.run(GO_ON)
    assert retention.removed["telemetry"] == 10
    assert (verify(dsn).received, verify(dsn).expired, verify(dsn).missing) == (8, 10, 0)


def test_an_alert_of_a_clock_that_is_years_ahead_goes_unless_it_stands(database: str) -> None:
    store(database, [samples.alert(1), samples.alert(2, state="cleared"), samples.alert(3)])
    execute(
        database,
        "UPDATE alert SET stored = now() - interval '40 days', ts = now() + interval '10 years' + seq * interval '1 s'",
    )
    Retention(database, Keep(alert=30)).run(GO_ON)
    assert [row["seq"] for row in query(database, "SELECT seq FROM alert")] == [3]


def test_reasons_of_losses_and_letters_stay_when_their_records_go(database: str) -> None:
    store(database, [twin(seq) for seq in range(20) if seq not in {5, 6, 7, 9}])
    store(database, [samples.loss(5, 6), samples.dead(seq=9)])
    before = verify(database)
    assert (before.explained, before.missing) == (3, 1)
    for table in ("loss", "dead_letter"):
        age(database, table)
    retention = Retention(database, Keep(dead_letter=30, loss=30))
    retention.run(GO_ON)
    assert (retention.removed["loss"], retention.removed["dead_letter"]) == (1, 1)
    after = verify(database)
    assert (after.reasons, after.missing, after.dead_letters) == (before.reasons, 1, 0)


def test_an_alert_that_stands_stays_however_old_it_is(database: str) -> None:
    msgs = [
        samples.alert(1),
        samples.alert(2, state="cleared"),
        samples.alert(3),
        samples.alert(4, "SIM000002"),
    ]
    store(database, msgs)
    execute(
        database,
        "UPDATE alert SET stored = now() - interval '40 days', ts = now() - interval '40 days' + seq * interval '1 s'",
    )
    Retention(database, Keep(alert=30)).run(GO_ON)
    kept = query(database, "SELECT pack, seq FROM alert ORDER BY pack")
    assert [(row["pack"], row["seq"]) for row in kept] == [("SIM000001", 3), ("SIM000002", 4)]


def test_nothing_goes_unless_it_is_wanted(database: str) -> None:
    old_and_new(database)
    retention = Retention(database, Keep())
    retention.run(GO_ON)
    assert (retention.removed.total(), verify(database).received) == (0, 2 * 1096)
    tables = {"telemetry", "alert", "alert_now", "dead_letter", "loss", "expired", "pack", "pack_boot"}
    assert retention.sizes.keys() == tables


def test_continuous_ledger_does_not_ask_again_for_what_was_taken_out(database: str) -> None:
    """Neither while it looks, nor after a start, when all that went on before the window is gone."""
    with contextlib.closing(Watch(database, window_s=48 * 3600)) as watch:
        store(database, history("SIM000001", range(50), {7}, now_ms() - 40 * DAY_MS))
        assert looked(watch, database).delivered == 49
        age(database)
        store(database, history("SIM000001", range(50, 60), {55}, now_ms() - DAY_MS))
        Retention(database, Keep(telemetry=30)).run(GO_ON)
        account = looked(watch, database)
        assert {(r.first, r.last) for r in account.missing["demo", "SIM000001", BOOT]} == {(7, 7), (55, 55)}
    execute(database, "UPDATE expired SET stored = now() - interval '30 days'")
    with contextlib.closing(Watch(database, window_s=48 * 3600)) as watch:
        account = looked(watch, database)
        assert [(r.first, r.last) for r in account.missing["demo", "SIM000001", BOOT]] == [(55, 55)]
        assert (account.delivered, account.explained.total()) == (9, 0)


def looked(watch: Watch, dsn: str) -> Account:
    """What is known when everything that is committed was looked at."""
    newest: dt.datetime = query(
        dsn,
        "SELECT max(at) AS at FROM (SELECT max(stored) AS at FROM telemetry UNION ALL SELECT max(stored) FROM expired) AS t",
    )[0]["at"]

    def look() -> Account | None:
        account = watch.look()
        return account if watch._seen_until is not None and watch._seen_until > newest else None

    found: Account = wait_until(look, "a look at all that is committed", 60)
    return found


def test_compressed_chunks_are_read_by_the_ledger_and_keep_redelivery_harmless(chunked: str) -> None:
    old_and_new(chunked)
    retention = Retention(chunked, Keep(compress=7))
    retention.run(GO_ON)
    assert retention.compressed >= 1
    before = retention.compressed
    execute(chunked, "DEALLOCATE ALL")
    store(chunked, history("SIM000001", range(30), {10, 11}))
    report = verify(chunked)
    assert (report.received, holes(report)) == (2 * 1096, HOLES)
    retention.run(GO_ON)
    assert retention.compressed == before
    Retention(chunked, Keep(telemetry=30, compress=7)).run(GO_ON)
    report = verify(chunked)
    assert (report.expired, holes(report)) == (2 * 997, HOLES)


class Noting(Retention):
    """Notes the statements it sends."""

    sent: list[str]

    def _query(self, conn: connection, sql: str, parameters: Any = None) -> list[tuple[Any, ...]]:
        self.sent.append(sql)
        return super()._query(conn, sql, parameters)


def test_inserts_wait_for_the_drop_of_a_chunk_alone_however_many_numbers_go(chunked: str) -> None:
    """Each statement after the lock is a round trip for which all bridges wait."""
    store(chunked, [twin(seq, ts_ms=OLD_MS + seq) for seq in range(0, 400, 2)])
    age(chunked)
    retention = Noting(chunked, Keep(telemetry=30))
    retention.sent = []
    retention.run(GO_ON)
    assert len(query(chunked, "SELECT FROM expired")) == 200
    locked = next(place for place, sql in enumerate(retention.sent) if sql.startswith("LOCK TABLE"))
    after = retention.sent[locked + 1 :]
    dropped = next(place for place, sql in enumerate(after) if "drop_chunks" in sql)
    assert not any("expired" in sql for sql in after[:dropped])
    assert sum("expired" in sql for sql in retention.sent) == 2


def test_the_table_is_told_once_how_it_compresses(chunked: str) -> None:
    """To be told it wants the table for itself: behind a long query it would keep out all inserts, at every round."""
    packs = {"SIM000001": OLD_MS, "SIM000002": OLD_MS + 20 * DAY_MS}
    store(
        chunked,
        [twin(seq, pack, ts_ms=start_ms + seq) for pack, start_ms in packs.items() for seq in range(5)],
    )
    first = Retention(chunked, Keep(compress=30))
    first.run(GO_ON)
    again = Noting(chunked, Keep(compress=7))
    again.sent = []
    again.run(GO_ON)
    assert (first.compressed, again.compressed) == (1, 1)
    assert not any("ALTER TABLE" in sql for sql in again.sent)


def test_it_does_not_wait_long_for_a_table_that_another_holds(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever waits for a lock keeps out all that come after it."""
    monkeypatch.setattr(cloud.retention, "LOCK_TIMEOUT_S", 0.2)
    old_and_new(database)
    retention = Retention(database, Keep(telemetry=30))
    with contextlib.closing(psycopg2.connect(database)) as other, other.cursor() as cursor:
        cursor.execute("LOCK TABLE telemetry IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(psycopg2.errors.LockNotAvailable):
            retention.run(GO_ON)
    wait_until(lambda: retention.run(GO_ON), "the lock to be given back", 30)
    assert verify(database).received == 2 * 99


def test_a_chunk_that_grew_stays_with_its_numbers(chunked: str) -> None:
    """A message that is that late comes between the look at the chunk and the lock."""

    class Late(Noting):
        def _query(self, conn: connection, sql: str, parameters: Any = None) -> list[tuple[Any, ...]]:
            if sql.startswith("LOCK TABLE"):
                with conn.cursor() as cursor:
                    cursor.execute("INSERT INTO telemetry (fleet, pack, boot, seq, ts, gateway, flow_rev, late, replay, stored) "
                                   "SELECT fleet, pack, boot, 900, ts, gateway, flow_rev, late, replay, now() FROM telemetry "
                                   "LIMIT 1")  # fmt: skip
            return super()._query(conn, sql, parameters)

    store(chunked, [twin(seq, ts_ms=OLD_MS + seq) for seq in range(10)])
    age(chunked)
    retention = Late(chunked, Keep(telemetry=30))
    retention.sent = []
    retention.run(GO_ON)
    assert (retention.removed["telemetry"], verify(chunked).received) == (0, 10)
    assert query(chunked, "SELECT FROM expired") == []


def test_ranges_join_with_those_on_both_sides_and_with_none_of_another_reason(database: str) -> None:
    migrated(database)
    execute(database, "INSERT INTO expired (fleet, pack, boot, seq_from, seq_to, why) VALUES ('demo', 'SIM000001', 1, 0, 4, 'expired'), "
                      "('demo', 'SIM000001', 1, 8, 8, 'expired'), ('demo', 'SIM000001', 1, 10, 20, 'expired'), ('demo', 'SIM000001', 1, 30, 40, "
                      "'expired'), ('demo', 'SIM000001', 1, 5, 5, 'dropped: quota'), ('demo', 'SIM000001', 2, 5, 9, 'expired'), "
                      "('other', 'SIM000001', 1, 5, 9, 'expired')")  # fmt: skip
    store(database, [twin(seq, boot=1) for seq in [*range(5, 10), 12, 28, *range(42, 45)]])
    age(database)
    execute(database, "UPDATE telemetry SET ts = ts - interval '5 years'")
    Retention(database, Keep(telemetry=30)).run(GO_ON)
    rows = query(
        database, "SELECT fleet, boot, seq_from, seq_to, why FROM expired ORDER BY fleet, boot, why, seq_from"
    )
    assert [tuple(row.values()) for row in rows] == [
        ("demo", 1, 5, 5, "dropped: quota"), ("demo", 1, 0, 20, "expired"), ("demo", 1, 28, 28, "expired"), ("demo", 1, 30, 40, "expired"),
        ("demo", 1, 42, 44, "expired"), ("demo", 2, 5, 9, "expired"), ("other", 1, 5, 9, "expired"),
    ]  # fmt: skip


def test_one_at_a_time_and_stopped_between_steps(database: str) -> None:
    old_and_new(database)
    retention = Retention(database, Keep(telemetry=30), step_rows=100)
    with contextlib.closing(psycopg2.connect(database)) as other, other.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(%s)", (LOCK_KEY,))
        assert not retention.run(GO_ON)
    stop = threading.Event()
    stop.set()
    with pytest.raises(Stopped):
        wait_until(lambda: retention.run(stop), "the lock to be given back", 30)
    assert retention.removed["telemetry"] == 100
    report = verify(database)
    assert (report.received, report.expired, holes(report)) == (2 * 1096 - 99, 99, HOLES), (
        "one number was there twice"
    )


def test_bridge_does_it_and_says_so(database: str, lone_mosquitto: servers.Mosquitto, tmp_path: Path) -> None:
    old_and_new(database)
    store(database, [samples.alert(1)])
    options = ["--keep-telemetry-days", "30", "--retention-period-s", "1", "--ledger-period-s", "1", "--repair-after-s", "0"]  # fmt: skip
    with Bridge(lone_mosquitto, database, tmp_path, *options) as bridge:

        def metric(name: str) -> float:
            found = re.search(rf"^{re.escape(name)} (\S+)$", bridge.metrics(), re.MULTILINE)
            return float(found[1]) if found else -1.0

        wait_until(
            lambda: metric('voltflow_retention_removed_total{table="telemetry"}') == 2 * 997 + 1,
            "the old rows to go",
            60,
        )
        wait_until(lambda: metric('voltflow_table_bytes{table="telemetry"}') > 0, "the sizes", 60)
        wait_until(lambda: metric("voltflow_ledger_holes") == 2, "the ledger", 60)
        wait_until(lambda: "retention: took out 1,995 of telemetry" in bridge.log, "the log line", 60)
        assert metric("voltflow_retention_errors_total") == 0
