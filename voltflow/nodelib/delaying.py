"""The ways in which a `delay` node lets messages wait or not: `Later`, `Limit`, `Turns`, `Passing`."""

from __future__ import annotations

import heapq
import itertools
import math
from collections import deque
from collections.abc import Callable, Iterable
from typing import Protocol

from voltflow.engine.holding import Holding
from voltflow.message import Msg
from voltflow.signals import is_only, says, without

AT_ONCE = 1000
"""Messages that leave in one go at most."""
LATE_S = 0.05
"""A limit makes up for being late by so much; after a longer pause it does not send what others would have passed."""

Taken = tuple[list[Msg], list[Msg]]
"""What passes now, and what is dropped."""


class Way(Protocol):
    """How messages pass."""

    every_s: float
    """The time between two, where there is a limit."""

    def take(self, msg: Msg) -> Taken: ...

    def restore(self, msg: Msg) -> Taken:
        """A message that waited before a restart waits again."""
        ...

    def due_s(self) -> float | None: ...

    def tick(self) -> list[Msg]: ...

    def set_rate(self, every_s: float) -> None:
        """Let so much time be between two messages from now on."""


class Later:
    """Each message after its own delay."""

    every_s = 0.0

    def __init__(self, held: Holding, delay_s: Callable[[Msg], float]) -> None:
        self._held, self._delay_s = held, delay_s
        self._due: list[tuple[float, int, str]] = []
        """When which group leaves, the next one first; groups that were flushed may still stand here."""
        self._numbers = itertools.count()

    def take(self, msg: Msg) -> Taken:
        if says(msg, "reset"):
            _forget(self._held)
            return [], []
        if not is_only(msg, "flush"):
            self.restore(msg)
        return (_flushed(self._held, self._held.groups, msg) if says(msg, "flush") else []), []

    def restore(self, msg: Msg) -> Taken:
        due_s = self._held.now_s + self._delay_s(msg)
        group = self._held.new_group()
        self._held.keep(msg, group)
        heapq.heappush(self._due, (due_s, next(self._numbers), group))
        return [], []

    def due_s(self) -> float | None:
        while self._due and self._due[0][2] not in self._held.groups:
            heapq.heappop(self._due)
        return self._due[0][0] if self._due else None

    def tick(self) -> list[Msg]:
        now_s, msgs = self._held.now_s, list[Msg]()
        while self._due and self._due[0][0] <= now_s and len(msgs) < AT_ONCE:
            msgs += self._held.release(heapq.heappop(self._due)[2])
        return msgs

    def set_rate(self, every_s: float) -> None:
        pass


class Limit:
    """One message at a time, the others wait in a line."""

    def __init__(self, held: Holding, every_s: float) -> None:
        self.every_s, self._fixed_s, self._held = every_s, every_s, held
        self._line: deque[str] = deque()
        self._next_s: float | None = None
        """When the next message may pass; None: at once."""

    def take(self, msg: Msg) -> Taken:
        msgs: list[Msg] = []
        flush, reset = says(msg, "flush"), says(msg, "reset")
        if not is_only(msg, "flush", "reset") and (flush or not reset):
            if self._next_s is None and not reset:
                msgs.append(without(msg, "flush"))
                self._next_s = self._held.now_s + self.every_s
            else:
                self.restore(without(msg, "flush", "reset"))
        if flush:
            flushed = _flushed(self._held, self._line, msg)
            self._line = deque(itertools.islice(self._line, len(flushed), None))
            if flushed:
                self._next_s = self._held.now_s + self.every_s
            elif not self._line:
                self._next_s = None
            msgs += flushed
        if reset:
            _forget(self._held)
            self._line.clear()
            self.every_s, self._next_s = self._fixed_s, None
        return msgs, []

    def restore(self, msg: Msg) -> Taken:
        group = self._held.new_group()
        self._held.keep(msg, group)
        if (msg.props or {}).get("toFront") is True:
            self._line.appendleft(group)
        else:
            self._line.append(group)
        if self._next_s is None:
            self._next_s = self._held.keeper.now_s() + self.every_s
        return [], []

    def due_s(self) -> float | None:
        return self._next_s

    def tick(self) -> list[Msg]:
        turns, self._next_s = _turns(self._next_s, self.every_s, self._held.now_s)
        if turns and not self._line:
            self._next_s = None
        leaving = [self._line.popleft() for _ in range(min(turns, len(self._line)))]
        return [msg for group in leaving for msg in self._held.release(group)]

    def set_rate(self, every_s: float) -> None:
        self.every_s = every_s
        if self._next_s is not None:
            self._next_s = self._held.keeper.now_s() + every_s


class Turns:
    """The last message of each topic: one topic at a time, or all of them at once."""

    def __init__(self, held: Holding, every_s: float, *, all_at_once: bool) -> None:
        self.every_s, self._fixed_s, self._held, self._all_at_once = every_s, every_s, held, all_at_once
        self._topics: dict[str, str] = {}
        """The group by topic, in the order of their turns."""
        self._began_s = held.keeper.now_s()
        self._next_s: float | None = None

    def take(self, msg: Msg) -> Taken:
        msgs: list[Msg] = []
        replaced: list[Msg] = []
        if not is_only(msg, "flush", "reset"):
            replaced = self._put(without(msg, "flush", "reset"))
        if says(msg, "flush"):
            msgs = _flushed(self._held, self._topics.values(), msg)
            self._topics = {key: group for key, group in self._topics.items() if group in self._held.groups}
        if says(msg, "reset"):
            _forget(self._held)
            self._topics.clear()
            self.every_s = self._fixed_s
        return msgs, replaced

    def restore(self, msg: Msg) -> Taken:
        return [], self._put(msg)

    def _put(self, msg: Msg) -> list[Msg]:
        """Let a message take its topic's turn; the one that had it."""
        replaced = self._held.release(self._topics[msg.topic]) if msg.topic in self._topics else []
        self._topics[msg.topic] = group = self._held.new_group()
        self._held.keep(msg, group)
        if self._next_s is None:  # turns go on while nobody waits
            passed = math.floor((self._held.keeper.now_s() - self._began_s) / self.every_s)
            self._next_s = self._began_s + (passed + 1) * self.every_s
        return replaced

    def due_s(self) -> float | None:
        return self._next_s

    def tick(self) -> list[Msg]:
        turns, self._next_s = _turns(self._next_s, self.every_s, self._held.now_s)
        if turns and not self._topics:
            self._next_s = None
        if turns and self._all_at_once:
            turns = len(self._topics)
        leaving = [self._topics.pop(topic) for topic in list(itertools.islice(self._topics, turns))]
        return [msg for group in leaving for msg in self._held.release(group)]

    def set_rate(self, every_s: float) -> None:
        self.every_s, self._began_s = every_s, self._held.keeper.now_s()
        if self._next_s is not None:
            self._next_s = self._began_s + every_s


class Passing:
    """So many messages in any time; the others are dropped. None waits."""

    def __init__(self, held: Holding, count: float, every_s: float) -> None:
        self.every_s, self._fixed_s, self._held, self._count = every_s, every_s, held, count
        self._passed: deque[float] = deque()

    def take(self, msg: Msg) -> Taken:
        now_s = self._held.now_s
        if says(msg, "reset"):
            self._passed.clear()
            self.every_s = self._fixed_s
            return [], []
        while self._passed and now_s - self._passed[0] >= self.every_s:
            self._passed.popleft()
        if len(self._passed) >= self._count:
            return [], [msg]
        self._passed.append(now_s)
        return [msg], []

    def restore(self, msg: Msg) -> Taken:
        return [msg], []  # a deploy has made another limit of what it waited for

    def due_s(self) -> float | None:
        return None

    def tick(self) -> list[Msg]:
        return []

    def set_rate(self, every_s: float) -> None:
        self.every_s = every_s


def _turns(next_s: float | None, every_s: float, now_s: float) -> tuple[int, float | None]:
    """How many turns there are now, and when the next is."""
    if next_s is None or now_s < next_s:
        return 0, next_s
    turns = 1 + int(min(now_s - next_s, LATE_S) / every_s)
    following_s = next_s + turns * every_s
    return turns, following_s if following_s > now_s else now_s + every_s


def _flushed(held: Holding, groups: Iterable[str], msg: Msg) -> list[Msg]:
    """The first so many of the groups, as `msg.flush` says, or all."""
    flush = (msg.props or {}).get("flush")
    counted = isinstance(flush, int | float) and not isinstance(flush, bool) and math.isfinite(flush)
    chosen = list(itertools.islice(groups, max(0, int(flush or 0)) if counted else None))
    return [found for group in chosen for found in held.release(group)]


def _forget(held: Holding) -> None:
    for group in list(held.groups):
        held.release(group)
