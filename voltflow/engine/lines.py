"""The ways into nodes that do not answer at once: here that of workers.

That of a sink is `voltflow.engine.sink_queue`, that of a node that holds messages `voltflow.engine.holder_line`, those of link calls are in
`voltflow.engine.call_lines`.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterable
from typing import Protocol

from voltflow.backoff import Backoff
from voltflow.engine.outcomes import Outcomes
from voltflow.engine.sink_queue import NodeStats, Transaction
from voltflow.engine.timer import Timer
from voltflow.engine.turn import FailedMsg, join_ports, ports_of
from voltflow.engine.why import Why
from voltflow.logs import about
from voltflow.message import Msg
from voltflow.node import Node, Ports, Rejected, SinkUnavailable, Worker

log = logging.getLogger(__name__)


class Host(Protocol):
    """What a line needs of the engine."""

    timer: Timer
    outcomes: Outcomes

    def emit_from(self, node: Node, ports: Ports, transaction: Transaction) -> None:
        """Hand what the node gives out to all it can reach, as part of the transaction."""
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
            self.stats.fail(len(failed))
            if failed:
                self._host.outcomes.fail(self.node, failed, transaction)
            self._host.emit_from(self.node, ports, transaction)
            self._host.outcomes.complete(self.node, _without(msgs, failed), transaction)
            transaction.safe_at(self.node.id)

    async def _work(self, msgs: list[Msg], failed: list[FailedMsg]) -> Ports:
        try:
            return ports_of(await self._until_available(msgs), self.node.ports)
        except Exception as error:
            if isinstance(error, Rejected):
                failed += [FailedMsg(msg, text) for msg, text in error.refused]
                return ()
            if len(msgs) == 1:
                log.debug("%s failed on a message", self.node.label, exc_info=True, extra=about(msgs[0]))
                failed.append(FailedMsg(msgs[0], Why.of(error)))
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


def _without(msgs: Iterable[Msg], failed: Iterable[FailedMsg]) -> list[Msg]:
    """The messages a node did not fail on."""
    gone = {id(item.msg) for item in failed}
    return [msg for msg in msgs if id(msg) not in gone]
