"""The `debug` node: shows what passes."""

from __future__ import annotations

import logging
import reprlib
from collections import deque
from collections.abc import Mapping
from typing import Any

import msgspec

from voltflow.engine.allowance import Allowance
from voltflow.engine.events import Badge
from voltflow.flow.properties import UNDEFINED, PathError, as_object, parse, plain
from voltflow.flow.typed import Value, compile_value, expression
from voltflow.message import Msg, encode_payload
from voltflow.node import ConfigError, Context, Sink, config, node
from voltflow.shown import origin, shown

log = logging.getLogger("voltflow.debug")

RECENT = 100
TEXT_LIMIT = 1000
TOLD_PER_S = 200
"""Messages for the sidebar: nobody reads more, and to make them costs the flow time."""
STATUS_TEXT = 32
ALL = ("false", "true", "payload")

_short = reprlib.Repr()  # bounded in depth too
_short.maxstring = _short.maxother = TEXT_LIMIT


@node("debug", category="common", color="#87a980", icon="debug.svg")
class Debug(Sink):
    """Show messages: in the editor's sidebar, below the node, in the log; the last ones in `/api/flow`.

    It only looks: nothing is kept over a restart, and of more than 200 messages a second the sidebar shows that many.
    """

    active: bool = config(True, help="off: nothing is shown in the sidebar and in /api/flow")
    tosidebar: bool = config(True, help="show in the editor's sidebar")
    console: bool = config(False, help="write each message to the log")
    tostatus: bool = config(False, help="show below the node")
    complete: str = config(
        "false", help="what to show; false: the payload; true: all of the message; a property"
    )
    targetType: str = config(
        "", help="jsonata: what to show is an expression", choices=("", "msg", "full", "jsonata")
    )
    statusVal: str = config("", help="what to show below the node, where that is something else")
    statusType: str = config("auto", help="auto: the same as elsewhere; counter: how many messages there were",
        choices=("auto", "msg", "jsonata", "counter"))  # fmt: skip

    # state
    count: int = 0
    not_told: int = 0

    def __post_init__(self) -> None:
        self.recent: deque[dict[str, Any]] = deque(maxlen=RECENT)
        self._newest: list[Msg] = []
        self._texts = Allowance(RECENT)
        try:
            if self.targetType == "jsonata":
                expression(self.complete)
            elif self.complete not in ALL:
                parse(self.complete)
        except (ConfigError, PathError) as error:
            raise ConfigError(f'property "complete": {error}') from None

    async def start(self, ctx: Context) -> None:
        self._events, self._timer = ctx.events, ctx.timer
        kind = "jsonata" if self.targetType == "jsonata" else "msg"
        self._value = None if self.complete in ALL else compile_value(self.complete, kind, ctx, self)
        self._status_value = self._value
        if self.statusType in ("msg", "jsonata") and self.statusVal:
            self._status_value = compile_value(self.statusVal, self.statusType, ctx, self)
        self._allowance = Allowance(TOLD_PER_S)
        self.show({"fill": "grey", "shape": "ring"} if self.tostatus else {})

    async def write(self, msgs: list[Msg]) -> None:
        self.count += len(msgs)
        if self.active:
            self._remember(msgs[-RECENT:])
        if self.console:
            for msg in msgs:
                log.info("%s: %s %s", self.label, msg.topic, self._text(msg))
        if self.active and self.tosidebar and self._events.heard:
            allowed = self._allowance.take(len(msgs))
            self.not_told += len(msgs) - allowed
            for msg in msgs[:allowed]:
                self._events.tell("debug", self._told(msg))
        if self.tostatus and msgs:
            self._show_status(msgs[-1])

    # -- /api/flow and the log ------------------------------------------------------------------------------------

    def _remember(self, msgs: list[Msg]) -> None:
        """The texts of a batch are made when the next one comes, or when somebody asks: of a flood most are never made."""
        spare = len(self._newest) - self._texts.take(len(self._newest))
        self.recent += map(self._described, self._newest[spare:])
        self._newest = msgs

    def _described(self, msg: Msg) -> dict[str, Any]:
        return {"topic": msg.topic, "received_ms": msg.received_ms, "payload": self._text(msg)}

    def _text(self, msg: Msg) -> str:
        value = msg.payload if self._value is None else _of(self._value, msg)
        try:
            return encode_payload(None if value is UNDEFINED else value)[:TEXT_LIMIT].decode(errors="replace")
        except (TypeError, ValueError, RecursionError, msgspec.MsgspecError):  # to look must not fail
            return _short.repr(value)[:TEXT_LIMIT]

    def status(self) -> dict[str, Any]:
        recent = [*self.recent, *map(self._described, self._newest)][-RECENT:]
        return {"active": self.active, "recent": recent, "not_told": self.not_told}

    # -- the sidebar ----------------------------------------------------------------------------------------------

    def _told(self, msg: Msg) -> dict[str, Any]:
        told = {**origin(self), "topic": msg.topic}
        if self._value is None:
            value = as_object(msg) if self.complete == "true" else msg.payload
        else:
            value = _of(self._value, msg)
        if self.targetType != "jsonata" and self.complete != "true":
            told["property"] = "payload" if self._value is None else self.complete
        told["format"], told["msg"] = shown(value)
        return told

    # -- below the node -------------------------------------------------------------------------------------------

    def _show_status(self, msg: Msg) -> None:
        props = msg.props or {}
        own = props.get("status")
        if isinstance(own, Mapping) and (own.get("source") or {}).get("id") == self.id:
            return  # what a status node heard from this one
        self.show(self._badge(msg, props))

    def _badge(self, msg: Msg, props: Mapping[str, Any]) -> Badge:
        if self.statusType == "counter":
            return {"fill": "blue", "shape": "ring", "text": str(self.count)}
        if self.statusType == "auto":
            error, status = props.get("error"), props.get("status")
            if isinstance(status, Mapping):
                return _badge(
                    status.get("fill") or "grey", status.get("shape") or "ring", status.get("text") or ""
                )
            if isinstance(error, Mapping):
                return _badge("red", "dot", error.get("message"))
        value = plain(msg.payload if self._status_value is None else _of(self._status_value, msg))
        if isinstance(value, Mapping) and {"fill", "shape", "text"} <= value.keys():
            return _badge(value["fill"], value["shape"], value["text"])
        return _badge("grey", "dot", value if isinstance(value, str) else shown(value)[1])


def _of(value: Value, msg: Msg) -> Any:
    try:
        return value(msg)
    except Exception as error:  # noqa: BLE001 - an expression that fails is shown as what it failed with
        return error


def _badge(fill: Any, shape: Any, text: Any) -> Badge:
    text = str(text)
    short = text if len(text) <= STATUS_TEXT else text[:STATUS_TEXT] + "..."
    return {"fill": str(fill), "shape": str(shape), "text": short}
