"""The `kafka out` node: every message to a Kafka topic, confirmed by all replicas."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import field
from typing import Any

from cloud.kafka_client import ConfirmedProducer, KafkaNode, KafkaUnavailableError, Outgoing
from voltflow.engine.network_sink import NetworkSink
from voltflow.message import Msg
from voltflow.node import Context, Rejected, SinkUnavailable, config, node


@node("kafka out", category="storage", color="#d8d0c0", icon="bridge.svg")
class KafkaOut(KafkaNode, NetworkSink):
    """Send messages to Kafka: the bytes as they came, the pack as key, fleet, pack, kind, boot and seq in the headers.

    The MQTT topic's last level says the Kafka topic. A batch is safe when all in-sync replicas have it (`acks=all`,
    idempotent producer, each confirmation awaited). While no broker confirms nothing is lost. A message may be in a topic
    twice after a crash of the bridge, and where the brokers took it but did not say so within `timeout_s`: consumers
    tell them by the headers pack, boot, seq. The order of a pack's messages is kept, they share a partition.
    """

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
        self._producer = ConfirmedProducer(
            self.client_options(f"voltflow-{ctx.gateway}-{self.id}"), timeout_s=self.timeout_s,
            linger_ms=self.linger_ms, max_bytes=self.max_message_bytes + 10_000,
        )  # fmt: skip
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="kafka-out")

    async def write(self, msgs: list[Msg]) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, self._write, msgs)

    def _write(self, msgs: list[Msg]) -> None:
        """Send what is not confirmed yet. What is confirmed when another fails is remembered (`_done`), because the
        engine comes back with the same messages and a second sending would double it."""
        refused: list[tuple[Msg, str]] = []
        sent: list[Msg] = []
        try:
            reasons = self._producer.send(self._records(msgs, sent, refused))
        except KafkaUnavailableError as error:
            self._remember(sent[place] for place in error.confirmed)
            self.error = str(error)
            raise SinkUnavailable(f"kafka {self.bootstrap}: {self.error}") from error
        self.error = ""
        self._done.clear()
        self.confirmed += len(sent) - len(reasons)
        refused += [(sent[place], reason) for place, reason in reasons.items()]
        if refused:
            self.refused += len(refused)
            raise Rejected(refused)

    def _remember(self, confirmed: Any) -> None:
        for msg in confirmed:
            self.confirmed += 1
            self._done[id(msg)] = msg

    def _records(self, msgs: list[Msg], sent: list[Msg], refused: list[tuple[Msg, str]]) -> Any:
        for msg in msgs:
            if id(msg) in self._done:
                continue
            record = self._record(msg, refused)
            if record is not None:
                sent.append(msg)
                yield record

    def _record(self, msg: Msg, refused: list[tuple[Msg, str]]) -> Outgoing | None:
        from cloud.kafka_records import to_record

        try:
            return to_record(msg, self.topics, self.max_message_bytes)
        except ValueError as error:
            refused.append((msg, str(error)))
            return None

    async def stop(self) -> None:
        self._producer.give_up()
        await asyncio.get_running_loop().run_in_executor(self._thread, self._producer.close)
        self._thread.shutdown()

    def trouble(self) -> str:
        return self.error

    def status(self) -> dict[str, Any]:
        return {"confirmed": self.confirmed, "refused": self.refused, "error": self.error}
