"""The engine: runs flows so that a batch is a transaction, and replaces them while they run.

A source emits a batch; it runs through every transform it can reach, synchronously and in topological order; every
sink it reaches makes its part safe; then, and only then, `emit` returns and the source may acknowledge. Sinks work
side by side and each in the order of the batches. The engine knows no MQTT and no batteries.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import secrets
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from voltflow.clock import receive_clock
from voltflow.engine.call_lines import CallLine, ReturnLine
from voltflow.engine.circuit import Circuit
from voltflow.engine.deploy import Deploy, DeployError, Gate, start_order, tasks_of
from voltflow.engine.events import Badge, Events
from voltflow.engine.failure_notes import FailureNotes
from voltflow.engine.held_store import HeldStore
from voltflow.engine.holder_line import HolderLine
from voltflow.engine.keeper import Keeper
from voltflow.engine.lines import WorkerLine
from voltflow.engine.network_sink import NetworkSink
from voltflow.engine.sink_queue import NodeStats, SinkQueue, Transaction
from voltflow.engine.store_forward import SpoolingQueue, SpoolRegistry, folder_name, spools_folder
from voltflow.engine.timer import Timer, WallTimer
from voltflow.engine.turn import FailedMsg, Turn, isolate, with_complete, with_error
from voltflow.engine.watchdog import Watchdog
from voltflow.engine.wiring import Line, Wired, Wiring
from voltflow.flow.environment import Environment
from voltflow.flow.flow import Flow, Problem
from voltflow.message import Msg
from voltflow.node import (
    Context,
    DeadLetterSink,
    Failure,
    Holder,
    Node,
    Ports,
    Sink,
    Source,
    Worker,
)
from voltflow.nodes.link_call import LinkCall
from voltflow.nodes.link_out import LinkOut
from voltflow.spool.spool import Spool, SpoolOptions

__all__ = ["DeployError", "Engine", "NodeStats"]

log = logging.getLogger(__name__)

STATUS_LIMIT = 1000
"""Status messages under way at most; more are dropped and counted."""


def _failed_task(task: asyncio.Task[None]) -> BaseException | None:
    return task.exception() if task.done() and not task.cancelled() else None


class Engine:
    """Runs one flow. Use: `await engine.run(stop)`, and meanwhile `await engine.deploy(flow)`."""

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
        timer: Timer | None = None,
        held_store: HeldStore | None = None,
    ) -> None:
        self.flow = flow
        self.stats: dict[str, NodeStats] = {}
        self.dropped: dict[str, int] = {}
        self.stalls = self.batches = self.messages = self.abandoned = 0
        self.deploys = 0
        self.longest_pause_s = self.last_pause_s = 0.0
        """How long deploys let the sources wait."""
        """For which a deploy held up the sources."""
        self.grace_s, self.watchdog_s = grace_s, watchdog_s
        self.timer: Timer = timer or WallTimer()
        self.events = Events()
        self._failure_notes = FailureNotes(self.events, self.timer)
        self.transactions: set[Transaction] = set()
        self.running: tuple[Node, Msg, float] | None = None
        self.state_dir = state_dir
        self.sources: dict[str, asyncio.Task[None]] = {}
        """What runs the sources, by their ids."""
        self.gate = Gate()
        self.stopping = False
        self._env, self._gateway = env, gateway
        self._services = dict(services or {})
        self._keeper = Keeper(held_store or HeldStore(state_dir), self.timer, secrets.token_hex(4))
        self._started: list[Node] = []
        self._sources_changed = asyncio.Event()
        self.paused = False
        self.is_running = False
        """Whether all nodes have started and none was stopped."""
        self._deploying = asyncio.Lock()
        self._badges: list[tuple[Node, Badge]] = []
        self._introduced = False
        self._status_under_way = 0
        self._homes: dict[Node, Wiring] = {}
        self.wiring = self.wire(flow, {})
        self.spools = SpoolRegistry(self.wiring.lines.values())

    # -- what it is made of ---------------------------------------------------------------------------------------

    @property
    def nodes(self) -> dict[str, Wired]:
        """The running nodes by id, in topological order, config nodes first."""
        return self.wiring.nodes

    @property
    def held(self) -> Keeper:
        """What nodes hold for later."""
        return self._keeper

    def circuit(self, node_id: str) -> Circuit:
        """Whether a sink's far side takes batches, and why not."""
        queue = self.wiring.lines[node_id]
        assert isinstance(queue, SinkQueue)
        return queue.circuit

    def label_of(self, node_id: str) -> str:
        """A node's name for people, also of one that a deploy has just taken away."""
        wired = self.nodes.get(node_id)
        return wired.node.label if wired else node_id

    def wire(self, flow: Flow, keep: Mapping[str, Wired]) -> Wiring:
        """The wiring of a flow, with the nodes and lines of `keep` where the flow says nothing else of them."""
        nodes = flow.build(self._env, keep)
        lines: dict[str, Line] = {}
        for node_id, wired in nodes.items():
            self.stats.setdefault(node_id, NodeStats())
            kept = keep.get(node_id)
            if kept is not None and kept.node is wired.node and node_id in self.wiring.lines:
                lines[node_id] = self.wiring.lines[node_id]
            elif (line := self._line(wired.node)) is not None:
                lines[node_id] = line
        return Wiring(nodes, lines, flow.expanded.instances)

    def _line(self, node: Node) -> Line | None:
        stats = self.stats[node.id]
        if isinstance(node, Sink):
            return self._queue(node)
        if isinstance(node, Worker):
            return WorkerLine(node, stats, self)
        if isinstance(node, Holder):
            return HolderLine(node, stats, self._keeper, self)
        if isinstance(node, LinkCall):
            return CallLine(node, stats, self, node.target_of, node.timeout)
        if isinstance(node, LinkOut) and node.mode == "return":
            return ReturnLine(stats, self._call_line)
        return None

    def _call_line(self, node_id: str) -> CallLine | None:
        line = self.wiring.lines.get(node_id)
        return line if isinstance(line, CallLine) else None

    def _queue(self, sink: Sink) -> SinkQueue:
        stats = self.stats[sink.id]
        if not isinstance(sink, NetworkSink) or not sink.spool:
            return SinkQueue(sink, stats, self._refuse)
        options = SpoolOptions(
            folder=spools_folder(self.state_dir) / folder_name(sink.id),
            telemetry_bytes=round(sink.spoolMaxMb * 1e6),
            telemetry_age_s=sink.spoolMaxAgeH * 3600,
            protected_bytes=round(sink.spoolProtectedMb * 1e6),
            segment_bytes=int(min(max(sink.spoolMaxMb * 1e6 / 50, 2**14), 2**22)),
            gateway=self._gateway,
        )
        return SpoolingQueue(sink, stats, self._refuse, Spool(options, now_ms=receive_clock.now_ms))

    def _context(self, wiring: Wiring, node_id: str) -> Context:
        plain = {node_id: wired.node for node_id, wired in wiring.nodes.items()}
        services = {**self._services, SpoolRegistry: self.spools}
        part = wiring.nodes[node_id].part
        env = Environment(part.variables, self._env)
        return Context(
            plain, services, self._gateway, self.flow.revision, self.state_dir, self.timer, self.events, env,
            wiring.flows_around(part),
        )  # fmt: skip

    # -- life -----------------------------------------------------------------------------------------------------

    async def run(self, stop: asyncio.Event) -> bool:
        """Start the nodes, run the sources until `stop`, then drain; True when nothing was left under way.

        What could not be made safe within the grace period is not acknowledged: its source sends it again.
        """
        watchdog = Watchdog(self)
        keeping: asyncio.Task[None] | None = None
        try:
            async with self._deploying:
                await self._start_all(watchdog)
                keeping = asyncio.create_task(self._keeper.run_until_cancelled(), name="held messages")
                self.is_running = True
            await self._watch_sources(stop)
        finally:
            watchdog.stop()
            if keeping is not None:
                keeping.cancel()
            left = self.abandoned + len(self.transactions)
            await self._close()
        if left:
            log.warning(
                "stopped with %d batch(es) not yet safe; their sources will send them again",
                left,
            )
        return left == 0

    async def _start_all(self, watchdog: Watchdog) -> None:
        held = await self._keeper.open()
        self._keeper.on_found = self._take_held
        for node in start_order(self.wiring.nodes.values()):
            await self.start_node(node, self.wiring)
            if isinstance(node, Source):
                node.attach()
        for node in start_order(self.wiring.nodes.values()):
            await node.take_over()
        for spooling in self.spools.queues:
            await spooling.open()
        await self.spools.look_for_orphans(spools_folder(self.state_dir))
        watchdog.start()
        self.use(self.wiring)
        self._take_held(held)
        for wired in self.wiring.nodes.values():
            self.begin_by_itself(wired.node)

    async def _close(self) -> None:
        for line in self.wiring.lines.values():
            for task in tasks_of(line):
                task.cancel()
        for transaction in list(self.transactions):
            transaction.done.cancel()
        for spooling in self.spools.queues:
            await spooling.close()
        while self._started:
            with contextlib.suppress(asyncio.CancelledError):
                await self._stop_node(self._started.pop())
        await self._keeper.close()

    async def start_node(self, node: Node, wiring: Wiring) -> None:
        """Start a node of a wiring that need not be the running one yet."""
        node.on_badge = self._on_badge
        self._homes[node] = wiring
        wiring.place(node)
        try:
            await node.start(self._context(wiring, node.id))
        except BaseException:
            del self._homes[node]
            raise
        self._started.append(node)

    async def stop_nodes(self, nodes: Iterable[Node]) -> None:
        """Stop those that were started, in this order."""
        for node in nodes:
            if node in self._started:
                self._started.remove(node)
                await self._stop_node(node)

    async def _stop_node(self, node: Node) -> None:
        self._homes.pop(node, None)
        try:
            await node.stop()
        except Exception:
            log.exception("%s: could not be stopped cleanly", node.label)

    def use(self, wiring: Wiring) -> None:
        """From now on messages go the ways of this wiring, where they come from a node that is in it."""
        self.wiring = wiring
        for wired in wiring.nodes.values():
            wiring.place(wired.node)
            self._homes[wired.node] = wiring
        self._introduce()
        self._tell_badges()

    def begin_by_itself(self, node: Node) -> None:
        """What a node does without being given a message: a source runs, a holder gives out what is due."""
        if isinstance(node, Source):
            self._begin_source(node, None)
        line = self.wiring.lines.get(node.id)
        if isinstance(line, HolderLine):
            line.start()

    def run_again(self, source: Source, task: asyncio.Task[None]) -> None:
        """Go on with a source that was retired; `task` is what runs it, and may be about to end or have ended."""
        if task.done() or task.cancelling():
            self._begin_source(source, task)
        else:
            self.sources[source.id] = task
            self._sources_changed.set()

    def _begin_source(self, source: Source, before: asyncio.Task[None] | None) -> None:
        self.sources[source.id] = asyncio.create_task(
            self._run_source(source, before), name=f"source {source.label}"
        )
        self._sources_changed.set()

    def _introduce(self) -> None:
        """Tell the nodes of others that may have come or gone: link calls of link in nodes, sinks of `complete` nodes."""
        link_ins = _link_ins(self.wiring.nodes.values())
        for node_id, wired in self.wiring.nodes.items():
            line = self.wiring.lines.get(node_id)
            if isinstance(wired.node, LinkCall):
                wired.node.link_ins = link_ins
            if isinstance(line, SinkQueue):
                line.on_safe = self._tell_complete(wired.node) if self._is_completed(wired.node) else None

    def _take_held(self, held: Mapping[str, list[Any]]) -> None:
        """Give what an earlier run held to the nodes that held it."""
        for node_id, rows in held.items():
            line = self.wiring.lines.get(node_id)
            if not isinstance(line, HolderLine):
                self._keeper.orphans[node_id] = len(rows)
                log.error(
                    "%d messages are held on disk for the node %r, which the flow does not have: they wait there until "
                    "a node that holds messages has this id", len(rows), node_id,
                )  # fmt: skip
                continue
            line.adopt(self._keeper.entry(line.node.held, row) for row in rows)
            log.info("%s: takes %d held messages of the run before", line.node.label, len(rows))

    async def _watch_sources(self, stop: asyncio.Event) -> None:
        stopping = asyncio.create_task(stop.wait(), name="stop")
        changed: asyncio.Task[bool] | None = None
        try:
            while not stopping.done():
                self._sources_changed.clear()
                tasks = set(self.sources.values())
                if any(_failed_task(task) for task in tasks):
                    break
                changed = asyncio.create_task(self._sources_changed.wait(), name="sources change")
                running = {task for task in tasks if not task.done()}
                await asyncio.wait({stopping, changed, *running}, return_when=asyncio.FIRST_COMPLETED)
                changed.cancel()
        finally:
            stopping.cancel()
            if changed is not None:
                changed.cancel()
            self.stopping = True
            async with self._deploying:  # one under way is given up, or ends
                self.is_running = False
                self.gate.open()
                await self._end(set(self.sources.values()))
        for task in self.sources.values():
            if error := _failed_task(task):
                raise error

    async def _end(self, tasks: set[asyncio.Task[None]]) -> None:
        """Cancel the sources, which then wait for what is under way: for the grace period, and no longer."""
        holders = [line for line in self.wiring.lines.values() if isinstance(line, HolderLine)]
        for line in holders:
            await line.stop()
        for timeout_s in (self.grace_s, 1.0):
            for task in tasks:
                task.cancel()
            if holders:  # what is held must not hold up the end
                await asyncio.sleep(0)
                await self._keeper.flush()
            if tasks:
                _, tasks = await asyncio.wait(tasks, timeout=timeout_s)

    async def _run_source(self, source: Source, before: asyncio.Task[None] | None) -> None:
        turn = asyncio.Lock()  # who waits first passes first, also when others come just as the gate opens

        async def emit(msgs: list[Msg]) -> None:
            async with turn:
                await self.gate.passed(source)
            await self._transact(source, msgs)

        if before is not None:
            await asyncio.wait({before})
        await source.run(emit)

    # -- a batch --------------------------------------------------------------------------------------------------

    async def _transact(self, source: Source, msgs: list[Msg]) -> None:
        if not msgs:
            return
        self.batches += 1
        self.messages += len(msgs)
        try:
            async with self.transaction(source.id, msgs) as transaction:
                ports = self.transform(source, msgs, transaction)
                Turn(self, self._home_of(source), transaction, msgs).go(source.id, ports)
        except asyncio.CancelledError:
            self.abandoned += 1
            raise

    def _home_of(self, node: Node) -> Wiring:
        return self._homes.get(node, self.wiring)

    @contextlib.asynccontextmanager
    async def transaction(self, node_id: str, msgs: list[Msg]) -> AsyncIterator[Transaction]:
        """Leaving the block waits until every write put under the transaction is safe."""
        transaction = self._new_transaction(node_id, msgs)
        try:
            yield transaction
            transaction.settle()
            await transaction.done
        finally:
            self.transactions.discard(transaction)
            transaction.done.cancel()  # where it is not done: whoever waits for it hears that it will not be

    def _new_transaction(self, node_id: str, msgs: list[Msg]) -> Transaction:
        transaction = Transaction(node_id, msgs[0], len(msgs), asyncio.get_running_loop().create_future())
        self.transactions.add(transaction)
        return transaction

    def begin(self, node: Node, msgs: list[Msg]) -> Transaction:
        """A transaction of what a node gives out by itself; `settle` ends its beginning, `then` hears of its end."""
        transaction = self._new_transaction(node.id, msgs)
        transaction.done.add_done_callback(lambda _: self.transactions.discard(transaction))
        return transaction

    async def settled(self) -> bool:
        """Wait until no batch that is under way now is any more; whether all of them are safe.

        What a node remembers at the call holds then no effect of a message that may come again.
        """
        done = {transaction.done for transaction in self.transactions}
        if done:
            await asyncio.wait(done)
        return not any(future.cancelled() or future.exception() for future in done)

    def transform(self, node: Node, msgs: list[Msg], transaction: Transaction) -> Ports:
        """What a node gives out at once; what it fails on goes to `catch` nodes or dead letters."""
        assert not isinstance(node, Sink)
        stats = self.stats[node.id]
        started = time.perf_counter()
        self.running = (node, msgs[0], time.monotonic())
        failed: list[FailedMsg] = []
        try:
            ports = self._process(node, msgs, failed)
        finally:
            self.running = None
        stats.busy_s += time.perf_counter() - started
        stats.messages_in += len(msgs)
        stats.messages_out += sum(map(len, ports))
        if failed:
            stats.failures += len(failed)
            self.fail(node, failed, transaction)
        if self._is_completed(node):
            gone = {id(item.msg) for item in failed}
            self.complete(node, [msg for msg in msgs if id(msg) not in gone], transaction)
        return ports

    def _process(self, node: Any, msgs: list[Msg], failed: list[FailedMsg]) -> Ports:
        outputs = node.ports if not isinstance(node, Source) else max(1, node.ports)

        def on_error(msg: Msg, error: Exception) -> None:
            log.debug("%s failed on a message", node.label, exc_info=error)
            failed.append(FailedMsg(msg, f"{type(error).__name__}: {error}"))

        return isolate(node.process, msgs, outputs, on_error)

    def emit_from(self, node: Node, ports: Ports, transaction: Transaction) -> None:
        """Hand what a node gives out to all it can reach, as part of the transaction."""
        msgs = list(itertools.chain(*ports))
        if msgs:
            Turn(self, self._home_of(node), transaction, msgs).go(node.id, ports)

    def call(self, node_id: str, msgs: list[Msg], transaction: Transaction) -> None:
        """Hand messages to a `link in` node, as part of the transaction."""
        wired = self.nodes.get(node_id)
        if wired is None:
            return
        self.emit_from(wired.node, self.transform(wired.node, msgs, transaction), transaction)

    # -- what fails, what is complete, what is shown --------------------------------------------------------------

    def fail(self, node: Node, failed: Sequence[FailedMsg], transaction: Transaction) -> None:
        """Messages a node failed on: to the `catch` nodes that hear of it, or as dead letters."""
        listeners = self._home_of(node).listeners("catch", node.id)
        caught = [(item, with_error(node, item) if listeners else None) for item in failed]
        for listener in listeners:
            self._run_listener(listener, [msg for _, msg in caught if msg is not None], transaction)
        left = [item for item, msg in caught if msg is None]
        if left:
            self._failure_notes.tell(node, left)
            self._dead_letter(node, [_failed(node, item) for item in left], transaction)

    def _is_completed(self, node: Node) -> bool:
        return bool(self._home_of(node).listeners("complete", node.id))

    def complete(self, node: Node, msgs: Iterable[Msg], transaction: Transaction) -> None:
        """Messages a node is done with: to the `complete` nodes that hear of it, as part of the transaction."""
        for listener in self._home_of(node).listeners("complete", node.id):
            self._run_listener(listener, [with_complete(node, msg) for msg in msgs], transaction)

    def _run_listener(self, node_id: str, msgs: list[Msg], transaction: Transaction) -> None:
        wired = self.nodes.get(node_id)
        if msgs and wired is not None:
            self.emit_from(wired.node, self.transform(wired.node, msgs, transaction), transaction)

    def _dead_letter(self, node: Node, failed: list[Msg], transaction: Transaction) -> None:
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
        failed = [FailedMsg(msg, error) for msg, error in refused]
        async with self.transaction(sink.id, [msg for msg, _ in refused]) as transaction:
            self.fail(sink, failed, transaction)

    def _dead_letter_queues(self) -> list[SinkQueue]:
        return [
            line
            for line in self.wiring.lines.values()
            if isinstance(line, SinkQueue) and isinstance(line.sink, DeadLetterSink)
        ]

    def _tell_complete(self, node: Node) -> Callable[[list[Msg], list[Transaction]], None]:
        """For a sink that `complete` nodes hear of: its batches wait until what those give out is safe too."""

        def tell(msgs: list[Msg], transactions: list[Transaction]) -> None:
            following = self.begin(node, msgs)
            for transaction in transactions:
                transaction.wait_for(node.id)
            following.then(lambda failure: _safe_at(transactions, node.id, failure))
            self.complete(node, msgs, following)
            following.settle()

        return tell

    def _on_badge(self, node: Node) -> None:
        self.events.tell(f"status/{node.badge_id}", dict(node.badge))
        if not self._home_of(node).listeners("status", node.badge_id):
            return
        if self._status_under_way + len(self._badges) >= STATUS_LIMIT:
            self.dropped["status"] = self.dropped.get("status", 0) + 1
            return
        self._badges.append((node, node.badge))
        if (
            self._introduced
        ):  # not at once: a badge that a status node brings about must not become a recursion
            asyncio.get_running_loop().call_soon(self._tell_badges)

    def _tell_badges(self) -> None:
        self._introduced = True
        badges, self._badges = self._badges, []
        for node, badge in badges:
            if self._homes.get(node) is self.wiring:
                self._tell_badge(node, badge)
            elif (
                node in self._homes
            ):  # one that a deploy is starting: those who listen may not have started yet
                self._badges.append((node, badge))

    def _tell_badge(self, node: Node, badge: Badge) -> None:
        source = {"id": node.id, "type": node.type, "name": node.name}
        if instance := self.wiring.instances.get(node.badge_id):
            source = {"id": instance.id, "type": instance.type, "name": instance.raw.get("name", "")}
        for listener in self.wiring.listeners("status", node.badge_id):
            now_ms = int(self.timer.now_s() * 1000)
            msg = Msg("", None, None, now_ms, {"status": {**badge, "source": source}})
            self._status_under_way += 1
            transaction = self.begin(node, [msg])
            transaction.then(self._status_done)
            self._run_listener(listener, [msg], transaction)
            transaction.settle()

    def _status_done(self, _: BaseException | None) -> None:
        self._status_under_way -= 1

    # -- deploy ---------------------------------------------------------------------------------------------------

    def check(self, flow: Flow) -> list[Problem]:
        """What is wrong with a flow here, with the variables that this engine has."""
        return flow.check(self._env)

    async def pause(self) -> None:
        """Let no source emit: what it receives stays unacknowledged. What is under way, or held, goes its way."""
        async with self._deploying:
            self.paused = True
            self.gate.close()

    async def resume(self) -> None:
        async with self._deploying:
            self.paused = False
            self.gate.open()

    async def deploy(
        self, flow: Flow, *, restart_all: bool = False, restart_tabs: Collection[str] = ()
    ) -> None:
        """Replace the running flow between two batches: nodes the flow says nothing new of go on with their state, but
        for those of `restart_tabs`.

        Raises FlowError where the flow is wrong, DeployError where a node does not start or what is under way in one
        that goes is not safe in time; then the old flow runs on as it was.
        """
        deploying = asyncio.create_task(self._deploy(flow, restart_all, restart_tabs), name="deploy")
        deploying.add_done_callback(lambda done: done.cancelled() or done.exception())
        await asyncio.shield(deploying)  # whoever asked for it may go away, a half-made one may not stay

    async def _deploy(self, flow: Flow, restart_all: bool, restart_tabs: Collection[str]) -> None:
        async with self._deploying:
            if not self.is_running:
                raise DeployError("the flow does not run: it has not started yet, or is being stopped")
            old = self.wiring
            stay = (id for id in old.nodes if not restart_all and old.tab_of(id) not in restart_tabs)
            await Deploy(self, flow, {id: old.nodes[id] for id in stay}).run()
            self.deploys += 1

    async def take_orphans(self, node: Node) -> None:
        """Give a new node what one that had its id held, if that still waits on disk."""
        line = self.wiring.lines.get(node.id)
        if isinstance(line, HolderLine) and (rows := await self._keeper.orphans_of(node.id)):
            self._take_held({node.id: rows})

    # -- what people see ------------------------------------------------------------------------------------------

    def describe(self) -> dict[str, Any]:
        """The flow with what happened at each node, for `/api/flow` and the metrics; before the start and after the
        stop without the nodes' own status."""
        return {
            "revision": self.flow.revision,
            "batches": self.batches,
            "messages": self.messages,
            "in_flight_batches": len(self.transactions),
            "stalls": self.stalls,
            "deploys": self.deploys,
            "last_pause_s": self.last_pause_s,
            "longest_pause_s": self.longest_pause_s,
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
        line = self.wiring.lines.get(node_id)
        if not isinstance(line, SinkQueue):
            return {}
        circuit = line.circuit
        return {"circuit": circuit.state, "error": circuit.reason, "circuit_opened": circuit.opened}


def _link_ins(nodes: Iterable[Wired]) -> list[tuple[str, str, str]]:
    """Id, name and tab of each link in node."""
    return [(w.node.id, w.node.name, w.part.tab) for w in nodes if w.part.type == "link in"]


def _failed(node: Node, item: FailedMsg) -> Msg:
    return item.msg.derive(payload=Failure(node.id, item.error))


def _safe_at(transactions: Iterable[Transaction], node_id: str, failure: BaseException | None) -> None:
    for transaction in transactions:
        transaction.safe_at(node_id, failure)
