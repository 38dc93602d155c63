"""What becomes of a message at a node: failed, refused, or done with. `catch` and `complete` nodes hear of it; what nobody
catches is a dead letter."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from voltflow.engine.failure_notes import FailureNotes
from voltflow.engine.sink_queue import SinkQueue, Transaction
from voltflow.engine.turn import FailedMsg, with_complete, with_error
from voltflow.engine.why import Why
from voltflow.logs import about
from voltflow.message import Msg
from voltflow.node import DeadLetterSink, Failure, Node, Sink

if TYPE_CHECKING:
    from voltflow.engine.engine import Engine

log = logging.getLogger(__name__)


class Outcomes:
    """Those of an engine's nodes; what they bring about is part of the transaction they are told with."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._notes = FailureNotes(engine.events, engine.timer)
        self.on_dead: Callable[[list[Msg]], None] | None = None
        """Hears of what becomes a dead letter; the payloads are `Failure`s."""

    def fail(self, node: Node, failed: Sequence[FailedMsg], transaction: Transaction) -> None:
        """Messages a node failed on: to the `catch` nodes that hear of it, or as dead letters."""
        if failed and (stats := self._engine.stats.get(node.id)) is not None:
            stats.note(str(failed[-1].error))
        listeners = self._engine.home_of(node).listeners("catch", node.id)
        left = self._catch(node, listeners, failed, transaction) if listeners else failed
        if left:
            self._notes.tell(node, left)
            if log.isEnabledFor(logging.DEBUG):
                for item in left:
                    log.debug("%s: dead letter: %s", node.label, item.error, extra=about(item.msg))
            dead = [item.msg.derive(payload=Failure(node.id, str(item.error))) for item in left]
            if self.on_dead:
                self.on_dead(dead)
            self._dead_letter(node, dead, transaction)

    def _catch(
        self, node: Node, listeners: Iterable[str], failed: Sequence[FailedMsg], transaction: Transaction
    ) -> list[FailedMsg]:
        """Which no `catch` node has heard of: those that failed too often, and those whose failure could not be handled. The
        batch they came in has to go on."""
        caught = [(item, with_error(node, item)) for item in failed]
        left = [item for item, msg in caught if msg is None]
        heard = [(item, msg) for item, msg in caught if msg is not None]
        try:
            for listener in listeners:
                self._engine.call(listener, [msg for _, msg in heard], transaction)
        except Exception as error:  # noqa: BLE001 - whatever it was, the others of its batch have nothing to do with it
            why = f"; what caught it failed too: {Why.of(error)}"
            log.error("%s failed on %d message(s)%s", node.label, len(heard), why)  # noqa: TRY400 - a circle is long
            left += [FailedMsg(item.msg, f"{item.error}{why}") for item, _ in heard]
        return left

    async def refuse(self, sink: Sink, refused: list[tuple[Msg, str]]) -> None:
        """Messages that a sink will never take, each with why, until they are safe elsewhere."""
        failed = [FailedMsg(msg, error) for msg, error in refused]
        async with self._engine.transaction(sink.id, [msg for msg, _ in refused]) as transaction:
            self.fail(sink, failed, transaction)

    def is_completed(self, node: Node) -> bool:
        """Whether a `complete` node hears of that one."""
        return bool(self._engine.home_of(node).listeners("complete", node.id))

    def complete(self, node: Node, msgs: Iterable[Msg], transaction: Transaction) -> None:
        """Messages a node is done with: to the `complete` nodes that hear of it."""
        for listener in self._engine.home_of(node).listeners("complete", node.id):
            self._engine.call(listener, [with_complete(node, msg) for msg in msgs], transaction)

    def teller(self, sink: Node) -> Callable[[list[Msg], list[Transaction]], None]:
        """For a sink that `complete` nodes hear of: its batches wait until what those give out is safe too."""

        def tell(msgs: list[Msg], transactions: list[Transaction]) -> None:
            following = self._engine.begin(sink, msgs)
            for transaction in transactions:
                transaction.wait_for(sink.id)
            following.then(lambda failure: _safe_at(transactions, sink.id, failure))
            self.complete(sink, msgs, following)
            following.settle()

        return tell

    def _dead_letter(self, node: Node, dead: list[Msg], transaction: Transaction) -> None:
        queues = [] if isinstance(node, DeadLetterSink) else self._dead_letter_queues()
        for queue in queues:
            queue.put(dead, transaction)
        if not queues:
            reason = "dead_letter_failed" if isinstance(node, DeadLetterSink) else "no_dead_letter_node"
            self._engine.dropped[reason] = self._engine.dropped.get(reason, 0) + len(dead)
            for msg in dead:
                origin = msg.origin or msg
                log.error("%s failed, dropped (%s): %s: %s: %.200r", node.label, reason, origin.topic,
                          msg.payload.error, origin.payload, extra=about(msg))  # fmt: skip

    def _dead_letter_queues(self) -> list[SinkQueue]:
        return [
            line
            for line in self._engine.wiring.lines.values()
            if isinstance(line, SinkQueue) and isinstance(line.sink, DeadLetterSink)
        ]


def _safe_at(transactions: Iterable[Transaction], node_id: str, failure: BaseException | None) -> None:
    for transaction in transactions:
        transaction.safe_at(node_id, failure)
