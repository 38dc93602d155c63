"""The `kafka out` node: every message to a Kafka topic, confirmed by all replicas."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import field
from typing import TYPE_CHECKING, Any

import msgspec

from voltflow.message import Msg, encode_payload
from voltflow.node import Context, Rejected, Sink, SinkUnavailable, config, node
from voltflow.telemetry import Dead
from voltflow.topics import parse

if TYPE_CHECKING:
    from kafka import KafkaProducer
    from kafka.errors import KafkaError

log = logging.getLogger(__name__)

Headers = list[tuple[str, bytes]]


class _Key(msgspec.Struct):
    """What the headers need of a message, whatever its contract."""

    boot: int | None = None
    seq: int | None = None


_decode_key = msgspec.json.Decoder(_Key).decode
_decode_dead = msgspec.json.Decoder(Dead).decode


@node("kafka out", category="storage", color="#d8d0c0", icon="bridge.svg")
class KafkaOut(Sink):
    """Send messages to Kafka: the bytes as they came, the pack as key, fleet, pack, boot and seq in the headers.

    The MQTT topic's last level says the Kafka topic. A batch is safe when all in-sync replicas have it (`acks=all`,
    idempotent producer). While no broker confirms nothing is lost; after a crash of the bridge messages may be in a topic
    twice: consumers tell them by the headers. The order of a pack's messages is kept, they share a partition.
    """

    bootstrap: str = config(help="brokers, separated by commas", example="kafka-1:9092,kafka-2:9092")
    topic_twin: str = config("ev.twin", help="Kafka topic of readings with predictions")
    topic_alert: str = config("ev.alert", help="Kafka topic of alerts")
    topic_dead: str = config("ev.dead", help="Kafka topic of dead letters")
    topic_loss: str = config("ev.loss", help="Kafka topic of losses")
    topic_state: str = config("ev.state", help="Kafka topic of nameplates")
    linger_ms: int = config(
        2, help="wait for more to send together", unit="ms", low=0, high=1000, advanced=True
    )
    timeout_s: float = config(
        20.0, help="wait for a confirmation at most", unit="s", low=1, high=600, advanced=True
    )
    max_message_bytes: int = config(
        1_000_000, help="largest message the brokers take", unit="bytes", low=1000, advanced=True
    )

    # state
    confirmed: int = 0
    refused: int = 0
    error: str = ""
    _done: dict[int, Msg] = field(default_factory=dict)

    async def start(self, ctx: Context) -> None:
        self._client_id = f"voltflow-{ctx.gateway}"
        self._producer: KafkaProducer | None = None
        self._stopping = threading.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="kafka-out")

    async def write(self, msgs: list[Msg]) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, self._write, msgs)

    def _write(self, msgs: list[Msg]) -> None:
        from kafka.errors import KafkaError

        try:
            refused = self._send([msg for msg in msgs if id(msg) not in self._done])
        except KafkaError as error:
            self.error = f"{type(error).__name__}: {error}"
            self._close()  # a fresh producer: what the old one still holds must not be sent besides the retry
            raise SinkUnavailable(f"kafka {self.bootstrap}: {self.error}") from error
        self.error = ""
        self._done.clear()
        if refused:
            self.refused += len(refused)
            raise Rejected(refused)

    def _send(self, msgs: list[Msg]) -> list[tuple[Msg, str]]:
        """Send all, then wait for all. What is confirmed when another fails is remembered (`_done`), because the
        engine comes back with the same messages and a second sending would double it."""
        from kafka.errors import KafkaError

        refused: list[tuple[Msg, str]] = []
        failure: KafkaError | None = None
        deadline = time.monotonic() + self.timeout_s + 2  # by then the producer itself has given up
        pending: list[tuple[Msg, Any]] = []
        try:
            for msg in msgs:
                future = self._send_one(msg, refused)
                if future is not None:
                    pending.append((msg, future))
        except KafkaError as error:  # no more of them now, but what was sent before may arrive
            failure = error
        for msg, future in pending:
            try:
                self._await(future, deadline)
                self.confirmed += 1
                self._done[id(msg)] = msg
            except KafkaError as error:
                failure = self._judge(msg, error, refused) or failure
        if failure is not None:
            raise failure
        return refused

    def _await(self, future: Any, deadline: float) -> None:
        """Return when the brokers have it; raises KafkaError, also when the bridge stops meanwhile."""
        from kafka.errors import KafkaTimeoutError

        while not future.is_done:
            if self._stopping.is_set() or time.monotonic() > deadline:
                raise KafkaTimeoutError("no confirmation from the broker")
            with contextlib.suppress(KafkaTimeoutError):
                future.get(timeout=0.2)
        future.get()

    def _send_one(self, msg: Msg, refused: list[tuple[Msg, str]]) -> Any:
        found = parse(msg.topic)
        topic = getattr(self, f"topic_{found.kind}", "") if found else ""
        if found is None or not topic:
            refused.append((msg, f"no Kafka topic is configured for {msg.topic!r:.200}"))
            return None
        data = encode_payload(msg.payload)
        if len(data) > self.max_message_bytes and found.kind == "dead":
            data = _shortened(data)
        if len(data) > self.max_message_bytes:
            refused.append(
                (msg, f"{len(data)} bytes, Kafka takes {self.max_message_bytes} (max_message_bytes)")
            )
            return None
        headers = [("fleet", found.fleet.encode()), ("pack", found.pack.encode()), *_key_headers(data)]
        return self._connected().send(topic, key=found.pack.encode(), value=data, headers=headers)

    def _judge(self, msg: Msg, error: KafkaError, refused: list[tuple[Msg, str]]) -> KafkaError | None:
        """The error when it is the broker's state; None when the message is at fault, which is then refused."""
        from kafka.errors import InvalidRecordError, MessageSizeTooLargeError, PolicyViolationError

        if isinstance(error, InvalidRecordError | MessageSizeTooLargeError | PolicyViolationError):
            refused.append((msg, f"kafka refused it: {type(error).__name__}: {error}"))
            return None
        return error

    def _connected(self) -> KafkaProducer:
        if self._producer is None:
            from kafka import KafkaProducer

            timeout_ms = int(self.timeout_s * 1000)
            self._producer = KafkaProducer(
                bootstrap_servers=self.bootstrap.split(","), client_id=self._client_id, acks="all",
                enable_idempotence=True, linger_ms=self.linger_ms, max_request_size=self.max_message_bytes + 10_000,
                bootstrap_timeout_ms=timeout_ms, max_block_ms=timeout_ms,
                delivery_timeout_ms=timeout_ms, request_timeout_ms=max(500, timeout_ms // 2),
                reconnect_backoff_max_ms=1000,
            )  # fmt: skip
            log.info("%s: connected to %s", self.label, self.bootstrap)
        return self._producer

    def _close(self) -> None:
        """End the producer and what it still holds. Its `close` flushes first and gives up, still sending, while
        something is pending (kafka-python 3.0), and then only its sender can be told."""
        from kafka.errors import KafkaError

        producer, self._producer = self._producer, None
        if producer is None:
            return
        try:
            producer.close(timeout=1)
        except KafkaError:
            producer._sender.force_close()
            producer._sender.join(5)

    async def stop(self) -> None:
        self._stopping.set()
        await asyncio.get_running_loop().run_in_executor(self._thread, self._close)
        self._thread.shutdown()

    def status(self) -> dict[str, Any]:
        return {"confirmed": self.confirmed, "refused": self.refused, "error": self.error}


def _key_headers(data: bytes) -> Headers:
    """Boot and seq of a message; none where it has none or cannot be read: Kafka carries the bytes all the same."""
    try:
        key = _decode_key(data)
    except ValueError:
        return []
    return [
        (name, str(value).encode())
        for name, value in (("boot", key.boot), ("seq", key.seq))
        if value is not None
    ]


def _shortened(data: bytes) -> bytes:
    """A dead letter without its payload: refusing it would make a dead letter of it again."""
    try:
        dead = _decode_dead(data)
    except ValueError:
        return data[:1000]
    return msgspec.json.encode(msgspec.structs.replace(dead, payload=b"", truncated=True))
