"""The `mqtt-broker` config node: one connection that several `mqtt in` and `mqtt out` nodes share."""

from __future__ import annotations

from typing import Any

from voltflow.mqtt import MqttLink, MqttOptions, Publication, tls_context
from voltflow.node import ConfigNode, Context, config, node
from voltflow.nodes.tls_config import TlsConfig


@node("mqtt-broker", category="config", color="#d8bfd8", icon="bridge.svg")
class MqttBroker(ConfigNode):
    """A connection to an MQTT broker.

    MQTT 5, or 3.1.1 where the broker has only that. The session is persistent unless `cleansession` is set: with it,
    what the broker could not deliver while the gateway was away is lost. The client id must stay the same over
    restarts and differ from that of every other client.
    """

    broker: str = config("127.0.0.1", help="host name or address", example="broker.example.org")
    port: int = config(1883, help="TCP port", low=1, high=65535)
    clientid: str = config("", help="client id; empty: made from the gateway's name and this node's id")
    user: str = config("", help="user name; empty: none")
    password: str = config("", help="password", secret=True)
    usetls: bool = config(False, help="encrypt the connection with TLS")
    tls: str = config("", help="certificates for TLS", reference="tls-config")
    keepalive: int = config(30, help="keep-alive interval", unit="s", low=5, high=3600)
    cleansession: bool = config(False, help="start without a session: what was not delivered is lost")
    sessionExpiry: int = config(
        7 * 86400,
        help="how long the broker keeps the session of an absent client",
        unit="s",
        low=0,
        high=0xFFFFFFFF,
    )
    receiveMaximum: int = config(
        1000,
        help="messages the broker may have under way to here, unacknowledged",
        low=1,
        high=65535,
        advanced=True,
    )
    birthTopic: str = config("", help="topic published at each connect; empty: none")
    birthPayload: str = config("", help="its payload")
    birthRetain: bool = config(True, help="retain it")
    birthQos: int = config(1, help="its QoS", choices=(0, 1, 2))
    closeTopic: str = config("", help="topic published before a clean disconnect; empty: none")
    closePayload: str = config("", help="its payload")
    closeRetain: bool = config(True, help="retain it")
    closeQos: int = config(1, help="its QoS", choices=(0, 1, 2))
    willTopic: str = config("", help="topic the broker publishes when the connection is lost; empty: none")
    willPayload: str = config("", help="its payload")
    willRetain: bool = config(True, help="retain it")
    willQos: int = config(1, help="its QoS", choices=(0, 1, 2))

    # state
    link: MqttLink | None = None

    async def start(self, ctx: Context) -> None:
        client_id = self.clientid or f"voltflow-{ctx.gateway}-{self.id}"
        tls = None
        if self.usetls:
            tls = ctx.config_node(self.tls, TlsConfig).context() if self.tls else tls_context()
        options = MqttOptions(
            host=self.broker, port=self.port, client_id=client_id, username=self.user, password=self.password,
            tls=tls, keepalive_s=self.keepalive, clean_start=self.cleansession, session_expiry_s=self.sessionExpiry,
            receive_maximum=self.receiveMaximum,
            birth=_publication(self.birthTopic, self.birthPayload, self.birthQos, self.birthRetain),
            farewell=_publication(self.closeTopic, self.closePayload, self.closeQos, self.closeRetain),
            will=_publication(self.willTopic, self.willPayload, self.willQos, self.willRetain),
            memory=None if self.cleansession else ctx.state_dir / f"mqtt-{self.id}.json",
        )  # fmt: skip
        self.link = MqttLink(options, name=self.label)

    async def connected_link(self) -> MqttLink:
        """The link, opened. Sources subscribe before: the engine starts them first."""
        assert self.link is not None, "started before use"
        if not self.link.is_open:
            await self.link.open()
        return self.link

    async def stop(self) -> None:
        if self.link is not None:
            await self.link.close(timeout_s=2.0)  # the engine has waited for what is under way already

    def status(self) -> dict[str, Any]:
        link = self.link
        if link is None:
            return {}
        return {
            "connected": link.connected.is_set(),
            "address": f"{self.broker}:{self.port}",
            "reconnects": link.reconnects,
            "received": link.received,
            "published": link.published,
            "confirmed": link.confirmed,
            "unrouted": link.unrouted,
            "dropped_qos0": link.dropped_offline_qos0,
            "refused_subscriptions": dict(link.refused_subscriptions),
            "error": "" if link.connected.is_set() else link.last_error,
        }


def _publication(topic: str, payload: str, qos: int, retain: bool) -> Publication | None:
    return Publication(topic, payload.encode(), qos, retain) if topic else None
