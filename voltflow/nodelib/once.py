"""For workers whose work has effects: what fails in a batch is isolated without anything being done twice.

The engine halves a batch in which something failed and hands the parts to the node again. Here it is remembered what became
of each message until the engine has asked for it alone, or in a batch in which all went well.

>>> import asyncio
>>> done = []
>>> async def work(msgs):
...     done.extend(msgs)
...     return [ValueError("bad") if msg == "b" else msg.upper() for msg in msgs]
>>> once = Once(work)
>>> try:
...     asyncio.run(once(["a", "b"]))
... except ValueError as error:
...     error
ValueError('bad')
>>> asyncio.run(once(["a"])), done
(['A'], ['a', 'b'])
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from voltflow.node import SinkUnavailable

M = TypeVar("M")
R = TypeVar("R")


class Once(Generic[M, R]):
    """Calls `work`, which gives a result or an exception for each message, and raises the first exception.

    SinkUnavailable comes before others and makes the engine call again: then only what it was given for is worked on.
    """

    def __init__(self, work: Callable[[list[M]], Awaitable[Sequence[R | Exception]]]) -> None:
        self._work = work
        self._known: dict[int, tuple[M, list[R | Exception]]] = {}
        """Messages and what became of each time that they came, by their id."""

    async def __call__(self, msgs: list[M]) -> list[R]:
        left = Counter({key: len(results) for key, (_, results) in self._known.items()})
        new = [msg for msg in msgs if not self._takes(left, msg)]
        if new:
            for msg, result in zip(new, await self._work(new), strict=True):
                self._known.setdefault(id(msg), (msg, []))[1].append(result)
        results = [self._pop(msg) for msg in msgs]
        failed = [result for result in results if isinstance(result, Exception)]
        if not failed:
            return [result for result in results if not isinstance(result, Exception)]
        later = next((error for error in failed if isinstance(error, SinkUnavailable)), None)
        if len(msgs) > 1:
            for msg, result in zip(msgs, results, strict=True):
                if not isinstance(result, SinkUnavailable):
                    self._known.setdefault(id(msg), (msg, []))[1].append(result)
        raise later or failed[0]

    @staticmethod
    def _takes(left: Counter[int], msg: M) -> bool:
        left[id(msg)] -= 1
        return left[id(msg)] >= 0

    def _pop(self, msg: M) -> R | Exception:
        results = self._known[id(msg)][1]
        result = results.pop(0)
        if not results:
            del self._known[id(msg)]
        return result
