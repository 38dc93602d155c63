"""An id for each HTTP request: that of the header X-Request-ID, or a new one; in the answer's header and in log lines.

The logger `edge.access` says what was asked: at `debug` everything, as a warning what the gateway failed on.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

from voltflow.logs import id_of_request, request_id

log = logging.getLogger("edge.access")

HEADER: Final = b"x-request-id"

Message = MutableMapping[str, Any]
App = Callable[
    [Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]
]


class RequestIds:
    """In front of an ASGI application, which finds the id in the request's headers and in `voltflow.logs.request_id`."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(
        self,
        scope: Message,
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        given = next((value for name, value in scope["headers"] if name == HEADER), b"")
        own_id = id_of_request(given.decode("latin-1"))
        own = own_id.encode()
        headers = [*(item for item in scope["headers"] if item[0] != HEADER), (HEADER, own)]
        started, status = time.monotonic(), 0

        async def with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", []), (HEADER, own)]
            await send(message)

        token = request_id.set(own_id)
        try:
            await self._app({**scope, "headers": headers}, receive, with_id)
        finally:
            _tell(scope, status, time.monotonic() - started)
            request_id.reset(token)


def _tell(scope: Message, status: int, seconds: float) -> None:
    """The query stays out: it may hold what is nobody's business."""
    level = logging.WARNING if status == 500 else logging.DEBUG
    if log.isEnabledFor(level):
        method = scope.get("method", "WEBSOCKET")
        log.log(level, "%s %s %s in %.0f ms", method, scope["path"], status or "no answer", seconds * 1000)
