"""Which of the bridges that share messages are there, and which one is to be taken over.

>>> presence = Presence("bridge-1", 10.0, clock=lambda: 100.0)
>>> presence.heard("br/v1/bridge-2/state", b'{"online":false}')
>>> presence.heard("br/v1/bridge-3/state", b'{"online":true}')
>>> presence.describe()
{'bridge-2': 'gone', 'bridge-3': 'there'}
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

ONLINE, OFFLINE = '{"online":true}', '{"online":false}'
"""What a bridge says of itself, retained: at each connect, and as its last will."""


class _State(msgspec.Struct, omit_defaults=False):
    online: bool
    heir: str = ""


_decode = msgspec.json.Decoder(_State).decode


@dataclass
class _Bridge:
    state: _State
    due_s: float
    """When it may be taken over, where it is gone."""


class Presence:
    """What was heard of the other bridges."""

    def __init__(self, me: str, after_s: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._me = me
        self._after_s = after_s
        self._clock = clock
        self._bridges: dict[str, _Bridge] = {}
        self._changed = asyncio.Event()

    def heard(self, topic: str, payload: bytes) -> None:
        """A bridge's state, as it is or as its heir says it is; an empty one: it is to be forgotten."""
        name = topic.split("/")[2]
        if name == self._me:
            return
        try:
            state = _decode(payload) if payload else None
        except ValueError:
            return
        if state is None:
            self.forget(name)
        else:
            self._bridges[name] = _Bridge(state, self._due_s())
        self._changed.set()

    def _due_s(self) -> float:
        """Not the same at each bridge: who is first says so, and the others leave it alone."""
        return self._clock() + self._after_s * random.uniform(1.0, 1.5)

    def claim(self) -> bytes:
        """What the heir says of the one that is gone."""
        return msgspec.json.encode(_State(online=False, heir=self._me))

    def is_mine(self, bridge: str) -> bool:
        """Whether, as far as was heard, this one is the heir."""
        known = self._bridges.get(bridge)
        return known is not None and not known.state.online and known.state.heir in ("", self._me)

    def forget(self, bridge: str) -> None:
        self._bridges.pop(bridge, None)

    def postpone(self, bridge: str) -> None:
        """It is not taken over now; when it stays away, later."""
        if bridge in self._bridges:
            self._bridges[bridge].due_s = self._due_s()

    def absent(self) -> dict[str, float]:
        """The bridges that are gone and have no heir that is there, and when each may be taken over."""
        return {
            name: known.due_s
            for name, known in self._bridges.items()
            if not known.state.online and not self._is_there(known.state.heir)
        }

    def _is_there(self, name: str) -> bool:
        known = self._bridges.get(name)
        return known is not None and known.state.online

    async def next_absent(self) -> str:
        """Wait until a bridge is to be taken over; its name."""
        while True:
            self._changed.clear()
            absent, now = self.absent(), self._clock()
            if due := [name for name, due_s in absent.items() if due_s <= now]:
                return min(due)
            wait_s = min(absent.values()) - now if absent else None
            try:
                await asyncio.wait_for(self._changed.wait(), wait_s)
            except TimeoutError:
                continue

    def describe(self) -> dict[str, str]:
        """The other bridges and what is known of them."""
        return {name: _text(known.state) for name, known in sorted(self._bridges.items())}


def _text(state: _State) -> str:
    if state.online:
        return "there"
    return f"gone, taken over by {state.heir}" if state.heir else "gone"
