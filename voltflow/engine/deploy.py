"""A deploy: the running flow is replaced between two batches, or goes on as if nothing had been.

Everything that can fail comes first and changes nothing: what is new starts, the sources pause, what is under way in the nodes
that go becomes safe. Then new sources receive in the place of the old ones, in one turn of the event loop; what the old ones
took is brought to its end through the old flow; and the new flow stands.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from voltflow.engine.holder_line import HolderLine
from voltflow.engine.store_forward import SpoolingQueue, folder_name, spools_folder
from voltflow.engine.wiring import Line, Wired, Wiring
from voltflow.node import ConfigNode, Node, Source

if TYPE_CHECKING:
    from voltflow.engine.engine import Engine
    from voltflow.flow.flow import Flow

log = logging.getLogger(__name__)

DRAIN_S = 10.0
"""How long a deploy waits for what is under way in the nodes that it replaces."""
START_S = 60.0
"""How long a node may take to start."""
LOOK_S = 0.002
REMOVED = "removed_by_deploy"
"""Why messages are dropped that a removed node had only in memory."""
PIECE_S = 5.0
"""How long a piece of a spool's backlog that is under way may take."""


class DeployError(Exception):
    """A deploy did not happen, the old flow runs on; `node_id` is the node that stood in its way, if one did."""

    def __init__(self, text: str, node_id: str = "") -> None:
        super().__init__(text)
        self.node_id = node_id


class Change:
    """What a deploy changes: nodes that come and go; one that is changed does both."""

    def __init__(self, old: Wiring, new: Wiring) -> None:
        self.old, self.new = old, new
        self.come = start_order(_only_in(new, old))
        self.go = start_order(_only_in(old, new))
        self.going_sources = [node for node in self.go if isinstance(node, Source)]
        self.coming_sources = [node for node in self.come if isinstance(node, Source)]
        self.going_lines = {node.id: old.lines[node.id] for node in self.go if node.id in old.lines}
        self.coming_spools = [
            line
            for node in self.come
            if isinstance(line := new.lines.get(node.id), SpoolingQueue)
        ]  # fmt: skip

    def successor(self, node: Node) -> Node | None:
        wired = self.new.nodes.get(node.id)
        return wired.node if wired else None


def _only_in(one: Wiring, other: Wiring) -> Iterator[Wired]:
    for node_id, wired in one.nodes.items():
        if node_id not in other.nodes or other.nodes[node_id].node is not wired.node:
            yield wired


def start_order(nodes: Iterable[Wired]) -> list[Node]:
    """Config nodes, sources, the rest: a source's subscription stands before a sink opens the connection they
    share; what the broker's session sends at once would else be acknowledged unseen."""
    return sorted(
        (wired.node for wired in nodes),
        key=lambda node: (not isinstance(node, ConfigNode), not isinstance(node, Source)),
    )


def tasks_of(line: Line) -> list[asyncio.Task[None]]:
    """What runs for a line."""
    tasks = set(getattr(line, "tasks", ()))
    task = getattr(line, "task", None)
    return [*tasks, task] if task is not None else list(tasks)


class Deploy:
    """One deploy of a running engine. Use: `await Deploy(engine, flow, stay).run()`; raises DeployError or FlowError.

    `stay`: the running nodes that may go on where the flow says nothing new of them.
    """

    def __init__(self, engine: Engine, flow: Flow, stay: Mapping[str, Wired]) -> None:
        self._engine, self._flow = engine, flow
        old = engine.wiring
        try:
            self._change = Change(old, engine.wire(flow, stay))
        except BaseException:
            self._forget_stats(old)
            raise
        self._ending: dict[Source, asyncio.Task[None]] = {}
        """Sources that take nothing more, and what brings what they took to its end."""
        self._exchanged = False
        """Whether some may have been told so."""
        self._paused_at: float | None = None

    async def run(self) -> None:
        engine, before = self._engine, self._engine.flow
        engine.flow = self._flow  # nodes that start are told its revision
        try:
            await self._start()
            self._paused_at = time.monotonic()
            engine.sources.gate.close()
            await self._until_safe()
            self._exchange_sources()
            await self._until_safe()
        except BaseException:
            engine.flow = before
            await self._give_up()
            raise
        else:
            await self._switch()
        finally:
            self._let_sources_go_on()
        await engine.spools.look_for_orphans(spools_folder(engine.state_dir))

    def _let_sources_go_on(self) -> None:
        """Those that stay or are back, and those that have begun; until now all of them have waited."""
        engine = self._engine
        if engine.paused:
            engine.sources.gate.close()
        else:
            engine.sources.gate.open()
        if self._paused_at is not None:
            engine.last_pause_s = time.monotonic() - self._paused_at
            engine.longest_pause_s = max(engine.longest_pause_s, engine.last_pause_s)

    # -- what may fail --------------------------------------------------------------------------------------------

    async def _start(self) -> None:
        for node in self._change.come:
            try:
                async with asyncio.timeout(START_S):
                    await self._engine.start_node(node, self._change.new)
            except TimeoutError as error:
                text = str(error) or f"it takes more than {START_S:g} s"
                raise DeployError(f"{self._label_of(node)} does not start: {text}", node.id) from error
            except Exception as error:
                raise DeployError(f"{self._label_of(node)} does not start: {error}", node.id) from error
        for line in self._change.coming_spools:
            folder = spools_folder(self._engine.state_dir) / folder_name(line.sink.id)
            try:
                await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
            except OSError as error:
                raise DeployError(
                    f"{line.sink.label} has no room for its spool: {error}", line.sink.id
                ) from error

    def _label_of(self, node: Node) -> str:
        raw = self._change.new.nodes[node.id].part.raw
        return node.label if node.name else f"{node.label}{self._flow.place_of(raw)}"

    async def _until_safe(self) -> None:
        """Until nothing is under way in what goes. Held messages are written meanwhile, not after their usual time."""
        deadline_s = time.monotonic() + DRAIN_S
        while busy := list(self._busy()):
            if self._engine.stopping:
                raise DeployError("the flow is being stopped")
            if time.monotonic() > deadline_s:
                names = ", ".join(self._engine.label_of(node_id) for node_id in busy)
                raise DeployError(
                    f"what {names} has taken is not safe after {DRAIN_S:g} s: bring its far side back, or leave the node "
                    "as it is", busy[0],
                )  # fmt: skip
            if self._engine.held.unsafe:
                await self._engine.held.flush()
            await asyncio.sleep(LOOK_S)

    def _busy(self) -> Iterator[str]:
        """The nodes that something waits for."""
        lines = [node_id for node_id, line in self._change.going_lines.items() if not line.empty]
        yield from lines
        sources = {node.id for node in self._change.going_sources}
        found: dict[str, None] = {}
        for transaction in self._engine.transactions:
            if transaction.source in sources:
                waiting = [node_id for node_id, count in transaction.waiting_for.items() if count]
                found.update(dict.fromkeys(waiting or [transaction.source]))
        yield from (node_id for node_id in found if node_id not in lines)
        if not found:
            yield from (source.id for source, task in self._ending.items() if not task.done())

    def _exchange_sources(self) -> None:
        """In one turn of the event loop, so that each message is either an old source's or a new one's."""
        change, engine = self._change, self._engine
        self._exchanged = True
        for node in change.go:
            if isinstance(node, ConfigNode):
                node.hand_over(change.successor(node))
        for source in change.coming_sources:
            source.attach()
        for source in change.going_sources:
            engine.sources.gate.let(source)
            self._ending[source] = task = engine.sources.tasks.pop(source.id)
            if not source.retire():
                task.cancel()

    async def _give_up(self) -> None:
        """What was started for the new flow is stopped, sources that were ended begin again."""
        change, engine = self._change, self._engine
        if self._exchanged:
            for source in change.coming_sources:
                source.detach()
            for node in change.go:
                if isinstance(node, ConfigNode):
                    node.take_back()
            for source, task in self._ending.items():
                source.attach()
                engine.sources.run_again(source, task)
        await engine.stop_nodes(change.come)
        self._forget_stats(change.old)

    def _forget_stats(self, wiring: Wiring) -> None:
        stats = self._engine.stats
        for node_id in [node_id for node_id in stats if node_id not in wiring.nodes]:
            del stats[node_id]

    # -- what may not ---------------------------------------------------------------------------------------------

    async def _switch(self) -> None:
        """Sources that stay go on before the old nodes stop, which nothing reaches any more; those that come begin after it:
        only then a client id, for instance, is theirs."""
        change, engine = self._change, self._engine
        engine.use(change.new)
        for node in change.come:
            engine.stats[node.id].begin_anew()
        for source, task in self._ending.items():
            if not task.cancelled() and (error := task.exception()):
                log.error("%s ended with an error when it was replaced", source.label, exc_info=error)
        await self._exchange_lines()
        for source in change.going_sources:
            source.detach()
        await self._hand_on_what_is_held()
        self._let_sources_go_on()
        if not change.coming_sources:
            self._paused_at = None  # what follows holds up nobody
        await engine.stop_nodes(change.go)
        for node in change.go:
            self._leave(node)
        for node in change.come:
            await self._take_over(node)
        for node in change.come:
            engine.begin_by_itself(node)
        self._forget_stats(change.new)

    async def _exchange_lines(self) -> None:
        """Spools pass to who has the same id now."""
        change, engine = self._change, self._engine
        for line in change.going_lines.values():
            await self._close_line(line)
        for holder, following in self._held():
            if following is None:
                holder.drop("the node that held it was removed by a deploy")
        engine.spools.replace(change.new.lines.values())
        for spool in change.coming_spools:
            await self._open_spool(spool)

    def _held(self) -> Iterator[tuple[HolderLine, HolderLine | None]]:
        """Nodes that hold messages and go, and who has their id now and holds messages too."""
        for node_id, line in self._change.going_lines.items():
            if isinstance(line, HolderLine):
                following = self._change.new.lines.get(node_id)
                yield line, following if isinstance(following, HolderLine) else None

    async def _hand_on_what_is_held(self) -> None:
        for line, following in self._held():
            if following is not None:
                following.adopt(line.hand_over())
        for node in self._change.come:
            await self._engine.take_orphans(node)

    @staticmethod
    async def _close_line(line: Line) -> None:
        if isinstance(line, SpoolingQueue):
            await line.rest(PIECE_S)
        if isinstance(line, HolderLine):
            await line.stop()
        if tasks := tasks_of(line):
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        if isinstance(line, SpoolingQueue):
            await line.close()

    @staticmethod
    async def _open_spool(line: SpoolingQueue) -> None:
        try:
            await line.open()
        except OSError:
            log.exception(
                "%s: its spool cannot be opened; what the far side does not take waits", line.sink.label
            )

    def _leave(self, node: Node) -> None:
        if lost := node.leave_to(self._change.successor(node)):
            dropped = self._engine.dropped
            dropped[REMOVED] = dropped.get(REMOVED, 0) + lost
            log.warning(
                "%s: %d messages that waited in it are dropped, a deploy has removed it", node.label, lost
            )

    @staticmethod
    async def _take_over(node: Node) -> None:
        try:
            await node.take_over()
        except Exception:
            log.exception("%s: could not take over from the node before it", node.label)
