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
from collections.abc import AsyncIterator, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from voltflow.engine.assembly import line_into
from voltflow.engine.badge_news import BadgeNews
from voltflow.engine.circuit import Circuit
from voltflow.engine.deploy import Deploy, DeployError, start_order, tasks_of
from voltflow.engine.events import Events
from voltflow.engine.held_store import HeldStore
from voltflow.engine.holder_line import HolderLine
from voltflow.engine.keeper import Keeper
from voltflow.engine.outcomes import Outcomes
from voltflow.engine.sink_queue import NodeStats, SinkQueue, Transaction
from voltflow.engine.sources import Sources
from voltflow.engine.store_forward import SpoolRegistry, spools_folder
from voltflow.engine.timer import Timer, WallTimer
from voltflow.engine.turn import FailedMsg, Turn, isolate
from voltflow.engine.watchdog import Watchdog
from voltflow.engine.why import Why
from voltflow.engine.wiring import Line, Wired, Wiring
from voltflow.flow.environment import Environment
from voltflow.flow.flow import Flow, Problem
from voltflow.logs import about
from voltflow.message import Msg
from voltflow.node import (
    ConfigNode,
    Context,
    Node,
    Ports,
    Sink,
    Source,
)
from voltflow.nodes.link_call import LinkCall

__all__ = ["DeployError", "Engine", "NodeStats"]

log = logging.getLogger(__name__)


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
        """For how long deploys let sources wait: the gate of those that stay, the start of those that come."""
        self.grace_s, self.watchdog_s = grace_s, watchdog_s
        self.timer: Timer = timer or WallTimer()
        self.events = Events()
        self.outcomes = Outcomes(self)
        self.transactions: set[Transaction] = set()
        self.running: tuple[Node, Msg, float] | None = None
        self.state_dir = state_dir
        self.sources = Sources(self._transact)
        self.stopping = False
        self._env, self.gateway = env, gateway
        self._services = dict(services or {})
        self._keeper = Keeper(held_store or HeldStore(state_dir), self.timer, secrets.token_hex(4))
        self._started: list[Node] = []
        self.paused = False
        self.is_running = False
        """Whether all nodes have started and none was stopped."""
        self._deploying = asyncio.Lock()
        self._badges = BadgeNews(self)
        self.homes: dict[Node, Wiring] = {}
        """The wiring of each node that runs."""
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
        return line_into(node, self)

    def _context(self, wiring: Wiring, node_id: str) -> Context:
        # no others: nodes that keep their context would keep each other when a deploy has replaced them
        configs = {id: wired.node for id, wired in wiring.nodes.items() if isinstance(wired.node, ConfigNode)}
        services = {**self._services, SpoolRegistry: self.spools}
        part = wiring.nodes[node_id].part
        env = Environment(part.variables, self._env)
        return Context(
            configs, services, self.gateway, self.flow.revision, self.state_dir, self.timer, self.events, env,
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
        node.on_badge = self._badges.heard
        self.homes[node] = wiring
        wiring.place(node)
        try:
            await node.start(self._context(wiring, node.id))
        except BaseException:
            del self.homes[node]
            raise
        self._started.append(node)

    async def stop_nodes(self, nodes: Iterable[Node]) -> None:
        """Stop those that were started, side by side; config nodes after all that may use them."""
        stopping = [node for node in nodes if node in self._started]
        self._started = [node for node in self._started if node not in stopping]
        for configs in (False, True):
            ends = (self._stop_node(node) for node in stopping if isinstance(node, ConfigNode) is configs)
            await asyncio.gather(*ends, return_exceptions=True)

    async def _stop_node(self, node: Node) -> None:
        self.homes.pop(node, None)
        try:
            await node.stop()
        except Exception:
            log.exception("%s: could not be stopped cleanly", node.label)

    def use(self, wiring: Wiring) -> None:
        """From now on messages go the ways of this wiring, where they come from a node that is in it."""
        self.wiring = wiring
        for wired in wiring.nodes.values():
            wiring.place(wired.node)
            self.homes[wired.node] = wiring
        self._introduce()
        self._badges.tell()

    def begin_by_itself(self, node: Node) -> None:
        """What a node does without being given a message: a source runs, a holder gives out what is due."""
        if isinstance(node, Source):
            self.sources.begin(node)
        line = self.wiring.lines.get(node.id)
        if isinstance(line, HolderLine):
            line.start()

    def _introduce(self) -> None:
        """Tell the nodes of others that may have come or gone: link calls of link in nodes, sinks of `complete` nodes."""
        link_ins = _link_ins(self.wiring.nodes.values())
        for node_id, wired in self.wiring.nodes.items():
            line = self.wiring.lines.get(node_id)
            if isinstance(wired.node, LinkCall):
                wired.node.link_ins = link_ins
            if isinstance(line, SinkQueue):
                line.on_safe = (
                    self.outcomes.teller(wired.node) if self.outcomes.is_completed(wired.node) else None
                )

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
        try:
            await self.sources.watch(stop)
        finally:
            self.stopping = True
            async with self._deploying:  # one under way is given up, or ends
                self.is_running = False
                self.sources.gate.open()
                await self._end(set(self.sources.tasks.values()))
        self.sources.raise_failure()

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

    # -- a batch --------------------------------------------------------------------------------------------------

    async def _transact(self, source: Source, msgs: list[Msg]) -> None:
        if not msgs:
            return
        self.batches += 1
        self.messages += len(msgs)
        try:
            async with self.transaction(source.id, msgs) as transaction:
                ports = self.transform(source, msgs, transaction)
                Turn(self, self.home_of(source), transaction, msgs).go(source.id, ports)
        except asyncio.CancelledError:
            self.abandoned += 1
            raise

    def home_of(self, node: Node) -> Wiring:
        return self.homes.get(node, self.wiring)

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
            stats.fail(len(failed))
            self.outcomes.fail(node, failed, transaction)
        if self.outcomes.is_completed(node):
            gone = {id(item.msg) for item in failed}
            self.outcomes.complete(node, [msg for msg in msgs if id(msg) not in gone], transaction)
        return ports

    def _process(self, node: Any, msgs: list[Msg], failed: list[FailedMsg]) -> Ports:
        outputs = node.ports if not isinstance(node, Source) else max(1, node.ports)

        def on_error(msg: Msg, error: Exception) -> None:
            if log.isEnabledFor(logging.DEBUG):
                log.debug("%s failed on a message", node.label, exc_info=error, extra=about(msg))
            failed.append(FailedMsg(msg, Why.of(error)))

        return isolate(node.process, msgs, outputs, on_error)

    def emit_from(self, node: Node, ports: Ports, transaction: Transaction) -> None:
        """Hand what a node gives out to all it can reach, as part of the transaction."""
        msgs = list(itertools.chain(*ports))
        if msgs:
            Turn(self, self.home_of(node), transaction, msgs).go(node.id, ports)

    def call(self, node_id: str, msgs: list[Msg], transaction: Transaction) -> None:
        """Hand messages to a node that answers at once, if the flow has it, as part of the transaction."""
        wired = self.nodes.get(node_id)
        if wired is None or not msgs:
            return
        self.emit_from(wired.node, self.transform(wired.node, msgs, transaction), transaction)

    # -- deploy ---------------------------------------------------------------------------------------------------

    def check(self, flow: Flow) -> list[Problem]:
        """What is wrong with a flow here, with the variables that this engine has."""
        return flow.check(self._env)

    async def pause(self) -> None:
        """Let no source emit: what it receives stays unacknowledged. What is under way, or held, goes its way."""
        async with self._deploying:
            self.paused = True
            self.sources.gate.close()

    async def resume(self) -> None:
        async with self._deploying:
            self.paused = False
            self.sources.gate.open()

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
            "held": self._keeper.describe(),
            "nodes": [
                {
                    "id": node_id,
                    "type": wired.node.type,
                    "name": wired.node.name,
                    "wires": wired.targets,
                    **self.stats[node_id].facts(),
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
