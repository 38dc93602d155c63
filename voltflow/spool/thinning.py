"""Which messages of a backlog stay when it is thinned: a steady sample, the extremes, and what exists only once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import msgspec

from voltflow import topics
from voltflow.spool.format import Record

EXTREMES = (
    ("cell_temp_max_c", 1, 1.0),
    ("cell_voltage_min_v", -1, 0.001),
    ("cell_voltage_max_v", 1, 0.001),
    ("pack_current_a", 1, 0.1),
    ("pack_current_a", -1, 0.1),
)
"""Field, whether the highest (1) or the lowest (-1) counts, and the resolution of such a sensor: less is no extreme."""
ONCE = ("soh", "rul", "failure")
"""Predictions that are made now and then; the temperature's comes often and is thinned with its message."""
_TOLERANCE = 1e-9


class _Telemetry(msgspec.Struct):
    cell_temp_max_c: float | None = None
    cell_voltage_min_v: float | None = None
    cell_voltage_max_v: float | None = None
    pack_current_a: float | None = None
    alarm_level: int | None = None
    dtc: list[str] = []


class _Estimate(msgspec.Struct):
    session: Any = None


class _Twin(msgspec.Struct):
    telemetry: _Telemetry
    estimate: _Estimate = msgspec.field(default_factory=_Estimate)
    joined: dict[str, Any] = {}
    predictions: dict[str, Any] = {}


_decode_twin = msgspec.json.Decoder(_Twin).decode
_decode_telemetry = msgspec.json.Decoder(_Telemetry).decode


class _Message(NamedTuple):
    place: int
    telemetry: _Telemetry


def keep(records: Sequence[Record], period_ms: int) -> list[bool]:
    """For each record whether it stays.

    Of each pack and period of device time the first message stays, and those that hold the period's highest cell
    temperature, lowest and highest cell voltage, lowest and highest current, where they go beyond what already stays
    by more than the sensor can tell. What carries something that exists only once stays always: a charge session, a
    prediction beside what was then measured, a prediction of SoH, RUL or failure, an alarm or trouble code that came or
    went. So does what cannot be understood.
    """
    stays = [False] * len(records)
    alarms: dict[str, tuple[int, list[str]]] = {}
    periods: dict[tuple[str, int, int], list[_Message]] = {}
    for index, record in enumerate(records):
        twin, time_ms = _decoded(record), record.ts_ms or record.received_ms
        if twin is None or not time_ms:
            stays[index] = True
            continue
        alarm = (twin.telemetry.alarm_level or 0, twin.telemetry.dtc)
        stays[index] = _exists_once(twin) or alarm != alarms.get(record.topic, (0, []))
        alarms[record.topic] = alarm
        period = (record.topic, record.boot, time_ms // period_ms)
        periods.setdefault(period, []).append(_Message(index, twin.telemetry))
    for messages in periods.values():
        stays[messages[0].place] = True
        _keep_extremes(messages, stays)
    return stays


def _decoded(record: Record) -> _Twin | None:
    place = topics.parse(record.topic)
    try:
        if place is not None and place.kind == topics.TWIN.kind:
            return _decode_twin(record.payload)
        return _Twin(_decode_telemetry(record.payload))
    except (ValueError, RecursionError):  # bytes of any kind: no JSON, no UTF-8, nested without end
        return None


def _exists_once(twin: _Twin) -> bool:
    return bool(
        twin.estimate.session is not None or twin.joined or any(model in twin.predictions for model in ONCE)
    )


def _keep_extremes(messages: list[_Message], stays: list[bool]) -> None:
    for field, sign, resolution in EXTREMES:
        best, extreme = _furthest(messages, field, sign)
        if best is None:
            continue
        _, kept = _furthest((message for message in messages if stays[message.place]), field, sign)
        if kept is None or extreme - kept > resolution + _TOLERANCE:
            stays[best.place] = True


def _furthest(messages: Iterable[_Message], field: str, sign: int) -> tuple[_Message | None, Any]:
    """The message with the highest (lowest) value, and the value times the sign."""
    found = [
        (sign * value, message)
        for message in messages
        if (value := getattr(message.telemetry, field)) is not None
    ]
    value, message = max(found, key=lambda pair: pair[0], default=(None, None))
    return message, value
