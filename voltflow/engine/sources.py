"""The running sources of an engine, and the gate at which they wait while a deploy is under way."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from voltflow.message import Msg
from voltflow.node import Node, Source

Transact = Callable[[Source, list[Msg]], Awaitable[None]]


class Gate:
    """Where sources wait: `await gate.passed(source)`."""

    def __init__(self) -> None:
        self._open = True
        self._let: set[Node] = set()
        self._changed = asyncio.Event()

    async def passed(self, source: Node) -> None:
        while not self._open and source not in self._let:
            await self._changed.wait()

    def close(self) -> None:
        self._open = False
        self._let.clear()

    def let(self, source: Node) -> None:
        """This one may pass, although it is closed."""
        self._let.add(source)
        self._tell()

    def open(self) -> None:
        self._open = True
        self._let.clear()
        self._tell()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


class Sources:
    """Runs sources; `transact` makes a batch of one safe. Use: `begin` each, `watch`, cancel `tasks`, `raise_failure`."""

    def __init__(self, transact: Transact) -> None:
        self.gate = Gate()
        self.tasks: dict[str, asyncio.Task[None]] = {}
        """What runs them, by their ids."""
        self._transact = transact
        self._changed = asyncio.Event()

    def begin(self, source: Source, before: asyncio.Task[None] | None = None) -> None:
        """Run a source, once the task `before` has ended."""
        self._set(source, asyncio.create_task(self._run(source, before), name=f"source {source.label}"))

    def run_again(self, source: Source, task: asyncio.Task[None]) -> None:
        """Go on with a source that was retired; `task` is what runs it, and may be about to end or have ended."""
        if task.done() or task.cancelling():
            self.begin(source, task)
        else:
            self._set(source, task)

    def _set(self, source: Source, task: asyncio.Task[None]) -> None:
        self.tasks[source.id] = task
        self._changed.set()

    async def _run(self, source: Source, before: asyncio.Task[None] | None) -> None:
        turn = asyncio.Lock()  # who waits first passes first, also when others come just as the gate opens

        async def emit(msgs: list[Msg]) -> None:
            async with turn:
                await self.gate.passed(source)
            await self._transact(source, msgs)

        if before is not None:
            await asyncio.wait({before})
        await source.run(emit)

    async def watch(self, stop: asyncio.Event) -> None:
        """Until `stop`, or until one of them fails."""
        stopping = asyncio.create_task(stop.wait(), name="stop")
        changed: asyncio.Task[bool] | None = None
        try:
            while not stopping.done():
                self._changed.clear()
                tasks = set(self.tasks.values())
                if any(_failure_of(task) for task in tasks):
                    break
                changed = asyncio.create_task(self._changed.wait(), name="sources change")
                running = {task for task in tasks if not task.done()}
                await asyncio.wait({stopping, changed, *running}, return_when=asyncio.FIRST_COMPLETED)
                changed.cancel()
        finally:
            stopping.cancel()
            if changed is not None:
                changed.cancel()

    def raise_failure(self) -> None:
        """Raises what one of them failed with, if one did."""
        for task in self.tasks.values():
            if error := _failure_of(task):
                raise error


def _failure_of(task: asyncio.Task[None]) -> BaseException | None:
    return task.exception() if task.done() and not task.cancelled() else None
