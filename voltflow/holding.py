"""Messages that a node holds: for a delay, until a group is complete, until a window ends.

What is held is never acknowledged and only in memory. For a moment it is simply not acknowledged; what is held for longer
than HOLD_S, or more than HOLD_MESSAGES at once, is written to disk (`held_store`), and acknowledged then. What leaves
the node is a batch of its own; the held message is forgotten when that is safe.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

import msgspec

from voltflow.held_store import HeldStore, Row, encode
from voltflow.message import Msg
from voltflow.sink_queue import Transaction

if TYPE_CHECKING:
    from voltflow.node import Holder

log = logging.getLogger(__name__)

HOLD_S = 1.0
"""How long a held message stays unacknowledged before it goes to disk."""
HOLD_MESSAGES = 250
"""Unacknowledged held messages of a flow at most, a quarter of the usual window: a delay must not stall its source."""
LOOK_S = 0.25
AGAIN_S = 5.0


class Ticket:
    """What a batch waits for at a node that holds some of it."""

    __slots__ = ("count", "transaction")

    def __init__(self, transaction: Transaction) -> None:
        self.transaction, self.count = transaction, 0
        transaction.open_writes += 1

    def settle(self) -> None:
        self.count -= 1
        if not self.count:
            self.transaction.settle()


class Entry:
    """A held message: in `group`, since `at_s`; `row` is its number on disk, 0 while it is not there."""

    __slots__ = ("at_s", "gone", "group", "holding", "msg", "row", "ticket", "writing")

    def __init__(self, holding: Holding, group: str, msg: Msg, at_s: float) -> None:
        self.holding, self.group, self.msg, self.at_s = holding, group, msg, at_s
        self.ticket: Ticket | None = None
        self.row = 0
        self.gone = self.writing = False


class Holding:
    """What one node holds, by group. The node calls `keep` and `release`; the engine does the rest."""

    def __init__(self, node: Holder, keeper: Keeper) -> None:
        self.node, self.keeper = node, keeper
        self.groups: dict[str, list[Entry]] = {}
        self.woken = asyncio.Event()
        self._kept: list[Entry] = []
        self._released: list[Entry] = []
        self._adopting: Entry | None = None
        self._at_s: float | None = None
        self._numbers = 0

    # -- for the node ---------------------------------------------------------------------------------------------

    @property
    def now_s(self) -> float:
        """The time by which the node goes; for a message held before a restart, when it came."""
        return self.keeper.now_s() if self._at_s is None else self._at_s

    def new_group(self) -> str:
        """A name no group has had: for a message that leaves by itself."""
        self._numbers += 1
        return f"#{self._numbers}-{self.keeper.run}"

    def keep(self, msg: Msg, group: str) -> None:
        """Hold a message, until its group is released."""
        entry, self._adopting = self._adopting or Entry(self, group, msg, self.now_s), None
        entry.holding, entry.group = self, group
        self.groups.setdefault(group, []).append(entry)
        self._kept.append(entry)

    def release(self, group: str) -> list[Msg]:
        """Let a group go: it is forgotten when what the node gives out now is safe. Its messages, in order."""
        entries = self.groups.pop(group, [])
        self._released += entries
        return [entry.msg for entry in entries]

    def messages(self, group: str) -> list[Msg]:
        """What a group holds."""
        return [entry.msg for entry in self.groups.get(group, ())]

    def entries(self) -> Iterator[Entry]:
        for group in self.groups.values():
            yield from group

    # -- for the engine -------------------------------------------------------------------------------------------

    def mark(self) -> tuple[int, int]:
        return len(self._kept), len(self._released)

    def undo(self, mark: tuple[int, int]) -> None:
        """A call of the node failed: what it kept and released since the mark is as it was."""
        for entry in self._kept[mark[0] :]:
            group = self.groups.get(entry.group, [])
            if entry in group:
                group.remove(entry)
            if not group:
                self.groups.pop(entry.group, None)
        for entry in self._released[mark[1] :]:
            if entry not in self._kept[mark[0] :]:
                self.groups.setdefault(entry.group, []).append(entry)
        del self._kept[mark[0] :], self._released[mark[1] :]

    def take(self) -> tuple[list[Entry], list[Entry]]:
        """What was kept and what was released since the last call; what was both is in neither."""
        released = set(map(id, self._released))
        kept = [entry for entry in self._kept if id(entry) not in released]
        new = set(map(id, self._kept)) - set(map(id, kept))
        gone = [entry for entry in self._released if id(entry) not in new or entry.row or entry.ticket]
        self._kept, self._released = [], []
        return kept, gone

    @contextlib.contextmanager
    def adopting(self, entry: Entry) -> Iterator[None]:
        """For a call of the node in which it takes a message that it held before; it keeps it again, or lets it go."""
        self._adopting, self._at_s = entry, entry.at_s
        try:
            yield
            if self._adopting is not None:
                self._released.append(entry)
        finally:
            self._adopting = self._at_s = None


class Keeper:
    """The held messages of a flow: writes them to disk in time, and forgets them."""

    def __init__(self, store: HeldStore, now_s: Callable[[], float], run: str) -> None:
        self.now_s, self.run = now_s, run
        self.error = ""
        """Why nothing can be written, while that is so."""
        self.orphans: dict[str, int] = {}
        """Messages held for nodes that the flow no longer has, by node id."""
        self._store = store
        self._unsafe: deque[Entry] = deque()
        self._forget: list[int] = []
        self._work = asyncio.Event()
        self._calm = asyncio.Event()
        self._calm.set()

    @property
    def unsafe(self) -> int:
        """Held messages that are not acknowledged."""
        return len(self._unsafe)

    async def open(self) -> dict[str, list[Row]]:
        """What an earlier run held, by node id."""
        found: dict[str, list[Row]] = {}
        try:
            rows = await self._store.open()
        except (OSError, sqlite3.Error) as error:
            self._failed(error)
            raise
        for row in rows:
            found.setdefault(row.node, []).append(row)
        return found

    def hold(self, kept: Iterable[Entry], transaction: Transaction) -> None:
        """New entries of a batch: it waits for them."""
        ticket: Ticket | None = None
        for entry in kept:
            if entry.row or entry.ticket:
                continue  # held before a restart
            ticket = ticket or Ticket(transaction)
            ticket.count += 1
            entry.ticket = ticket
            self._unsafe.append(entry)
        if len(self._unsafe) > HOLD_MESSAGES:
            self._work.set()

    def settle(self, gone: Iterable[Entry]) -> None:
        """Entries whose effect is safe further on."""
        for entry in gone:
            entry.gone = True
            if entry.ticket is not None:
                entry.ticket.settle()
                entry.ticket = None
            if entry.row and not entry.writing:
                self._forget.append(entry.row)
        if self._forget:
            self._work.set()

    def give_back(self, gone: Iterable[Entry], failure: BaseException) -> None:
        """What the node gave out did not become safe: the source sends it again, or the next start takes it from disk."""
        for entry in gone:
            if entry.ticket is not None:
                entry.ticket.transaction.fail(failure)
                entry.ticket, entry.gone = None, True
            elif isinstance(failure, Exception):
                log.warning("%s: what it gave out failed (%s); it comes again at the next start",
                            entry.holding.node.label, failure)  # fmt: skip

    async def run_until_cancelled(self) -> None:
        """Write and forget; without this task nothing held becomes safe."""
        while True:
            try:
                async with asyncio.timeout(LOOK_S):
                    await self._work.wait()
            except TimeoutError:
                pass
            self._work.clear()
            await self.flush(self.now_s() - HOLD_S)
            if self.error:
                await asyncio.sleep(AGAIN_S)

    async def flush(self, before_s: float | None = None) -> None:
        """Write what is held since before a time (None: everything), and forget what has gone."""
        due = list(self._due(before_s))
        forget, self._forget = self._forget, []
        try:
            if due:
                await self._write(due)
            if forget:
                await self._store.remove(forget)
        except (OSError, sqlite3.Error) as error:
            self._failed(error)
            self._forget = forget + self._forget
            self._unsafe.extendleft(entry for entry in reversed(due) if entry.ticket is not None)
        else:
            if self.error and due:
                log.info("held messages are written to disk again")
                self.error = ""

    def _due(self, before_s: float | None) -> Iterator[Entry]:
        while self._unsafe and self._unsafe[0].gone:
            self._unsafe.popleft()
        many = len(self._unsafe) > HOLD_MESSAGES
        while self._unsafe and (before_s is None or many or self._unsafe[0].at_s <= before_s):
            entry = self._unsafe.popleft()
            if not entry.gone:
                yield entry

    async def _write(self, due: list[Entry]) -> None:
        rows, writable = [], []
        for entry in due:
            try:
                data = encode(entry.msg)
            except (TypeError, ValueError, msgspec.MsgspecError) as error:
                self._say_unwritable(entry, error)
                continue
            entry.writing = True
            writable.append(entry)
            rows.append((entry.holding.node.id, entry.group, entry.at_s, data))
        try:
            ids = await self._store.add(rows) if rows else []
        finally:
            for entry in writable:
                entry.writing = False
        for entry, id in zip(writable, ids, strict=True):
            entry.row = id
            if entry.ticket is not None:
                entry.ticket.settle()
                entry.ticket = None
            if entry.gone:
                self._forget.append(id)
                self._work.set()

    def _say_unwritable(self, entry: Entry, error: Exception) -> None:
        log.warning(
            "%s holds a message that cannot be written to disk (%s): it stays unacknowledged until it leaves",
            entry.holding.node.label, error,
        )  # fmt: skip

    def _failed(self, error: Exception) -> None:
        text = f"{type(error).__name__}: {error}"
        if text != self.error:
            log.error(
                "held messages cannot be written to %s: %s; what nodes hold stays unacknowledged until that works",
                self._store.path, text,
            )  # fmt: skip
        self.error = text

    async def close(self) -> None:
        await self.flush()
        await self._store.close()
