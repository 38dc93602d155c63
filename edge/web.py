"""The web server inside the agent's event loop: page, API, stream and editor on one port, `/metrics` on another.

Bottle runs in a few threads (a2wsgi), the stream and the editor's websocket in the loop itself. In front of all stands
`_Guard`: who may ask, and the headers that keep browsers from being used against the gateway.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from typing import Any, Literal

import uvicorn
from a2wsgi import WSGIMiddleware
from prometheus_client import generate_latest

from edge.api import AppState, create_app, error_json
from edge.draining import Draining
from edge.editor.app import COMMS, CONTENT_POLICY, ROOT, Editor
from edge.endpoints import PATH, Endpoints
from edge.metrics import make_registry
from edge.openapi import METRICS_PATH, METRICS_TYPE
from edge.page_files import PageFiles
from edge.queries import ApiError
from edge.request_ids import RequestIds
from edge.stream import Streams
from voltflow.access import address_of, refusal, require_token
from voltflow.nodelib.http_endpoints import HttpEndpoints

log = logging.getLogger(__name__)

WORKERS = 4
STREAM_PATH = "/api/stream"
WEBSOCKET_BYTES = 65_536
"""Of a message of a browser at most; the editor's are short."""
PING_S = 20.0
_REFUSALS = {401: "unauthorized", 421: "wrong_host"}
"""Code of an answer's error by its status."""

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_SECURITY_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
]


class PortTakenError(OSError):
    """An address cannot be served on; the message names the settings."""


class _Uvicorn(uvicorn.Server):
    """A uvicorn that leaves signals to the agent and says when it is up."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.up.set()


class _Server:
    """Serves an ASGI application on a socket of its own. `section` is `api` or `metrics`, as the settings say it."""

    def __init__(self, section: str, host: str, port: int, token: str | None) -> None:
        self.section, self.host, self.port, self.token = section, host, port, token or ""
        self._server: _Uvicorn | None = None
        self._task: asyncio.Task[None] | None = None

    def app(self) -> App:
        """What answers, made at the start."""
        raise NotImplementedError

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    async def start(self) -> None:
        """Return when requests are answered; raises PortTakenError or SettingsError."""
        sock = self._bind()
        self.port = sock.getsockname()[1]
        guarded = RequestIds(_Guard(self.app(), self.token, self.is_open))
        config = uvicorn.Config(
            guarded, http="h11", ws=self.websockets, ws_max_size=WEBSOCKET_BYTES, ws_ping_interval=PING_S,
            ws_per_message_deflate=False,  # costs the flow more time than it saves bytes on the way to a browser nearby
            lifespan="off", log_config=None, log_level="warning", access_log=False, server_header=False,
            proxy_headers=False, timeout_graceful_shutdown=1,
        )  # fmt: skip
        self._server = _Uvicorn(config)
        self._task = asyncio.create_task(self._server.serve(sockets=[sock]), name=f"{self.section} server")
        up = asyncio.create_task(self._server.up.wait())
        await asyncio.wait({self._task, up}, return_when=asyncio.FIRST_COMPLETED)
        if self._task.done():
            up.cancel()
            self._task.result()

    async def stop(self) -> None:
        """End it; what is being answered gets a second. Does nothing where it was not started."""
        if self._server is not None and self._task is not None:
            self._server.should_exit = True
            await self._task
            self._server = self._task = None

    def is_open(self, path: str) -> bool:
        """Whether the token is not asked for, nor a certain Host where there is a token."""
        return False

    websockets: Literal["none", "websockets-sansio"] = "none"

    def _bind(self) -> socket.socket:
        """The listening socket, opened here because uvicorn ends the process when a port is taken."""
        try:
            family, address = address_of(self.host, self.port)
            require_token(self.section, self.host, address, self.token, "api_token")
            return socket.create_server((address, self.port), family=family, backlog=128)
        except OSError as error:
            raise PortTakenError(
                error.errno,
                f"{self.section}_host = '{self.host}', {self.section}_port = {self.port} cannot be served on: "
                f"{error.strerror or error}; end the other program or set another {self.section}_port",
            ) from error


class WebServer(_Server):
    """Page, API, stream, editor and what flows answer. Use: `await server.start()` … `await server.stop()`; `token` is required off-loopback."""

    def __init__(
        self,
        state: AppState,
        host: str,
        port: int,
        token: str | None = None,
        editor: Editor | None = None,
        endpoints: HttpEndpoints | None = None,
    ) -> None:
        super().__init__("api", host, port, token)
        self._endpoints = None if endpoints is None else Endpoints(endpoints)
        self.streams = Streams(state)
        self._editor = editor
        self.websockets = "none" if editor is None else "websockets-sansio"
        self._state = state
        self._page = PageFiles()
        self._wsgi: Any = None

    def app(self) -> App:
        registry = make_registry(self._state, self.streams)
        bottle_app = create_app(self._state, registry, token_required=bool(self.token))
        self._wsgi = WSGIMiddleware(bottle_app, workers=WORKERS)
        if self._editor is not None:
            self._editor.open()
        return self._dispatch

    def is_open(self, path: str) -> bool:
        """The page, which has no data, and the editor where its own logins stand before it."""
        if not _is_editors(path) or self._editor is None:
            return self._page.find(path) is not None
        return self._editor.auth.required or bool(self._editor.auth.closed)

    async def _dispatch(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._editor is not None and _is_editors(scope["path"]):
            await self._editor.serve(scope, receive, send)
            return
        if self._endpoints is not None and _is_endpoint(scope["path"]):
            await self._endpoints(scope, receive, send)
            return
        if self._page.find(scope["path"]) is not None:
            await self._serve_page(scope, receive, send)
            return
        if scope["path"] != STREAM_PATH or scope["method"] != "GET":
            await self._wsgi(scope, receive, send)
            return
        try:
            await self.streams(scope, receive, send)
        except ApiError as error:
            await _respond(send, error.status, error_json(error.body.error.code, error.body.error.message))

    async def _serve_page(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] in {"GET", "HEAD"}:
            await self._page(scope, receive, send)
        else:
            body = error_json("method_not_allowed", f"{scope['method']} is not possible here; use GET")
            await _respond(send, 405, body, [(b"allow", b"GET, HEAD")])

    async def stop(self) -> None:
        await self.streams.close()
        if self._editor is not None:
            await self._editor.close()
        await super().stop()
        if self._wsgi is not None:
            self._wsgi.executor.shutdown(wait=False)


class MetricsServer(_Server):
    """`/metrics` on a port of its own."""

    def __init__(self, state: AppState, host: str, port: int, token: str | None = None) -> None:
        super().__init__("metrics", host, port, token)
        self._registry = make_registry(state)

    def app(self) -> App:
        return self._answer

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] != METRICS_PATH:
            await _respond(send, 404, error_json("not_found", f"only {METRICS_PATH} is here"))
        elif scope["method"] not in {"GET", "HEAD"}:
            body = error_json("method_not_allowed", f"{scope['method']} is not possible here; use GET")
            await _respond(send, 405, body, [(b"allow", b"GET, HEAD")])
        else:
            text = await asyncio.to_thread(generate_latest, self._registry)
            await _respond(send, 200, text, [(b"content-type", METRICS_TYPE.encode())])


def _is_editors(path: str) -> bool:
    return path == ROOT or path.startswith(f"{ROOT}/")


def _is_endpoint(path: str) -> bool:
    return path == PATH or path.startswith(f"{PATH}/")


def _security_headers(path: str) -> list[tuple[bytes, bytes]]:
    """What a page that a flow makes may do is for the flow to say: it has styles, scripts and forms of its own."""
    if _is_endpoint(path):  # without any referrer a form would be sent with the Origin `null`, and be refused
        return [*_SECURITY_HEADERS[:-1], (b"referrer-policy", b"same-origin")]
    policy = CONTENT_POLICY if _is_editors(path) else _CONTENT_POLICY
    return [*_SECURITY_HEADERS, (b"content-security-policy", policy.encode())]


class _Guard:
    """Asks for the token; without one, for a Host that a foreign web page cannot have (DNS rebinding).

    The editor has logins of its own in place of the token; where nobody has to log in, its Host is looked at.
    """

    def __init__(self, app: App, token: str, is_open: Callable[[str], bool]) -> None:
        self._app = app
        self._token = token
        self._is_open = is_open

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._answer(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._connect(scope, receive, send)

    async def _connect(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == COMMS and self._refusal(COMMS, dict(scope["headers"])) is None:
            await self._app(scope, receive, send)
        else:
            await receive()
            await send({"type": "websocket.close", "code": 1008})

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = _security_headers(scope["path"])
        draining = Draining(scope, receive, send)

        async def secured(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                own = list(message.get("headers", []))
                names = {name.lower() for name, _ in own}
                message["headers"] = [*own, *(item for item in headers if item[0] not in names)]
            await draining.send(message)

        refused = self._refusal(scope["path"], dict(scope["headers"]))
        if refused is None:
            await self._app(scope, draining.receive, secured)
        else:
            status, code, text = refused
            headers = [(b"www-authenticate", b"Bearer")] if status == 401 else []
            await _respond(secured, status, error_json(code, text), headers)

    def _refusal(self, path: str, headers: dict[bytes, bytes]) -> tuple[int, str, str] | None:
        """Status, code and text for who may not ask."""
        if self._token and self._is_open(path):
            return None
        authorization, host = (
            headers.get(name, b"").decode("latin-1") for name in (b"authorization", b"host")
        )
        refused = refusal("" if _is_editors(path) else self._token, authorization, host)
        return None if refused is None else (refused[0], _REFUSALS[refused[0]], refused[1])


async def _respond(
    send: Send, status: int, body: bytes, headers: list[tuple[bytes, bytes]] | None = None
) -> None:
    headers = list(headers or [])
    if not any(name == b"content-type" for name, _ in headers):
        headers.append((b"content-type", b"application/json"))
    headers += [(b"content-length", str(len(body)).encode()), (b"cache-control", b"no-store")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
