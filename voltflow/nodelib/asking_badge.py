"""The badge of a node that asks others: that it asks, and that nobody answered."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from voltflow.engine.events import Badge

CALM_S = 0.25
"""The badge of a node that asks again within this time stays: many requests a second are not as many badges."""


class AskingBadge:
    """Of one node; `show` is the node's. Use: `begin` and `end` around each request, `stop` with the node."""

    def __init__(self, show: Callable[[Badge], None]) -> None:
        self._show = show
        self._asking = 0
        self._calm: asyncio.TimerHandle | None = None
        """Takes the badge away, or shows what went wrong, where nothing is asked by then."""

    def begin(self) -> None:
        self._asking += 1
        self.stop()
        self._show({"fill": "blue", "shape": "dot", "text": "requesting"})

    def end(self, found: Any) -> None:
        """`found` is the answer or an error. Not shown for each of many requests: only what the last one came to."""
        self._asking -= 1
        if not self._asking:
            away = isinstance(found, TimeoutError | ConnectionError)
            badge: Badge = {"fill": "red", "shape": "ring", "text": "no response from server"} if away else {}
            self._calm = asyncio.get_running_loop().call_later(CALM_S, self._show, badge)

    def stop(self) -> None:
        """Nothing is shown any more that was not shown before."""
        if self._calm is not None:
            self._calm.cancel()
            self._calm = None
