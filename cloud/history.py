"""The history in PostgreSQL or TimescaleDB: writes batches of messages, each batch in one transaction, each row once.

Rows travel as one array for each column, `INSERT … SELECT FROM unnest(…)`, prepared once for a connection. Measured on
PostgreSQL 18 with batches of 500 twin messages (1.9 kB of JSON, 64 columns), server and client time for a row: unnest
37 + 17 µs, the JSON itself through `jsonb_to_recordset` 67 + 3 µs, `execute_values` 115 + 88 µs. `COPY` needs a temporary
table for `ON CONFLICT` and is not understood by every server that speaks this protocol.
"""

from __future__ import annotations

import base64
import contextlib
import logging
import os
import random
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

import msgspec
import psycopg2
from psycopg2.extensions import TransactionRollbackError, connection

from cloud.migrate import SchemaError, migrate
from cloud.rows import TABLES, Column, Row, Table
from voltflow.node import SinkUnavailable

log = logging.getLogger(__name__)

_encode = msgspec.json.Encoder().encode

_SQL_TYPE = {"float": "double precision", "ms": "bigint", "jsonb": "text", "bytes": "text", "list": "text"}
_CAST = {
    "ms": "to_timestamp({} / 1000.0::double precision)",
    "jsonb": "{}::jsonb",
    "bytes": "decode({}, 'base64')",
    "list": "{}::text[]",
}

_NOT_THE_DATA = frozenset(
    {"08", "0A", "25", "26", "28", "3D", "3F", "40", "42", "53", "55", "57", "58", "72", "F0", "HV", "TS"}
)
"""Classes of SQLSTATE that say nothing about a row: connection, permissions, a missing table, resources, shutdown."""

_CORRUPTED = frozenset({"XX001", "XX002"})
_THE_DATA = frozenset({"22", "23"})
"""Classes that speak of a row for certain: a value that does not fit, a constraint."""

CONFLICT_TRIES = 5
CONFLICT_PAUSE_S = 0.05
"""How often a transaction is tried that the database gives up because of others, and the pause after the first time."""

_UPSERTS = {
    "pack": """ON CONFLICT (pack, fleet) DO UPDATE SET
        online = excluded.online, boot = coalesce(excluded.boot, pack.boot),
        chemistry = coalesce(excluded.chemistry, pack.chemistry),
        cells_series = coalesce(excluded.cells_series, pack.cells_series),
        cells_parallel = coalesce(excluded.cells_parallel, pack.cells_parallel),
        capacity_rated_ah = coalesce(excluded.capacity_rated_ah, pack.capacity_rated_ah),
        firmware = coalesce(excluded.firmware, pack.firmware),
        state_ts = coalesce(excluded.state_ts, pack.state_ts), stored = now()""",
    "pack_boot": """ON CONFLICT (pack, boot, fleet) DO UPDATE SET
        published = greatest(excluded.published, pack_boot.published), stored = now()""",
}

PACK_BOOT = Table(
    "pack_boot",
    (
        Column("fleet", "text"),
        Column("pack", "text"),
        Column("boot", "bigint"),
        Column("published", "bigint"),
    ),
    TABLES["state"].decode,
)
_PACK = Table("pack", TABLES["state"].columns[:-1], TABLES["state"].decode)
_WRITTEN = (*(table for kind, table in TABLES.items() if kind != "state"), _PACK, PACK_BOOT)


def _statement(table: Table) -> str:
    """PREPARE of the table's insert: one array parameter for each column. All names in it are this module's own."""
    types = [_SQL_TYPE.get(column.kind, column.kind) for column in table.columns]
    arrays = ", ".join(f"${number}" for number in range(1, len(types) + 1))
    names = ", ".join(column.name for column in table.columns)
    values = ", ".join(_CAST.get(c.kind, "{}").format(f"u.{c.name}") for c in table.columns)
    insert = f"INSERT INTO {table.name} ({names}) SELECT {values} FROM unnest({arrays}) AS u({names})"  # noqa: S608
    conflict = _UPSERTS.get(table.name, "ON CONFLICT DO NOTHING")
    return f"PREPARE put_{table.name} ({', '.join(f'{kind}[]' for kind in types)}) AS {insert} {conflict}"


# -- array literals -------------------------------------------------------------------------------------------------


def _quoted(text: str | None) -> str:
    if text is None:
        return "NULL"
    if "\0" in text:
        raise ValueError("a text holds a NUL character, which PostgreSQL cannot store")
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _plain(values: Sequence[Any]) -> bytes:
    """Numbers, booleans, texts: JSON and array literals differ only in the brackets and in escaped texts."""
    encoded = _encode(values)
    if b"\\" in encoded:
        encoded = ("[" + ",".join(map(_quoted, values)) + "]").encode()
    return b"{" + encoded[1:-1] + b"}"


def _texts(values: Iterable[str | None]) -> bytes:
    return ("{" + ",".join(map(_quoted, values)) + "}").encode()


def _base64(values: Iterable[bytes]) -> bytes:
    return b"{" + b",".join(b'"' + base64.b64encode(value) + b'"' for value in values) + b"}"


def _lists(values: Iterable[list[str] | None]) -> bytes:
    return _texts(None if v is None else "{" + ",".join(map(_quoted, v)) + "}" for v in values)


_LITERALS: dict[str, Callable[[Sequence[Any]], bytes]] = {"jsonb": _texts, "bytes": _base64, "list": _lists}


def _execute(table: Table, rows: Sequence[Row]) -> bytes:
    """The EXECUTE for the rows; quotes are doubled, and backslashes are plain (standard_conforming_strings)."""
    literals = (
        _LITERALS.get(column.kind, _plain)(values)
        for column, values in zip(table.columns, zip(*rows, strict=True), strict=True)
    )
    arguments = b"', '".join(literal.replace(b"'", b"''") for literal in literals)
    return b"EXECUTE put_" + table.name.encode() + b" ('" + arguments + b"')"


Statements = list[tuple[str, bytes]]
"""Table and SQL."""


def prepare(rows: dict[str, list[Row]]) -> Statements:
    """The statements of rows by kind; raises ValueError where a value cannot be stored. For any thread."""
    return [(table.name, _execute(table, part)) for table, part in _by_table(rows) if part]


class UncertainError(ValueError):
    """A refusal that may be a row's fault or the database's: only another row that can be stored tells."""


# -- the database ---------------------------------------------------------------------------------------------------


class History:
    """One connection to the database; not for several threads at once. Connects, and migrates, when first used.

    >>> history = History("postgresql://nobody@127.0.0.1:1/none")
    >>> history.write({"loss": [("fleet", "pack", 1, 5, 9, "quota", "gw")]})
    Traceback (most recent call last):
    voltflow.node.SinkUnavailable: ...
    """

    def __init__(self, dsn: str, *, migrate: bool = True, connect_timeout_s: int = 5) -> None:
        self._dsn = dsn
        self._migrate = migrate
        self._connect_timeout_s = connect_timeout_s
        self._conn: connection | None = None
        self.connects = 0
        self.conflicts = 0
        """Transactions that the database gave up because of others, and that were done again."""

    @property
    def connected(self) -> bool:
        return self._conn is not None and not self._conn.closed

    def connect(self) -> connection:
        """The open connection; raises SinkUnavailable when there is none to be had."""
        if self._conn is not None and not self._conn.closed:
            return self._conn
        try:
            self._conn = self._open()
        except (psycopg2.Error, SchemaError) as error:
            raise SinkUnavailable(f"database: {str(error).strip()}") from error
        self.connects += 1
        return self._conn

    def _open(self) -> connection:
        conn = psycopg2.connect(
            self._dsn, connect_timeout=self._connect_timeout_s, application_name="voltflow-bridge", client_encoding="UTF8",
            keepalives_idle=10, keepalives_interval=5, keepalives_count=3, tcp_user_timeout=30_000,
        )  # fmt: skip
        try:
            conn.autocommit = True  # a single statement is a transaction: one round trip for a batch
            if self._migrate:
                migrate(conn)
            with conn.cursor() as cursor:
                cursor.execute("SET standard_conforming_strings = on")
                for table in _WRITTEN:
                    cursor.execute(_statement(table))
        except BaseException:
            conn.close()
            raise
        return conn

    def write(self, rows: dict[str, list[Row]]) -> dict[str, int]:
        """Commit rows by kind in one transaction and return how many were new by table.

        Raises SinkUnavailable when the database cannot take them now, ValueError when a row is at fault, and its kind
        UncertainError when that cannot be told; nothing of the batch is stored then.
        """
        return self.execute(prepare(rows))

    def execute(self, statements: Statements) -> dict[str, int]:
        """Commit what `prepare` made of rows; the rest is as with `write`.

        What the database gave up because of other transactions (a deadlock, a failed serialization) is done again a few
        times: it says so of one of them only, for the others to go on.
        """
        for attempt in range(CONFLICT_TRIES):
            conn = self.connect()
            try:
                with conn.cursor() as cursor:
                    return _run(cursor, statements)
            except TransactionRollbackError as error:
                if attempt == CONFLICT_TRIES - 1 or not self._rolled_back():
                    self._fail(error)
                self.conflicts += 1
                time.sleep(random.uniform(0.5, 1.0) * CONFLICT_PAUSE_S * 2**attempt)
            except psycopg2.Error as error:
                self._fail(error)
        raise AssertionError("the last attempt returns or raises")

    def probe(self, rows: dict[str, list[Row]]) -> None:
        """Find out whether rows could be stored, without storing them; raises as `write` does."""
        conn = self.connect()
        try:
            with conn.cursor() as cursor:
                cursor.execute("BEGIN")
                for _, statement in prepare(rows):
                    cursor.execute(statement)
                cursor.execute("ROLLBACK")
        except psycopg2.Error as error:
            self._fail(error)

    def _rolled_back(self) -> bool:
        """Whether the connection is ready for the next transaction."""
        try:
            assert self._conn is not None
            with self._conn.cursor() as cursor:
                cursor.execute("ROLLBACK")
        except psycopg2.Error:
            return False
        return True

    def _fail(self, error: psycopg2.Error) -> NoReturn:
        """Leave no half-open transaction and say whose fault it is."""
        state = error.pgcode or ""
        data = bool(state) and state[:2] not in _NOT_THE_DATA and state not in _CORRUPTED
        if not data or not self._rolled_back():
            self.close()
            raise SinkUnavailable(f"database: {str(error).strip()}") from error
        refusal = ValueError if state[:2] in _THE_DATA else UncertainError
        raise refusal(f"the database refused it: {state}: {str(error).strip()}") from error

    def abort(self) -> None:
        """From another thread: make a statement that waits for a database which does not answer fail now."""
        conn = self._conn
        if conn is not None and not conn.closed:
            with (
                contextlib.suppress(OSError, psycopg2.Error),
                socket.socket(fileno=os.dup(conn.fileno())) as line,
            ):
                line.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection; the next write opens a new one."""
        if self._conn is not None:
            self._conn.close()
        self._conn = None


def _run(cursor: Any, statements: Statements) -> dict[str, int]:
    stored = {}
    if len(statements) > 1:
        cursor.execute("BEGIN")
    for name, statement in statements:
        cursor.execute(statement)
        stored[name] = cursor.rowcount
    if len(statements) > 1:
        cursor.execute("COMMIT")
    return stored


def _by_table(rows: dict[str, list[Row]]) -> Iterable[tuple[Table, Sequence[Row]]]:
    for kind, part in rows.items():
        if kind == "state":
            yield _PACK, _merged([row[:-1] for row in part], 2)
            published = [(r[0], r[1], r[3], r[-1]) for r in part if r[3] is not None and r[-1] is not None]
            yield PACK_BOOT, _merged(published, 3)
        else:
            yield TABLES[kind], part


def _merged(rows: Iterable[Row], key_columns: int) -> list[Row]:
    """One row for each key, the later message over the earlier: an upsert cannot touch a row twice in one statement."""
    latest: dict[Row, Row] = {}
    for row in rows:
        old = latest.get(row[:key_columns])
        if old is not None:
            row = tuple(old[i] if value is None else value for i, value in enumerate(row))
        latest[row[:key_columns]] = row
    return list(latest.values())
