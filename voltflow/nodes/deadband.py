"""The `deadband` node: passes values that have changed enough."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from voltflow.flow.properties import get, plain
from voltflow.message import Msg
from voltflow.node import ConfigError, Context, Transform, config, node
from voltflow.nodelib.aggregate import check_path, is_missing, is_number
from voltflow.nodelib.event_time import key_of

MOST_KEYS = 20_000
"""Groups whose last value is known; the one that has passed nothing for longest is forgotten first."""


class Passed(NamedTuple):
    """The values that passed last, by property, and when."""

    values: Mapping[str, float | None]
    at_s: float


@node("deadband", category="function", color="#e2d96e", icon="rbe.svg")
class Deadband(Transform):
    """Pass a message when a value differs from the one passed last by more than a band, or after some time.

    Several properties pass together when one of them has changed enough. The first message of a key passes, and so does one
    in which a value appears or is gone. What passed last is in memory only: after a restart the first message of each key
    passes once more.
    """

    properties: list[str] = config(["payload"], help="properties with the values, one or several")
    band: float = config(0.0, help="passes what differs by more than that, in the values' unit or in % of the value passed last",
        low=0, high=1e12)  # fmt: skip
    mode: str = config("absolute", help="what the band is", choices=("absolute", "percent"))
    longest: float = config(0.0, help="passes one at least so often; 0: only changes", unit="s", low=0, high=2_678_400)  # fmt: skip
    key: str = config("", help="property that tells the messages apart; empty: all together", example="payload.pack")  # fmt: skip

    # state
    withheld: int = 0

    def __post_init__(self) -> None:
        if not self.properties:
            raise ConfigError('property "properties": name at least one')
        for path in self.properties:
            check_path("properties", path)
        if self.key:
            check_path("key", self.key)

    async def start(self, ctx: Context) -> None:
        self._timer = ctx.timer
        self._last: dict[str, Passed] = {}

    def process(self, msgs: list[Msg]) -> list[Msg]:
        seen = [self._look(msg) for msg in msgs]
        # nothing fails from here on
        now_s = self._timer.now_s()
        found = [
            msg for msg, (key, values) in zip(msgs, seen, strict=True) if self._passes(key, values, now_s)
        ]
        self.withheld += len(msgs) - len(found)
        return found

    def _look(self, msg: Msg) -> tuple[str, dict[str, float | None]]:
        msg = msg.derive(payload=plain(msg.payload))
        return str(key_of(msg, self.key)), {path: _number(path, get(msg, path)) for path in self.properties}

    def _passes(self, key: str, values: dict[str, float | None], now_s: float) -> bool:
        last = self._last.get(key)
        if last is not None and not (self.longest and now_s - last.at_s >= self.longest) and not any(
            self._differs(values[path], old) for path, old in last.values.items()
        ):  # fmt: skip
            return False
        if last is not None:
            del self._last[key]  # so that the oldest stands first
        elif len(self._last) >= MOST_KEYS:
            del self._last[next(iter(self._last))]
        self._last[key] = Passed(values, now_s)
        return True

    def _differs(self, value: float | None, old: float | None) -> bool:
        if value is None or old is None:
            return value is not old
        band = self.band if self.mode == "absolute" else abs(old) * self.band / 100
        return abs(value - old) > band

    def status(self) -> dict[str, Any]:
        return {"keys": len(self._last), "withheld": self.withheld}


def _number(path: str, value: Any) -> float | None:
    if is_missing(value):
        return None
    if not is_number(value):
        raise ValueError(f"{path} is {value!r:.100}, expected is a number")
    return float(value)
