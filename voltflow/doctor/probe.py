"""Asks a broker what a client may do there, without anybody hearing of it.

The programs' own client mends itself and hides what happens on the way; here each step is to be seen. So this one is
blocking, speaks MQTT 5, has a client id of its own and no session. Whether it may publish it asks at QoS 2: the broker
answers a PUBLISH with PUBREC and the reason, and passes the message on when PUBREL comes (MQTT 5, 4.3.3), which never
does. Some brokers pass it on at once: `passes_on_early` tells.

    with Probe(Where("127.0.0.1", 1883)) as probe:
        probe.subscribe("ev/v1/+/+/telemetry")      # the reason code; below 0x80 it may
        probe.publish("gw/v1/depot-3/state")
"""

from __future__ import annotations

import secrets
import select
import socket
import ssl
import time
from dataclasses import dataclass, field
from typing import Self

from voltflow import topics
from voltflow.mqtt.codec import (
    DISCONNECT,
    PUBLISH,
    PUBREC,
    SUBACK,
    UNSUPPORTED_VERSION,
    publish_packet,
    varint,
)

TIMEOUT_S = 5.0
MOSQUITTO = "$SYS/broker/version"
_CONNECT, _CONNACK, _SUBSCRIBE, _PINGREQ, _PINGRESP = 0x10, 0x20, 0x82, b"\xc0\x00", 0xD0
_EXPIRY_OF_A_SECOND = b"\x05\x02\x00\x00\x00\x01"
"""The properties of a PUBLISH: Message Expiry Interval. Where a message is passed on after all it is soon forgotten."""
_NO_RETAINED, _AT_SUBSCRIBE = 0x20, 0x00
_LARGEST_PACKET = 64 * 1024


class Refused(Exception):
    """CONNECT was refused; `code` is the reason code."""

    def __init__(self, code: int) -> None:
        super().__init__(f"reason code {code:#x}")
        self.code = code


V5, V311 = 5, 4
"""Protocol levels of CONNECT."""
_REASONS_V311 = {1: UNSUPPORTED_VERSION, 4: 0x86, 5: 0x87}
"""CONNACK's return codes of MQTT 3.1.1 as MQTT 5 has them."""


class NoMqtt(Exception):
    """What answers does not speak MQTT 5."""


class Unanswered(NoMqtt):
    """It closed the connection in the place of an answer to CONNECT."""


class NoTls(Exception):
    """What answers ends the connection, or says nothing, where TLS begins."""


@dataclass(frozen=True)
class Where:
    """A broker and whom to be there; `tls` None: unencrypted."""

    host: str
    port: int
    user: str = ""
    password: str = field(default="", repr=False)
    tls: ssl.SSLContext | None = None


class Probe:
    """Connected while the block lasts. Entering it raises OSError (socket.gaierror, ssl.SSLError among them), Refused,
    NoTls or NoMqtt; what is asked later raises OSError or NoMqtt. With `version` V311 there is nothing more to ask."""

    def __init__(self, where: Where, timeout_s: float = TIMEOUT_S, version: int = V5) -> None:
        self._where, self._timeout_s, self._version = where, timeout_s, version
        self._mid = 0
        self._buffer = bytearray()
        self.arrived: list[str] = []
        """Topics of the messages that came."""
        self.client_id = f"voltflow-doctor-{secrets.token_hex(4)}"

    def __enter__(self) -> Self:
        where = self._where
        plain = socket.create_connection((where.host, where.port), timeout=self._timeout_s)
        try:
            self.socket = self._encrypted(plain, where.tls) if where.tls else plain
            self._connect()
        except BaseException:
            plain.close()
            raise
        return self

    def _encrypted(self, plain: socket.socket, tls: ssl.SSLContext) -> ssl.SSLSocket:
        try:
            return tls.wrap_socket(plain, server_hostname=self._where.host)
        except (ConnectionError, TimeoutError, ssl.SSLEOFError):
            raise NoTls from None

    def __exit__(self, *_: object) -> None:
        try:
            self.socket.sendall(bytes([DISCONNECT, 0]))
        except OSError:
            pass
        finally:
            self.socket.close()

    @property
    def expires_s(self) -> float | None:
        """When the broker's certificate ends, seconds since 1970; None without TLS or where it was not checked."""
        found = self.socket.getpeercert() if isinstance(self.socket, ssl.SSLSocket) else None
        return float(ssl.cert_time_to_seconds(str(found["notAfter"]))) if found else None

    def _connect(self) -> None:
        where = self._where
        flags = 0x02 | (0x80 if where.user else 0) | (0x40 if where.user and where.password else 0)
        properties = b"\x00" if self._version == V5 else b""
        body = _text("MQTT") + bytes([self._version, flags]) + (60).to_bytes(2) + properties
        body += _text(self.client_id)
        if where.user:
            body += _text(where.user) + (_text(where.password) if where.password else b"")
        try:
            self.socket.sendall(bytes([_CONNECT]) + varint(len(body)) + body)
            kind, packet = self._packet(time.monotonic() + self._timeout_s)
        except (
            ConnectionError,
            ssl.SSLEOFError,
        ):  # under TLS its reason may be lost with what it did not read
            raise Unanswered("it closed the connection without an answer") from None
        except TimeoutError:
            raise NoMqtt("it takes the connection and says nothing") from None
        if kind != _CONNACK or len(packet) < 2:
            raise NoMqtt("it answers something else than MQTT")
        if packet[1]:
            raise Refused(packet[1] if self._version == V5 else _REASONS_V311.get(packet[1], packet[1]))

    def subscribe(self, topic_filter: str, *, retained: bool = False) -> int:
        """The reason code that the broker answers a subscription (QoS 0) with. Whatever then comes is dropped here."""
        self._mid += 1
        options = _AT_SUBSCRIBE if retained else _NO_RETAINED
        body = self._mid.to_bytes(2) + b"\x00" + _text(topic_filter) + bytes([options])
        return self._ask(bytes([_SUBSCRIBE]) + varint(len(body)) + body, SUBACK)[-1]

    def publish(self, topic: str) -> int:
        """The reason code that the broker answers a message on a topic with, which it is never told to pass on."""
        self._mid += 1
        packet = publish_packet(
            PUBLISH | 0x04, topic, self._mid, b'{"schema":"doctor.probe/1"}', _EXPIRY_OF_A_SECOND
        )
        answer = self._ask(packet, PUBREC)
        return answer[2] if len(answer) > 2 else 0

    def passes_on_early(self) -> bool | None:
        """Whether this broker passes a message of QoS 2 on before it is told to; None where it cannot be found out."""
        topic = topics.doctor(self.client_id)
        if self.subscribe(topic) < 0x80 and self.publish(topic) < 0x80:
            self.settle()
            return topic in self.arrived
        self.subscribe(MOSQUITTO, retained=True)
        self.settle()
        return False if MOSQUITTO in self.arrived else None

    def settle(self) -> None:
        """Return when everything that the broker had sent before has come."""
        self._ask(_PINGREQ, _PINGRESP)

    def listen(self, seconds: float) -> None:
        """Take messages until one more has come, so long at most."""
        before, deadline = len(self.arrived), time.monotonic() + seconds
        while len(self.arrived) == before and (left_s := deadline - time.monotonic()) > 0:
            if self._buffer or self._pending() or select.select([self.socket], [], [], left_s)[0]:
                self._take(*self._packet(deadline + self._timeout_s))

    def _pending(self) -> int:
        return self.socket.pending() if isinstance(self.socket, ssl.SSLSocket) else 0

    def _ask(self, packet: bytes, answer: int) -> bytes:
        self.socket.sendall(packet)
        while True:
            kind, body = self._packet(
                time.monotonic() + self._timeout_s
            )  # a busy broker sends much before its answer
            if kind == answer:
                return body
            self._take(kind, body)

    def _take(self, kind: int, body: bytes) -> None:
        if kind == DISCONNECT:
            raise NoMqtt(f"it closed the connection with reason code {body[0] if body else 0:#x}")
        if kind == PUBLISH:
            self.arrived.append(body[2 : 2 + int.from_bytes(body[:2])].decode("utf-8", "replace"))

    def _packet(self, deadline: float) -> tuple[int, bytes]:
        """Type and body of the next packet; of a larger one than a probe needs only its beginning."""
        head, length, shift = self._read(1, deadline)[0], 0, 0
        while True:
            byte = self._read(1, deadline)[0]
            length |= (byte & 0x7F) << shift
            shift += 7
            if not byte & 0x80:
                break
            if shift > 21:
                raise NoMqtt("it answers something else than MQTT")
        body = self._read(min(length, _LARGEST_PACKET), deadline)
        left = length - len(body)
        while left:
            left -= len(self._read(min(left, _LARGEST_PACKET), deadline))
        return head & 0xF0, body

    def _read(self, count: int, deadline: float) -> bytes:
        while len(self._buffer) < count:
            self.socket.settimeout(max(0.01, deadline - time.monotonic()))
            data = self.socket.recv(65536)
            if not data:
                raise ConnectionResetError("the broker closed the connection")
            self._buffer += data
        taken = bytes(self._buffer[:count])
        del self._buffer[:count]
        return taken


def _text(text: str) -> bytes:
    data = text.encode()
    return len(data).to_bytes(2) + data
