"""HTTP requests that flows answer: `http in` nodes register routes, `http response` nodes answer; a service of the program.

The program's web server calls `answer` with what it got, and sends what comes back:

>>> import asyncio
>>> async def scenario():
...     endpoints = HttpEndpoints()
...     endpoints.register(
...         "n1",
...         "GET",
...         "/packs/:pack",
...         lambda exchange: exchange.answer(200, {}, exchange.params["pack"].encode()),
...     )
...     return await endpoints.answer("GET", "/packs/P%201", {}, "", b"")
>>> asyncio.run(scenario()).body
b'P 1'
"""

from __future__ import annotations

import asyncio
import itertools
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple
from urllib.parse import unquote

TIMEOUT_S = 30.0
BODY_BYTES = 5 * 1024 * 1024
"""Of a request at most, as in Node-RED."""
OPEN_LIMIT = 1000
"""Requests that may wait for an answer."""
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")

_PART = re.compile(r":[A-Za-z_]\w*|[^:*?()+]*")


class Answer(NamedTuple):
    """What a request is answered with; a header may be there several times."""

    status: int
    headers: Sequence[tuple[str, str]] = ()
    body: bytes = b""


@dataclass(eq=False)
class Exchange:
    """One request and the answer it waits for."""

    id: str
    method: str
    path: str
    params: Mapping[str, str]
    headers: Mapping[str, str]
    """By name, in small letters."""
    query: str
    body: bytes
    answered: asyncio.Future[Answer] = field(repr=False)

    def answer(
        self, status: int, headers: Mapping[str, str] | Sequence[tuple[str, str]], body: bytes
    ) -> bool:
        """Whether this was the first answer: others count for nothing."""
        if self.answered.done():
            return False
        pairs = list(headers.items()) if isinstance(headers, Mapping) else list(headers)
        self.answered.set_result(Answer(status, pairs, body))
        return True


Receiver = Callable[[Exchange], object]
"""Gets a request in the event loop, at once; it may be answered later."""


class _Route(NamedTuple):
    owner: str
    method: str
    parts: tuple[str, ...]
    receiver: Receiver


class HttpEndpoints:
    """The routes of a program's flows and the requests that wait."""

    def __init__(self, timeout_s: float = TIMEOUT_S) -> None:
        self.timeout_s = timeout_s
        self._routes: list[_Route] = []
        self._open: dict[str, Exchange] = {}
        self._run, self._numbers = secrets.token_hex(4), itertools.count(1)

    def register(self, owner: str, method: str, path: str, receiver: Receiver) -> None:
        """Hand requests to `receiver`; of two routes that a request fits the one that was registered first gets it."""
        self._routes.append(_Route(owner, method.upper(), parse_path(path), receiver))

    def unregister(self, receiver: Receiver) -> None:
        """It gets no more."""
        self._routes = [route for route in self._routes if route.receiver != receiver]

    def find(self, exchange_id: str) -> Exchange | None:
        """The request with that id, while it waits."""
        return self._open.get(exchange_id)

    async def answer(
        self, method: str, path: str, headers: Mapping[str, str], query: str, body: bytes
    ) -> Answer:
        """What the flow answers; 404, 405, 503 and 504 where nobody does. `path` is what stands behind `/endpoint`."""
        fitting = [
            (route, params) for route in self._routes if (params := _match(route.parts, path)) is not None
        ]
        wanted = {method, "GET"} if method == "HEAD" else {method}
        found = next((item for item in fitting if item[0].method in wanted), None)
        if found is None:
            if not fitting:
                return _plain(404, f"no flow has an http in node for {path}")
            allowed = ", ".join(sorted({route.method for route, _ in fitting}))
            return _plain(405, f"{method} is not possible here", ("allow", allowed))
        if len(self._open) >= OPEN_LIMIT:
            return _plain(503, f"{OPEN_LIMIT} requests wait for an answer", ("retry-after", "1"))
        return await self._hand_over(
            found[0].receiver, Exchange(
                f"{self._run}-{next(self._numbers)}", method, path, found[1], headers, query, body,
                asyncio.get_running_loop().create_future(),
            ),
        )  # fmt: skip

    async def _hand_over(self, receiver: Receiver, exchange: Exchange) -> Answer:
        self._open[exchange.id] = exchange
        try:
            receiver(exchange)
            async with asyncio.timeout(self.timeout_s):
                return await exchange.answered
        except TimeoutError:
            return _plain(504, f"the flow gave no answer within {self.timeout_s:g} s")
        finally:
            del self._open[exchange.id]


def parse_path(path: str) -> tuple[str, ...]:
    """The parts of a route's path, `:name` for what may be anything; raises ValueError.

    >>> parse_path("/packs/:pack/cells")
    ('packs', ':pack', 'cells')
    >>> parse_path("/packs/*")
    Traceback (most recent call last):
    ValueError: '/packs/*' is not a path: '*' is neither a name nor a :parameter
    """
    parts = tuple(path.strip("/").split("/"))
    for part in parts:
        if not _PART.fullmatch(part):
            raise ValueError(f"{path!r} is not a path: {part!r} is neither a name nor a :parameter")
    return parts


def _match(parts: tuple[str, ...], path: str) -> dict[str, str] | None:
    """The parameters of a path that fits."""
    given = path.strip("/").split("/")
    if len(given) != len(parts):
        return None
    params = {}
    for part, text in zip(parts, map(unquote, given), strict=True):
        if part.startswith(":"):
            if not text:
                return None
            params[part[1:]] = text
        elif part != text:
            return None
    return params


def _plain(status: int, text: str, *headers: tuple[str, str]) -> Answer:
    return Answer(status, [("content-type", "text/plain; charset=utf-8"), *headers], f"{text}\n".encode())
