"""The `timescale out` node: every message one row in PostgreSQL or TimescaleDB."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import field
from typing import TYPE_CHECKING, Any

from cloud.latency import LatencyHistogram
from voltflow.message import Msg
from voltflow.node import Context, Rejected, Sink, SinkUnavailable, config, node

if TYPE_CHECKING:
    from cloud.history import History
    from cloud.rows import Decoded

log = logging.getLogger(__name__)

STOP_TIMEOUT_S = 2.0
"""When stopping, a statement that the database does not answer gets this long before it is given up."""

Item = tuple[Msg, str, "Decoded"]
"""A message, the kind of its topic, its row."""


@node("timescale out", category="storage", color="#8fbcbb", icon="db.svg")
class TimescaleOut(Sink):
    """Store messages in PostgreSQL, with TimescaleDB where the server has it.

    The topic says the table: twin, alert, dead, loss, state. What waits is one transaction. Redelivery never makes a
    second row of a message with a key. While the
    database is away nothing is lost: the batch waits and the broker holds the rest. A row that the database refuses
    becomes a dead letter, the others are stored; an error that may be the database's own (SQLSTATE not of class 22 or
    23) counts as the row's only when another row of the batch could be stored.
    """

    database: str = config(
        help="connection string of the database",
        secret=True,
        example="postgresql://voltflow@db.example.org/voltflow",
    )
    migrate: bool = config(default=True, help="bring the schema up to date when connecting", advanced=True)
    connect_timeout_s: int = config(
        5, help="wait for a connection at most", unit="s", low=1, high=300, advanced=True
    )

    # state
    latency: LatencyHistogram = field(default_factory=LatencyHistogram)
    rows: Counter[str] = field(default_factory=Counter)
    again: Counter[str] = field(default_factory=Counter)
    refused: int = 0
    error: str = ""

    async def start(self, ctx: Context) -> None:
        from cloud.history import History

        self._history: History = History(
            self.database, migrate=self.migrate, connect_timeout_s=self.connect_timeout_s
        )
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="timescale-out")
        # The first connection is made in the background, so that a wrong setting shows before the first message.
        self._first = asyncio.get_running_loop().run_in_executor(self._thread, self._try_connect)

    def _try_connect(self) -> None:
        try:
            self._history.connect()
            log.info("%s: connected, the schema is up to date", self.label)
        except SinkUnavailable as error:
            self.error = str(error)
            log.warning("%s: not available yet, batches will wait: %s", self.label, error)

    async def write(self, msgs: list[Msg]) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, self._write, msgs)

    def _write(self, msgs: list[Msg]) -> None:
        refused: list[tuple[Msg, str]] = []
        doubtful: list[tuple[Msg, str]] = []
        items = _decoded(msgs, refused)
        try:
            if not self._store(items, refused, doubtful):
                self._blame_the_database(doubtful)
        except SinkUnavailable as error:
            self.error = str(error)
            raise
        self.error = ""
        refused += doubtful
        if refused:
            self.refused += len(refused)
            raise Rejected(refused)

    def _blame_the_database(self, doubtful: list[tuple[Msg, str]]) -> None:
        if doubtful:
            self._history.close()
            raise SinkUnavailable(f"database: no row can be stored: {doubtful[0][1]}")

    def _store(
        self, items: list[Item], refused: list[tuple[Msg, str]], doubtful: list[tuple[Msg, str]]
    ) -> int:
        """Commit the items and return how many; where the database refuses, halve until the refused ones stand alone.

        In `doubtful` is what it refused for a reason that need not be the row's: when no other row of the batch can
        be stored it is the database, and a whole stream must not become dead letters for that.
        """
        from cloud.history import UncertainError

        if not items:
            return 0
        rows: dict[str, list[Any]] = {}
        for _, kind, decoded in items:
            rows.setdefault(kind, []).append(decoded.row)
        try:
            stored = self._history.write(rows)
        except ValueError as error:
            if len(items) == 1:
                judged = doubtful if isinstance(error, UncertainError) else refused
                judged.append((items[0][0], str(error)))
                return 0
            middle = len(items) // 2
            first = self._store(items[:middle], refused, doubtful)
            return first + self._store(items[middle:], refused, doubtful)
        self._count(items, rows, stored)
        return len(items)

    def _count(self, items: list[Item], rows: dict[str, list[Any]], stored: dict[str, int]) -> None:
        now_ms = time.time() * 1000
        self.latency.observe([now_ms - d.sent_ms for _, _, d in items if d.sent_ms is not None])
        self.rows.update(stored)
        if "twin" in rows:
            self.again["telemetry"] += len(rows["twin"]) - stored["telemetry"]

    async def stop(self) -> None:
        closing = asyncio.get_running_loop().run_in_executor(self._thread, self._history.close)
        done, _ = await asyncio.wait({closing}, timeout=STOP_TIMEOUT_S)
        if not done:
            self._history.abort()
        await closing
        self._thread.shutdown()

    def status(self) -> dict[str, Any]:
        return {
            "connected": self._history.connected,
            "rows": dict(self.rows),
            "redelivered": dict(self.again),
            "refused": self.refused,
            "error": self.error,
            "latency_ms": self.latency.quantiles_ms(0.5, 0.99),
        }


def _decoded(msgs: list[Msg], refused: list[tuple[Msg, str]]) -> list[Item]:
    from cloud.rows import decode

    items: list[Item] = []
    for msg in msgs:
        try:
            items.append((msg, *decode(msg)))
        except ValueError as error:
            refused.append((msg, str(error)))
    return items
