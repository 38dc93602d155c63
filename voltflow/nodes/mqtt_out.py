"""The `mqtt out` node: publishes, and calls a batch safe when the broker has confirmed all of it."""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec

from voltflow.engine.network_sink import NetworkSink
from voltflow.message import Msg, encode_payload
from voltflow.mqtt.codec import check_topic
from voltflow.mqtt.properties import encode_properties
from voltflow.node import ConfigError, Context, config, node
from voltflow.nodelib.mqtt_badge import LinkBadge
from voltflow.nodelib.mqtt_publisher import Item, Publisher, link_trouble
from voltflow.nodelib.mqtt_publishing import by_message, is_true, properties_of
from voltflow.nodes.mqtt_broker import MqttBroker

_FIELDS = {
    "responseTopic": "respTopic",
    "correlationData": "correl",
    "messageExpiryInterval": "expiry",
    "userProperties": "userProps",
}
"""The node's names of what a message calls otherwise."""


@node("mqtt out", category="network", color="#d8bfd8", icon="bridge.svg")
class MqttOut(NetworkSink):
    """Publish messages to an MQTT broker: bytes and texts as they are, anything else as JSON, null as nothing at all.

    With QoS 1 or 2 a batch is safe when the broker has confirmed it, and waits while the broker is away, on disk with
    `spool`; after a reconnect an unconfirmed message is sent again, so a receiver may see it twice at QoS 1. With QoS 0
    nothing is confirmed and what is sent while the broker is away is lost.

    A broker also confirms what nobody subscribes to, and throws it away. One that was restarted may have forgotten its
    subscribers: for a minute after a reconnect such a message is published again until it finds one, where there were
    some before, unless `patient` is off. With `needsSubscriber` such a message is not
    safe: it is published again until somebody subscribes, and the flow waits. Messages that are repeated keep their
    order among each other; one of a later batch that found a subscriber meanwhile is before them. It takes a broker
    of MQTT 5, which says so.

    What MQTT 5 can say beside the payload is said as this node or else the message has it; out of the spool comes what
    this node has.
    """

    badge_with_traffic: ClassVar[bool] = True
    pipelined: ClassVar[bool] = True

    topic: str = config("", help="topic; empty: the message's own", example="ev/v1/demo/SIM000001/cmd")
    qos: int | None = config(
        None, help="quality of service; empty: msg.qos where it is 1 or 2, else 1", choices=("", 0, 1, 2)
    )
    retain: Any = config(
        "",
        help="the broker keeps the last message of the topic: true, false, or empty: as msg.retain says; with a spool no",
    )
    needsSubscriber: bool = config(
        False, help="not safe before somebody subscribes to it; for brokers that forget subscriptions"
    )
    patient: bool = config(
        True,
        help="for a minute after a reconnect what nobody subscribes to waits for a subscriber",
        advanced=True,
    )
    respTopic: str = config("", help="where an answer is expected; empty: msg.responseTopic", advanced=True)
    correl: str = config("", help="what an answer is to repeat; empty: msg.correlationData", advanced=True)
    contentType: str = config(
        "",
        help="media type of the payload; empty: msg.contentType",
        example="application/json",
        advanced=True,
    )
    userProps: str = config(
        "",
        help="texts by name, as a JSON object; empty: msg.userProperties",
        example='{"site": "depot"}',
        advanced=True,
    )
    expiry: int | None = config(
        None, help="the broker keeps it so long for who is away; empty: msg.messageExpiryInterval", unit="s",
        low=0, high=0xFFFFFFFF, advanced=True,
    )  # fmt: skip
    broker: str = config(help="the broker", reference="mqtt-broker")

    def __post_init__(self) -> None:
        if self.retain not in (True, False, "true", "false", ""):
            raise ConfigError(f'property "retain": {self.retain!r} is not true, false or empty')
        if self.topic:
            try:
                check_topic(self.topic)
            except ValueError as error:
                raise ConfigError(f'property "topic": {error}') from None
        if self.needsSubscriber and self.qos == 0:
            raise ConfigError(
                'property "needsSubscriber": with QoS 0 the broker answers nothing; use qos 1 or 2'
            )
        if self.spool and self.qos == 0:
            raise ConfigError(
                'property "spool": with QoS 0 nothing shows what did not arrive; use qos 1 or 2'
            )
        as_message = self.retain == "" and not self.spool
        self._how_of = by_message(
            self._own_properties(), qos=self.qos, retain=None if as_message else is_true(self.retain)
        )

    def _own_properties(self) -> dict[str, Any]:
        """What is said with each message, whatever that says."""
        own = properties_of({
            "responseTopic": self.respTopic, "correlationData": self.correl, "contentType": self.contentType,
            "messageExpiryInterval": self.expiry, "userProperties": self._user_properties(),
        })  # fmt: skip
        for name, value in own.items():
            try:
                encode_properties({name: value})
            except ValueError as error:
                raise ConfigError(f'property "{_FIELDS.get(name, name)}": {error}') from None
        return own

    def _user_properties(self) -> dict[str, Any] | None:
        if not self.userProps.strip():
            return None
        try:
            return msgspec.json.decode(self.userProps, type=dict[str, Any])
        except msgspec.DecodeError as error:
            raise ConfigError(f'property "userProps": not a JSON object: {error}') from None

    async def start(self, ctx: Context) -> None:
        self._link = link = await ctx.config_node(self.broker, MqttBroker).open_sender()
        self._publisher = Publisher(
            link, self._item, how_of=self._how_of,
            needs_subscriber=self.needsSubscriber, patient=self.patient,
        )  # fmt: skip
        self._badge = LinkBadge(self, link)

    async def stop(self) -> None:
        self._badge.end()

    async def write(self, msgs: list[Msg]) -> None:
        await self._publisher.write(msgs)

    def _item(self, msg: Msg) -> Item:
        payload = msg.payload
        encoded = b"" if payload is None else encode_payload(payload)
        return check_topic(self.topic or msg.topic or self._response_topic(msg)), encoded

    def _response_topic(self, msg: Msg) -> str:
        """Where a message without topic goes."""
        found = self.respTopic or (msg.props or {}).get("responseTopic")
        return found if isinstance(found, str) else ""

    def to_spool(self, msg: Msg) -> Item:
        return self._item(msg)

    def forget(self, msgs: list[Msg]) -> None:
        self._publisher.forget(msgs)

    def trouble(self) -> str:
        return link_trouble(self._link)

    def status(self) -> dict[str, Any]:
        return {"topic": self.topic or "as the message"}
