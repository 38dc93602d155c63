"""Durable store-and-forward: messages that wait on the disk for an uplink that is away.

    spool = Spool(SpoolOptions(Path("spool"), 10**9, 7 * 86400.0, 10**8, gateway="gw1"))
    await spool.open()
    await spool.append([Record("ev/v1/demo/SIM000001/twin", b"{}")])   # returns when it is safe on the disk
    chunk = await spool.read()                                         # the oldest, alerts and the like first
    await spool.delivered(chunk)

The bytes on disk are described in `spool_format`, for the owner of a gateway in docs/spool.md.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

from voltflow.message import now_ms
from voltflow.spool.disk import SpoolCounters
from voltflow.spool.format import Record
from voltflow.spool.store import Backlog, Chunk, SpoolFull, SpoolOptions, SpoolStore

__all__ = [
    "Backlog",
    "Chunk",
    "Record",
    "Spool",
    "SpoolCounters",
    "SpoolFull",
    "SpoolOptions",
]

T = TypeVar("T")
GROUP_BYTES = 4 * 1024 * 1024
"""Payload that one group commit takes at most, so that one append never waits for a very long write."""
COMMIT_PERIOD_S = 0.025
"""From the end of one group commit to the next, unless something else is asked for: during an outage nobody waits for a
single message, and each fsync writes a page of flash and the file system's journal."""


class _Append(NamedTuple):
    records: list[Record]
    future: asyncio.Future[None]


class _Call(NamedTuple):
    function: Callable[[], Any]
    future: asyncio.Future[Any]


class Spool:
    """The spool of one sink. One thread does all of the disk's work, so no call blocks the event loop.

    Appends that wait while the thread is busy share the next fsync, as do those within COMMIT_PERIOD_S of the last. A call that is cancelled may have been done all
    the same: an append is then kept whole or not at all.
    """

    def __init__(self, options: SpoolOptions, *, now_ms: Callable[[], int] = now_ms) -> None:
        self._store = SpoolStore(options, now_ms)
        self._jobs: queue.SimpleQueue[_Append | _Call | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="spool", daemon=True)
        self._backlog = Backlog()
        self._open = False
        self._next_commit_s = 0.0

    @property
    def counters(self) -> SpoolCounters:
        return self._store.counters

    @property
    def limit_bytes(self) -> int:
        """What it may hold, all classes together."""
        options = self._store.options
        return options.telemetry_bytes + options.protected_bytes

    @property
    def backlog(self) -> Backlog:
        """What waits, as of the last call that was done."""
        return self._backlog

    async def open(self) -> None:
        """Find what an earlier run left. Damage never fails it; a folder that cannot be made raises OSError."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()
        try:
            await self._call(self._store.open)
        except OSError:
            self._jobs.put(None)
            raise
        self._open = True

    async def append(self, records: list[Record]) -> None:
        """Keep the records; returns when they are safe on the disk, raises SpoolFull when none of them was kept."""
        self._check_open()
        if records:
            future = self._loop.create_future()
            self._jobs.put(_Append(records, future))
            await future

    async def read(self, limit: int = 100, max_bytes: int = 256 * 1024) -> Chunk | None:
        """The oldest messages not yet delivered, protected ones first; the same again until `delivered`."""
        self._check_open()
        return await self._call(lambda: self._store.read(limit, max_bytes))

    async def delivered(self, chunk: Chunk) -> None:
        """The far side has these messages; the next `read` gives those behind them."""
        self._check_open()
        await self._call(lambda: self._store.delivered(chunk))

    async def close(self) -> None:
        """Wait for what is under way, and end the thread. What was not delivered stays on the disk."""
        if self._open:
            self._open = False
            await self._call(self._store.close)
            self._jobs.put(None)
            await asyncio.to_thread(self._thread.join)

    def _check_open(self) -> None:
        if not self._open:
            raise RuntimeError("this spool is not open")

    async def _call(self, function: Callable[[], T]) -> T:
        future: asyncio.Future[T] = self._loop.create_future()
        self._jobs.put(_Call(function, future))
        return await future

    # In the thread

    def _work(self) -> None:
        job = self._jobs.get()
        while job is not None:
            following: _Append | _Call | None = None
            if isinstance(job, _Append):
                group, following, ended = self._gather(job)
                self._append(group)
                self._next_commit_s = time.monotonic() + COMMIT_PERIOD_S
                if ended:
                    return
            else:
                self._answer(job.future, *self._outcome(job.function))
            job = following or self._jobs.get()

    def _gather(self, first: _Append) -> tuple[list[_Append], _Append | _Call | None, bool]:
        """The appends that wait, the job behind them, and whether the end is."""
        group, size = [first], _payload(first)
        while size < GROUP_BYTES:
            try:
                job = self._jobs.get(timeout=max(0.0, self._next_commit_s - time.monotonic()))
            except queue.Empty:
                return group, None, False
            if not isinstance(job, _Append):
                return group, job, job is None
            group.append(job)
            size += _payload(job)
        return group, None, False

    def _append(self, group: list[_Append]) -> None:
        group = [job for job in group if not job.future.cancelled()]
        if not group:
            return
        results, error = self._outcome(lambda: self._store.append([job.records for job in group]))
        if (
            error is not None and len(group) > 1
        ):  # a record that cannot be written at all: only its own call fails
            for job in group:
                self._append([job])
            return
        failures: Sequence[BaseException | None] = results or [error]
        for job, failure in zip(group, failures, strict=True):
            self._answer(job.future, None, failure)

    def _outcome(self, function: Callable[[], T]) -> tuple[T | None, BaseException | None]:
        try:
            return function(), None
        except BaseException as error:  # noqa: BLE001 - whoever waits for it gets it
            return None, error
        finally:
            self._backlog = self._store.backlog()

    def _answer(self, future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
        def settle() -> None:
            if future.done():
                return
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)

        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(settle)


def _payload(job: _Append) -> int:
    return sum(len(record.payload) for record in job.records)
