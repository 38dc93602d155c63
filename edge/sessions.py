"""The last charge and discharge sessions of a pack, followed at the points of its history: one look in 10 s of device time.

The estimator (`voltflow.battery`) measures capacity from a charge session; this says of every session what people ask of it. Charge
moved is the difference of the pack's own counters where it has them, so that a gap in the messages loses nothing of it.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from math import isnan, nan
from typing import Final, Literal, NamedTuple

from voltflow.telemetry import Telemetry

KEPT: Final = 20
"""Sessions of a pack, 72 bytes each."""
PAUSE_MS: Final = 300_000
"""A session ends when nothing has flowed for longer."""
SILENCE_MS: Final = 1_800_000
"""After so long without a message it is not the same session any more."""
SHORTEST_MS: Final = 60_000
"""Shorter ones are not kept: a contactor that closes, a car that is moved."""
TURN_MS: Final = 60_000
"""Of a pack of which only the current is known, a session of the other kind begins when its current has flowed the other way for so
long: until then it may be the recuperation of a drive."""
FLOWS_A: Final = 1.0
"""A smaller current is what control units draw."""
INTEGRATED_MS: Final = 60_000
"""Without counters a current is taken to hold for at most so long."""
MOST_A: Final = 3000.0
"""A counter that moved faster began anew."""

_CHARGE, _DISCHARGE = 1.0, -1.0
(_KIND, _START, _LAST, _SOC_FROM, _SOC_TO, _ENERGY, _AH, _TEMP, _SOH, _AT, _COUNTER) = range(11)
_WIDTH: Final = 9
"""Numbers of a session that has ended; one that goes on has two more: the last point's time and counter."""
_OPEN: Final = _WIDTH + 2


class SessionRow(NamedTuple):
    """One session; `end_ms` None: it goes on. `energy_kwh` and `charge_ah` are what went the session's way, less what came
    back. `soh_pct` is what the estimator measured from it."""

    kind: Literal["charge", "discharge"]
    start_ms: int
    end_ms: int | None
    soc_from_pct: float | None
    soc_to_pct: float | None
    energy_kwh: float
    charge_ah: float
    temp_max_c: float | None
    soh_pct: float | None


class SessionLog:
    """A pack's sessions, the newest last. `turn` is not empty while the current flows the other way and it is not known why: the
    session as it was before, then the one that has begun if it goes on so."""

    __slots__ = ("current", "ended", "turn")

    def __init__(self, ended: bytes = b"", current: Sequence[float] = (), turn: Sequence[float] = ()) -> None:
        """From what `ended.tobytes()`, `current` and `turn` gave; raises ValueError for what they did not give."""
        self.ended, self.current, self.turn = array("d", ended), list(current), list(turn)
        if (
            len(self.ended) % _WIDTH
            or len(self.current) not in {0, _OPEN}
            or len(self.turn) not in {0, 2 * _OPEN}
        ):
            raise ValueError("sessions of another format")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SessionLog) and self._bytes() == other._bytes()

    def _bytes(self) -> bytes:
        """By these two are compared: in them NaN is the same as NaN."""
        return self.ended.tobytes() + array("d", [*self.current, *self.turn]).tobytes()

    __hash__ = None  # type: ignore[assignment]  # it changes

    def see(self, telemetry: Telemetry, soc_pct: float | None) -> None:
        """Take a point of the pack's history; points come in the order of their times."""
        kind, now = _kind(telemetry), self.current
        if now:
            silent_ms = telemetry.ts_ms - now[_LAST]
            if kind and silent_ms <= SILENCE_MS:
                if kind == now[_KIND]:
                    self.turn = []
                    _go_on(now, telemetry, soc_pct)
                else:
                    self._turn(kind, telemetry, soc_pct)
                return
            self.turn = []
            if not kind and silent_ms <= PAUSE_MS:
                return
            self._end()
        if kind:
            self.current = _begun(kind, telemetry, soc_pct)

    def _turn(self, kind: float, telemetry: Telemetry, soc_pct: float | None) -> None:
        """Charge flows the other way: where nobody says that it is another session, the point is of both until it has lasted."""
        if self.turn:
            before, after = self.turn[:_OPEN], self.turn[_OPEN:]
            _go_on(after, telemetry, soc_pct)
        else:
            before, after = self.current.copy(), _begun(kind, telemetry, soc_pct)
        if not _is_told(telemetry) and after[_LAST] - after[_START] < TURN_MS:
            self.turn = before + after
            _go_on(self.current, telemetry, soc_pct)
            return
        self.current, self.turn = before, []
        self._end()
        self.current = after

    def measured(self, start_ms: int, end_ms: int, soh_pct: float) -> None:
        """Note what the estimator made of a charge session, at the newest one here that was at that time."""
        if self.current and _was(self.current, 0, start_ms, end_ms):
            self.current[_SOH] = soh_pct
            if self.turn:
                self.turn[_SOH] = soh_pct
            return
        for first in range(len(self.ended) - _WIDTH, -1, -_WIDTH):
            if _was(self.ended, first, start_ms, end_ms):
                self.ended[first + _SOH] = soh_pct
                return

    def rows(self, limit: int) -> list[SessionRow]:
        """The newest sessions, the newest first."""
        ended, now = self.ended[:], self.current[:]
        rows = [
            _row(ended[first : first + _WIDTH], goes_on=False)
            for first in range(len(ended) - _WIDTH, -1, -_WIDTH)
        ]
        return [*([_row(now, goes_on=True)] if now else []), *rows][:limit]

    def _end(self) -> None:
        now, self.current = self.current, []
        if now[_LAST] - now[_START] >= SHORTEST_MS:
            self.ended = (self.ended + array("d", now[:_WIDTH]))[-KEPT * _WIDTH :]


def _kind(telemetry: Telemetry) -> float:
    """Which way charge flows: as the device says it, or by the current where it does not; 0 where nothing does."""
    current_a = telemetry.pack_current_a or 0.0
    if telemetry.charging_state == "charging":
        return _CHARGE
    if telemetry.vehicle_state == "driving" or current_a < -FLOWS_A:
        return _DISCHARGE
    return _CHARGE if telemetry.charging_state is None and current_a > FLOWS_A else 0.0


def _is_told(telemetry: Telemetry) -> bool:
    """Whether the device says more than its current of what it does."""
    return telemetry.charging_state is not None or telemetry.vehicle_state is not None


def _begun(kind: float, telemetry: Telemetry, soc_pct: float | None) -> list[float]:
    ts_ms, soc, temp_c = telemetry.ts_ms, _number(soc_pct), _number(telemetry.cell_temp_max_c)
    return [kind, ts_ms, ts_ms, soc, soc, 0.0, 0.0, temp_c, nan, ts_ms, _counter(telemetry)]


def _go_on(now: list[float], telemetry: Telemetry, soc_pct: float | None) -> None:
    ts_ms, counter, temp_c = telemetry.ts_ms, _counter(telemetry), telemetry.cell_temp_max_c
    passed_ms, moved_ah = ts_ms - now[_AT], counter - now[_COUNTER]
    if not abs(moved_ah) <= MOST_A * passed_ms / 3_600_000 + 1.0:  # also where a counter is not known
        moved_ah = (telemetry.pack_current_a or 0.0) * min(passed_ms, INTEGRATED_MS) / 3_600_000
    moved_ah *= now[_KIND]
    now[_AH] += moved_ah
    now[_ENERGY] += moved_ah * (telemetry.pack_voltage_v or 0.0) / 1000.0
    if soc_pct is not None:
        now[_SOC_TO] = soc_pct
        if isnan(now[_SOC_FROM]):
            now[_SOC_FROM] = soc_pct
    if temp_c is not None and not temp_c <= now[_TEMP]:
        now[_TEMP] = temp_c
    now[_LAST] = now[_AT] = ts_ms
    now[_COUNTER] = counter


def _counter(telemetry: Telemetry) -> float:
    """Charge that has gone in less what has come out, over the pack's life; NaN where it is not told."""
    charged, discharged = telemetry.charge_throughput_ah, telemetry.discharge_throughput_ah
    return nan if charged is None or discharged is None else charged - discharged


def _was(rows: Sequence[float], first: int, start_ms: int, end_ms: int) -> bool:
    return (
        rows[first + _KIND] == _CHARGE and rows[first + _START] <= end_ms and rows[first + _LAST] >= start_ms
    )


def _row(values: Sequence[float], *, goes_on: bool) -> SessionRow:
    return SessionRow(
        "charge" if values[_KIND] == _CHARGE else "discharge", int(values[_START]), None if goes_on else int(values[_LAST]),
        _known(values[_SOC_FROM]), _known(values[_SOC_TO]), round(values[_ENERGY], 3), round(values[_AH], 2),
        _known(values[_TEMP]), _known(values[_SOH]),
    )  # fmt: skip


def _number(value: float | None) -> float:
    return nan if value is None else value


def _known(value: float) -> float | None:
    return None if isnan(value) else round(value, 2)
