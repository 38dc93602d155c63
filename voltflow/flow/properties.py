"""Properties of a message by their path, as Node-RED writes it: `payload.cells[3].voltage_v`, `topic`, `parts.id`.

A message has `topic`, `payload`, `_msgid` and whatever else a node has set (`Msg.props`). Nothing is changed in place: `put`
and `remove` give a new message that shares what did not change.

>>> msg = Msg("t", {"cells": [{"v": 3.7}, {"v": 3.8}]})
>>> get(msg, "payload.cells[1].v"), get(msg, "payload.none.v") is UNDEFINED
(3.8, True)
>>> put(msg, "payload.cells[0].v", 4.0).payload, msg.payload["cells"][0]
({'cells': [{'v': 4.0}, {'v': 3.8}]}, {'v': 3.7})
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

import msgspec

from voltflow.message import Msg, message_id

Path = tuple["str | int | Path", ...]
"""Names of properties and positions in lists; a path within it is looked up in the same message first."""


class _Undefined:
    """What is not there, which is something else than null."""

    def __repr__(self) -> str:
        return "undefined"

    def __bool__(self) -> bool:
        return False


UNDEFINED: Final = _Undefined()

_NAME = re.compile(r"[^.\[\]\s\"']+")
_INDEX = re.compile(r"\d+\]")
_QUOTED = re.compile(r"""("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')\]""")


class PathError(ValueError):
    """A text is not a property's path; the message says where and why."""


@lru_cache(maxsize=4096)
def parse(text: str) -> Path:
    """The path of a text; raises PathError.

    >>> parse("payload.a[0]['b c'][msg.topic].d")
    ('payload', 'a', 0, 'b c', ('topic',), 'd')
    >>> parse("payload..a")
    Traceback (most recent call last):
    voltflow.flow.properties.PathError: 'payload..a' is not a property: a name is missing at position 9
    """
    path, end = _parse(text, 0, nested=False)
    if end < len(text):
        raise PathError(f"{text!r} is not a property: unexpected {text[end]!r} at position {end + 1}")
    return path


def _parse(text: str, at: int, *, nested: bool) -> tuple[Path, int]:
    path: list[str | int | Path] = []
    while at < len(text):
        if text[at] == "[":
            part, at = _in_brackets(text, at + 1)
            path.append(part)
            continue
        if nested and text[at] == "]":
            break
        if path:
            if text[at] != ".":
                break
            at += 1
        name = _NAME.match(text, at)
        if name is None:
            raise PathError(f"{text!r} is not a property: a name is missing at position {at + 1}")
        path.append(name[0])
        at = name.end()
    if not path:
        raise PathError(f"{text!r} is not a property: it is empty")
    return tuple(path), at


def _in_brackets(text: str, at: int) -> tuple[str | int | Path, int]:
    if index := _INDEX.match(text, at):
        return int(index[0][:-1]), index.end()
    if quoted := _QUOTED.match(text, at):
        return re.sub(r"\\(.)", r"\1", quoted[1][1:-1]), quoted.end()
    if text.startswith("msg.", at):
        path, end = _parse(text, at + 4, nested=True)
        if text[end : end + 1] == "]":
            return path, end + 1
    raise PathError(
        f"{text!r} is not a property: at position {at + 1} a number, a quoted name or msg.… is expected before ]"
    )


def get(msg: Msg, path: str) -> Any:
    """The property, or UNDEFINED. `payload` as it is; below it plain values (`plain`)."""
    value: Any = UNDEFINED
    parts = parse(path)
    first = parts[0]
    if first == "payload":
        value = msg.payload
    elif first == "topic":
        value = msg.topic
    elif first == "_msgid":
        value = message_id(msg)
    elif isinstance(first, str) and msg.props:
        value = msg.props.get(first, UNDEFINED)
    return of_parts(value, parts[1:], msg)


def get_part(msg: Msg, part: str | int | Path) -> Any:
    """A part of a path with what it names in the message."""
    return _walk(msg, part) if isinstance(part, tuple) else part


def _walk(msg: Msg, parts: Path) -> Any:
    return of_parts(as_object(msg), parts, msg)


def _child(value: Any, part: Any) -> Any:
    if isinstance(value, Mapping):
        found = value.get(part, UNDEFINED)
        return value.get(str(part), UNDEFINED) if found is UNDEFINED and isinstance(part, int) else found
    if isinstance(value, str | bytes | list | tuple):
        if part == "length":
            return len(value)
        position = part if isinstance(part, int) else int(part) if str(part).isdecimal() else -1
        return value[position] if 0 <= position < len(value) else UNDEFINED
    found = plain(value)
    return _child(found, part) if found is not value else UNDEFINED


def of_parts(value: Any, parts: Path, msg: Msg) -> Any:
    """What is at the parts below a value; paths in them are looked up in the message."""
    for part in parts:
        if value is UNDEFINED:
            break
        value = _child(value, get_part(msg, part))
    return value


def put(msg: Msg, path: str, value: Any) -> Msg:
    """A message with the property set; objects and lists that are missing on the way are made.

    Raises PathError where something on the way is a number, a text or another value that has no properties.
    """
    parts = [get_part(msg, part) for part in parse(path)]
    return _replace(msg, str(parts[0]), put_parts(_root(msg, str(parts[0])), parts[1:], value, path))


def _root(msg: Msg, name: str) -> Any:
    if name == "payload":
        return msg.payload
    if name == "topic":
        return msg.topic
    return (msg.props or {}).get(name, UNDEFINED)


def _replace(msg: Msg, name: str, value: Any) -> Msg:
    if name == "payload":
        return msg.derive(payload=None if value is UNDEFINED else value)
    if name == "topic":
        return msg.derive(topic=topic_text(value))
    props = dict(msg.props or {})
    if value is UNDEFINED:
        props.pop(name, None)
    else:
        props[name] = value
    return msg.derive(props=props)


def topic_text(value: Any) -> str:
    """What becomes of a value as a topic, which is always a text: a list or an object is JSON.

    >>> topic_text(["ev/+", {"topic": "gw/#", "qos": 1}]), topic_text(True), topic_text(None)
    ('["ev/+",{"topic":"gw/#","qos":1}]', 'true', '')
    """
    if value is UNDEFINED or value is None:
        return ""
    if isinstance(value, bool | list | dict):
        return json.dumps(plain(value), ensure_ascii=False, separators=(",", ":"), default=str)
    return str(value)


def put_parts(value: Any, parts: list[Any], new: Any, path: str) -> Any:
    """A copy of the value with what is at the parts set, or taken out where `new` is UNDEFINED."""
    if not parts:
        return new
    if value is UNDEFINED or value is None:
        if new is UNDEFINED:
            return value
        value = [] if isinstance(parts[0], int) else {}
    value, part = plain(value), parts[0]
    if not isinstance(part, str | int):
        raise PathError(
            f"{path!r} cannot be set: what stands in brackets is {part!r}, expected a name or a number"
        )
    if isinstance(value, Mapping):
        return _with_key(dict(value), str(part), parts, new, path)
    if isinstance(value, list | tuple) and (isinstance(part, int) or str(part).isdecimal()):
        return _with_position(list(value), int(part), parts, new, path)
    if new is UNDEFINED:
        return value
    raise PathError(f"{path!r} cannot be set: a {type(value).__name__} has no property {part!r}")


def _with_key(copy: dict[Any, Any], part: Any, parts: list[Any], new: Any, path: str) -> dict[Any, Any]:
    changed = put_parts(copy.get(part, UNDEFINED), parts[1:], new, path)
    if changed is UNDEFINED:
        copy.pop(part, None)
    else:
        copy[part] = changed
    return copy


_LONGEST_GAP = 10_000
"""Nulls that setting one position of a list may add: a wrong index must not fill the memory."""


def _with_position(copy: list[Any], at: int, parts: list[Any], new: Any, path: str) -> list[Any]:
    changed = put_parts(copy[at] if at < len(copy) else UNDEFINED, parts[1:], new, path)
    if changed is UNDEFINED:
        del copy[at : at + 1]
        return copy
    if at > len(copy) + _LONGEST_GAP:
        raise PathError(f"{path!r} cannot be set: the list has {len(copy)} elements")
    copy += [None] * (at + 1 - len(copy))
    copy[at] = changed
    return copy


def remove(msg: Msg, path: str) -> Msg:
    """A message without the property; one that has none is as it was. Without payload it is null, without topic empty."""
    return msg if get(msg, path) is UNDEFINED else put(msg, path, UNDEFINED)


def plain(value: Any) -> Any:
    """Objects of the gateway's own (a twin's reading, a struct) as dicts and lists; other values as they are."""
    wire = getattr(value, "wire", None)
    if wire is not None:
        value = wire()
    return msgspec.to_builtins(value) if isinstance(value, msgspec.Struct) else value


def as_object(msg: Msg) -> dict[str, Any]:
    """All of a message, as Node-RED shows it."""
    return {"_msgid": message_id(msg), "topic": msg.topic, "payload": plain(msg.payload), **(msg.props or {})}


def of_object(value: Mapping[str, Any], msg: Msg) -> Msg:
    """The message that an object describes, made from `msg`."""
    props = {name: item for name, item in value.items() if name not in {"topic", "payload"}}
    if props.get("_msgid") == message_id(msg):
        del props["_msgid"]
    return msg.derive(topic=topic_text(value.get("topic")), payload=value.get("payload"), props=props or None)
