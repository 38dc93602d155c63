"""The ways into nodes that do not answer at once: workers, nodes that hold messages, link calls and their returns.

(That of a sink is `voltflow.sink_queue`.)
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from voltflow.backoff import Backoff
from voltflow.holding import Entry, Holding, Keeper
from voltflow.message import Msg
from voltflow.node import Holder, Node, Ports, Rejected, SinkUnavailable, Worker
from voltflow.sink_queue import NodeStats, Transaction
from voltflow.timer import Timer
from voltflow.turn import FailedMsg, isolate, join_ports, ports_of

log = logging.getLogger(__name__)


class Host(Protocol):
    """What a line needs of the engine."""

    timer: Timer

    def emit_from(self, node: Node, ports: Ports, transaction: Transaction) -> None:
        """Hand what the node gives out to all it can reach, as part of the transaction."""
        ...

    def fail(self, node: Node, failed: Sequence[FailedMsg], transaction: Transaction) -> None:
        """Messages a node failed on: to `catch` nodes or dead letters, as part of the transaction."""
        ...

    def call(self, node_id: str, msgs: list[Msg], transaction: Transaction) -> None:
        """Hand messages to a `link in` node, as part of the transaction."""
        ...

    def begin(self, node: Node, msgs: list[Msg]) -> Transaction:
        """A transaction of its own for what the node gives out later."""
        ...


class WorkerLine:
    """Feeds a worker: batch by batch, in order, as many at once as it says."""

    def __init__(self, node: Worker, stats: NodeStats, host: Host) -> None:
        self.node, self.stats = node, stats
        self.tasks: set[asyncio.Task[None]] = set()
        self.reason = ""
        """Why it does not get on, while that is so."""
        self._host = host
        self._waiting: deque[tuple[list[Msg], Transaction]] = deque()

    @property
    def empty(self) -> bool:
        return not self._waiting and not self.tasks

    def put(self, msgs: list[Msg], transaction: Transaction) -> None:
        transaction.wait_for(self.node.id)
        self.stats.messages_in += len(msgs)
        self.stats.waiting += len(msgs)
        self._waiting.append((msgs, transaction))
        if len(self.tasks) < self.node.parallel:
            task = asyncio.create_task(self._drain(), name=f"worker {self.node.label}")
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)

    async def _drain(self) -> None:
        while self._waiting:
            msgs, transaction = self._waiting.popleft()
            failed: list[FailedMsg] = []
            ports = await self._work(msgs, failed)
            self.stats.waiting -= len(msgs)
            self.stats.messages_out += sum(map(len, ports))
            self.stats.failures += len(failed)
            if failed:
                self._host.fail(self.node, failed, transaction)
            self._host.emit_from(self.node, ports, transaction)
            transaction.safe_at(self.node.id)

    async def _work(self, msgs: list[Msg], failed: list[FailedMsg]) -> Ports:
        try:
            return ports_of(await self._until_available(msgs), self.node.ports)
        except Exception as error:
            if isinstance(error, Rejected):
                failed += [FailedMsg(msg, text) for msg, text in error.refused]
                return ()
            if len(msgs) == 1:
                log.debug("%s failed on a message", self.node.label, exc_info=True)
                failed.append(FailedMsg(msgs[0], f"{type(error).__name__}: {error}"))
                return ()
        middle = len(msgs) // 2
        return join_ports(await self._work(msgs[:middle], failed), await self._work(msgs[middle:], failed))

    async def _until_available(self, msgs: list[Msg]) -> list[Msg] | Ports:
        backoff = Backoff(limit_s=5.0)
        while True:
            try:
                result = await self.node.work(msgs)
            except SinkUnavailable as error:
                if str(error) != self.reason:
                    log.warning("%s is not available: %s", self.node.label, error)
                self.reason = str(error)
                self.stats.retries += 1
                await asyncio.sleep(backoff.next_s())
            else:
                self.reason = ""
                return result


class HolderLine:
    """Feeds a node that holds messages, and gives out what it lets go."""

    def __init__(self, node: Holder, stats: NodeStats, keeper: Keeper, host: Host) -> None:
        self.node, self.stats = node, stats
        self._keeper, self._host = keeper, host
        node.held = Holding(node, keeper)
        self.task: asyncio.Task[None] | None = None

    empty = True
    """What it holds is taken over by who replaces it."""

    def put(self, msgs: list[Msg], transaction: Transaction) -> None:
        self.stats.messages_in += len(msgs)
        failed: list[FailedMsg] = []
        ports = self._call(self.node.process, msgs, failed)
        if failed:
            self._host.fail(self.node, failed, transaction)
        self._go_on(ports, transaction)
        self.node.held.woken.set()

    def start(self) -> None:
        """Begin to give out what is due."""
        self.task = asyncio.create_task(self._tick_when_due(), name=f"holder {self.node.label}")

    async def stop(self) -> None:
        """Give out nothing more by itself."""
        if self.task is not None:
            self.task.cancel()
            await asyncio.wait({self.task})
            self.task = None

    def adopt(self, entries: Iterable[Entry]) -> None:
        """Take messages that were held before a restart or by the node that this one replaces."""
        for entry in entries:
            self._adopt(entry)
        self.node.held.woken.set()

    def _adopt(self, entry: Entry) -> None:
        held, node = self.node.held, self.node
        mark = held.mark()
        try:
            with held.adopting(entry):
                ports = ports_of(node.restore(entry), node.ports)
        except Exception as error:  # noqa: BLE001 - it failed on it as it might at any time
            held.undo(mark)
            self._lose([entry], [FailedMsg(entry.msg, f"{type(error).__name__}: {error}")])
        else:
            self._go_on(ports, None)

    def drop(self, why: str) -> None:
        """What is held becomes dead letters: the node goes."""
        entries = list(self.node.held.entries())
        self.node.held.groups.clear()
        if entries:
            self._lose(entries, [FailedMsg(entry.msg, why) for entry in entries])

    def _lose(self, entries: list[Entry], failed: list[FailedMsg]) -> None:
        transaction = self._host.begin(self.node, [item.msg for item in failed])
        self._host.fail(self.node, failed, transaction)
        self._settle_after(transaction, entries)
        transaction.settle()

    async def _tick_when_due(self) -> None:
        held, timer = self.node.held, self._host.timer
        while True:
            held.woken.clear()
            due_s = self.node.due_s()
            if due_s is None or due_s > timer.now_s():
                await timer.until(due_s, held.woken)
                continue
            failed: list[FailedMsg] = []
            mark = held.mark()
            try:
                ports = ports_of(self.node.tick(), self.node.ports)
            except Exception:
                held.undo(mark)
                log.exception("%s: what is due cannot be given out, tried again in a second", self.node.label)
                await asyncio.sleep(1.0)
                continue
            self._go_on(ports, None)
            assert not failed
            await asyncio.sleep(0)  # a node with much to give out lets others run

    def _call(
        self, process: Callable[[list[Msg]], list[Msg] | Ports], msgs: list[Msg], failed: list[FailedMsg]
    ) -> Ports:
        held = self.node.held

        def guarded(batch: list[Msg]) -> list[Msg] | Ports:
            mark = held.mark()
            try:
                return process(batch)
            except BaseException:
                held.undo(mark)
                raise

        def on_error(msg: Msg, error: Exception) -> None:
            log.debug("%s failed on a message", self.node.label, exc_info=error)
            failed.append(FailedMsg(msg, f"{type(error).__name__}: {error}"))

        return isolate(guarded, msgs, self.node.ports, on_error)

    def _go_on(self, ports: Ports, transaction: Transaction | None) -> None:
        """The batch waits for what it gave to hold; what the node gives out is a batch of its own, for which the input
        waits too, and what was held until now is forgotten when that one is safe."""
        kept, gone = self.node.held.take()
        if transaction is not None:
            self._keeper.hold(kept, transaction)
        msgs = list(itertools.chain(*ports))
        self.stats.messages_out += len(msgs)
        if not msgs:
            self._keeper.settle(gone)
            return
        following = self._host.begin(self.node, msgs)
        if transaction is not None:
            transaction.wait_for(self.node.id)
            following.then(lambda failure: transaction.safe_at(self.node.id, failure))
        self._settle_after(following, gone)
        self._host.emit_from(self.node, ports, following)
        following.settle()

    def _settle_after(self, transaction: Transaction, gone: list[Entry]) -> None:
        def settle(failure: BaseException | None) -> None:
            if failure is None:
                self._keeper.settle(gone)
            else:
                self._keeper.give_back(gone, failure)

        transaction.then(settle)


LINK_SOURCE = "_linkSource"
DEEPEST_CALL = 50


class CallLine:
    """Feeds a link call: sends messages to a link in, and waits for what a returning link out gives back."""

    def __init__(
        self, node: Node, stats: NodeStats, host: Host, target_of: Callable[[Msg], str], timeout_s: float
    ) -> None:
        self.node, self.stats = node, stats
        self._host, self._target_of, self._timeout_s = host, target_of, timeout_s
        self._open: dict[str, tuple[float, Msg, Transaction]] = {}
        """Calls by their id: until when, with what, for whom."""
        self._numbers = itertools.count(1)
        self._woken = asyncio.Event()
        self.task: asyncio.Task[None] | None = None

    def put(self, msgs: list[Msg], transaction: Transaction) -> None:
        self.stats.messages_in += len(msgs)
        failed: list[FailedMsg] = []
        calls: dict[str, list[Msg]] = {}
        due_s = self._host.timer.now_s() + self._timeout_s
        for msg in msgs:
            stack = list((msg.props or {}).get(LINK_SOURCE, ()))
            if len(stack) >= DEEPEST_CALL:
                failed.append(FailedMsg(msg, f"link calls within each other, {DEEPEST_CALL} deep"))
                continue
            try:
                target = self._target_of(msg)
            except LookupError as error:
                failed.append(FailedMsg(msg, str(error.args[0])))
                continue
            call = f"{self.node.id}:{next(self._numbers)}"
            self._open[call] = (due_s, msg, transaction)
            transaction.wait_for(self.node.id)
            called = msg.derive(
                props={**(msg.props or {}), LINK_SOURCE: [*stack, {"id": call, "node": self.node.id}]}
            )
            calls.setdefault(target, []).append(called)
        if failed:
            self.stats.failures += len(failed)
            self._host.fail(self.node, failed, transaction)
        for target, batch in calls.items():
            self._host.call(target, batch, transaction)
        if self._open and self.task is None:
            self.task = asyncio.create_task(self._time_out(), name=f"link call {self.node.label}")

    def back(self, call: str, msg: Msg, transaction: Transaction) -> None:
        """What came back for a call; one that nobody waits for any more is dropped, as in Node-RED."""
        found = self._open.pop(call, None)
        if found is None:
            return
        self.stats.messages_out += 1
        self._host.emit_from(self.node, ([msg],), transaction)
        found[2].safe_at(self.node.id)

    async def _time_out(self) -> None:
        timer = self._host.timer
        while self._open:
            call, (due_s, msg, transaction) = next(iter(self._open.items()))
            if due_s > timer.now_s():
                await timer.until(due_s, self._woken)
                continue
            del self._open[call]
            self.stats.failures += 1
            self._host.fail(self.node, [FailedMsg(msg, "timeout")], transaction)
            transaction.safe_at(self.node.id)
        self.task = None

    @property
    def empty(self) -> bool:
        return not self._open


class ReturnLine:
    """Feeds a link out that returns: to the call that a message came by."""

    empty = True

    def __init__(self, stats: NodeStats, calls: Callable[[str], CallLine | None]) -> None:
        self.stats, self._calls = stats, calls

    def put(self, msgs: list[Msg], transaction: Transaction) -> None:
        self.stats.messages_in += len(msgs)
        for msg in msgs:
            props = dict(msg.props or {})
            stack = list(props.pop(LINK_SOURCE, ()))
            if not stack:
                continue  # it came by no call
            call = stack.pop()
            if stack:
                props[LINK_SOURCE] = stack
            line = self._calls(call["node"])
            if line is not None:
                line.back(call["id"], msg.derive(props=props or None), transaction)
