"""The `mqtt-broker` config node: what several `mqtt in` and `mqtt out` nodes share to reach one broker."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

from voltflow.mqtt.codec import check_topic
from voltflow.mqtt.link import MqttLink, MqttOptions, Publication, tls_context
from voltflow.node import ConfigError, ConfigNode, Context, Node, config, node
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
    user: str = config("", help="user name; empty: none", secret="text")  # noqa: S106 - how it is shown
    password: str = config("", help="password", secret=True)
    autoConnect: bool = config(True, help="connect at once; else when a message to an mqtt in node says so")
    usetls: bool = config(False, help="encrypt the connection with TLS")
    tls: str = config("", help="certificates for TLS", reference="tls-config")
    keepalive: int = config(30, help="keep-alive interval", unit="s", low=1, high=3600)
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
    receiver: MqttLink | None = None
    sender: MqttLink | None = None
    alone: bool = False
    """Whether nobody else has the client ids: in a deploy the node before this one has them until it stops."""

    def __post_init__(self) -> None:
        for name in ("birthTopic", "closeTopic", "willTopic"):
            try:
                if topic := getattr(self, name):
                    check_topic(topic)
            except ValueError as error:
                raise ConfigError(f'property "{name}": {error}') from None

    async def start(self, ctx: Context) -> None:
        client_id = self.clientid or self._client_id(ctx.gateway)
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
        self._options = options
        self._wanted = self.autoConnect
        self.receiver = await self._link(options, self.label)

    async def _link(self, options: MqttOptions, name: str) -> MqttLink:
        link = MqttLink(options, name=name)
        if not self._wanted:
            await link.suspend("")
        return link

    def _client_id(self, host: str) -> str:
        return f"voltflow-{host}-{self.id}"

    def link_of(self, host: str) -> MqttLink:
        """A link, not open yet, with the client id that this node has at another host: to take over its session."""
        options = replace(_silent(self._options), client_id=self._client_id(host), memory=None)
        return MqttLink(options, name=f"{self.label} (for {host})")

    async def open_receiver(self) -> MqttLink:
        """The connection of the `mqtt in` nodes. They subscribe before: the engine starts sources first."""
        assert self.receiver is not None, "started before use"
        if not self.receiver.is_open:
            if self.sender is not None and self.sender.is_open and not _is_silent(self.sender.options):
                self.receiver.options = _silent(self.receiver.options)  # the other one says birth and will
            await self.receiver.open()
        return self.receiver

    async def open_sender(self) -> MqttLink:
        """The link of the nodes that publish, made at the first use and connected when this node is alone.

        A second one, because what comes in is acknowledged after what goes out was confirmed: over one connection the
        confirmations would wait behind messages that wait for them.
        """
        if self.sender is None:
            options = replace(
                self._options, client_id=f"{self._options.client_id}-out", memory=None, sends_only=True
            )
            self.sender = await self._link(options, f"{self.label} (out)")
            await self._connect_sender()
        return self.sender

    async def _connect_sender(self) -> None:
        if self.alone and self.sender is not None and not self.sender.is_open:
            if self._receives:  # birth and will are said by the other one
                self.sender.options = _silent(self.sender.options)
            await self.sender.open()

    async def disconnect(self, reason: str) -> None:
        """Have no connection until `connect`: what comes meanwhile waits in the broker's session, what goes out waits here."""
        self._wanted = False
        await asyncio.gather(
            *(link.suspend(reason) for link in (self.sender, self.receiver) if link is not None)
        )

    async def connect(self) -> None:
        """Connect again after `disconnect`; returns when that is so."""
        self._wanted = True
        await asyncio.gather(*(link.resume() for link in (self.receiver, self.sender) if link is not None))

    async def take_over(self) -> None:
        self.alone = True
        await self._connect_sender()

    def hand_over(self, successor: Node | None) -> None:
        """What the broker sends from now on waits in the session, where the successor has the same."""
        assert self.receiver is not None
        following = successor.receiver if isinstance(successor, MqttBroker) else None
        if following is not None and following.client_id == self.receiver.client_id:
            self.receiver.hold(following)

    def take_back(self) -> None:
        assert self.receiver is not None
        self.receiver.go_on()

    @property
    def _receives(self) -> bool:
        return self.receiver is not None and (self.receiver.is_open or self.receiver.has_subscriptions)

    async def stop(self) -> None:
        links = [link for link in (self.sender, self.receiver) if link is not None and link.is_open]
        # the engine has waited for what is under way already
        await asyncio.gather(*(link.close(timeout_s=2.0) for link in links))

    def status(self) -> dict[str, Any]:
        links = [link for link in (self.receiver, self.sender) if link is not None and link.is_open]
        return {
            "connected": bool(links) and all(link.connected.is_set() for link in links),
            "address": f"{self.broker}:{self.port}",
            "client_ids": [link.client_id for link in links],
            "reconnects": sum(link.reconnects for link in links),
            "received": sum(link.received for link in links),
            "published": sum(link.published for link in links),
            "confirmed": sum(link.confirmed for link in links),
            "without_subscriber": sum(link.without_subscriber for link in links),
            "sessions_lost": sum(link.sessions_lost for link in links),
            "remade": sum(link.remade for link in links),
            "taken_over": sum(link.taken_over for link in links),
            "closed_on": sum(link.closed_on for link in links),
            "unrouted": sum(link.unrouted for link in links),
            "dropped_qos0": sum(link.dropped_offline_qos0 for link in links),
            "refused_subscriptions": {k: v for link in links for k, v in link.refused_subscriptions.items()},
            "error": next((link.last_error for link in links if not link.connected.is_set()), ""),
        }


def _silent(options: MqttOptions) -> MqttOptions:
    """For a client that says nothing of itself."""
    return replace(options, birth=None, farewell=None, will=None)


def _is_silent(options: MqttOptions) -> bool:
    return _silent(options) == options


def _publication(topic: str, payload: str, qos: int, retain: bool) -> Publication | None:
    return Publication(topic, payload.encode(), qos, retain) if topic else None
