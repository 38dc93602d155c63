"""The rules of a `switch` node: what they compare, and how they are compiled."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from voltflow.flow.properties import UNDEFINED, plain
from voltflow.flow.typed import Value, check, compile_value, evaluation
from voltflow.message import Msg
from voltflow.node import ConfigError, Context, Node
from voltflow.nodelib.bounded import Bounded
from voltflow.nodelib.js_regex import REGEX, compile_regex
from voltflow.nodelib.loose import NAN, as_number, as_text, at_most, equal, is_object, less
from voltflow.nodelib.parts import parts_of

RuleValue = Callable[[Msg, Any], Any]
"""A value of a rule for a message; the second argument is the property's value in the message before."""
Match = Callable[[Any, Msg, Any, bool], bool]
"""Whether a rule holds: the property's value, the message, the value before, and whether no rule has held yet."""


def match_of(rule: Mapping[str, Any], number: int, ctx: Context, node: Node) -> Match:
    """Compiled; raises ConfigError."""
    kind = rule["t"]
    if kind == "else":
        return lambda value, msg, previous, none_yet: none_yet
    if kind == "istype":
        return lambda value, msg, previous, none_yet: is_type(value, str(rule.get("v")))
    if kind == "jsonata_exp":
        expression = evaluation(rule.get("v", ""), ctx, node, _sequence_variables)
        return lambda value, msg, previous, none_yet: expression(msg) is True
    first, second = (_value(rule, name, ctx, node) for name in ("v", "v2"))
    if kind in _OF_PARTS:
        holds = _OF_PARTS[kind]
        return lambda value, msg, previous, none_yet: holds(
            _parts(msg, number, kind), as_number(first(msg, previous)), as_number(second(msg, previous))
        )
    compare = _matches_regex(bool(rule.get("case"))) if kind == "regex" else _COMPARE[kind]
    return lambda value, msg, previous, none_yet: compare(value, first(msg, previous), second(msg, previous))


def _value(rule: Mapping[str, Any], name: str, ctx: Context, node: Node) -> RuleValue:
    kind, value = _kind(rule, name), rule.get(name, UNDEFINED)
    if kind == "prev":
        return lambda msg, previous: previous
    if value is UNDEFINED or rule["t"] in _WITHOUT_VALUE:
        return lambda msg, previous: UNDEFINED
    if kind == "num":
        constant = as_number(value)
        return lambda msg, previous: constant
    compiled: Value = compile_value(value, kind, ctx, node)
    return lambda msg, previous: plain(compiled(msg))


def _parts(msg: Msg, number: int, kind: str) -> Mapping[str, Any]:
    parts = parts_of(msg)
    for name in ("index", "count") if kind == "tail" else ("index",):
        if as_number(parts.get(name, NAN)) != as_number(parts.get(name, NAN)):
            raise LookupError(
                f"rule {number} ({kind}) needs msg.parts.{name}, but the message is not part of a sequence"
            )
    return parts


def _sequence_variables(msg: Msg) -> Mapping[str, Any]:
    """`$I` and `$N` of a JSONata rule."""
    parts = parts_of(msg)
    return {"I": parts["index"], "N": parts.get("count")} if "id" in parts and "index" in parts else {}


def is_type(value: Any, kind: str) -> bool:
    """Whether a value is what Node-RED's rule "is of type" names so."""
    if kind == "json":
        try:
            msgspec.json.decode(as_text(value).encode())
        except ValueError:
            return False
        return True
    return kind == (
        "undefined" if value is UNDEFINED
        else "null" if value is None
        else "boolean" if isinstance(value, bool)
        else "number" if isinstance(value, int | float)
        else "string" if isinstance(value, str)
        else "buffer" if isinstance(value, bytes)
        else "array" if isinstance(value, list | tuple)
        else "object"
    )  # fmt: skip


def _has_key(value: Any, key: Any, _: Any = None) -> bool:
    if is_object(key) or key is None:
        return False
    name = as_text(key)
    if isinstance(value, Mapping):
        return name in value
    if isinstance(value, str | list | tuple | bytes):
        return (name == "length" and not isinstance(value, bytes)) or (
            name.isdecimal() and int(name) < len(value)
        )
    return False


def _is_empty(value: Any) -> bool | None:
    """None: it is nothing that can be empty."""
    return len(value) == 0 if isinstance(value, str | bytes | list | tuple | Mapping) else None


def _matches_regex(ignore_case: bool) -> Callable[[Any, Any, Any], bool]:
    def found(text: str, pattern: str) -> bool:
        return compile_regex(pattern, ignore_case=ignore_case).search(text) is not None

    search = Bounded(REGEX, found)
    return lambda value, pattern, _: search(as_text(value), as_text(pattern))


_COMPARE: Mapping[str, Callable[[Any, Any, Any], bool]] = {
    "eq": lambda a, b, _: equal(a, b),
    "neq": lambda a, b, _: not equal(a, b),
    "lt": lambda a, b, _: less(a, b),
    "lte": lambda a, b, _: at_most(a, b),
    "gt": lambda a, b, _: less(b, a),
    "gte": lambda a, b, _: at_most(b, a),
    "btwn": lambda a, b, c: (at_most(b, a) and at_most(a, c)) or (at_most(a, b) and at_most(c, a)),
    "cont": lambda a, b, _: as_text(b) in as_text(a),
    "hask": _has_key,
    "true": lambda a, *_: a is True,
    "false": lambda a, *_: a is False,
    "null": lambda a, *_: a is None or a is UNDEFINED,
    "nnull": lambda a, *_: a is not None and a is not UNDEFINED,
    "empty": lambda a, *_: _is_empty(a) is True,
    "nempty": lambda a, *_: _is_empty(a) is False,
}
_OF_PARTS: Mapping[str, Callable[[Mapping[str, Any], float, float], bool]] = {
    "head": lambda parts, count, _: parts["index"] < count,
    "tail": lambda parts, count, _: parts["count"] - count <= parts["index"],
    "index": lambda parts, low, high: low <= parts["index"] <= high,
}
_WITHOUT_VALUE = frozenset({"true", "false", "null", "nnull", "empty", "nempty", "else", "istype"})
_KINDS = frozenset({*_COMPARE, *_OF_PARTS, "regex", "istype", "jsonata_exp", "else"})
_VALUE_TYPES = (
    "str",
    "num",
    "msg",
    "flow",
    "global",
    "env",
    "jsonata",
    "prev",
    "bool",
    "date",
    "json",
    "bin",
    "re",
)


def _kind(rule: Mapping[str, Any], name: str) -> str:
    """The type of a rule's value; flows of old have none."""
    kind = rule.get(f"{name}t")
    return str(kind) if kind else "str" if math.isnan(as_number(rule.get(name, UNDEFINED))) else "num"


def check_rule(rule: Mapping[str, Any]) -> None:
    """Raises ValueError saying what is wrong with it."""
    if rule.get("t") not in _KINDS:
        raise ConfigError(f"there is no such rule; there are {', '.join(sorted(_KINDS))}")
    if rule["t"] in _WITHOUT_VALUE:
        return
    if rule["t"] == "jsonata_exp":
        check(rule.get("v", ""), "jsonata")
        return
    for name in ("v", "v2"):
        kind = _kind(rule, name)
        if name not in rule or kind == "prev":
            continue
        if kind not in _VALUE_TYPES:
            raise ConfigError(f"{name}t is {kind!r}, allowed are {', '.join(_VALUE_TYPES)}")
        if kind == "num" and math.isnan(as_number(rule[name])):
            raise ConfigError(f"{name}: {rule[name]!r} is not a number")
        if kind != "num":
            check(rule[name], kind)
    if rule["t"] == "regex" and _kind(rule, "v") == "str":
        compile_regex(str(rule.get("v", "")), ignore_case=bool(rule.get("case")))
