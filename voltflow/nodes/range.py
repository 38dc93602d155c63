"""The `range` node."""

from __future__ import annotations

import math

from voltflow.flow.properties import UNDEFINED, get, plain, put
from voltflow.flow.typed import check
from voltflow.message import Msg
from voltflow.node import ConfigError, Transform, config, node
from voltflow.nodelib.loose import as_number

LIMIT = 1e15
"""Beyond it a double has no fractions left to scale."""


@node("range", category="function", color="#e2d96e", icon="range.svg")
class Range(Transform):
    """Scale a number from one range to another.

    Outside of the input range: `scale` goes on in the same way, `clamp` takes the nearer limit, `roll` begins again at the other
    end, `drop` passes nothing on. A message without the property passes as it is; one whose property is no number fails.
    """

    minin: float = config(help="input range: from", low=-LIMIT, high=LIMIT, example=0)
    maxin: float = config(help="input range: to", low=-LIMIT, high=LIMIT, example=10)
    minout: float = config(help="output range: from", low=-LIMIT, high=LIMIT, example=0)
    maxout: float = config(help="output range: to", low=-LIMIT, high=LIMIT, example=100)
    action: str = config(
        "scale",
        help="what becomes of numbers outside of the range",
        choices=("scale", "clamp", "roll", "drop"),
    )
    round: bool = config(False, help="round the result to a whole number")
    property: str = config("payload", help="the property that is scaled", types=("msg",))

    def __post_init__(self) -> None:
        if self.minin == self.maxin:
            raise ConfigError(
                f'property "maxin": {self.maxin:g} is also where the range begins; give it a width'
            )
        try:
            check(self.property, "msg")
        except ConfigError as error:
            raise ConfigError(f'property "property": {error}') from None
        low, high = (self.minin, self.minout), (self.maxin, self.maxout)
        (self._low, self._low_out), (self._high, self._high_out) = sorted((low, high))
        if self.round:
            self._low_out, self._high_out = math.ceil(self._low_out), math.floor(self._high_out)

    def process(self, msgs: list[Msg]) -> list[Msg]:
        return [scaled for msg in msgs if (scaled := self._scaled(msg)) is not None]

    def _scaled(self, msg: Msg) -> Msg | None:
        value = plain(get(msg, self.property))
        if value is UNDEFINED or (value is None and self.property == "payload"):
            return msg
        number = as_number(value)
        if math.isnan(number):
            raise TypeError(f"msg.{self.property} is {value!r:.80}, expected a number")
        if self.action == "drop" and not self._low <= number <= self._high:
            return None
        return put(msg, self.property, self._scale(number))

    def _scale(self, number: float) -> float:
        width = self._high - self._low
        if self.action == "clamp":
            number = min(max(number, self._low), self._high)
        elif self.action == "roll":
            number = math.fmod(math.fmod(number - self._low, width) + width, width) + self._low
        result = (number - self._low) / width * (self._high_out - self._low_out) + self._low_out
        if self.round and math.isfinite(result):
            return math.floor(result + 0.5)  # JavaScript's rounding: halves go up
        return int(result) if result.is_integer() else result
