"""The continuous ledger of a bridge: looks at the newest history again and again, and has asked for what is missing.

`LedgerTask(…).run(stop, sender)` runs beside the flow and never stops it: while the database or the broker is away it
counts an error, says it once and tries again at the next round. `status` is what metrics and people see.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence

import msgspec

from cloud.aside import in_thread
from cloud.ledger_watch import Account, Watch
from cloud.repair import Repairs, Request
from voltflow.ledger.ranges import Range
from voltflow.ledger.sql import Key
from voltflow.mqtt.link import MqttLink

log = logging.getLogger(__name__)

FIRST_ROUND_S = 5.0
"""The flow connects before the first round."""
PUBLISH_TIMEOUT_S = 10.0

Sender = Callable[[], Awaitable[MqttLink | None]]
"""The connection to publish requests over; None while there is none."""


class LedgerStatus(msgspec.Struct):
    """What is known now. `looked_s` is the monotonic time up to which the last look that went well saw everything; `active` is
    false where another bridge does it."""

    active: bool = False
    looked_s: float | None = None
    errors: int = 0
    error: str = ""
    account: Account = msgspec.field(default_factory=Account)
    unexplained: int = 0
    pending: int = 0


class LedgerTask:
    """See the module."""

    def __init__(
        self, dsn: str, *, period_s: float, window_h: float, repair_after_s: float, repair_attempts: int
    ) -> None:
        self._watch = Watch(dsn, window_h * 3600)
        self._period_s = period_s
        self.repairs = Repairs(repair_after_s, repair_attempts)
        self.status = LedgerStatus()
        self.started_s = time.monotonic()

    async def run(self, stop: asyncio.Event, sender: Sender) -> None:
        """Look every period until `stop`."""
        pause_s = min(FIRST_ROUND_S, self._period_s)
        try:
            while not await _set_within(stop, pause_s):
                await self._round(stop, sender)
                pause_s = self._period_s
        finally:
            await asyncio.to_thread(self._watch.close)

    async def _round(self, stop: asyncio.Event, sender: Sender) -> None:
        try:
            account = await in_thread(
                lambda: self._watch.look(lambda: not stop.is_set()), stop, self._watch.abort
            )
            if stop.is_set():
                return
            self._take(account)
            if account is not None:
                await self._repair(stop, sender)
        except Exception as error:  # noqa: BLE001 - whatever it is, the flow goes on and the next round tries again
            if not stop.is_set():  # else its query was ended
                self._failed(error)
        else:
            if self.status.error:
                log.info("ledger: works again")
            self.status.error = ""

    def _failed(self, error: Exception) -> None:
        text = f"{type(error).__name__}: {str(error).strip()}"
        if text != self.status.error:
            log.warning("ledger: not looked at, trying again every %g s: %s", self._period_s, text)
        self.status.error = text
        self.status.errors += 1

    def _take(self, account: Account | None) -> None:
        status, now_s = self.status, time.monotonic()
        status.active = account is not None
        if account is None:
            self.repairs.forget()
            return
        self.repairs.update(account.missing, self._watch.boots, now_s)
        status.account, status.looked_s = account, now_s - account.behind_s
        status.unexplained, status.pending = self.repairs.counts(now_s)

    async def _repair(self, stop: asyncio.Event, sender: Sender) -> None:
        requests = self.repairs.due(time.monotonic())
        link = await sender() if requests else None
        if link is None:
            return
        requests, gateways = await in_thread(lambda: self._addressed(requests), stop, self._watch.abort)
        sendable = [(r, gateways[r.key[:2]]) for r in requests if r.key[:2] in gateways]
        if not sendable or stop.is_set():
            return
        async with asyncio.timeout(PUBLISH_TIMEOUT_S):
            await link.publish_batch([request.publication(gateway) for request, gateway in sendable])
        for request, _ in sendable:
            self.repairs.asked(request, time.monotonic())
        count = sum(hole.count for request, _ in sendable for hole in request.holes)
        log.info("ledger: asked %d gateway(s) for %d missing messages", len({g for _, g in sendable}), count)

    def _addressed(self, requests: Sequence[Request]) -> tuple[list[Request], dict[tuple[str, str], str]]:
        """The requests whose messages are still missing, and the gateways of their packs."""
        found = dict.fromkeys(self._watch.present(list(_ranges(requests))))
        kept = [
            request for request in requests
            if not any(key == request.key and request.first <= seq <= request.last for key, seq in found)
        ]  # fmt: skip
        return kept, self._watch.gateways(request.key for request in kept)


def _ranges(requests: Sequence[Request]) -> Iterator[tuple[Key, Range]]:
    for request in requests:
        for hole in request.holes:
            yield request.key, Range(hole.first, hole.last)


async def _set_within(stop: asyncio.Event, seconds: float) -> bool:
    """Whether the event is set within the time."""
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        return False
    return True
