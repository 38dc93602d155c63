"""The nodes of a running flow and the ways between them: who gets what a node gives out, fails on, is done with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from voltflow.expand import Part
from voltflow.message import Msg
from voltflow.node import Node
from voltflow.sink_queue import Transaction


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
        self._instances = instances
        self._plans: dict[str, tuple[Step, ...]] = {}
        self._heard: dict[tuple[str, str], tuple[str, ...]] = {}

    def tab_of(self, node_id: str) -> str:
        """The tab a node is on, also through subflow instances."""
        tab = self.nodes[node_id].part.tab
        while tab in self._instances:
            tab = self._instances[tab].tab
        return tab

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

    def _find_listeners(self, kind: str, node_id: str) -> list[str]:
        """Where nobody in a subflow listens, its instance is heard by those around it."""
        wired = self.nodes.get(node_id)
        part = wired.part if wired else self._instances.get(node_id)
        while part is not None:
            near = [listener for listener in self._kinds[kind] if listener.tab == part.tab]
            if kind == "complete":
                found = [p.id for p in near if part.source_id in p.raw.get("scope", [])]
            else:
                found = _in_scope(near, part)
            if found:
                return found
            part = self._instances.get(part.tab)
        return []


def _in_scope(listeners: list[Part], part: Part) -> list[str]:
    """Those that name the node; of those of a group only the innermost; `uncaught` ones where no other does."""
    plain = [item for item in listeners if not item.raw.get("uncaught")]
    found = [item.id for item in plain if _names(item.raw.get("scope"), part)]
    grouped = [item for item in plain if item.raw.get("scope") == "group"]
    for group in part.groups:
        of_group = [item.id for item in grouped if item.groups[:1] == (group,)]
        if of_group:
            found += of_group
            break
    return found or [item.id for item in listeners if item.raw.get("uncaught")]


def _names(scope: object, part: Part) -> bool:
    if isinstance(scope, list):
        return part.source_id in scope or part.id in scope
    return scope in (None, "")
