"""The packs in order of worry and how many are how bad, looked at now and then however many ask."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Literal

import msgspec

from edge.bands import BAND_POINTS, acknowledged_count, is_known, is_silent, values_of, worry
from edge.twin import PackTwin, TwinStore
from voltflow.clock import receive_clock

ROSTER_S = 1.0
SHARE = 100
"""So many times as long as looking took, it is not done again: at most a hundredth of a core (10,000 packs: 35 ms, so every
3.5 s)."""


Level = Literal["poor", "fair", "good", "unknown"]


class FleetCounts(msgspec.Struct, frozen=True):
    """All packs, by the points of their worry (`poor` from 200 on, `fair` from 40; `unknown`: below that, and no value of it is
    known), and how many are silent, said to be offline, or have alerts; `alerts` counts those that are active, `acknowledged`
    of them somebody has seen to."""

    packs: int = 0
    poor: int = 0
    fair: int = 0
    good: int = 0
    unknown: int = 0
    silent: int = 0
    offline: int = 0
    alerts: int = 0
    acknowledged: int = 0


def level_of(twin: PackTwin, points: int) -> Level:
    """What a pack with so many points of worry counts as."""
    if points >= BAND_POINTS["fair"]:
        return "poor" if points >= BAND_POINTS["poor"] else "fair"
    return "good" if is_known(values_of(twin)) else "unknown"


class Roster:
    """The packs of a store in order of worry."""

    def __init__(self, store: TwinStore, clock: Callable[[], float] = time.monotonic) -> None:
        self._store, self._clock = store, clock
        self._lock = threading.Lock()
        self._ranked: list[PackTwin] = []
        self._counts = FleetCounts()
        self._fresh_until = -1.0

    def ranked(self) -> list[PackTwin]:
        """All packs, the most worrying first; equal ones by name. As they were a moment ago; not to be changed."""
        with self._lock:
            self._look()
            return self._ranked

    def counts(self) -> FleetCounts:
        """How many packs are how bad; as they were a moment ago."""
        with self._lock:
            self._look()
            return self._counts

    def outdated(self) -> None:
        """Look again at the next question: somebody has changed what the order comes from."""
        self._fresh_until = -1.0

    def _look(self) -> None:
        if self._clock() <= self._fresh_until and len(self._ranked) == len(self._store.packs):
            return
        started, now_s = self._clock(), receive_clock.now_s()
        keyed = [(-worry(twin, now_s), twin.name, twin) for twin in list(self._store.packs)]
        keyed.sort(key=lambda item: item[:2])
        self._ranked = [twin for _, _, twin in keyed]
        self._counts = _counted([-points for points, _, _ in keyed], self._ranked, now_s)
        self._fresh_until = self._clock() + max(ROSTER_S, SHARE * (self._clock() - started))


def _counted(points: list[int], packs: list[PackTwin], now_s: float) -> FleetCounts:
    levels = Counter(map(level_of, packs, points))
    return FleetCounts(
        packs=len(packs),
        poor=levels["poor"],
        fair=levels["fair"],
        good=levels["good"],
        unknown=levels["unknown"],
        silent=sum(is_silent(twin, now_s) for twin in packs),
        offline=sum(twin.state is not None and not twin.state.online for twin in packs),
        alerts=sum(len(twin.alerts) for twin in packs),
        acknowledged=sum(acknowledged_count(twin) for twin in packs),
    )
