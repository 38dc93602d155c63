"""What goes to the broker: batches, the broker's window, and that everything is answered or sent again in order."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Sequence

from voltflow.mqtt.codec import (
    CLOSED_ON_IT,
    DUP,
    NO_PROPERTIES,
    NO_SUBSCRIBER,
    PACKET_TOO_LARGE,
    PUBCOMP,
    PUBLISH,
    PUBREC,
    RETAIN,
    publish_packet,
    reason_text,
)
from voltflow.mqtt.options import Publication
from voltflow.mqtt.writer import Writer

log = logging.getLogger("voltflow.mqtt")

NO_WINDOW = 65535
"""The window of a broker that names none (MQTT 5, 3.2.2.3.3)."""
NO_PACKET_LIMIT = 2**28
STRIKES = 5
"""Connections in a row that end with the same message unanswered before it counts as refused."""
SMALL_PACKET_BYTES = 8192
"""What a broker takes for sure."""
UNHEARD_LIMIT = 65536
COME_BACK_S = 60.0
"""A broker that was restarted may have forgotten who subscribes, and confirms and throws away what comes before the
subscribers are back: for so long after a reconnect a patient batch is held until it finds one."""


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
    """Counts down the confirmations of messages published together, with the same properties."""

    __slots__ = ("future", "needs_subscriber", "patient", "properties", "refused", "remaining")

    def __init__(
        self,
        size: int,
        properties: bytes = NO_PROPERTIES,
        *,
        needs_subscriber: bool = False,
        patient: bool = False,
    ) -> None:
        self.remaining = size
        self.properties = properties
        self.needs_subscriber = needs_subscriber
        self.patient = patient
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


class _Message:
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


class Outbound:
    """What was published and is not confirmed: in flight as far as the broker's window goes, the rest in a queue."""

    def __init__(self, writer: Writer, name: str) -> None:
        self.published = 0
        self.confirmed = 0
        self.dropped_offline_qos0 = 0
        self.without_subscriber = 0
        self.closed_on = 0
        """Messages given up because the broker closed the connection on them."""
        self.max_packet_bytes = NO_PACKET_LIMIT
        self.likely_max_packet_bytes = NO_PACKET_LIMIT
        """What the broker said; where it says nothing, half of what it closed the connection on."""
        self.of_subscriptions: set[int] = set()
        """Packet identifiers of requests that gmqtt sends; they share the pool (MQTT 5, 2.2.1)."""
        self._name = name
        self._writer = writer
        self._closed = ""
        self._up = False
        self._v5 = True
        self._window = NO_WINDOW
        self._queue: deque[_Message] = deque()
        """Never sent."""
        self._inflight: dict[int, _Message] = {}
        """Sent and not settled, by packet identifier, in the order of sending."""
        self._resend: deque[_Message] = deque()
        """Those in flight that this connection has not seen yet."""
        self._next_mid = 0
        self._birth: _Message | None = None
        self._birth_refused = False
        self._head: _Message | None = None
        """What the last connection ended on."""
        self._strikes = 0
        self._suspects = 0
        """So many are sent one by one, to find out which one ends the connection."""
        self._withdrawing = False
        self._unheard: set[str] = set()
        """Topics whose last message found no subscriber."""
        self._hold_until_s = 0.0
        """Until then (monotonic) subscribers are given time to come back after a reconnect."""

    # -- publishing -----------------------------------------------------------------------------------------------

    def publish_batch(
        self,
        items: Sequence[tuple[str, bytes]],
        qos: int,
        retain: bool,
        *,
        properties: bytes = NO_PROPERTIES,
        needs_subscriber: bool = False,
        patient: bool = False,
    ) -> asyncio.Future[None]:
        batch = _Batch(len(items), properties, needs_subscriber=needs_subscriber, patient=patient)
        if not items:
            batch.future.set_result(None)
            return batch.future
        if qos == 0:
            self._publish_qos0(items, retain, properties)
            batch.future.set_result(None)
            return batch.future
        if self._closed:
            batch.future.set_exception(LinkClosed(self._closed))
            return batch.future
        flags = PUBLISH | qos << 1 | retain
        self._queue.extend(
            [_Message(topic, payload, flags, batch, i) for i, (topic, payload) in enumerate(items)]
        )
        batch.future.add_done_callback(self._withdraw_cancelled)
        self._pump()
        return batch.future

    def _publish_qos0(self, items: Sequence[tuple[str, bytes]], retain: bool, properties: bytes) -> None:
        if not self._up:
            self.dropped_offline_qos0 += len(items)
            return
        flags, sent = PUBLISH | retain, properties if self._v5 else b""
        self._writer.packets.extend(
            [publish_packet(flags, topic, 0, payload, sent) for topic, payload in items]
        )
        self._writer.schedule()

    def say(self, own: Publication) -> asyncio.Future[None]:
        """Publish one of the client's own messages, also while the link is closing."""
        entry = self._own_entry(own)
        self._queue.append(entry)
        self._pump()
        return entry.batch.future

    def _own_entry(self, own: Publication) -> _Message:
        flags = PUBLISH | (own.qos or 1) << 1 | own.retain
        entry = _Message(own.topic, own.payload, flags, _Batch(1), 0)
        entry.batch.future.add_done_callback(lambda done: done.cancelled() or done.exception())
        return entry

    # -- giving up ------------------------------------------------------------------------------------------------

    def _withdraw_cancelled(self, future: asyncio.Future[None]) -> None:
        """Once for all batches that are given up in one turn: the queue may be long, and they many."""
        if future.cancelled() and not self._withdrawing:
            self._withdrawing = True
            asyncio.get_running_loop().call_soon(self._withdraw)

    def _withdraw(self) -> None:
        """Take out what nobody waits for. What is in flight was sent: the session wants it settled (MQTT 5, 4.4)."""
        self._withdrawing = False
        self._queue = deque(entry for entry in self._queue if not entry.batch.future.cancelled())

    def waiting(self) -> set[asyncio.Future[None]]:
        """The futures of all that is not settled."""
        return {entry.batch.future for entry in (*self._inflight.values(), *self._queue)}

    def closing(self) -> None:
        """Take no more."""
        self._closed = f"{self._name} is closing"

    def close(self) -> None:
        """Give up what is not settled."""
        for future in self.waiting():
            if not future.done():
                future.set_exception(LinkClosed(f"{self._name} was closed before the broker confirmed"))
                future.exception()  # nobody may be waiting any more
        self._inflight.clear()
        self._resend.clear()
        self._queue.clear()

    # -- the connection -------------------------------------------------------------------------------------------

    def begin(
        self, window: int, max_packet_bytes: int, *, v5: bool, session: bool, birth: Publication | None
    ) -> None:
        """A connection stands: send again what the last one left unconfirmed, in order (4.4), then what waits."""
        if self.confirmed > self.without_subscriber:
            self._hold_until_s = time.monotonic() + COME_BACK_S
        self._window, self.max_packet_bytes, self._v5, self._up = window, max_packet_bytes, v5, True
        if max_packet_bytes < NO_PACKET_LIMIT:
            self.likely_max_packet_bytes = max_packet_bytes
        if session:
            for entry in self._inflight.values():
                entry.flags |= DUP
            self._resend = deque(self._inflight.values())
        else:
            self._send_anew()
        under_way = self._birth and not self._birth.released and not self._birth.batch.future.done()
        if birth and not under_way and not self._birth_refused:
            self._birth = self._own_entry(birth)
            self._queue.appendleft(self._birth)
        self._pump()

    def _send_anew(self) -> None:
        """Without its session the broker has forgotten what it received: it may get it twice, never not at all."""
        forgotten = [entry for entry in self._inflight.values() if not entry.batch.future.cancelled()]
        self._inflight.clear()
        self._resend.clear()
        for entry in forgotten:
            entry.mid, entry.released, entry.flags = 0, False, entry.flags & ~DUP
        self._queue.extendleft(reversed(forgotten))

    def end(self) -> None:
        """The connection is gone."""
        self._up = False

    def accuse(self) -> bool:
        """The broker closed the connection soon after it was made. Whether a message is given up for that.

        A broker of MQTT 3.1.1 has no other way to refuse a message, and that is sent again over the next connection,
        for ever. It is the first one in flight, unless the answers to those before it got lost: so after the second
        time they go one by one.
        """
        head = next(iter(self._inflight.values()), None)
        if head is None or head.released:
            self.acquit()
            return False
        self._strikes = self._strikes + 1 if head is self._head else 1
        self._head = head
        if self._strikes > 1:
            self._suspects = max(self._suspects, len(self._inflight))
        if self._strikes < STRIKES:
            return False
        self._give_up(head)
        return True

    @property
    def has_suspect(self) -> bool:
        """Whether more than one connection ended on the same message."""
        return self._strikes > 1

    def acquit(self) -> None:
        """The connection ended for another reason."""
        self._head, self._strikes = None, 0

    def _give_up(self, message: _Message) -> None:
        size_bytes = len(self._packet(message))
        log.error("%s: the broker closed the connection %d times on a message of %d bytes to %s: it is given up",
                  self._name, self._strikes, size_bytes, message.topic)  # fmt: skip
        self.acquit()
        self.closed_on += 1
        self._suspects -= 1
        self._birth_refused = self._birth_refused or message is self._birth
        self.likely_max_packet_bytes = min(
            self.likely_max_packet_bytes, max(size_bytes // 2, SMALL_PACKET_BYTES)
        )
        del self._inflight[message.mid]
        message.batch.settle(message.index, CLOSED_ON_IT)

    def _pump(self) -> None:
        """Send what waits, as far as the broker's window allows."""
        if not self._up or (self._resend and not self._pump_resend()):
            return
        queue, inflight, packets = self._queue, self._inflight, self._writer.packets
        window = 1 if self._suspects else self._window
        sent, v5, largest = 0, self._v5, self.max_packet_bytes
        while queue and len(inflight) < window:
            entry = queue.popleft()
            mid = self.new_mid()
            packet = publish_packet(
                entry.flags, entry.topic, mid, entry.payload, entry.batch.properties if v5 else b""
            )
            if len(packet) > largest:  # MQTT 5, 3.2.2.3.6: it must not be sent
                entry.batch.settle(entry.index, PACKET_TOO_LARGE)
                continue
            entry.mid = mid
            inflight[mid] = entry
            packets.append(packet)
            sent += 1
        self.published += sent
        if packets:
            self._writer.schedule()

    def _pump_resend(self) -> bool:
        """Send again, as far as the window allows; whether all of it was sent."""
        resend, inflight, packets = self._resend, self._inflight, self._writer.packets
        window = 1 if self._suspects else self._window
        while resend and len(inflight) - len(resend) < window:
            entry = resend.popleft()
            if inflight.get(entry.mid) is not entry:
                continue  # answered meanwhile
            if entry.released:
                packets.append(b"\x62\x02" + entry.mid.to_bytes(2))
                continue
            packet = self._packet(entry)
            if len(packet) > self.max_packet_bytes:
                del inflight[entry.mid]
                entry.batch.settle(entry.index, PACKET_TOO_LARGE)
                continue
            packets.append(packet)
            self.published += 1
        self._writer.schedule()
        return not resend

    def _packet(self, sent: _Message) -> bytes:
        """As it was sent, or is sent again, over this connection."""
        properties = sent.batch.properties if self._v5 else b""
        return publish_packet(sent.flags, sent.topic, sent.mid, sent.payload, properties)

    def new_mid(self) -> int:
        """A packet identifier that nothing under way has."""
        taken, of_subscriptions = self._inflight, self.of_subscriptions
        while True:
            self._next_mid = self._next_mid % 65535 + 1
            if self._next_mid not in taken and self._next_mid not in of_subscriptions:
                return self._next_mid

    # -- the broker's answers ---------------------------------------------------------------------------------------

    def on_answer(self, kind: int, packet: bytes) -> None:
        """PUBACK, PUBREC or PUBCOMP."""
        mid = packet[0] << 8 | packet[1]
        reason = packet[2] if len(packet) > 2 else 0
        if kind == PUBREC and reason < 0x80:
            self._release(mid, reason)
            return
        entry = self._inflight.pop(mid, None)
        if entry is None:
            return
        self.confirmed += 1
        if self._suspects:
            self._suspects -= 1
        if kind == PUBCOMP:
            reason = entry.received_with
        if reason == NO_SUBSCRIBER or self._unheard:
            self._note_subscriber(
                entry.topic, there=reason != NO_SUBSCRIBER, retained=bool(entry.flags & RETAIN)
            )
        batch = entry.batch
        if self._hold_until_s and batch.patient:
            self._hold(batch, unheard=reason == NO_SUBSCRIBER)
        if batch.remaining > 1 and not reason:
            batch.remaining -= 1  # nearly all of them end here
        else:
            batch.settle(entry.index, reason)
        if self._queue or self._resend:
            self._pump()

    def _hold(self, batch: _Batch, *, unheard: bool) -> None:
        """After a reconnect: what nobody hears is not safe until one message was heard; then the subscribers are back, and
        what still nobody hears nobody wants."""
        if not unheard:
            self._hold_until_s = 0.0
        elif time.monotonic() < self._hold_until_s:
            batch.needs_subscriber = True

    def _release(self, mid: int, reason: int) -> None:
        entry = self._inflight.get(mid)
        if entry is not None:
            entry.released = True
            entry.received_with = reason
        self._writer.packets.append(b"\x62\x02" + mid.to_bytes(2))
        self._writer.schedule()

    def _note_subscriber(self, topic: str, *, there: bool, retained: bool) -> None:
        """Count what nobody gets, and say when that begins and when it has ended for every topic."""
        if there:
            self._unheard.discard(topic)
            if not self._unheard:
                log.info("%s: what is published has subscribers again", self._name)
            return
        self.without_subscriber += 1
        if retained:
            return  # it waits at the broker for whoever comes later
        if not self._unheard:
            log.warning(
                "%s: nobody subscribes to what is published, the first topic is %s", self._name, topic
            )
        if len(self._unheard) < UNHEARD_LIMIT:
            self._unheard.add(topic)
