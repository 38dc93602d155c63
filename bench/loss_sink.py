"""The cloud of `bench.loss` and `bench.soak`: a careful subscriber that writes down every message that comes.

Its session at the broker is persistent, it comes back at once when the connection is lost, it acknowledges a message
only when that is written down, and at QoS 2 it recognises what the broker sends again, as MQTT 3.1.1, 4.3.3 asks.
"""

from __future__ import annotations

import contextlib
import socket
import sys
import time
from pathlib import Path

import msgspec

from bench import wire
from bench.loss_log import DEAD, LIVE, LOST, REPLAYED, Log

CLIENT_ID = "bench-cloud"
RETRY_S = 0.02
PUBREL = 0x62
KINDS = frozenset((b"telemetry", b"twin", b"dead", b"loss"))
"""What is counted. A cloud hears more: Voltflow holds back for a while what nobody wants, right after a reconnect."""


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What the runner asks for."""

    port: int
    log: str
    filters: tuple[str, ...]
    qos: int = 1


class Item(msgspec.Struct):
    """What is looked at of a message of any kind."""

    pack: str | None = None
    seq: int | None = None
    replay: bool = False
    seq_from: int = 0
    seq_to: int = -1


_item = msgspec.json.Decoder(Item).decode


class Sink:
    """One session, over as many connections as it takes."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self.log = Log(Path(order.log))
        self.unreleased: set[bytes] = set()
        """Packet identifiers of QoS 2 messages that are written down and that the broker may send again."""

    def run(self) -> None:
        """For ever. Prints a line for each connection."""
        while True:
            with contextlib.suppress(OSError):
                self._serve()
            time.sleep(RETRY_S)

    def _serve(self) -> None:
        address = ("127.0.0.1", self.order.port)
        with socket.create_connection(address, timeout=wire.CONNECT_TIMEOUT_S) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.sendall(
                wire.packet(0x10, wire.text("MQTT") + b"\x04\x00\x00\x00" + wire.text(CLIENT_ID))
            )
            answer = wire.read_exactly(connection, 4)
            if answer[3]:
                raise ConnectionError(f"the broker refused the cloud: {answer!r}")
            if not answer[2]:
                self.unreleased.clear()
            connection.sendall(self._subscription())
            connection.settimeout(None)
            print(f"connected {time.monotonic()} session {answer[2]}", flush=True)
            rest = b""
            while data := connection.recv(wire.RECEIVE_BYTES):
                answers, rest = self._take(rest + data)
                self.log.flush()
                connection.sendall(answers)

    def _subscription(self) -> bytes:
        """Also where the session is still there: it may be one from before the subscription."""
        filters = (wire.text(name) + bytes((self.order.qos,)) for name in self.order.filters)
        return wire.packet(0x82, b"\x00\x01" + b"".join(filters))

    def _take(self, data: bytes) -> tuple[bytes, bytes]:
        """Count what is whole: what is to be answered, and the part of a packet that is left."""
        answers: list[bytes] = []
        now_s, position = time.monotonic(), 0
        while found := _packet(data, position):
            start, end = found
            answers.append(self._answer(data[position], data[start:end], now_s))
            position = end
        return b"".join(answers), data[position:]

    def _answer(self, head: int, body: bytes, now_s: float) -> bytes:
        if head == PUBREL:
            self.unreleased.discard(body)
            return b"\x70\x02" + body
        if head & 0xF0 == 0x90:
            if 0x80 in body[2:]:
                raise ConnectionError(f"the broker refused the cloud's subscription: {body!r}")
            print("subscribed", flush=True)
            return b""
        if head & 0xF0 != 0x30:
            raise ConnectionError(f"the broker sent a packet {head:#x} that nobody expects")
        return self._publish(head, body, now_s)

    def _publish(self, head: int, body: bytes, now_s: float) -> bytes:
        topic_end = 2 + int.from_bytes(body[:2])
        qos = head >> 1 & 3
        mid, payload = (
            (body[topic_end : topic_end + 2], body[topic_end + 2 :]) if qos else (b"", body[topic_end:])
        )
        if qos < 2 or mid not in self.unreleased:
            self._note(body[2:topic_end], payload, now_s)
        if qos == 2:
            self.unreleased.add(mid)
        return (b"", b"\x40\x02" + mid, b"\x50\x02" + mid)[qos]

    def _note(self, topic: bytes, payload: bytes, now_s: float) -> None:
        kind = topic.rpartition(b"/")[2]
        if kind not in KINDS:
            return
        item = _item(payload)
        if item.pack is None:
            return
        pack = int(item.pack[1:])
        if kind == b"loss":
            for seq in range(item.seq_from, item.seq_to + 1):
                self.log.add(pack, seq, now_s, LOST)
        elif item.seq is not None:
            what = DEAD if kind == b"dead" else REPLAYED if item.replay else LIVE
            self.log.add(pack, item.seq, now_s, what)


def _packet(data: bytes, position: int) -> tuple[int, int] | None:
    """Where the body of the packet that begins there lies; None: not all of it is there yet."""
    length = shift = 0
    place = position + 1
    while place < len(data):
        digit = data[place]
        place += 1
        length |= (digit & 0x7F) << shift
        shift += 7
        if not digit & 0x80:
            return (place, place + length) if place + length <= len(data) else None
    return None


def main() -> None:
    Sink(msgspec.json.decode(sys.argv[1], type=Order)).run()


if __name__ == "__main__":
    main()
