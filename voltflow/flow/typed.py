"""Typed inputs: a value in a flow file beside its type, as Node-RED has them.

`msg` a property of the message, `flow` and `global` of the context, `env` a variable, `jsonata` an expression; the others are
the value itself: `str`, `num`, `bool`, `json`, `bin` (a JSON list of bytes), `re` (a regular expression), `date` (now).

>>> check("12x", "num")
Traceback (most recent call last):
voltflow.flow.field.ConfigError: '12x' is not a number
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from voltflow.engine.context import Memory
from voltflow.flow.field import ConfigError
from voltflow.flow.properties import UNDEFINED, PathError, as_object, get, of_parts, parse
from voltflow.message import Msg
from voltflow.node import Context, Node
from voltflow.nodelib.bounded import Bounded

TYPES = ("msg", "flow", "global", "str", "num", "bool", "json", "bin", "re", "date", "env", "jsonata")

Value = Callable[[Msg], Any]
"""What a typed input is for a message; UNDEFINED where a property is not there."""

JSONATA = "the JSONata expression"

_STORE = re.compile(r"#:\((?P<store>[^)]*)\)::(?P<key>.*)", re.DOTALL)


def check(value: Any, kind: str) -> None:
    """Raises ConfigError where the value cannot be of its type."""
    if kind not in TYPES:
        raise ConfigError(f"{kind!r} is not one of the types {', '.join(TYPES)}")
    if kind in _CHECKS:
        _CHECKS[kind](value)


def number(value: Any) -> int | float:
    """A number as Node-RED's editor saves it: text.

    >>> number("5"), number("-1.5e3"), number("0x10")
    (5, -1500.0, 16)
    """
    if isinstance(value, bool) or value is None:
        raise ConfigError(f"{value!r} is not a number")
    if isinstance(value, int | float):
        return value
    text = str(value).strip()
    try:
        return (
            int(text, 0)
            if re.fullmatch(r"[+-]?(0[xob])?[0-9a-fA-F]+", text) and not _leading_zero(text)
            else float(text)
        )
    except ValueError:
        raise ConfigError(f"{value!r} is not a number") from None


def _leading_zero(text: str) -> bool:
    return re.fullmatch(r"[+-]?0\d+", text) is not None


def truth(value: Any) -> bool:
    """`true` or `false`, as the editor saves it."""
    if isinstance(value, bool):
        return value
    if str(value) in ("true", "false"):
        return str(value) == "true"
    raise ConfigError(f"{value!r} is not true or false")


def _json(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError as error:
        raise ConfigError(f"{value[:80]!r} is not JSON: {error}") from None


def _bytes(value: Any) -> bytes:
    found = _json(value)
    try:
        return found.encode() if isinstance(found, str) else bytes(found)
    except (TypeError, ValueError):
        raise ConfigError(f"{str(value)[:80]!r} is not a JSON list of bytes (0 … 255)") from None


def _regex(value: Any) -> re.Pattern[str]:
    try:
        return re.compile(str(value))
    except re.error as error:
        raise ConfigError(f"{value!r} is not a regular expression: {error}") from None


def _path(value: Any) -> None:
    try:
        parse(str(value))
    except PathError as error:
        raise ConfigError(str(error)) from None


def _context_path(value: Any) -> None:
    _path(context_key(str(value)))


def context_key(value: str) -> str:
    """The key of a context property; its store is not looked at, all are durable.

    >>> context_key("#:(file)::count.a"), context_key("count")
    ('count.a', 'count')
    """
    match = _STORE.fullmatch(value)
    return match["key"] if match else value


def expression(text: Any) -> Any:
    """A compiled JSONata expression; raises ConfigError."""
    from jsonata import jsonata  # not every flow has one

    try:
        return jsonata.Jsonata.jsonata(str(text))
    except Exception as error:  # noqa: BLE001 - the library raises what it likes
        raise ConfigError(f"{str(text)[:80]!r} is not a JSONata expression: {_why(error)}") from None


def _why(error: Exception) -> str:
    return str(error) or type(error).__name__


_CHECKS: Mapping[str, Callable[[Any], Any]] = {
    "num": number, "bool": truth, "json": _json, "bin": _bytes, "re": _regex, "msg": _path, "flow": _context_path,
    "global": _context_path, "jsonata": expression,
}  # fmt: skip


def compile_value(value: Any, kind: str, ctx: Context, node: Node) -> Value:
    """What gives a typed input for each message; raises ConfigError where it cannot be of its type.

    What it raises for a message (JSONata) makes that message fail.
    """
    check(value, kind)
    if kind == "msg":
        return lambda msg: get(msg, value)
    if kind in ("flow", "global"):
        memory = ctx.memory("flow" if kind == "flow" else "global", node)
        key = context_key(str(value))
        return lambda msg: context_get(memory, key, msg)
    if kind == "env":
        text = _environment(str(value), ctx.env)
        return lambda _: text
    if kind == "date":
        return lambda _: _now(str(value), ctx)
    if kind == "jsonata":
        return evaluation(value, ctx, node)
    constant = _CHECKS[kind](value) if kind in _CHECKS else str(value)
    return lambda _: constant


def context_get(memory: Memory, key: str, msg: Msg) -> Any:
    """A property of a context, or UNDEFINED."""
    memory, key = memory.at(key)
    parts = parse(key)
    value = memory.get(str(parts[0]), UNDEFINED)
    return value if len(parts) == 1 or value is UNDEFINED else of_parts(value, parts[1:], msg)


def _environment(value: str, env: Mapping[str, str]) -> str:
    """A variable by its name, or a text with `${NAME}` in it; one that is not set is empty, as in Node-RED."""
    if "${" in value:
        return re.sub(r"\$\{([^}]+)\}", lambda match: env.get(match[1].strip(), ""), value)
    return env.get(value, "")


def _now(form: str, ctx: Context) -> Any:
    now_s = ctx.timer.now_s()
    if form in ("iso", "object"):
        return datetime.fromtimestamp(now_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return int(now_s * 1000)


def evaluation(
    text: Any, ctx: Context, node: Node, variables: Callable[[Msg], Mapping[str, Any]] | None = None
) -> Value:
    """What gives a JSONata expression for each message, with `$name` for each variable; UNDEFINED where it finds nothing."""
    evaluate = _evaluation(text, ctx, node)
    return Bounded(
        JSONATA, lambda msg: evaluate(as_object(msg), None if variables is None else variables(msg))
    )


def evaluation_of(text: Any, ctx: Context, node: Node) -> Callable[[Any, Mapping[str, Any] | None], Any]:
    """What gives a JSONata expression for any value and variables; UNDEFINED where it finds nothing."""
    return Bounded(JSONATA, _evaluation(text, ctx, node))


def _evaluation(text: Any, ctx: Context, node: Node) -> Callable[[Any, Mapping[str, Any] | None], Any]:
    compiled = expression(text)
    from jsonata.utils import Utils

    flow, everywhere = ctx.memory("flow", node), ctx.memory("global", node)
    compiled.register_lambda("env", lambda name: ctx.env.get(name, ""))
    compiled.register_lambda("flowContext", lambda key, *_: _remembered(flow, key))
    compiled.register_lambda("globalContext", lambda key, *_: _remembered(everywhere, key))
    compiled.register_lambda("clone", lambda value: msgspec.json.decode(msgspec.json.encode(value)))
    compiled.set_output_convert_nulls(False)  # null is not the same as nothing
    compiled.set_validate_input(False)  # a message may have bytes

    def evaluate(value: Any, variables: Mapping[str, Any] | None) -> Any:
        found = compiled.evaluate(value, variables)
        return UNDEFINED if found is None else Utils.convert_nulls(found)

    return evaluate


def _remembered(memory: Memory, key: Any) -> Any:
    value = context_get(memory, context_key(str(key)), Msg("", None))
    return None if value is UNDEFINED else value
