"""Brings a database to the schema of this program: numbered SQL files, each applied once, in one transaction.

Deliberately tiny instead of a migration tool: the files are plain SQL that `psql` can run, there is no way down, and
several bridges may start at once (an advisory lock makes them take turns).
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from pathlib import Path

from psycopg2.extensions import connection

log = logging.getLogger(__name__)

SCHEMA_DIR = Path(__file__).parent / "schema"
LOCK_KEY = 0x766F6C74666C6F77 >> 1
"""The advisory lock of all runners: "voltflow" in ASCII, halved to fit a signed 64-bit number."""

_NAME = re.compile(r"(\d{4})_([a-z0-9_]+)\.sql")


class SchemaError(Exception):
    """The database's schema and this program do not fit; the message says what to do."""


@dataclass(frozen=True)
class Migration:
    """One numbered file."""

    version: int
    name: str
    sql: str


def migrations(folder: Path = SCHEMA_DIR) -> list[Migration]:
    """The files in order; raises SchemaError where a number is missing, doubled or a name does not fit."""
    found = []
    for path in sorted(folder.glob("*.sql")):
        match = _NAME.fullmatch(path.name)
        if match is None:
            raise SchemaError(f"{path.name}: a schema file is named like 0001_what.sql")
        found.append(Migration(int(match[1]), match[2], path.read_text("utf-8")))
    if [item.version for item in found] != list(range(1, len(found) + 1)):
        raise SchemaError(f"the schema files in {folder} are not numbered 1, 2, 3, … without a gap")
    return found


def current_version(conn: connection) -> int:
    """The schema version of the database; 0 when it was never migrated."""
    with conn.cursor() as cursor:
        cursor.execute("SELECT to_regclass('schema_version') IS NOT NULL")
        if not _first(cursor.fetchone()):
            return 0
        cursor.execute("SELECT coalesce(max(version), 0) FROM schema_version")
        return int(_first(cursor.fetchone()))


def migrate(conn: connection, folder: Path = SCHEMA_DIR) -> list[Migration]:
    """Apply what is missing and return it; a database newer than this program is refused.

    Safe to run from several programs at once and again at every start.
    """
    known = migrations(folder)
    was_autocommit, conn.autocommit = conn.autocommit, False
    applied = []
    try:
        for item in known:
            if _apply(conn, item, len(known)):
                log.info("database schema: applied %04d_%s", item.version, item.name)
                applied.append(item)
    finally:
        if not conn.closed:
            conn.rollback()
            conn.autocommit = was_autocommit
    return applied


def _apply(conn: connection, item: Migration, newest: int) -> bool:
    """One file in one transaction, unless the database has it; the lock ends with the transaction."""
    if _checked_version(conn, newest) >= item.version:
        conn.rollback()
        return False
    with conn, conn.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", (LOCK_KEY,))
        # Before the second look: a session that has seen that the table is not there goes on believing it (its
        # catalog cache) until it takes a lock on a relation or schema, which an advisory lock is not.
        cursor.execute(
            "CREATE TABLE IF NOT EXISTS schema_version (version integer PRIMARY KEY, name text NOT NULL, "
            "applied timestamptz NOT NULL DEFAULT now())"
        )
        if _checked_version(conn, newest) >= item.version:
            return False
        cursor.execute(item.sql)
        cursor.execute(
            "INSERT INTO schema_version (version, name) VALUES (%s, %s)", (item.version, item.name)
        )
    return True


def _checked_version(conn: connection, newest: int) -> int:
    version = current_version(conn)
    if version > newest:
        raise SchemaError(
            f"the database has schema version {version}, this program knows up to {newest}: upgrade voltflow"
        )
    return version


def _first(row: tuple[object, ...] | None) -> int:
    assert row is not None
    return int(row[0])  # type: ignore[call-overload,no-any-return]
