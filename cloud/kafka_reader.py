"""Reads Kafka topics as a member of a consumer group, in a thread of its own, and commits what is settled.

kafka-python's consumer blocks, so it lives in a thread: records go to the event loop, offsets of what became safe come
back and are committed. At most `LIMIT` records are under way; beyond it the thread goes on to be a member of the group
and reads nothing.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cloud.kafka_offsets import Offsets, Taken
from cloud.kafka_records import to_message
from voltflow.backoff import Backoff
from voltflow.message import Msg, now_ms

if TYPE_CHECKING:
    from kafka import KafkaConsumer, TopicPartition
    from kafka.consumer.fetcher import ConsumerRecord

log = logging.getLogger(__name__)

LIMIT = 5000
"""Records that may be under way; reading goes on when half of them are settled."""

BATCH = 500
POLL_MS = 200
COMMIT_TIMEOUT_MS = 5000
CLOSE_TIMEOUT_S = 10.0

UNREADABLE = "kafka/"
"""How the topic of a message begins that was made of a record which does not say whose it is."""


@dataclass(frozen=True)
class Batch:
    """Records for the flow, and what they are of."""

    msgs: list[Msg]
    taken: list[Taken[Any]]

    @property
    def current(self) -> bool:
        """Whether anything of it is still to be delivered from here."""
        return any(taken.current for taken in self.taken)


class KafkaReader:
    """Use: `start`, then `deliver` is called from the thread; `settled` or `failed` for each batch; `hold`, `close`."""

    def __init__(
        self,
        options: Mapping[str, Any],
        kinds: Mapping[str, str],
        deliver: Callable[[Batch], None],
        label: str,
    ) -> None:
        self._options = options
        self._kinds = kinds
        self._deliver = deliver
        self._label = label
        self._stopping = threading.Event()
        self._held = False
        self._thread = threading.Thread(target=self._run, name="kafka-in", daemon=True)
        self.offsets: Offsets[TopicPartition] = Offsets()
        self.backoff = Backoff(limit_s=5.0)
        self.connected = False
        self.error = ""
        self.records = 0
        self.commits = 0
        self.rebalances = 0

    def start(self) -> None:
        self._thread.start()

    def hold(self) -> None:
        """Read nothing more, but stay in the group and commit."""
        self._held = True

    def close(self) -> None:
        """Commit what is settled, leave the group, end the thread; blocks for a bounded time."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(CLOSE_TIMEOUT_S)
        if self._thread.is_alive():
            log.warning("%s: no answer from the brokers, left without saying so", self._label)

    def settled(self, batch: Batch) -> None:
        for taken in batch.taken:
            self.offsets.settled(taken)

    def failed(self, batch: Batch) -> None:
        for taken in batch.taken:
            self.offsets.failed(taken)

    # -- the thread ---------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        from kafka.errors import KafkaError

        while not self._stopping.is_set():
            try:
                self._read()
            except (KafkaError, OSError) as error:
                self._unavailable(f"{type(error).__name__}: {error}")
            except Exception as error:
                log.exception("%s: reading failed", self._label)
                self._unavailable(f"{type(error).__name__}: {error}")

    def _unavailable(self, reason: str) -> None:
        if reason != self.error:
            log.warning("%s is not available: %s", self._label, reason)
        self.error, self.connected = reason, False
        self.offsets.revoked(self.offsets.partitions)
        self._stopping.wait(self.backoff.next_s())

    def _read(self) -> None:
        from kafka import KafkaConsumer

        consumer = KafkaConsumer(**self._options)
        try:
            consumer.subscribe(list(self._kinds), listener=_listener(self, consumer))
            while not self._stopping.is_set():
                self._read_some(consumer)
            self._commit(consumer)
        finally:
            consumer.close(autocommit=False, timeout_ms=int(CLOSE_TIMEOUT_S * 500))

    def _read_some(self, consumer: KafkaConsumer) -> None:
        for partition, offset in self.offsets.to_read_again().items():
            consumer.seek(partition, offset)
        self._throttle(consumer)
        found = consumer.poll(timeout_ms=POLL_MS, max_records=BATCH)
        self._look_at(consumer)
        if found:
            self._take(found)
        self._commit(consumer)

    def _look_at(self, consumer: KafkaConsumer) -> None:
        """Notice a group whose coordinator is gone or back; the consumer itself says it only in its log."""
        connected = not consumer._coordinator.coordinator_unknown() and bool(consumer.assignment())
        if connected and not self.connected:
            log.info("%s: connected, reads %d partitions", self._label, len(consumer.assignment()))
            self.backoff.reset()
            self.error = ""
        elif self.connected and consumer._coordinator.coordinator_unknown():
            self.error = "no answer from the brokers"
            log.warning("%s: %s", self._label, self.error)
        self.connected = connected

    def _throttle(self, consumer: KafkaConsumer) -> None:
        paused, under_way = consumer.paused(), self.offsets.under_way
        if self._held or under_way >= LIMIT:
            if more := consumer.assignment() - paused:
                consumer.pause(*more)
        elif paused and under_way <= LIMIT // 2:
            consumer.resume(*paused)

    def _take(self, found: Mapping[TopicPartition, list[ConsumerRecord]]) -> None:
        msgs: list[Msg] = []
        all_taken: list[Taken[Any]] = []
        for partition, records in found.items():
            taken = self.offsets.taken(partition, records[0].offset, records[-1].offset + 1)
            if taken is not None:
                all_taken.append(taken)
                msgs += [self._message(record) for record in records]
        self.records += len(msgs)
        if msgs:
            self._deliver(Batch(msgs, all_taken))

    def _message(self, record: ConsumerRecord) -> Msg:
        payload = record.value or b""
        try:
            topic, key = to_message(record.topic, record.key, record.headers, self._kinds)
        except ValueError as error:
            place = f"{UNREADABLE}{record.topic}/{record.partition}/{record.offset}"
            return Msg(place, payload, None, now_ms(), {"error": str(error)})
        return Msg(topic, payload, key, now_ms())

    def _commit(self, consumer: KafkaConsumer) -> None:
        """Commit what has become safe. What is not committed, because the group has moved on, comes again elsewhere."""
        from kafka.errors import CommitFailedError, IllegalGenerationError, UnknownMemberIdError
        from kafka.errors import RebalanceInProgressError as Rebalancing

        offsets = _metadata(self.offsets.to_commit())
        if not offsets:
            return
        try:
            consumer.commit(offsets, timeout_ms=COMMIT_TIMEOUT_MS)
            self.commits += 1
        except (CommitFailedError, IllegalGenerationError, UnknownMemberIdError, Rebalancing) as error:
            log.info("%s: not committed, the group is being divided anew: %s", self._label, error)

    def commit_revoked(self, consumer: KafkaConsumer, partitions: Iterable[TopicPartition]) -> None:
        """Before partitions go to another member: commit what is safe of them, forget the rest."""
        self.rebalances += 1
        if offsets := _metadata(self.offsets.to_commit()):
            consumer.commit_async(
                offsets
            )  # on the coordinator's connection, so before this member joins anew
        self.offsets.revoked(partitions)


def _metadata(offsets: Mapping[TopicPartition, int]) -> dict[TopicPartition, Any]:
    from kafka.structs import OffsetAndMetadata

    return {partition: OffsetAndMetadata(offset, "", -1) for partition, offset in offsets.items()}


def _listener(reader: KafkaReader, consumer: KafkaConsumer) -> Any:
    """What the consumer calls when the group is divided anew; its base class needs the library."""
    from kafka import ConsumerRebalanceListener

    class Listener(ConsumerRebalanceListener):  # type: ignore[misc]
        def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
            reader.commit_revoked(consumer, revoked)

        def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
            reader.offsets.assigned(assigned)

        def on_partitions_lost(self, lost: Iterable[TopicPartition]) -> None:
            reader.offsets.revoked(lost)

    return Listener()
