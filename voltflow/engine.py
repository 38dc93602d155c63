"""The engine: runs flows so that a batch is a transaction.

A source emits a batch; it runs through every transform it can reach, synchronously and in topological order; every
sink it reaches makes its part safe; then, and only then, `emit` returns and the source may acknowledge. Sinks work
side by side and each in the order of the batches. The engine knows no MQTT and no batteries.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import operator
import threading
import time
import typing
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from voltflow.circuit import Circuit
from voltflow.clock import receive_clock
from voltflow.flow import Flow, Wired
from voltflow.message import Msg
from voltflow.network_sink import NetworkSink
from voltflow.node import (
    ConfigNode,
    Context,
    DeadLetterSink,
    Failure,
    Node,
    Ports,
    Sink,
    Source,
    Transform,
)
from voltflow.sink_queue import NodeStats, SinkQueue, Transaction
from voltflow.spool import Spool, SpoolOptions
from voltflow.store_forward import SpoolingQueue, SpoolRegistry, folder_name, spools_folder

__all__ = ["Engine", "NodeStats"]

log = logging.getLogger(__name__)


def _failed(node: Node, msg: Msg, error: str) -> Msg:
    return msg.derive(payload=Failure(node.id, error))


def _failed_task(task: asyncio.Task[None]) -> BaseException | None:
    return task.exception() if task.done() and not task.cancelled() else None


@dataclass(frozen=True)
class _Step:
    """One node of a source's plan."""

    node_id: str
    node: Node
    targets: tuple[tuple[str, ...], ...]


class Engine:
    """Runs one flow. Use: `await engine.start()`, `await engine.run(stop)`; or only `run`, which starts by itself."""

    def __init__(
        self,
        flow: Flow,
        *,
        env: Mapping[str, str],
        services: Mapping[type, object] | None = None,
        gateway: str = "gateway",
        state_dir: Path = Path(".voltflow"),
        watchdog_s: float = 30.0,
        grace_s: float = 10.0,
    ) -> None:
        self.flow = flow
        self.nodes: dict[str, Wired] = flow.build(env)
        self.stats = {node_id: NodeStats() for node_id in self.nodes}
        self.dropped: dict[str, int] = {}
        self.stalls = 0
        self.batches = 0
        self.messages = 0
        self.abandoned = 0
        self._started: list[Node] = []
        self.grace_s = grace_s
        self.watchdog_s = watchdog_s
        self.transactions: set[Transaction] = set()
        self.running: tuple[Node, Msg, float] | None = None
        self._gateway, self._state_dir = gateway, state_dir
        self._queues = {
            node_id: self._queue(wired.node)
            for node_id, wired in self.nodes.items()
            if isinstance(wired.node, Sink)
        }
        self.spools = SpoolRegistry(self._queues.values())
        plain = {node_id: wired.node for node_id, wired in self.nodes.items()}
        with_spools = {**(services or {}), SpoolRegistry: self.spools}
        self._context = Context(plain, with_spools, gateway, flow.revision, state_dir)
        self._plans = {
            node_id: tuple(self._plan(node_id))
            for node_id, wired in self.nodes.items()
            if isinstance(wired.node, Source)
        }

    def _queue(self, sink: Sink) -> SinkQueue:
        stats = self.stats[sink.id]
        if not isinstance(sink, NetworkSink) or not sink.spool:
            return SinkQueue(sink, stats, self._refuse)
        options = SpoolOptions(
            folder=spools_folder(self._state_dir) / folder_name(sink.id),
            telemetry_bytes=round(sink.spoolMaxMb * 1e6),
            telemetry_age_s=sink.spoolMaxAgeH * 3600,
            protected_bytes=round(sink.spoolProtectedMb * 1e6),
            segment_bytes=int(min(max(sink.spoolMaxMb * 1e6 / 50, 2**14), 2**22)),
            gateway=self._gateway,
        )
        return SpoolingQueue(sink, stats, self._refuse, Spool(options, now_ms=receive_clock.now_ms))

    def circuit(self, node_id: str) -> Circuit:
        """Whether a sink's far side takes batches, and why not."""
        return self._queues[node_id].circuit

    # -- life ---------------------------------------------------------------------------------------------------

    async def run(self, stop: asyncio.Event) -> bool:
        """Start the nodes, run the sources until `stop`, then drain; True when nothing was left under way.

        What could not be made safe within the grace period is not acknowledged: its source sends it again.
        """
        watchdog = _Watchdog(self)
        try:
            for node in self._start_order():
                await node.start(self._context)
                self._started.append(node)
            for spooling in self.spools.queues:
                await spooling.open()
            await self.spools.look_for_orphans(spools_folder(self._state_dir))
            watchdog.start()
            await self._run_sources(stop)
        finally:
            watchdog.stop()
            left = self.abandoned + len(self.transactions)
            for queue in self._queues.values():
                for task in queue.tasks:
                    task.cancel()
            for transaction in self.transactions:
                transaction.done.cancel()
            for spooling in self.spools.queues:
                await spooling.close()
            while self._started:
                with contextlib.suppress(asyncio.CancelledError):
                    await self._stop_node(self._started.pop())
        if left:
            log.warning(
                "stopped with %d batch(es) not yet safe; their sources will send them again",
                left,
            )
        return left == 0

    def _start_order(self) -> list[Node]:
        """Config nodes, sources, the rest: a source's subscription stands before a sink opens the connection they
        share; what the broker's session sends at once would else be acknowledged unseen."""
        nodes = [wired.node for wired in self.nodes.values()]
        return sorted(
            nodes, key=lambda node: (not isinstance(node, ConfigNode), not isinstance(node, Source))
        )

    async def _stop_node(self, node: Node) -> None:
        try:
            await node.stop()
        except Exception:
            log.exception("%s: could not be stopped cleanly", node.label)

    async def _run_sources(self, stop: asyncio.Event) -> None:
        tasks = {
            asyncio.create_task(
                self._run_source(node_id),
                name=f"source {self.nodes[node_id].node.label}",
            )
            for node_id in self._plans
        }
        stopping = asyncio.create_task(stop.wait(), name="stop")
        pending = {stopping, *tasks}
        try:
            while not stopping.done() and not any(_failed_task(task) for task in tasks - pending):
                _, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
            await self._end(tasks)
        for task in tasks:
            if error := _failed_task(task):
                raise error

    async def _end(self, tasks: set[asyncio.Task[None]]) -> None:
        """Cancel the sources, which then wait for what is under way: for the grace period, and no longer."""
        for timeout_s in (self.grace_s, 1.0):
            for task in tasks:
                task.cancel()
            if tasks:
                _, tasks = await asyncio.wait(tasks, timeout=timeout_s)

    async def _run_source(self, node_id: str) -> None:
        source = self.nodes[node_id].node
        assert isinstance(source, Source)

        async def emit(msgs: list[Msg]) -> None:
            await self._transact(node_id, msgs)

        await source.run(emit)

    # -- a batch ------------------------------------------------------------------------------------------------

    async def _transact(self, source: str, msgs: list[Msg]) -> None:
        if not msgs:
            return
        self.batches += 1
        self.messages += len(msgs)
        try:
            async with self.transaction(source, msgs) as transaction:
                self._run_plan(source, msgs, transaction)
        except asyncio.CancelledError:
            self.abandoned += 1
            raise

    @contextlib.asynccontextmanager
    async def transaction(self, node_id: str, msgs: list[Msg]) -> AsyncIterator[Transaction]:
        """Leaving the block waits until every write put under the transaction is safe."""
        transaction = Transaction(node_id, msgs[0], len(msgs), asyncio.get_running_loop().create_future())
        self.transactions.add(transaction)
        try:
            yield transaction
            transaction.settle()
            await transaction.done
        finally:
            self.transactions.discard(transaction)
            transaction.done.cancel()  # where it is not done: whoever waits for it hears that it will not be

    async def settled(self) -> bool:
        """Wait until no batch that is under way now is any more; whether all of them are safe.

        What a node remembers at the call holds then no effect of a message that may come again.
        """
        done = {transaction.done for transaction in self.transactions}
        if done:
            await asyncio.wait(done)
        return not any(future.cancelled() or future.exception() for future in done)

    def _run_plan(self, source: str, msgs: list[Msg], transaction: Transaction) -> None:
        inputs: dict[str, list[Msg]] = {}
        wired, order = self.nodes[source], _Order(msgs)
        self._distribute(self._transform(wired.node, msgs, transaction), wired.targets, inputs, order)
        for step in self._plans[source]:
            batch = inputs.pop(step.node_id, None)
            if not batch:
                continue
            queue = self._queues.get(step.node_id)
            if queue is not None:
                queue.put(batch, transaction)
            else:
                self._distribute(self._transform(step.node, batch, transaction), step.targets, inputs, order)

    @staticmethod
    def _distribute(
        ports: Ports, targets: tuple[tuple[str, ...], ...], inputs: dict[str, list[Msg]], order: _Order
    ) -> None:
        # A port no wire leads from is fine, as in Node-RED; more ports than the node has are not (`_ports_of`).
        for msgs, port_targets in zip(ports, targets, strict=False):
            if not msgs:
                continue
            for target in port_targets:
                # a list is shared by all it goes to; only where wires join is a new one made
                inputs[target] = order.merge(inputs[target], msgs) if target in inputs else msgs

    def _transform(self, node: Node, msgs: list[Msg], transaction: Transaction) -> Ports:
        assert isinstance(node, Transform | Source)
        stats = self.stats[node.id]
        started = time.perf_counter()
        self.running = (node, msgs[0], time.monotonic())
        failed: list[Msg] = []
        try:
            ports = self._process(node, msgs, failed)
        finally:
            self.running = None
        stats.busy_s += time.perf_counter() - started
        stats.messages_in += len(msgs)
        stats.messages_out += sum(map(len, ports))
        if failed:
            stats.failures += len(failed)
            self.dead_letter(node, failed, transaction)
        return ports

    def _process(self, node: Transform | Source, msgs: list[Msg], failed: list[Msg]) -> Ports:
        """The node's outputs; where it raises, the batch is halved until the messages it fails on stand alone."""
        try:
            return _ports_of(node.process(msgs), node.spec.outputs)
        except Exception as error:
            if len(msgs) == 1:
                log.debug("%s failed on a message", node.label, exc_info=True)
                failed.append(_failed(node, msgs[0], f"{type(error).__name__}: {error}"))
                return ()
        middle = len(msgs) // 2
        return _join(
            self._process(node, msgs[:middle], failed),
            self._process(node, msgs[middle:], failed),
        )

    def dead_letter(self, node: Node, failed: list[Msg], transaction: Transaction) -> None:
        """Send messages a node failed on to the flow's dead-letter sinks, within their transaction."""
        queues = [] if isinstance(node, DeadLetterSink) else self._dead_letter_queues()
        for queue in queues:
            queue.put(failed, transaction)
        if not queues:
            reason = "dead_letter_failed" if isinstance(node, DeadLetterSink) else "no_dead_letter_node"
            self.dropped[reason] = self.dropped.get(reason, 0) + len(failed)
            for msg in failed:
                origin = msg.origin or msg
                log.error("%s failed, dropped (%s): %s: %s: %.200r",
                          node.label, reason, origin.topic, msg.payload.error, origin.payload)  # fmt: skip

    async def _refuse(self, sink: Sink, refused: list[tuple[Msg, str]]) -> None:
        failed = [_failed(sink, msg, error) for msg, error in refused]
        async with self.transaction(sink.id, failed) as transaction:
            self.dead_letter(sink, failed, transaction)

    def _dead_letter_queues(self) -> list[SinkQueue]:
        return [queue for queue in self._queues.values() if isinstance(queue.sink, DeadLetterSink)]

    def _plan(self, source: str) -> Iterator[_Step]:
        """What the source's messages can reach, in topological order (`nodes` is in it already)."""
        reached = {source}
        for node_id, wired in self.nodes.items():
            if node_id in reached:
                reached.update(target for port in wired.targets for target in port)
                if node_id != source:
                    yield _Step(node_id, wired.node, wired.targets)

    # -- what people see ----------------------------------------------------------------------------------------

    def describe(self) -> dict[str, Any]:
        """The flow with what happened at each node, for `/api/flow` and the metrics; before the start and after the
        stop without the nodes' own status."""
        return {
            "revision": self.flow.revision,
            "batches": self.batches,
            "messages": self.messages,
            "in_flight_batches": len(self.transactions),
            "stalls": self.stalls,
            "dropped": dict(self.dropped),
            "nodes": [
                {
                    "id": node_id,
                    "type": wired.node.type,
                    "name": wired.node.name,
                    "wires": wired.targets,
                    **vars(self.stats[node_id]),
                    **self._circuit_facts(node_id),
                    "status": wired.node.status() if wired.node in self._started else {},
                }
                for node_id, wired in self.nodes.items()
            ],
        }

    def _circuit_facts(self, node_id: str) -> dict[str, Any]:
        if node_id not in self._queues:
            return {}
        circuit = self._queues[node_id].circuit
        return {"circuit": circuit.state, "error": circuit.reason, "circuit_opened": circuit.opened}


_only_messages = frozenset({Msg}).issuperset
"""Whether all types are Msg: 20 ns a message, so that every list can be looked at."""


def _ports_of(result: list[Msg] | Ports, outputs: int) -> Ports:
    """What `process` returned as one list for each port.

    A node that forgets its `return`, returns something else than messages or has more ports than it declares fails
    like one that raises: further down it could only be lost or hold up the flow.
    """
    ports = result if isinstance(result, tuple) else (result,)
    if len(ports) > outputs:
        raise TypeError(f"process returned lists for {len(ports)} outputs, declared are {outputs}")
    for port in ports:
        if not isinstance(port, list):
            raise TypeError(f"process returned {type(port).__name__}, expected a list of messages")
        if not _only_messages(map(type, port)):
            found = next((type(item).__name__ for item in port if not isinstance(item, Msg)), None)
            if found is not None:
                raise TypeError(f"process returned a list with {found} in it, expected a list of messages")
    return typing.cast("Ports", ports)


def _join(first: Ports, second: Ports) -> Ports:
    nothing: list[Msg] = []
    return tuple(a + b for a, b in itertools.zip_longest(first, second, fillvalue=nothing))


class _Order:
    """Where wires join, messages stand in the order in which the source emitted what they were made from."""

    def __init__(self, msgs: list[Msg]) -> None:
        self._msgs = msgs
        self._positions: dict[int, int] = {}

    def merge(self, first: list[Msg], second: list[Msg]) -> list[Msg]:
        if not self._positions:  # most batches never join
            self._positions = {id(msg.origin or msg): i for i, msg in enumerate(self._msgs)}
        keyed = [*self._keyed(first), *self._keyed(second)]
        keyed.sort(key=operator.itemgetter(0))
        return [msg for _, msg in keyed]

    def _keyed(self, msgs: list[Msg]) -> Iterator[tuple[int, Msg]]:
        position = 0
        for msg in msgs:  # one that a node made from nothing stays behind the one before it
            position = self._positions.get(id(msg.origin or msg), position)
            yield position, msg


class _Watchdog(threading.Thread):
    """Names the node and message that hold up the flow for longer than `watchdog_s`.

    A thread, because a transform that does not return holds the event loop itself.
    """

    def __init__(self, engine: Engine) -> None:
        super().__init__(name="watchdog", daemon=True)
        self._engine = engine
        self._ended = threading.Event()
        self._reported: Msg | None = None

    def stop(self) -> None:
        self._ended.set()

    def run(self) -> None:
        while not self._ended.wait(min(1.0, self._engine.watchdog_s / 4)):
            self._look()

    def _look(self) -> None:
        engine, now = self._engine, time.monotonic()
        running = engine.running
        if running is not None and now - running[2] > engine.watchdog_s and self._reported is not running[1]:
            self._reported = running[1]
            self._report(
                f"node {running[0].label} has not returned",
                running[1],
                now - running[2],
            )
        for transaction in list(engine.transactions):
            if now - transaction.started > engine.watchdog_s and not transaction.reported:
                transaction.reported = True
                # a copy: this thread is not the one that changes it
                holding = [node_id for node_id, count in transaction.waiting_for.copy().items() if count]
                labels = ", ".join(engine.nodes[node_id].node.label for node_id in holding) or "no sink"
                self._report(f"{labels} has not confirmed a batch of {transaction.size}", transaction.first,
                             now - transaction.started)  # fmt: skip

    def _report(self, what: str, msg: Msg, age_s: float) -> None:
        log.error(
            "stall: %s for %.0f s; first message: topic %s, key %s",
            what,
            age_s,
            msg.topic,
            msg.key,
        )
        self._engine.stalls += 1
