"""What flows answer below /endpoint: the web server's side of `http in` nodes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from voltflow.nodelib.http_endpoints import BODY_BYTES, Answer, HttpEndpoints

PATH = "/endpoint"
NO_BODY = {204, 304}

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class Endpoints:
    """An ASGI application; who may ask has been looked at before."""

    def __init__(self, endpoints: HttpEndpoints) -> None:
        self._endpoints = endpoints

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = _joined(scope["headers"])
        if is_foreign(headers):
            answer = Answer(403, (), b"pages of other sites may not ask\n")
        elif (body := await _body(receive)) is None:
            answer = Answer(413, (), f"a request has at most {BODY_BYTES // 2**20} MiB\n".encode())
        else:
            path = scope["raw_path"].decode("latin-1").removeprefix(PATH) or "/"
            query = scope["query_string"].decode("latin-1")
            answer = await self._endpoints.answer(scope["method"], path, headers, query, body)
        await _send(send, answer, with_body=scope["method"] != "HEAD")


def is_foreign(headers: MutableMapping[str, str]) -> bool:
    """Whether a browser says that the page of another site asks: without a token it could ask for anything.

    >>> (
    ...     is_foreign({"origin": "http://evil.example", "host": "localhost:5002"}),
    ...     is_foreign({"host": "localhost:5002"}),
    ... )
    (True, False)
    """
    origin = headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != headers.get("host"):
        return True
    return headers.get("sec-fetch-site") == "cross-site"


def _joined(pairs: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """By name; values of one that is there several times as one list (RFC 9110, 5.3)."""
    found: dict[str, str] = {}
    for name, value in pairs:
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        found[key] = f"{found[key]}{'; ' if key == 'cookie' else ', '}{text}" if key in found else text
    return found


async def _body(receive: Receive) -> bytes | None:
    """None where it is too large."""
    pieces: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return b"".join(pieces)  # who asked is gone
        pieces.append(message.get("body", b""))
        size += len(pieces[-1])
        if size > BODY_BYTES:
            return None
        if not message.get("more_body"):
            return b"".join(pieces)


async def _send(send: Send, answer: Answer, *, with_body: bool) -> None:
    headers = [
        (name.encode("latin-1", "replace"), value.encode("latin-1", "replace"))
        for name, value in answer.headers
    ]
    if answer.status not in NO_BODY:
        headers.append((b"content-length", str(len(answer.body)).encode()))
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    body = answer.body if with_body and answer.status not in NO_BODY else b""
    await send({"type": "http.response.body", "body": body})
