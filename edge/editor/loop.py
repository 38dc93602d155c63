"""The way from the web server's threads into the event loop, in which everything that touches the engine runs."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

from edge.editor.http import EditorError

T = TypeVar("T")

_WAIT_S: Final = 120.0
"""For an answer of the loop at most; a deploy waits 10 s for what is under way, and for nodes to start."""


class Loop:
    """Runs calls and coroutines in the event loop for threads; `close` lets all who wait go."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = threading.Lock()
        self._waiting: set[concurrent.futures.Future[Any]] = set()

    def open(self) -> None:
        """Called in the loop."""
        self._loop = asyncio.get_running_loop()

    def close(self) -> None:
        """What has not begun to be answered is not; the threads must not hold up the end of the program."""
        with self._lock:
            self._loop, waiting = None, list(self._waiting)
        for future in waiting:
            future.cancel()

    def call(self, function: Callable[[], T]) -> T:
        """What a function returns in the loop."""

        async def calling() -> T:
            return function()

        return self.run(calling())

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """What a coroutine returns there; raises what it raises, and EditorError where the gateway is stopping."""
        with self._lock:
            if self._loop is None:
                coroutine.close()
                raise EditorError(503, "stopping", "the gateway is stopping")
            future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
            self._waiting.add(future)
        try:
            return future.result(_WAIT_S)
        except concurrent.futures.CancelledError:
            raise EditorError(503, "stopping", "the gateway is stopping") from None
        except concurrent.futures.TimeoutError:
            if future.done():  # the coroutine's own
                raise
            future.cancel()
            raise EditorError(504, "timeout", f"the gateway did not answer in {_WAIT_S:g} s") from None
        finally:
            self._waiting.discard(future)
