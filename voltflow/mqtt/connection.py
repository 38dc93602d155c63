"""One connection to a broker, by gmqtt: CONNECT, the protocol version, limits, subscriptions, its end.

From gmqtt it takes the handshake, the codec, keep-alive and subscriptions. Publishes and their acknowledgements go past
it to Inbound and Outbound, and reconnecting is the link's.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

import gmqtt
import gmqtt.mqtt.handler
from gmqtt.mqtt.constants import MQTTv50, MQTTv311

from voltflow.mqtt.codec import (
    DISCONNECT,
    OTHER_CAUSES,
    PUBACK,
    PUBCOMP,
    PUBLISH,
    PUBREC,
    REASONS,
    SUBACK,
    TAKEN_OVER,
    UNSUBACK,
    UNSUPPORTED_VERSION,
)
from voltflow.mqtt.inbound import Inbound
from voltflow.mqtt.options import MqttOptions
from voltflow.mqtt.outbound import NO_PACKET_LIMIT, NO_WINDOW, Outbound
from voltflow.mqtt.reader import packet_reader

log = logging.getLogger("voltflow.mqtt")

MqttError = gmqtt.mqtt.handler.MQTTError

CONNECT_TIMEOUT_S = 10.0
DISCONNECT_TIMEOUT_S = 1.0
SILENT_KEEPALIVES = 1.8
"""Keep-alive intervals without a word from the broker after which the connection is dead; gmqtt asks (PINGREQ) after
0.8 to 1.3 of one."""


class Version:
    """The version of MQTT to speak: 5, or 3.1.1 where the broker has only that.

    Such a broker answers CONNECT of version 5 with a reason code or by closing the connection. The latter happens for
    other reasons too (a tunnel or proxy whose far end is away): it counts for one connection only, and not where version
    5 was spoken before, because a connection may last for months and 3.1.1 does not tell what nobody subscribes to.
    """

    def __init__(self) -> None:
        self.current: int = MQTTv50
        self._only_v311 = False
        self._was_5 = False
        self._closed_unanswered = 0

    @property
    def is_5(self) -> bool:
        return bool(self.current == MQTTv50)

    def refused(self) -> None:
        """The broker said that it does not speak this version."""
        self._only_v311, self.current = True, MQTTv311

    def unanswered(self, *, closed: bool) -> None:
        """CONNECT had no answer; the broker closed the connection or said nothing at all."""
        self._closed_unanswered += closed
        if self._closed_unanswered % 3 == 2 and not self._was_5:
            self.current = MQTTv311
        elif self._closed_unanswered and not self._only_v311:
            self.current = MQTTv50

    def connected(self) -> None:
        self._closed_unanswered = 0
        self._was_5 = self._was_5 or self.is_5

    def lost(self) -> None:
        self.current = MQTTv311 if self._only_v311 else MQTTv50


class _Identifiers:
    """Packet identifiers for gmqtt's subscriptions, from the pool of the link's publishes (MQTT 5, 2.2.1).

    gmqtt's own generator counts up to the broker's Receive Maximum and fails with as many subscriptions.
    """

    def __init__(self, outbound: Outbound) -> None:
        self._outbound = outbound
        outbound.of_subscriptions.clear()

    def next_id(self) -> int:
        mid = self._outbound.new_mid()
        self._outbound.of_subscriptions.add(mid)
        return mid

    def free_id(self, mid: int) -> None:
        self._outbound.of_subscriptions.discard(mid)


class _Handler(gmqtt.mqtt.handler.MqttPackageHandler):  # type: ignore[misc]
    """gmqtt's packet handler, with publishes and their acknowledgements taken out."""

    link: Connection

    def __call__(self, package: Any) -> None:
        if self.link.on_packet(package.cmd, package.data):
            return
        kind = package.cmd & 0xF0
        try:
            if kind == DISCONNECT:
                self.link.on_disconnect(package.data)
            self._handle_packet(package.cmd, package.data)
        except Exception:
            log.exception("%s: cannot handle a packet of type %#x", self.link.name, kind)


class Connection:
    """One attempt to connect and what becomes of it. Use: `open`, `until_lost`, `leave`."""

    def __init__(
        self,
        options: MqttOptions,
        client_id: str,
        version: Version,
        name: str,
        inbound: Inbound,
        outbound: Outbound,
        *,
        clean_start: bool,
    ) -> None:
        self.name = name
        self.lost = asyncio.Event()
        self.session_present = False
        self.error = ""
        """Why it ended, as far as anybody said so."""
        self.ended_with: int | None = None
        """The reason code of the broker's DISCONNECT."""
        self.deaf = False
        """Nothing more is taken from it: what still comes will come again over the next."""
        self.held = False
        """Of what still comes only the answers to what is published are taken: its session is to be another's."""
        self._options = options
        self._client_id = client_id
        self._clean_start = clean_start
        self._version = version
        self._inbound = inbound
        self._unsubscribing: dict[int, tuple[set[str], Callable[[set[str]], None]]] = {}
        """Filters whose UNSUBACK is to come, and who hears of it, by packet identifier."""
        self._on_publish, self._on_answer = inbound.on_publish, outbound.on_answer
        self.client = self._new_client(_Identifiers(outbound))
        inbound.begin(self.client._package_handler._parse_properties if version.is_5 else None)

    def _new_client(self, identifiers: _Identifiers) -> gmqtt.Client:
        options, will = self._options, self._options.will
        properties: dict[str, Any] = {}
        if self._version.is_5:
            properties = {
                "session_expiry_interval": 0 if options.clean_start else options.session_expiry_s,
                "receive_maximum": options.receive_maximum,
            }
        client = gmqtt.Client(
            self._client_id.encode(),  # as text gmqtt counts its characters, not its bytes
            clean_session=self._clean_start,
            will_message=will and gmqtt.Message(will.topic, will.payload, qos=will.qos, retain=will.retain),
            logger=_quiet,
            **properties,
        )
        if options.username:
            client.set_auth_credentials(options.username, options.password or None)
        handler = client._package_handler
        handler.__class__ = _Handler  # gmqtt offers no hook before its own QoS 1 handler has acknowledged
        handler.link = self
        handler.id_generator = identifiers
        handler.on_connect = self._on_connack
        handler.on_subscribe = self._on_suback
        handler._reconnect_callback = self._on_lost
        return client

    # -- its beginning --------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Connect; raises what the broker or the network has against it."""
        options, client = self._options, self.client
        connecting = asyncio.create_task(
            client.connect(
                options.host,
                options.port,
                ssl=options.tls or False,
                keepalive=options.keepalive_s,
                version=self._version.current,
            ),
            name=f"{self.name} connecting",
        )
        lost = asyncio.create_task(self.lost.wait(), name=f"{self.name} lost")
        try:
            await asyncio.wait(
                {connecting, lost}, timeout=CONNECT_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED
            )
            client._package_handler.propagate_error()  # it may have refused, and closed before `connecting` saw it
            if not connecting.done():
                self._unanswered(closed=lost.done())
                raise ConnectionError("the broker did not answer CONNECT")
            connecting.result()
        except gmqtt.mqtt.handler.MQTTConnectError as error:
            if error._code == UNSUPPORTED_VERSION:
                self._version.refused()
            raise
        finally:
            for task in (connecting, lost):
                task.cancel()
        self._version.connected()
        self._bound_reading(client._connection._protocol)
        client._connection._protocol._read_packet = packet_reader(client._connection, self.on_packet)

    def _unanswered(self, *, closed: bool) -> None:
        if self._version.is_5 and self.client._connection_state.protocol_version == MQTTv311:
            self._version.refused()  # with code 1: gmqtt notes it there and waits
        else:
            self._version.unanswered(closed=closed)

    def _bound_reading(self, protocol: Any) -> None:
        """Read nothing while more messages are unacknowledged than the Receive Maximum allows.

        A broker should not send them (MQTT 5, 4.9), but mosquitto 2.0.11 sends its whole queue after the first
        acknowledgement of a full window, and one of MQTT 3.1.1 knows no such limit. What is not read fills the
        socket, and then the broker waits.
        """
        read, room = protocol.read, self._inbound.room

        async def read_when_room(n: int = -1) -> bytes:
            await room.wait()
            try:
                data: bytes = await read(n)
            except AttributeError:  # gmqtt looks at a transport that it has let go of
                raise ConnectionResetError("closed") from None
            return data

        protocol.read = read_when_room

    @property
    def window(self) -> int:
        """How many messages the broker takes at once, unanswered."""
        window: int = self.client._package_handler._connack_properties.get("receive_maximum", [NO_WINDOW])[0]
        return window

    @property
    def max_packet_bytes(self) -> int:
        limits = self.client._package_handler._connack_properties
        largest: int = limits.get("maximum_packet_size", [NO_PACKET_LIMIT])[0]
        return largest

    # -- while it lasts -------------------------------------------------------------------------------------------

    def on_packet(self, header: int, packet: bytes) -> bool:
        """Take a packet that delivery depends on; the others are gmqtt's."""
        kind = header & 0xF0
        if self.deaf or (self.held and kind not in (PUBACK, PUBREC, PUBCOMP)):
            return kind != DISCONNECT or self.lost.is_set()
        try:
            if kind == PUBLISH:
                self._on_publish(header, packet)
            elif kind in (PUBACK, PUBREC, PUBCOMP):
                self._on_answer(kind, packet)
            else:
                self._note_answer(kind, packet)
                return False
        except Exception:
            log.exception("%s: cannot handle a packet of type %#x", self.name, kind)
        return True

    def _note_answer(self, kind: int, packet: bytes) -> None:
        """SUBACK and UNSUBACK in their place among the messages: gmqtt handles them later."""
        if kind == SUBACK:
            mid = packet[0] << 8 | packet[1]
            subscriptions = self.client._package_handler.get_subscriptions_by_mid(mid)
            self._inbound.subscribed(item.topic for item in subscriptions)
        elif kind == UNSUBACK:
            self._inbound.unsubscribed()

    def subscribe(self, topic_filter: str, *, again: bool = False) -> None:
        """Ask for a filter as its receivers want it (those of one that is about to end: at any QoS); `again`: it is
        subscribed already, retained messages are known."""
        options: dict[str, Any] = {}
        if self._version.is_5:
            options["retain_handling_options"] = 2 if again else 0
            identifier = self._inbound.identifiers.get(topic_filter)
            if identifier is not None and self._takes_identifiers:
                options["subscription_identifier"] = identifier
        self.client._remove_subscriptions(topic_filter)
        self._inbound.confirmed.discard(topic_filter)
        self._inbound.refused.pop(topic_filter, None)
        qos = self._inbound.qos_of(topic_filter)
        self.client.subscribe(topic_filter, qos=2 if qos < 0 else qos, **options)

    @property
    def _takes_identifiers(self) -> bool:
        properties = self.client._package_handler._connack_properties
        return bool(properties.get("subscription_identifier_available", [1])[0])

    def unsubscribe(self, filters: set[str], confirmed: Callable[[set[str]], None]) -> None:
        """End subscriptions; `confirmed` is told which when the broker has answered."""
        self.client._package_handler.on_unsubscribe = self._on_unsuback
        self.client._remove_subscriptions(filters)
        mid = self.client._connection.unsubscribe([topic_filter.encode() for topic_filter in sorted(filters)])
        self._unsubscribing[mid] = (filters, confirmed)

    def _on_unsuback(self, mid: int, _: Sequence[int]) -> None:
        filters, confirmed = self._unsubscribing.pop(mid, (set(), None))
        if confirmed is not None:
            confirmed(filters)

    def _on_connack(self, session_present: int, result: int, properties: dict[str, Any]) -> None:
        self.session_present = bool(session_present & 1)

    def _on_suback(self, mid: int, granted: Sequence[int], properties: dict[str, Any]) -> None:
        refused = self._inbound.refused
        subscriptions = self.client._package_handler.get_subscriptions_by_mid(mid)
        for subscription, code in zip(subscriptions, granted, strict=False):
            if code < 0x80:
                self._inbound.confirmed.add(subscription.topic)
            else:
                refused[subscription.topic] = code
                log.error("%s: the broker refused the subscription to %s with reason code %#x (%s)", self.name,
                          subscription.topic, code, REASONS.get(code, "see its log"))  # fmt: skip
        self._inbound.tell()

    # -- its end --------------------------------------------------------------------------------------------------

    def on_disconnect(self, packet: bytes) -> None:
        """The broker's DISCONNECT (gmqtt makes an empty one when the connection ends)."""
        if packet:
            self.ended_with = packet[0]
            reason = REASONS.get(packet[0], "see the broker's log")
            self.error = f"the broker disconnected with reason code {packet[0]:#x} ({reason})"
            if self.taken_over:
                self.error += f": {self._client_id!r} is in use twice, give each client an id of its own"

    @property
    def taken_over(self) -> bool:
        """Whether it ended because another client came with the same client id."""
        return self.ended_with == TAKEN_OVER

    @property
    def may_blame_a_message(self) -> bool:
        """Whether the broker closed it, and named no cause that has nothing to do with what it got."""
        if self.ended_with is None:
            return self.closed_silently
        return self.ended_with not in OTHER_CAUSES

    @property
    def closed_silently(self) -> bool:
        """Whether the broker (or the network) ended it without a word."""
        return not self.error

    async def _on_lost(self, delay: bool = False) -> None:
        """In the place of gmqtt's reconnecting."""
        self.lost.set()

    def give_up(self, reason: str) -> None:
        """End it so that the broker sends again what is unacknowledged, over the next."""
        self.error, self.deaf = reason, True
        self.lost.set()

    async def until_lost(self) -> None:
        """Until it is gone, or the broker has said nothing for longer than its keep-alive allows.

        gmqtt closes a silent connection as well, but in order: what waits to be sent would hold that up until the
        kernel gives up, a quarter of an hour later.
        """
        connection: Any = self.client._connection
        allowed_s = SILENT_KEEPALIVES * connection.keepalive or None
        while not self.lost.is_set():
            await self._lost_within(allowed_s and allowed_s / 4)
            if not self._inbound.room.is_set():
                connection._last_data_in = time.monotonic()  # nothing is read on purpose; that is not silence
            silent_s = time.monotonic() - connection._last_data_in
            if allowed_s and silent_s > allowed_s and not self.lost.is_set():
                await self._lost_within(
                    1.0
                )  # an event loop that was held up has not read yet what came meanwhile
                if time.monotonic() - connection._last_data_in > allowed_s:
                    self.error = f"no answer for {silent_s:.0f} s"
                    connection._transport.abort()
                    return

    async def _lost_within(self, timeout_s: float | None) -> None:
        # not wait_for: on Python 3.11 it swallows a cancellation that comes together with what it waits for
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self.lost.wait()

    async def leave(self, reason_code: int = 0) -> None:
        """Disconnect, in order if that is still possible."""
        connection: Any = self.client._connection
        if connection is None:
            return
        if not reason_code or self.client._connection_state.protocol_version == MQTTv50:
            with contextlib.suppress(
                Exception
            ):  # the socket may be gone in any state; nothing is left to save
                async with asyncio.timeout(DISCONNECT_TIMEOUT_S):
                    await self._say_disconnect(connection, reason_code)
        connection._transport.abort()  # 3.1.1 publishes the will when no DISCONNECT came

    async def _say_disconnect(self, connection: Any, reason_code: int) -> None:
        """Say DISCONNECT and read on until the broker closes (it does: MQTT 5, 3.14.4).

        A socket that is closed with something unread in it is reset, and a reset takes with it what the broker has not
        read yet: the last acknowledgements.
        """
        if not connection.is_closing():
            connection.send_disconnect(reason_code=reason_code)
            self.deaf = True  # what still comes is read and dropped
            self._inbound.room.set()
            await connection._protocol.closed
        await connection.close()


_quiet = logging.getLogger("voltflow.mqtt.gmqtt")
_quiet.setLevel(logging.ERROR)  # gmqtt reports each step of a connection; the link reports those that matter
logging.getLogger("gmqtt").setLevel(logging.ERROR)
