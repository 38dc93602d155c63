"""Virtual time: who waits is woken at its time, in order, and whoever has gone holds up nothing."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from voltflow.engine.timer import Timer, VirtualTimer, WallTimer


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(10):
            await scenario()

    asyncio.run(main())


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def test_advance_stops_at_each_due_time_and_wakes_in_order() -> None:
    async def scenario() -> None:
        timer, woken = VirtualTimer(0.0), []

        async def wait(name: str, due_s: float) -> None:
            await timer.until(due_s, asyncio.Event())
            woken.append((name, timer.now_s()))

        for name, due_s in (("c", 30.0), ("a", 10.0), ("b", 10.0), ("later", 99.0)):
            asyncio.create_task(wait(name, due_s))  # noqa: RUF006 - the timer keeps it
        await turns()
        times = []
        for now_s in timer.advance(50.0):
            times.append(now_s)
            await turns()
        assert (times, woken) == ([10.0, 30.0], [("a", 10.0), ("b", 10.0), ("c", 30.0)])
        assert (timer.now_s(), timer.next_due_s) == (50.0, 99.0)

    run(scenario)


def test_who_waits_again_while_time_advances_is_woken_again() -> None:
    async def scenario() -> None:
        timer, ticks = VirtualTimer(0.0), []

        async def tick() -> None:
            while True:
                await timer.until(timer.now_s() + 10, asyncio.Event())
                ticks.append(timer.now_s())

        task = asyncio.create_task(tick())
        await turns()
        for _ in timer.advance(35.0):
            await turns()
        assert ticks == [10.0, 20.0, 30.0]
        task.cancel()
        await turns()
        assert timer.next_due_s is None

    run(scenario)


def test_who_was_woken_or_cancelled_is_waited_for_no_longer() -> None:
    async def scenario() -> None:
        timer, event = VirtualTimer(0.0), asyncio.Event()
        woken = asyncio.create_task(timer.until(10.0, event))
        cancelled = asyncio.create_task(timer.until(20.0, asyncio.Event()))
        await turns()
        assert timer.waits(woken)
        event.set()
        cancelled.cancel()
        await turns()
        assert (woken.done(), cancelled.cancelled(), timer.next_due_s) == (True, True, None)

    run(scenario)


def test_due_time_sets_nobodys_event() -> None:
    """One that stayed set would make the next wait end at once, again and again."""

    async def scenario() -> None:
        timer, event = VirtualTimer(0.0), asyncio.Event()
        task = asyncio.create_task(timer.until(10.0, event))
        await turns()
        for _ in timer.advance(10.0):
            await turns()
        assert task.done()
        assert not event.is_set()

    run(scenario)


def test_time_that_has_come_and_event_that_is_set_need_no_waiting() -> None:
    async def scenario() -> None:
        event = asyncio.Event()
        event.set()
        for timer in (VirtualTimer(5.0), WallTimer()):
            each: Timer = timer
            await each.until(0.0, asyncio.Event())
            await each.until(each.now_s() + 1000, event)
            await each.until(None, event)

    run(scenario)


def test_only_tasks_that_count_are_looked_at() -> None:
    async def scenario() -> None:
        timer = VirtualTimer(0.0)
        first, second = (asyncio.create_task(timer.until(due_s, asyncio.Event())) for due_s in (10.0, 20.0))
        await turns()
        assert timer.next_due_of(lambda task: task is second) == 20.0
        assert timer.next_due_of(lambda _: False) is None
        for task in (first, second):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    run(scenario)
