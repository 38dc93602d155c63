"""The `dtc` node: trouble codes that a battery management system begins or ceases to report."""

from __future__ import annotations

from typing import Any, NamedTuple

from edge.reading import twins_of
from voltflow import topics
from voltflow.engine.context import ContextError
from voltflow.message import Msg
from voltflow.node import Context, Transform, config, node
from voltflow.telemetry import TwinPrediction

Codes = dict[str, "Code"]
"""Of a pack, by code."""


class Code(NamedTuple):
    """A code that stands: since which device time, and for how many messages it has been missing."""

    since_ms: int
    missing: int = 0


@node("dtc", category="battery", color="#f6c177", icon="font-awesome/fa-wrench", outputs=2)
class Dtc(Transform):
    """Tell when a trouble code appears in a pack's telemetry and when it is gone.

    It takes what a twin or a validate node gives, also as objects.
    Output 1 passes every message on; output 2 gives a message for each change, with pack, code, `state` (appeared or cleared),
    `since_ms` and the codes that stand. Late messages, and those in which the list of codes is invalid, are not looked at. The
    codes that stand are remembered over a restart; one that appeared just before a crash may be told a second time, when its
    message comes again.
    """

    clearAfter: int = config(
        1, help="messages without a code after which it is gone; some systems leave one out at times", low=1, high=1000
    )  # fmt: skip

    # state
    changes: int = 0

    async def start(self, ctx: Context) -> None:
        self._memory = ctx.memory("node", self)
        self._packs: dict[str, Codes] = {
            pack: {code: Code(since_ms) for code, since_ms in self._memory.get(pack, {}).items()}
            for pack in self._memory.keys()  # noqa: SIM118 - no dict
        }
        """Packs in which a code stands."""

    def process(self, msgs: list[Msg]) -> tuple[list[Msg], list[Msg]]:
        twins = twins_of(msgs, bare=True)
        # nothing fails from here on
        told: list[Msg] = []
        for msg, twin in zip(msgs, twins, strict=True):
            if not twin.late and "dtc" not in twin.telemetry.quality.invalid:
                name = f"{twin.fleet}/{twin.pack}"
                if twin.telemetry.dtc or name in self._packs:
                    self._look(msg, twin, name, told)
        self.changes += len(told)
        return msgs, told

    def _look(self, msg: Msg, twin: TwinPrediction, name: str, told: list[Msg]) -> None:
        before = self._packs.get(name, {})
        now = {code: before.get(code, Code(twin.ts_ms))._replace(missing=0) for code in twin.telemetry.dtc}
        for code, known in before.items():
            if code not in now and known.missing + 1 < self.clearAfter:
                now[code] = known._replace(missing=known.missing + 1)
        told += [
            self._told(msg, twin, code, "appeared", now[code], now) for code in now if code not in before
        ]
        told += [
            self._told(msg, twin, code, "cleared", before[code], now) for code in before if code not in now
        ]
        if now:
            self._packs[name] = now
        else:
            self._packs.pop(name, None)
        if now.keys() != before.keys():
            self._remember(name, now)

    def _remember(self, name: str, codes: Codes) -> None:
        if not codes:
            self._memory.delete(name)
            return
        try:
            self._memory.set(name, {code: known.since_ms for code, known in codes.items()})
        except ContextError:  # contexts are full: after a restart this pack's codes are told again
            self._memory.delete(name)

    @staticmethod
    def _told(msg: Msg, twin: TwinPrediction, code: str, state: str, known: Code, now: Codes) -> Msg:
        payload = {
            "fleet": twin.fleet, "pack": twin.pack, "boot": twin.boot, "seq": twin.seq, "ts_ms": twin.ts_ms, "code": code,
            "state": state, "since_ms": known.since_ms, "codes": sorted(now),
        }  # fmt: skip
        return msg.derive(topic=topics.DTC.of(twin.fleet, twin.pack), payload=payload)

    def status(self) -> dict[str, Any]:
        return {
            "packs": len(self._packs),
            "codes": sum(map(len, self._packs.values())),
            "changes": self.changes,
        }
