"""The bridge's rows/s beside bare insert loops: the same messages, the same PostgreSQL, one after the other.

The twin messages are recorded from a running agent, and made into more by giving them another `boot`. They wait in the
broker when the bridge starts, so that no load source shares the CPU with it.
"""

from __future__ import annotations

import io
import pickle
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import psutil

from bench import wire
from bench.measure import Load, Plan, Rig, drained, say
from bench.names import BOOT
from bench.systems import SYSTEMS, Process
from tests import servers

BATCHES = (500, 1000, 5000)
"""Rows in one statement of the bare loops; the best counts."""
RECORDED = 10_000
PACKS = 1000
_BOOT = f'"boot":{BOOT}'.encode()

Message = tuple[str, bytes]


class BridgeResult(msgspec.Struct, kw_only=True):
    """One round. CPU in µs a row, of the program and of the database's processes."""

    rows: int
    row_bytes: int
    bridge_rows_s: float
    bridge_cpu_us: float
    bridge_database_us: float
    bridge_rss_mb: float
    unnest_rows_s: float
    unnest_batch: int
    unnest_cpu_us: float
    copy_rows_s: float
    copy_batch: int
    copy_cpu_us: float
    missing: int


def record(path: Path) -> list[Message]:
    """Twin messages as the agent publishes them."""
    agent = SYSTEMS["agent"]
    load = Load(packs=PACKS)
    with servers.mosquitto() as broker, tempfile.TemporaryDirectory(prefix="voltflow-bench-") as folder:
        rig = Rig(broker, load, Plan(), Path(folder))
        rig.publish_nameplates()
        with agent.running(broker.port) as process, rig.board(10, 0) as board:
            filters = agent.out_filters()[:1]
            with rig.sink(board, filters, 0, record=RECORDED + 1, record_path=str(path)):
                rig.wait_until_ready(board, process)
                with rig.source(board) as sender:
                    board.set("go", 1)
                    servers.wait_until(path.exists, "twin messages to be recorded", 60)
                    board.set("stop", 1)
                    drained(board, sender)
    messages: list[Message] = pickle.loads(path.read_bytes())
    return [message for message in messages if b'"seq":0,' not in message[1]][:RECORDED]


def copies(messages: list[Message], rows: int) -> list[Message]:
    """`rows` different messages made of those recorded."""
    made: list[Message] = []
    for again in range(-(-rows // len(messages))):
        boot = f'"boot":{BOOT + again}'.encode()
        made += [(topic, payload.replace(_BOOT, boot)) for topic, payload in messages]
    return made[:rows]


def measure_bridge(rows: int) -> BridgeResult:
    """Bare loops and bridge on one database server."""
    with tempfile.TemporaryDirectory(prefix="voltflow-bench-") as folder, servers.postgres() as server:
        messages = copies(record(Path(folder) / "twin.pickle"), rows)
        database_us = _Database(server)
        say(f"  bare loops: {len(messages)} rows")
        decoded = _decoded(messages)
        unnest = max(_bare(server, database_us, decoded, _unnest_loop, batch) for batch in BATCHES)
        copy = max(_bare(server, database_us, decoded, _copy_loop, batch) for batch in BATCHES)
        say("  the bridge")
        bridge = _bridge(server, database_us, messages, Path(folder))
    return BridgeResult(
        rows=rows, row_bytes=sum(len(payload) for _, payload in messages[:1000]) // min(1000, len(messages)),
        unnest_rows_s=unnest[0], unnest_batch=unnest[1], unnest_cpu_us=unnest[2],
        copy_rows_s=copy[0], copy_batch=copy[1], copy_cpu_us=copy[2], **bridge,
    )  # fmt: skip


class _Database:
    """CPU of PostgreSQL's processes; those that have ended count by their parent's account of its children."""

    def __init__(self, server: servers.Postgres) -> None:
        self._root = psutil.Process(server.pid)

    def cpu_s(self) -> float:
        times = self._root.cpu_times()
        total = times.user + times.system + times.children_user + times.children_system
        for child in self._root.children(recursive=True):
            times = child.cpu_times()
            total += times.user + times.system
        return float(total)


def _decoded(messages: list[Message]) -> list[Any]:
    from cloud.rows import decode
    from voltflow.message import Msg

    return [decode(Msg(topic, payload))[1].row for topic, payload in messages]


# -- bare loops -----------------------------------------------------------------------------------------------------


def _bare(
    server: servers.Postgres, database: _Database, rows: list[Any], loop: Callable[[Any, list[Any], int], None], batch: int
) -> tuple[float, int, float]:  # fmt: skip
    """Rows/s, the batch, CPU of database and client in µs a row; into an empty table of the real schema."""
    from cloud.history import History

    with servers.database(server) as dsn:
        history = History(dsn)
        connection = history.connect()
        cpu, started = database.cpu_s() + time.process_time(), time.monotonic()
        loop(connection, rows, batch)
        took_s = time.monotonic() - started
        cpu = database.cpu_s() + time.process_time() - cpu
        with connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM telemetry")
            assert cursor.fetchone() == (len(rows),), "the bare loop lost rows"
        history.close()
    return len(rows) / took_s, batch, cpu / len(rows) * 1e6


def _unnest_loop(connection: Any, rows: list[Any], batch: int) -> None:
    """The bridge's own statement, rows to array literals included, and nothing else."""
    from cloud.history import _execute
    from cloud.rows import TABLES

    with connection.cursor() as cursor:
        for start in range(0, len(rows), batch):
            cursor.execute(_execute(TABLES["twin"], rows[start : start + batch]))


def _copy_loop(connection: Any, rows: list[Any], batch: int) -> None:
    """COPY in text form, the formatting included. It knows no ON CONFLICT: a redelivered row would stop it."""
    from cloud.rows import TABLES

    columns = TABLES["twin"].columns
    kinds = [column.kind for column in columns]
    statement = f"COPY telemetry ({', '.join(column.name for column in columns)}) FROM STDIN"
    with connection.cursor() as cursor:
        for start in range(0, len(rows), batch):
            lines = ["\t".join(map(_copy_text, row, kinds)) for row in rows[start : start + batch]]
            cursor.copy_expert(statement, io.StringIO("\n".join(lines) + "\n"))


def _copy_text(value: Any, kind: str) -> str:
    if value is None:
        return "\\N"
    if kind == "ms":
        return _timestamp(value)
    if kind == "list":
        return "{" + ",".join(value) + "}"
    if isinstance(value, str):
        return value.replace("\\", "\\\\")
    return str(value)


def _timestamp(value: int) -> str:
    seconds, ms = divmod(value, 1000)
    return f"{time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime(seconds))}.{ms:03d}+00"


# -- the bridge -----------------------------------------------------------------------------------------------------


def _bridge(
    server: servers.Postgres, database: _Database, messages: list[Message], folder: Path
) -> dict[str, Any]:
    import psycopg2

    options = {"max_queued_messages": "0", "max_queued_bytes": "0"}
    with servers.database(server) as dsn, servers.Mosquitto(**options) as broker:
        _start(broker, dsn, folder, messages[:1]).stop()  # its session and its schema stay
        wire.publish_all(broker.port, "bench-twins", messages[1:])
        connection = psycopg2.connect(dsn)
        connection.autocommit = True
        with connection.cursor() as cursor:
            cpu = database.cpu_s()
            process = _launch(broker, dsn, folder)
            try:
                result = _watch_rows(cursor, process, database, len(messages), cpu)
            finally:
                process.stop()
        connection.close()
    return result


def _watch_rows(
    cursor: Any, process: Process, database: _Database, rows: int, cpu_before: float
) -> dict[str, Any]:
    """Rows/s from the first rows that are seen to the last."""
    seen: list[tuple[float, int, float]] = []
    deadline = time.monotonic() + 60 + rows / 500
    while time.monotonic() < deadline:
        cursor.execute("SELECT count(*) FROM telemetry")
        count = cursor.fetchone()[0]
        seen.append((time.monotonic(), count, process.cpu_s()))
        if count >= rows:
            break
        process.check()
        time.sleep(0.1)
    database_us = (database.cpu_s() - cpu_before) / rows * 1e6
    first = next((s for s in seen if s[1] > 1), seen[-1])
    last = next((s for s in seen if s[1] >= seen[-1][1]), seen[-1])
    count = max(1, last[1] - first[1])
    return {
        "bridge_rows_s": count / max(1e-6, last[0] - first[0]),
        "bridge_cpu_us": (last[2] - first[2]) / count * 1e6,
        "bridge_database_us": database_us,
        "bridge_rss_mb": process.rss_mb(),
        "missing": rows - seen[-1][1],
    }


def _launch(broker: servers.Mosquitto, dsn: str, folder: Path) -> Process:
    command = [
        sys.executable, "-m", "cloud.cli", "run", "--name", "bench", "--mqtt-port", str(broker.port),
        "--metrics-port", "0", "--state-dir", str(folder / "bridge"),
    ]  # fmt: skip
    return Process(command, folder, "bridge", {"VOLTFLOW_BRIDGE_DATABASE": dsn})


def _start(broker: servers.Mosquitto, dsn: str, folder: Path, first: list[Message]) -> Process:
    """A bridge that has stored its first message."""
    import psycopg2

    process = _launch(broker, dsn, folder)

    def stored() -> bool:
        process.check()
        wire.publish_all(broker.port, "bench-first", first)
        connection = psycopg2.connect(dsn)
        try:
            with connection.cursor() as cursor:
                cursor.execute("SELECT to_regclass('telemetry')")
                if cursor.fetchone() == (None,):
                    return False
                cursor.execute("SELECT count(*) FROM telemetry")
                return cursor.fetchone() != (0,)
        finally:
            connection.close()

    servers.wait_until(stored, "the bridge's first row", 60, 0.2)
    return process
