"""What becomes of the held messages of a flow: they are written to disk in time, and forgotten there.

A held message keeps its batch unacknowledged for a moment; one that has left by then was never written. While the disk does
not take anything, all stay unacknowledged.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import sqlite3
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from voltflow.engine.held_store import HeldStore, Row, encode
from voltflow.engine.holding import Entry, Holding, Ticket
from voltflow.engine.sink_queue import Transaction
from voltflow.engine.timer import Timer

log = logging.getLogger(__name__)

HOLD_S: Final = 1.0
"""How long a held message stays unacknowledged before it goes to disk."""
HOLD_MESSAGES: Final = 250
"""Unacknowledged held messages of a flow at most, a quarter of the usual window: a delay must not stall its source."""
FORGET_S: Final = 0.25
"""How long a message that has left may stay on disk; after a crash it comes again."""
MOST_ON_DISK: Final = 100_000
"""Held messages on disk at most, for they are in memory too. The next ones stay unacknowledged: their sources wait."""
AGAIN_S = 5.0
"""When something that failed is tried again."""

Found = Callable[[Mapping[str, list[Row]]], None]
"""Told what an earlier run held, by node id."""


class Keeper:
    """The held messages of a flow. Use: `open`, a task of `run_until_cancelled`, `close`."""

    def __init__(self, store: HeldStore, timer: Timer, run: str) -> None:
        self.run = run
        self.error = ""
        """Why nothing can be written, while that is so."""
        self.on_disk = 0
        self.orphans: dict[str, int] = {}
        """Messages held for nodes that the flow does not have, by node id."""
        self.on_found: Found | None = None
        """Told of what could only be read later than at `open`."""
        self._store, self._timer = store, timer
        self._opened = self._full = False
        self._numbers = itertools.count(1)
        self._unsafe: deque[Entry] = deque()
        self._unwritable: list[Entry] = []
        self._forget: list[int] = []
        self._forget_s = 0.0
        self._work = asyncio.Event()
        self._writing = asyncio.Lock()

    # -- for holdings and their lines ------------------------------------------------------------------------------

    def now_s(self) -> float:
        return self._timer.now_s()

    def next_number(self) -> int:
        return next(self._numbers)

    @property
    def unsafe(self) -> int:
        """Held messages that are not acknowledged."""
        return sum(not entry.gone for entry in list(self._unsafe)) + len(self._unwritable)

    @property
    def path(self) -> Path:
        """The file they are kept in."""
        return self._store.path

    @property
    def is_full(self) -> bool:
        """Whether so many are on disk that more stay unacknowledged."""
        return self._full

    def describe(self) -> dict[str, Any]:
        """What is held, for people; may be asked in any thread."""
        return {
            "unacknowledged": self.unsafe, "on_disk": self.on_disk, "orphans": dict(self.orphans), "is_full": self._full,
            "error": self.error,
        }  # fmt: skip

    def hold(self, kept: Iterable[Entry], transaction: Transaction) -> None:
        """New entries of a batch: it waits for them."""
        ticket: Ticket | None = None
        first = not self._unsafe
        for entry in kept:
            ticket = ticket or Ticket(transaction, entry.holding.node.id)
            ticket.count += 1
            entry.ticket = ticket
            self._unsafe.append(entry)
        if first or len(self._unsafe) > HOLD_MESSAGES:
            self._work.set()

    def settle(self, gone: Iterable[Entry]) -> None:
        """Entries whose effect is safe further on."""
        for entry in gone:
            entry.gone = True
            entry.settle_ticket()
            if entry.row:
                self._forget_row(entry.row)

    def give_back(self, gone: Iterable[Entry], failure: BaseException) -> list[Entry]:
        """What the node gave out did not become safe: the source sends it again. What only the disk has is returned, if
        it can be tried again now; otherwise the next start takes it from there."""
        again = []
        for entry in gone:
            if entry.ticket is not None:
                entry.ticket.transaction.fail(failure)
                entry.ticket, entry.gone = None, True
            elif isinstance(failure, Exception):
                again.append(entry)
        return again

    def entry(self, holding: Holding, row: Row) -> Entry:
        """An entry of what is on disk. One from the future came when the clock was wrong: it counts from now."""
        entry = Entry(holding, row.group, row.msg, min(row.at_s, self.now_s()), self.now_s())
        entry.row = row.id
        return entry

    # -- life -----------------------------------------------------------------------------------------------------

    async def open(self) -> dict[str, list[Row]]:
        """What an earlier run held, by node id; while it cannot be read it is tried again, and `on_found` is told."""
        try:
            rows = await self._store.open()
        except Exception as error:  # noqa: BLE001 - a gateway whose disk has a problem runs on all the same
            self._failed(error)
            return {}
        self._opened = True
        self.on_disk = len(rows)
        return _by_node(rows)

    async def orphans_of(self, node_id: str) -> list[Row]:
        """What is held on disk for a node that the flow has now."""
        if not self.orphans.pop(node_id, 0):
            return []
        return [row for row in await self._store.read() if row.node == node_id]

    async def run_until_cancelled(self) -> None:
        """Write and forget; without this task nothing held becomes safe."""
        while True:
            if self.error:
                await asyncio.sleep(AGAIN_S)
            else:
                await self._timer.until(self._next_s(), self._work)
            self._work.clear()
            flushing = asyncio.create_task(self.flush(self.now_s() - HOLD_S), name="write held messages")
            try:
                await asyncio.shield(flushing)
            except asyncio.CancelledError:
                await flushing  # what the disk has taken must be known
                raise

    async def close(self) -> None:
        """Write everything that is held, and close the file."""
        await self.flush()
        with contextlib.suppress(OSError, sqlite3.Error):
            await self._store.close()

    def _next_s(self) -> float | None:
        times = [] if self._full else [_late_s(entry) for entry in self._unsafe if not entry.gone]
        if self._forget:
            times.append(self._forget_s + FORGET_S)
        return min(times, default=None)

    # -- writing --------------------------------------------------------------------------------------------------

    async def flush(self, before_s: float | None = None) -> None:
        """Write what is held since before a time (None: everything), and forget what has gone."""
        async with self._writing:
            if self._opened or await self._open_late():
                try:
                    await self._forget_gone()
                    await self._write(before_s)
                except Exception as error:  # noqa: BLE001 - whatever it is, what is held stays unacknowledged
                    self._failed(error)
            if before_s is None:
                self._give_up_unwritable()

    async def _open_late(self) -> bool:
        found = await self.open()
        if self._opened and self.on_found is not None:
            self.on_found(found)
        return self._opened

    async def _forget_gone(self) -> None:
        forget, self._forget = self._forget, []
        if not forget:
            return
        try:
            await self._store.remove(forget)
        except BaseException:
            self._forget = forget + self._forget
            raise
        self.on_disk -= len(forget)
        self._works_again()

    def _due(self, before_s: float | None) -> list[Entry]:
        """Take out what is to be written now.

        What the node has already let go is given a moment more, for it may be safe soon, unless others wait for what
        stays in the node: then that is written.
        """
        waiting = [entry for entry in self._unsafe if not entry.gone]
        if before_s is None:
            self._unsafe.clear()
            return waiting
        if len(waiting) > HOLD_MESSAGES:
            before_s = self.now_s()
        late = {entry.holding for entry in waiting if entry.leaving and entry.kept_s <= before_s}
        due = [
            entry for entry in waiting
            if (entry.kept_s <= before_s - HOLD_S if entry.leaving
                else entry.kept_s <= before_s or entry.holding in late)
        ]  # fmt: skip
        due = due[: self._room(len(due))]
        taken = set(map(id, due))
        self._unsafe = deque(entry for entry in waiting if id(entry) not in taken)
        return due

    def _room(self, wanted: int) -> int:
        room = max(0, MOST_ON_DISK - self.on_disk)
        if wanted > room and not self._full:
            log.warning("%d messages are held on disk, more are not: the next ones stay unacknowledged until some have left",
                        MOST_ON_DISK)  # fmt: skip
        self._full = wanted > room
        return room

    async def _write(self, before_s: float | None) -> None:
        due = [(entry, data) for entry in self._due(before_s) if (data := self._encoded(entry)) is not None]
        if not due:
            return
        rows = [(entry.holding.node.id, entry.group, entry.at_s, data) for entry, data in due]
        try:
            ids = await self._store.add(rows)
        except BaseException:
            self._unsafe.extendleft(entry for entry, _ in reversed(due) if entry.ticket is not None)
            raise
        self.on_disk += len(ids)
        for (entry, _), id in zip(due, ids, strict=True):
            entry.row = id
            entry.settle_ticket()
            if entry.gone:
                self._forget_row(id)
        self._works_again()

    def _encoded(self, entry: Entry) -> bytes | None:
        try:
            return encode(entry.msg)
        except Exception as error:  # noqa: BLE001 - a payload may be anything
            self._cannot_write(entry, error)
            return None

    def _forget_row(self, row: int) -> None:
        if not self._forget:
            self._forget_s = self.now_s()
            self._work.set()  # whoever waits for the next time waits for another one
        self._forget.append(row)

    # -- trouble --------------------------------------------------------------------------------------------------

    def _cannot_write(self, entry: Entry, error: Exception) -> None:
        self._unwritable = [other for other in self._unwritable if not other.gone]
        if all(other.holding is not entry.holding for other in self._unwritable):
            log.warning(
                "%s holds a message that cannot be written to disk (%s: %s): such messages stay unacknowledged until they "
                "leave", entry.holding.node.label, type(error).__name__, error,
            )  # fmt: skip
        self._unwritable.append(entry)

    def _give_up_unwritable(self) -> None:
        """At the end their sources, which send them again, need not wait for them."""
        for entry in self._unwritable:
            if entry.ticket is not None:
                entry.ticket.transaction.fail(asyncio.CancelledError())

    def _failed(self, error: Exception) -> None:
        text = f"{type(error).__name__}: {error}"
        if text != self.error:
            log.error(
                "held messages cannot be kept in %s: %s; what nodes hold stays unacknowledged until that works",
                self._store.path, text,
            )  # fmt: skip
        self.error = text

    def _works_again(self) -> None:
        if self.error:
            log.info("held messages are written to disk again")
            self.error = ""


def _late_s(entry: Entry) -> float:
    """Until when it may stay unacknowledged."""
    return entry.kept_s + (2 * HOLD_S if entry.leaving else HOLD_S)


def _by_node(rows: Iterable[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row.node, []).append(row)
    return found
