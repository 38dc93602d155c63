"""The `resample` node: values on a regular grid of time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from voltflow.flow.properties import PathError, get, plain, put
from voltflow.message import Msg
from voltflow.node import ConfigError, Context, Ports, Transform, config, node
from voltflow.nodelib.aggregate import check_path, is_missing, is_number, mean
from voltflow.nodelib.event_time import AHEAD_HELP, AHEAD_S, aside, is_ahead, key_of, time_of

MOST_POINTS = 10_000
"""Points between two messages."""
MOST_KEYS = 20_000
"""Groups whose last sample is known; the oldest is forgotten first."""


@dataclass(slots=True)
class Sample:
    """The last message of a key: its time, its values in the order of the properties; for means the values since the last
    point, too."""

    at_ms: int
    values: list[Any]
    since: list[list[float]] = field(default_factory=list)


@node("resample", category="function", color="#e2d96e", icon="range.svg", outputs=2)
class Resample(Transform):
    """Bring values of any rhythm to a regular one: a message for each point of a grid of time.

    A point is given out by the first message after it. `last`: the value that was the newest then; `mean`: of the values since
    the point before, without a message where there are none; `linear`: between the message before and the one after it. Where
    nothing came for more than `longest`, there are no points. Output 2 gets messages that are not newer than the last of
    their key, and those from the future, with the reason (`late`, `future`) in `msg.late`. What is known of the last messages is in memory only: after a restart the points between the last message
    before and the first one after it are missing, and a mean that was begun is of fewer values.
    """

    properties: list[str] = config(["payload.value"], help="properties with the values, one or several")
    step: float = config(10.0, help="distance of the points; they lie at multiples of it since 1970", unit="s", low=0.001, high=86400)  # fmt: skip
    method: str = config("linear", help="how a value at a point is made", choices=("last", "mean", "linear"))
    longest: float = config(60.0, help="longest silence that is bridged", unit="s", low=0.001, high=86400)
    timestamp: str = config("payload.ts_ms", help="property with the event time, milliseconds since 1970; the points have theirs there")  # fmt: skip
    ahead: float = config(AHEAD_S, help=AHEAD_HELP, unit="s", low=0, high=31_622_400)
    key: str = config("", help="property that tells the messages apart; empty: all together", example="payload.pack")  # fmt: skip

    # state
    late: int = 0
    future: int = 0

    def __post_init__(self) -> None:
        if not self.properties:
            raise ConfigError('property "properties": name at least one')
        for name, path in (
            ("timestamp", self.timestamp),
            *(("properties", path) for path in self.properties),
        ):
            check_path(name, path)
        if self.key:
            check_path("key", self.key)
        if self.longest / self.step > MOST_POINTS:
            raise ConfigError(
                f'property "longest": {self.longest / self.step:.0f} steps at once, allowed are {MOST_POINTS}'
            )

        self._try_out()

    def _try_out(self) -> None:
        """Whether a message can have all properties beside each other."""
        paths = [self.timestamp, *([self.key] if self.key else []), *self.properties]
        values = range(len(paths))
        try:
            msg = self._message(
                Msg("", None), values[1] if self.key else "", 0, list(values[-len(self.properties) :])
            )
        except PathError as error:
            raise ConfigError(f'property "properties": {error}') from None
        for path, value in zip(paths, values, strict=True):
            if get(msg, path) not in (value, str(value)):
                raise ConfigError(
                    f'property "properties": one of {", ".join(paths)} takes the place of another'
                )

    async def start(self, ctx: Context) -> None:
        self._step_ms, self._longest_ms = round(self.step * 1000), round(self.longest * 1000)
        self._last: dict[str, Sample] = {}

    def process(self, msgs: list[Msg]) -> Ports:
        seen = [self._look(msg) for msg in msgs]
        # nothing fails from here on
        points: list[Msg] = []
        put_aside: list[Msg] = []
        for msg, (key, at_ms, values) in zip(msgs, seen, strict=True):
            last = self._last.get(str(key))
            if is_ahead(at_ms, msg, self.ahead):
                self.future += 1
                put_aside.append(aside(msg, "future"))
                continue
            if last is not None and at_ms <= last.at_ms:
                self.late += 1
                put_aside.append(aside(msg, "late"))
                continue
            for point_ms, found in self._points(last, at_ms, values):
                points.append(self._message(msg, key, point_ms, found))
            self._remember(str(key), last, at_ms, values)
        return points, put_aside

    def _look(self, msg: Msg) -> tuple[Any, int, list[Any]]:
        msg = msg.derive(payload=plain(msg.payload))
        at_ms, key = time_of(msg, self.timestamp), key_of(msg, self.key)
        return key, at_ms, [self._value(path, get(msg, path)) for path in self.properties]

    def _value(self, path: str, value: Any) -> Any:
        if is_missing(value):
            return None
        if self.method != "last" and not is_number(value):
            raise ValueError(f"{path} is {value!r:.100}, expected is a number")
        return value

    def _points(self, last: Sample | None, at_ms: int, values: list[Any]) -> Iterator[tuple[int, list[Any]]]:
        """The points behind the last message up to this one, with their values."""
        if self.method == "mean":
            # that of the message before is over when this one belongs to a later one
            if last is not None and any(last.since) and self._point(last.at_ms) < self._point(at_ms):
                yield self._point(last.at_ms), [mean(found) for found in last.since]
            return
        if last is None or at_ms - last.at_ms > self._longest_ms:
            if at_ms == self._point(at_ms):
                yield at_ms, values
            return
        for point_ms in range(self._point(last.at_ms + 1), at_ms + 1, self._step_ms):
            if point_ms == at_ms:
                yield point_ms, values
            elif self.method == "last":
                yield point_ms, last.values
            else:
                share = (point_ms - last.at_ms) / (at_ms - last.at_ms)
                yield point_ms, [_between(*pair, share) for pair in zip(last.values, values, strict=True)]

    def _point(self, at_ms: int) -> int:
        """The first point that is not before a time."""
        return -(-at_ms // self._step_ms) * self._step_ms

    def _remember(self, key: str, last: Sample | None, at_ms: int, values: list[Any]) -> None:
        if last is not None:
            del self._last[key]  # so that the oldest stands first
        elif len(self._last) >= MOST_KEYS:
            del self._last[next(iter(self._last))]
        sample = self._last[key] = Sample(at_ms, values)
        if self.method == "mean":
            goes_on = last is not None and self._point(last.at_ms) == self._point(at_ms)
            sample.since = last.since if last is not None and goes_on else [[] for _ in values]
            for found, value in zip(sample.since, values, strict=True):
                if value is not None:
                    found.append(value)

    def _message(self, msg: Msg, key: Any, point_ms: int, values: list[Any]) -> Msg:
        """A message with nothing but time, key and values."""
        msg = put(msg.derive(payload=None, props=None), self.timestamp, point_ms)
        if self.key:
            msg = put(msg, self.key, key)
        for path, value in zip(self.properties, values, strict=True):
            msg = put(msg, path, value)
        return msg

    def status(self) -> dict[str, Any]:
        return {"keys": len(self._last), "late": self.late, "future": self.future}


def _between(old: float | None, new: float | None, share: float) -> float | None:
    return None if old is None or new is None else old + (new - old) * share
