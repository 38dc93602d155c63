"""Messages into the history: in transactions, the rows that the database refuses isolated from the others.

Whose fault a refusal is: a message that has no row, and an error of SQLSTATE class 22 or 23, is the message's. Any
other refusal may be the database's own (a trigger that fails, an internal error), and must not make dead letters of a
whole stream: it is the row's only where another row was stored at that time. That is one of the same write, or a plain
one of our own, which goes in again and again over some seconds, and is taken back, while this one does not.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from cloud.history import History, Statements, UncertainError, prepare
from cloud.latency import Tally
from cloud.probe import probe_row
from cloud.rows import Decoded, Row, decode
from voltflow.message import Msg
from voltflow.node import SinkUnavailable

TRANSACTION_ROWS = 1000
"""Rows of one transaction: a write of more is prepared a transaction ahead of the one that the database executes."""

AHEAD_MS = 60_000
"""A reading that came to its gateway later than so far from now has the time of a wrong clock, and says nothing about the lag."""

DOUBT_ATTEMPTS = 3
DOUBT_S = 5.0
"""So often, and over so long, a row is refused while a plain one goes in, before it counts as the one at fault."""

Item = tuple[Msg, str, Decoded]
"""A message, the kind of its topic, its row."""

Refused = list[tuple[Msg, str]]
Rows = dict[str, list[Row]]


class Submit(Protocol):
    """Runs a function in another thread."""

    def __call__(self, function: Callable[[list[Msg]], Prepared], msgs: list[Msg], /) -> Future[Prepared]: ...


class Prepared(NamedTuple):
    """Messages ready to be stored in one transaction; no statements where a row's values do not allow them."""

    items: list[Item]
    rows: Rows
    statements: Statements | None
    refused: Refused


class _Doubtful(NamedTuple):
    """A row refused for a reason that may be the database's."""

    msg: Msg
    kind: str
    reason: str


@dataclass
class _Suspect:
    """A row that was refused while a plain one went in. It holds the message, so that its id stays its own."""

    msg: Msg
    since_s: float
    attempts: int = 0


class HistoryWriter:
    """Not for several threads at once."""

    def __init__(self, history: History, tally: Tally, submit: Submit) -> None:
        self.history = history
        self._tally = tally
        self._submit = submit
        self._suspects: dict[int, _Suspect] = {}

    def write(self, msgs: list[Msg]) -> Refused:
        """Store the messages; those at fault with the reason. Raises SinkUnavailable when nothing can be stored now."""
        refused: Refused = []
        doubtful: list[_Doubtful] = []
        stored = sum([self._store_prepared(part, refused, doubtful) for part in self._prepared(msgs)])
        if doubtful and not stored:
            self._judge(doubtful)
        self._suspects.clear()
        return refused + [(each.msg, each.reason) for each in doubtful]

    def _prepared(self, msgs: list[Msg]) -> Iterator[Prepared]:
        """The messages in parts; while one is stored the next is prepared in another thread."""
        parts = [msgs[start : start + TRANSACTION_ROWS] for start in range(0, len(msgs), TRANSACTION_ROWS)]
        if len(parts) == 1:
            yield _prepare(msgs)
            return
        following = self._submit(_prepare, parts[0])
        for part in parts[1:]:
            prepared, following = following.result(), self._submit(_prepare, part)
            yield prepared
        yield following.result()

    def _store_prepared(self, part: Prepared, refused: Refused, doubtful: list[_Doubtful]) -> int:
        refused += part.refused
        if part.statements is not None:
            try:
                stored = self.history.execute(part.statements)
            except ValueError:
                pass  # whose fault it is shows when they are stored one by one
            else:
                self._count(part.items, part.rows, stored)
                return len(part.items)
        return self._store(part.items, refused, doubtful)

    def _store(self, items: list[Item], refused: Refused, doubtful: list[_Doubtful]) -> int:
        """Commit the items and return how many; where the database refuses, halve until the refused ones stand alone."""
        if not items:
            return 0
        rows = _by_kind(items)
        try:
            stored = self.history.write(rows)
        except ValueError as error:
            if len(items) > 1:
                middle = len(items) // 2
                first = self._store(items[:middle], refused, doubtful)
                return first + self._store(items[middle:], refused, doubtful)
            msg, kind, _ = items[0]
            if isinstance(error, UncertainError):
                doubtful.append(_Doubtful(msg, kind, str(error)))
            else:
                refused.append((msg, str(error)))
            return 0
        self._count(items, rows, stored)
        return len(items)

    def _judge(self, doubtful: list[_Doubtful]) -> None:
        """Return when the rows are at fault; raises SinkUnavailable while it may be the database."""
        now = time.monotonic()
        try:
            self.history.probe({kind: [probe_row(kind)] for kind in {each.kind for each in doubtful}})
        except ValueError:
            self._suspects.clear()  # not even a plain one goes in
        else:
            for each in doubtful:
                self._suspects.setdefault(id(each.msg), _Suspect(each.msg, now)).attempts += 1
        suspects = [self._suspects.get(id(each.msg)) for each in doubtful]
        if all(s and s.attempts >= DOUBT_ATTEMPTS and now - s.since_s >= DOUBT_S for s in suspects):
            return
        self.history.close()
        raise SinkUnavailable(f"database: no row can be stored: {doubtful[0].reason}")

    def _count(self, items: list[Item], rows: Rows, stored: dict[str, int]) -> None:
        now_ms = time.time() * 1000
        self._tally.latency.observe([now_ms - d.sent_ms for _, _, d in items if d.sent_ms is not None])
        limit_ms = now_ms + AHEAD_MS
        received_ms = [
            d.received_ms for _, _, d in items if d.received_ms is not None and d.received_ms <= limit_ms
        ]
        self._tally.newest_ms = max([self._tally.newest_ms, *received_ms])
        self._tally.rows.update(stored)
        if "twin" in rows:
            self._tally.again["telemetry"] += len(rows["twin"]) - stored["telemetry"]


def _prepare(msgs: list[Msg]) -> Prepared:
    refused: Refused = []
    items = _decoded(msgs, refused)
    rows = _by_kind(items)
    try:
        return Prepared(items, rows, prepare(rows), refused)
    except ValueError:
        return Prepared(items, rows, None, refused)


def _by_kind(items: list[Item]) -> Rows:
    rows: dict[str, list[Any]] = {}
    for _, kind, decoded in items:
        rows.setdefault(kind, []).append(decoded.row)
    return rows


def _decoded(msgs: list[Msg], refused: Refused) -> list[Item]:
    items: list[Item] = []
    for msg in msgs:
        try:
            items.append((msg, *decode(msg)))
        except ValueError as error:
            refused.append((msg, str(error)))
    return items
