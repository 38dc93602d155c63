"""A sink's circuit: closed while its far side takes batches, open while it does not, half-open while that is tried."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from voltflow.backoff import Backoff

log = logging.getLogger(__name__)

CircuitState = Literal["closed", "open", "half_open"]
STATES: tuple[CircuitState, ...] = ("closed", "open", "half_open")
STEADY_S = 10.0
"""A circuit that was closed for so long starts its delays small again; one that flaps goes on where it was."""


@dataclass
class Circuit:
    """Use: `failed(reason)` says how long to wait, `trying()` before the next attempt, `succeeded()` after a good one."""

    label: str
    backoff: Backoff = field(default_factory=lambda: Backoff(limit_s=5.0))
    clock: Callable[[], float] = time.monotonic
    state: CircuitState = "closed"
    reason: str = ""
    """Why it is not closed."""
    opened: int = 0
    """How often it has opened."""
    since: float = -STEADY_S
    """Monotonic time of the last change between closed and not closed."""

    @property
    def closed(self) -> bool:
        return self.state == "closed"

    @property
    def away_s(self) -> float:
        """For how long it has not been closed."""
        return 0.0 if self.closed else self.clock() - self.since

    def failed(self, reason: str) -> float:
        """The far side did not take a batch; returns the seconds to wait before the next attempt."""
        now = self.clock()
        if self.closed:
            if now - self.since >= STEADY_S:
                self.backoff.reset()
            self.opened += 1
            self.since = now
        if reason != self.reason:
            log.warning("%s is not available: %s", self.label, reason)
        self.state, self.reason = "open", reason
        return self.backoff.next_s()

    def trying(self) -> None:
        """The next batch is an attempt."""
        if not self.closed:
            self.state = "half_open"

    def succeeded(self) -> None:
        """The far side has taken a batch."""
        if self.closed:
            return
        now = self.clock()
        log.info("%s is available again after %.0f s", self.label, now - self.since)
        self.state, self.reason, self.since = "closed", "", now
