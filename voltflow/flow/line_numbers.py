"""Where the nodes of a flow file and their properties stand in its text, for messages that name a line."""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from dataclasses import dataclass

_SPACE = re.compile(r"[ \t\n\r]*")
_decoder = json.JSONDecoder()


@dataclass(frozen=True)
class NodeLines:
    """The line an entry of the array begins on, and that of each of its properties by name."""

    start: int
    properties: dict[str, int]


def lines_of(text: str) -> list[NodeLines]:
    """The lines of every entry of a JSON array of objects, which must be valid.

    >>> lines_of('[{"id": "a",\\n "type": "tab"},\\n{"id": "b"}]')[1]
    NodeLines(start=3, properties={'id': 3})
    """
    newlines = [match.start() for match in re.finditer("\n", text)]

    def line(position: int) -> int:
        return bisect_right(newlines, position) + 1

    found = []
    position = _skip(text, _skip(text, 0) + 1)
    while text[position] != "]":
        if text[position] == "{":
            start = position
            properties, position = _properties(text, position)
            found.append(NodeLines(line(start), {name: line(at) for name, at in properties.items()}))
        else:
            found.append(NodeLines(line(position), {}))
            _, position = _decoder.raw_decode(text, position)
        position = _skip(text, position)
        if text[position] == ",":
            position = _skip(text, position + 1)
    return found


def _properties(text: str, position: int) -> tuple[dict[str, int], int]:
    """By name where each property of the object at `position` stands, and the position after the object."""
    found = {}
    position = _skip(text, position + 1)
    while text[position] != "}":
        at = position
        name, position = _decoder.raw_decode(text, position)
        found[name] = at
        position = _skip(text, _skip(text, position) + 1)
        _, position = _decoder.raw_decode(text, position)
        position = _skip(text, position)
        if text[position] == ",":
            position = _skip(text, position + 1)
    return found, position + 1


def _skip(text: str, position: int) -> int:
    match = _SPACE.match(text, position)
    assert match is not None
    return match.end()
