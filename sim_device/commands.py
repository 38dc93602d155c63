"""What a device does when it is told to on `cmd`: publish again what is missing elsewhere, publish at another rate.

Messages asked for again go out slowly beside the live ones: so many a second, and few of a pack unconfirmed, so that
live messages never wait for them.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from sim_device.ring import Ring
from voltflow.telemetry import Command, RateCommand, ReplayCommand

log = logging.getLogger(__name__)

TICK_S = 0.02
AT_ONCE = 10
"""Messages published again in a tick: 500 a second of all packs together."""
UNCONFIRMED = 20
"""Messages of a pack published again that may be unconfirmed."""
REQUESTS = 10_000
"""Requests that may wait; one more is refused, who asked will ask again."""
REPORTED = 10
"""Bad commands that are logged; the others are only counted."""
LOWEST_HZ = 0.1

_decoder = msgspec.json.Decoder(Command)

PublishAgain = Callable[[int, bytes], "asyncio.Future[None] | None"]
"""Publishes a message of a pack; None while its broker cannot be reached."""


class CommandCounts(msgspec.Struct):
    """What came of commands: how many came (the bad ones too), messages published again and confirmed, messages asked
    for that this device does not have."""

    commands: int = 0
    bad: int = 0
    replayed: int = 0
    not_kept: int = 0


@dataclass
class _Request:
    """Messages `next` … `last` of a pack, still to be published again; `first` is where it began."""

    pack: int
    first: int
    next: int
    last: int


class Commands:
    """Takes the commands of several packs, which are known by their number."""

    def __init__(self, ring: Ring, boot: int, published: Callable[[int], int], again: PublishAgain) -> None:
        self.counts = CommandCounts()
        self.asked_hz: float | None = None
        """The last rate asked for."""
        self._ring, self._boot, self._published, self._again = ring, boot, published, again
        self._requests: deque[_Request] = deque()
        self._waiting: Counter[int] = Counter()
        """Unconfirmed messages by pack."""
        self._asked = asyncio.Event()

    def take(self, pack: int, payload: bytes) -> None:
        """One message of a pack's `cmd` topic; what it is not is counted and logged."""
        self.counts.commands += 1
        try:
            command = _decoder.decode(payload)
        except msgspec.DecodeError as error:
            self.counts.bad += 1
            level = logging.WARNING if self.counts.bad <= REPORTED else logging.DEBUG
            log.log(level, "a command is not understood: %s: %.200r", error, payload)
            return
        if isinstance(command, RateCommand):
            self.asked_hz = max(command.hz, LOWEST_HZ)
        else:
            self._take_request(pack, command)

    def _take_request(self, pack: int, asked: ReplayCommand) -> None:
        first, last = self._kept_of(pack, asked)
        if any(r.pack == pack and r.first <= first <= last <= r.last for r in self._requests):
            return  # it is under way
        self.counts.not_kept += max(0, asked.to - asked.from_ + 1) - max(0, last - first + 1)
        if last < first:
            return
        if len(self._requests) >= REQUESTS:
            log.warning("%d requests wait already: one more is refused", REQUESTS)
            return
        self._requests.append(_Request(pack, first, first, last))
        self._asked.set()

    def _kept_of(self, pack: int, asked: ReplayCommand) -> tuple[int, int]:
        """The part of what is asked for that is in the ring; its end is before its begin when there is none."""
        if asked.boot != self._boot:
            return 0, -1
        end = self._published(pack)
        return max(asked.from_, end - self._ring.messages), min(asked.to, end - 1)

    async def run(self) -> None:
        """Publish again what is asked for, until cancelled."""
        while True:
            await self._asked.wait()
            self._publish_some()
            if not self._requests:
                self._asked.clear()
            await asyncio.sleep(TICK_S)

    def _publish_some(self) -> None:
        """One tick's messages; packs take turns, one that has no room or no broker waits for its next turn."""
        left, tries = AT_ONCE, len(self._requests)
        while left and tries:
            tries -= 1
            request = self._requests.popleft()
            while left and request.next <= request.last and self._publish_one(request):
                left -= 1
            if request.next <= request.last:
                self._requests.append(request)

    def _publish_one(self, request: _Request) -> bool:
        """Publish the next message of a request; False when it must wait."""
        pack = request.pack
        if self._waiting[pack] >= UNCONFIRMED:
            return False
        payload = self._ring.get(pack, request.next)
        if payload is None:  # overwritten meanwhile, or too long
            self.counts.not_kept += 1
        else:
            done = self._again(pack, payload.replace(b'"replay":false', b'"replay":true', 1))
            if done is None:
                return False
            self._waiting[pack] += 1
            done.add_done_callback(lambda future: self._settled(pack, future))
        request.next += 1
        return True

    def _settled(self, pack: int, done: asyncio.Future[None]) -> None:
        self._waiting[pack] -= 1
        if not done.cancelled() and done.exception() is None:
            self.counts.replayed += 1
