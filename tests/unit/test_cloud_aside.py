"""Work beside the flow ends with it, whatever ending it takes."""

import asyncio
import threading

import pytest

from cloud.aside import in_thread

LONG_S = 60


def test_what_ends_the_work_may_take_long_and_holds_nothing_up() -> None:
    """A database that is away answers nobody who wants a statement ended either."""
    over, asked, loop_goes_on = threading.Event(), threading.Event(), threading.Event()

    def abort() -> None:
        asked.set()
        assert loop_goes_on.wait(LONG_S), "the loop stands still while this waits"
        over.set()

    async def main() -> str:
        stop = asyncio.Event()
        running = asyncio.create_task(in_thread(lambda: "ended" if over.wait(LONG_S) else "not", stop, abort))
        stop.set()
        assert await asyncio.to_thread(asked.wait, LONG_S)
        loop_goes_on.set()
        return await running

    assert asyncio.run(main()) == "ended"


def test_it_is_ended_again_where_it_goes_on_with_something_else() -> None:
    asked = threading.Semaphore(0)

    def work() -> int:
        return sum(asked.acquire(timeout=LONG_S) for _ in range(3))

    async def main() -> int:
        stop = asyncio.Event()
        stop.set()
        return await in_thread(work, stop, asked.release)

    assert asyncio.run(main()) == 3


def test_work_that_ends_by_itself_is_not_ended_and_its_error_is_raised() -> None:
    async def main() -> None:
        stop = asyncio.Event()
        assert await in_thread(lambda: 7, stop, lambda: pytest.fail("ended")) == 7
        await in_thread(lambda: 1 // 0, stop, lambda: pytest.fail("ended"))

    with pytest.raises(ZeroDivisionError):
        asyncio.run(main())
