"""How long the history is kept: takes out what is old in small steps, and remembers its numbers for the ledger.

`Retention(dsn, keep).run(stop)` goes through all tables once. Of `telemetry` a row goes when both its device time and the
time it was stored are older: a device whose clock is wrong loses nothing for it. Where the device time is more than a day
ahead of the database's, the time it was stored decides alone: otherwise it would stay for ever. On plain PostgreSQL rows are deleted pack by
pack along the unique index, a transaction for some thousand; with TimescaleDB whole chunks are dropped, and older ones
compressed before that where it is wanted. The numbers that go are written to `expired` in the same transaction. One
bridge at a time does this, an advisory lock sees to it.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
import psycopg2
from psycopg2.extensions import connection

from voltflow.ledger.ranges import Numbers
from voltflow.ledger.sql import EXPIRED, PACKS, Key

LOCK_KEY = (0x766F6C74666C6F77 >> 1) ^ 2
"""The advisory lock of whoever takes out: that of the migrations with another bit."""
STEP_ROWS = 10_000
"""Rows that one transaction deletes: a fraction of a second."""
CONNECT_TIMEOUT_S = 5
LOCK_TIMEOUT_S = 5.0
"""It gives up, until the next round, where a long query of another does not let it have a table: inserts queue behind it."""
LONGEST_PAUSE_S = 1.0
AHEAD = dt.timedelta(days=1)
"""A device time further ahead of the database's is a wrong clock."""

# Along the unique index, from where the step before ended: what it deleted is not passed again.
_STEP = """
WITH gone AS (
    DELETE FROM telemetry WHERE ctid = ANY(ARRAY(
        SELECT ctid FROM telemetry
        WHERE pack = %(pack)s AND ts >= %(since)s::timestamptz AND ts < %(before)s::timestamptz AND stored < %(until)s
        ORDER BY ts LIMIT %(rows)s
    )) RETURNING fleet, pack, boot, seq, ts
), numbers AS (SELECT DISTINCT fleet, pack, boot, seq FROM gone
), runs AS (
    SELECT *, seq - row_number() OVER (PARTITION BY fleet, pack, boot ORDER BY seq) AS island FROM numbers
)
SELECT fleet, pack, boot, min(seq), max(seq), (SELECT count(*) FROM gone), (SELECT max(ts)::text FROM gone)
FROM runs GROUP BY fleet, pack, boot, island
"""

_CHUNKS = """
SELECT range_start, range_end, is_compressed, format('%%I.%%I', chunk_schema, chunk_name) FROM timescaledb_information.chunks
WHERE hypertable_name = 'telemetry' AND hypertable_schema = current_schema() AND (range_end <= %s OR range_start > %s)
ORDER BY range_start
"""

_CHUNK = "SELECT max(stored), count(*), now() FROM telemetry WHERE ts >= %(start)s AND ts < %(end)s"

# `stored` is the start of a row's transaction, and none of a bridge takes ten minutes.
_CHUNK_NEW = """
SELECT 1 FROM telemetry WHERE ts >= %(start)s AND ts < %(end)s AND stored >= %(read)s - interval '10 minutes' LIMIT 1
"""

_CHUNK_RUNS = """
WITH numbers AS (
    SELECT DISTINCT fleet, pack, boot, seq FROM telemetry WHERE ts >= %(start)s AND ts < %(end)s
), runs AS (
    SELECT *, seq - row_number() OVER (PARTITION BY fleet, pack, boot ORDER BY seq) AS island FROM numbers
)
SELECT fleet, pack, boot, min(seq), max(seq) FROM runs GROUP BY fleet, pack, boot, island
"""

_COMPRESSES = """
SELECT compression_enabled FROM timescaledb_information.hypertables
WHERE hypertable_name = 'telemetry' AND hypertable_schema = current_schema()
"""

_COMPRESS = """
ALTER TABLE telemetry SET (
    timescaledb.compress, timescaledb.compress_segmentby = 'fleet, pack', timescaledb.compress_orderby = 'ts, boot, seq'
)
"""

# An alert that stands is the newest of its code; it stays however old it is.
_ALERTS = """
DELETE FROM alert WHERE ctid = ANY(ARRAY(
    SELECT old.ctid FROM alert AS old WHERE (old.ts < %(until)s OR old.ts > %(ahead)s) AND old.stored < %(until)s AND EXISTS (
        SELECT FROM alert AS newer WHERE newer.pack = old.pack AND newer.fleet = old.fleet AND newer.code = old.code
            AND (newer.ts, newer.boot, newer.seq) > (old.ts, old.boot, old.seq)
    ) LIMIT %(rows)s
))
"""

_LETTERS = """
DELETE FROM dead_letter WHERE ctid = ANY(ARRAY(SELECT ctid FROM dead_letter WHERE stored < %(until)s LIMIT %(rows)s))
RETURNING fleet, pack, boot, seq, seq, 'dead letter'
"""

_LOSSES = """
DELETE FROM loss WHERE ctid = ANY(ARRAY(SELECT ctid FROM loss WHERE stored < %(until)s LIMIT %(rows)s))
RETURNING fleet, pack, boot, seq_from, seq_to, 'dropped: ' || reason
"""

# Ranges of one reason do not overlap, so what touches a new one begins within it or is the one before.
_TOUCHING = """
DELETE FROM expired WHERE ctid = ANY(ARRAY(
    SELECT found.at FROM unnest(%s::text[], %s::text[], %s::bigint[], %s::bigint[], %s::bigint[], %s::text[])
        AS new (fleet, pack, boot, seq_from, seq_to, why)
    CROSS JOIN LATERAL (
        SELECT e.ctid AS at FROM expired AS e WHERE e.pack = new.pack AND e.boot = new.boot AND e.fleet = new.fleet
            AND e.why = new.why AND e.seq_from > new.seq_from AND e.seq_from <= new.seq_to + 1
        UNION ALL
        SELECT before.at FROM (
            SELECT e.ctid AS at, e.seq_to FROM expired AS e WHERE e.pack = new.pack AND e.boot = new.boot
                AND e.fleet = new.fleet AND e.why = new.why AND e.seq_from <= new.seq_from ORDER BY e.seq_from DESC LIMIT 1
        ) AS before WHERE before.seq_to >= new.seq_from - 1
    ) AS found
)) RETURNING fleet, pack, boot, seq_from, seq_to, why
"""

_REMEMBER = """
INSERT INTO expired (fleet, pack, boot, seq_from, seq_to, why)
SELECT * FROM unnest(%s::text[], %s::text[], %s::bigint[], %s::bigint[], %s::bigint[], %s::text[])
"""

_SIZES = """
SELECT name, greatest(0, sum(reltuples))::bigint, sum(pg_total_relation_size(part))::bigint FROM (
    SELECT c.relname AS name, c.oid AS part, c.reltuples FROM pg_class AS c
    WHERE c.oid = ANY(ARRAY(SELECT to_regclass(t) FROM unnest(%(tables)s::text[]) AS t))
    UNION ALL
    SELECT c.relname, i.inhrelid, p.reltuples FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhparent
    JOIN pg_class AS p ON p.oid = i.inhrelid
    WHERE c.oid = ANY(ARRAY(SELECT to_regclass(t) FROM unnest(%(tables)s::text[]) AS t))
) AS parts GROUP BY name
"""

TABLES = ("telemetry", "alert", "alert_now", "dead_letter", "loss", "expired", "pack", "pack_boot")


class Keep(msgspec.Struct, frozen=True):
    """Days that rows are kept, 0: for ever. `compress`: days after which a chunk is compressed, 0: never; TimescaleDB only."""

    telemetry: int = 0
    alert: int = 0
    dead_letter: int = 0
    loss: int = 0
    compress: int = 0


class Size(msgspec.Struct, frozen=True):
    """Of a table with its indexes; the rows are the database's estimate."""

    rows: int
    bytes: int


class Stopped(Exception):
    """It was told to stop between two steps."""


class Retention:
    """See the module. `removed` by table counts on over all runs; `sizes` are those after the last run."""

    def __init__(self, dsn: str, keep: Keep, step_rows: int = STEP_ROWS) -> None:
        self._dsn, self._keep, self._step_rows = dsn, keep, step_rows
        self._conn: connection | None = None
        self._ahead = dt.datetime.max.replace(tzinfo=dt.UTC)
        self.removed: Counter[str] = Counter()
        self.compressed = 0
        self.sizes: dict[str, Size] = {}

    def run(self, stop: threading.Event) -> bool:
        """Take out what is old; False where another bridge is at it. Raises psycopg2.Error, and Stopped."""
        with self._connected() as conn:
            if not self._query(conn, "SELECT pg_try_advisory_lock(%s)", (LOCK_KEY,))[0][0]:
                return False
            now: dt.datetime = self._query(conn, "SELECT now()")[0][0]
            self._ahead = now + AHEAD
            if self._keep.telemetry:
                self._telemetry(conn, now - dt.timedelta(days=self._keep.telemetry), stop)
            if self._keep.compress and self._is_hypertable(conn):
                self._compress(conn, now - dt.timedelta(days=self._keep.compress), stop)
            for table, days, sql in (
                ("alert", self._keep.alert, _ALERTS),
                ("dead_letter", self._keep.dead_letter, _LETTERS),
                ("loss", self._keep.loss, _LOSSES),
            ):
                if days:
                    self._plain(conn, table, sql, now - dt.timedelta(days=days), stop)
            self.sizes = self._measured(conn)
        return True

    @contextlib.contextmanager
    def _connected(self) -> Iterator[connection]:
        """A connection in which each statement is a transaction; the lock ends with it."""
        with contextlib.closing(
            psycopg2.connect(
                self._dsn, connect_timeout=CONNECT_TIMEOUT_S, application_name="voltflow-retention",
                keepalives_idle=10, keepalives_interval=5, keepalives_count=3, tcp_user_timeout=30_000,
            )
        ) as conn:  # fmt: skip
            conn.autocommit = True
            self._query(
                conn, "SELECT set_config('lock_timeout', %s, false)", (f"{LOCK_TIMEOUT_S * 1000:.0f}",)
            )
            self._conn = conn
            try:
                yield conn
            finally:
                self._conn = None

    def abort(self) -> None:
        """From another thread: end the statement that is under way."""
        if (conn := self._conn) is not None:
            with contextlib.suppress(psycopg2.Error):
                conn.cancel()

    def _telemetry(self, conn: connection, until: dt.datetime, stop: threading.Event) -> None:
        if self._is_hypertable(conn):
            for start, end, _, _ in self._query(conn, _CHUNKS, (until, self._ahead)):
                self._drop_chunk(conn, start, end, until)
                _pause(stop, 0.0)
            return
        for (pack,) in self._query(conn, PACKS):
            for first, before in (("-infinity", until), (self._ahead.isoformat(), "infinity")):
                since, count = first, self._step_rows
                while count == self._step_rows:
                    started = time.monotonic()
                    values = {"pack": pack, "since": since, "before": before, "until": until}
                    count, since = self._delete_step(conn, values)
                    _pause(stop, time.monotonic() - started if count else 0.0)

    def _delete_step(self, conn: connection, values: dict[str, Any]) -> tuple[int, str]:
        """How many rows went, and the device time of the last one."""
        with _transaction(conn):
            runs = self._query(conn, _STEP, {**values, "rows": self._step_rows})
            self._remember(conn, ((*run[:5], EXPIRED) for run in runs))
        if not runs:
            return 0, ""
        count, last = runs[0][5:]
        self.removed["telemetry"] += count
        return count, last

    def _drop_chunk(self, conn: connection, start: dt.datetime, end: dt.datetime, until: dt.datetime) -> None:
        """Unless something in it was stored only lately. Its numbers are read before rows are kept from coming in."""
        within = {"start": start, "end": end}
        newest, count, read = self._query(conn, _CHUNK, within)[0]
        if newest is not None and newest >= until:
            return
        runs = self._query(conn, _CHUNK_RUNS, within)
        with _transaction(conn):
            self._remember(conn, ((*run, EXPIRED) for run in runs))
            # Only now: bridges wait from here to the end of the transaction.
            self._query(conn, "LOCK TABLE telemetry IN SHARE ROW EXCLUSIVE MODE")
            if self._query(conn, _CHUNK_NEW, {**within, "read": read}):
                conn.rollback()  # a message came that is that late: the next round reads the chunk again
                return
            self._query(
                conn,
                "SELECT drop_chunks('telemetry', older_than => %(end)s, newer_than => %(start)s)",
                within,
            )
        self.removed["telemetry"] += count

    def _compress(self, conn: connection, until: dt.datetime, stop: threading.Event) -> None:
        chunks = [name for _, _, done, name in self._query(conn, _CHUNKS, (until, "infinity")) if not done]
        if chunks and not self._query(conn, _COMPRESSES)[0][0]:
            self._query(conn, _COMPRESS)
        for name in chunks:
            self._query(conn, "SELECT compress_chunk(%s::regclass)", (name,))
            self.compressed += 1
            _pause(stop, 0.0)

    def _plain(
        self, conn: connection, table: str, sql: str, until: dt.datetime, stop: threading.Event
    ) -> None:
        count = self._step_rows
        while count == self._step_rows:
            started = time.monotonic()
            with _transaction(conn), conn.cursor() as cursor:
                cursor.execute(sql, {"until": until, "ahead": self._ahead, "rows": self._step_rows})
                count = cursor.rowcount
                if cursor.description:
                    self._remember(conn, (row for row in cursor.fetchall() if None not in row))
            self.removed[table] += count
            _pause(stop, time.monotonic() - started if count else 0.0)

    def _remember(self, conn: connection, runs: Iterable[Sequence[Any]]) -> None:
        """Ranges of numbers with the reason they are gone for, joined with those beside them; in two statements, however many."""
        by_key: dict[tuple[Key, str], Numbers] = {}

        def add(found: Iterable[Sequence[Any]]) -> None:
            for fleet, pack, boot, first, last, why in found:
                by_key.setdefault(((fleet, pack, boot), why), Numbers()).add(first, last)

        add(runs)
        if by_key:
            add(self._query(conn, _TOUCHING, _columns(by_key)))
            self._query(conn, _REMEMBER, _columns(by_key))

    def _is_hypertable(self, conn: connection) -> bool:
        if not self._query(conn, "SELECT 1 FROM pg_extension WHERE extname = 'timescaledb'"):
            return False
        return bool(self._query(
            conn, "SELECT 1 FROM timescaledb_information.hypertables WHERE hypertable_name = 'telemetry'"
            " AND hypertable_schema = current_schema()"
        ))  # fmt: skip

    def _measured(self, conn: connection) -> dict[str, Size]:
        found = {
            name: Size(rows, size) for name, rows, size in self._query(conn, _SIZES, {"tables": list(TABLES)})
        }
        if "telemetry" in found and self._is_hypertable(conn):  # what is compressed lies in tables of its own
            rows, size = self._query(
                conn, "SELECT approximate_row_count('telemetry'), hypertable_size('telemetry')"
            )[0]
            found["telemetry"] = Size(rows, size)
        return found

    def _query(self, conn: connection, sql: str, parameters: Any = None) -> list[tuple[Any, ...]]:
        with conn.cursor() as cursor:
            cursor.execute(sql, parameters)
            return cursor.fetchall() if cursor.description else []


def _columns(by_key: Mapping[tuple[Key, str], Numbers]) -> list[list[Any]]:
    """Fleets, packs, boots, first numbers, last numbers, reasons."""
    rows = [
        (*key, first, last, why) for (key, why), numbers in by_key.items() for first, last in numbers.ranges()
    ]
    return [list(column) for column in zip(*rows, strict=True)]


@contextlib.contextmanager
def _transaction(conn: connection) -> Iterator[None]:
    conn.autocommit = False
    try:
        with conn:
            yield
    finally:
        if not conn.closed:
            conn.autocommit = True


def _pause(stop: threading.Event, took_s: float) -> None:
    """As long as the step took, so that deleting has at most half of the database's time."""
    if stop.wait(min(took_s, LONGEST_PAUSE_S)):
        raise Stopped
