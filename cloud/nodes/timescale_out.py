"""The `timescale out` node: every message one row in PostgreSQL or TimescaleDB."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import field
from typing import TYPE_CHECKING, Any, NamedTuple

from cloud.latency import LatencyHistogram
from voltflow.message import Msg
from voltflow.node import Context, Rejected, Sink, SinkUnavailable, config, node

if TYPE_CHECKING:
    from cloud.history import History, Statements
    from cloud.rows import Decoded

log = logging.getLogger(__name__)

STOP_TIMEOUT_S = 2.0
"""When stopping, a statement that the database does not answer gets this long before it is given up."""

TRANSACTION_ROWS = 1000
"""Rows of one transaction: a write of more is prepared a transaction ahead of the one that the database executes."""

Item = tuple[Msg, str, "Decoded"]
"""A message, the kind of its topic, its row."""

Refused = list[tuple[Msg, str]]


class Prepared(NamedTuple):
    """Messages ready to be stored in one transaction; no statements where a row's values do not allow them."""

    items: list[Item]
    rows: dict[str, list[Any]]
    statements: Statements | None
    refused: Refused


@node("timescale out", category="storage", color="#8fbcbb", icon="db.svg")
class TimescaleOut(Sink):
    """Store messages in PostgreSQL, with TimescaleDB where the server has it.

    The topic says the table: twin, alert, dead, loss, state. What waits is stored in transactions of up to 1000 rows.
    Redelivery never makes a second row of a message with a key. While the database is away nothing is lost: the batch
    waits and the broker holds the rest. A row that the database refuses
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
        self._preparing = ThreadPoolExecutor(1, thread_name_prefix="timescale-prepare")
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
        refused: Refused = []
        doubtful: Refused = []
        try:
            if not sum([self._store_prepared(part, refused, doubtful) for part in self._prepared(msgs)]):
                self._blame_the_database(doubtful)
        except SinkUnavailable as error:
            self.error = str(error)
            raise
        self.error = ""
        refused += doubtful
        if refused:
            self.refused += len(refused)
            raise Rejected(refused)

    def _prepared(self, msgs: list[Msg]) -> Iterator[Prepared]:
        """The messages in parts; while one is stored the next is prepared in another thread."""
        parts = [msgs[start : start + TRANSACTION_ROWS] for start in range(0, len(msgs), TRANSACTION_ROWS)]
        if len(parts) == 1:
            yield _prepare(msgs)
            return
        following = self._preparing.submit(_prepare, parts[0])
        for part in parts[1:]:
            prepared, following = following.result(), self._preparing.submit(_prepare, part)
            yield prepared
        yield following.result()

    def _store_prepared(self, part: Prepared, refused: Refused, doubtful: Refused) -> int:
        refused += part.refused
        if part.statements is not None:
            try:
                stored = self._history.execute(part.statements)
            except ValueError:
                pass  # whose fault it is shows when they are stored one by one
            else:
                self._count(part.items, part.rows, stored)
                return len(part.items)
        return self._store(part.items, refused, doubtful)

    def _blame_the_database(self, doubtful: Refused) -> None:
        if doubtful:
            self._history.close()
            raise SinkUnavailable(f"database: no row can be stored: {doubtful[0][1]}")

    def _store(self, items: list[Item], refused: Refused, doubtful: Refused) -> int:
        """Commit the items and return how many; where the database refuses, halve until the refused ones stand alone.

        In `doubtful` is what it refused for a reason that need not be the row's: when no other row of the batch can
        be stored it is the database, and a whole stream must not become dead letters for that.
        """
        from cloud.history import UncertainError

        if not items:
            return 0
        rows = _by_kind(items)
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
        self._preparing.shutdown()

    def status(self) -> dict[str, Any]:
        return {
            "connected": self._history.connected,
            "rows": dict(self.rows),
            "redelivered": dict(self.again),
            "refused": self.refused,
            "error": self.error,
            "latency_ms": self.latency.quantiles_ms(0.5, 0.99),
        }


def _prepare(msgs: list[Msg]) -> Prepared:
    from cloud.history import prepare

    refused: Refused = []
    items = _decoded(msgs, refused)
    rows = _by_kind(items)
    try:
        return Prepared(items, rows, prepare(rows), refused)
    except ValueError:
        return Prepared(items, rows, None, refused)


def _by_kind(items: list[Item]) -> dict[str, list[Any]]:
    rows: dict[str, list[Any]] = {}
    for _, kind, decoded in items:
        rows.setdefault(kind, []).append(decoded.row)
    return rows


def _decoded(msgs: list[Msg], refused: Refused) -> list[Item]:
    from cloud.rows import decode

    items: list[Item] = []
    for msg in msgs:
        try:
            items.append((msg, *decode(msg)))
        except ValueError as error:
            refused.append((msg, str(error)))
    return items
