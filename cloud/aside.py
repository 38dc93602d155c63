"""Work with the database in threads of its own, beside the flow, which a stop of the bridge must not wait for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

AGAIN_S = 0.1
"""After so long a statement is ended again: the work may have begun another one."""


async def in_thread(work: Callable[[], T], stop: asyncio.Event, abort: Callable[[], None]) -> T:
    """What the work returns; from `stop` on, `abort` is called until it is over.

    `abort` runs in a thread as well: ending a statement opens a connection, which takes as long as it takes where the
    database is away.
    """
    task = asyncio.ensure_future(asyncio.to_thread(work))
    stopping = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({task, stopping}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopping.cancel()
        while not task.done():
            await asyncio.wait(
                {task, asyncio.ensure_future(asyncio.to_thread(abort))}, return_when=asyncio.FIRST_COMPLETED
            )
            await asyncio.wait({task}, timeout=AGAIN_S)
    return task.result()
