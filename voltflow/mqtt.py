"""The one MQTT client of all long-running parts: stays connected, confirms what it publishes, acknowledges by hand.

It stands on gmqtt for the connection, the codec, keep-alive and subscriptions, and replaces what delivery depends on:

* an inbound message is acknowledged when its receiver says so, in the order of arrival (MQTT 5, 4.6);
* an outbound QoS 1 or 2 message is settled by the broker's answer and sent again after a reconnect, in order, with
  its packet identifier (4.4); at most the broker's Receive Maximum are under way (4.9);
* all packets of one turn of the event loop leave in one write;
* a lost connection is made again with jittered back-off, and subscriptions that left the configuration are dropped
  from the broker's session.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import ssl
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gmqtt
import gmqtt.mqtt.handler
from gmqtt.mqtt.constants import MQTTv50, MQTTv311

from voltflow.backoff import Backoff
from voltflow.message import Msg, now_ms
from voltflow.mqtt_codec import (
    DISCONNECT,
    DISCONNECT_WITH_WILL,
    DUP,
    NO_SUBSCRIBER,
    PACKET_TOO_LARGE,
    PUBACK,
    PUBCOMP,
    PUBLISH,
    PUBREC,
    REASONS,
    UNSUPPORTED_VERSION,
    matches,
    publish_packet,
    reason_text,
)
from voltflow.mqtt_reader import packet_reader

log = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 10.0
DISCONNECT_TIMEOUT_S = 1.0
_NEVER_EXPIRES_S = 0xFFFFFFFF
SILENT_KEEPALIVES = 1.8
"""Keep-alive intervals without a word from the broker after which the connection is dead; gmqtt asks (PINGREQ) after
0.8 to 1.3 of one."""
STEADY_S = 10.0
"""A connection that lasted so long was a good one: the next attempt follows at once."""

Delivery = tuple[int, int]
"""What identifies an inbound message until it is acknowledged: the connection's number and the packet identifier."""

Receiver = Callable[[Msg, Delivery | None], None]
"""Called for each message in the event loop; the delivery is None at QoS 0, where nothing is to be acknowledged."""


@dataclass(frozen=True)
class Publication:
    """A message the client sends by itself: birth, farewell, last will."""

    topic: str
    payload: bytes
    qos: int = 1
    retain: bool = True


@dataclass(frozen=True)
class MqttOptions:
    """How to reach a broker and as whom."""

    host: str = "127.0.0.1"
    port: int = 1883
    client_id: str = ""
    username: str = ""
    password: str = field(default="", repr=False)
    tls: ssl.SSLContext | None = None
    keepalive_s: int = 30
    clean_start: bool = False
    session_expiry_s: int = _NEVER_EXPIRES_S
    receive_maximum: int = 1000
    birth: Publication | None = None
    will: Publication | None = None
    farewell: Publication | None = None
    memory: Path | None = None
    """File that remembers the session's subscriptions over restarts, so that those no longer wanted are dropped."""


def tls_context(ca: str = "", cert: str = "", key: str = "", *, verify: bool = True) -> ssl.SSLContext:
    """A TLS context: the system's authorities or the file `ca`; `cert` and `key` for a client certificate."""
    context = ssl.create_default_context(cafile=ca or None)
    if cert:
        context.load_cert_chain(cert, key or None)
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


class PublishRefused(Exception):
    """The broker refused messages for good; `refused` holds their positions in the batch and the reason codes.

    Where a subscriber is needed the code may be NO_SUBSCRIBER: nobody got that one yet.
    """

    def __init__(self, refused: list[tuple[int, int]]) -> None:
        super().__init__(
            f"the broker refused {len(refused)} message(s), the first with reason code {reason_text(refused[0][1])}"
        )
        self.refused = refused


class LinkClosed(Exception):
    """The client was closed before the broker confirmed."""


class _Batch:
    """Counts down the confirmations of messages published together."""

    __slots__ = ("future", "needs_subscriber", "refused", "remaining")

    def __init__(self, size: int, *, needs_subscriber: bool = False) -> None:
        self.remaining = size
        self.needs_subscriber = needs_subscriber
        self.refused: list[tuple[int, int]] = []
        self.future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def settle(self, index: int, reason: int) -> None:
        self.remaining -= 1
        if reason >= 0x80 or (reason == NO_SUBSCRIBER and self.needs_subscriber):
            self.refused.append((index, reason))
        if self.remaining == 0 and not self.future.done():
            if self.refused:
                self.future.set_exception(PublishRefused(self.refused))
            else:
                self.future.set_result(None)


class _Outbound:
    """One message on its way to the broker. `mid` is 0 until it was sent; `released`: QoS 2 after PUBREC, with the
    reason code `received_with`."""

    __slots__ = ("batch", "flags", "index", "mid", "payload", "received_with", "released", "topic")

    def __init__(self, topic: str, payload: bytes, flags: int, batch: _Batch, index: int) -> None:
        self.topic = topic
        self.payload = payload
        self.flags = flags
        self.batch = batch
        self.index = index
        self.mid = 0
        self.released = False
        self.received_with = 0


class _Identifiers:
    """Packet identifiers for gmqtt's subscriptions, from the pool of the link's publishes (MQTT 5, 2.2.1).

    gmqtt's own generator counts up to the broker's Receive Maximum and fails with as many subscriptions.
    """

    def __init__(self, link: MqttLink) -> None:
        self._link = link
        self.taken: set[int] = set()

    def next_id(self) -> int:
        mid = self._link._new_mid()
        self.taken.add(mid)
        return mid

    def free_id(self, mid: int) -> None:
        self.taken.discard(mid)


class _Handler(gmqtt.mqtt.handler.MqttPackageHandler):  # type: ignore[misc]
    """gmqtt's packet handler, with publishes and their acknowledgements handed to the link."""

    link: MqttLink

    def __call__(self, package: Any) -> None:
        if self.link._on_packet(package.cmd, package.data):
            return
        kind = package.cmd & 0xF0
        try:
            if kind == DISCONNECT:
                self.link._on_disconnect(package.data)
            self._handle_packet(package.cmd, package.data)
        except Exception:
            log.exception("%s: cannot handle a packet of type %#x", self.link.name, kind)


class MqttLink:
    """A connection to a broker that mends itself. Use: `open`, `subscribe`/`publish`, `close`.

    Who acknowledges what came in only after what goes out is confirmed needs two of them: a link with too much
    unacknowledged stops reading, confirmations included.
    """

    def __init__(self, options: MqttOptions, *, name: str = "mqtt") -> None:
        self.options = options
        self.name = name
        self.connected = asyncio.Event()
        self.reconnects = 0
        self.received = 0
        self.published = 0
        self.confirmed = 0
        self.dropped_offline_qos0 = 0
        self.unrouted = 0
        self.without_subscriber = 0
        """Messages the broker confirmed although nobody subscribes to them (MQTT 5; at 3.1.1 it does not tell)."""
        self.sessions_lost = 0
        """Reconnects to a broker that had forgotten the session, with what it kept for this client."""
        self.remade = 0
        """Connections given up here so that the broker sends again what could not be handled."""
        self.last_error = ""
        self._failed_attempts = 0
        self._said = ""
        self._was_connected = False
        self._given_up = False
        """Nothing more is read from this connection: what still comes will come again over the next."""
        self._unheard: set[str] = set()
        """Topics whose last message found no subscriber."""
        self._receivers: dict[str, tuple[int, list[Receiver]]] = {}
        self._routes: dict[bytes, tuple[str, list[Receiver]]] = {}
        self.refused_subscriptions: dict[str, int] = {}
        """Reason code by topic filter."""
        self._client: gmqtt.Client | None = None
        self._client_id = options.client_id or uuid.uuid4().hex
        self._identifiers = _Identifiers(self)
        self._only_v311 = False
        self._session_present = False
        self._room = asyncio.Event()
        self._version = MQTTv50
        self._closed_before_connack = 0
        self._generation = 0
        self._unacked: dict[int, int] = {}
        self._at_qos2: set[int] = set()
        """Of the unacknowledged ones those that are answered with PUBREC."""
        self._queue: deque[_Outbound] = deque()
        self._withdrawing = False
        self._inflight: dict[int, _Outbound] = {}
        self._window = 65535
        self._max_packet_bytes = 2**28
        self._next_mid = 0
        self._out: list[bytes] = []
        self._flush_scheduled = False
        self._supervisor: asyncio.Task[None] | None = None
        self._lost = asyncio.Event()
        self._closing = False

    # -- life ---------------------------------------------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        return self._supervisor is not None

    @property
    def is_up(self) -> bool:
        """Whether the connection stands now; `connected.wait()` waits for it."""
        return self.connected.is_set() and not self._lost.is_set()

    @property
    def has_subscriptions(self) -> bool:
        return bool(self._receivers)

    @property
    def max_packet_bytes(self) -> int:
        """The largest packet the broker takes, as far as it said so (MQTT 5)."""
        return self._max_packet_bytes

    async def open(self) -> None:
        """Start connecting in the background; `connected` tells when."""
        self._supervisor = asyncio.create_task(self._supervise(), name=f"{self.name} supervisor")

    async def close(self, timeout_s: float = 5.0) -> None:
        """Wait up to `timeout_s` for confirmations, say farewell, disconnect; what is unconfirmed raises LinkClosed."""
        self._closing = True
        deadline = asyncio.get_running_loop().time() + timeout_s
        said = self.options.farewell is None
        if self.connected.is_set():
            # asyncio.wait, because it neither cancels what it waits for nor stops at the first refusal
            if waiting := {entry.batch.future for entry in (*self._inflight.values(), *self._queue)}:
                await asyncio.wait(waiting, timeout=timeout_s)
            if self.options.farewell and self.connected.is_set():
                said = await self._say(self.options.farewell, deadline)
        if self._supervisor is not None:
            self._supervisor.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._supervisor
        # a client that could not say farewell lets the broker publish its will
        await self._disconnect(0 if said else DISCONNECT_WITH_WILL)
        for entry in (*self._inflight.values(), *self._queue):
            if not entry.batch.future.done():
                entry.batch.future.set_exception(
                    LinkClosed(f"{self.name} was closed before the broker confirmed")
                )
                entry.batch.future.exception()  # nobody may be waiting any more
        self._inflight.clear()
        self._queue.clear()

    async def _say(self, own: Publication, deadline: float) -> bool:
        """Publish one of the client's own messages; whether the broker confirmed it in time."""
        self._queue.append(entry := self._own_entry(own))
        self._pump()
        left_s = max(0.5, deadline - asyncio.get_running_loop().time())
        await asyncio.wait({entry.batch.future}, timeout=left_s)
        return entry.batch.future.done() and not entry.batch.future.exception()

    async def _supervise(self) -> None:
        backoff = Backoff()
        while True:
            try:
                await self._connect()
                since = time.monotonic()
                await self._until_lost()
                self._version = MQTTv311 if self._only_v311 else MQTTv50
                self.last_error = self.last_error or "closed by the broker or the network"
                self._said = self.last_error
                log.warning("%s: connection to %s lost: %s", self.name, self._address(), self.last_error)
                if time.monotonic() - since > STEADY_S:
                    backoff.reset()
            except Exception as error:  # noqa: BLE001 - whatever it was: a link that gives up would stop the gateway unseen
                self._report_failed_attempt(error)
            self.connected.clear()
            self._forget_connection()
            await self._disconnect()
            await asyncio.sleep(backoff.next_s())
            self.reconnects += 1

    def _report_failed_attempt(self, error: Exception) -> None:
        """The first one and each new reason; a broker that is away for a night does not fill the log."""
        self._failed_attempts += 1
        self.last_error = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        level = logging.DEBUG if self.last_error == self._said else logging.WARNING
        self._said = self.last_error
        known = isinstance(error, OSError | TimeoutError | gmqtt.mqtt.handler.MQTTError)
        log.log(level, "%s: cannot connect to %s, trying again: %s", self.name, self._address(), self.last_error,
                exc_info=not known)  # fmt: skip

    def _report_connected(self) -> None:
        attempts = f" after {self._failed_attempts} failed attempt(s)" if self._failed_attempts else ""
        version = "5" if self._version == MQTTv50 else "3.1.1"
        log.info("%s: connected to %s (MQTT %s)%s", self.name, self._address(), version, attempts)
        options = self.options
        persistent = not options.clean_start and options.session_expiry_s
        if self._was_connected and persistent and not self._session_present:
            self.sessions_lost += 1
            log.warning("%s: %s has forgotten the session: what it kept for this client is lost", self.name,
                        self._address())  # fmt: skip
        self._was_connected, self._failed_attempts, self._said = True, 0, ""

    def send_again(self, deliveries: Iterable[Delivery], reason: str) -> None:
        """Have the broker send messages again that could not be handled, and all that came after them.

        It does so over a new connection only; on this one they would hold up every later acknowledgement for ever.
        """
        if self.connected.is_set() and any(delivery[0] == self._generation for delivery in deliveries):
            if not self._given_up:
                self.remade += 1
            self.last_error = reason
            self._given_up = True
            self._lost.set()

    async def _until_lost(self) -> None:
        """Until the connection is gone, or the broker has said nothing for longer than its keep-alive allows.

        gmqtt closes a silent connection as well, but in order: what waits to be sent would hold that up until the
        kernel gives up, a quarter of an hour later.
        """
        assert self._client is not None
        connection: Any = self._client._connection
        allowed_s = SILENT_KEEPALIVES * connection.keepalive or None
        while not self._lost.is_set():
            # not wait_for: on Python 3.11 it swallows a cancellation that comes together with what it waits for
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(allowed_s and allowed_s / 4):
                    await self._lost.wait()
            if not self._room.is_set():
                connection._last_data_in = time.monotonic()  # nothing is read on purpose; that is not silence
            silent_s = time.monotonic() - connection._last_data_in
            if allowed_s and silent_s > allowed_s and not self._lost.is_set():
                # an event loop that was held up has not read yet what came meanwhile
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(1.0):
                        await self._lost.wait()
                if time.monotonic() - connection._last_data_in > allowed_s:
                    self.last_error = f"no answer for {silent_s:.0f} s"
                    connection._transport.abort()
                    return

    async def _connect(self) -> None:
        options, self._lost, self._given_up = self.options, asyncio.Event(), False
        self._generation += 1
        self._identifiers.taken.clear()
        client = self._client = self._new_client()
        connecting = asyncio.create_task(
            client.connect(
                options.host,
                options.port,
                ssl=options.tls or False,
                keepalive=options.keepalive_s,
                version=self._version,
            ),
            name=f"{self.name} connecting",
        )
        lost = asyncio.create_task(self._lost.wait(), name=f"{self.name} lost")
        try:
            await asyncio.wait(
                {connecting, lost},
                timeout=CONNECT_TIMEOUT_S,
                return_when=asyncio.FIRST_COMPLETED,
            )
            client._package_handler.propagate_error()  # it may have refused, and closed before `connecting` saw it
            if not connecting.done():
                self._consider_older_protocol(closed=lost.done())
                raise ConnectionError("the broker did not answer CONNECT")
            connecting.result()
        except gmqtt.mqtt.handler.MQTTConnectError as error:
            if error._code == UNSUPPORTED_VERSION:
                self._only_v311, self._version = True, MQTTv311
            raise
        finally:
            for task in (connecting, lost):
                task.cancel()
        self._closed_before_connack = 0
        await self._on_connected(client)

    def _new_client(self) -> gmqtt.Client:
        options = self.options
        properties: dict[str, Any] = {}
        if self._version == MQTTv50:
            properties = {
                "session_expiry_interval": 0 if options.clean_start else options.session_expiry_s,
                "receive_maximum": options.receive_maximum,
            }
        will = options.will
        client = gmqtt.Client(
            self._client_id.encode(),  # as text gmqtt counts its characters, not its bytes
            clean_session=options.clean_start,
            will_message=gmqtt.Message(will.topic, will.payload, qos=will.qos, retain=will.retain)
            if will
            else None,
            logger=_quiet,
            **properties,
        )
        if options.username:
            client.set_auth_credentials(options.username, options.password or None)
        handler = client._package_handler
        handler.__class__ = _Handler  # gmqtt offers no hook before its own QoS 1 handler has acknowledged
        handler.link = self
        handler.id_generator = self._identifiers
        handler.on_connect = self._on_connack
        handler.on_subscribe = self._on_suback
        lost = self._lost

        async def on_lost(delay: bool = False) -> None:
            lost.set()

        handler._reconnect_callback = on_lost  # reconnecting is the supervisor's
        return client

    def _consider_older_protocol(self, *, closed: bool) -> None:
        """A broker of MQTT 3.1.1 answers CONNECT of version 5 with code 1 or by closing the connection.

        The latter happens for other reasons too: it counts for one connection only.
        """
        assert self._client is not None
        if self._version == MQTTv50 and self._client._connection_state.protocol_version == MQTTv311:
            self._only_v311 = True  # gmqtt notes code 1 there
        self._closed_before_connack += closed
        if self._only_v311 or self._closed_before_connack % 3 == 2:
            self._version = MQTTv311
        elif self._closed_before_connack:
            self._version = MQTTv50

    def _on_connack(self, session_present: int, result: int, properties: dict[str, Any]) -> None:
        self._session_present = bool(session_present & 1)

    def _on_suback(self, mid: int, granted: Sequence[int], properties: dict[str, Any]) -> None:
        assert self._client is not None
        for subscription, code in zip(
            self._client._package_handler.get_subscriptions_by_mid(mid), granted, strict=False
        ):
            self.refused_subscriptions.pop(subscription.topic, None)
            if code >= 0x80:
                self.refused_subscriptions[subscription.topic] = code
                log.error("%s: the broker refused the subscription to %s with reason code %#x (%s)", self.name,
                          subscription.topic, code, REASONS.get(code, "see its log"))  # fmt: skip

    def _on_disconnect(self, packet: bytes) -> None:
        """The broker's DISCONNECT (gmqtt makes an empty one when the connection ends)."""
        if packet:
            reason = REASONS.get(packet[0], "see the broker's log")
            self.last_error = f"the broker disconnected with reason code {packet[0]:#x} ({reason})"

    async def _on_connected(self, client: gmqtt.Client) -> None:
        self.last_error = ""
        self._bound_reading(client._connection._protocol)
        client._connection._protocol._read_packet = packet_reader(client._connection, self._on_packet)
        limits = client._package_handler._connack_properties
        self._window = limits.get("receive_maximum", [65535])[0]
        self._max_packet_bytes = limits.get("maximum_packet_size", [2**28])[0]
        self._drop_left_subscriptions()
        for topic_filter, (qos, _) in self._receivers.items():
            client.subscribe(topic_filter, qos=qos)
        self.connected.set()
        self._report_connected()
        for entry in reversed(self._inflight.values()):
            if entry.batch.future.cancelled() and not self._session_present:
                continue
            # Without its session the broker has forgotten what it received: sent anew it may come twice, never not at all.
            entry.released = entry.released and self._session_present
            entry.flags = entry.flags & ~DUP | (DUP if self._session_present else 0)
            self._queue.appendleft(entry)
        self._inflight.clear()
        if self.options.birth:
            self._queue.appendleft(self._own_entry(self.options.birth))
        self._pump()

    def _bound_reading(self, protocol: Any) -> None:
        """Read nothing while more messages are unacknowledged than the Receive Maximum allows.

        A broker should not send them (MQTT 5, 4.9), but mosquitto 2.0.11 sends its whole queue after the first
        acknowledgement of a full window, and one of MQTT 3.1.1 knows no such limit. What is not read fills the
        socket, and then the broker waits.
        """
        read = protocol.read
        self._room.set()

        async def read_when_room(n: int = -1) -> bytes:
            await self._room.wait()
            data: bytes = await read(n)
            return data

        protocol.read = read_when_room

    def _forget_connection(self) -> None:
        self._unacked.clear()
        self._at_qos2.clear()
        self._out.clear()

    async def _disconnect(self, reason_code: int = 0) -> None:
        client, self._client = self._client, None
        self.connected.clear()
        if client is None or client._connection is None:
            return
        self._flush_to(client)
        if reason_code and client._connection_state.protocol_version != MQTTv50:
            client._connection._transport.abort()  # 3.1.1 publishes the will when no DISCONNECT came
            return
        connection: Any = client._connection
        with contextlib.suppress(
            Exception
        ):  # the socket may be gone in any state; there is nothing left to save
            async with asyncio.timeout(DISCONNECT_TIMEOUT_S):
                await self._leave(connection, reason_code)
        connection._transport.abort()

    async def _leave(self, connection: Any, reason_code: int) -> None:
        """Say DISCONNECT and read on until the broker closes (it does: MQTT 5, 3.14.4).

        A socket that is closed with something unread in it is reset, and a reset takes with it what the broker has not
        read yet: the last acknowledgements.
        """
        if not connection.is_closing():
            connection.send_disconnect(reason_code=reason_code)
            self._given_up = True  # what still comes is read and dropped
            self._room.set()
            await connection._protocol.closed
        await connection.close()

    def _address(self) -> str:
        return f"{self.options.host}:{self.options.port}"

    # -- inbound ------------------------------------------------------------------------------------------------

    def subscribe(self, topic_filter: str, qos: int, receiver: Receiver) -> None:
        """Hand the messages of a filter (a shared subscription too) to `receiver`, now and after each reconnect.

        A filter may have several receivers: the broker hears of it once, with the highest QoS of them, and a message is
        acknowledged when all of them have said so.
        """
        subscribed, receivers = self._receivers.get(topic_filter, (-1, []))
        self._receivers[topic_filter] = (max(qos, subscribed), [*receivers, receiver])
        self._routes.clear()
        if qos <= subscribed:
            return
        if self.connected.is_set() and self._client is not None:
            self._remember_subscriptions(set(self._receivers))
            self._client.subscribe(topic_filter, qos=qos)

    def unsubscribe(self, topic_filter: str) -> None:
        """Stop a subscription for all its receivers; what the broker still sends of it is acknowledged and dropped."""
        self._receivers.pop(topic_filter, None)
        self._routes.clear()
        if self.connected.is_set() and self._client is not None:
            self._send_unsubscribe(self._client, {topic_filter})

    def _on_packet(self, header: int, packet: bytes) -> bool:
        """Take a packet that delivery depends on; the others are gmqtt's."""
        if self._given_up:
            return True
        kind = header & 0xF0
        try:
            if kind == PUBLISH:
                self._on_publish(header, packet)
            elif kind in (PUBACK, PUBREC, PUBCOMP):
                self._on_answer(kind, packet)
            else:
                return False
        except Exception:
            log.exception("%s: cannot handle a packet of type %#x", self.name, kind)
        return True

    def _on_publish(self, header: int, packet: bytes) -> None:
        qos = (header >> 1) & 3
        topic_end = 2 + (packet[0] << 8 | packet[1])
        topic, receivers = self._route(packet[2:topic_end])
        mid, start = 0, topic_end
        if qos:
            mid = packet[start] << 8 | packet[start + 1]
            start += 2
        props: dict[str, Any] | None = None
        if self._version == MQTTv50:
            if packet[start]:
                assert self._client is not None
                props, payload = self._client._package_handler._parse_properties(packet[start:])
            else:
                payload = packet[start + 1 :]
        else:
            payload = packet[start:]
        if header & 1:
            props = {**(props or {}), "retain": True}
        self.received += 1
        delivery = None
        if qos:
            delivery = self._owed(mid, qos, len(receivers) or 1)
        if not receivers:
            self.unrouted += 1
            if delivery:
                self.acknowledge([delivery])
            return
        msg = Msg(topic, payload, None, now_ms(), props)
        for receiver in receivers:
            receiver(msg, delivery)

    def _owed(self, mid: int, qos: int, receivers: int) -> Delivery:
        """Note that a message is to be acknowledged by so many."""
        self._unacked[mid] = receivers
        if qos == 2:
            self._at_qos2.add(mid)
        if len(self._unacked) > self.options.receive_maximum:
            self._room.clear()
        return self._generation, mid

    def current(self, received: list[tuple[Msg, Delivery | None]]) -> list[tuple[Msg, Delivery | None]]:
        """Without what came over a connection that is no more: the broker sends it again."""
        if not received or all(
            delivery is None or delivery[0] == self._generation for _, delivery in received
        ):
            return received
        return [item for item in received if item[1] is None or item[1][0] == self._generation]

    def _route(self, encoded: bytes) -> tuple[str, list[Receiver]]:
        """The topic and who gets it. The same text each time: whatever is looked up by it is found faster."""
        found = self._routes.get(encoded)
        if found is None:
            if len(self._routes) >= 65536:
                self._routes.clear()
            topic = encoded.decode()
            receivers = [
                receiver
                for pattern, (_, of_filter) in self._receivers.items()
                if matches(pattern, topic)
                for receiver in of_filter
            ]
            found = self._routes[encoded] = (topic, receivers)
        return found

    def acknowledge(self, deliveries: Iterable[Delivery]) -> None:
        """Say that messages are safe. The broker hears it in the order in which it sent them."""
        unacked, at_qos2, generation = self._unacked, self._at_qos2, self._generation
        for of_generation, mid in deliveries:
            if of_generation == generation and mid in unacked:
                unacked[mid] -= 1
        done = []
        for mid, waiting in unacked.items():
            if waiting > 0:
                break
            done.append(mid)
        if done:
            for mid in done:
                del unacked[mid]
                self._out.append((b"\x50\x02" if mid in at_qos2 else b"\x40\x02") + mid.to_bytes(2))
            if at_qos2:
                at_qos2.difference_update(done)
            if len(unacked) <= self.options.receive_maximum:
                self._room.set()
            self._schedule_flush()

    # -- outbound -----------------------------------------------------------------------------------------------

    def publish(
        self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False
    ) -> asyncio.Future[None]:
        """Publish one message; the future is done when the broker has confirmed it (at QoS 0: at once)."""
        return self.publish_batch([(topic, payload)], qos=qos, retain=retain)

    def publish_batch(
        self,
        items: Sequence[tuple[str, bytes]],
        *,
        qos: int = 1,
        retain: bool = False,
        needs_subscriber: bool = False,
    ) -> asyncio.Future[None]:
        """Publish in order; the future is done when all are confirmed, or raises PublishRefused or LinkClosed.

        While the broker is away QoS 1 and 2 wait, bounded only by the caller, who should wait for what it sent, and
        cancel the future to give up (`asyncio.timeout` around `await` does): what was not sent yet is withdrawn. What
        was sent may arrive. QoS 0 is dropped and counted. With `needs_subscriber` a message that the broker took although nobody
        subscribes to it counts as refused, with reason code NO_SUBSCRIBER.
        """
        batch = _Batch(len(items), needs_subscriber=needs_subscriber)
        if not items:
            batch.future.set_result(None)
            return batch.future
        if qos == 0:
            self._publish_qos0(items, retain, batch)
            return batch.future
        if self._closing:
            batch.future.set_exception(LinkClosed(f"{self.name} is closing"))
            return batch.future
        flags = PUBLISH | qos << 1 | retain
        self._queue.extend(
            [_Outbound(topic, payload, flags, batch, i) for i, (topic, payload) in enumerate(items)]
        )
        batch.future.add_done_callback(self._withdraw_cancelled)
        self._pump()
        return batch.future

    def _withdraw_cancelled(self, future: asyncio.Future[None]) -> None:
        """Once for all batches that are given up in one turn: the queue may be long, and they many."""
        if future.cancelled() and not self._withdrawing:
            self._withdrawing = True
            asyncio.get_running_loop().call_soon(self._withdraw)

    def _withdraw(self) -> None:
        """Take out what nobody waits for. What has its identifier was sent: the session wants it settled (4.4)."""
        self._withdrawing = False
        self._queue = deque(entry for entry in self._queue if entry.mid or not entry.batch.future.cancelled())

    def _publish_qos0(self, items: Sequence[tuple[str, bytes]], retain: bool, batch: _Batch) -> None:
        if self.connected.is_set():
            v5 = self._version == MQTTv50
            self._out.extend(
                [publish_packet(PUBLISH | retain, topic, 0, payload, v5) for topic, payload in items]
            )
            self._schedule_flush()
        else:
            self.dropped_offline_qos0 += len(items)
        batch.future.set_result(None)

    def _own_entry(self, own: Publication) -> _Outbound:
        entry = _Outbound(
            own.topic,
            own.payload,
            PUBLISH | (own.qos or 1) << 1 | own.retain,
            _Batch(1),
            0,
        )
        entry.batch.future.add_done_callback(lambda done: done.cancelled() or done.exception())
        return entry

    def _pump(self) -> None:
        """Send what waits, as far as the broker's window allows."""
        if not self.connected.is_set():
            return
        queue, inflight, out, window = (
            self._queue,
            self._inflight,
            self._out,
            self._window,
        )
        sent, v5, largest = 0, self._version == MQTTv50, self._max_packet_bytes
        while queue and len(inflight) < window:
            entry = queue.popleft()
            mid = entry.mid = entry.mid or self._new_mid()
            inflight[mid] = entry
            if entry.released:
                out.append(b"\x62\x02" + mid.to_bytes(2))
                continue
            packet = publish_packet(entry.flags, entry.topic, mid, entry.payload, v5)
            if len(packet) > largest:  # MQTT 5, 3.2.2.3.6: it must not be sent
                del inflight[mid]
                entry.batch.settle(entry.index, PACKET_TOO_LARGE)
                continue
            out.append(packet)
            sent += 1
        self.published += sent
        if out:
            self._schedule_flush()

    def _new_mid(self) -> int:
        taken, of_subscriptions = self._inflight, self._identifiers.taken
        while True:
            self._next_mid = self._next_mid % 65535 + 1
            if self._next_mid not in taken and self._next_mid not in of_subscriptions:
                return self._next_mid

    def _on_answer(self, kind: int, packet: bytes) -> None:
        mid = packet[0] << 8 | packet[1]
        reason = packet[2] if len(packet) > 2 else 0
        if kind == PUBREC and reason < 0x80:
            entry = self._inflight.get(mid)
            if entry is not None:
                entry.released = True
                entry.received_with = reason
            self._out.append(b"\x62\x02" + mid.to_bytes(2))
            self._schedule_flush()
            return
        entry = self._inflight.pop(mid, None)
        if entry is None:
            return
        self.confirmed += 1
        if kind == PUBCOMP:
            reason = entry.received_with
        if reason == NO_SUBSCRIBER or self._unheard:
            self._note_subscriber(entry.topic, there=reason != NO_SUBSCRIBER)
        batch = entry.batch
        if batch.remaining > 1 and not reason:
            batch.remaining -= 1  # nearly all of them end here
        else:
            batch.settle(entry.index, reason)
        if self._queue:
            self._pump()

    def _note_subscriber(self, topic: str, *, there: bool) -> None:
        """Count what nobody gets, and say when that begins and when it has ended for every topic."""
        if there:
            self._unheard.discard(topic)
            if not self._unheard:
                log.info("%s: what is published has subscribers again", self.name)
            return
        self.without_subscriber += 1
        if not self._unheard:
            log.warning("%s: nobody subscribes to what is published, the first topic is %s", self.name, topic)
        if len(self._unheard) < 65536:
            self._unheard.add(topic)

    def _schedule_flush(self) -> None:
        if not self._flush_scheduled:
            self._flush_scheduled = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_scheduled = False
        if self._client is not None:
            self._flush_to(self._client)

    def _flush_to(self, client: gmqtt.Client) -> None:
        if self._out and client._connection is not None and not client._connection.is_closing():
            client._connection.send_package(b"".join(self._out))
        self._out.clear()

    # -- subscriptions over restarts ------------------------------------------------------------------------------

    def _drop_left_subscriptions(self) -> None:
        """Unsubscribe what this session had in an earlier run and the configuration no longer names."""
        if self.options.memory is None or self._client is None:
            return
        wanted, left = set(self._receivers), _read_memory(self.options.memory) - set(self._receivers)
        if left:
            log.info("%s: unsubscribing from %s, no longer configured", self.name, ", ".join(sorted(left)))
            self._remember_subscriptions(wanted | left)
            self._send_unsubscribe(self._client, left)
        else:
            self._remember_subscriptions(wanted)

    def _send_unsubscribe(self, client: gmqtt.Client, filters: set[str]) -> None:
        """Unsubscribe, and forget the filters when the broker has confirmed."""

        def confirmed(*_: object) -> None:
            self._remember_subscriptions(set(self._receivers))

        client._package_handler.on_unsubscribe = confirmed
        client.unsubscribe([topic_filter.encode() for topic_filter in sorted(filters)])

    def _remember_subscriptions(self, filters: set[str]) -> None:
        """Written before a filter is subscribed and after it is unsubscribed, so that no crash leaves one behind."""
        memory = self.options.memory
        if memory is None or _read_memory(memory) == filters:
            return
        memory.parent.mkdir(parents=True, exist_ok=True)
        temporary = memory.with_suffix(".tmp")
        temporary.write_text(json.dumps(sorted(filters)))
        temporary.replace(memory)


def _read_memory(memory: Path) -> set[str]:
    try:
        return set(json.loads(memory.read_text()))
    except FileNotFoundError:
        return set()
    except (OSError, ValueError) as error:
        log.warning(
            "cannot read %s, subscriptions of earlier runs are not dropped: %s",
            memory,
            error,
        )
        return set()


_quiet = logging.getLogger("voltflow.mqtt.gmqtt")
_quiet.setLevel(logging.ERROR)  # gmqtt reports each step of a connection; the link reports those that matter
logging.getLogger("gmqtt").setLevel(logging.ERROR)
