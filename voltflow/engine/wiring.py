"""The nodes of a running flow and the ways between them: who gets what a node gives out, fails on, is done with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from voltflow.engine.sink_queue import Transaction
from voltflow.flow.expand import STATUS, Part, list_of
from voltflow.message import Msg
from voltflow.node import ConfigNode, Node


@dataclass(frozen=True)
class Wired:
    """A running node and where its output ports lead: `targets[port]` are node ids. `part` is what the flow says of it."""

    node: Node
    targets: tuple[tuple[str, ...], ...]
    part: Part


class Line(Protocol):
    """Where a batch is put that a node does not answer at once: a sink's queue, a worker's, what a node holds."""

    @property
    def empty(self) -> bool:
        """Whether nothing is on its way in it."""
        ...

    def put(self, msgs: list[Msg], transaction: Transaction) -> None: ...


@dataclass(frozen=True)
class Step:
    """One node of a plan; `line` is None for a node that answers at once."""

    node_id: str
    node: Node
    targets: tuple[tuple[str, ...], ...]
    line: Line | None


LISTENERS = frozenset({"catch", "status", "complete"})


class Wiring:
    """One deployed flow. `nodes` are in topological order, config nodes first."""

    def __init__(
        self, nodes: dict[str, Wired], lines: Mapping[str, Line], instances: Mapping[str, Part]
    ) -> None:
        self.nodes = nodes
        self.lines = lines
        self.instances = instances
        self._plans: dict[str, tuple[Step, ...]] = {}
        self._heard: dict[tuple[str, str], tuple[str, ...]] = {}

    def tab_of(self, node_id: str) -> str:
        """The tab a node is on, also through subflow instances."""
        around = self.around(self.nodes[node_id].part)
        return around[-1].tab if around else self.nodes[node_id].part.tab

    def around(self, part: Part) -> list[Part]:
        """The subflow instances a node is in, the innermost first."""
        found: list[Part] = []
        while part.tab in self.instances:
            part = self.instances[part.tab]
            found.append(part)
        return found

    def flows_around(self, part: Part) -> tuple[str, ...]:
        """The ids of the flows that a node's own is in, the innermost first."""
        return tuple(instance.tab for instance in self.around(part))

    def place(self, node: Node) -> None:
        """Tell a node what the flow calls it and where it is drawn, for what it says to people."""
        part = self.nodes[node.id].part
        instances = [instance.source_id for instance in self.around(part)]
        node.name = str(part.raw.get("name", ""))
        node.path = "/".join([self.tab_of(node.id), *reversed(instances)])
        node.drawn_as = part.source_id

    def plan(self, node_id: str) -> tuple[Step, ...]:
        """What messages from a node's outputs can reach, in topological order."""
        plan = self._plans.get(node_id)
        if plan is None:
            plan = self._plans[node_id] = tuple(self._plan(node_id))
        return plan

    def _plan(self, start: str) -> Iterator[Step]:
        reached = {target for port in self.nodes[start].targets for target in port}
        for node_id, wired in self.nodes.items():
            if node_id not in reached:
                continue
            line = self.lines.get(node_id)
            yield Step(node_id, wired.node, wired.targets, line)
            if line is None:
                reached.update(target for port in wired.targets for target in port)

    def listeners(self, kind: str, node_id: str) -> tuple[str, ...]:
        """The `catch`, `status` or `complete` nodes that hear of a node, by id."""
        if kind not in self._kinds:
            return ()
        found = self._heard.get((kind, node_id))
        if found is None:
            found = self._heard[kind, node_id] = tuple(self._find_listeners(kind, node_id))
        return found

    @cached_property
    def _kinds(self) -> dict[str, list[Part]]:
        kinds: dict[str, list[Part]] = {}
        for wired in self.nodes.values():
            if wired.part.type in LISTENERS:
                kinds.setdefault(wired.part.type, []).append(wired.part)
        return kinds

    def _find_listeners(self, kind: str, node_id: str) -> Iterator[str]:
        wired = self.nodes.get(node_id)
        part = wired.part if wired else self.instances.get(node_id)
        if part is None:
            return
        if kind == "complete":
            yield from (item.id for item in self._kinds[kind] if part.id in completes(item))
        elif wired is not None and isinstance(wired.node, ConfigNode) and not part.tab:
            yield from dict.fromkeys(
                listener for user in self._users(node_id) for listener in self._around(kind, user)
            )
        else:
            yield from self._around(kind, part)

    def _around(self, kind: str, part: Part | None) -> list[str]:
        """Who hears of a node: where nobody in a subflow does, those around its instance hear of that."""
        while part is not None:
            found = _in_scope([item for item in self._kinds[kind] if item.tab == part.tab], part)
            if found:
                return found
            if kind == "status" and f"{part.tab}:{STATUS}" in self.nodes:
                return []  # the subflow says itself what stands below its instances
            part = self.instances.get(part.tab)
        return []

    def _users(self, config_id: str) -> Iterator[Part]:
        """The nodes that refer to a config node."""
        for wired in self.nodes.values():
            fields = wired.node.spec.fields
            if any(field.reference and wired.part.raw.get(field.name) == config_id for field in fields):
                yield wired.part


def completes(listener: Part) -> set[str]:
    """The nodes a `complete` node is for; not those it is wired to itself, as in Node-RED."""
    wired = {target for port in list_of(listener.raw, "wires") for target in port}
    return {id for id in list_of(listener.raw, "scope") if isinstance(id, str)} - wired


def _in_scope(listeners: list[Part], part: Part) -> list[str]:
    """Those that hear of a node, in Node-RED's order: of the nearest group first, and there who chose nodes. `uncaught`
    ones hear of what nobody before them does."""
    near = [(distance, item) for item in listeners if (distance := _distance(item, part)) is not None]
    near.sort(key=lambda found: (found[0], found[1].raw.get("scope") is None, _is_last(found[1])))
    heard: list[str] = []
    unheard = False
    for _, item in near:
        if item.raw.get("uncaught") and not unheard:
            if heard:
                continue
            unheard = True
        heard.append(item.id)
    return heard


def _is_last(listener: Part) -> bool:
    return listener.raw.get("scope") is None and bool(listener.raw.get("uncaught"))


def _distance(listener: Part, part: Part) -> int | None:
    """Groups between a node and who listens; None where that does not listen to it."""
    scope = listener.raw.get("scope")
    if isinstance(scope, list) and part.id not in scope:
        return None
    if listener.groups and listener.groups[0] in part.groups:
        return part.groups.index(listener.groups[0])
    return None if scope == "group" and listener.groups else len(part.groups)
