"""The `rbe` node, in the palette "filter": report by exception."""

from __future__ import annotations

import math
import re
from typing import Any

from voltflow.flow.properties import UNDEFINED, get, plain
from voltflow.flow.typed import check
from voltflow.message import Msg
from voltflow.node import ConfigError, Transform, config, node
from voltflow.nodelib.loose import as_number, is_object, leading_number

FUNCTIONS = ("rbe", "rbei", "deadband", "deadbandEq", "narrowband", "narrowbandEq")
MOST_TOPICS = 100_000
"""Then the topics that came first are forgotten, and a message more may pass for them."""
NO_TOPIC = "_no_topic"


@node("rbe", category="function", color="#e2d96e", icon="rbe.png", label="filter")
class Filter(Transform):
    """Pass a message only when its value has changed, or has changed by enough, or by not too much.

    `rbe` passes what differs from the value before, `rbei` also not the first. `deadband` passes a change by more than the gap
    (deadbandEq: or by just the gap); `narrowband` a change by the gap at most (narrowbandEq: by less). A gap with % is part of the
    value before. `msg.reset` forgets the topic's value, without a topic all of them. What is no number fails a band.

    The values before are forgotten at a restart or when the node is deployed again: then one message more may pass for each topic.
    """

    func: str = config("rbe", help="when messages pass", choices=FUNCTIONS)
    gap: str = config("", help="how large a change must be, or may be: a number, or a percentage such as 5%")
    first: str = config("", name="start", help="narrowband: the value before the first, as a number")
    inout: str = config(
        "out",
        help="compare with the last value that passed (out) or that came (in)",
        choices=("out", "in"),
    )
    septopics: bool = config(True, help="each topic has a value of its own")
    property: str = config("payload", help="the property that is compared", types=("msg",))
    topi: str = config("topic", help="the property that tells topics apart", types=("msg",))

    def __post_init__(self) -> None:
        if not re.fullmatch(r"\s*\d*\.?\d*\s*%?\s*", self.gap) or math.isnan(leading_number(self.gap or "0")):
            raise ConfigError(f'property "gap": {self.gap!r} is neither a number nor a percentage such as 5%')
        if math.isnan(as_number(self.first)):
            raise ConfigError(f'property "start": {self.first!r} is not a number')
        for name in ("property", "topi"):
            try:
                check(getattr(self, name), "msg")
            except ConfigError as error:
                raise ConfigError(f'property "{name}": {error}') from None
        self._gap = leading_number(self.gap or "0")
        self._is_part = self.gap.rstrip().endswith("%")
        # state: the value before, by topic
        self._values: dict[Any, Any] = {}
        self._undo: list[tuple[Any, Any]] = []

    def process(self, msgs: list[Msg]) -> list[Msg]:
        self._undo.clear()
        try:
            passed = [msg for msg in msgs if self._passes(msg)]
        except Exception:
            while self._undo:
                self._set(*self._undo.pop())
            raise
        return passed

    def _set(self, key: Any, value: Any) -> None:
        if value is UNDEFINED:
            self._values.pop(key, None)
        else:
            self._values[key] = value

    def _keep(self, key: Any, value: Any) -> None:
        """Take a value as the one before, so that it can be taken back."""
        self._undo.append((key, self._values.get(key, UNDEFINED)))
        self._set(key, value)
        if len(self._values) > MOST_TOPICS:
            self._keep(next(iter(self._values)), UNDEFINED)

    def _passes(self, msg: Msg) -> bool:
        found = get(msg, self.topi)
        topic = found if isinstance(found, str | int | float) and found else NO_TOPIC
        resets = bool(msg.props) and "reset" in (msg.props or {})
        if resets:
            if self.septopics and isinstance(topic, str) and topic != NO_TOPIC:
                self._keep(topic, UNDEFINED)
            else:
                for key in list(self._values):
                    self._keep(key, UNDEFINED)
        value = plain(get(msg, self.property))
        if value is UNDEFINED or (resets and value is None):
            return False
        key = topic if self.septopics else NO_TOPIC
        return self._changes(key, value) if self.func in ("rbe", "rbei") else self._in_band(key, value)

    def _changes(self, key: Any, value: Any) -> bool:
        known = key in self._values
        if known and _same(value, self._values[key]):
            return False
        self._keep(key, value)
        return known or self.func == "rbe"

    def _in_band(self, key: Any, value: Any) -> bool:
        number = leading_number(value)
        if math.isnan(number):
            raise TypeError(f"msg.{self.property} is {value!r:.80}, expected a number")
        narrow = self.func.startswith("narrowband")
        before = self._values.get(key)
        if before is None and narrow:
            before = number if self.first == "" else as_number(self.first)
        gap = self._gap if not self._is_part else abs((before or 0) * self._gap / 100)
        passes = before is None or self._fits(abs(number - before), gap)
        if self.inout == "in" or passes:
            before = number
        self._keep(key, before)
        return passes

    def _fits(self, change: float, gap: float) -> bool:
        if change == gap:
            return self.func in ("deadbandEq", "narrowband")
        return change > gap if self.func.startswith("deadband") else change < gap


def _same(a: Any, b: Any) -> bool:
    """Equal, and of one type: 1 is not true, and "1" is not 1."""
    if is_object(a) != is_object(b) or isinstance(a, bool) != isinstance(b, bool):
        return False
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(item, b[key]) for key, item in a.items())
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(_same, a, b))
    return bool(a == b)
