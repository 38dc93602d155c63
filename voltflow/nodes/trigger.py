"""The `trigger` node: sends something when a message comes, and something else later."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from voltflow.engine.holding import Entry
from voltflow.flow.properties import UNDEFINED, as_object, get
from voltflow.flow.typed import Value, check, compile_value
from voltflow.message import Msg
from voltflow.node import ConfigError, Context, Holder, Ports, config, node
from voltflow.nodelib.due import DueTimes
from voltflow.nodelib.loose import as_text
from voltflow.nodelib.mustache import TemplateError, parse, render
from voltflow.signals import number_of, says

UNITS_S = {"ms": 0.001, "s": 1.0, "min": 60.0, "hr": 3600.0}
TYPED = ("flow", "global", "str", "num", "bool", "json", "bin", "date", "env")
FIRST = ("val", *TYPED, "pay", "nul")
SECOND = ("val", *TYPED, "pay", "payl", "nul")
WHEN_SENT = ("flow", "global", "date")
"""Types whose value is taken when the second message goes, not when the first came."""
AT_ONCE = 1000
"""Messages that are sent in one go at most."""
ALL = "_none"
"""Node-RED's name for the messages without a topic, and for all where topics are not told apart."""


@node("trigger", category="function", color="#E6E0F8", icon="trigger.svg")
class Trigger(Holder):
    """Send a message when one comes, and another one a while later.

    Until then further messages are passed over, or begin the time anew (`extend`). With a duration of 0 it waits for a reset;
    with one below 0 it sends the first message again and again. A reset is `msg.reset`, or a payload equal to `reset`.

    What is still to be sent survives a crash, and so does what is waited for; it may be sent twice then.
    """

    op1: Any = config("1", help="what to send at once", types=FIRST, type_property="op1type")
    op2: Any = config("0", help="what to send then", types=SECOND, type_property="op2type")
    op1type: str = config("val", help="what op1 is; pay: the message as it is, nul: nothing", choices=FIRST)
    op2type: str = config(
        "val",
        help="what op2 is; pay: the first payload, payl: the last message, nul: nothing",
        choices=SECOND,
    )
    duration: float = config(
        250.0,
        help="how long to wait, in units; 0: until a reset; below 0: send every so often",
        low=-1e9,
        high=1e9,
    )
    extend: bool = config(False, help="another message begins the time anew")
    overrideDelay: bool = config(False, help="msg.delay is how long to wait", unit="ms")
    units: str = config("ms", help="unit of the duration", choices=tuple(UNITS_S))
    reset: str = config("", help="a payload that resets it; empty: none")
    bytopic: str = config(
        "all", help="all messages together, or each topic by itself", choices=("all", "topic")
    )
    topic: str = config("topic", help="the property that tells topics apart")
    outputs: int = config(1, help="2: the later message leaves by the second output", choices=(1, 2))

    def __post_init__(self) -> None:
        for name, value, kind in (
            ("op1", *self._first),
            ("op2", *self._second),
            ("topic", self.topic, "msg"),
        ):
            if kind not in ("pay", "payl", "nul", "null"):
                try:
                    check(value, kind)
                    parse(str(value) if kind == "str" else "")
                except (ConfigError, TemplateError) as error:
                    raise ConfigError(f'property "{name}": {error}') from None

    @property
    def _first(self) -> tuple[Any, str]:
        return _typed(self.op1, self.op1type, "1")

    @property
    def _second(self) -> tuple[Any, str]:
        return _typed(self.op2, self.op2type, "0")

    async def start(self, ctx: Context) -> None:
        self._value1, self._value2 = self._compile(*self._first, ctx), self._compile(*self._second, ctx)
        self._due = DueTimes()
        """When something is to be sent, by topic: its group; infinite where only a reset ends it."""
        self._badge()

    def _compile(self, value: Any, kind: str, ctx: Context) -> Value:
        if kind in ("pay", "payl"):
            return lambda msg: msg.payload
        if kind in ("nul", "null"):
            return lambda _: None
        if kind == "str" and "{{" in str(value):
            return _template(str(value))
        return compile_value(value, kind, ctx, self)

    def process(self, msgs: list[Msg]) -> list[Msg]:
        sent = [found for msg in msgs for found in self._take(msg)]
        self._badge()
        return sent

    def _take(self, msg: Msg) -> list[Msg]:
        topic = self._topic_of(msg)
        if self._is_reset(msg):
            self._forget(topic)
            return []
        if topic in self._due and not self._loops:
            return self._another(topic, msg)
        first = [] if self.op1type == "nul" else [_with(msg, self._value1(msg))]
        if self._loops:
            kept = first[0] if first else None
        else:
            kept = msg if self.op2type in (*WHEN_SENT, "payl", "nul") else _with(msg, self._value2(msg))
        self._forget(topic)
        if kept is not None:
            self._hold(topic, kept)
        return first

    def _another(self, topic: str, msg: Msg) -> list[Msg]:
        """A message while one waits."""
        extends = self.extend and self._duration_s(msg) > 0 and self._due[topic] != math.inf
        if not extends and self.op2type != "payl":
            return []
        since_s = None if extends else self.held.since_s(topic)
        waiting = self.held.release(topic)[-1]
        takes_new = self.op2type in (*WHEN_SENT, "payl", "nul")
        self.held.keep(msg if takes_new else _with(msg, waiting.payload), topic, since_s)
        if extends:
            self._due[topic] = self.held.now_s + self._duration_s(msg)
        return []

    def _hold(self, topic: str, msg: Msg) -> None:
        self.held.keep(msg, topic)
        duration_s = self._duration_s(msg)
        self._due[topic] = self.held.now_s + duration_s if duration_s else math.inf

    def _forget(self, topic: str) -> None:
        self.held.release(topic)
        self._due.pop(topic, None)

    def _is_reset(self, msg: Msg) -> bool:
        if says(msg, "reset"):
            return True
        return self.reset != "" and msg.payload is not None and as_text(msg.payload) == self.reset

    def _topic_of(self, msg: Msg) -> str:
        found = get(msg, self.topic) if self.bytopic == "topic" else None
        return as_text(found) if found else ALL

    @property
    def _loops(self) -> bool:
        return self.duration < 0

    def _duration_s(self, msg: Msg) -> float:
        if self.overrideDelay and (delay_ms := number_of(msg, "delay")) is not None:
            return max(0.0, delay_ms / 1000)
        return abs(self.duration) * UNITS_S[self.units]

    def restore(self, entry: Entry) -> list[Msg]:
        """What was to be sent still is; what was sent at once was sent."""
        topic = self._topic_of(entry.msg)
        self.held.release(topic)  # an older one, that this one had already replaced
        self._hold(topic, entry.msg)
        self._badge()
        return []

    def owed(self, group: str) -> bool:
        return not self._loops and self.op2type != "nul" and self._due.get(group) != math.inf

    def due_s(self) -> float | None:
        return self._due.next_s()

    def tick(self) -> Ports:
        now_s = self.held.now_s
        sent: list[Msg] = []
        for topic in self._due.pop_due(now_s, AT_ONCE):
            sent += self._again(topic, now_s) if self._loops else self._then(topic)
        self._badge()
        return ([], sent) if self.outputs == 2 and not self._loops else (sent,)

    def _again(self, topic: str, now_s: float) -> list[Msg]:
        msg = self.held.messages(topic)[-1]
        every_s = self._duration_s(msg)
        self._due[topic] = now_s + every_s
        return [_with(msg, self._value1(msg)) if self.op1type == "date" else msg]

    def _then(self, topic: str) -> list[Msg]:
        msg = self.held.messages(topic)[-1]
        sent = [] if self.op2type == "nul" else [msg]
        if self.op2type in WHEN_SENT:
            sent = [_with(msg, self._value2(msg))]
        self.held.release(topic)
        return sent

    def _badge(self) -> None:
        count = len(self._due)
        if count:
            self.show({"fill": "blue", "shape": "dot", "text": str(count) if count > 1 else ""})
        else:
            self.show({})


def _typed(value: Any, kind: str, default: Any) -> tuple[Any, str]:
    """A value with the type it really has: `val` is what the editor's first versions saved."""
    value = default if value == "" else value
    if kind == "date" and value == default:
        return "", kind
    if kind != "val":
        return value, kind
    if value is None or value == "null":
        return None, "null"
    return (value, "bool") if as_text(value) in ("true", "false") else (as_text(value), "str")


def _with(msg: Msg, payload: Any) -> Msg:
    return msg.derive(payload=None if payload is UNDEFINED else payload)


def _template(text: str) -> Callable[[Msg], str]:
    """What Mustache makes of a text for each message."""
    parsed = parse(text)
    return lambda msg: render(parsed, lambda _: UNDEFINED, as_object(msg))
