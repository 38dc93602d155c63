"""What the log says of a link's connection: what is new at once, what repeats once a minute at most, with its count."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

log = logging.getLogger("voltflow.mqtt")

REPEAT_S = 60.0
REASONS_LIMIT = 64
"""Reasons of which is known when they were said."""
SURELY_AWAY = 3
"""Failed attempts after which an end of the connection that was not said is: it does not just flap."""


class Report:
    """Says of one link when it is connected, lost, cannot connect. A broker that is away or flaps fills no log."""

    def __init__(self, name: str, address: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._name = name
        self._address = address
        self._clock = clock
        self._said_s: dict[str, float] = {}
        """When a reason was said last."""
        self._down_said = True
        """Whether the last line says that there is no connection."""
        self._failed_attempts = 0
        self._last_failure = ""
        self._lost_s = clock()
        self._unsaid = 0
        """Lost connections that no line said, counted since `_counted_s`."""
        self._counted_s = self._lost_s

    def lost(self, reason: str, *, level: int = logging.WARNING) -> None:
        now = self._clock()
        if now - self._lost_s >= REPEAT_S:
            self._unsaid = 0
        self._lost_s, self._last_failure = now, reason
        if not self._is_new(reason, now):
            self._unsaid += 1
            return
        if not self._unsaid:
            self._counted_s = now
        self._down_said = True
        log.log(level, "%s: connection to %s lost: %s", self._name, self._address, reason)

    def failed(self, reason: str, *, error: Exception | None = None) -> None:
        """An attempt to connect failed; `error`, when it is one nobody expects: it is said with its traceback."""
        self._failed_attempts += 1
        new = reason != self._last_failure and self._is_new(reason, self._clock())
        self._last_failure = reason
        if new or (not self._down_said and self._failed_attempts >= SURELY_AWAY):
            self._down_said = True
            log.warning("%s: cannot connect to %s, trying again: %s", self._name, self._address, reason,
                        exc_info=error)  # fmt: skip

    def connected(self, version: str) -> None:
        """Said when its end was, or once a minute for the ends that were not."""
        now = self._clock()
        if self._down_said or (self._unsaid and now - self._counted_s >= REPEAT_S):
            more = f" after {self._failed_attempts} failed attempt(s)" if self._failed_attempts else ""
            if self._unsaid:
                more += f"; it was lost {self._unsaid} more time(s) in {now - self._counted_s:.0f} s"
            log.info("%s: connected to %s (MQTT %s)%s", self._name, self._address, version, more)
            if self._unsaid:
                self._said_s = dict.fromkeys(self._said_s, now)
                self._unsaid, self._counted_s = 0, now
        self._down_said, self._failed_attempts, self._last_failure = False, 0, ""

    def session_lost(self) -> None:
        log.warning("%s: %s has forgotten the session: what it kept for this client is lost", self._name,
                    self._address)  # fmt: skip

    def _is_new(self, reason: str, now: float) -> bool:
        """Whether it was not said within the last minute, and is not one of those that the next count covers."""
        said_s = self._said_s.get(reason)
        if said_s is not None and (self._unsaid or now - said_s < REPEAT_S):
            return False
        if len(self._said_s) >= REASONS_LIMIT:
            self._said_s.clear()
        self._said_s[reason] = now
        return True
