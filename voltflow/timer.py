"""The time of a flow: what nodes go by when they wait. A test has one of its own, in which a day passes at once."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Iterator
from typing import Protocol

from voltflow.clock import receive_clock


class Timer(Protocol):
    """Use: `now_s()`, and `await until(due_s, woken)`."""

    def now_s(self) -> float:
        """Seconds since 1970."""
        ...

    async def until(self, due_s: float | None, woken: asyncio.Event) -> None:
        """Return when it is time, or when somebody has set the event; None: only then."""
        ...


class WallTimer:
    """The receive time, which does not jump when the system's clock is set."""

    def now_s(self) -> float:
        return receive_clock.now_s()

    async def until(self, due_s: float | None, woken: asyncio.Event) -> None:
        left_s = None if due_s is None else max(0.0, due_s - self.now_s())
        try:
            async with asyncio.timeout(left_s):
                await woken.wait()
        except TimeoutError:
            return


class VirtualTimer:
    """Time that stands still until `advance`.

    >>> VirtualTimer(100.0).now_s()
    100.0
    """

    def __init__(self, start_s: float) -> None:
        self._now_s = start_s
        self._waiting: list[tuple[float, int, asyncio.Event]] = []
        self._numbers = itertools.count()

    def now_s(self) -> float:
        return self._now_s

    async def until(self, due_s: float | None, woken: asyncio.Event) -> None:
        if due_s is not None and due_s <= self._now_s:
            return
        if due_s is not None:
            heapq.heappush(self._waiting, (due_s, next(self._numbers), woken))
        await woken.wait()

    @property
    def next_due_s(self) -> float | None:
        """When somebody waits for next."""
        return self._waiting[0][0] if self._waiting else None

    def advance(self, to_s: float) -> Iterator[float]:
        """Set the time to each due time up to `to_s`, waking who waits for it; whoever iterates lets them run."""
        while self._waiting and self._waiting[0][0] <= to_s:
            self._now_s = max(self._now_s, self._waiting[0][0])
            while self._waiting and self._waiting[0][0] <= self._now_s:
                heapq.heappop(self._waiting)[2].set()
            yield self._now_s
        self._now_s = max(self._now_s, to_s)
