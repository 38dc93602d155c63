"""The `kafka in` node: what a `kafka out` has sent, committed when the flow has made it safe."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import Any

from cloud.kafka_client import KafkaNode
from cloud.kafka_reader import UNREADABLE, Batch, KafkaReader
from voltflow.message import Msg
from voltflow.node import ConfigError, Context, Emit, Ports, Source, config, node

log = logging.getLogger(__name__)


@node("kafka in", category="storage", color="#d8d0c0", icon="bridge.svg")
class KafkaIn(KafkaNode, Source):
    """Read the messages that a `kafka out` node has sent, as one of a group of bridges.

    Each partition goes to one member of the group; when a member ends or is killed the others take over its partitions.
    An offset is committed only when every sink of the flow has made all before it safe, so a crash loses nothing; what
    was safe and not yet committed comes again. The headers say the message's MQTT topic and key; a record
    without them becomes a dead letter. Each pack's messages keep their order.
    """

    group: str = config("voltflow-history", help="consumer group that shares the partitions")
    start_at: str = config(
        "earliest", help="where a new group begins to read: all that is there, or what comes from now on",
        choices=("earliest", "latest"), advanced=True,
    )  # fmt: skip
    session_timeout_s: float = config(
        10.0, help="a member that is not heard of for so long loses its partitions", unit="s", low=1, high=1800,
        advanced=True,
    )  # fmt: skip

    # state
    messages: int = 0
    failed_batches: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.topics:
            raise ConfigError("every topic_… is empty: name at least one Kafka topic to read")

    async def start(self, ctx: Context) -> None:
        loop = asyncio.get_running_loop()
        self._waiting: deque[Batch] = deque()
        self._arrived = asyncio.Event()
        session_ms = int(self.session_timeout_s * 1000)
        options = self.client_options(f"voltflow-{ctx.gateway}-{self.id}") | {
            "group_id": self.group, "enable_auto_commit": False, "auto_offset_reset": self.start_at,
            "session_timeout_ms": session_ms, "heartbeat_interval_ms": session_ms // 4,
            "metadata_max_age_ms": 30_000, "fetch_max_wait_ms": 100, "bootstrap_timeout_ms": 10_000,
        }  # fmt: skip
        kinds = {topic: kind for kind, topic in self.topics.items()}
        self._reader = KafkaReader(
            options, kinds, lambda batch: _call(loop, self._receive, batch), self.label
        )

    def _receive(self, batch: Batch) -> None:
        self._waiting.append(batch)
        self._arrived.set()

    async def run(self, emit: Emit) -> None:
        under_way: set[asyncio.Task[None]] = set()
        self._reader.start()
        try:
            while True:
                await self._arrived.wait()
                self._arrived.clear()
                while self._waiting:
                    batch = self._waiting.popleft()
                    if batch.current:
                        task = asyncio.create_task(self._settle(emit, batch), name=f"batch of {self.label}")
                        under_way.add(task)
                        task.add_done_callback(under_way.discard)
        finally:
            self._reader.hold()
            try:
                if under_way:
                    await asyncio.wait(under_way)
            finally:
                for task in under_way:  # cancelled once more: the time is up
                    task.cancel()

    async def _settle(self, emit: Emit, batch: Batch) -> None:
        try:
            await emit(batch.msgs)
        except Exception:
            self.failed_batches += 1
            log.exception("%s: a batch of %d failed and is read again", self.label, len(batch.msgs))
            await asyncio.sleep(self._reader.backoff.next_s())
            self._reader.failed(batch)
        else:
            self.messages += len(batch.msgs)
            self._reader.settled(batch)

    def process(self, msgs: list[Msg]) -> list[Msg] | Ports:
        for msg in msgs:
            if msg.topic.startswith(UNREADABLE):
                raise ValueError((msg.props or {}).get("error", "unreadable"))
        return msgs

    async def stop(self) -> None:
        await asyncio.to_thread(self._reader.close)

    def status(self) -> dict[str, Any]:
        reader = self._reader
        return {
            "connected": reader.connected,
            "partitions": sorted(f"{p.topic}/{p.partition}" for p in reader.offsets.partitions),
            "messages": self.messages,
            "under_way": reader.offsets.under_way,
            "commits": reader.commits,
            "rebalances": reader.rebalances,
            "read_again": reader.offsets.read_again,
            "failed_batches": self.failed_batches,
            "error": reader.error,
        }


def _call(loop: asyncio.AbstractEventLoop, function: Any, argument: Any) -> None:
    """From another thread; a loop that is closed wants nothing any more."""
    if not loop.is_closed():
        loop.call_soon_threadsafe(function, argument)
