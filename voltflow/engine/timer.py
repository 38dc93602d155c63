"""The time of a flow: what nodes go by when they wait. A test has one of its own, in which a day passes at once."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

from voltflow.clock import receive_clock


class Timer(Protocol):
    """Use: `now_s()`, and `await until(due_s, woken)`."""

    def now_s(self) -> float:
        """Seconds since 1970."""
        ...

    async def until(self, due_s: float | None, woken: asyncio.Event) -> None:
        """Return when it is time, or when somebody has set the event; None: only then. Who waits again clears it."""
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
        self._waiting: dict[int, _Wait] = {}
        """In the order in which they began to wait."""
        self._numbers = itertools.count()

    def now_s(self) -> float:
        return self._now_s

    async def until(self, due_s: float | None, woken: asyncio.Event) -> None:
        if due_s is None:
            await woken.wait()
            return
        if due_s <= self._now_s or woken.is_set():
            return
        due = asyncio.get_running_loop().create_future()
        number = next(self._numbers)
        self._waiting[number] = _Wait(due_s, due, asyncio.current_task())
        waking = asyncio.ensure_future(woken.wait())
        waking.add_done_callback(lambda _: _end(due))
        try:
            await due
        finally:
            self._waiting.pop(number, None)
            waking.cancel()

    @property
    def next_due_s(self) -> float | None:
        """When somebody waits for next."""
        return self.next_due_of(lambda _: True)

    def next_due_of(self, counts: Callable[[asyncio.Task[Any] | None], bool]) -> float | None:
        """When one of the tasks that count waits for next."""
        return min((wait.due_s for wait in self._waiting.values() if counts(wait.task)), default=None)

    def waits(self, task: asyncio.Task[Any]) -> bool:
        """Whether a task waits for a time."""
        return any(wait.task is task for wait in self._waiting.values())

    def advance(self, to_s: float) -> Iterator[float]:
        """Set the time to each due time up to `to_s`, waking who waits for it; whoever iterates lets them run."""
        while (due_s := self.next_due_s) is not None and due_s <= to_s:
            self._now_s = max(self._now_s, due_s)
            ready = [
                (wait.due_s, number) for number, wait in self._waiting.items() if wait.due_s <= self._now_s
            ]
            for _, number in sorted(ready):
                _end(self._waiting.pop(number).due)
            yield self._now_s
        self._now_s = max(self._now_s, to_s)


def _end(due: asyncio.Future[None]) -> None:
    if not due.done():
        due.set_result(None)


class _Wait(NamedTuple):
    due_s: float
    due: asyncio.Future[None]
    task: asyncio.Task[Any] | None
