"""Values as the editor's debug sidebar wants them: a name of what it is, and a text of bounded length.

>>> shown({"soc_pct": 71.5, "cells": []})
('Object', '{"soc_pct":71.5,"cells":[]}')
>>> shown("x" * 1001)[0], shown(2.0), shown(None), shown(b"\\x01\\xff")
('string[1001]', ('number', '2'), ('null', '(undefined)'), ('buffer[2]', '01ff'))
"""

from __future__ import annotations

import json
import math
import reprlib
from collections.abc import Mapping
from typing import Any

import msgspec

from voltflow.flow.properties import UNDEFINED, plain
from voltflow.node import Node
from voltflow.nodelib.loose import as_text

LIMIT = 1000
"""Characters of a text, elements of a list, hex digits of bytes."""
DEPTH = 50
"""Levels of objects within each other; what is deeper is shown as a text."""
ERROR, WARN = 20, 30
"""Node-RED's levels."""

_short = reprlib.Repr()
_short.maxstring = _short.maxother = LIMIT


def shown(value: Any) -> tuple[str, Any]:
    """Format and text of a value; never fails."""
    try:
        return _shown(plain(value))
    except Exception as error:  # noqa: BLE001 - to look at a message must not harm it
        return type(value).__name__, f"cannot be shown: {type(error).__name__}"


def _shown(value: Any) -> tuple[str, Any]:
    if value is UNDEFINED:
        return "undefined", "(undefined)"
    if value is None:
        return "null", "(undefined)"
    if isinstance(value, bool):
        return "boolean", "true" if value else "false"
    if isinstance(value, int | float):
        return "number", as_text(value)
    if isinstance(value, str):
        return f"string[{utf16_length(value)}]", _cut(value)
    if isinstance(value, bytes | bytearray):
        return f"buffer[{len(value)}]", value[: LIMIT // 2].hex()
    if isinstance(value, BaseException):
        return "error", _json({"name": type(value).__name__, "message": str(value)})
    if isinstance(value, list | tuple):
        return f"array[{len(value)}]", _json(value)
    if isinstance(value, Mapping):
        return "Object", _json(value)
    return type(value).__name__, _short.repr(value)[:LIMIT]


def origin(node: Node) -> dict[str, Any]:
    """Who says something, so that the sidebar finds the node, in a subflow too."""
    found = {"id": node.id, "z": node.tab, "path": node.path, "name": node.name}
    return found if node.drawn_as == node.id else {**found, "_alias": node.drawn_as}


def log_message(node: Node, level: int, value: Any, now_s: float) -> dict[str, Any]:
    """What a node says by itself, for the sidebar."""
    format, text = shown(value)
    return {**origin(node), "level": level, "type": node.type, "msg": text, "format": format,
            "timestamp": int(now_s * 1000)}  # fmt: skip


def utf16_length(text: str) -> int:
    """As JavaScript counts."""
    return len(text) if text.isascii() else len(text) + sum(char > "\uffff" for char in text)


def _cut(text: str) -> str:
    text = text if len(text) <= LIMIT else text[:LIMIT] + "..."
    # half of a pair, which a websocket cannot carry, becomes a replacement character
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _json(value: Any) -> str:
    bounded = _bounded(value, 0)
    try:
        return msgspec.json.encode(bounded).decode()
    except (OverflowError, TypeError):  # a number of more than 64 bits, a class made from one of JSON's
        return json.dumps(bounded, ensure_ascii=False, separators=(",", ":"))


def _as_it_is(value: Any) -> bool:
    """Whether nothing has to be done for a value. Of most messages that is all there is, and at full speed it counts."""
    return (
        value is None
        or isinstance(value, int)
        or (isinstance(value, float) and math.isfinite(value))
        or (isinstance(value, str) and len(value) <= LIMIT and value.isascii())
    )


def _name(key: Any) -> str:
    return key if isinstance(key, str) and _as_it_is(key) else _cut(str(key))


def _bounded(value: Any, depth: int) -> Any:
    """JSON's values, long and strange ones marked as the sidebar knows them (`__enc__`)."""
    if _as_it_is(value):
        return value
    if isinstance(value, str):
        return _cut(value)
    if isinstance(value, float):
        return {"__enc__": True, "type": "number", "data": as_text(value)}
    if isinstance(value, bytes | bytearray):
        return {"type": "Buffer", "data": list(value[:LIMIT]), "__enc__": True, "length": len(value)}
    if value is UNDEFINED:
        return {"__enc__": True, "type": "undefined"}
    if depth >= DEPTH:
        return _short.repr(value)[:LIMIT]
    if isinstance(value, Mapping):
        return {
            _name(name): item if _as_it_is(item) else _bounded(item, depth + 1)
            for name, item in value.items()
        }
    if isinstance(value, list | tuple):
        items = [item if _as_it_is(item) else _bounded(item, depth + 1) for item in value[:LIMIT]]
        return (
            items
            if len(value) <= LIMIT
            else {"__enc__": True, "type": "array", "data": items, "length": len(value)}
        )
    if (simple := plain(value)) is not value:
        return _bounded(simple, depth)
    return {"__enc__": True, "type": "function"} if callable(value) else _short.repr(value)[:LIMIT]
