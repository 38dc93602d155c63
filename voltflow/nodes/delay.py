"""The `delay` node: passes messages later, or not more often than wanted."""

from __future__ import annotations

import math
import random

from voltflow.engine.events import Badge
from voltflow.engine.holding import Entry
from voltflow.message import Msg
from voltflow.node import Context, Holder, Ports, config, node
from voltflow.nodelib.delaying import Later, Limit, Passing, Turns, Way
from voltflow.signals import number_of, says, without

UNITS_S = {"milliseconds": 0.001, "seconds": 1.0, "minutes": 60.0, "hours": 3600.0, "days": 86400.0}
RATE_UNITS_S = {"second": 1.0, "minute": 60.0, "hour": 3600.0, "day": 86400.0}
BADGE_S = 0.5
"""How often the number below the node changes at most."""
FREE: Badge = {"fill": "green", "shape": "ring", "text": ""}
BUSY: Badge = {"fill": "red", "shape": "dot", "text": ""}
"""Of a limit to bursts: whether the next message passes."""


@node("delay", category="function", color="#E6E0F8", icon="timer.svg")
class Delay(Holder):
    """Pass each message later, or limit how many pass.

    A message with `msg.reset` clears what waits and goes no further; one with `msg.flush` lets it out now, all of it or the
    first so many. `msg.delay` (ms) is the delay of a message, `msg.rate` (ms) the time between two, `msg.toFront` puts
    one before the others.

    What waits survives a crash: it is on disk, or its source sends it again; some may come twice. Messages that are
    dropped (rate limit with drop, burst, an older one of the same topic) go to the second output, if there is one. What a
    limit that drops has let pass is forgotten at a restart.
    """

    pauseType: str = config(
        "delay",
        help="delay: so long; delayv: as msg.delay says; random; rate: limit for all messages; burst: so many in any "
        "time; queue: the topics in turn; timed: all topics at once, each with its last message",
        choices=("delay", "delayv", "random", "rate", "burst", "queue", "timed"),
    )
    timeout: float = config(5.0, help="the delay, in timeoutUnits", low=0, high=1e9)
    timeoutUnits: str = config("seconds", help="unit of the delay", choices=tuple(UNITS_S))
    rate: float = config(1.0, help="messages that may pass", low=1e-6, high=1e6)
    nbRateUnits: float = config(1.0, help="in so many rateUnits", low=0, high=1e6)
    rateUnits: str = config("second", help="unit of the rate's time", choices=tuple(RATE_UNITS_S))
    randomFirst: float = config(1.0, help="shortest random delay, in randomUnits", low=0, high=1e9)
    randomLast: float = config(5.0, help="longest random delay, in randomUnits", low=0, high=1e9)
    randomUnits: str = config("seconds", help="unit of the random delay", choices=tuple(UNITS_S))
    drop: bool = config(False, help="drop what is too much instead of letting it wait")
    allowrate: bool = config(False, help="msg.rate sets the time between two messages")
    outputs: int = config(1, help="2: what is dropped leaves by the second output", choices=(1, 2))

    async def start(self, ctx: Context) -> None:
        self._way = self._chosen_way()
        self._badge_s = -math.inf
        self.show(FREE if self.pauseType == "burst" else {})

    def _chosen_way(self) -> Way:
        unit_s = RATE_UNITS_S[self.rateUnits]
        every_s = unit_s / self.rate * (self.nbRateUnits or 1.0)
        if self.pauseType == "burst":
            return Passing(self.held, self.rate, unit_s * self.nbRateUnits)
        if self.pauseType == "rate":
            return Passing(self.held, 1, every_s) if self.drop else Limit(self.held, every_s)
        if self.pauseType in ("queue", "timed"):
            return Turns(self.held, every_s, all_at_once=self.pauseType == "timed")
        return Later(self.held, self._delay_s)

    def _delay_s(self, msg: Msg) -> float:
        if self.pauseType == "random":
            return random.uniform(self.randomFirst, self.randomLast) * UNITS_S[self.randomUnits]
        if self.pauseType == "delayv" and (delay_ms := number_of(msg, "delay")) is not None:
            return max(0.0, delay_ms / 1000)
        return self.timeout * UNITS_S[self.timeoutUnits]

    def process(self, msgs: list[Msg]) -> Ports:
        passed: list[Msg] = []
        dropped: list[Msg] = []
        for msg in msgs:
            self._heed_rate(msg)
            out, lost = self._way.take(msg)
            passed += out
            dropped += lost
            if self.pauseType == "burst":
                self.show(BUSY if lost else FREE)
        self._tell()
        return (passed, dropped)[: self.outputs]

    def _heed_rate(self, msg: Msg) -> None:
        heeds = self.allowrate and self.pauseType != "burst" and not says(msg, "reset")
        rate_ms = number_of(msg, "rate") if heeds else None
        if rate_ms is not None and (every_s := max(rate_ms, 1.0) / 1000) != self._way.every_s:
            self._way.set_rate(every_s)

    def restore(self, entry: Entry) -> Ports:
        """It waits again, since when it came; what it told the node is over."""
        msg = without(entry.msg, "flush", "reset")
        self._heed_rate(msg)
        return self._way.restore(msg)[: self.outputs]

    def due_s(self) -> float | None:
        times = [self._way.due_s()]
        if self._counts and self.badge.get("text", "0") != str(self.held.size):
            times.append(self._badge_s + BADGE_S)
        return min((time_s for time_s in times if time_s is not None), default=None)

    def tick(self) -> list[Msg]:
        msgs = self._way.tick()
        self._tell()
        return msgs

    @property
    def _counts(self) -> bool:
        brief = self.pauseType == "delay" and self.timeout * UNITS_S[self.timeoutUnits] <= 1
        return self.pauseType != "burst" and not brief

    def _tell(self) -> None:
        """How many wait; what changes often is not told each time."""
        now_s, text = self.held.keeper.now_s(), str(self.held.size)
        may_tell = not self.held.size or now_s - self._badge_s >= BADGE_S
        if self._counts and may_tell and text != self.badge.get("text", "0"):
            self._badge_s = now_s
            self.show({"fill": "blue", "shape": "dot", "text": text})
