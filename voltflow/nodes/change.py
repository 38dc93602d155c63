"""The `change` node."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from voltflow.engine.context import Memory
from voltflow.flow.properties import UNDEFINED, PathError, as_object, get, of_parts, parse, plain, put
from voltflow.flow.typed import TYPES, Value, check, compile_value, context_get, context_key
from voltflow.message import Msg
from voltflow.node import ConfigError, Context, Transform, config, node
from voltflow.nodelib.bounded import Bounded
from voltflow.nodelib.context_writes import Writes, writes
from voltflow.nodelib.js_regex import REGEX, compile_regex, replacement
from voltflow.nodelib.loose import as_cell, as_number, as_text

Rule = Mapping[str, Any]
Step = Callable[[Msg, Writes], Msg]

_NEW_RULE = {"t": "set", "p": "payload", "pt": "msg", "to": "", "tot": "str"}
_PLACES = ("msg", "flow", "global")
_FROM_TYPES = ("str", "num", "bool", "re", "msg", "flow", "global", "env")


@node("change", category="function", color="#e2d96e", icon="swap.svg")
class Change(Transform):
    """Set, change, delete or move properties of a message or of the flow and global context.

    Rules are done in their order, each on what the one before made. What cannot be set, for instance `topic.a` where the topic is a
    text, stays as it is, and the badge says so. A message for which a JSONata expression fails is not passed on and changes no
    context. A change of context may count twice when a message comes again after a crash.
    """

    rules: list[dict[str, Any]] = config(
        [_NEW_RULE],
        help="what to do: t (set, change, delete, move), p, pt, to, tot, from, fromt, dc",
    )
    action: str = config("", help="one rule as flows of old have it: what to do", advanced=True)
    property: str = config("", help="of that rule: the property", advanced=True)
    from_: str = config("", name="from", help="of that rule: what to look for", advanced=True)
    to: str = config("", help="of that rule: the value", advanced=True)
    reg: bool = config(False, help="of that rule: what to look for is a regular expression", advanced=True)

    def __post_init__(self) -> None:
        if self.action and self.rules == [_NEW_RULE]:
            self.rules = [self._old_rule()]
        self._rules = []
        for number, rule in enumerate(self.rules, 1):
            try:
                self._rules.append(_checked(rule))
            except ValueError as error:
                raise ConfigError(f'property "rules": rule {number} ({rule.get("t")}): {error}') from None

    def _old_rule(self) -> dict[str, Any]:
        kind = "set" if self.action == "replace" else self.action
        tot = "msg" if kind == "move" else None
        return {"t": kind, "p": self.property, "from": self.from_, "to": self.to, "re": self.reg, "tot": tot}

    async def start(self, ctx: Context) -> None:
        self._steps = [_compiled(rule, ctx, self) for rule in self._rules]

    def process(self, msgs: list[Msg]) -> list[Msg]:
        with writes() as done:
            return [self._changed(msg, done) for msg in msgs]

    def _changed(self, msg: Msg, done: Writes) -> Msg:
        for step in self._steps:
            mark = done.mark()
            try:
                msg = step(msg, done)
            except (PathError, _NotDoneError) as error:
                done.undo(mark)
                self.show({"fill": "yellow", "shape": "ring", "text": str(error)})
        return msg


class _NotDoneError(ValueError):
    """A rule cannot be done for a message, which goes on as it is."""


class _Place:
    """A property of messages or of a context."""

    def __init__(self, kind: str, path: str, ctx: Context, node: Change) -> None:
        self.path = path if kind == "msg" else context_key(path)
        self._memory: Memory | None = None
        self.in_context = kind != "msg"
        if self.in_context:
            self._memory = ctx.memory("flow" if kind == "flow" else "global", node)

    def get(self, msg: Msg) -> Any:
        return get(msg, self.path) if self._memory is None else context_get(self._memory, self.path, msg)

    def put(self, msg: Msg, value: Any, done: Writes) -> Msg:
        if self._memory is not None:
            done.put(self._memory, self.path, value, msg)
            return msg
        if self.path == "topic" and value is not UNDEFINED and value is not None:
            value = as_cell(value)
        return put(msg, self.path, value)


def _checked(rule: Rule) -> Rule:
    """The rule with all its types; raises ValueError saying what is wrong with it."""
    kind, to = rule.get("t"), rule.get("to", "")
    if kind not in ("set", "change", "delete", "move"):
        raise ConfigError("there is no such rule; there are set, change, delete, move")
    tot = rule.get("tot")
    if kind == "set" and not tot and isinstance(to, str) and to.startswith("msg."):
        to, tot = to[4:], "msg"  # how flows of old say it
    fromt = "re" if rule.get("re") else rule.get("fromt") or "str"
    full = {**rule, "pt": rule.get("pt") or "msg", "to": to, "tot": tot or "str", "fromt": fromt}
    _check_one("p", full.get("p", ""), "pt", full["pt"], _PLACES)
    if kind in ("set", "change", "move"):
        _check_one("to", to, "tot", full["tot"], _PLACES if kind == "move" else TYPES)
    if kind == "change":
        _check_one("from", full.get("from", ""), "fromt", fromt, _FROM_TYPES)
    return full


def _check_one(name: str, value: Any, type_name: str, kind: str, allowed: tuple[str, ...]) -> None:
    if kind not in allowed:
        raise ConfigError(f"{type_name} is {kind!r}, allowed are {', '.join(allowed)}")
    if kind == "re":
        compile_regex(str(value))
        return
    if name == "from" and kind in ("num", "bool"):
        return  # compared as text too
    try:
        check(value, kind)
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from None


def _compiled(rule: Rule, ctx: Context, node: Change) -> Step:
    place = _Place(rule["pt"], str(rule["p"]), ctx, node)
    if rule["t"] == "delete":
        return lambda msg, done: place.put(msg, UNDEFINED, done)
    if rule["t"] == "move":
        return _moving(place, _Place(rule["tot"], str(rule["to"]), ctx, node))
    value = compile_value(rule["to"], rule["tot"], ctx, node)
    if rule["t"] == "set":
        return _setting(place, value, str(rule["to"]) if rule["tot"] == "msg" else "")
    return _changing(place, _search(rule, ctx, node), value)


def _setting(place: _Place, value: Value, path: str) -> Step:
    def set_(msg: Msg, done: Writes) -> Msg:
        new = value(msg)
        return msg if new is UNDEFINED and _out_of_reach(msg, path) else place.put(msg, new, done)

    return set_


def _out_of_reach(msg: Msg, path: str) -> bool:
    """Node-RED deletes for a value that is not there, but does nothing where there is nothing it could be in."""
    above = parse(path)[:-1] if path else ()
    return bool(above) and of_parts(as_object(msg), above, msg) in (None, UNDEFINED)


def _moving(source: _Place, target: _Place) -> Step:
    def move(msg: Msg, done: Writes) -> Msg:
        value = plain(source.get(msg))
        if value is UNDEFINED and not source.in_context and _out_of_reach(msg, source.path):
            return msg
        return target.put(source.put(msg, UNDEFINED, done), value, done)

    return move


Search = Callable[[Msg], "tuple[str, Any, re.Pattern[str] | None]"]
"""What a change rule looks for in a message: num, bool, str or re; the value; and the same as an expression."""


def _search(rule: Rule, ctx: Context, node: Change) -> Search:
    kind, text = str(rule["fromt"]), rule.get("from", "")
    if kind in _PLACES or kind == "env":
        value = compile_value(text, kind, ctx, node)
        return lambda msg: _search_for(value(msg))
    expression = compile_regex(str(text)) if kind == "re" else re.compile(re.escape(str(text)))
    constant = (kind, str(text), expression)
    return lambda _: constant


def _search_for(value: Any) -> tuple[str, Any, re.Pattern[str] | None]:
    if isinstance(value, bool):
        return "bool", as_text(value), None
    if isinstance(value, int | float):
        return "num", value, None
    if isinstance(value, str):
        return "str", value, re.compile(re.escape(value))
    if value is UNDEFINED:
        raise _NotDoneError("what to look for is not there")
    raise _NotDoneError(f"what to look for is {type(value).__name__}, not a text, a number, true or false")


def _replaced(text: str, expression: re.Pattern[str], to: str) -> str:
    return expression.sub(replacement(expression, to), text)


def _changing(place: _Place, search: Search, value: Value) -> Step:
    replaced = Bounded(REGEX, _replaced)

    def change(msg: Msg, done: Writes) -> Msg:
        kind, wanted, expression = search(msg)
        current = place.get(msg)
        if isinstance(current, str):
            if kind != "re" and current == wanted:
                return place.put(msg, value(msg), done)
            if expression is None:
                return msg
            return place.put(msg, replaced(current, expression, as_text(value(msg))), done)
        if isinstance(current, bool):
            same = kind == "bool" and as_text(current) == wanted
        else:
            same = kind == "num" and isinstance(current, int | float) and current == as_number(wanted)
        return place.put(msg, value(msg), done) if same else msg

    return change
