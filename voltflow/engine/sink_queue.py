"""The way into one sink: batches in order, whatever waits as one write, and what to do when a write fails."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from voltflow.engine.circuit import Circuit
from voltflow.engine.why import Why
from voltflow.message import Msg, now_ms
from voltflow.node import Rejected, Sink, SinkUnavailable

log = logging.getLogger(__name__)

MAX_WRITE = 5000
"""Messages that one write of a sink gets at most; what waits beyond it is the next write."""
ERROR_SHOWN = 500
"""Letters of the last error that are kept; the dead letter has all of it."""
RECENT_S = 60.0


@dataclass
class NodeStats:
    """What happened at a node since the start; times in seconds."""

    messages_in: int = 0
    messages_out: int = 0
    failures: int = 0
    busy_s: float = 0.0
    waiting: int = 0
    retries: int = 0
    last_error: str = ""
    """Of the last message it failed on, since a deploy made it anew."""
    last_error_ms: int | None = None

    def __post_init__(self) -> None:
        self._failed_at_s: deque[tuple[float, int]] = deque()
        """When the node failed of late, and on how many messages, at most once a second."""

    def fail(self, count: int) -> None:
        """The node failed on so many messages."""
        self.failures += count
        now_s = time.monotonic()
        if self._failed_at_s and now_s - self._failed_at_s[-1][0] < 1.0:
            since_s, others = self._failed_at_s.pop()
            self._failed_at_s.append((since_s, others + count))
        elif count:
            self._failed_at_s.append((now_s, count))
        self._forget_before(now_s - RECENT_S)

    def note(self, error: str) -> None:
        """Why the node failed on the last one, for whoever looks for that without the dead letters."""
        self.last_error, self.last_error_ms = error[:ERROR_SHOWN], now_ms()

    @property
    def recent_failures(self) -> int:
        """Messages it failed on in the last RECENT_S, since a deploy made it anew; all the others are sums over deploys."""
        self._forget_before(time.monotonic() - RECENT_S)
        return sum(count for _, count in self._failed_at_s)

    def begin_anew(self) -> None:
        """Another node has taken the place of the one that failed."""
        self.last_error, self.last_error_ms = "", None
        self._failed_at_s.clear()

    def _forget_before(self, then_s: float) -> None:
        while self._failed_at_s and self._failed_at_s[0][0] <= then_s:
            self._failed_at_s.popleft()

    def facts(self) -> dict[str, Any]:
        """The numbers by their names."""
        return asdict(self)


@dataclass(eq=False)
class Transaction:
    """One batch on its way: done when no sink has anything of it left."""

    source: str
    first: Msg
    size: int
    done: asyncio.Future[None]
    started: float = field(default_factory=time.monotonic)
    open_writes: int = 1
    waiting_for: dict[str, int] = field(default_factory=dict)
    """Writes that are not safe yet, by the sink's id."""
    reported: bool = False

    def settle(self) -> None:
        self.open_writes -= 1
        if self.open_writes == 0 and not self.done.done():
            self.done.set_result(None)

    def wait_for(self, node_id: str) -> None:
        """It is not done before `safe_at` was called for this."""
        self.open_writes += 1
        self.waiting_for[node_id] = self.waiting_for.get(node_id, 0) + 1

    def safe_at(self, node_id: str, failure: BaseException | None = None) -> None:
        """What `wait_for` was called for is safe, or will not be."""
        self.waiting_for[node_id] -= 1
        if failure is None:
            self.settle()
        else:
            self.fail(failure)

    def fail(self, error: BaseException) -> None:
        """Its source is to send it again."""
        if not self.done.done():
            if isinstance(error, Exception):
                self.done.set_exception(error)
                self.done.exception()  # whoever waits for it gets it; there may be nobody any more
            else:
                self.done.cancel()

    def then(self, call: Callable[[BaseException | None], None]) -> None:
        """Call it when this is done, with why it failed (None: it did not), in the event loop's next turn."""

        def tell(done: asyncio.Future[None]) -> None:
            call(asyncio.CancelledError() if done.cancelled() else done.exception())

        self.done.add_done_callback(tell)


@dataclass(eq=False)
class Write:
    """What one call of the sink gets. `turn` is set when no older write is under way."""

    msgs: list[Msg]
    transactions: list[Transaction]
    turn: asyncio.Event = field(default_factory=asyncio.Event)


Refuse = Callable[[Sink, list[tuple[Msg, str]]], Awaitable[None]]
"""Makes dead letters of messages and returns when they are safe."""


class SinkQueue:
    """Feeds one sink: in order, one write at a time unless the sink is pipelined, whatever waits as one write.

    A write that fails is tried again or taken apart only when all older ones are done, and nothing new is written
    meanwhile, so that the order holds where a pipelined sink has several under way.
    """

    def __init__(self, sink: Sink, stats: NodeStats, refuse: Refuse) -> None:
        self.sink = sink
        self.stats = stats
        self.circuit = Circuit(sink.label)
        self.waiting: deque[tuple[list[Msg], Transaction]] = deque()
        self.tasks: set[asyncio.Task[None]] = set()
        self.on_safe: Callable[[list[Msg], list[Transaction]], None] | None = None
        """Told of each write that is safe, without what was refused of it, before its batches are settled."""
        self._refused: set[int] = set()
        """Messages of writes under way that were refused, by the id of the object."""
        self._refuse_messages = refuse
        self._draining = False
        self._under_way: deque[Write] = deque()
        self._in_trouble = 0
        self._calm = asyncio.Event()

    @property
    def empty(self) -> bool:
        """Whether nothing waits and nothing is under way."""
        return not self.waiting and not self._under_way

    def put(self, msgs: list[Msg], transaction: Transaction) -> None:
        transaction.wait_for(self.sink.id)
        self.stats.messages_in += len(msgs)
        self.stats.waiting += len(msgs)
        self.waiting.append((msgs, transaction))
        if self.sink.pipelined or not self._draining:
            self._draining = True
            task = asyncio.create_task(self._drain(), name=f"sink {self.sink.label}")
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)

    async def _drain(self) -> None:
        while self.waiting:
            if self._in_trouble:
                await self._calm.wait()
                continue
            write = self._take()
            started = time.perf_counter()
            failure: Exception | None = None
            try:
                await self._write(write)
            except Exception as error:  # unforeseen: without this the queue would stand still, unseen
                log.exception("%s: a write of %d messages failed", self.sink.label, len(write.msgs))
                failure = error
            self.stats.busy_s += time.perf_counter() - started
            self._settle(write, failure)
        # at once, not when the task's callbacks run: who was just settled may put the next batch before those
        self._draining = False

    def _settle(self, write: Write, failure: Exception | None) -> None:
        self.stats.waiting -= len(write.msgs)
        safe = [msg for msg in write.msgs if id(msg) not in self._refused]
        if failure is None and self.on_safe is not None and safe:
            self.on_safe(safe, write.transactions)
        self._refused.difference_update(map(id, write.msgs))
        for transaction in write.transactions:
            transaction.safe_at(self.sink.id, failure)

    def _take(self) -> Write:
        msgs, first = self.waiting.popleft()
        if self.sink.pipelined:
            return Write(msgs, [first])
        write = Write(list(msgs), [first])
        while self.waiting and len(write.msgs) + len(self.waiting[0][0]) <= MAX_WRITE:
            more, transaction = self.waiting.popleft()
            write.msgs += more
            write.transactions.append(transaction)
        return write

    async def _write(self, write: Write) -> None:
        self._under_way.append(write)
        try:
            error = await self._attempt(write.msgs)
            if error is not None and not await self._kept(write.msgs, error):
                await self._mend(write, error)
        finally:
            self._under_way.remove(write)
            if self._under_way:
                self._under_way[0].turn.set()

    async def _kept(self, msgs: list[Msg], error: Exception) -> bool:
        """Whether a batch that the far side did not take is safe elsewhere; a queue with a spool answers for itself."""
        return False

    async def _attempt(self, msgs: list[Msg]) -> Exception | None:
        try:
            await self.sink.write(msgs)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            return SinkUnavailable(
                "its write was cancelled"
            )  # by something inside the sink, not by the engine
        except OSError as error:  # the network, the disk: nothing that another message would do better with
            return SinkUnavailable(f"{type(error).__name__}: {error}")
        except Exception as error:  # noqa: BLE001 - whatever a sink raises is the answer
            return error
        return None

    async def _mend(self, write: Write, error: Exception) -> None:
        self._in_trouble += 1
        self._calm.clear()
        try:
            if self._under_way[0] is not write:
                await write.turn.wait()
                if isinstance(error, SinkUnavailable):
                    # It may be long over: without a new look each of many would sit out a back-off.
                    again = await self._try_again(write.msgs)
                    if again is None:
                        self.circuit.succeeded()
                        return
                    if await self._kept(write.msgs, again):
                        return
                    error = again
            await self._resolve(write.msgs, error)
        finally:
            self._in_trouble -= 1
            if not self._in_trouble:
                self._calm.set()

    async def _resolve(self, msgs: list[Msg], error: Exception | None) -> None:
        error = await self._until_available(msgs, error)
        if error is None:
            return
        if isinstance(error, Rejected):
            await self._refuse(error.refused)
        elif len(msgs) == 1:
            await self._refuse([(msgs[0], Why.of(error))])
        else:
            middle = len(msgs) // 2
            for half in (msgs[:middle], msgs[middle:]):
                await self._resolve(half, await self._attempt(half))

    async def _until_available(self, msgs: list[Msg], error: Exception | None) -> Exception | None:
        """Try again with back-off as long as the far side cannot take anything; what came of it then."""
        while isinstance(error, SinkUnavailable):
            self.stats.retries += 1
            await asyncio.sleep(self.circuit.failed(str(error)))
            if await self._kept(msgs, error):
                return None
            self.circuit.trying()
            error = await self._try_again(msgs)
        self.circuit.succeeded()
        return error

    async def _try_again(self, msgs: list[Msg]) -> Exception | None:
        return await self._attempt(msgs)

    async def _refuse(self, refused: list[tuple[Msg, str]]) -> None:
        """Make dead letters; several batches may be in this write, so it waits until they are safe."""
        self.stats.fail(len(refused))
        self._refused.update(id(msg) for msg, _ in refused)
        await self._refuse_messages(self.sink, refused)
