"""The `dead letter` node: publishes the messages other nodes failed on, with their original bytes."""

from __future__ import annotations

import hashlib
import json
import logging
from typing import Any, ClassVar

import msgspec

from voltflow import topics
from voltflow.engine.network_sink import REPLAYED, NetworkSink
from voltflow.logs import about
from voltflow.message import Key, Msg, encode_payload
from voltflow.node import Context, DeadLetterSink, Failure, config, node
from voltflow.nodelib.mqtt_badge import LinkBadge
from voltflow.nodelib.mqtt_publisher import Publisher, link_trouble
from voltflow.nodes.mqtt_broker import MqttBroker
from voltflow.telemetry import Count, Dead, Name

log = logging.getLogger(__name__)

PACKET_OVERHEAD_BYTES = 16
"""What a PUBLISH packet has around topic and payload, at most."""

KEYED_KINDS = frozenset({topics.TELEMETRY.kind, topics.TWIN.kind})
"""Messages whose key is that of a reading; an alert's is of the reading that raised it, which is not lost with it."""


class _ReadingKey(msgspec.Struct):
    """What is looked for in a message that could not be processed."""

    pack: Name
    boot: Count
    seq: Count


_decode_key = msgspec.json.Decoder(_ReadingKey).decode


@node("dead letter", category="common", color="#e2a8a8", icon="font-awesome/fa-envelope")
class DeadLetter(DeadLetterSink, NetworkSink):
    """Publish what a node failed on as `dead/1`: the node, the error, the original topic and bytes.

    The engine sends failed messages here by itself; a wire may bring more. The message is acknowledged at its source
    only when the broker has confirmed the dead letter. Bytes beyond `max_bytes`, or beyond what the broker takes in one
    packet, are cut off; size and SHA-256 of the whole stay. A dead letter that the broker refuses is logged, counted
    and dropped. With `needsSubscriber` one that nobody subscribes to is published again until somebody does, as at
    `mqtt out`.
    """

    badge_with_traffic: ClassVar[bool] = True
    pipelined: ClassVar[bool] = True

    broker: str = config(help="the broker", reference="mqtt-broker")
    needsSubscriber: bool = config(
        False, help="not safe before somebody subscribes to it; for brokers that forget subscriptions"
    )
    max_bytes: int = config(
        262144,
        help="original bytes carried at most",
        unit="bytes",
        low=0,
        high=100_000_000,
    )

    # state
    count: int = 0
    dropped: int = 0

    async def start(self, ctx: Context) -> None:
        self._gateway = ctx.gateway
        self._link = await ctx.config_node(self.broker, MqttBroker).open_sender()
        self._publisher = Publisher(self._link, self._item, needs_subscriber=self.needsSubscriber)
        self._badge = LinkBadge(self, self._link)

    async def stop(self) -> None:
        self._badge.end()

    async def write(self, msgs: list[Msg]) -> None:
        self.count += await self._publisher.write(msgs)

    def to_spool(self, msg: Msg) -> tuple[str, bytes] | None:
        return self._item(msg)

    def forget(self, msgs: list[Msg]) -> None:
        self._publisher.forget(msgs)

    def trouble(self) -> str:
        return link_trouble(self._link)

    def _item(self, msg: Msg) -> tuple[str, bytes] | None:
        if msg.props and REPLAYED in msg.props:
            return msg.topic, msg.payload
        if self._is_dead_letter(msg):
            return None
        topic = _dead_topic((msg.origin or msg).topic)
        dead = self._dead(msg)
        encoded = encode_payload(dead)
        over = len(encoded) + len(topic) + PACKET_OVERHEAD_BYTES - self._link.max_packet_bytes
        if over > 0:  # rather a part of the original than no dead letter
            dead.payload = dead.payload[: max(0, len(dead.payload) - over * 3 // 4 - 3)]
            dead.truncated = True
            encoded = encode_payload(dead)
        return topic, encoded

    def _is_dead_letter(self, msg: Msg) -> bool:
        """A dead letter that fails must not become one again: that would go round for ever."""
        found = topics.parse((msg.origin or msg).topic)
        if found is None or found.kind != topics.DEAD.kind:
            return False
        self.dropped += 1
        log.error(
            "a dead letter failed itself and is dropped: %s: %.200r",
            msg.payload,
            (msg.origin or msg).payload,
            extra=about(msg),
        )
        return True

    def _dead(self, msg: Msg) -> Dead:
        origin = msg.origin or msg
        data = encode_payload(origin.payload)
        failure = (
            msg.payload
            if isinstance(msg.payload, Failure)
            else Failure("", "sent here by a wire", _id_of(origin))
        )
        key = msg.key or (readable_key(origin.topic, data) if len(data) <= self.max_bytes else None)
        return Dead(
            schema_="dead/1", gateway=self._gateway, node=failure.node, error=failure.error[:2000],
            topic=origin.topic, payload=data[: self.max_bytes], truncated=len(data) > self.max_bytes,
            size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest(), received_ms=origin.received_ms or None,
            pack=key.pack if key else None, boot=key.boot if key else None, seq=key.seq if key else None,
            id=failure.id,
        )  # fmt: skip

    def status(self) -> dict[str, Any]:
        return {"dead_letters": self.count, "dropped": self.dropped}


def _id_of(origin: Msg) -> str:
    """The id of a letter that a wire brought: the same each time the message is written."""
    return hashlib.sha256(repr((origin.topic, origin.received_ms, origin.payload)).encode()).hexdigest()[:32]


def _dead_topic(origin: str) -> str:
    found = topics.parse(origin)
    return found.sibling("dead") if found else topics.DEAD.of("unknown", "unknown")


def readable_key(topic: str, data: bytes) -> Key | None:
    """The key of a reading that could not be processed, so that the ledger can tell what became of it; None where it
    cannot be read or is of another pack than the topic.

    >>> readable_key("ev/v1/f/p/telemetry", b'{"pack":"p","boot":1,"seq":2,"soc_pct":NaN}')
    Key(pack='p', boot=1, seq=2)
    >>> readable_key("ev/v1/f/other/telemetry", b'{"pack":"p","boot":1,"seq":2}') is None
    True
    """
    found = topics.parse(topic)
    if found is None or found.kind not in KEYED_KINDS:
        return None
    try:
        try:
            key = _decode_key(data)
        except msgspec.ValidationError:
            return None
        except msgspec.DecodeError:  # Python's reader also takes NaN and texts that are not UTF-8
            lenient = json.loads(data.decode(errors="replace"), strict=False)
            key = msgspec.convert(lenient, _ReadingKey)
    except (ValueError, RecursionError):
        return None
    return Key(key.pack, key.boot, key.seq) if key.pack == found.pack else None
