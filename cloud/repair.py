"""Asks again for messages that stay missing: which, when, and how often. Knows no database and no broker.

A hole that neither fills nor is explained within `after_s` is asked for at its pack's gateway, and again after twice the
time, four times …, until `attempts` requests were in vain: then it stays in the ledger as lost without a reason.

>>> repairs = Repairs(after_s=60, attempts=3)
>>> repairs.update({("f", "p", 1): [Range(5, 9)]}, {("f", "p", 1)}, now_s=0)
>>> repairs.due(now_s=59), [(r.key, r.first, r.last) for r in repairs.due(now_s=60)]
([], [(('f', 'p', 1), 5, 9)])
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence

import msgspec

from voltflow import topics
from voltflow.ledger.ranges import Range
from voltflow.ledger.sql import Key
from voltflow.telemetry import Downlink, ReplayCommand

REQUEST_MESSAGES = 1000
"""Sequence numbers that one request spans at most."""
REQUESTS_AT_ONCE = 100
"""Requests of one round: a device or a gateway that was away for long must not be flooded."""
REQUESTS_OF_A_BOOT = 10
"""Of these for one boot at most: a device that says it published more than it ever did must not keep others waiting."""
PARTS_OF_A_BOOT = 1000
"""So many full ones are cut from the holes of a boot at most: no ring of a device has a million messages."""
BRIDGED_MESSAGES = 20
"""Holes with no more than so many messages between them are asked for together; what is there already changes nothing."""
LONGEST_PAUSE_S = 3600.0
GRACE_S = 60.0
"""A message that is missing for a shorter time is on its way, also where nothing is asked for."""


class Hole(msgspec.Struct):
    """Missing numbers of one age: since when they are missing, how often they were asked for, when it is time again."""

    first: int
    last: int
    since_s: float
    next_s: float
    attempts: int = 0
    given_up: bool = False

    @property
    def count(self) -> int:
        return self.last - self.first + 1

    def part(self, first: int, last: int) -> Hole:
        return msgspec.structs.replace(self, first=first, last=last)


class Request(msgspec.Struct):
    """Messages `first` … `last` of a boot that a device shall publish again, for the sake of the holes in them."""

    key: Key
    holes: list[Hole]

    @property
    def first(self) -> int:
        return self.holes[0].first

    @property
    def last(self) -> int:
        return self.holes[-1].last

    def publication(self, gateway: str) -> tuple[str, bytes]:
        """Topic and payload that bring it to the device."""
        fleet, pack, boot = self.key
        command = msgspec.json.encode(ReplayCommand(boot, self.first, self.last))
        down = Downlink("gw.down/1", topics.CMD.of(fleet, pack), command)
        return topics.gateway_down(gateway), msgspec.json.encode(down)


class Repairs:
    """The holes with their ages and attempts. `after_s` 0: nothing is asked for, the ages are kept all the same."""

    def __init__(self, after_s: float, attempts: int) -> None:
        self._after_s = after_s
        self._attempts = attempts
        self._holes: dict[Key, list[Hole]] = {}
        self.events: Counter[str] = Counter(asked=0, filled=0, given_up=0)

    def update(self, missing: Mapping[Key, Sequence[Range]], known: Container[Key], now_s: float) -> None:
        """Take over what is missing now; `known` are the boots that are looked at: others are forgotten."""
        before, self._holes = self._holes, {}
        wait_s = self._after_s or GRACE_S
        for key, ranges in missing.items():
            fresh = Hole(0, 0, now_s, now_s + wait_s)
            self._holes[key] = list(_inherited(ranges, before.get(key, []), fresh))
        for key, old in before.items():
            if key in known:
                was = sum(hole.count for hole in old if hole.attempts)
                self.events["filled"] += was - sum(h.count for h in self._holes.get(key, []) if h.attempts)

    def due(self, now_s: float) -> list[Request]:
        """What is to be asked for now, the least often asked first; `asked` is to be called for what was sent."""
        if not self._after_s:
            return []
        requests: list[Request] = []
        for key, holes in self._holes.items():
            self._give_up(holes, now_s)
            self._holes[key] = parts = list(_parts(holes, now_s))
            of_boot = _together(key, [hole for hole in parts if _is_due(hole, now_s)])
            requests += sorted(of_boot, key=_urgency)[:REQUESTS_OF_A_BOOT]
        return sorted(requests, key=_urgency)[:REQUESTS_AT_ONCE]

    def _give_up(self, holes: Iterable[Hole], now_s: float) -> None:
        for hole in holes:
            if _is_due(hole, now_s) and hole.attempts >= self._attempts:
                hole.given_up = True
                self.events["given_up"] += hole.count

    def asked(self, request: Request, now_s: float) -> None:
        """The request was sent."""
        for hole in request.holes:
            hole.attempts += 1
            hole.next_s = now_s + min(self._after_s * 2**hole.attempts, max(LONGEST_PAUSE_S, self._after_s))
            self.events["asked"] += hole.count

    def counts(self, now_s: float) -> tuple[int, int]:
        """Messages that are missing for so long that they count as lost, and those that are perhaps on their way."""
        grace_s = self._after_s or GRACE_S
        lost = total = 0
        for holes in self._holes.values():
            for hole in holes:
                total += hole.count
                lost += hole.count if now_s - hole.since_s >= grace_s else 0
        return lost, total - lost

    def forget(self) -> None:
        self._holes = {}


def _urgency(request: Request) -> tuple[int, float]:
    return request.holes[0].attempts, request.holes[0].since_s


def _is_due(hole: Hole, now_s: float) -> bool:
    return hole.next_s <= now_s and not hole.given_up


def _inherited(ranges: Sequence[Range], old: Sequence[Hole], fresh: Hole) -> Iterator[Hole]:
    """The ranges in parts: what was missing before keeps its age, the rest is fresh. Both are in order."""
    index = 0
    for item in ranges:
        following = item.first
        while index < len(old) and old[index].last < item.first:
            index += 1
        at = index
        while at < len(old) and old[at].first <= item.last:
            first, last = max(old[at].first, item.first), min(old[at].last, item.last)
            if first > following:
                yield fresh.part(following, first - 1)
            yield old[at].part(first, last)
            following, at = last + 1, at + 1
        if following <= item.last:
            yield fresh.part(following, item.last)


def _parts(holes: Iterable[Hole], now_s: float) -> Iterator[Hole]:
    """The holes, those that are due cut to what one request may span; no more than a round can ask for."""
    found = list(holes)
    cuts = min(REQUESTS_OF_A_BOOT, PARTS_OF_A_BOOT - sum(hole.count == REQUEST_MESSAGES for hole in found))
    for hole in found:
        rest = hole
        while _is_due(rest, now_s) and rest.count > REQUEST_MESSAGES and cuts > 0:
            yield rest.part(rest.first, rest.first + REQUEST_MESSAGES - 1)
            rest, cuts = rest.part(rest.first + REQUEST_MESSAGES, rest.last), cuts - 1
        yield rest


def _together(key: Key, holes: Sequence[Hole]) -> list[Request]:
    """Requests for the holes; those that lie close to each other share one. What is still too long waits."""
    requests: list[Request] = []
    for hole in holes:
        if hole.count > REQUEST_MESSAGES:
            continue
        last = requests[-1] if requests else None
        if (
            last is not None
            and hole.first - last.last - 1 <= BRIDGED_MESSAGES
            and hole.last - last.first < REQUEST_MESSAGES
        ):
            last.holes.append(hole)
        else:
            requests.append(Request(key, [hole]))
    return requests
