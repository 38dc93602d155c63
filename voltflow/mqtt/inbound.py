"""What comes from the broker: to whom it goes, and that it is acknowledged when they say so, in the order of arrival."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable, Iterable
from typing import Any

from voltflow.clock import receive_clock
from voltflow.message import Msg
from voltflow.mqtt.codec import matches, overlap
from voltflow.mqtt.properties import PLAIN, told
from voltflow.mqtt.writer import Writer

Delivery = tuple[int, int]
"""What identifies an inbound message until it is acknowledged: the connection's number and the packet identifier."""

Receiver = Callable[[Msg, Delivery | None], None]
"""Called for each message in the event loop; the delivery is None at QoS 0, where nothing is to be acknowledged."""

Parsed = tuple[dict[str, Any], bytes]

ROUTES_LIMIT = 65536
"""Topics whose receivers are kept at hand."""

Copy = tuple[str, bytes, set[int]]
"""Topic and payload of a message, and for which subscriptions it came so far."""


class Inbound:
    """The receivers of a link's messages and what they have not acknowledged yet."""

    def __init__(self, writer: Writer, receive_maximum: int) -> None:
        self.received = 0
        self.unrouted = 0
        self.receivers: dict[str, list[tuple[Receiver, int]]] = {}
        """Receivers and the QoS each asks for, by topic filter."""
        self.identifiers: dict[str, int] = {}
        """The subscription identifier by topic filter, of those that overlap with another."""
        self.refused: dict[str, int] = {}
        """The broker's reason code by topic filter."""
        self.confirmed: set[str] = set()
        """Filters whose SUBACK came over this connection."""
        self._answered = asyncio.Event()
        self.connection = 0
        """The number of the connection: acknowledgements of an earlier one count for nothing."""
        self.room = asyncio.Event()
        """Set while the broker may send more. Without it nothing is read."""
        self.heir: Receiver | None = None
        """Who gets what no receiver is for: a session's messages from before its subscriptions were given up."""
        self._routes: dict[bytes, tuple[str, list[Receiver]]] = {}
        self._newest: dict[bool, Copy] = {}
        """The newest message of overlapping subscriptions: of QoS 0, and of the others."""
        self._heard: set[int] = set()
        """Identifiers that a message came with since their subscription."""
        self._unacked: dict[int, int] = {}
        """How many receivers are to acknowledge yet, by packet identifier, in the order of arrival."""
        self._at_qos2: set[int] = set()
        """Of the unacknowledged ones those that are answered with PUBREC."""
        self._limit = receive_maximum
        self._writer = writer
        self._parse: Callable[[bytes], Parsed] | None = None

    def begin(self, parse: Callable[[bytes], Parsed] | None) -> None:
        """A connection stands. `parse` splits properties and payload; None: it is one of MQTT 3.1.1, without any."""
        self._parse = parse
        self.room.set()

    def end(self) -> None:
        """The connection is gone: what it brought unacknowledged comes again over the next."""
        self.connection += 1
        self._unacked.clear()
        self._at_qos2.clear()
        self.confirmed.clear()
        self.tell()

    def tell(self) -> None:
        """Something that `answered` waits for has happened."""
        self._answered.set()
        self._answered = asyncio.Event()

    async def answered(self) -> None:
        """Wait until the broker has answered anything about a subscription, or the connection's state is another."""
        await self._answered.wait()

    def add(self, topic_filter: str, qos: int, receiver: Receiver) -> list[str]:
        """One more receiver. The filters whose subscription the broker has to hear of, in this order: others that
        overlap now, and this one where it is new or was asked for at a lower QoS."""
        known = self.qos_of(topic_filter)
        self.receivers.setdefault(topic_filter, []).append((receiver, qos))
        self._routes.clear()
        told = self._identify(topic_filter) if known < 0 else []
        return [*told, topic_filter] if qos > known else told

    def leave(self, topic_filters: Iterable[str]) -> list[str]:
        """Subscriptions of the session that are about to end; which of them overlap with those that are wanted."""
        for topic_filter in topic_filters:
            self._identify(topic_filter)
        return [topic_filter for topic_filter in topic_filters if topic_filter in self.identifiers]

    def _identify(self, topic_filter: str) -> list[str]:
        """Give a filter and those that overlap with it identifiers; which others got one."""
        others = [other for other in self.receivers if other != topic_filter and overlap(other, topic_filter)]
        told = [other for other in others if other not in self.identifiers]
        for found in [topic_filter, *told] if others else []:
            self.identifiers[found] = zlib.crc32(found.encode()) % 0x0FFFFFFF + 1
        return told

    def qos_of(self, topic_filter: str) -> int:
        """The highest QoS that a receiver of the filter asks for; -1 where there is none."""
        return max((qos for _, qos in self.receivers.get(topic_filter, ())), default=-1)

    def remove(self, topic_filter: str, receiver: Receiver | None = None) -> None:
        """Without this receiver, or without all of the filter."""
        left = [item for item in self.receivers.pop(topic_filter, ()) if receiver and item[0] != receiver]
        if left:
            self.receivers[topic_filter] = left
        else:
            self.refused.pop(topic_filter, None)
        self._routes.clear()

    def ended(self, topic_filters: Iterable[str]) -> None:
        """The broker sends nothing more for these filters, where nobody has asked for them anew."""
        for topic_filter in topic_filters:
            if topic_filter not in self.receivers:
                self.identifiers.pop(topic_filter, None)

    def follow(self, other: Inbound) -> None:
        """Take over its session: a copy of what that got last may still come, to this one."""
        self._newest, self._heard = dict(other._newest), set(other._heard)
        self.identifiers = {**other.identifiers, **self.identifiers}

    def subscribed(self, topic_filters: Iterable[str]) -> None:
        """SUBACK, in its place among the messages: none of theirs is heard yet."""
        self._heard.difference_update(self.identifiers.get(topic_filter, 0) for topic_filter in topic_filters)

    def unsubscribed(self) -> None:
        """UNSUBACK, in its place. A copy of what came last may still wait in the broker's queue, but only for
        subscriptions of which messages came before: else the next one that looks the same is another message."""
        for at, (topic, _, came) in list(self._newest.items()):
            expected = {id for pattern, id in self.identifiers.items() if matches(pattern, topic)} - came
            if not expected <= self._heard:
                del self._newest[at]

    def on_publish(self, header: int, packet: bytes) -> None:
        qos = (header >> 1) & 3
        topic_end = 2 + (packet[0] << 8 | packet[1])
        topic, receivers = self._route(packet[2:topic_end])
        mid, start = 0, topic_end
        if qos:
            mid = packet[start] << 8 | packet[start + 1]
            start += 2
        properties: dict[str, Any] | None = None
        if self._parse is None:
            payload = packet[start:]
        elif packet[start]:
            properties, payload = self._parse(packet[start:])
        else:
            payload = packet[start + 1 :]
        if (properties is not None or self._newest) and self._is_copy(topic, payload, qos, properties):
            self._drop(mid, qos)
            return
        self.received += 1
        if not receivers:
            self.unrouted += 1
            self._drop(mid, qos)
            return
        delivery = self._owed(mid, qos, len(receivers)) if qos else None
        props = told(header, properties) if properties else PLAIN[header & 7]
        msg = Msg(topic, payload, None, receive_clock.now_ms(), props)
        for receiver in receivers:
            receiver(msg, delivery)

    def _is_copy(self, topic: str, payload: bytes, qos: int, properties: dict[str, Any] | None) -> bool:
        """Whether this is the message that came last, once more for another subscription.

        A broker may send a message once for each subscription it belongs to (MQTT 5, 3.3.4; mosquitto 2.0 does): one
        after the other, unlike the same message published again, which begins with one that was had before.
        """
        identifiers = properties and properties.pop("subscription_identifier", None)
        newest = self._newest.pop(qos > 0, None)
        if not identifiers:
            return False
        self._heard.update(identifiers)
        if (
            newest is not None
            and newest[0] == topic
            and newest[1] == payload
            and newest[2].isdisjoint(identifiers)
        ):
            self._newest[qos > 0] = (topic, payload, {*newest[2], *identifiers})
            return True
        self._newest[qos > 0] = (topic, payload, set(identifiers))
        return False

    def _drop(self, mid: int, qos: int) -> None:
        """Nobody is to acknowledge it."""
        if qos:
            self._owed(mid, qos, 0)
            self.acknowledge(())

    def _owed(self, mid: int, qos: int, receivers: int) -> Delivery:
        """Note that a message is to be acknowledged by so many."""
        self._unacked[mid] = receivers
        if qos == 2:
            self._at_qos2.add(mid)
        if len(self._unacked) > self._limit:
            self.room.clear()
        return self.connection, mid

    def _route(self, encoded: bytes) -> tuple[str, list[Receiver]]:
        """The topic and who gets it. The same text each time: whatever is looked up by it is found faster."""
        found = self._routes.get(encoded)
        if found is None:
            if len(self._routes) >= ROUTES_LIMIT:
                self._routes.clear()
            topic = encoded.decode()
            receivers = [
                receiver
                for pattern, of_filter in self.receivers.items()
                if matches(pattern, topic)
                for receiver, _ in of_filter
            ]
            if not receivers and self.heir is not None:
                receivers = [self.heir]
            found = self._routes[encoded] = (topic, receivers)
        return found

    def current(self, received: list[tuple[Msg, Delivery | None]]) -> list[tuple[Msg, Delivery | None]]:
        """Without what came over a connection that is no more: the broker sends it again."""
        number = self.connection
        if not received or all(delivery is None or delivery[0] == number for _, delivery in received):
            return received
        return [item for item in received if item[1] is None or item[1][0] == number]

    def acknowledge(self, deliveries: Iterable[Delivery]) -> None:
        """Say that messages are safe. The broker hears it in the order in which it sent them (MQTT 5, 4.6)."""
        unacked, at_qos2, number = self._unacked, self._at_qos2, self.connection
        for of_connection, mid in deliveries:
            if of_connection == number and mid in unacked:
                unacked[mid] -= 1
        done = []
        for mid, waiting in unacked.items():
            if waiting > 0:
                break
            done.append(mid)
        if done:
            packets = self._writer.packets
            for mid in done:
                del unacked[mid]
                packets.append((b"\x50\x02" if mid in at_qos2 else b"\x40\x02") + mid.to_bytes(2))
            if at_qos2:
                at_qos2.difference_update(done)
            if len(unacked) <= self._limit:
                self.room.set()
            self._writer.schedule()
