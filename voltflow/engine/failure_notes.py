"""What whoever looks at a flow hears of messages that failed and that no `catch` node heard of."""

from __future__ import annotations

from collections.abc import Sequence

from voltflow.engine.allowance import Allowance
from voltflow.engine.events import Events
from voltflow.engine.timer import Timer
from voltflow.engine.turn import FailedMsg
from voltflow.node import Node
from voltflow.shown import ERROR, WARN, log_message

TOLD_PER_S = 20
"""Of a whole flow. Where every message fails, more would only push out of the sidebar what else is in it."""


class FailureNotes:
    """Tells so many a second, and of the others how many they were, as soon as it may."""

    def __init__(self, events: Events, timer: Timer) -> None:
        self._events, self._timer = events, timer
        self._allowance = Allowance(TOLD_PER_S)
        self._untold = 0

    def tell(self, node: Node, failed: Sequence[FailedMsg]) -> None:
        """These failed at that node."""
        if not self._events.heard:
            self._untold = 0
            return
        allowed = self._allowance.take(len(failed))
        for item in failed[:allowed]:
            self._events.tell("debug", log_message(node, ERROR, str(item.error), self._timer.now_s()))
        self._untold += len(failed) - allowed
        if allowed and self._untold:
            text = f"{self._untold:,} more errors are not shown"
            self._events.tell("debug", log_message(node, WARN, text, self._timer.now_s()))
            self._untold = 0
