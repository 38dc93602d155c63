"""All packs in one pass, for the metrics: their values as columns, and which packs get series of their own.

However many scrapers ask, the pass is made at most once a second and takes at most 5 % of a core.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from math import nan

import numpy as np
from numpy.typing import NDArray

from edge.bands import is_silent, points, values_of
from edge.comparison import accuracy_pct, soh_actual
from edge.quantities import insulation_ohm_per_v, power_w, spread_v
from edge.twin import PackTwin, TwinStore
from voltflow.clock import receive_clock

SURVEY_S = 1.0
MAX_FLEETS = 20
OTHER_FLEETS = "(other)"
"""What the fleets beyond MAX_FLEETS, in the order in which they were first heard of, are counted under; no fleet can have
the name."""
MAX_ALERT_CODES = 50
"""Codes of alerts that are counted by their name: flows may raise alerts of their own. The others are `other`."""
MARGIN = 20
"""A pack takes another one's series when it is more worrying by so many points (a fair grade has 40)."""
HOLD_S = 600.0
"""A pack with series counts as worrying as it was at most within this time."""

COLUMNS = (
    "soc", "soh", "temperature", "rul", "failure", "spread_v", "insulation_ohm_per_v", "power_w", "soh_error",
    "soh_accuracy", "temperature_accuracy", "voltage_residual_v", "soc_residual_pct", "is_silent", "is_offline", "late", "holes", "worry",
)  # fmt: skip
Column = NDArray[np.float64]


@dataclass(frozen=True)
class Survey:
    """The packs as they stood at one moment. `chosen` have series of their own, the most worrying first."""

    chosen: list[PackTwin]
    columns: dict[str, Column]
    """By name, a number for each pack; NaN where it is not known."""
    fleets: list[str]
    fleet_of: NDArray[np.int64]
    """The place in `fleets` of each pack's fleet."""
    alerts: Counter[tuple[str, str, str]]
    """Active alerts by fleet, code and severity."""
    cost_s: float

    @property
    def packs(self) -> int:
        """How many there are."""
        return len(self.fleet_of)


class Choice:
    """Which packs get series of their own. One with series keeps them until all places are taken and another pack is more
    worrying by MARGIN than it was at any time within HOLD_S, so that none comes and goes with each scrape.

    >>> choice = Choice(2)
    >>> choice.choose(np.array([0, 10, 30]), now_s=0)
    [2, 1]
    >>> choice.choose(np.array([25, 10, 0]), now_s=5)
    [1, 2]
    >>> choice.choose(np.array([300, 10, 0]), now_s=10)
    [0, 2]
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._peaks: dict[int, tuple[float, float]] = {}
        """By pack with series: how worrying it was at most, and until when that counts."""

    def choose(self, worry: NDArray[np.int64] | Column, now_s: float) -> list[int]:
        """The slots, the most worrying first, equal ones in the order of their slots."""
        for slot, (peak, until_s) in self._peaks.items():
            if worry[slot] >= peak or now_s > until_s:
                self._peaks[slot] = (float(worry[slot]), now_s + HOLD_S)
        order = np.argsort(-worry, kind="stable").tolist()
        outside = [slot for slot in order[: self.limit] if slot not in self._peaks]
        weakest_last = sorted(self._peaks, key=lambda slot: (-self._peaks[slot][0], slot))
        for slot in outside:
            if len(self._peaks) >= self.limit:
                if not weakest_last or worry[slot] < self._peaks[weakest_last[-1]][0] + MARGIN:
                    break
                del self._peaks[weakest_last.pop()]
            self._peaks[slot] = (float(worry[slot]), now_s + HOLD_S)
        return sorted(self._peaks, key=lambda slot: (-worry[slot], slot))


@dataclass
class Surveyor:
    """Makes surveys of a store. `clock` is monotonic, in seconds."""

    store: TwinStore
    limit: int
    clock: Callable[[], float] = time.monotonic
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _last: Survey | None = None
    _fresh_until_s: float = 0.0

    def __post_init__(self) -> None:
        self._choice = Choice(self.limit)

    def look(self) -> Survey:
        """The packs now, or as they were a moment ago."""
        with self._lock:
            last = self._last
            if last is None or self.clock() > self._fresh_until_s or last.packs != len(self.store.packs):
                last = self._last = self._make()
                self._fresh_until_s = self.clock() + max(SURVEY_S, 20 * last.cost_s)
            return last

    def _make(self) -> Survey:
        started_s, now_s = time.monotonic(), receive_clock.now_s()
        packs = list(self.store.packs)
        alerts: Counter[tuple[str, str, str]] = Counter()
        places: dict[str, int] = {}
        fleet_of = np.fromiter(
            (_place(places, twin.fleet) for twin in packs), dtype=np.int64, count=len(packs)
        )
        rows = np.array([_row(twin, now_s, alerts) for twin in packs], dtype=np.float64)
        columns = dict(zip(COLUMNS, rows.reshape(len(packs), len(COLUMNS)).T, strict=True))
        chosen = [packs[slot] for slot in self._choice.choose(columns["worry"], self.clock())]
        return Survey(
            chosen, columns, list(places), fleet_of, _bounded(alerts, places), time.monotonic() - started_s
        )


def _place(places: dict[str, int], fleet: str) -> int:
    if fleet not in places and len(places) >= MAX_FLEETS:
        fleet = OTHER_FLEETS
    return places.setdefault(fleet, len(places))


def _bounded(alerts: Counter[tuple[str, str, str]], places: dict[str, int]) -> Counter[tuple[str, str, str]]:
    """The counts with what is beyond the limits put together."""
    codes = sorted({code for _, code, _ in alerts})[:MAX_ALERT_CODES]
    bounded: Counter[tuple[str, str, str]] = Counter()
    for (fleet, code, severity), count in alerts.items():
        fleet, code = fleet if fleet in places else OTHER_FLEETS, code if code in codes else "other"
        bounded[fleet, code, severity] += count
    return bounded


def _row(twin: PackTwin, now_s: float, counts: Counter[tuple[str, str, str]]) -> tuple[float | None, ...]:
    """A pack's numbers in the order of COLUMNS; its alerts are added to `counts`."""
    telemetry, estimate, state = twin.telemetry, twin.estimate, twin.state
    values, silent, alerts = values_of(twin), is_silent(twin, now_s), list(twin.alerts.values())
    if alerts:
        counts.update((twin.fleet, alert.code, alert.severity) for alert in alerts)
    spread = ohm_per_v = power = soh_error = soh_accuracy = temperature_accuracy = None
    if telemetry is not None:
        spread, ohm_per_v, power = spread_v(telemetry), insulation_ohm_per_v(telemetry), power_w(telemetry)
    if (soh := values["soh"]) is not None and (actual := soh_actual(twin)[0]) is not None:
        soh_error, soh_accuracy = soh - actual, accuracy_pct("soh", actual, soh)
    if (joined := twin.joined.get("temperature")) is not None:
        temperature_accuracy = accuracy_pct("temperature", joined.actual, joined.predicted)
    residual_mv = estimate.voltage_residual_mv
    return (
        values["soc"], values["soh"], values["temperature"], values["rul"], values["failure"], spread, ohm_per_v,
        power, soh_error, soh_accuracy, temperature_accuracy,
        nan if residual_mv is None else residual_mv / 1000, estimate.soc_residual_pct, silent,
        nan if state is None else not state.online, twin.late,
        sum(1 for _ in twin.sequence.open_holes()), points(values, alerts, twin.acknowledged, is_silent=silent),
    )  # fmt: skip
