"""Retention beside a bridge's flow: a round every `period_s`; what prevents it is said once, and the flow goes on."""

from __future__ import annotations

import asyncio
import logging
import threading
import time

from cloud.aside import in_thread
from cloud.retention import Keep, Retention, Stopped

log = logging.getLogger(__name__)

FIRST_ROUND_S = 20.0
"""The flow and the ledger come first."""


class RetentionTask:
    """See the module. `ended_s` is the monotonic time at which the last round that went well ended."""

    def __init__(self, dsn: str, keep: Keep, period_s: float) -> None:
        self.retention = Retention(dsn, keep)
        self._period_s = period_s
        self._stop = threading.Event()
        self.active = False
        self.errors = 0
        self.error = ""
        self.ended_s: float | None = None

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`; a statement that is under way then is ended."""
        await in_thread(self._rounds, stop, self._end)

    def _end(self) -> None:
        self._stop.set()
        self.retention.abort()

    def _rounds(self) -> None:
        pause_s = min(FIRST_ROUND_S, self._period_s)
        while not self._stop.wait(pause_s):
            self._round()
            pause_s = self._period_s

    def _round(self) -> None:
        before = self.retention.removed.copy()
        try:
            self.active = self.retention.run(self._stop)
        except Stopped:
            return
        except Exception as error:  # noqa: BLE001 - whatever it is, the flow goes on and the next round tries again
            if not self._stop.is_set():
                self._failed(error)
            return
        self.error, self.ended_s = "", time.monotonic()
        if gone := self.retention.removed - before:
            log.info(
                "retention: took out %s",
                ", ".join(f"{count:,} of {name}" for name, count in sorted(gone.items())),
            )

    def _failed(self, error: Exception) -> None:
        text = f"{type(error).__name__}: {str(error).strip()}"
        if text != self.error:
            log.warning("retention: not done, trying again every %g s: %s", self._period_s, text)
        self.error = text
        self.errors += 1
