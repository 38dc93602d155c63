"""The `mqtt out` node: publishes, and calls a batch safe when the broker has confirmed all of it."""

from __future__ import annotations

from typing import Any, ClassVar

from voltflow.message import Msg, encode_payload
from voltflow.mqtt import LinkClosed, PublishRefused
from voltflow.node import Context, Rejected, Sink, SinkUnavailable, config, node
from voltflow.nodes.mqtt_broker import MqttBroker


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
        self._link = await ctx.config_node(self.broker, MqttBroker).connected_link()

    async def write(self, msgs: list[Msg]) -> None:
        items = [(check_topic(self.topic or msg.topic), encode_payload(msg.payload)) for msg in msgs]
        try:
            await self._link.publish_batch(items, qos=self.qos, retain=self.retain)
        except PublishRefused as error:
            raise Rejected(
                [(msgs[i], f"the broker refused it: {reason:#x}") for i, reason in error.refused]
            ) from None
        except LinkClosed as error:
            raise SinkUnavailable(str(error)) from None

    def status(self) -> dict[str, Any]:
        return {"topic": self.topic or "as the message"}


def check_topic(topic: str) -> str:
    """The topic, when it can be published to; raises ValueError (MQTT 5, 4.7.3)."""
    if not topic or "#" in topic or "+" in topic or "\0" in topic or len(topic.encode()) > 65535:
        raise ValueError(f"not a topic to publish to: {topic[:100]!r}")
    return topic
