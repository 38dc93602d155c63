"""The `debug` node: shows what passes."""

from __future__ import annotations

import logging
import reprlib
from collections import deque
from typing import Any

import msgspec

from voltflow.message import Msg, encode_payload
from voltflow.node import Context, Sink, config, node

log = logging.getLogger("voltflow.debug")

RECENT = 100
TEXT_LIMIT = 1000

_short = reprlib.Repr()  # bounded in depth too
_short.maxstring = _short.maxother = TEXT_LIMIT


@node("debug", category="common", color="#87a980", icon="debug.svg")
class Debug(Sink):
    """Show messages: the last ones in `/api/flow`, and in the log when `console` is set.

    It only looks: nothing is kept over a restart.
    """

    active: bool = config(True, help="off: messages are passed over")
    console: bool = config(False, help="write each message to the log")
    complete: str = config("false", help="property of the payload to show; false: all of the payload")

    async def start(self, ctx: Context) -> None:
        self.recent: deque[dict[str, Any]] = deque(maxlen=RECENT)

    async def write(self, msgs: list[Msg]) -> None:
        if not self.active:
            return
        for msg in msgs if self.console else msgs[-RECENT:]:
            text = self._text(msg)
            self.recent.append({"topic": msg.topic, "received_ms": msg.received_ms, "payload": text})
            if self.console:
                log.info("%s: %s %s", self.label, msg.topic, text)

    def _text(self, msg: Msg) -> str:
        payload = msg.payload
        if self.complete not in ("false", "true", "payload"):
            payload = _property(payload, self.complete)
        try:
            return encode_payload(payload)[:TEXT_LIMIT].decode(errors="replace")
        except (TypeError, ValueError, RecursionError, msgspec.MsgspecError):  # to look must not fail
            return _short.repr(payload)[:TEXT_LIMIT]

    def status(self) -> dict[str, Any]:
        return {"active": self.active, "recent": list(self.recent)}


def _property(payload: Any, path: str) -> Any:
    for name in path.removeprefix("payload.").split("."):
        payload = payload.get(name) if isinstance(payload, dict) else getattr(payload, name, None)
    return payload
