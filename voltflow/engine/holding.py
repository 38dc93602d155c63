"""Messages that a node holds: for a delay, until a group is complete, until a window ends.

What is held is never acknowledged and only in memory. For a moment it is simply not acknowledged; what is held for longer
than HOLD_S, or more than HOLD_MESSAGES at once, is written to disk (`voltflow.engine.keeper`), and acknowledged then. What leaves
the node is a batch of its own; the held message is forgotten when that is safe.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple, Protocol

from voltflow.engine.sink_queue import Transaction
from voltflow.message import Msg

if TYPE_CHECKING:
    from voltflow.node import Holder


class Ticket:
    """What a batch waits for at a node that holds some of it."""

    __slots__ = ("count", "node_id", "transaction")

    def __init__(self, transaction: Transaction, node_id: str) -> None:
        self.transaction, self.node_id, self.count = transaction, node_id, 0
        transaction.wait_for(node_id)

    def settle(self) -> None:
        self.count -= 1
        if not self.count:
            self.transaction.safe_at(self.node_id)


class Entry:
    """A held message: in `group`, since `at_s`.

    `row` is its number on disk, 0 while it is not there; `leaving`: the node has let it go, what it gave out for it is not
    safe yet; `gone`: it is.
    """

    __slots__ = (
        "at_s", "gone", "group", "holding", "kept_s", "leaving", "msg", "number", "row", "ticket",
    )  # fmt: skip

    def __init__(self, holding: Holding, group: str, msg: Msg, at_s: float, kept_s: float) -> None:
        self.holding, self.group, self.msg, self.at_s, self.kept_s = holding, group, msg, at_s, kept_s
        self.number = holding.keeper.next_number()
        """Entries in the order in which they came."""
        self.ticket: Ticket | None = None
        self.row = 0
        self.gone = self.leaving = False

    def settle_ticket(self) -> None:
        """Its batch need not wait for it any longer."""
        ticket, self.ticket = self.ticket, None
        if ticket is not None:
            ticket.settle()


class Keeping(Protocol):
    """What a holding needs of the keeper."""

    run: str

    def now_s(self) -> float: ...

    def next_number(self) -> int: ...


class Change(NamedTuple):
    """What calls of a node did to what it holds."""

    kept: list[Entry]
    gone: list[Entry]
    failed: list[tuple[Entry, str]]
    """Those that are gone because something went wrong with them, and what."""


class Holding:
    """What one node holds, by group. The node calls `keep`, `release` and `fail`; its line does the rest."""

    def __init__(self, node: Holder, keeper: Keeping) -> None:
        self.node, self.keeper = node, keeper
        self.groups: dict[str, list[Entry]] = {}
        self.size = 0
        """Held messages."""
        self.woken = asyncio.Event()
        self._kept: list[Entry] = []
        self._released: list[Entry] = []
        self._failed: list[tuple[Entry, str]] = []
        self._adopting: Entry | None = None
        self._at_s: float | None = None

    # -- for the node ---------------------------------------------------------------------------------------------

    @property
    def now_s(self) -> float:
        """The time by which the node goes; for a message held before a restart, when it came."""
        return self.keeper.now_s() if self._at_s is None else self._at_s

    def new_group(self) -> str:
        """A name no group has had, of no node of the flow: this one may take over what another held."""
        return f"#{self.keeper.next_number()}-{self.keeper.run}"

    def keep(self, msg: Msg, group: str, at_s: float | None = None) -> None:
        """Hold a message until its group is released; `at_s`: since when, where that is not now."""
        at_s = self.now_s if at_s is None else at_s
        entry, self._adopting = self._adopting, None
        if entry is None:
            entry = Entry(self, group, msg, at_s, self.keeper.now_s())
        entry.holding, entry.group, entry.msg, entry.leaving = self, group, msg, False
        self.groups.setdefault(group, []).append(entry)
        self.size += 1
        self._kept.append(entry)

    def release(self, group: str) -> list[Msg]:
        """Let a group go: it is forgotten when what the node gives out now is safe. Its messages, in order."""
        entries = self.groups.pop(group, [])
        self.size -= len(entries)
        self._released += entries
        return [entry.msg for entry in entries]

    def fail(self, group: str, error: str) -> None:
        """Let a group go that nothing can be made of: its messages go to `catch` nodes, or become dead letters."""
        start = len(self._released)
        self.release(group)
        self._failed += [(entry, error) for entry in self._released[start:]]

    def messages(self, group: str) -> list[Msg]:
        """What a group holds."""
        return [entry.msg for entry in self.groups.get(group, ())]

    def since_s(self, group: str) -> float:
        """When the first of a group came; the group must be there."""
        return self.groups[group][0].at_s

    def entries(self) -> Iterator[Entry]:
        for group in self.groups.values():
            yield from group

    # -- for its line ---------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def attempt(self) -> Iterator[None]:
        """Around a call of the node: when it fails, what it kept and released is as it was."""
        kept, released, failed = len(self._kept), len(self._released), len(self._failed)
        try:
            yield
        except BaseException:
            self._undo(kept, released, failed)
            raise

    def _undo(self, kept: int, released: int, failed: int) -> None:
        new = self._kept[kept:]
        for entry in self._released[released:]:
            self.groups.setdefault(entry.group, []).append(entry)
            self.size += 1
        for entry in new:
            group = self.groups[entry.group]
            group.remove(entry)
            self.size -= 1
            if not group:
                del self.groups[entry.group]
        for entries in {
            id(entry): self.groups.get(entry.group, []) for entry in self._released[released:]
        }.values():
            entries.sort(key=lambda entry: entry.number)
        del self._kept[kept:], self._released[released:], self._failed[failed:]

    def take(self) -> Change:
        """What was kept and let go since the last call; what was both, and nobody else knows of, is in neither."""
        kept, released, failed = self._kept, self._released, self._failed
        self._kept, self._released, self._failed = [], [], []
        if not released:
            return Change(kept, [], [])
        let_go = set(map(id, released))
        new = {id(entry) for entry in kept if not entry.row and entry.ticket is None}
        for entry in released:
            entry.leaving = True
        return Change(
            [entry for entry in kept if id(entry) not in let_go],
            [entry for entry in released if id(entry) not in new],
            failed,
        )

    def hand_over(self) -> list[Entry]:
        """Everything, in the order in which it came: for who takes the node's place. It holds nothing then."""
        entries = sorted(self.entries(), key=lambda entry: entry.number)
        self.groups.clear()
        self.size = 0
        return entries

    @contextlib.contextmanager
    def adopting(self, entry: Entry) -> Iterator[None]:
        """For a call of the node in which it takes a message that was held before; it keeps it again, or lets it go."""
        self._adopting, self._at_s = entry, entry.at_s
        try:
            with self.attempt():
                yield
                if self._adopting is not None:
                    self._released.append(entry)
        finally:
            self._adopting = self._at_s = None
