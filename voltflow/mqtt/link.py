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
import logging
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import gmqtt

from voltflow.backoff import Backoff
from voltflow.message import Msg
from voltflow.mqtt.codec import DISCONNECT_WITH_WILL, NO_PROPERTIES, reason_text
from voltflow.mqtt.connection import Connection, MqttError, Version
from voltflow.mqtt.inbound import Delivery, Inbound, Receiver
from voltflow.mqtt.options import MqttOptions, Publication, tls_context
from voltflow.mqtt.outbound import LinkClosed, Outbound, PublishRefused
from voltflow.mqtt.report import Report
from voltflow.mqtt.session import SessionMemory
from voltflow.mqtt.writer import Writer

__all__ = [
    "Delivery",
    "LinkClosed",
    "LinkState",
    "MqttLink",
    "MqttOptions",
    "Publication",
    "PublishRefused",
    "Receiver",
    "SubscriptionRefused",
    "tls_context",
]

log = logging.getLogger(__name__)

STEADY_S = 10.0
"""A connection that lasted so long, and four times as long as it was waited for, was a good one: the next attempt
follows at once. Two clients that throw each other out wait for each other longer and longer."""
RIVAL_S, RIVAL_ENDS = 60.0, 4
"""So many connections in a row that a broker took at once and closed so soon, without a word: it looks as if another
client had the same client id. One of MQTT 3.1.1 cannot say so, and mosquitto before 2.0.15 does not."""


TAKEN_OVER_FIRST_S, TAKEN_OVER_LIMIT_S = 30.0, 300.0
"""The back-off of a client that was told that another one came with its client id: they get to work in turns."""


LinkState = Literal["disconnected", "connecting", "connected"]
"""What a link does: after a connection was lost `disconnected` until the next attempt, then `connecting` until one succeeds."""


class SubscriptionRefused(Exception):
    """The broker does not grant a subscription."""


class MqttLink:
    """A connection to a broker that mends itself. Use: `open`, `subscribe`/`publish`, `close`.

    Who acknowledges what came in only after what goes out is confirmed needs two of them: a link with too much
    unacknowledged stops reading, confirmations included.
    """

    def __init__(self, options: MqttOptions, *, name: str = "mqtt") -> None:
        self.options = options
        self.name = name
        self.connected = asyncio.Event()
        self.state: LinkState = "disconnected"
        self.watchers: list[Callable[[LinkState], None]] = []
        """Hear of each new `state`."""
        self.reconnects = 0
        self.sessions_lost = 0
        """Reconnects to a broker that had forgotten the session, with what it kept for this client."""
        self.remade = 0
        """Connections given up here so that the broker sends again what could not be handled."""
        self.taken_over = 0
        """Connections that ended because another client came with the same client id, or as it seems (RIVAL_ENDS)."""
        self.last_error = ""
        self._unexplained_ends = 0
        self._was_connected = False
        self._report = Report(name, options.address)
        self.client_id = options.client_id or uuid.uuid4().hex
        self._version = Version()
        self._memory = SessionMemory(options.memory)
        self._given_up: frozenset[str] = frozenset()
        self._leaving: Counter[str] = Counter()
        """How often the broker was asked to forget a filter and has not confirmed it."""
        self._free = asyncio.Event()
        """Not set while this link is held: another is to take over its session."""
        self._free.set()
        self._wanted = asyncio.Event()
        """Not set while it is to have no connection."""
        self._wanted.set()
        self._parted = asyncio.Event()
        self._parted.set()
        self._writer = Writer()
        self._inbound = Inbound(self._writer, options.receive_maximum)
        self._outbound = Outbound(self._writer, name)
        self._connection: Connection | None = None
        self._supervisor: asyncio.Task[None] | None = None

    # -- what it is doing -----------------------------------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        return self._supervisor is not None

    @property
    def is_up(self) -> bool:
        """Whether the connection stands now; `connected.wait()` waits for it."""
        return self.connected.is_set() and self._connection is not None and not self._connection.lost.is_set()

    def _is_now(self, state: LinkState) -> None:
        if state != self.state:
            self.state = state
            for watcher in tuple(self.watchers):
                watcher(state)

    @property
    def has_subscriptions(self) -> bool:
        return bool(self._inbound.receivers)

    @property
    def subscriptions(self) -> set[str]:
        """The topic filters that have a receiver here."""
        return set(self._inbound.receivers)

    @property
    def max_packet_bytes(self) -> int:
        """The largest packet the broker takes, as far as it said so (MQTT 5) or closed the connection on larger ones."""
        return self._outbound.likely_max_packet_bytes

    @property
    def received(self) -> int:
        return self._inbound.received

    @property
    def unrouted(self) -> int:
        """Messages that came although nobody here subscribes to them."""
        return self._inbound.unrouted

    @property
    def refused_subscriptions(self) -> dict[str, int]:
        """Reason code by topic filter."""
        return self._inbound.refused

    @property
    def published(self) -> int:
        return self._outbound.published

    @property
    def confirmed(self) -> int:
        return self._outbound.confirmed

    @property
    def dropped_offline_qos0(self) -> int:
        return self._outbound.dropped_offline_qos0

    @property
    def without_subscriber(self) -> int:
        """Messages the broker confirmed although nobody subscribes to them (MQTT 5; at 3.1.1 it does not tell)."""
        return self._outbound.without_subscriber

    @property
    def closed_on(self) -> int:
        """Messages given up because the broker closed the connection each time it got them."""
        return self._outbound.closed_on

    @property
    def _client(self) -> gmqtt.Client | None:
        return self._connection and self._connection.client

    # -- life -----------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Start connecting in the background; `connected` tells when."""
        self._supervisor = asyncio.create_task(self._supervise(), name=f"{self.name} supervisor")

    async def close(self, timeout_s: float = 5.0) -> None:
        """Wait up to `timeout_s` for confirmations, say farewell, disconnect; what is unconfirmed raises LinkClosed."""
        self._outbound.closing()
        deadline = asyncio.get_running_loop().time() + timeout_s
        said = self.options.farewell is None
        if self.connected.is_set():
            # asyncio.wait, because it neither cancels what it waits for nor stops at the first refusal
            if waiting := self._outbound.waiting():
                await asyncio.wait(waiting, timeout=timeout_s)
            if self.options.farewell and self.connected.is_set():
                said = await self._say(self.options.farewell, deadline)
        if self._supervisor is not None:
            self._supervisor.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._supervisor
        # a client that could not say farewell lets the broker publish its will
        await self._disconnect(0 if said else DISCONNECT_WITH_WILL)
        self._outbound.close()

    async def suspend(self, reason: str, timeout_s: float = 5.0) -> None:
        """Say farewell, disconnect, and have no connection until `resume`. What is unconfirmed or unacknowledged goes on
        then; what is published meanwhile waits as while the broker is away."""
        self._wanted.clear()
        if self.is_up and self.options.farewell:
            await self._say(self.options.farewell, asyncio.get_running_loop().time() + timeout_s)
        if self._connection is not None:  # also one that is being made
            self._connection.give_up(reason)
        self._inbound.tell()
        await self._parted.wait()

    async def resume(self) -> None:
        """Connect again, and wait until that is so, or it is suspended again; one that is not open connects when it is."""
        self._wanted.set()
        while self.is_open and not self.connected.is_set() and not self.suspended:
            await self._inbound.answered()

    @property
    def suspended(self) -> bool:
        return not self._wanted.is_set()

    async def _say(self, own: Publication, deadline: float) -> bool:
        """Publish one of the client's own messages; whether the broker confirmed it in time."""
        said = self._outbound.say(own)
        left_s = max(0.5, deadline - asyncio.get_running_loop().time())
        await asyncio.wait({said}, timeout=left_s)
        return said.done() and not said.exception()

    async def _supervise(self) -> None:
        usual, taken_over, waited_s = Backoff(), Backoff(TAKEN_OVER_FIRST_S, TAKEN_OVER_LIMIT_S), 0.0
        while True:
            backoff = usual
            await self._free.wait()
            await self._wanted.wait()
            self._is_now("connecting")
            try:
                connection = await self._connect()
                since = time.monotonic()
                await connection.until_lost()
                lasted_s = time.monotonic() - since
                found = self._on_lost(connection, lasted_s)
                if self._inbound.heir is not None:  # whose session it is has come back, perhaps
                    await self._disconnect()
                    return
                if found or lasted_s > max(STEADY_S, 4 * waited_s):
                    usual.reset()
                if lasted_s > TAKEN_OVER_LIMIT_S:
                    taken_over.reset()
                if connection.taken_over:
                    backoff = taken_over
            except Exception as error:  # noqa: BLE001 - whatever it was: a link that gives up would stop the gateway unseen
                self._on_failed(error)
            await self._disconnect()
            waited_s = backoff.next_s()
            await asyncio.sleep(waited_s)
            self.reconnects += 1

    @property
    def _has_stale_session(self) -> bool:
        """Whether the broker may keep what an earlier run published, and nothing else.

        It may hold a QoS 2 message half taken: a new one with the same packet identifier would count as the old one,
        and be lost (MQTT 5, 4.3.3). With 3.1.1 it stays so: there a clean start is the end of all sessions.
        """
        return self.options.sends_only and not self._was_connected and self._version.is_5

    async def _connect(self) -> Connection:
        connection = self._connection = Connection(
            self.options, self.client_id, self._version, self.name, self._inbound, self._outbound,
            clean_start=self.options.clean_start or self._has_stale_session,
        )  # fmt: skip
        self._parted.clear()
        await connection.open()
        connection.held = self.held
        self.last_error = ""
        self._writer.attach(connection.client._connection)
        self._subscribe_all(connection)
        self.connected.set()
        self._is_now("connected")
        self._inbound.tell()
        self._report.connected("5" if self._version.is_5 else "3.1.1")
        if self._was_connected and self.options.persistent and not connection.session_present:
            self.sessions_lost += 1
            self._report.session_lost()
        self._was_connected = True
        self._outbound.begin(
            connection.window,
            connection.max_packet_bytes,
            v5=self._version.is_5,
            session=connection.session_present,
            birth=self.options.birth,
        )
        return connection

    def _on_lost(self, connection: Connection, lasted_s: float) -> bool:
        """Look for what is to blame and say so; whether a message was, so that the next connection may last."""
        self._version.lost()
        found = False
        if lasted_s < STEADY_S and connection.may_blame_a_message:
            found = self._outbound.accuse()
        else:
            self._outbound.acquit()
        taken_over = connection.taken_over or self._has_rival(connection, lasted_s)
        self.taken_over += taken_over
        self.last_error = connection.error or "closed by the broker or the network"
        if taken_over and not connection.taken_over:
            self.last_error += (
                f" again and again: perhaps another client has the client id {self.client_id!r}"
            )
        self._report.lost(self.last_error, level=logging.ERROR if taken_over else logging.WARNING)
        return found

    def _has_rival(self, connection: Connection, lasted_s: float) -> bool:
        """Whether it looks as if another client had the same client id."""
        unexplained = connection.closed_silently and not self._outbound.has_suspect and lasted_s < RIVAL_S
        self._unexplained_ends = self._unexplained_ends + 1 if unexplained else 0
        return self._unexplained_ends >= RIVAL_ENDS

    def _on_failed(self, error: Exception) -> None:
        self._unexplained_ends = 0
        self.last_error = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        known = isinstance(error, OSError | TimeoutError | MqttError)
        self._report.failed(self.last_error, error=None if known else error)

    async def _disconnect(self, reason_code: int = 0) -> None:
        connection, self._connection = self._connection, None
        if self.connected.is_set() or self.suspended:
            self._is_now("disconnected")
        self.connected.clear()
        self._writer.detach()
        self._inbound.end()
        self._outbound.end()
        if connection is not None:
            await connection.leave(reason_code)
        self._parted.set()

    # -- receiving ------------------------------------------------------------------------------------------------

    def subscribe(self, topic_filter: str, qos: int, receiver: Receiver) -> None:
        """Hand the messages of a filter (a shared subscription too) to `receiver`, now and after each reconnect.

        A filter may have several receivers: the broker hears of it once, with the highest QoS of them, and a message is
        acknowledged when all of them have said so.
        """
        known = topic_filter in self._inbound.receivers
        told = self._inbound.add(topic_filter, qos, receiver)
        if told and self.connected.is_set() and self._connection is not None:
            self._remember_subscriptions()
            for each in told:
                self._connection.subscribe(each, again=known or each != topic_filter)

    def release(self, topic_filter: str, receiver: Receiver) -> None:
        """Hand it nothing more. What it was given it acknowledges all the same; the subscription ends with the last
        receiver, or is at the highest QoS of those that are left."""
        before = self._inbound.qos_of(topic_filter)
        self._inbound.remove(topic_filter, receiver)
        left = self._inbound.qos_of(topic_filter)
        if left < 0:
            self._unsubscribe(topic_filter)
        elif (
            left < before and self.is_up and not self.held and self._version.is_5
        ):  # 3.1.1 would send what is retained
            assert self._connection is not None
            self._connection.subscribe(topic_filter, again=True)

    async def subscribed(self, topic_filter: str) -> None:
        """Wait for the broker's answer to `subscribe`, also over reconnects; while suspended there is none to wait for.
        Raises SubscriptionRefused."""
        while topic_filter not in self._inbound.confirmed and not self.suspended:
            if (code := self.refused_subscriptions.get(topic_filter)) is not None:
                raise SubscriptionRefused(
                    f"the broker refuses the subscription to {topic_filter}: {reason_text(code)}"
                )
            await self._inbound.answered()

    async def released(self, topic_filter: str) -> None:
        """Wait for the answer to `release`. While there is no connection there is none to wait for: the next one says it
        anew."""
        while self._leaving[topic_filter] > 0 and self.is_up and not self.suspended:
            await self._inbound.answered()

    @property
    def held(self) -> bool:
        """Whether it takes nothing, see `hold`."""
        return not self._free.is_set()

    def hold(self, successor: MqttLink) -> None:
        """Take nothing more, at once, because another link takes over the session: what the broker still sends it will
        send that one again. What was taken before can be acknowledged, what was published is still confirmed;
        subscriptions stay as they are."""
        self._free.clear()
        successor._inbound.follow(self._inbound)
        if self._connection is not None:
            self._connection.held = True

    def go_on(self) -> None:
        """The session stays here after all: the broker is to send again what was not taken."""
        self._free.set()
        if self._connection is not None and self._connection.held:
            self._connection.give_up("given up, so that the broker sends again what was held back")

    def inherit(self, topic_filters: Iterable[str], receiver: Receiver) -> None:
        """Take over the session of a client that is gone: end its subscriptions when connecting, and hand what the
        broker still holds for it to `receiver`. To be called before `open`, on a link with that client's id; when its
        connection is lost that is the end of it."""
        self._given_up = frozenset(topic_filters)
        self._inbound.heir = receiver

    def unsubscribe(self, topic_filter: str) -> None:
        """Stop a subscription for all its receivers; what the broker still sends of it is acknowledged and dropped."""
        self._inbound.remove(topic_filter)
        self._unsubscribe(topic_filter)

    def _unsubscribe(self, topic_filter: str) -> None:
        if not self.held and self.connected.is_set() and self._connection is not None:
            self._leaving[topic_filter] += 1
            self._connection.unsubscribe({topic_filter}, self._on_unsubscribed)

    def _subscribe_all(self, connection: Connection) -> None:
        """Subscribe, and unsubscribe what this session had in an earlier run and the configuration no longer names."""
        wanted = set(self._inbound.receivers)
        left = (self._memory.filters() | self._given_up) - wanted
        self._leaving = Counter(left)
        self._inbound.ended(set(self._inbound.identifiers) - left)
        self._remember_subscriptions()
        if self._version.is_5:
            for topic_filter in self._inbound.leave(sorted(left)):
                connection.subscribe(topic_filter, again=True)
        for topic_filter in self._inbound.receivers:
            connection.subscribe(topic_filter)
        if left:  # only now, so that a message that both have is not missed in between
            log.info("%s: unsubscribing from %s, no longer configured", self.name, ", ".join(sorted(left)))
            connection.unsubscribe(left, self._on_unsubscribed)

    def _on_unsubscribed(self, filters: set[str]) -> None:
        self._leaving -= Counter(filters)
        self._inbound.ended(filters - set(self._leaving))
        self._remember_subscriptions()
        self._inbound.tell()

    def _remember_subscriptions(self) -> None:
        self._memory.remember(set(self._inbound.receivers) | set(self._leaving))

    def acknowledge(self, deliveries: Iterable[Delivery]) -> None:
        """Say that messages are safe. The broker hears it in the order in which it sent them."""
        self._inbound.acknowledge(deliveries)

    def current(self, received: list[tuple[Msg, Delivery | None]]) -> list[tuple[Msg, Delivery | None]]:
        """Without what came over a connection that is no more: the broker sends it again."""
        return self._inbound.current(received)

    def send_again(self, deliveries: Iterable[Delivery], reason: str) -> None:
        """Have the broker send messages again that could not be handled, and all that came after them.

        It does so over a new connection only; on this one they would hold up every later acknowledgement for ever.
        """
        connection, number = self._connection, self._inbound.connection
        if connection is None or not self.connected.is_set():
            return
        if any(of_connection == number for of_connection, _ in deliveries):
            self.remade += not (connection.deaf or connection.held)
            connection.give_up(reason)

    # -- publishing -----------------------------------------------------------------------------------------------

    def publish(
        self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False
    ) -> asyncio.Future[None]:
        """Publish one message; the future is done when the broker has confirmed it (at QoS 0: at once)."""
        return self._outbound.publish_batch([(topic, payload)], qos, retain)

    def publish_batch(
        self,
        items: Sequence[tuple[str, bytes]],
        *,
        qos: int = 1,
        retain: bool = False,
        properties: bytes = NO_PROPERTIES,
        needs_subscriber: bool = False,
        patient: bool = False,
    ) -> asyncio.Future[None]:
        """Publish in order; the future is done when all are confirmed, or raises PublishRefused or LinkClosed.

        While the broker is away QoS 1 and 2 wait, bounded only by the caller, who should wait for what it sent, and
        cancel the future to give up (`asyncio.timeout` around `await` does): what was not sent yet is withdrawn. What
        was sent may arrive. QoS 0 is dropped and counted. With `needs_subscriber` a message that the broker took
        although nobody subscribes to it counts as refused, with reason code NO_SUBSCRIBER; with `patient` only in the
        first minute after a reconnect, where there were subscribers before. A broker of MQTT 3.1.1 gets no `properties`
        (`voltflow.mqtt.properties`).
        """
        return self._outbound.publish_batch(
            items,
            qos,
            retain,
            properties=properties,
            needs_subscriber=needs_subscriber,
            patient=patient,
        )
