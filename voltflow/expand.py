"""A flow as it runs: subflow instances replaced by what is in them, junctions and links by wires, what is off left out.

An inner node of a subflow instance has the id `INSTANCE-NODE`, as in Node-RED.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

RawNode = dict[str, Any]

STRUCTURE = frozenset({"tab", "group", "comment", "subflow", "junction"})
"""Types that say how a flow is drawn, or that are gone when it runs."""
SUBFLOW = "subflow:"


class ExpandError(ValueError):
    """A flow cannot be expanded; `node_id` is the node at fault."""

    def __init__(self, node_id: str, text: str) -> None:
        super().__init__(text)
        self.node_id = node_id


@dataclass(frozen=True)
class Part:
    """A node as it runs. `raw` has its id and wires as they are then; `source_id` is the node's id in the file.

    `tab`: the tab, or the subflow instance it is in; `groups`: those it is in, the innermost first; `env`: the variables
    of its groups, subflow and tab, by name.
    """

    raw: RawNode
    source_id: str
    tab: str
    groups: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)

    @property
    def id(self) -> str:
        return str(self.raw["id"])

    @property
    def type(self) -> str:
        return str(self.raw["type"])


@dataclass(frozen=True)
class Expanded:
    """All parts by id, in the order of the file. `instances`: subflow instances by id, as parts of what they are in."""

    parts: dict[str, Part]
    instances: dict[str, Part]


def expand(nodes: list[RawNode]) -> Expanded:
    """Raises ExpandError where a subflow is missing or contains itself."""
    return _Expansion(nodes).run()


def active(nodes: list[RawNode]) -> Iterator[RawNode]:
    """The nodes that do something and are not disabled, themselves or by their tab; those inside of subflows too."""
    off = {raw["id"] for raw in nodes if raw["type"] == "tab" and raw.get("disabled")}
    for raw in nodes:
        if raw["type"] not in STRUCTURE and not raw.get("d") and text_of(raw, "z") not in off:
            yield raw


def text_of(raw: RawNode, name: str) -> str:
    """A property that is a text; empty where it is none."""
    value = raw.get(name)
    return value if isinstance(value, str) else ""


def list_of(raw: Mapping[str, Any], name: str) -> list[Any]:
    """A property that is a list; empty where it is none."""
    value = raw.get(name)
    return value if isinstance(value, list) else []


def _ports(raw: Mapping[str, Any], name: str) -> Iterator[list[dict[str, Any]]]:
    """The inputs or outputs of a subflow, each the wires to what is in it."""
    for port in list_of(raw, name):
        wires = list_of(port, "wires") if isinstance(port, dict) else []
        yield [wire for wire in wires if isinstance(wire, dict) and isinstance(wire.get("id"), str)]


class _Expansion:
    def __init__(self, nodes: list[RawNode]) -> None:
        self.subflows = {raw["id"]: raw for raw in nodes if raw["type"] == "subflow"}
        self.tabs = {raw["id"]: raw for raw in nodes if raw["type"] == "tab"}
        self.groups = {raw["id"]: raw for raw in nodes if raw["type"] == "group"}
        self.off = {raw["id"] for raw in nodes if raw.get("d")}
        self.inside: dict[str, list[RawNode]] = {id: [] for id in self.subflows}
        self.top: list[RawNode] = []
        self.junctions: dict[str, RawNode] = {}
        for raw in nodes:
            if raw["type"] == "junction":
                self.junctions[raw["id"]] = raw
        for raw in [*active(nodes), *self.junctions.values()]:
            self.inside.get(text_of(raw, "z"), self.top).append(raw)
        self.instances: dict[str, Part] = {}

    def run(self) -> Expanded:
        parts: dict[str, Part] = {}
        for raw in self.top:
            for part in self._parts_of(raw, str(raw["id"]), text_of(raw, "z"), self._tab_env(raw), ()):
                parts[part.id] = part
        _link(parts)
        return Expanded(_without_junctions(parts), self.instances)

    def _tab_env(self, raw: RawNode) -> Mapping[str, str]:
        return _env_of(self.tabs.get(text_of(raw, "z"), {}))

    def _parts_of(
        self, raw: RawNode, source_id: str, tab: str, env: Mapping[str, str], above: tuple[str, ...]
    ) -> Iterator[Part]:
        groups = tuple(self._groups_of(raw))
        env = ChainMap(*(dict(_env_of(self.groups[id])) for id in groups), dict(env))
        part = Part(raw, source_id, tab, groups, env)
        if raw["type"].startswith(SUBFLOW):
            yield from self._inner(part, above)
        else:
            yield part

    def _groups_of(self, raw: RawNode) -> Iterator[str]:
        seen: set[str] = set()
        id = text_of(raw, "g")
        while id in self.groups and id not in seen:
            seen.add(id)
            yield id
            id = text_of(self.groups[id], "g")

    def _inner(self, instance: Part, above: tuple[str, ...]) -> Iterator[Part]:
        """The nodes of a subflow instance, with its wires."""
        subflow_id = instance.type.removeprefix(SUBFLOW)
        definition = self.subflows.get(subflow_id)
        if definition is None:
            raise ExpandError(instance.source_id, f'its subflow "{subflow_id}" is not in the flow')
        if subflow_id in above:
            raise ExpandError(instance.source_id, "the subflow contains itself")
        self.instances[instance.id] = instance
        ids = {raw["id"]: f"{instance.id}-{raw['id']}" for raw in self.inside[subflow_id]}
        env = ChainMap(dict(_env_of(instance.raw)), dict(_env_of(definition)), dict(instance.env))
        yield _entry(instance, definition, ids)
        leaving = _leaving(instance, definition, subflow_id)
        for raw in self.inside[subflow_id]:
            inner = {
                name: _renamed(value, ids) for name, value in raw.items() if name not in {"wires", "z", "g"}
            }
            inner |= {"z": instance.id, "wires": _wires(raw, ids, leaving.get(raw["id"], {}))}
            if "g" in raw:
                inner["g"] = raw["g"]
            yield from self._parts_of(inner, raw["id"], instance.id, env, (*above, subflow_id))


def _entry(instance: Part, definition: RawNode, ids: Mapping[str, str]) -> Part:
    """Stands for the instance's input, with its id, so that wires to it lead on."""
    wires = [ids[wire["id"]] for port in _ports(definition, "in") for wire in port if wire["id"] in ids]
    subflow_id = definition["id"]
    for index, port in enumerate(_ports(definition, "out")):
        if any(wire["id"] == subflow_id for wire in port):
            wires += _port(instance.raw, index)
    return replace(instance, raw={"id": instance.id, "type": "junction", "z": instance.tab, "wires": [wires]})


def _leaving(instance: Part, definition: RawNode, subflow_id: str) -> dict[str, dict[int, list[str]]]:
    """Where wires lead that leave the instance, by inner node and its output."""
    found: dict[str, dict[int, list[str]]] = {}
    for index, port in enumerate(_ports(definition, "out")):
        for wire in port:
            if wire["id"] != subflow_id:
                found.setdefault(wire["id"], {}).setdefault(_number(wire.get("port")), []).extend(
                    _port(instance.raw, index)
                )
    return found


def _wires(raw: RawNode, ids: Mapping[str, str], leaving: Mapping[int, list[str]]) -> list[list[str]]:
    count = max(len(list_of(raw, "wires")), 1 + max(leaving, default=-1))
    return [
        [ids.get(target, target) for target in _port(raw, port)] + leaving.get(port, [])
        for port in range(count)
    ]


def _port(raw: RawNode, port: int) -> list[str]:
    wires = list_of(raw, "wires")
    return _texts(wires[port]) if port < len(wires) else []


def _renamed(value: Any, ids: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        return ids.get(value, value)
    if isinstance(value, list):
        return [_renamed(item, ids) for item in value]
    return value


def _link(parts: dict[str, Part]) -> None:
    """Link out nodes get wires to the link in nodes they name (and those that name them)."""
    named: dict[str, list[str]] = {}
    for part in parts.values():
        if part.type == "link in":
            for id in _texts(part.raw.get("links")):
                named.setdefault(id, []).append(part.id)
    for id, part in list(parts.items()):
        if part.type == "link out" and part.raw.get("mode", "link") == "link":
            links = [*_texts(part.raw.get("links")), *named.get(id, [])]
            wires = [[target for target in dict.fromkeys(links) if target in parts]]
            parts[id] = replace(part, raw={**part.raw, "wires": wires})


def _without_junctions(parts: dict[str, Part]) -> dict[str, Part]:
    def behind(target: str, seen: frozenset[str]) -> Iterator[str]:
        part = parts.get(target)
        if part is None or target in seen:
            return
        if part.type != "junction":
            yield target
            return
        for port in list_of(part.raw, "wires"):
            for further in _texts(port):
                yield from behind(further, seen | {target})

    found = {}
    for id, part in parts.items():
        if part.type == "junction":
            continue
        wires = [
            list(dict.fromkeys(end for target in _texts(port) for end in behind(target, frozenset())))
            for port in list_of(part.raw, "wires")
        ]
        found[id] = replace(part, raw={**part.raw, "wires": wires})
    return found


def _env_of(raw: RawNode) -> dict[str, str]:
    """The variables that a tab, group, subflow or instance declares."""
    return {
        str(item["name"]): _env_text(item)
        for item in list_of(raw, "env")
        if isinstance(item, dict) and item.get("name")
    }


def _env_text(item: Mapping[str, Any]) -> str:
    value = item.get("value", "")
    return str(value).lower() if isinstance(value, bool) else str(value)


def _texts(value: object) -> list[str]:
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []


def _number(value: object) -> int:
    return value if isinstance(value, int) and 0 <= value < 1000 else 0
