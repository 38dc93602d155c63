"""Names the node and message that hold up a flow."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING

from voltflow.message import Msg

if TYPE_CHECKING:
    from voltflow.engine.engine import Engine

log = logging.getLogger("voltflow.engine.engine")


class Watchdog(threading.Thread):
    """Names the node and message that hold up the flow for longer than `watchdog_s`.

    A thread, because a transform that does not return holds the event loop itself.
    """

    def __init__(self, engine: Engine) -> None:
        super().__init__(name="watchdog", daemon=True)
        self._engine = engine
        self._ended = threading.Event()
        self._reported: Msg | None = None

    def stop(self) -> None:
        self._ended.set()

    def run(self) -> None:
        while not self._ended.wait(min(1.0, self._engine.watchdog_s / 4)):
            self._look()

    def _look(self) -> None:
        engine, now = self._engine, time.monotonic()
        running = engine.running
        if running is not None and now - running[2] > engine.watchdog_s and self._reported is not running[1]:
            self._reported = running[1]
            self._report(
                f"node {running[0].label} has not returned",
                running[1],
                now - running[2],
            )
        for transaction in list(engine.transactions):
            if now - transaction.started > engine.watchdog_s and not transaction.reported:
                transaction.reported = True
                # a copy: this thread is not the one that changes it
                holding = [node_id for node_id, count in transaction.waiting_for.copy().items() if count]
                labels = ", ".join(engine.label_of(node_id) for node_id in holding) or "no sink"
                self._report(f"{labels} has not confirmed a batch of {transaction.size}", transaction.first,
                             now - transaction.started)  # fmt: skip

    def _report(self, what: str, msg: Msg, age_s: float) -> None:
        log.error(
            "stall: %s for %.0f s; first message: topic %s, key %s",
            what,
            age_s,
            msg.topic,
            msg.key,
        )
        self._engine.stalls += 1
