"""MQTT for tests: a link that is closed afterwards, an inbox that can be waited for, a broker that refuses."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Iterator
from typing import Any, Self

from gmqtt.mqtt.utils import unpack_variable_byte_integer

from tests.flows import until
from voltflow.message import Msg
from voltflow.mqtt.link import Delivery, MqttLink, MqttOptions

CONNECT, PUBLISH, SUBSCRIBE = 1, 3, 8


@contextlib.asynccontextmanager
async def linked(port: int, *, wait: bool = True, **options: Any) -> AsyncIterator[MqttLink]:
    """An open link, connected unless `wait` is False."""
    link = MqttLink(MqttOptions(port=port, **options), name="link")
    await link.open()
    try:
        if wait:
            async with asyncio.timeout(10):
                await link.connected.wait()
        yield link
    finally:
        await link.close(timeout_s=1.0)


def cut(link: MqttLink) -> None:
    """End the connection as a network that fails would: no DISCONNECT."""
    assert link._client is not None
    link._client._connection._transport.abort()


async def reconnected(link: MqttLink, before: int) -> None:
    await until(lambda: link.reconnects > before and link.connected.is_set(), "the reconnect", 20)


class Inbox:
    """A receiver that keeps messages and their deliveries."""

    def __init__(self, link: MqttLink, topic_filter: str, qos: int = 1, *, acknowledge: bool = True) -> None:
        self.msgs: list[Msg] = []
        self.deliveries: list[Delivery | None] = []
        self._link = link
        self._acknowledge = acknowledge
        link.subscribe(topic_filter, qos, self._receive)

    def _receive(self, msg: Msg, delivery: Delivery | None) -> None:
        self.msgs.append(msg)
        self.deliveries.append(delivery)
        if self._acknowledge and delivery:
            self._link.acknowledge([delivery])

    @property
    def payloads(self) -> list[bytes]:
        return [msg.payload for msg in self.msgs]

    async def have(self, count: int, timeout_s: float = 20.0) -> list[bytes]:
        await until(lambda: len(self.msgs) >= count, f"{count} messages", timeout_s)
        return self.payloads


def packets(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The packets of a stream that has only whole ones."""
    while data:
        length, rest = unpack_variable_byte_integer(data[1:])
        yield data[0], bytes(rest[:length])
        data = rest[length:]


class StubBroker:
    """Answers what a test of refusals needs and mosquitto never says; the answers are those of MQTT 3.1.1, 3, and MQTT 5, 3.

    `refusal`: what CONNECT of version 5 gets before the connection is closed (b"": nothing), as a broker of 3.1.1 only
    does it; such a broker is left neither on PyPI nor in apt. None: version 5 is fine. `granted`: the reason code of
    every subscription. `disconnect`: a DISCONNECT packet that follows the first subscription. `reasons`: the codes of the
    next PUBACKs of version 5.
    """

    def __init__(self, refusal: bytes | None = None, *, granted: int = 1, disconnect: bytes = b"") -> None:
        self.refusal = refusal
        self.granted = granted
        self.disconnect = disconnect
        self.versions: deque[int] = deque()
        self.clean_starts: deque[bool] = deque()
        self.published: list[bytes] = []
        self.reasons: deque[int] = deque()
        self.port = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                for kind, body in packets(data):
                    answer, stay = self._answer(kind >> 4, body)
                    writer.write(answer)
                    if not stay:
                        return
        except ConnectionError:
            pass
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    def _answer(self, kind: int, body: bytes) -> tuple[bytes, bool]:
        """What goes back, and whether the connection stays."""
        if kind == CONNECT:
            self.versions.append(body[6])
            self.clean_starts.append(bool(body[7] & 2))
            if body[6] == 4:
                return b"\x20\x02\x00\x00", True
            return (b"\x20\x03\x00\x00\x00", True) if self.refusal is None else (self.refusal, False)
        if kind == PUBLISH:  # at QoS 1, without properties
            topic_end = 2 + int.from_bytes(body[:2])
            mid, version_5 = body[topic_end : topic_end + 2], self.versions[-1] == 5
            self.published.append(body[topic_end + 2 + version_5 :])
            reason = self.reasons.popleft() if self.reasons else 0
            return b"\x40" + bytes([2 + version_5]) + mid + bytes([reason] if version_5 else []), True
        if kind == SUBSCRIBE:
            return b"\x90\x04" + body[:2] + b"\x00" + bytes(
                [self.granted]
            ) + self.disconnect, not self.disconnect
        return b"", True
