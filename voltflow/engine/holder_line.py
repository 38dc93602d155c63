"""The way into a node that holds messages, and what it gives out by itself."""

from __future__ import annotations

import asyncio
import functools
import itertools
import logging
import time
from collections.abc import Iterable

from voltflow.engine.holding import Entry, Holding
from voltflow.engine.keeper import AGAIN_S, Keeper
from voltflow.engine.lines import Host
from voltflow.engine.sink_queue import NodeStats, Transaction
from voltflow.engine.turn import FailedMsg, ports_of
from voltflow.engine.why import Why
from voltflow.logs import about
from voltflow.message import Msg
from voltflow.node import Holder, Ports

log = logging.getLogger(__name__)

UNDER_WAY = 5000
"""Messages that a node has given out by itself and that are not safe yet, at most: then it waits."""


class HolderLine:
    """Feeds a node that holds messages, and gives out what it lets go.

    It hands over one message at a time: what a node makes of one may depend on those before it, so a message it fails on
    must not take back what was done for the others.
    """

    def __init__(self, node: Holder, stats: NodeStats, keeper: Keeper, host: Host) -> None:
        self.node, self.stats = node, stats
        self._keeper, self._host = keeper, host
        node.held = Holding(node, keeper)
        self.task: asyncio.Task[None] | None = None
        self._again: list[Entry] = []
        self._under_way = 0
        self._room = asyncio.Event()
        self._room.set()

    empty = True
    """What it holds is taken over by who replaces it."""

    def put(self, msgs: list[Msg], transaction: Transaction) -> None:
        started = time.perf_counter()
        failed: list[FailedMsg] = []
        done: list[Msg] = []
        answers = [self._process(msg, failed, done) for msg in msgs]
        self.stats.busy_s += time.perf_counter() - started
        self.stats.messages_in += len(msgs)
        self.stats.fail(len(failed))
        if failed:
            self._host.outcomes.fail(self.node, failed, transaction)
        self._go_on(_joined(answers), transaction)
        if done:
            self._host.outcomes.complete(self.node, done, transaction)
        self.node.held.woken.set()

    def _process(self, msg: Msg, failed: list[FailedMsg], done: list[Msg]) -> Ports:
        held = self.node.held
        size = held.size
        try:
            with held.attempt():
                ports = ports_of(self.node.process([msg]), self.node.ports)
        except Exception as error:
            log.debug("%s failed on a message", self.node.label, exc_info=error, extra=about(msg))
            failed.append(FailedMsg(msg, Why.of(error)))
            return ()
        if held.size <= size:
            done.append(msg)
        return ports

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
        try:
            with held.adopting(entry):
                ports = ports_of(node.restore(entry), node.ports)
        except Exception as error:  # noqa: BLE001 - it failed on it as it might at any time
            self._lose([entry], [FailedMsg(entry.msg, Why.of(error))])
        else:
            self._go_on(ports, None)

    def hand_over(self) -> list[Entry]:
        """What it holds, for the line of the node that takes this one's place."""
        again, self._again = self._again, []
        return [*again, *self.node.held.hand_over()]

    def drop(self, why: str) -> None:
        """The node goes: what has not come out of it yet becomes dead letters."""
        owed = {group for group in self.node.held.groups if self.node.owed(group)}
        entries = self.hand_over()
        lost = [entry for entry in entries if entry.group in owed]
        self._keeper.settle(entry for entry in entries if entry.group not in owed)
        if lost:
            self._lose(lost, [FailedMsg(entry.msg, why) for entry in lost])

    def _lose(self, entries: list[Entry], failed: list[FailedMsg]) -> None:
        self.stats.fail(len(failed))
        transaction = self._host.begin(self.node, [item.msg for item in failed])
        self._host.outcomes.fail(self.node, failed, transaction)
        self._settle_after(transaction, entries)
        transaction.settle()

    # -- what it gives out by itself --------------------------------------------------------------------------------

    async def _tick_when_due(self) -> None:
        held, timer, said = self.node.held, self._host.timer, ""
        while True:
            await self._room.wait()
            held.woken.clear()
            try:
                due_s = self.node.due_s()
                if due_s is None or due_s > timer.now_s():
                    await timer.until(due_s, held.woken)
                    continue
                with held.attempt():
                    ports = ports_of(self.node.tick(), self.node.ports)
            except Exception as error:
                if said != str(error):
                    log.exception("%s: what is due cannot be given out, tried again", self.node.label)
                said = str(error)
                await asyncio.sleep(AGAIN_S)
                continue
            self._go_on(ports, None)
            await asyncio.sleep(0)  # a node with much to give out lets others run

    def _go_on(self, ports: Ports, transaction: Transaction | None) -> None:
        """The batch waits for what it gave to hold. What the node gives out is a batch of its own, for which the input
        waits too, and what was held until now is forgotten when that one is safe: with all that was held anew, for that
        may be what the node made of it."""
        change = self.node.held.take()
        self.stats.waiting = self.node.held.size
        new = [entry for entry in change.kept if not entry.row and entry.ticket is None]
        msgs = list(itertools.chain(*ports))
        self.stats.messages_out += len(msgs)
        first = [*msgs, *(entry.msg for entry, _ in change.failed)]
        if not first and not (new and (change.gone or transaction is None)):
            if transaction is not None:
                self._keeper.hold(new, transaction)
            self._keeper.settle(change.gone)
            self._complete(change.gone, transaction)
            return
        following = self._host.begin(self.node, first or [entry.msg for entry in new])
        if transaction is not None:
            transaction.wait_for(self.node.id)
            following.then(functools.partial(transaction.safe_at, self.node.id))
        else:
            self._bound(following, len(msgs))
        self._keeper.hold(new, following if change.gone or transaction is None else transaction)
        self._settle_after(following, change.gone)
        if change.failed:
            self.stats.fail(len(change.failed))
            self._host.outcomes.fail(
                self.node, [FailedMsg(entry.msg, why) for entry, why in change.failed], following
            )
        self._host.emit_from(self.node, ports, following)
        self._complete(change.gone, following)
        following.settle()

    def _bound(self, transaction: Transaction, count: int) -> None:
        """Not more than the far side takes: what the node holds is on disk, what it has given out only in memory too."""

        def less(_: BaseException | None) -> None:
            self._under_way -= count
            if self._under_way < UNDER_WAY:
                self._room.set()

        self._under_way += count
        if self._under_way >= UNDER_WAY:
            self._room.clear()
        transaction.then(less)

    def _complete(self, gone: list[Entry], transaction: Transaction | None) -> None:
        if gone and transaction is not None:
            self._host.outcomes.complete(self.node, [entry.msg for entry in gone], transaction)

    def _settle_after(self, transaction: Transaction, gone: list[Entry]) -> None:
        def settle(failure: BaseException | None) -> None:
            if failure is None:
                self._keeper.settle(gone)
            elif again := self._keeper.give_back(gone, failure):
                log.warning("%s: what it gave out failed (%s), it is tried again", self.node.label, failure)
                self._again += again
                asyncio.get_running_loop().call_later(AGAIN_S, self._try_again)

        transaction.then(settle)

    def _try_again(self) -> None:
        again, self._again = self._again, []
        if self.task is not None:  # otherwise the next start takes it from disk
            self.adopt(again)


def _joined(answers: list[Ports]) -> Ports:
    """The answers for several messages as one."""
    ports: list[list[Msg]] = []
    for answer in answers:
        ports += ([] for _ in range(len(answer) - len(ports)))
        for port, msgs in zip(ports, answer, strict=False):
            port += msgs
    return tuple(ports)
