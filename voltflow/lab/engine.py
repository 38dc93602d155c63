"""What `voltflow.lab.lab` runs: a flow whose ways to the outside are stand-ins, in an engine that remembers what passes."""

from __future__ import annotations

import asyncio
import itertools
import selectors
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from voltflow.engine.engine import Engine
from voltflow.engine.held_store import HeldStore, Row
from voltflow.engine.network_sink import NetworkSink
from voltflow.engine.sink_queue import Transaction
from voltflow.engine.timer import VirtualTimer
from voltflow.engine.why import Why
from voltflow.engine.wiring import Line, Wiring
from voltflow.flow.expand import Part
from voltflow.flow.flow import Flow, FlowError, Problem
from voltflow.lab.places import LabError
from voltflow.message import Msg, encode_payload
from voltflow.node import (
    REGISTRY,
    ConfigError,
    ConfigNode,
    DeadLetterSink,
    Emit,
    Holder,
    Node,
    NodeSpec,
    Ports,
    Rejected,
    Sink,
    Source,
    VariableMissing,
    Worker,
)
from voltflow.nodes.link_call import LinkCall

Answers = Mapping[str, Sequence[Mapping[str, Any]]]
"""What nodes that work over a network answer, by node id: properties of the message they give out, one for each message
that reaches them, the last again and again."""

OUTSIDE: Final = frozenset({"network", "storage"})


def is_outside(spec: NodeSpec) -> bool:
    """Whether a node of this type reaches beyond the flow, so that a stand-in takes its place."""
    if issubclass(spec.cls, NetworkSink | DeadLetterSink):
        return True
    if issubclass(spec.cls, Source | Sink):
        return spec.category in OUTSIDE
    return issubclass(spec.cls, Worker) and spec.category == "network"


# -- stand-ins ----------------------------------------------------------------------------------------------------


class _StandIn(Node):
    def stand_for(self, part: Part, spec: NodeSpec, real: Node | None) -> None:
        """Look like the real one from outside."""
        self.id, self.name, self.tab = part.id, str(part.raw.get("name", "")), part.tab
        self.ports = real.ports if real is not None else spec.outputs
        vars(self).update(type=spec.type, spec=spec, real=real)

    real: Node | None = None


class SourceStandIn(_StandIn, Source):
    """Emits what the lab gives it, as the real one would decode it."""

    async def run(self, emit: Emit) -> None:
        await asyncio.Event().wait()

    @property
    def takes_bytes(self) -> bool:
        """Whether what comes in from outside is bytes: the real one makes of them what the flow gets."""
        return not isinstance(self.real, Source) or type(self.real).process is not Source.process

    def process(self, msgs: list[Msg]) -> list[Msg] | Ports:
        return self.real.process(msgs) if isinstance(self.real, Source) else msgs


class SinkStandIn(_StandIn, Sink):
    """Takes everything that can be sent."""

    async def write(self, msgs: list[Msg]) -> None:
        refused: list[tuple[Msg, str]] = []
        for msg in msgs:
            try:
                encode_payload(msg.payload)
            except Exception as error:  # noqa: BLE001 - a payload of any kind may fail in any way
                refused.append((msg, Why.of(error)))
        if refused:
            raise Rejected(refused)


class DeadLetterStandIn(_StandIn, DeadLetterSink):
    """Takes every dead letter."""

    async def write(self, msgs: list[Msg]) -> None:
        return


class WorkerStandIn(_StandIn, Worker):
    """Answers what the lab was told."""

    def __init__(self, answers: Sequence[Mapping[str, Any]]) -> None:
        self._answers = itertools.chain(answers, itertools.repeat(answers[-1])) if answers else iter(())

    async def work(self, msgs: list[Msg]) -> list[Msg]:
        return [_answered(msg, answer) for msg, answer in zip(msgs, self._answers, strict=False)]


class SourceWorkerStandIn(WorkerStandIn, SourceStandIn):
    """Both: for a source that takes messages too."""


def _answered(msg: Msg, answer: Mapping[str, Any]) -> Msg:
    props = {**(msg.props or {}), **{k: v for k, v in answer.items() if k not in ("topic", "payload")}}
    return msg.derive(
        topic=answer.get("topic", msg.topic), payload=answer.get("payload", msg.payload), props=props or None
    )


class ConfigStandIn(_StandIn, ConfigNode):
    """Connects to nothing."""


class _Lenient(Mapping[str, str]):
    """Variables for the nodes that stand-ins replace: one that is not set here is empty."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self._env = env

    def __getitem__(self, name: str) -> str:
        return self._env.get(name, "")

    def __contains__(self, name: object) -> bool:
        return True

    def __iter__(self) -> Any:
        return iter(self._env)

    def __len__(self) -> int:
        return len(self._env)


class LabFlow(Flow):
    """A flow with stand-ins for what reaches outside. Variables that only those need may be missing."""

    def __init__(self, flow: Flow, answers: Answers) -> None:
        super().__init__(flow.nodes, flow._text)
        self._answers = answers

    revision = "lab"  # a message that names it is the same before and after a change

    def check(self, env: Mapping[str, str], *, elsewhere: bool = True) -> list[Problem]:
        return super().check(env, elsewhere=True)

    def make(self, part: Part, env: Mapping[str, str]) -> Node:
        spec = REGISTRY[part.type]
        if is_outside(spec):
            return self._stand_in(part, spec, _built(part, spec, env))
        if issubclass(spec.cls, ConfigNode) and not self._is_used_inside(part):
            return _standing(ConfigStandIn(), part, spec, None)
        try:
            return super().make(part, env)
        except VariableMissing as error:
            text = f'{error}; give it in "env" of the test'
            raise FlowError([Problem(part.source_id, f"{part.type} {part.source_id!r}", text)]) from None

    def _stand_in(self, part: Part, spec: NodeSpec, real: Node | None) -> Node:
        if issubclass(spec.cls, Source) and issubclass(spec.cls, Worker):
            return _standing(SourceWorkerStandIn(self._answers.get(part.id, ())), part, spec, real)
        if issubclass(spec.cls, Source):
            return _standing(SourceStandIn(), part, spec, real)
        if issubclass(spec.cls, DeadLetterSink):
            return _standing(DeadLetterStandIn(), part, spec, real)
        if issubclass(spec.cls, Worker):
            return _standing(WorkerStandIn(self._answers.get(part.id, ())), part, spec, real)
        return _standing(SinkStandIn(), part, spec, real)

    def _is_used_inside(self, config: Part) -> bool:
        """Whether a node that is no stand-in refers to it, or a config node that one refers to."""
        for part in self.expanded.parts.values():
            spec = REGISTRY[part.type]
            if is_outside(spec) or not any(
                f.reference and part.raw.get(f.name) == config.id for f in spec.fields
            ):
                continue
            if not issubclass(spec.cls, ConfigNode) or self._is_used_inside(part):
                return True
        return False


def _built(part: Part, spec: NodeSpec, env: Mapping[str, str]) -> Node | None:
    try:
        return spec.build(part.id, part.raw, _Lenient(env))
    except ConfigError:
        return None


def _standing(node: _StandIn, part: Part, spec: NodeSpec, real: Node | None) -> Node:
    node.stand_for(part, spec, real)
    return node


# -- the engine ---------------------------------------------------------------------------------------------------


class _Nowhere(HeldStore):
    """Keeps nothing: a lab is gone before anything has to outlive it."""

    def __init__(self) -> None:
        super().__init__(Path())
        self._ids = itertools.count(1)

    async def open(self) -> list[Row]:
        return []

    async def read(self) -> list[Row]:
        return []

    async def add(self, rows: Sequence[tuple[str, str, float, bytes]]) -> list[int]:
        return [next(self._ids) for _ in rows]

    async def remove(self, ids: Iterable[int]) -> None:
        return

    async def close(self) -> None:
        return


class Passed(NamedTuple):
    """A message at a place, in the time of the flow (seconds since 1970)."""

    at_s: float
    msg: Msg


class LabEngine(Engine):
    """Remembers what reaches each node, what leaves each of its outputs, and what became a dead letter."""

    timer: VirtualTimer

    def __init__(self, flow: LabFlow, watch: frozenset[str] | None, **options: Any) -> None:
        self.into: dict[str, list[Passed]] = defaultdict(list)
        """By node id."""
        self.out: dict[tuple[str, int], list[Passed]] = defaultdict(list)
        """By node id and output, from 0."""
        self.dead: list[Passed] = []
        self._watch = watch
        super().__init__(flow, held_store=_Nowhere(), watchdog_s=1e9, grace_s=0.0, **options)
        self.outcomes.on_dead = lambda dead: self._remember(self.dead, dead)

    async def start_node(self, node: Node, wiring: Wiring) -> None:
        try:
            await super().start_node(node, wiring)
        except ConfigError as error:
            raise LabError(f"{node.label} cannot start here: {error}") from None

    @property
    def has_begun(self) -> bool:
        return self._badges.begun and len(self.sources.tasks) == sum(
            isinstance(wired.node, Source) for wired in self.nodes.values()
        )

    def is_source(self, task: asyncio.Task[Any] | None) -> bool:
        """Whether it is a source that waits, or the engine itself: a flow in which nobody else waits is at rest."""
        return task is None or task in self.sources.tasks.values() or task.get_name() == "held messages"

    def busy(self) -> list[str]:
        """The nodes that wait for something else than the flow's time."""
        return [
            self.label_of(node_id)
            for node_id, line in self.wiring.lines.items()
            if isinstance(self.nodes[node_id].node, Worker | Sink)
            and not line.empty
            and not any(self.timer.waits(task) for task in getattr(line, "tasks", ()))
        ]

    async def enter(self, node_id: str, msgs: list[Msg]) -> None:
        """Messages come to a node: to a source from outside, to another one over a wire."""
        node = self.nodes[node_id].node
        if isinstance(node, Source):
            await self._transact(node, msgs)
            return
        async with self.transaction(node_id, msgs) as transaction:
            line = self.wiring.lines.get(node_id)
            if line is not None:
                line.put(msgs, transaction)
            else:
                self.emit_from(node, self.transform(node, msgs, transaction), transaction)

    async def leave(self, node_id: str, port: int, msgs: list[Msg]) -> None:
        """Messages come as if a node had given them out."""
        node = self.nodes[node_id].node
        ports: list[list[Msg]] = [[] for _ in range(port)] + [msgs]
        async with self.transaction(node_id, msgs) as transaction:
            self._remember_out(node_id, ports)
            super().emit_from(node, ports, transaction)

    def _line(self, node: Node) -> Line | None:
        line = super()._line(node)
        if line is not None and self._is_watched(node.id):
            put = line.put

            def remembering(msgs: list[Msg], transaction: Transaction) -> None:
                self._remember(self.into[node.id], msgs)
                put(msgs, transaction)

            vars(line)["put"] = remembering
        return line

    def transform(self, node: Node, msgs: list[Msg], transaction: Transaction) -> Ports:
        if self._is_watched(node.id):
            self._remember(self.into[node.id], msgs)
        ports = super().transform(node, msgs, transaction)
        self._remember_out(node.id, ports)
        return ports

    def emit_from(self, node: Node, ports: Ports, transaction: Transaction) -> None:
        if isinstance(node, Worker | Holder | LinkCall):  # of others `transform` has seen it
            self._remember_out(node.id, ports)
        super().emit_from(node, ports, transaction)

    def _remember_out(self, node_id: str, ports: Ports) -> None:
        if self._is_watched(node_id):
            for port, msgs in enumerate(ports):
                self._remember(self.out[node_id, port], msgs)

    def _remember(self, place: list[Passed], msgs: Iterable[Msg]) -> None:
        now_s = self.timer.now_s()
        place.extend(Passed(now_s, msg) for msg in msgs)

    def _is_watched(self, node_id: str) -> bool:
        return self._watch is None or node_id in self._watch


class IdleSelector(selectors.DefaultSelector):
    """Tells when the event loop has nothing left to do: it would wait for the network, a thread or the wall clock."""

    idle: asyncio.Future[None] | None = None

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if self.idle is not None and (timeout is None or timeout > 0):
            idle, self.idle, timeout = self.idle, None, 0
            if not idle.done():
                idle.set_result(None)
        return super().select(timeout)
