"""Predictions beside what turned out to be: the seed's comparison, without invented actual values."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec

from edge.quantities import predicted
from edge.twin import WIDE_SESSION_PCT, PackTwin

UNITS = {"soh": "%", "temperature": "°C", "rul": "EFC", "failure": "%"}
"""Unit of prediction, actual and difference, by quantity."""

ACCURACY_FLOORS = {"soh": 1.0, "temperature": 10.0, "rul": 1.0, "failure": 1.0}
"""Least denominator of the accuracy, by quantity: near 0 °C a relative error would say nothing."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Compared(msgspec.Struct):
    """One quantity: `difference` is predicted minus actual. What is not known is null and `reason` says why."""

    unit: str
    actual: float | None = None
    predicted: float | None = None
    accuracy: float | None = None
    difference: float | None = None
    reason: str | None = None
    actual_ms: int | None = None


class Comparison(msgspec.Struct):
    """Predictions of a pack beside actual values; `timestamp` is the device time of its newest message."""

    battery_id: str
    fleet: str
    timestamp: datetime | None
    comparisons: dict[str, Compared]


def device_time(ts_ms: int | None) -> datetime | None:
    """Milliseconds since 1970 as UTC.

    >>> device_time(0).isoformat()
    '1970-01-01T00:00:00+00:00'
    """
    return None if ts_ms is None else _EPOCH + timedelta(milliseconds=ts_ms)


def accuracy_pct(quantity: str, actual: float, predicted: float) -> float:
    """`100 · (1 - |predicted - actual| / max(|actual|, floor))`, never below 0.

    For a temperature the percentage depends on where the scale has its zero: look at the difference instead.

    >>> accuracy_pct("soh", actual=80.0, predicted=76.0)
    95.0
    >>> accuracy_pct("temperature", actual=0.0, predicted=1.0)
    90.0
    """
    share = abs(predicted - actual) / max(abs(actual), ACCURACY_FLOORS[quantity])
    return round(max(0.0, 100.0 * (1.0 - share)), 3)


def soh_actual(twin: PackTwin) -> tuple[float | None, str | None]:
    """State of health in percent as the last wide charge session measured it, or why none did."""
    session, state = twin.wide_session, twin.state
    if session is None or session.capacity_est_ah is None:
        return (
            None,
            f"no charge session over {WIDE_SESSION_PCT:.0f} % has measured the capacity since the gateway started",
        )
    if state is None or not state.capacity_rated_ah:
        return None, "the rated capacity is not known: the device sent no nameplate (bms.state/1)"
    return round(100.0 * session.capacity_est_ah / state.capacity_rated_ah, 2), None


def compare(twin: PackTwin) -> Comparison:
    """The four comparisons of a pack as they stand now."""
    telemetry = twin.telemetry
    return Comparison(
        battery_id=twin.pack,
        fleet=twin.fleet,
        timestamp=device_time(telemetry.ts_ms if telemetry else None),
        comparisons={
            "soh": _soh(twin),
            "temperature": temperature(twin),
            "rul": _unknown(twin, "rul", "known only when the pack has reached 80 % of its capacity"),
            "failure": _unknown(twin, "failure", "known only when the 7 days of the prediction are over"),
        },
    )


def temperature(twin: PackTwin) -> Compared:
    """The last temperature prediction whose time has come, beside what was measured then."""
    joined = twin.joined.get("temperature")
    if joined is not None:
        return _compared("temperature", joined.predicted, joined.actual, actual_ms=joined.target_ms)
    return _unknown(twin, "temperature", "measured 10 minutes after the prediction; none is that old yet")


def _soh(twin: PackTwin) -> Compared:
    actual, reason = soh_actual(twin)
    if actual is None:
        return _unknown(twin, "soh", reason or "")
    session = twin.wide_session
    return _compared("soh", predicted(twin, "soh"), actual, actual_ms=session.end_ms if session else None)


def _compared(quantity: str, answer: float | None, actual: float, actual_ms: int | None) -> Compared:
    result = Compared(UNITS[quantity], actual=actual, predicted=answer, actual_ms=actual_ms)
    if answer is None:
        result.reason = "no prediction yet"
    else:
        result.difference = round(answer - actual, 3)
        result.accuracy = accuracy_pct(quantity, actual, answer)
    return result


def _unknown(twin: PackTwin, quantity: str, reason: str) -> Compared:
    prediction = twin.predictions.get(quantity)
    if prediction is None:
        reason = f"no prediction yet; actual: {reason}"
    elif prediction.value is None:
        reason = f"no prediction: {prediction.reason}; actual: {reason}"
    return Compared(UNITS[quantity], predicted=predicted(twin, quantity), reason=reason)
