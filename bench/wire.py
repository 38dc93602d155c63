"""The least of MQTT 3.1.1 that load source and sink need, on a blocking socket: no library that could be the limit."""

from __future__ import annotations

import socket

CONNECT_TIMEOUT_S = 10.0
RECEIVE_BYTES = 1 << 18


def varint(value: int) -> bytes:
    """The remaining length of a packet.

    >>> varint(127), varint(128)
    (b'\\x7f', b'\\x80\\x01')
    """
    encoded = bytearray()
    while True:
        value, digit = value >> 7, value & 0x7F
        encoded.append(digit | 0x80 if value else digit)
        if not value:
            return bytes(encoded)


def text(value: str) -> bytes:
    encoded = value.encode()
    return len(encoded).to_bytes(2) + encoded


def packet(kind: int, body: bytes) -> bytes:
    return bytes((kind,)) + varint(len(body)) + body


def publish_packet(topic: str, payload: bytes, mid: int, *, retain: bool = False) -> bytes:
    """PUBLISH at QoS 1."""
    return packet(0x32 | retain, text(topic) + mid.to_bytes(2) + payload)


def connect(port: int, client_id: str) -> socket.socket:
    """A clean session without keep-alive at the broker on this machine."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=CONNECT_TIMEOUT_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.sendall(packet(0x10, text("MQTT") + b"\x04\x02\x00\x00" + text(client_id)))
    answer = read_exactly(connection, 4)
    if answer != b"\x20\x02\x00\x00":
        raise ConnectionError(f"the broker refused {client_id}: {answer!r}")
    return connection


def subscribe(connection: socket.socket, *filters: str) -> None:
    """At QoS 1; returns when the broker has confirmed."""
    body = b"\x00\x01" + b"".join(text(topic_filter) + b"\x01" for topic_filter in filters)
    connection.sendall(packet(0x82, body))
    answer = read_exactly(connection, 4 + len(filters))
    if answer[:4] != b"\x90" + bytes((2 + len(filters), 0, 1)) or 0x80 in answer[4:]:
        raise ConnectionError(f"the broker refused the subscription: {answer!r}")


def publish_all(
    port: int, client_id: str, messages: list[tuple[str, bytes]], *, retain: bool = False
) -> None:
    """Publish at QoS 1 and return when all of it is confirmed."""
    with connect(port, client_id) as connection:
        for start in range(0, len(messages), 500):
            part = messages[start : start + 500]
            packets = [publish_packet(t, p, i + 1, retain=retain) for i, (t, p) in enumerate(part)]
            connection.sendall(b"".join(packets))
            read_exactly(connection, 4 * len(part))


def read_exactly(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = connection.recv(count - len(data))
        if not more:
            raise ConnectionError("the broker closed the connection")
        data += more
    return data
