"""The `join` node: makes one message of several."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from voltflow.engine.why import Why
from voltflow.flow.properties import UNDEFINED, as_object, get, plain
from voltflow.flow.typed import check, compile_value, evaluation_of
from voltflow.message import Msg
from voltflow.node import ConfigError, Context, Holder, config, node
from voltflow.nodelib.gathering import Gathered, GatherLimits
from voltflow.nodelib.joining import ALL, Group, Groups, Reduction, values_of
from voltflow.nodelib.parts import parts_of
from voltflow.nodelib.sequences import separator, with_parts
from voltflow.signals import says

BUILDS = ("object", "string", "buffer", "array", "merged")
KINDS = ("flow", "global", "str", "num", "bool", "json", "bin", "date", "jsonata", "env")


@node("join", category="sequence", color="#E2D96E", icon="join.svg")
class Join(GatherLimits, Holder):
    """Make one message of several: of what a split node made, of so many, or of all of a while.

    `msg.complete` ends a group now, `msg.reset` clears it, `msg.restartTimeout` lets its time begin anew. A message that
    cannot be part of a group fails; if nothing can be made of a group all of it does.

    What is gathered survives a crash; a group that was just sent may come again then. A part that comes twice counts
    once. A sequence that does not get complete, such as a part that comes again when its own has been sent, becomes dead
    letters in time.
    """

    mode: str = config(
        "auto", help="auto: what msg.parts says; custom: what is set here; reduce: an expression for each message",
        choices=("auto", "custom", "reduce"),
    )  # fmt: skip
    build: str = config("object", help="what is made of the parts", choices=BUILDS)
    property: str = config(
        "payload", help="the part of each message", types=("msg", "full"), type_property="propertyType"
    )
    propertyType: str = config(
        "msg", help="msg: a property; full: the whole message", choices=("msg", "full")
    )
    key: str = config("topic", help="the property with the key of an object's value")
    joiner: str = config(
        "\\n", help="between texts or buffers", types=("str", "bin"), type_property="joinerType"
    )
    joinerType: str = config(
        "str", help="str: a text, with \\n and the like; bin: a JSON list of bytes", choices=("str", "bin")
    )
    useparts: bool = config(True, help="heed msg.parts in custom mode too")
    accumulate: bool = config(False, help="send the object after each message, and go on with it")
    timeout: float = config(0.0, help="send what there is after this time; 0: not", unit="s", low=0, high=1e9)
    count: int | None = config(
        None, help="send after so many parts; empty: as msg.parts says", low=0, high=1_000_000
    )
    reduceRight: bool = config(False, help="the last message first")
    reduceExp: str = config(
        "",
        help="what follows from the result until now ($A), a message, its place ($I) and their number ($N)",
        code="jsonata",
    )
    reduceInit: Any = config(
        "", help="the result before the first message", types=KINDS, type_property="reduceInitType"
    )
    reduceInitType: str = config("", help="what reduceInit is", choices=("", *KINDS))
    reduceFixup: str = config(
        "", help="what is sent of the result ($A) of all messages ($N); empty: the result", code="jsonata"
    )

    def __post_init__(self) -> None:
        checks = [("property", self.property, "msg"), ("key", self.key, "msg")]
        if self.mode == "reduce":
            checks = [
                ("reduceExp", self.reduceExp, "jsonata"),
                ("reduceFixup", self.reduceFixup or "$A", "jsonata"),
            ]
            if self.reduceInitType:
                checks.append(("reduceInit", self.reduceInit, self.reduceInitType))
        for name, value, kind in checks:
            try:
                check(value, kind)
            except ConfigError as error:
                raise ConfigError(f'property "{name}": {error}') from None
        try:
            separator(self.joiner, self.joinerType)
        except ConfigError as error:
            raise ConfigError(f'property "joiner": {error}') from None

    async def start(self, ctx: Context) -> None:
        self._by = separator(self.joiner, self.joinerType)
        self._groups = Groups(self.held, self)
        self._sequences = Gathered(self.held, self)
        if self.mode == "reduce":
            kind = self.reduceInitType
            self._reduction = Reduction(
                compile_value(self.reduceInit, kind, ctx, self) if kind else lambda _: None,
                evaluation_of(self.reduceExp, ctx, self),
                evaluation_of(self.reduceFixup or "$A", ctx, self),
                self.reduceRight,
            )

    def process(self, msgs: list[Msg]) -> list[Msg]:
        take = self._reduce if self.mode == "reduce" else self._take
        return [found for msg in msgs for found in take(msg)]

    def _take(self, msg: Msg) -> list[Msg]:
        parts = parts_of(msg)
        if self.mode == "auto" and "id" not in parts:
            return self._without_parts(msg)
        if self.mode == "custom" and parts and not self.useparts:
            parts = {"parts": parts["parts"]} if "parts" in parts else {}
        name = self._group_of(parts)
        group = self._groups.get(name)
        if group is not None and says(msg, "restartTimeout"):
            self._begin_time(name)
        if says(msg, "reset"):
            self._groups.forget(name)
            return []
        ends = says(msg, "complete")
        if name != ALL:
            self.check_count(parts.get("count"))
        new = self._new_group(parts) if group is None else group
        key = self._key_of(msg, parts, new)
        if new.kind == "object" and (key is None or key is UNDEFINED or (key == "" and self.mode != "auto")):
            if not ends or self.mode == "auto":
                wanted = "msg.parts.key" if self.mode == "auto" else f"msg.{self.key}"
                raise ValueError(f"{wanted} is missing: it is the key of an object's value")
            return self._send(name, ends=True) if group is not None else []
        place = parts.get("index") if self.mode == "auto" else None
        try:
            values = values_of(new.kind, self._value_of(msg, parts, ends=ends), key, place, len(new.values))
        except TypeError:
            if not ends:
                raise
            values = {}  # a message may be no more than the end
        return self._add(
            name, new, with_parts(msg, parts or None) if parts != parts_of(msg) else msg, msg, values
        )

    def _add(self, name: str, group: Group, msg: Msg, original: Msg, values: dict[Any, Any]) -> list[Msg]:
        if name not in self._groups:
            self._groups[name] = group
            self._begin_time(name)
        self._groups.add(name, msg, original, values)
        group.target = group.target or _count(parts_of(msg).get("count"))
        ends = says(msg, "complete")
        if group.is_complete or ends:
            return self._send(name, ends=ends)
        self._groups.heed_limit(name)
        return []

    def _without_parts(self, msg: Msg) -> list[Msg]:
        if not says(msg, "reset"):
            raise ValueError("msg.parts with an id is missing: it is part of nothing")
        for name in list(self._groups):
            self._groups.forget(name)
        return []

    def _group_of(self, parts: Mapping[str, Any]) -> str:
        if self.mode == "auto" or (self.count is None and "id" in parts):
            return str(parts["id"])
        return ALL

    def _new_group(self, parts: Mapping[str, Any]) -> Group:
        if self.mode == "auto":
            return Group(
                str(parts.get("type", "array")), str(parts.get("property") or "payload"), parts.get("ch"), parts.get("len"),
                _count(parts.get("count")),
            )  # fmt: skip
        target = _count(parts.get("count")) if self.count is None else self.count
        return Group(
            self.build, "payload" if self.propertyType == "full" else self.property, self._by, None, target
        )

    def _key_of(self, msg: Msg, parts: Mapping[str, Any], group: Group) -> Any:
        if group.kind != "object":
            return None
        return parts.get("key") if self.mode == "auto" else get(msg, self.key)

    def _value_of(self, msg: Msg, parts: Mapping[str, Any], *, ends: bool) -> Any:
        if self.mode == "auto":
            return plain(get(msg, str(parts.get("property") or "payload")))
        if self.propertyType == "full":
            return as_object(msg)
        value = plain(get(msg, self.property))
        return UNDEFINED if ends and value is None else value

    def _begin_time(self, name: str) -> None:
        if self.timeout and self.mode == "custom":
            self._groups.due[name] = self.held.now_s + self.timeout

    def _send(self, name: str, *, ends: bool) -> list[Msg]:
        groups = self._groups
        groups.due.pop(name, None)
        try:
            msg = groups[name].joined()
        except Exception as error:  # noqa: BLE001 - the parts may be anything
            groups.give_up(name, Why.of(error))
            return []
        if ends or self.mode == "auto" or not self.accumulate:
            groups.forget(name)
        else:
            groups.has_sent(name)
        return [msg]

    # -- an expression for each message -------------------------------------------------------------------------------

    def _reduce(self, msg: Msg) -> list[Msg]:
        parts = parts_of(msg)
        if not parts:
            return [msg]
        reduced = self._sequences.made_of(str(parts.get("id")), msg, self._reduction.of)
        return [] if reduced is None else [reduced]

    # -- time ---------------------------------------------------------------------------------------------------------

    def owed(self, group: str) -> bool:
        return group not in self._groups.sent

    def due_s(self) -> float | None:
        times = (self._groups.due_s(), self._sequences.due_s())
        return min((time_s for time_s in times if time_s is not None), default=None)

    def tick(self) -> list[Msg]:
        now_s = self.held.now_s
        self._groups.give_up_overdue(now_s)
        self._sequences.give_up(now_s)
        return [msg for name in self._groups.due.pop_due(now_s) for msg in self._send(name, ends=False)]


def _count(value: Any) -> int:
    return value if isinstance(value, int) and value > 0 else 0
