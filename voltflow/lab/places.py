"""Places of a flow by what people call them: `alert`, a node by id or name; `alert#2`, its second output; `alert->out`, a
wire."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import NamedTuple

from voltflow.flow.expand import Part, list_of


class LabError(ValueError):
    """A test cannot be run as it is written, or the flow does not come to rest."""


class Place(NamedTuple):
    """Somewhere in a flow: a node (`port` is None), an output of it (from 0), or one wire of that."""

    node: str
    port: int | None = None
    target: str = ""


class Places:
    """Finds the places of a flow as it runs."""

    def __init__(self, parts: Mapping[str, Part]) -> None:
        self._parts = parts

    def of(self, text: str) -> Place:
        """The place of a text; raises LabError."""
        if (node := self._node(text)) is not None:
            return Place(node)
        start, arrow, end = text.partition("->")
        if arrow:
            return self._wire(self._known(start.strip()), self._known(end.strip()), text)
        name, mark, number = text.rpartition("#")
        if mark and number.isdecimal() and int(number) > 0:
            return Place(self._known(name), int(number) - 1)
        return Place(self._known(text))

    def _wire(self, start: str, end: str, text: str) -> Place:
        for port, targets in enumerate(list_of(self._parts[start].raw, "wires")):
            if end in targets:
                return Place(start, port, end)
        raise LabError(f"{text!r}: no wire leads from {start!r} to {end!r}")

    def _known(self, name: str) -> str:
        found = self._node(name)
        if found is None:
            raise LabError(f"node {name!r} {self._why(name)}")
        return found

    def _node(self, name: str) -> str | None:
        if name in self._parts:
            return name
        named = self._named(name)
        return named[0] if len(named) == 1 else None

    def _named(self, name: str) -> list[str]:
        return [part.id for part in self._parts.values() if name and part.raw.get("name") == name]

    def _why(self, name: str) -> str:
        if named := self._named(name):
            return f"is the name of {', '.join(named)}: use the id"
        names = [str(part.raw["name"]) for part in self._parts.values() if part.raw.get("name")]
        near = difflib.get_close_matches(name, [*self._parts, *names], n=3)
        return f"is not in the flow, or disabled{'; there is ' + ', '.join(near) if near else ''}"
