"""The `threshold` node: tells messages inside a range from those outside."""

from __future__ import annotations

import difflib
from typing import Any

from edge.reading import twins_of
from voltflow.flow.units import UNITS
from voltflow.message import Msg
from voltflow.node import ConfigError, Ports, Transform, config, node
from voltflow.telemetry import Estimate, Telemetry, TwinPrediction

_PARTS = {"estimate": Estimate.__struct_fields__, "predictions": None, "joined": None}
"""What a dotted field may begin with, and the names behind it where they are always the same."""


@node("threshold", category="battery", color="#f6c177", icon="font-awesome/fa-sliders", outputs=2)
class Threshold(Transform):
    """Send readings with a value inside a range to output 1, the others to output 2.

    It takes what a twin node gives and, for a field of the telemetry, what a validate node gives, also as objects.
    A pack that is outside counts as inside again when its value is back by the hysteresis. An unknown value and a late message
    change nothing: they go where the pack's last one went, at first to output 1. With `changes` only the message passes with
    which a pack goes out or comes back. After a restart the first value of each pack decides by the limits alone, so with
    `changes` a pack that is outside is reported once more.
    """

    field: str = config("cell_temp_max_c", help="field of the telemetry, or estimate.soc_pct, predictions.temperature.value",
        example="cell_temp_max_c")  # fmt: skip
    low: float | None = config(
        None, help="lowest value inside; empty: no limit", low=-1e9, high=1e9, of="field"
    )
    high: float | None = config(
        None, help="highest value inside; empty: no limit", low=-1e9, high=1e9, of="field"
    )
    hysteresis: float = config(
        0.0, help="how far a value must be back inside the range", low=0, high=1e9, of="field"
    )
    unit: str = config("", help="unit of the limits, compared with the field's when the flow is checked; empty: the field's own",
        choices=("", *UNITS), of="field")  # fmt: skip
    changes: bool = config(False, help="pass only the message with which a pack goes out or comes back")

    def __post_init__(self) -> None:
        self._path = self.field.split(".")
        _check_field(self.field, self._path)
        low, high = self.low, self.high
        if low is not None and high is not None and not low + self.hysteresis <= high - self.hysteresis:
            raise ConfigError(f'property "hysteresis": {self.hysteresis:g} leaves nothing between low = {low:g} and '
                              f"high = {high:g} to come back to")  # fmt: skip
        self._outside: set[tuple[str, str]] = set()

    def process(self, msgs: list[Msg]) -> Ports:
        twins = twins_of(msgs, bare=len(self._path) == 1)
        seen = [(msg, *self._look(twin)) for msg, twin in zip(msgs, twins, strict=True)]
        # nothing fails from here on
        ports: tuple[list[Msg], list[Msg]] = ([], [])
        for msg, pack, value in seen:
            was = pack in self._outside
            outside = was if value is None else self._is_outside(value, was=was)
            if outside != was:
                (self._outside.add if outside else self._outside.discard)(pack)
            if outside != was or not self.changes:
                ports[outside].append(msg)
        return ports

    def _look(self, twin: TwinPrediction) -> tuple[tuple[str, str], float | None]:
        """The pack, and the value that counts."""
        value = None if twin.late else _value(twin, self._path)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise TypeError(f"{self.field} is {value!r:.100}, expected is a number")
        return (twin.fleet, twin.pack), value

    def _is_outside(self, value: float, *, was: bool) -> bool:
        margin = self.hysteresis if was else 0.0
        return (self.low is not None and value < self.low + margin) or (
            self.high is not None and value > self.high - margin
        )

    def status(self) -> dict[str, Any]:
        return {"outside": len(self._outside)}


def _value(twin: TwinPrediction, path: list[str]) -> Any:
    value: Any = twin.telemetry if len(path) == 1 else twin
    for name in path:
        value = value.get(name) if isinstance(value, dict) else getattr(value, name, None)
    return value


def _check_field(field: str, path: list[str]) -> None:
    known = Telemetry.__struct_fields__ if len(path) == 1 else _PARTS.get(path[0], ())
    name = path[0] if len(path) == 1 else path[1]
    if known is None or name in known:
        return
    if known:
        like = difflib.get_close_matches(name, known, 1, 0.0)[0]
        like = like if len(path) == 1 else f"{path[0]}.{like}"
    else:
        like = difflib.get_close_matches(path[0], _PARTS, 1, 0.0)[0]
    raise ConfigError(f'property "field": a reading has no {field!r}; did you mean {like!r}?')
