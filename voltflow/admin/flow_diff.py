"""What is different between two flows, in words: nodes that come and go, wires, settings.

>>> old = [{"id": "a", "type": "switch", "name": "hot", "property": "payload", "wires": [["b"]]}]
>>> new = [{"id": "a", "type": "switch", "name": "hot", "property": "topic", "wires": [[]]}]
>>> for difference in differences(old, new):
...     print(difference)
changed: switch "hot": property "payload" → "topic"
rewired: switch "hot": output 1 no longer leads to "b"
"""

from __future__ import annotations

import difflib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

from voltflow.flow.expand import RawNode, list_of, text_of
from voltflow.node import REGISTRY

Kind = Literal["added", "removed", "changed", "rewired", "renamed", "moved", "enabled", "disabled", "drawn"]
"""`moved`: to another tab or subflow. `drawn`: position, size, icon, description; says nothing of what a node does."""

DRAWN: Final = frozenset(
    {
        "x",
        "y",
        "w",
        "h",
        "l",
        "icon",
        "info",
        "style",
        "inputLabels",
        "outputLabels",
        "color",
        "meta",
        "nodes",
    }
)
_OWN: Final = (
    frozenset({"id", "type", "z", "g", "d", "name", "label", "wires", "disabled", "credentials"}) | DRAWN
)
"""What is not compared as a setting."""
_LONGEST: Final = 60


@dataclass(frozen=True)
class Difference:
    """One difference. `label` names the node for a person, `tab` is the id of the tab or subflow it is on."""

    kind: Kind
    node_id: str
    label: str
    text: str = ""
    tab: str = ""
    property: str = ""

    def __str__(self) -> str:
        return f"{self.kind}: {self.label}{f': {self.text}' if self.text else ''}"


def differences(old: Sequence[RawNode], new: Sequence[RawNode]) -> list[Difference]:
    """All differences, in the order of the new flow; what was removed first. Values of secrets are never told."""
    return list(_Comparison(old, new).run())


def in_words(found: Sequence[Difference]) -> list[str]:
    """A line for each difference; what is only drawn otherwise is counted in one."""
    lines = [str(item) for item in found if item.kind != "drawn"]
    drawn = len({item.node_id for item in found if item.kind == "drawn"})
    if drawn:
        lines.append(f"drawn otherwise: {drawn} node{'' if drawn == 1 else 's'}, without effect on what runs")
    return lines or ["no difference"]


def in_brief(found: Sequence[Difference]) -> str:
    """How many nodes of each kind of difference.

    >>> node = {"id": "a", "type": "switch", "property": "topic"}
    >>> in_brief(
    ...     differences(
    ...         [node], [{**node, "property": "payload", "name": "hot"}, {"id": "b", "type": "debug"}]
    ...     )
    ... )
    '1 added, 1 changed, 1 renamed'
    """
    counts = Counter(kind for kind, _ in {(item.kind, item.node_id) for item in found})
    return ", ".join(f"{counts[kind]} {kind}" for kind in get_args(Kind) if kind in counts) or "no difference"


def changed_tabs(old: Sequence[RawNode], new: Sequence[RawNode]) -> set[str]:
    """The tabs that run otherwise than before: where a node came, went or changed, or uses a config node or subflow
    that did."""
    touched = {item.node_id for item in differences(old, new) if item.kind not in ("drawn", "renamed")}
    nodes = [*old, *new]
    tabs = {raw["id"] for raw in nodes if raw["type"] == "tab"}
    subflows = {raw["id"] for raw in nodes if raw["type"] == "subflow"}
    while True:
        homes = {text_of(raw, "z") for raw in nodes if raw["id"] in touched}
        more = (homes & subflows) | {raw["id"] for raw in nodes if _uses(raw, touched)}
        if more <= touched:
            return tabs & (touched | homes)
        touched |= more


def _uses(raw: RawNode, touched: set[str]) -> bool:
    """Whether a node refers to one of these, or is an instance of one. A subflow is what is in it; a tab is not."""
    spec = REGISTRY.get(raw["type"])
    references = [raw.get(field.name) for field in spec.fields if field.reference] if spec else []
    return raw["type"].partition(":")[2] in touched or any(
        one in touched for one in references if isinstance(one, str)
    )


class _Comparison:
    def __init__(self, old: Sequence[RawNode], new: Sequence[RawNode]) -> None:
        self.old = {raw["id"]: raw for raw in old}
        self.new = {raw["id"]: raw for raw in new}

    def run(self) -> Iterator[Difference]:
        for node_id, before in self.old.items():
            if node_id not in self.new or self.new[node_id]["type"] != before["type"]:
                yield self._of("removed", before, self._place(before, self.old))
        for node_id, now in self.new.items():
            before_or_none = self.old.get(node_id)
            if before_or_none is None or before_or_none["type"] != now["type"]:
                yield self._of("added", now, self._place(now, self.new))
            else:
                yield from self._changes(before_or_none, now)

    def _of(self, kind: Kind, raw: RawNode, text: str = "", property: str = "") -> Difference:
        return Difference(kind, raw["id"], _label(raw), text, text_of(raw, "z"), property)

    def _place(self, raw: RawNode, nodes: Mapping[str, RawNode]) -> str:
        place = nodes.get(text_of(raw, "z"))
        return f"on {_label(place)}" if place else ""

    def _changes(self, before: RawNode, now: RawNode) -> Iterator[Difference]:
        if _name(before) != _name(now):
            yield self._of("renamed", now, f'it was "{_name(before)}"', "name")
        if text_of(before, "z") != text_of(now, "z"):
            yield self._of("moved", now, self._place(now, self.new) or "to no tab", "z")
        if _is_off(before) != _is_off(now):
            yield self._of("disabled" if _is_off(now) else "enabled", now)
        for name in dict.fromkeys([*before, *now]):
            if name not in _OWN and _undrawn(before.get(name, _ABSENT)) != _undrawn(now.get(name, _ABSENT)):
                text = _values(now, name, before.get(name, _ABSENT), now.get(name, _ABSENT))
                yield self._of("changed", now, text, name)
        if now.get("credentials"):
            yield self._of("changed", now, "its credentials", "credentials")
        for text in self._wires(before, now):
            yield self._of("rewired", now, text, "wires")
        if (names := _drawn(before, now)) and now["type"] != "tab":
            yield self._of("drawn", now, names)
        elif names:
            yield self._of("changed", now, names)

    def _wires(self, before: RawNode, now: RawNode) -> Iterator[str]:
        ports = max(len(list_of(before, "wires")), len(list_of(now, "wires")))
        for port in range(ports):
            was, are = _port(before, port), _port(now, port)
            for target in are:
                if target not in was:
                    yield f"output {port + 1} now leads to {self._target(target)}"
            for target in was:
                if target not in are:
                    yield f"output {port + 1} no longer leads to {self._target(target)}"

    def _target(self, node_id: str) -> str:
        raw = self.new.get(node_id) or self.old.get(node_id)
        return _label(raw) if raw else f'"{node_id}"'


_ABSENT: Final = object()


def _name(raw: RawNode) -> str:
    return text_of(raw, "label" if raw["type"] == "tab" else "name")


def _label(raw: RawNode) -> str:
    return f'{raw["type"]} "{_name(raw) or raw["id"]}"'


def _is_off(raw: RawNode) -> bool:
    return bool(raw.get("disabled") if raw["type"] == "tab" else raw.get("d"))


def _port(raw: RawNode, port: int) -> list[str]:
    wires = list_of(raw, "wires")
    targets = wires[port] if port < len(wires) else []
    return [target for target in targets if isinstance(target, str)] if isinstance(targets, list) else []


def _undrawn(value: Any) -> Any:
    """Without the positions that inputs and outputs of a subflow have."""
    if not isinstance(value, list):
        return value
    return [
        {k: v for k, v in item.items() if k not in ("x", "y")} if isinstance(item, dict) else item
        for item in value
    ]


def _drawn(before: RawNode, now: RawNode) -> str:
    names = [name for name in sorted({*DRAWN, "g"}) if before.get(name) != now.get(name)]
    return f"{', '.join(names)}"


def _values(raw: RawNode, name: str, before: Any, now: Any) -> str:
    """`name old → new`, for code how many lines, for secrets neither."""
    spec = REGISTRY.get(raw["type"])
    if spec and any(field.name == name and field.credential for field in spec.fields):
        return f"{name} (a secret)"
    if any(isinstance(value, str) and "\n" in value for value in (before, now)):
        return f"{name}: {_lines(_text(before), _text(now))}"
    return f"{name} {_shown(before)} → {_shown(now)}"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _lines(before: str, now: str) -> str:
    changes = list(difflib.ndiff(before.splitlines(), now.splitlines()))
    added, removed = (sum(line.startswith(sign) for line in changes) for sign in ("+ ", "- "))
    return f"{added} line{'' if added == 1 else 's'} added, {removed} removed"


def _shown(value: Any) -> str:
    if value is _ABSENT:
        return "(not set)"
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
