"""What comes from the broker: to whom it goes, and that it is acknowledged when they say so, in the order of arrival."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

from voltflow.clock import receive_clock
from voltflow.message import Msg
from voltflow.mqtt_codec import matches
from voltflow.mqtt_writer import Writer

Delivery = tuple[int, int]
"""What identifies an inbound message until it is acknowledged: the connection's number and the packet identifier."""

Receiver = Callable[[Msg, Delivery | None], None]
"""Called for each message in the event loop; the delivery is None at QoS 0, where nothing is to be acknowledged."""

Parsed = tuple[dict[str, Any], bytes]

ROUTES_LIMIT = 65536
"""Topics whose receivers are kept at hand."""


class Inbound:
    """The receivers of a link's messages and what they have not acknowledged yet."""

    def __init__(self, writer: Writer, receive_maximum: int) -> None:
        self.received = 0
        self.unrouted = 0
        self.receivers: dict[str, tuple[int, list[Receiver]]] = {}
        """QoS and receivers by topic filter."""
        self.refused: dict[str, int] = {}
        """The broker's reason code by topic filter."""
        self.connection = 0
        """The number of the connection: acknowledgements of an earlier one count for nothing."""
        self.room = asyncio.Event()
        """Set while the broker may send more. Without it nothing is read."""
        self.heir: Receiver | None = None
        """Who gets what no receiver is for: a session's messages from before its subscriptions were given up."""
        self._routes: dict[bytes, tuple[str, list[Receiver]]] = {}
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

    def add(self, topic_filter: str, qos: int, receiver: Receiver) -> bool:
        """One more receiver; whether the broker has to hear of it (it does not know the filter, or at a lower QoS)."""
        known, receivers = self.receivers.get(topic_filter, (-1, []))
        self.receivers[topic_filter] = (max(qos, known), [*receivers, receiver])
        self._routes.clear()
        return qos > known

    def remove(self, topic_filter: str) -> None:
        self.receivers.pop(topic_filter, None)
        self._routes.clear()

    def on_publish(self, header: int, packet: bytes) -> None:
        qos = (header >> 1) & 3
        topic_end = 2 + (packet[0] << 8 | packet[1])
        topic, receivers = self._route(packet[2:topic_end])
        mid, start = 0, topic_end
        if qos:
            mid = packet[start] << 8 | packet[start + 1]
            start += 2
        props: dict[str, Any] | None = None
        if self._parse is None:
            payload = packet[start:]
        elif packet[start]:
            props, payload = self._parse(packet[start:])
        else:
            payload = packet[start + 1 :]
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
        msg = Msg(topic, payload, None, receive_clock.now_ms(), props)
        for receiver in receivers:
            receiver(msg, delivery)

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
                for pattern, (_, of_filter) in self.receivers.items()
                if matches(pattern, topic)
                for receiver in of_filter
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
