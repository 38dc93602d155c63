"""Where the bridge writes to: is it there, does it take the bridge, is it up to date?"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from cloud.bridge import BridgeSettings, load_flow
from cloud.migrate import current_version, migrations
from cloud.rows import TABLES
from voltflow.doctor.checks import Finding, ok, problem, skipped, warning
from voltflow.node import process_env

if TYPE_CHECKING:
    from psycopg2.extensions import connection

CONNECT_S = 10
LEAST_POSTGRES = 140000
CLOCK_S = 5.0
SETTING = "database (VOLTFLOW_BRIDGE_DATABASE or database_file)"


# -- PostgreSQL ---------------------------------------------------------------------------------------------------


def database(settings: BridgeSettings) -> Iterator[Finding]:
    """The history's database, without writing to it."""
    if "timescale" not in settings.active_sinks:
        yield skipped("database is not set, or sinks leaves timescale out: no history")
        return
    import psycopg2

    try:
        conn = psycopg2.connect(
            settings.database, connect_timeout=CONNECT_S, application_name="voltflow doctor"
        )
    except psycopg2.Error as error:
        yield _unreachable(str(error).strip())
        return
    with contextlib.closing(conn):
        conn.set_session(readonly=True, autocommit=True)
        yield from _server(conn)
        yield from _schema(conn, settings)


def _unreachable(text: str) -> Finding:
    said = text.splitlines()[0] if text else "no reason given"
    low = text.lower()
    if "password authentication failed" in low or "no password supplied" in low:
        return problem(
            f"it does not take this user and password: {said}", f"correct {SETTING}, or ~/.pgpass, PGPASSWORD"
        )
    if "does not exist" in low and "role" in low:
        return problem(f"it does not know this user: {said}", f"createuser there, or correct {SETTING}")
    if "does not exist" in low and "database" in low:
        return problem(f"there is no such database: {said}", f"createdb there, or correct {SETTING}")
    if "pg_hba" in low:
        return problem(f"it does not let this machine in: {said}", "a line in the server's pg_hba.conf")
    if ("invalid" in low and ("dsn" in low or "option" in low)) or "missing" in low:
        return problem(
            "the connection string cannot be understood", f"correct {SETTING}: postgresql://user@host/name"
        )
    if "could not translate host name" in low:
        return problem(f"its host's name has no address: {said}", f"correct {SETTING}")
    return problem(
        f"it cannot be reached: {said}", f"systemctl status postgresql there; else correct {SETTING}"
    )


def _server(conn: connection) -> Iterator[Finding]:
    before_s = time.time()
    row = _row(conn, "SELECT current_setting('server_version'), current_setting('server_version_num')::int, "
                     "pg_is_in_recovery(), extract(epoch FROM clock_timestamp())::float8, current_user")  # fmt: skip
    middle_s = (before_s + time.time()) / 2
    version, number, standby, clock_s, user = row
    if number < LEAST_POSTGRES:
        yield warning(f"it is PostgreSQL {version}, tested is 14 and newer", "upgrade the server")
    else:
        yield ok(f"PostgreSQL {version} answers and takes {user!r}")
    if standby:
        yield problem("it is a standby, which takes no rows", f"name the primary in {SETTING}")
    if abs(off_s := middle_s - clock_s) > CLOCK_S:
        yield warning(f"this machine's clock is {off_s:+.0f} s off the database's", "timedatectl on both")
    yield from _timescale(conn)


def _timescale(conn: connection) -> Iterator[Finding]:
    row = _row(conn, "SELECT (SELECT default_version FROM pg_available_extensions WHERE name = 'timescaledb'), "
                     "(SELECT extversion FROM pg_extension WHERE extname = 'timescaledb')")  # fmt: skip
    available, installed = row
    if installed:
        yield ok(f"TimescaleDB {installed}")
    elif available:
        yield warning(f"TimescaleDB {available} is there, but not switched on in this database: plain tables are used",
                      "before the first migration: CREATE EXTENSION timescaledb, as a superuser")  # fmt: skip
    else:
        yield ok("no TimescaleDB: plain tables are used")


def _schema(conn: connection, settings: BridgeSettings) -> Iterator[Finding]:
    found, newest = current_version(conn), migrations()[-1].version
    if found > newest:
        yield problem(
            f"its schema is version {found}, this program knows up to {newest}", "upgrade voltflow here"
        )
        return
    if found < newest:
        state = (
            f"its schema is version {found}, this program's is {newest}" if found else "it has no tables yet"
        )
        yield from _may_migrate(conn, state, fresh=not found)
        return
    yield ok(f"its schema is up to date (version {found})")
    yield from _rights(conn, settings)


def _may_migrate(conn: connection, state: str, *, fresh: bool) -> Iterator[Finding]:
    may_create, schema, user = _row(conn, "SELECT coalesce(has_schema_privilege(current_schema(), 'CREATE'), false), "
                                          "coalesce(current_schema(), 'public'), current_user")  # fmt: skip
    owner = None if fresh else _row(conn, "SELECT pg_get_userbyid(relowner), pg_has_role(relowner, 'USAGE') "
                                          "FROM pg_class WHERE oid = to_regclass('telemetry')")  # fmt: skip
    if not may_create:
        yield problem(f"{state}, and {user!r} may make none in the schema {schema!r}",
                      f'GRANT CREATE ON SCHEMA {schema} TO "{user}"; or cloud-bridge migrate as their owner')  # fmt: skip
    elif owner is not None and not owner[1]:
        yield problem(f"{state}, and {user!r} is not the owner of its tables, {owner[0]!r} is",
                      f"cloud-bridge migrate as {owner[0]}")  # fmt: skip
    else:
        yield warning(
            f"{state}; the bridge brings it up to date when it starts", "cloud-bridge migrate does it now"
        )


def _wanted(settings: BridgeSettings) -> dict[str, list[str]]:
    """By table what the bridge does with it: inserts into all, what else each is used for, what retention takes out."""
    changing = {"pack", "pack_boot", "dead_letter", "alert_now"}
    kept = {"telemetry": settings.keep_telemetry_days, "alert": settings.keep_alerts_days,
            "dead_letter": settings.keep_dead_letters_days, "loss": settings.keep_losses_days}  # fmt: skip
    gone = {table for table, days in kept.items() if days and settings.retention_period_s}
    if gone - {"alert"}:
        gone.add("expired")
    tables = [*dict.fromkeys(table.name for table in TABLES.values()), "pack_boot", "alert_now", "expired"]
    return {
        name: [
            "SELECT",
            *(["INSERT"] if name != "expired" or name in gone else []),
            *(["UPDATE"] if name in changing else []),
            *(["DELETE"] if name in gone else []),
        ]
        for name in tables
    }


def _rights(conn: connection, settings: BridgeSettings) -> Iterator[Finding]:
    wanted = _wanted(settings)
    missing: dict[str, list[str]] = {}
    user = ""
    for table, rights in wanted.items():
        for right in rights:
            may, user = _row(conn, "SELECT has_table_privilege(%s, %s), current_user", table, right)
            if not may:
                missing.setdefault(table, []).append(right)
    if not missing:
        yield ok(f"{user!r} may read and write its {len(wanted)} tables")
    for table, lacks in missing.items():
        yield problem(f"{user!r} may not {' and '.join(lacks)} in the table {table}",
                      f'GRANT {", ".join(wanted[table])} ON {table} TO "{user}"')  # fmt: skip
    yield from _owns_chunks(conn, settings)


def _owns_chunks(conn: connection, settings: BridgeSettings) -> Iterator[Finding]:
    """Chunks are dropped and compressed by the owner of the table alone."""
    if not settings.retention_period_s or not (
        settings.keep_telemetry_days or settings.compress_telemetry_days
    ):
        return
    owner, may, chunked = _row(conn, "SELECT pg_get_userbyid(relowner), pg_has_role(relowner, 'USAGE'), EXISTS (SELECT FROM "
                                     "pg_extension WHERE extname = 'timescaledb') FROM pg_class WHERE oid = to_regclass('telemetry')")  # fmt: skip
    if chunked and not may:
        yield problem(f"the table telemetry belongs to {owner!r}, so chunks of it cannot be dropped or compressed",
                      f'GRANT "{owner}" to the bridge\'s role; or keep_telemetry_days = 0 and compress_telemetry_days = 0')  # fmt: skip


def _row(conn: connection, sql: str, *values: str) -> tuple[Any, ...]:
    with conn.cursor() as cursor:
        cursor.execute(sql, values or None)
        return cursor.fetchone() or (None, None)


# -- Kafka and InfluxDB -------------------------------------------------------------------------------------------


def kafka(settings: BridgeSettings) -> Iterator[Finding]:
    """Whether the brokers answer, take the login and have the topics."""
    if "kafka" not in settings.active_sinks:
        yield skipped("kafka_bootstrap is not set, or sinks leaves kafka out")
        return
    import logging

    from kafka import KafkaConsumer
    from kafka.errors import KafkaError

    from cloud.kafka_client import KafkaNode

    logging.getLogger("kafka").setLevel(logging.CRITICAL)
    built = load_flow(settings).build(process_env(settings.variables()))
    node = next((wired.node for wired in built.values() if isinstance(wired.node, KafkaNode)), None)
    if node is None:
        yield skipped("the flow has no node for it")
        return
    timeout_ms = CONNECT_S * 1000
    try:
        consumer = KafkaConsumer(**node.client_options("voltflow-doctor"), group_id=None, bootstrap_timeout_ms=timeout_ms,
                                 request_timeout_ms=timeout_ms)  # fmt: skip
    except (KafkaError, OSError, ValueError) as error:
        yield problem(f"{settings.kafka_bootstrap}: {type(error).__name__}: {error}",
                      "kafka_bootstrap, kafka_security, kafka_user and kafka_password; is it up?")  # fmt: skip
        return
    try:
        there = consumer.topics()
    except KafkaError as error:
        yield problem(
            f"it does not tell its topics: {type(error).__name__}: {error}", "rights of kafka_user (DESCRIBE)"
        )
        return
    finally:
        consumer.close()
    missing = sorted(set(node.topics.values()) - set(there))
    if missing:
        yield warning(f"it answers, and has no topics {', '.join(missing)}",
                      "it makes them at the first message, or: kafka-topics --create --topic …")  # fmt: skip
    else:
        yield ok("it answers and has the topics")


def influx(settings: BridgeSettings) -> Iterator[Finding]:
    """Whether it answers and takes the token for the bucket: an empty write stores nothing."""
    if "influx" not in settings.active_sinks:
        yield skipped("influx_url is not set, or sinks leaves influx out")
        return
    import urllib.error
    import urllib.parse
    import urllib.request

    query = urllib.parse.urlencode(
        {"org": settings.influx_org, "bucket": settings.influx_bucket, "precision": "ms"}
    )
    url = f"{settings.influx_url.rstrip('/')}/api/v2/write?{query}"
    request = urllib.request.Request(url, data=b"", method="POST")  # noqa: S310 - an address of the settings
    request.add_header("Authorization", f"Token {settings.influx_token}")
    try:
        with urllib.request.urlopen(request, timeout=CONNECT_S) as answer:  # noqa: S310 - an address of the settings
            yield ok(f"it answers and takes writes ({answer.status})")
    except urllib.error.HTTPError as error:
        with error:
            yield _influx_refusal(settings, error.code, error.read(300).decode("utf-8", "replace"))
    except (OSError, ValueError) as error:
        yield problem(
            f"it cannot be reached: {getattr(error, 'reason', None) or error}", "influx_url; is it up?"
        )


def _influx_refusal(settings: BridgeSettings, code: int, said: str) -> Finding:
    match code:
        case 400:
            return ok("it answers and takes the token (an empty write is none)")
        case 401 | 403:
            return problem(
                f"it does not take the token ({code})",
                "set influx_token to one that may write to the bucket; influx auth list shows them",
            )
        case 404:
            return problem(f"it has no bucket {settings.influx_bucket!r} of {settings.influx_org!r}",
                           "influx_bucket and influx_org; influx bucket list")  # fmt: skip
    return problem(f"it answers {code}: {said}", "its log says why")
