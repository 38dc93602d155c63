"""Flows in Node-RED's own format: read, check, build, write back unchanged.

A flow file is a flat JSON array of tabs, config nodes and nodes with `wires`. What Voltflow does not know of it is
kept, in its order, when the flow is written.
"""

from __future__ import annotations

import graphlib
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from voltflow.flow_lines import NodeLines, lines_of
from voltflow.node import (
    REGISTRY,
    ConfigError,
    ConfigNode,
    DeadLetterSink,
    Field,
    Node,
    NodeSpec,
    Source,
    VariableMissing,
)

STRUCTURE = frozenset({"tab", "group", "comment"})
"""Types that say how a flow is drawn, not what it does."""

JAVASCRIPT = frozenset({"function", "exec"})

RawNode = dict[str, Any]


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a flow, for a person: which node, which line of the file, what to do."""

    node_id: str
    label: str
    text: str
    severity: Literal["error", "warning"] = "error"
    line: int | None = None

    def __str__(self) -> str:
        where = f"line {self.line}: " if self.line else ""
        return f"{self.severity}: {where}{self.label}: {self.text}"


class FlowError(ValueError):
    """A flow cannot run; `problems` says why."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("; ".join(str(problem) for problem in problems))
        self.problems = problems


@dataclass(frozen=True)
class Wired:
    """A running node and where its output ports lead: `targets[port]` are node ids."""

    node: Node
    targets: tuple[tuple[str, ...], ...]


class Flow:
    """A flow as its file has it."""

    def __init__(self, nodes: list[RawNode], text: str | None = None) -> None:
        self.nodes = nodes
        self._text = text

    @classmethod
    def parse(cls, text: str) -> Flow:
        """From the text of a flow file; raises FlowError naming the line where it is not JSON or not a flow."""
        try:
            nodes = json.loads(text)
        except json.JSONDecodeError as error:
            raise FlowError([Problem("", "flow file", f"not JSON: {error.msg}", line=error.lineno)]) from None
        except RecursionError:
            raise FlowError([Problem("", "flow file", "not a flow: nested too deeply")]) from None
        if not isinstance(nodes, list):
            raise FlowError(
                [
                    Problem(
                        "",
                        "flow file",
                        "a flow is a JSON array of nodes, as Node-RED exports it",
                    )
                ]
            )
        for index, item in enumerate(nodes):
            if not isinstance(item, dict) or not all(isinstance(item.get(k), str) for k in ("id", "type")):
                raise FlowError(
                    [
                        Problem(
                            "",
                            f"entry {index}",
                            'a node is an object with the texts "id" and "type"',
                        )
                    ]
                )
        return cls(nodes, text)

    @classmethod
    def load(cls, path: Path) -> Flow:
        """From a file."""
        return cls.parse(path.read_text(encoding="utf-8-sig"))

    def dumps(self) -> str:
        """The text of the flow file, indented as Node-RED writes it; unknown fields and all orders are kept."""
        return json.dumps(self.nodes, indent=4, ensure_ascii=False)

    @cached_property
    def revision(self) -> str:
        """12 hex digits that change with the flow."""
        compact = json.dumps(self.nodes, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(compact.encode(errors="surrogatepass")).hexdigest()[:12]

    def check(self, env: Mapping[str, str], *, elsewhere: bool = False) -> list[Problem]:
        """Everything that is wrong with the flow, in the order of the file; empty when it can run.

        `elsewhere`: it is to run in another environment, so a variable that is not set here is only a warning.
        """
        return _Checker(self, env, elsewhere).problems()

    def build(self, env: Mapping[str, str]) -> dict[str, Wired]:
        """The enabled nodes by id, in topological order (config nodes first); raises FlowError."""
        errors = [problem for problem in self.check(env) if problem.severity == "error"]
        if errors:
            raise FlowError(errors)
        by_id = {raw["id"]: raw for raw in self.active()}
        order = graphlib.TopologicalSorter(_predecessors(by_id)).static_order()
        built = {
            node_id: Wired(
                REGISTRY[by_id[node_id]["type"]].build(node_id, by_id[node_id], env),
                tuple(tuple(t for t in port if t in by_id) for port in by_id[node_id].get("wires", [])),
            )
            for node_id in order
        }
        return dict(sorted(built.items(), key=lambda item: not isinstance(item[1].node, ConfigNode)))

    def active(self) -> Iterator[RawNode]:
        """The nodes that do something and are not disabled, themselves or by their tab."""
        off = [raw["id"] for raw in self.nodes if raw["type"] == "tab" and raw.get("disabled")]
        for raw in self.nodes:
            if raw["type"] not in STRUCTURE and not raw.get("d") and raw.get("z") not in off:
                yield raw

    def line_of(self, raw: RawNode, name: str | None = None) -> int | None:
        """The line of the file where a node of this flow, or a property of it, stands."""
        if self._text is None:
            return None
        index = next((i for i, other in enumerate(self.nodes) if other is raw), None)
        if index is None:
            return None
        lines = self._lines[index]
        return lines.properties.get(name or "id", lines.properties.get("id", lines.start))

    @cached_property
    def _lines(self) -> list[NodeLines]:
        return lines_of(self._text or "[]")


def _predecessors(by_id: Mapping[str, RawNode]) -> dict[str, list[str]]:
    graph: dict[str, list[str]] = {node_id: [] for node_id in by_id}
    for node_id, raw in by_id.items():
        for target in _targets(raw):
            if target in graph:
                graph[target].append(node_id)
    return graph


def _targets(raw: RawNode) -> Iterator[str]:
    wires = raw.get("wires")
    for port in wires if isinstance(wires, list) else ():
        yield from (target for target in (port if isinstance(port, list) else ()) if isinstance(target, str))


class _Values(Node):
    """Takes whatever values a node type is given."""

    def __init__(self, **values: Any) -> None:
        self.values = values


class _Checker:
    """Looks for what is wrong in one flow."""

    def __init__(self, flow: Flow, env: Mapping[str, str], elsewhere: bool) -> None:
        self.flow = flow
        self.env = env
        self.elsewhere = elsewhere
        self.all_ids = {raw["id"]: raw for raw in flow.nodes}
        self.active = {raw["id"]: raw for raw in flow.active()}

    def problems(self) -> list[Problem]:
        found = list(self._double_ids())
        for raw in self.active.values():
            found += self._node(raw)
        found += self._cycles()
        found += self._dead_letters()
        return found

    def _problem(self, raw: RawNode, text: str, name: str | None = None, *, warning: bool = False) -> Problem:
        label = f"{raw['type']} {raw.get('name') or raw['id']!r}"
        return Problem(
            raw["id"],
            label,
            text,
            "warning" if warning else "error",
            self.flow.line_of(raw, name),
        )

    def _double_ids(self) -> Iterator[Problem]:
        seen: set[str] = set()
        for raw in self.flow.nodes:
            if raw["id"] in seen:
                yield self._problem(raw, "another node has the same id; give each its own")
            seen.add(raw["id"])

    def _node(self, raw: RawNode) -> Iterator[Problem]:
        spec = REGISTRY.get(raw["type"])
        if raw["type"] in JAVASCRIPT:
            yield self._problem(
                raw,
                "JavaScript and commands are not run here; use the battery nodes or remove it",
            )
        elif spec is None:
            known = ", ".join(sorted(REGISTRY))
            yield self._problem(raw, f'unknown type "{raw["type"]}"; there are: {known}', "type")
        else:
            yield from self._configuration(raw, spec)
            yield from self._wires(raw, spec)

    def _configuration(self, raw: RawNode, spec: NodeSpec) -> Iterator[Problem]:
        """Each property by itself, so that all wrong ones are named; the rules of the node where none is."""
        wrong = False
        for field in spec.fields:
            try:
                built = replace(spec, cls=_Values, fields=(field,)).build(raw["id"], raw, self.env)
            except ConfigError as error:
                wrong = True
                missing_here = isinstance(error, VariableMissing) and self.elsewhere
                yield self._problem(raw, str(error), field.name, warning=missing_here)
            else:
                assert isinstance(built, _Values)
                yield from self._reference(raw, field, built.values.get(field.attribute, field.default))
        if wrong:
            return
        try:
            spec.build(raw["id"], raw, self.env)
        except ConfigError as error:
            name = re.match(r'property "([^"]+)"', str(error))
            yield self._problem(raw, str(error), name[1] if name else None)

    def _reference(self, raw: RawNode, field: Field, target: Any) -> Iterator[Problem]:
        if field.reference is None or not target:
            return
        if target not in self.all_ids:
            text = f'property "{field.name}": config node "{target}" is not in the flow'
            yield self._problem(raw, text, field.name)
        elif target not in self.active:
            text = f'property "{field.name}": config node "{target}" is disabled'
            yield self._problem(raw, text, field.name)
        elif self.all_ids[target]["type"] != field.reference:
            text = f'property "{field.name}": "{target}" is a {self.all_ids[target]["type"]}, not a {field.reference}'
            yield self._problem(raw, text, field.name)

    def _wires(self, raw: RawNode, spec: NodeSpec) -> Iterator[Problem]:
        wires = raw.get("wires", [])
        if not isinstance(wires, list) or not all(
            isinstance(port, list) and all(isinstance(target, str) for target in port) for port in wires
        ):
            yield self._problem(
                raw,
                '"wires" is a list of lists of node ids, one for each output',
                "wires",
            )
            return
        for port, targets in enumerate(wires):
            if targets and port >= spec.outputs:
                yield self._problem(
                    raw,
                    f"a wire leaves output {port + 1}, but it has {spec.outputs}",
                    "wires",
                )
            for target in targets:
                yield from self._wire(raw, target)

    def _wire(self, raw: RawNode, target: str) -> Iterator[Problem]:
        if target not in self.all_ids:
            yield self._problem(raw, f'a wire leads to "{target}", which is not in the flow', "wires")
            return
        spec = REGISTRY.get(self.all_ids[target]["type"])
        if spec is not None and spec.inputs == 0:
            yield self._problem(raw, f'a wire leads to "{target}", which has no input', "wires")

    def _cycles(self) -> Iterator[Problem]:
        try:
            graphlib.TopologicalSorter(_predecessors(self.active)).prepare()
        except graphlib.CycleError as error:
            path = list(reversed(error.args[1]))
            yield self._problem(
                self.active[path[0]],
                f"the wires form a cycle: {' → '.join(path)}",
                "wires",
            )

    def _dead_letters(self) -> Iterator[Problem]:
        specs = [REGISTRY.get(raw["type"]) for raw in self.active.values()]
        if any(spec and issubclass(spec.cls, Source) for spec in specs) and not any(
            spec and issubclass(spec.cls, DeadLetterSink) for spec in specs
        ):
            text = "no dead letter node: a message that a node fails on is logged, counted and dropped"
            yield Problem("", "flow", text, "warning")
