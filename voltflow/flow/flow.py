"""Flows in Node-RED's own format: read, check, build, write back unchanged.

A flow file is a flat JSON array of tabs, config nodes and nodes with `wires`. What Voltflow does not know of it is
kept, in its order, when the flow is written.
"""

from __future__ import annotations

import graphlib
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from voltflow import finite_json
from voltflow.engine.wiring import Wired, completes
from voltflow.flow.environment import NAMES, Environment, declare
from voltflow.flow.expand import (
    SUBFLOW,
    Expanded,
    ExpandError,
    Part,
    RawNode,
    active,
    expand,
    list_of,
    text_of,
)
from voltflow.flow.line_numbers import NodeLines, lines_of
from voltflow.flow.structure import faults
from voltflow.node import (
    REGISTRY,
    ConfigError,
    ConfigNode,
    DeadLetterSink,
    Field,
    Holder,
    Node,
    NodeSpec,
    Sink,
    Source,
    VariableMissing,
    Worker,
)

__all__ = ["Flow", "FlowError", "Problem", "RawNode", "Wired"]

JAVASCRIPT = frozenset({"function", "exec"})

DRAWING = frozenset(
    {"x", "y", "w", "h", "g", "l", "wires", "name", "info", "icon", "inputLabels", "outputLabels"}
)
"""Properties that say nothing of what a node does; wires are the wiring's."""


_OF_INSTANCES = ("NR_SUBFLOW_ID", "NR_SUBFLOW_NAME", "NR_SUBFLOW_PATH", "NR_GROUP_ID", "NR_GROUP_NAME")


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


def digest(nodes: Sequence[RawNode]) -> str:
    """64 hex digits that change with the flow, and not with the order in which a node's properties are written.

    >>> digest([{"id": "a", "type": "tab"}]) == digest([{"type": "tab", "id": "a"}])
    True
    """
    compact = json.dumps(nodes, separators=(",", ":"), ensure_ascii=False, sort_keys=True)
    return hashlib.sha256(compact.encode(errors="surrogatepass")).hexdigest()


class Flow:
    """A flow as its file has it."""

    def __init__(self, nodes: list[RawNode], text: str | None = None) -> None:
        self.nodes = nodes
        self._text = text

    @classmethod
    def parse(cls, text: str) -> Flow:
        """From the text of a flow file; raises FlowError naming the line where it is not JSON or not a flow."""
        try:
            nodes = finite_json.loads(text)
        except json.JSONDecodeError as error:
            raise FlowError([Problem("", "flow file", f"not JSON: {error.msg}", line=error.lineno)]) from None
        except ValueError as error:
            raise FlowError([Problem("", "flow file", f"not JSON: {error}")]) from None
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
        return json.dumps(self.nodes, indent=4, ensure_ascii=False, allow_nan=False)

    @cached_property
    def revision(self) -> str:
        """12 hex digits that change with the flow."""
        return digest(self.nodes)[:12]

    def check(self, env: Mapping[str, str], *, elsewhere: bool = False) -> list[Problem]:
        """Everything that is wrong with the flow, in the order of the file; empty when it can run.

        `elsewhere`: it is to run in another environment, so a variable that is not set here is only a warning.
        """
        return _Checker(self, env, elsewhere).problems()

    @cached_property
    def expanded(self) -> Expanded:
        """The flow as it runs; raises FlowError."""
        try:
            return expand(self.nodes)
        except ExpandError as error:
            raw = next((raw for raw in self.nodes if raw["id"] == error.node_id), None)
            label = self.label_of(raw) if raw else error.node_id
            raise FlowError([Problem(error.node_id, label, str(error))]) from None

    def build(self, env: Mapping[str, str], keep: Mapping[str, Wired] | None = None) -> dict[str, Wired]:
        """The enabled nodes by id, in topological order (config nodes first); raises FlowError.

        Nodes of `keep` are taken over where the flow says nothing else of them and of the config nodes they refer to.
        """
        errors = [problem for problem in self.check(env) if problem.severity == "error"]
        if errors:
            raise FlowError(errors)
        parts = self.expanded.parts
        order = graphlib.TopologicalSorter(_predecessors(parts)).static_order()
        kept = _unchanged(parts, keep or {})
        built: dict[str, Wired] = {}
        for node_id in order:
            part = parts[node_id]
            node = kept[node_id] if node_id in kept else self.make(part, Environment(part.variables, env))
            wires = list_of(part.raw, "wires")
            built[node_id] = Wired(node, tuple(tuple(t for t in port if t in parts) for port in wires), part)
        return dict(sorted(built.items(), key=lambda item: not isinstance(item[1].node, ConfigNode)))

    def make(self, part: Part, env: Mapping[str, str]) -> Node:
        """One node of it; a flow in a test puts others in the place of some."""
        return REGISTRY[part.type].build(part.id, part.raw, env)

    def active(self) -> Iterator[RawNode]:
        """The nodes that do something and are not disabled, themselves or by their tab."""
        return active(self.nodes)

    def label_of(self, raw: RawNode) -> str:
        """A node for people: its type and name, or its type and id and where it is drawn."""
        if name := raw.get("name"):
            return f"{raw['type']} {name!r}"
        return f"{raw['type']} {raw['id']!r}{self.place_of(raw)}"

    def place_of(self, raw: RawNode) -> str:
        """` on "Flow 1"`: the name of the tab or subflow that a node is on, where that has one."""
        of = text_of(raw, "z")
        tab = next((other for other in self.nodes if other["id"] == of), None) if of else None
        name = (text_of(tab, "label") or text_of(tab, "name")) if tab else ""
        return f' on "{name}"' if name else ""

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


def _predecessors(parts: Mapping[str, Part]) -> dict[str, list[str]]:
    """What must come before each node in a plan. A node that answers later begins a plan of its own, so a circle
    through it is none."""
    graph: dict[str, list[str]] = {node_id: [] for node_id in parts}
    for node_id, part in parts.items():
        for target in () if _answers_later(part) else _targets(part.raw):
            if target in graph:
                graph[target].append(node_id)
        if part.type == "complete":  # it is told within the turn in which a node is done
            graph[node_id] += [id for id in completes(part) if id in parts and not _answers_later(parts[id])]
    return graph


def _answers_later(part: Part) -> bool:
    spec = REGISTRY.get(part.type)
    return part.type == "link call" or (spec is not None and issubclass(spec.cls, Worker | Holder | Sink))


def _unchanged(parts: Mapping[str, Part], keep: Mapping[str, Wired]) -> dict[str, Node]:
    """The nodes of `keep` that can go on: a changed config node changes those that refer to it."""
    same = {
        node_id: wired.node
        for node_id, wired in keep.items()
        if node_id in parts and _says_the_same(parts[node_id], wired.part)
    }
    while True:
        changed = {
            node_id
            for node_id in same
            if any(target in parts and target not in same for target in _references(parts[node_id]))
        }
        if not changed:
            return same
        for node_id in changed:
            del same[node_id]


def _says_the_same(one: Part, other: Part) -> bool:
    properties = ({k: v for k, v in part.raw.items() if k not in DRAWING} for part in (one, other))
    return (
        next(properties) == next(properties)
        and _variables(one) == _variables(other)
        and one.groups == other.groups
    )


def _variables(part: Part) -> dict[str, str]:
    """Those that it may depend on. What is called how (`NR_NODE_NAME` …) is a drawing's where a node does not ask for it."""
    variables = part.variables
    if NAMES in json.dumps(part.raw):
        return variables
    return {name: value for name, value in variables.items() if NAMES not in name}


def _references(part: Part) -> Iterator[str]:
    spec = REGISTRY.get(part.type)
    for field in spec.fields if spec else ():
        if field.reference is not None and (target := part.raw.get(field.name)):
            yield str(target)


def _targets(raw: RawNode) -> Iterator[str]:
    wires = raw.get("wires")
    for port in wires if isinstance(wires, list) else ():
        yield from (target for target in (port if isinstance(port, list) else ()) if isinstance(target, str))


class _Values(Node):
    """Takes whatever values a node type is given."""

    def __init__(self, **values: Any) -> None:
        self.values = values

    @classmethod
    def outputs_of(cls, properties: Mapping[str, Any]) -> int:
        return 0


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
        found += (
            self._problem(item.raw, item.text, item.property, warning=item.runs)
            for item in faults(self.flow.nodes)
        )
        for raw in self.active.values():
            found += self._node(raw)
        if not any(problem.severity == "error" for problem in found):
            found += self._expansion()
            found += self._units()
        found += self._dead_letters()
        return found

    def _env_for(self, raw: RawNode) -> Mapping[str, str]:
        """What its variables may name; inside of a subflow those that are declared anywhere in the flow."""
        declared = declare({}, *(
            list_of(other, "env")
            for other in self.flow.nodes
            if other["id"] in (raw.get("z"), raw.get("g")) or other["type"] in ("group", "subflow", "global-config")
        ))  # fmt: skip
        return Environment({}, Environment({**declared, **self._names(raw)}, self.env))

    def _names(self, raw: RawNode) -> dict[str, str]:
        """What it may ask of what it is in, and is called: not all is known of a subflow that is in none."""
        known = Part(raw, raw["id"], text_of(raw, "z")).variables
        flow = self.all_ids.get(text_of(raw, "z"))
        if flow is not None:
            known |= {"NR_FLOW_ID": flow["id"], "NR_FLOW_NAME": text_of(flow, "label")}
        if group := self.all_ids.get(text_of(raw, "g")):
            known |= {"NR_GROUP_ID": group["id"], "NR_GROUP_NAME": text_of(group, "name")}
        if flow is not None and flow["type"] == "subflow":
            known |= dict.fromkeys(_OF_INSTANCES, "")
        return known

    def _problem(self, raw: RawNode, text: str, name: str | None = None, *, warning: bool = False) -> Problem:
        return Problem(
            raw["id"],
            self.flow.label_of(raw),
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
        if raw["type"].startswith(SUBFLOW):
            return
        if raw["type"] in JAVASCRIPT:
            yield self._problem(raw, _instead(raw), "func")
        elif spec is None:
            known = ", ".join(sorted(REGISTRY))
            yield self._problem(raw, f'unknown type "{raw["type"]}"; there are: {known}', "type")
        else:
            yield from self._configuration(raw, spec)
            yield from self._wires(raw, spec)

    def _configuration(self, raw: RawNode, spec: NodeSpec) -> Iterator[Problem]:
        """Each property by itself, so that all wrong ones are named; the rules of the node where none is."""
        wrong, env = False, self._env_for(raw)
        for field in spec.fields:
            try:
                built = replace(spec, cls=_Values, fields=(field,)).build(raw["id"], raw, env)
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
            spec.build(raw["id"], raw, env)
        except ConfigError as error:
            name = re.match(r'property "([^"]+)"', str(error))
            yield self._problem(raw, str(error), name[1] if name else None)

    def _reference(self, raw: RawNode, field: Field, target: Any) -> Iterator[Problem]:
        if field.reference is None:
            return
        if not target:
            if (
                field.required and not raw[field.name]
            ):  # a subflow's variable has its value where that is used
                yield self._problem(raw, f'property "{field.name}": choose one', field.name)
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
        outputs = spec.cls.outputs_of(raw)
        for port, targets in enumerate(wires):
            if targets and port >= outputs:
                yield self._problem(raw, f"a wire leaves output {port + 1}, but it has {outputs}", "wires")
            for target in targets:
                yield from self._wire(raw, target)

    def _wire(self, raw: RawNode, target: str) -> Iterator[Problem]:
        if target not in self.all_ids:
            yield self._problem(raw, f'a wire leads to "{target}", which is not in the flow', "wires")
            return
        spec = REGISTRY.get(self.all_ids[target]["type"])
        if spec is not None and not spec.cls.inputs_of(self.all_ids[target]) and target in self.active:
            yield self._problem(raw, f'a wire leads to "{target}", which has no input', "wires")

    def _expansion(self) -> Iterator[Problem]:
        """What only shows when subflows and links are taken for what they stand for."""
        try:
            parts = self.flow.expanded.parts
            graphlib.TopologicalSorter(_predecessors(parts)).prepare()
        except FlowError as error:
            yield from error.problems
        except graphlib.CycleError as error:
            path = list(reversed(error.args[1]))
            raw = self.all_ids.get(parts[path[0]].source_id, parts[path[0]].raw)
            yield self._problem(
                raw, f"the wires form a cycle: {' → '.join(path)}; a delay node in it would break it", "wires"
            )

    def _units(self) -> Iterator[Problem]:
        from voltflow.flow.units import mismatches  # it reads the contracts of all messages

        try:
            found = mismatches(self.flow.expanded.parts)
        except FlowError:
            return  # `_expansion` has said so
        for part, name, text in dict.fromkeys(
            (item.part.source_id, item.property, item.text) for item in found
        ):
            yield self._problem(self.all_ids[part], text, name, warning=True)

    def _dead_letters(self) -> Iterator[Problem]:
        specs = [REGISTRY.get(raw["type"]) for raw in self.active.values()]
        if any(spec and issubclass(spec.cls, Source) for spec in specs) and not any(
            spec and issubclass(spec.cls, DeadLetterSink) for spec in specs
        ):
            text = "no dead letter node: a message that a node fails on is logged, counted and dropped"
            yield Problem("", "flow", text, "warning")


def _instead(raw: RawNode) -> str:
    """What to put in the place of a node that runs JavaScript or commands."""
    code = str(raw.get("func") or raw.get("command") or "").strip().splitlines()
    text = (
        "JavaScript and commands are not run here: use change, switch, template or a python node in its place"
    )
    return f"{text}; it is kept as it is: {code[0][:120]!r}{' …' if len(code) > 1 else ''}" if code else text
