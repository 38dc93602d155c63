"""The `timescale out` node: every message one row in PostgreSQL or TimescaleDB."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import field
from typing import TYPE_CHECKING, Any

from cloud.latency import LatencyHistogram, Tally
from voltflow.engine.network_sink import NetworkSink
from voltflow.message import Msg
from voltflow.node import Context, Rejected, SinkUnavailable, config, node

if TYPE_CHECKING:
    from cloud.history import History
    from cloud.history_writer import HistoryWriter

log = logging.getLogger(__name__)

STOP_TIMEOUT_S = 2.0
"""When stopping, a statement that the database does not answer gets this long before it is given up."""


@node("timescale out", category="storage", color="#8fbcbb", icon="db.svg")
class TimescaleOut(NetworkSink):
    """Store messages in PostgreSQL, with TimescaleDB where the server has it.

    The topic says the table: twin, alert, dead, loss, state. What waits is stored in transactions of up to 1000 rows.
    Redelivery never makes a second row of a message with a key. While the database is away nothing is lost: the batch
    waits and the broker holds the rest. A row that the database refuses becomes a dead letter, the others are stored;
    an error that may be the database's own (SQLSTATE not of class 22 or 23) counts as the row's when another row of the
    batch could be stored, or for some seconds a plain one of our own, which is taken back.
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
    tally: Tally = field(default_factory=Tally)
    refused: int = 0
    error: str = ""

    async def start(self, ctx: Context) -> None:
        from cloud.history import History
        from cloud.history_writer import HistoryWriter

        self._history: History = History(
            self.database, migrate=self.migrate, connect_timeout_s=self.connect_timeout_s
        )
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="timescale-out")
        self._preparing = ThreadPoolExecutor(1, thread_name_prefix="timescale-prepare")
        self._writer: HistoryWriter = HistoryWriter(self._history, self.tally, self._preparing.submit)
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
        try:
            refused = self._writer.write(msgs)
        except SinkUnavailable as error:
            self.error = str(error)
            raise
        self.error = ""
        if refused:
            self.refused += len(refused)
            raise Rejected(refused)

    @property
    def rows(self) -> Counter[str]:
        """New rows by table."""
        return self.tally.rows

    @property
    def again(self) -> Counter[str]:
        """Messages that were in the history already, by table."""
        return self.tally.again

    @property
    def latency(self) -> LatencyHistogram:
        """From the device's publish to the commit."""
        return self.tally.latency

    async def stop(self) -> None:
        closing = asyncio.get_running_loop().run_in_executor(self._thread, self._history.close)
        done, _ = await asyncio.wait({closing}, timeout=STOP_TIMEOUT_S)
        if not done:
            self._history.abort()
        await closing
        self._thread.shutdown()
        self._preparing.shutdown()

    def trouble(self) -> str:
        return self.error

    def status(self) -> dict[str, Any]:
        return {
            "connected": self._history.connected,
            "rows": dict(self.rows),
            "redelivered": dict(self.again),
            "refused": self.refused,
            "connects": self._history.connects,
            "conflicts": self._history.conflicts,
            "error": self.error,
            "latency_ms": self.latency.quantiles_ms(0.5, 0.99),
        }
