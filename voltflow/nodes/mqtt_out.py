"""The `mqtt out` node: publishes, and calls a batch safe when the broker has confirmed all of it."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, ClassVar

from voltflow.message import Msg, encode_payload
from voltflow.mqtt import LinkClosed, MqttLink, PublishRefused
from voltflow.mqtt_codec import reason_text
from voltflow.node import Context, Rejected, Sink, SinkUnavailable, config, node
from voltflow.nodes.mqtt_broker import MqttBroker

Item = tuple[str, bytes]
"""Topic and payload as they are published."""


@node("mqtt out", category="network", color="#d8bfd8", icon="bridge.svg")
class MqttOut(Sink):
    """Publish messages to an MQTT broker.

    With QoS 1 or 2 a batch is safe when the broker has confirmed it, and waits while the broker is away; after a
    reconnect an unconfirmed message is sent again, so a receiver may see it twice at QoS 1. With QoS 0 nothing is
    confirmed and what is sent while the broker is away is lost.
    """

    pipelined: ClassVar[bool] = True

    topic: str = config("", help="topic; empty: the message's own", example="ev/v1/demo/SIM000001/cmd")
    qos: int = config(1, help="quality of service", choices=(0, 1, 2))
    retain: bool = config(False, help="the broker keeps the last message of the topic")
    broker: str = config(help="the broker", reference="mqtt-broker")

    async def start(self, ctx: Context) -> None:
        self._link = await ctx.config_node(self.broker, MqttBroker).open_sender()

    async def write(self, msgs: list[Msg]) -> None:
        await publish(self._link, msgs, self._item, qos=self.qos, retain=self.retain)

    def _item(self, msg: Msg) -> Item:
        return check_topic(self.topic or msg.topic), encode_payload(msg.payload)

    def status(self) -> dict[str, Any]:
        return {"topic": self.topic or "as the message"}


async def publish(
    link: MqttLink, msgs: list[Msg], item: Callable[[Msg], Item], *, qos: int = 1, retain: bool = False
) -> None:
    """Publish what `item` makes of each message; raises Rejected for those that cannot be published, after the others.

    One that cannot be encoded must not hold up the batch: the next one, already on its way, would overtake the rest.
    """
    refused: list[tuple[Msg, str]] = []
    try:
        items, sent = [item(msg) for msg in msgs], msgs
    except Exception:  # noqa: BLE001 - found out message by message
        items, sent = _without_bad(msgs, item, refused)
    try:
        await link.publish_batch(items, qos=qos, retain=retain)
    except PublishRefused as error:
        refused += [(sent[i], f"the broker refused it: {reason_text(code)}") for i, code in error.refused]
    except LinkClosed as error:
        raise SinkUnavailable(str(error)) from None
    if refused:
        raise Rejected(refused)


def _without_bad(
    msgs: list[Msg], item: Callable[[Msg], Item], refused: list[tuple[Msg, str]]
) -> tuple[list[Item], list[Msg]]:
    items, sent = [], []
    for msg in msgs:
        try:
            items.append(item(msg))
        except Exception as error:  # noqa: BLE001 - a payload of any kind may fail in any way
            refused.append((msg, f"{type(error).__name__}: {error}"))
        else:
            sent.append(msg)
    return items, sent


@lru_cache(maxsize=65536)
def check_topic(topic: str) -> str:
    """The topic, when it can be published to; raises ValueError (MQTT 5, 4.7.3)."""
    if not topic or "#" in topic or "+" in topic or "\0" in topic or len(topic.encode()) > 65535:
        raise ValueError(f"not a topic to publish to: {topic[:100]!r}")
    return topic
