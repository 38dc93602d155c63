"""The packet router between network namespaces: a process that copies IP packets between pairs of TUN devices, badly.

It takes the place of the kernel's `netem`, which not every kernel has. Started by `tests.chaos.network` with a pair of
open TUN devices for each link (`name:fd:fd` arguments). Each line on its standard input is a JSON object of `Rules` with
the link's `name`; the answer is a line with the link's counters so far. It ends when its standard input does.
"""

from __future__ import annotations

import heapq
import itertools
import json
import os
import random
import select
import sys
import time
from dataclasses import asdict, dataclass, field

LARGEST_PACKET_BYTES = 65536
AT_ONCE = 64
"""Packets taken from one device before the others have their turn."""
HELD_BACK_S = 0.03
"""A packet that is to arrive out of order waits so long: some of those behind it overtake it."""
LONGEST_QUEUE_S = 0.5
"""A rate-limited link drops what would wait for longer, as the queue of a modem does."""


@dataclass
class Rules:
    """What a link does to packets, in each direction; shares are 0 … 1."""

    delay_ms: float = 0.0
    loss: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    rate_kbps: float = 0.0
    cut: bool = False


@dataclass
class Counters:
    """What was done to packets so far, both directions together."""

    passed: int = 0
    delayed: int = 0
    lost: int = 0
    duplicated: int = 0
    reordered: int = 0
    cut: int = 0
    overflowed: int = 0


@dataclass
class Link:
    """Two devices; what comes in at one leaves at the other."""

    name: str
    ends: tuple[int, int]
    rules: Rules = field(default_factory=Rules)
    counters: Counters = field(default_factory=Counters)
    free_at: dict[int, float] = field(default_factory=dict)
    """When the wire to an end has sent what was put on it (rate limit)."""


class Router:
    """Copies packets until its standard input ends."""

    def __init__(self, links: list[Link], seed: int) -> None:
        self.links = {link.name: link for link in links}
        self._routes = {end: (link, other) for link in links for end, other in _directions(link)}
        self._rng = random.Random(seed)
        self._waiting: list[tuple[float, int, int, bytes]] = []
        self._number = itertools.count()

    def run(self) -> None:
        poll = select.poll()
        for end in self._routes:
            os.set_blocking(end, False)
            poll.register(end, select.POLLIN)
        poll.register(0, select.POLLIN)
        while True:
            for fd, _ in poll.poll(self._timeout_ms()):
                if fd == 0:
                    if not self._obey(sys.stdin.readline()):
                        return
                else:
                    self._take(fd)
            self._send_due()

    def _timeout_ms(self) -> float | None:
        return max(0.0, (self._waiting[0][0] - time.monotonic()) * 1000) if self._waiting else None

    def _obey(self, line: str) -> bool:
        if not line:
            return False
        rules = json.loads(line)
        link = self.links[rules.pop("name")]
        if rules:
            link.rules = Rules(**rules)
        print(json.dumps(asdict(link.counters)), flush=True)
        return True

    def _take(self, end: int) -> None:
        link, other = self._routes[end]
        for _ in range(AT_ONCE):
            try:
                packet = os.read(end, LARGEST_PACKET_BYTES)
            except BlockingIOError:
                return
            self._pass_on(link, other, packet)

    def _pass_on(self, link: Link, end: int, packet: bytes) -> None:
        rules, counters, chance = link.rules, link.counters, self._rng.random
        if rules.cut:
            counters.cut += 1
        elif rules.loss and chance() < rules.loss:
            counters.lost += 1
        else:
            self._queue(link, end, packet)
            if rules.duplicate and chance() < rules.duplicate:
                counters.duplicated += 1
                self._queue(link, end, packet)

    def _queue(self, link: Link, end: int, packet: bytes) -> None:
        rules, counters = link.rules, link.counters
        wait_s = rules.delay_ms / 1000
        counters.delayed += bool(wait_s)
        if rules.reorder and self._rng.random() < rules.reorder:
            counters.reordered += 1
            wait_s += HELD_BACK_S
        due = time.monotonic() + wait_s
        if rules.rate_kbps:
            begin = max(due, link.free_at.get(end, 0.0))
            if begin - due > LONGEST_QUEUE_S:
                counters.overflowed += 1
                return
            due = link.free_at[end] = begin + len(packet) * 8 / (rules.rate_kbps * 1000)
        counters.passed += 1
        if due <= time.monotonic():
            _write(end, packet)
        else:
            heapq.heappush(self._waiting, (due, next(self._number), end, packet))

    def _send_due(self) -> None:
        now = time.monotonic()
        while self._waiting and self._waiting[0][0] <= now:
            _, _, end, packet = heapq.heappop(self._waiting)
            _write(end, packet)


def _directions(link: Link) -> tuple[tuple[int, int], tuple[int, int]]:
    first, second = link.ends
    return (first, second), (second, first)


def _write(end: int, packet: bytes) -> None:
    try:
        os.write(end, packet)
    except OSError:  # the queue of the device is full: a packet more that is lost
        return


def main(arguments: list[str]) -> None:
    seed, *pairs = arguments
    links = []
    for pair in pairs:
        name, first, second = pair.split(":")
        links.append(Link(name, (int(first), int(second))))
    Router(links, int(seed)).run()


if __name__ == "__main__":
    main(sys.argv[1:])
