"""Answers that arrive although the request's body was not wanted: too large, or from who may not ask.

A connection that is closed while something of it is unread is reset, and the client may never see the answer. So the rest
of the body is taken first, and dropped, within limits. Where the connection stays open the server does that by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

BYTES: Final = 100_000_000
"""Of a body that is dropped at most; who sends more sees the connection reset."""
PATIENCE_S: Final = 10.0

Message = MutableMapping[str, Any]


class Draining:
    """`receive` and `send` of one HTTP request, for the application in place of the server's."""

    def __init__(
        self,
        scope: MutableMapping[str, Any],
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        headers = dict(scope["headers"])
        has_body = b"content-length" in headers or b"transfer-encoding" in headers
        self._closes = scope["http_version"] == "1.0" or b"close" in headers.get(b"connection", b"").lower()
        # who expects to be told to go on sends nothing before the body is asked for
        self._unread = self._closes and has_body and b"expect" not in headers
        self._receive, self._send = receive, send

    async def receive(self) -> Message:
        message = await self._receive()
        self._unread = self._closes and bool(message.get("more_body"))
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start" and self._unread:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PATIENCE_S):
                    await self._drain()
        await self._send(message)

    async def _drain(self) -> None:
        left = BYTES
        while self._unread and left > 0:
            left -= len((await self.receive()).get("body", b""))
