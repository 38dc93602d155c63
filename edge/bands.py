"""Bands for people (good, fair, poor) and the points that bring the most worrying pack to the top.

>>> BANDS["temperature"].of(61.0), BANDS["soc"].of(80.0), BANDS["soh"].of(None)
('poor', 'good', None)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

import msgspec

from edge.quantities import predicted
from edge.twin import PackTwin
from voltflow.clock import receive_clock
from voltflow.telemetry import Alert

Grade = Literal["good", "fair", "poor"]


class Band(msgspec.Struct, frozen=True):
    """Limits of one quantity: beyond `fair` it is fair, beyond `poor` poor, in the direction of `poor`."""

    fair: float
    poor: float
    unit: str

    def of(self, value: float | None) -> Grade | None:
        """The grade of a value; None when it is not known."""
        if value is None:
            return None
        if self.poor > self.fair:
            return "poor" if value > self.poor else "fair" if value > self.fair else "good"
        return "poor" if value < self.poor else "fair" if value < self.fair else "good"


BANDS: dict[str, Band] = {
    "soc": Band(fair=50, poor=20, unit="%"),
    "soh": Band(fair=85, poor=75, unit="%"),
    "temperature": Band(fair=40, poor=60, unit="°C"),
    "rul": Band(fair=500, poor=100, unit="EFC"),
    "failure": Band(fair=30, poor=60, unit="%"),
}
"""By quantity; for people's eyes. What raises an alert is the configuration of the alert node."""

WORDS = {
    "soc": "charge",
    "soh": "predicted health",
    "temperature": "hottest cell",
    "rul": "cycles left",
    "failure": "failure in 7 days",
}
"""What people call a quantity."""

ALERT_POINTS = {"critical": 1000, "warning": 300, "info": 10}
BAND_POINTS = {"good": 0, "fair": 40, "poor": 200}
SILENT_POINTS = 100
UNKNOWN_POINTS = 39
"""A pack of which no value is known stands above the good ones."""
SEVERITIES = tuple(ALERT_POINTS)


def values_of(twin: PackTwin) -> dict[str, float | None]:
    """What is graded, by quantity: SoC and temperature as measured, the others as predicted."""
    telemetry = twin.telemetry
    return {
        "soc": telemetry.soc_pct if telemetry else None,
        "temperature": telemetry.cell_temp_max_c if telemetry else None,
        "soh": predicted(twin, "soh"),
        "rul": predicted(twin, "rul"),
        "failure": predicted(twin, "failure"),
    }


def is_silent(twin: PackTwin, now_s: float | None = None) -> bool:
    """Whether the gateway has heard nothing of the pack for a while (its own clock, not the device's); not where it does
    not know what time it was then."""
    if twin.received_ms is None:
        return False
    return (receive_clock.now_s() if now_s is None else now_s) - twin.received_ms / 1000 > twin.silent_after_s


def worry(twin: PackTwin, now_s: float | None = None) -> int:
    """Points that sort packs, the most worrying first: active alerts, grades (a low SoC is none), silence."""
    alerts = list(twin.alerts.values())
    return points(values_of(twin), alerts, twin.acknowledged, is_silent=is_silent(twin, now_s))


def points(
    values: Mapping[str, float | None],
    alerts: Iterable[Alert],
    acknowledged: Mapping[str, int],
    *,
    is_silent: bool,
) -> int:
    """The points of a pack with these values, by quantity; an alert that somebody has seen to counts a tenth."""
    total = sum(
        ALERT_POINTS.get(alert.severity, 0) // (10 if is_acknowledged(alert, acknowledged) else 1)
        for alert in alerts
    )
    for quantity in ("temperature", "soh", "rul", "failure"):
        total += BAND_POINTS[BANDS[quantity].of(values[quantity]) or "good"]
    total += int(values["failure"] or 0)
    total += 0 if is_known(values) else UNKNOWN_POINTS
    return total + (SILENT_POINTS if is_silent else 0)


def is_known(values: Mapping[str, float | None]) -> bool:
    """Whether there is anything to grade a pack by."""
    return any(value is not None for value in values.values())


def is_acknowledged(alert: Alert, acknowledged: Mapping[str, int]) -> bool:
    """Whether somebody has seen to it; one that was raised anew since then nobody has."""
    return acknowledged.get(alert.code) == alert.since_ms


def acknowledged_count(twin: PackTwin) -> int:
    """How many of a pack's active alerts somebody has seen to."""
    seen = twin.acknowledged
    return sum(is_acknowledged(alert, seen) for alert in list(twin.alerts.values())) if seen else 0


def worries(twin: PackTwin, now_s: float | None = None) -> list[str]:
    """The same in words: alerts that nobody has seen to, the worst first, grades, silence, then the other alerts."""
    alerts = list(twin.alerts.values())  # in one call: the flow goes on
    alerts.sort(key=lambda alert: SEVERITIES.index(alert.severity))
    seen = [alert for alert in alerts if is_acknowledged(alert, twin.acknowledged)]
    found = [_in_words(alert) for alert in alerts if alert not in seen]
    values = values_of(twin)
    for quantity in ("temperature", "soh", "rul", "failure"):
        value, band = values[quantity], BANDS[quantity]
        if value is not None and band.of(value) != "good":
            found.append(f"{WORDS[quantity]} {value:.4g} {band.unit}".replace(" EFC", ""))
    if is_silent(twin, now_s):
        found.append(f"silent for more than {_time(twin.silent_after_s)}")
    if twin.telemetry is not None and (invalid := twin.telemetry.quality.invalid):
        found.append(f"impossible and left out: {', '.join(invalid)}")
    if not is_known(values):
        found.append("no value is known")
    return [*found, *(f"{_in_words(alert)} (acknowledged)" for alert in seen)]


def _time(s: float) -> str:
    return f"{s / 60:.3g} min" if s >= 120 else f"{s:.3g} s"


def _in_words(alert: Alert) -> str:
    return f"{alert.severity}: {alert.text or alert.code}"
