"""The `http in` node: requests to the gateway's web server, below /endpoint."""

from __future__ import annotations

import asyncio
import json
import logging
from collections import deque
from typing import Any
from urllib.parse import parse_qs, unquote

from voltflow.clock import receive_clock
from voltflow.message import Msg
from voltflow.node import ConfigError, Context, Emit, Source, config, node
from voltflow.nodelib.http_endpoints import METHODS, Exchange, HttpEndpoints, parse_path
from voltflow.nodelib.http_parts import FORM

log = logging.getLogger(__name__)


@node("http in", category="network", color="#e7e7ae", icon="white-globe.svg")
class HttpIn(Source):
    """Take HTTP requests, which an `http response` node answers.

    They come to the address of the gateway's page, below `/endpoint`: `/hello` is `/endpoint/hello`, asked for with the token
    of the API. A part of the path such as `:pack` may be anything and is in `msg.req.params`, beside `query`, `headers`,
    `cookies`. The payload is the query of a GET, and otherwise the body: parsed where it is JSON or a form, text, or bytes.

    A request that got no answer within 30 s is answered with 504. Requests are in memory: after a crash nobody knows
    of them, and who asked has no answer.
    """

    url: str = config(help="path below /endpoint", example="/packs/:pack")
    method: str = config(
        "get", help="method of the requests", choices=("get", "post", "put", "patch", "delete")
    )
    upload: bool = config(
        False, help="not here: files in a form; send their content as the body", advanced=True
    )

    # state
    requests: int = 0

    def __post_init__(self) -> None:
        try:
            parse_path(self.url)
        except ValueError as error:
            raise ConfigError(f'property "url": {error}') from None
        if self.upload:
            raise ConfigError(
                'property "upload": files in a form are not taken; send their content as the body'
            )
        assert self.method.upper() in METHODS

    async def start(self, ctx: Context) -> None:
        self._endpoints = ctx.service(HttpEndpoints)
        self._waiting: deque[Exchange] = deque()
        self._arrived = asyncio.Event()
        self._retired = False

    def attach(self) -> None:
        self._retired = False
        self._endpoints.register(self.id, self.method, self.url, self._receive)

    def retire(self) -> bool:
        self._retired = True
        self._endpoints.unregister(self._receive)
        self._arrived.set()
        return True

    def detach(self) -> None:
        self._endpoints.unregister(self._receive)
        while self._waiting:
            self._waiting.popleft().answer(503, {"retry-after": "1"}, b"")

    async def stop(self) -> None:
        self._endpoints.unregister(self._receive)

    def _receive(self, exchange: Exchange) -> None:
        self.requests += 1
        self._waiting.append(exchange)
        self._arrived.set()

    async def run(self, emit: Emit) -> None:
        under_way: set[asyncio.Task[None]] = set()

        def ended(task: asyncio.Task[None]) -> None:
            under_way.discard(task)
            if self._retired:
                self._arrived.set()

        try:
            while self._waiting or under_way or not self._retired:
                await self._arrived.wait()
                self._arrived.clear()
                while self._waiting:
                    exchange = self._waiting.popleft()
                    task = asyncio.create_task(self._emit(emit, exchange), name=f"request of {self.label}")
                    under_way.add(task)
                    task.add_done_callback(ended)
        finally:
            try:
                if under_way:
                    await asyncio.wait(under_way)
            finally:
                for task in under_way:
                    task.cancel()

    async def _emit(self, emit: Emit, exchange: Exchange) -> None:
        try:
            msg = self._message(exchange)
        except ValueError as error:
            exchange.answer(400, {"content-type": "text/plain; charset=utf-8"}, f"{error}\n".encode())
            return
        try:
            await emit([msg])
        except Exception:
            log.exception("%s: a request for %s failed", self.label, exchange.path)
            exchange.answer(500, {"content-type": "text/plain; charset=utf-8"}, b"the flow failed on it\n")

    def _message(self, exchange: Exchange) -> Msg:
        query = _values(exchange.query)
        url = f"{exchange.path}?{exchange.query}" if exchange.query else exchange.path
        body = _body(exchange)
        request = {
            "method": exchange.method, "url": url, "params": dict(exchange.params), "query": query,
            "headers": dict(exchange.headers), "cookies": _cookies(exchange.headers.get("cookie", "")), "body": body,
        }  # fmt: skip
        payload = query if exchange.method in {"GET", "HEAD"} else body
        props = {"req": request, "res": {"id": exchange.id}}
        return Msg("", payload, None, receive_clock.now_ms(), props)

    def status(self) -> dict[str, Any]:
        return {"url": f"/endpoint/{self.url.lstrip('/')}", "requests": self.requests}


def _values(query: str) -> dict[str, Any]:
    """The names of a query or form with their values; a list where one is there several times."""
    found = parse_qs(query, keep_blank_values=True)
    return {name: values[0] if len(values) == 1 else values for name, values in found.items()}


def _cookies(header: str) -> dict[str, str]:
    """The values of a Cookie header (RFC 6265, 5.4) by name; where a name is there twice the first counts."""
    found: dict[str, str] = {}
    for pair in header.split(";"):
        name, given, value = pair.partition("=")
        if given:
            found.setdefault(name.strip(), unquote(value.strip().removeprefix('"').removesuffix('"')))
    return found


def _body(exchange: Exchange) -> Any:
    kind = exchange.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json" or kind.endswith("+json"):
        try:
            return json.loads(exchange.body) if exchange.body else {}
        except ValueError as error:
            raise ValueError(f"the body is no JSON: {error}") from None
    if kind == FORM:
        return _values(exchange.body.decode("utf-8", "replace"))
    if kind.startswith("text/") or not exchange.body:
        return exchange.body.decode("utf-8", "replace")
    return exchange.body
