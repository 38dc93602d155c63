"""The engine: runs flows so that a batch is a transaction.

A source emits a batch; it runs through every transform it can reach, synchronously and in topological order; every
sink it reaches makes its part safe; then, and only then, `emit` returns and the source may acknowledge. Sinks work
side by side and each in the order of the batches. The engine knows no MQTT and no batteries.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from voltflow.backoff import Backoff
from voltflow.flow import Flow, Wired
from voltflow.message import Msg
from voltflow.node import (
    Context,
    DeadLetterSink,
    Failure,
    Node,
    Ports,
    Rejected,
    Sink,
    SinkUnavailable,
    Source,
    Transform,
)

log = logging.getLogger(__name__)

MAX_WRITE = 5000
"""Messages that one write of a sink gets at most; what waits beyond it is the next write."""


@dataclass
class NodeStats:
    """What happened at a node since the start; times in seconds."""

    messages_in: int = 0
    messages_out: int = 0
    failures: int = 0
    busy_s: float = 0.0
    waiting: int = 0
    retries: int = 0
    error: str = ""


@dataclass(eq=False)
class _Transaction:
    """One batch on its way: done when no sink has anything of it left."""

    source: str
    first: Msg
    size: int
    done: asyncio.Future[None]
    started: float = field(default_factory=time.monotonic)
    open_writes: int = 1
    waiting_for: dict[str, int] = field(default_factory=dict)
    reported: bool = False

    def settle(self) -> None:
        self.open_writes -= 1
        if self.open_writes == 0 and not self.done.done():
            self.done.set_result(None)


class _SinkQueue:
    """Feeds one sink: in order, one write at a time unless the sink is pipelined, whatever waits as one write."""

    def __init__(self, engine: Engine, node_id: str, sink: Sink) -> None:
        self.engine = engine
        self.node_id = node_id
        self.sink = sink
        self.stats = engine.stats[node_id]
        self.waiting: deque[tuple[list[Msg], _Transaction]] = deque()
        self.tasks: set[asyncio.Task[None]] = set()

    def put(self, msgs: list[Msg], transaction: _Transaction) -> None:
        transaction.open_writes += 1
        transaction.waiting_for[self.node_id] = transaction.waiting_for.get(self.node_id, 0) + 1
        self.stats.messages_in += len(msgs)
        self.stats.waiting += len(msgs)
        self.waiting.append((msgs, transaction))
        if self.sink.pipelined or not self.tasks:
            task = asyncio.create_task(self._drain(), name=f"sink {self.sink.label}")
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)

    async def _drain(self) -> None:
        while self.waiting:
            msgs, transactions = self._take()
            started = time.perf_counter()
            await self._write(msgs)
            self.stats.busy_s += time.perf_counter() - started
            self.stats.waiting -= len(msgs)
            for transaction in transactions:
                transaction.waiting_for[self.node_id] -= 1
                transaction.settle()

    def _take(self) -> tuple[list[Msg], list[_Transaction]]:
        msgs, first = self.waiting.popleft()
        transactions = [first]
        if self.sink.pipelined:
            return msgs, transactions
        msgs = list(msgs)
        while self.waiting and len(msgs) + len(self.waiting[0][0]) <= MAX_WRITE:
            more, transaction = self.waiting.popleft()
            msgs += more
            transactions.append(transaction)
        return msgs, transactions

    async def _write(self, msgs: list[Msg]) -> None:
        backoff = Backoff()
        while True:
            try:
                await self.sink.write(msgs)
            except SinkUnavailable as error:
                self.stats.retries += 1
                if self.stats.error != str(error):
                    log.warning(
                        "%s is not available, its batches wait: %s",
                        self.sink.label,
                        error,
                    )
                self.stats.error = str(error)
                await asyncio.sleep(backoff.next_s())
                continue
            except Rejected as rejected:
                await self._refuse(rejected.refused)
            except Exception as error:
                if len(msgs) == 1:
                    await self._refuse([(msgs[0], f"{type(error).__name__}: {error}")])
                else:
                    middle = len(msgs) // 2
                    await self._write(msgs[:middle])
                    await self._write(msgs[middle:])
            if self.stats.error:
                log.info("%s is available again", self.sink.label)
                self.stats.error = ""
            return

    async def _refuse(self, refused: list[tuple[Msg, str]]) -> None:
        """Make dead letters of refused messages; several batches may be in this write, so it waits until they are safe."""
        failed = [_failed(self.sink, msg, error) for msg, error in refused]
        self.stats.failures += len(failed)
        async with self.engine.transaction(self.node_id, failed) as transaction:
            self.engine.dead_letter(self.sink, failed, transaction)


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
        self.grace_s = grace_s
        self.watchdog_s = watchdog_s
        self.transactions: set[_Transaction] = set()
        self.running: tuple[Node, Msg, float] | None = None
        plain = {node_id: wired.node for node_id, wired in self.nodes.items()}
        self._context = Context(plain, services or {}, gateway, flow.revision, state_dir)
        self._queues = {
            node_id: _SinkQueue(self, node_id, wired.node)
            for node_id, wired in self.nodes.items()
            if isinstance(wired.node, Sink)
        }
        self._plans = {
            node_id: tuple(self._plan(node_id))
            for node_id, wired in self.nodes.items()
            if isinstance(wired.node, Source)
        }

    # -- life ---------------------------------------------------------------------------------------------------

    async def run(self, stop: asyncio.Event) -> bool:
        """Start the nodes, run the sources until `stop`, then drain; True when nothing was left under way.

        What could not be made safe within the grace period is not acknowledged: its source sends it again.
        """
        watchdog = _Watchdog(self)
        started: list[Node] = []
        try:
            for wired in self.nodes.values():
                await wired.node.start(self._context)
                started.append(wired.node)
            watchdog.start()
            await self._run_sources(stop)
        finally:
            watchdog.stop()
            left = len(self.transactions)
            for queue in self._queues.values():
                for task in queue.tasks:
                    task.cancel()
            for node in reversed(started):
                with contextlib.suppress(asyncio.CancelledError):
                    await self._stop_node(node)
        if left:
            log.warning(
                "stopped with %d batch(es) not yet safe; their sources will send them again",
                left,
            )
        return left == 0

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
        async with self.transaction(source, msgs) as transaction:
            self._run_plan(source, msgs, transaction)

    @contextlib.asynccontextmanager
    async def transaction(self, node_id: str, msgs: list[Msg]) -> AsyncIterator[_Transaction]:
        """Leaving the block waits until every write put under the transaction is safe."""
        transaction = _Transaction(node_id, msgs[0], len(msgs), asyncio.get_running_loop().create_future())
        self.transactions.add(transaction)
        try:
            yield transaction
            transaction.settle()
            await transaction.done
        finally:
            self.transactions.discard(transaction)

    def _run_plan(self, source: str, msgs: list[Msg], transaction: _Transaction) -> None:
        inputs: dict[str, list[Msg]] = {}
        wired = self.nodes[source]
        self._distribute(self._transform(wired.node, msgs, transaction), wired.targets, inputs)
        for step in self._plans[source]:
            batch = inputs.pop(step.node_id, None)
            if not batch:
                continue
            queue = self._queues.get(step.node_id)
            if queue is not None:
                queue.put(batch, transaction)
            else:
                self._distribute(self._transform(step.node, batch, transaction), step.targets, inputs)

    @staticmethod
    def _distribute(ports: Ports, targets: tuple[tuple[str, ...], ...], inputs: dict[str, list[Msg]]) -> None:
        for msgs, port_targets in zip(ports, targets, strict=False):
            if not msgs:
                continue
            for target in port_targets:
                # a list is shared by all it goes to; only where wires join is a new one made
                inputs[target] = inputs[target] + msgs if target in inputs else msgs

    def _transform(self, node: Node, msgs: list[Msg], transaction: _Transaction) -> Ports:
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
            result = node.process(msgs)
            return result if isinstance(result, tuple) else (result,)
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

    def dead_letter(self, node: Node, failed: list[Msg], transaction: _Transaction) -> None:
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

    def _dead_letter_queues(self) -> list[_SinkQueue]:
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
        """The flow with what happened at each node, for `/api/flow` and the metrics."""
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
                    "status": wired.node.status(),
                }
                for node_id, wired in self.nodes.items()
            ],
        }


def _join(first: Ports, second: Ports) -> Ports:
    if not first or not second:
        return first or second
    return tuple(a + b for a, b in zip(first, second, strict=True))


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
                holding = [node_id for node_id, count in transaction.waiting_for.items() if count]
                labels = ", ".join(engine.nodes[node_id].node.label for node_id in holding) or "no sink"
                self._report(f"{labels} has not confirmed a batch of {transaction.size}", transaction.first,
                             now - transaction.started)  # fmt: skip

    def _report(self, what: str, msg: Msg, age_s: float) -> None:
        self._engine.stalls += 1
        log.error(
            "stall: %s for %.0f s; first message: topic %s, key %s",
            what,
            age_s,
            msg.topic,
            msg.key,
        )
