"""A flow as it runs: subflow instances replaced by what is in them, junctions and links by wires, what is off left out.

An inner node of a subflow instance has the id `INSTANCE-NODE`, as in Node-RED.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from voltflow.flow.environment import Declared, declare
from voltflow.node import REGISTRY

RawNode = dict[str, Any]

STRUCTURE = frozenset({"tab", "group", "comment", "subflow", "junction", "global-config"})
"""Types that say how a flow is drawn, or that are gone when it runs."""
SUBFLOW = "subflow:"
STATUS = "subflow-status"
"""The type of the node that an instance has for its subflow's status output; its id is `INSTANCE:subflow-status`."""
MOST_PARTS = 100_000
"""Nodes of a flow as it runs: subflows within each other double with each level, and a small file must not fill the memory."""
MOST_ENDS = 10_000
"""Wires that one output may have when junctions are taken out, for the same reason."""


class ExpandError(ValueError):
    """A flow cannot be expanded; `node_id` is the node at fault."""

    def __init__(self, node_id: str, text: str) -> None:
        super().__init__(text)
        self.node_id = node_id


@dataclass(frozen=True)
class Part:
    """A node as it runs. `raw` has its id and wires as they are then; `source_id` is the node's id in the file.

    `tab`: the tab, or the subflow instance it is in; `groups`: those it is in, the innermost first; `env`: what its groups,
    subflows and tab declare (`voltflow.flow.environment`); `entries`: the nodes that get what comes into a subflow instance;
    `path`: its tab, the subflow instances it is in and itself, by their ids in the file.
    """

    raw: RawNode
    source_id: str
    tab: str
    groups: tuple[str, ...] = ()
    env: Declared = field(default_factory=dict)
    entries: tuple[str, ...] = ()
    path: str = ""

    @property
    def id(self) -> str:
        return str(self.raw["id"])

    @property
    def type(self) -> str:
        return str(self.raw["type"])

    @property
    def variables(self) -> dict[str, str]:
        """What it may name: all that is declared, and what it is called itself."""
        names = {"NR_NODE_ID": self.id, "NR_NODE_NAME": text_of(self.raw, "name"), "NR_NODE_PATH": self.path}
        return {**self.env, **names}


@dataclass(frozen=True)
class Expanded:
    """All parts by id, in the order of the file. `instances`: subflow instances by id, as parts of what they are in."""

    parts: dict[str, Part]
    instances: dict[str, Part]


def expand(nodes: list[RawNode]) -> Expanded:
    """Raises ExpandError where a subflow is missing or contains itself, or where it would become too many nodes.

    >>> flow = [
    ...     {"id": "a", "type": "x", "wires": [["j"]]},
    ...     {"id": "j", "type": "junction", "wires": [["b", "b"]]},
    ...     {"id": "b", "type": "x", "wires": []},
    ... ]
    >>> expand(flow).parts["a"].raw["wires"]
    [['b', 'b']]
    """
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
        self.subflows = _of_type(nodes, "subflow")
        self.groups = _of_type(nodes, "group")
        everywhere = declare({}, *(list_of(raw, "env") for raw in nodes if raw["type"] == "global-config"))
        self.tabs = {
            id: declare(
                everywhere,
                list_of(raw, "env"),
                names={"NR_FLOW_ID": id, "NR_FLOW_NAME": text_of(raw, "label")},
            )
            for id, raw in _of_type(nodes, "tab").items()
        }
        self.everywhere = everywhere
        self.inside: dict[str, list[RawNode]] = {id: [] for id in self.subflows}
        self.top: list[RawNode] = []
        junctions = (raw for raw in nodes if raw["type"] == "junction" and not raw.get("d"))
        for raw in [*active(nodes), *junctions]:
            self.inside.get(text_of(raw, "z"), self.top).append(raw)
        self.instances: dict[str, Part] = {}

    def run(self) -> Expanded:
        parts: dict[str, Part] = {}
        for raw in self.top:
            tab = text_of(raw, "z")
            env = self.tabs.get(tab, self.everywhere)
            for part in self._parts_of(raw, str(raw["id"]), tab, env, (), tab or "global"):
                parts[part.id] = part
                if len(parts) > MOST_PARTS:
                    raise ExpandError(raw["id"], f"with it the flow has more than {MOST_PARTS:,} nodes")
        _link(parts)
        instances = {id: replace(item, entries=_entries(parts, id)) for id, item in self.instances.items()}
        return Expanded(_without_junctions(parts), instances)

    def _parts_of(
        self, raw: RawNode, source_id: str, tab: str, env: Declared, above: tuple[str, ...], path: str
    ) -> Iterator[Part]:
        groups = tuple(self._groups_of(raw))
        for id in reversed(groups):
            own_id = f"{tab}-{id}" if tab in self.instances else id
            names = {"NR_GROUP_ID": own_id, "NR_GROUP_NAME": text_of(self.groups[id], "name")}
            env = declare(env, list_of(self.groups[id], "env"), names=names)
        part = Part(raw, source_id, tab, groups, env, path=f"{path}/{source_id}")
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
        names = {
            "NR_SUBFLOW_ID": instance.id,
            "NR_SUBFLOW_NAME": text_of(instance.raw, "name"),
            "NR_SUBFLOW_PATH": instance.path,
        }
        env = declare(instance.env, list_of(definition, "env"), list_of(instance.raw, "env"), names=names)
        leaving = _leaving(instance, definition, subflow_id)
        ends = []
        if isinstance(definition.get("status"), dict):
            status = {"id": f"{instance.id}:{STATUS}", "type": STATUS, "z": instance.id, "wires": []}
            yield Part(status, instance.source_id, instance.id, env=env, path=instance.path)
            ends = _lead_to_status(str(status["id"]), definition, leaving)
        yield _entry(instance, definition, ids, ends)
        for raw in self.inside[subflow_id]:
            wires = _wires(raw, ids, leaving.get(raw["id"], {}))
            inner = {**_renamed(raw, ids), "z": instance.id, "wires": wires}
            yield from self._parts_of(inner, raw["id"], instance.id, env, (*above, subflow_id), instance.path)


def _of_type(nodes: Iterable[RawNode], kind: str) -> dict[str, RawNode]:
    return {raw["id"]: raw for raw in nodes if raw["type"] == kind}


def _lead_to_status(
    status_id: str, definition: RawNode, leaving: dict[str, dict[int, list[str]]]
) -> list[str]:
    """Add the wires to the status output; those that come from the subflow's input are returned."""
    ends = []
    for wire in next(_ports({"status": [definition["status"]]}, "status")):
        if wire["id"] == definition["id"]:
            ends.append(status_id)
        else:
            leaving.setdefault(wire["id"], {}).setdefault(_number(wire.get("port")), []).append(status_id)
    return ends


def _entry(instance: Part, definition: RawNode, ids: Mapping[str, str], further: list[str]) -> Part:
    """Stands for the instance's input, with its id, so that wires to it lead on."""
    wires = [ids[wire["id"]] for port in _ports(definition, "in") for wire in port if wire["id"] in ids]
    subflow_id = definition["id"]
    for index, port in enumerate(_ports(definition, "out")):
        if any(wire["id"] == subflow_id for wire in port):
            wires += _port(instance.raw, index)
    wires += further
    return replace(instance, raw={"id": instance.id, "type": "junction", "z": instance.tab, "wires": [wires]})


def _entries(parts: Mapping[str, Part], instance_id: str) -> tuple[str, ...]:
    """Where what comes into an instance goes first; also outside of it, where it is led through."""
    entry = parts[instance_id]
    wires = [target for port in list_of(entry.raw, "wires") for target in _texts(port)]
    return tuple(dict.fromkeys(_ends(entry, wires, parts)))


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
        [ids[target] for target in _port(raw, port) if target in ids] + leaving.get(port, [])
        for port in range(count)
    ]


def _port(raw: RawNode, port: int) -> list[str]:
    wires = list_of(raw, "wires")
    return _texts(wires[port]) if port < len(wires) else []


def _renamed(raw: RawNode, ids: Mapping[str, str]) -> RawNode:
    """The node with the ids of its instance. Of a known type only what refers to nodes: a topic may be called as a node
    is. Of another one every text that is an id, as in Node-RED."""
    spec = REGISTRY.get(raw["type"])
    if spec is None:
        refers = set(raw) - {"type", "name", "g", "info"}
    else:
        refers = {
            "id",
            "links",
            "scope",
            *(field.name for field in spec.fields if field.reference is not None),
        }
    return {name: _mapped(value, ids) if name in refers else value for name, value in raw.items()}


def _mapped(value: Any, ids: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        return ids.get(value, value)
    return [_mapped(item, ids) for item in value] if isinstance(value, list) else value


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
    found = {}
    for id, part in parts.items():
        if part.type != "junction":
            wires = [list(_ends(part, _texts(port), parts)) for port in list_of(part.raw, "wires")]
            found[id] = replace(part, raw={**part.raw, "wires": wires})
    return found


def _ends(part: Part, targets: list[str], parts: Mapping[str, Part]) -> Iterator[str]:
    """Where the wires of an output end: as often as ways lead there, as in Node-RED. A junction that leads back to itself
    leads nowhere."""
    steps = count = 0
    ways = [(target, frozenset[str]()) for target in reversed(targets)]
    while ways:
        target, passed = ways.pop()
        steps += 1
        found = parts.get(target)
        if found is None or target in passed:
            continue
        if found.type != "junction":
            count += 1
            yield target
        else:
            further = [end for port in list_of(found.raw, "wires") for end in _texts(port)]
            ways += [(end, passed | {target}) for end in reversed(further)]
        if count > MOST_ENDS or steps > 10 * MOST_ENDS:
            raise ExpandError(
                part.source_id, f"through junctions an output has more than {MOST_ENDS:,} wires"
            )


def _texts(value: object) -> list[str]:
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []


def _number(value: object) -> int:
    return value if isinstance(value, int) and 0 <= value < 1000 else 0
