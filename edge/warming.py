"""Whether a prediction would speak of a time that holds a hole, because the gateway crashed and forgot what it had heard."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from voltflow.battery.features import WINDOW_S
from voltflow.telemetry import TwinPrediction

_LAST_MS: Final = 253402300799000
"""The end of the year 9999, beyond which there is no date to print."""


def warming(model: str, twin: TwinPrediction, hole_ms: int) -> str:
    """Why a model says nothing at a message while a hole of its pack, ended at `hole_ms`, is in its window; empty where
    it may speak.

    Means over a window move on as if nothing had been in the hole, and a charge session misses what it charged there.
    """
    session = twin.estimate.session
    if session is not None and model in {"soh", "rul"} and session.start_ms < hole_ms:
        return "warming: the charge session holds a hole that a crash of the gateway left, until the next one ends"
    window_s = WINDOW_S.get(model, 0.0)
    until_ms = hole_ms + round(window_s * 1000)
    if twin.ts_ms >= until_ms:
        return ""
    until = datetime.fromtimestamp(min(until_ms, _LAST_MS) / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return f"warming: the last {window_s / 60:.0f} min hold a hole that a crash of the gateway left, until {until}"
