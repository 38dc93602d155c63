"""The `http response` node: answers a request that an `http in` node took."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import msgspec

from voltflow.engine.why import Why
from voltflow.flow.properties import plain
from voltflow.message import Msg
from voltflow.node import ConfigError, Context, Rejected, Sink, config, node
from voltflow.nodelib.http_endpoints import HttpEndpoints
from voltflow.nodelib.http_parts import OWN_HEADERS, headers_mark
from voltflow.nodelib.loose import as_text

BYTES = "application/octet-stream"
FORBIDDEN = {"content-length", "transfer-encoding", "connection"}
"""Headers that the web server makes."""


@node("http response", category="network", color="#e7e7ae", icon="white-globe.svg")
class HttpResponse(Sink):
    """Answer the request that a message was made of.

    The payload is the body: bytes, texts and numbers as they are, anything else as JSON. Status and headers are the node's own,
    then `msg.statusCode` and `msg.headers`; what is text says that it is UTF-8. `msg.cookies` sets cookies. A message whose request is not waiting any more, because
    it was answered, took too long, or was made before a restart, becomes a dead letter.
    """

    statusCode: str = config("", help="status; empty: msg.statusCode, else 200", example="201")
    headers: dict[str, Any] = config({}, help="headers, before those of msg.headers")

    def __post_init__(self) -> None:
        if self.statusCode:
            _status(self.statusCode)

    async def start(self, ctx: Context) -> None:
        self._endpoints = ctx.service(HttpEndpoints)

    async def write(self, msgs: list[Msg]) -> None:
        refused: list[tuple[Msg, str]] = []
        for msg in msgs:
            try:
                self._answer(msg)
            except Exception as error:  # noqa: BLE001 - a message of any kind may fail in any way
                refused.append((msg, Why.of(error)))
        if refused:
            raise Rejected(refused)

    def _answer(self, msg: Msg) -> None:
        props = msg.props or {}
        response = props.get("res")
        if not isinstance(response, Mapping) or "id" not in response:
            raise ValueError("no request: the message has not come from an http in node (msg.res)")
        exchange = self._endpoints.find(str(response["id"]))
        status = _status(self.statusCode or props.get("statusCode") or 200)
        body, kind = _body(plain(msg.payload))
        headers = {"content-type": kind, **_headers(props.get("headers")), **_headers(self.headers)}
        headers["content-type"] = _with_charset(headers["content-type"], made_here=kind != BYTES)
        pairs = [(name, value) for name, values in headers.items() for value in _listed(values)]
        pairs += [("set-cookie", cookie) for cookie in _set_cookies(props.get("cookies"))]
        if exchange is None or not exchange.answer(status, pairs, body):
            raise ValueError("the request is not waiting any more")


def _status(value: Any) -> int:
    try:
        status = int(value)
    except (TypeError, ValueError):
        status = 0
    if not 200 <= status <= 599:
        raise ConfigError(f'property "statusCode": {value!r} is not a status, allowed is 200 … 599')
    return status


def _body(payload: Any) -> tuple[bytes, str]:
    """The bytes and what they are."""
    if isinstance(payload, bytes | bytearray):
        return bytes(payload), BYTES
    if isinstance(payload, str | int | float) and not isinstance(payload, bool):
        return as_text(payload).encode(), "text/html; charset=utf-8"
    if payload is None:
        return b"", "text/plain; charset=utf-8"
    return msgspec.json.encode(payload), "application/json; charset=utf-8"


def _with_charset(kind: Any, *, made_here: bool) -> Any:
    """The content type of a text with its encoding, which is ours where the bytes were `made_here`; others do not change."""
    if not isinstance(kind, str):
        return kind
    parts = [part.strip() for part in kind.split(";")]
    others = [part for part in parts if not part.lower().startswith("charset")]
    is_text = parts[0].lower().startswith(("text/", "application/json", "application/javascript"))
    if not made_here and (not is_text or others != parts):
        return kind
    return "; ".join([*others, "charset=utf-8"])


def _headers(given: Any) -> dict[str, Any]:
    if not isinstance(given, Mapping) or given.get(OWN_HEADERS) == headers_mark(given):
        return {}  # an answer's that an http request node got
    found = {str(name).lower(): value for name, value in given.items() if name != OWN_HEADERS}
    return {name: value for name, value in found.items() if name not in FORBIDDEN}


def _listed(values: Any) -> list[str]:
    texts = [as_text(value) for value in (values if isinstance(values, list) else [values])]
    for text in texts:
        if "\n" in text or "\r" in text:
            raise ValueError(f"a header has no line breaks: {text!r:.80}")
    return texts


def _set_cookies(given: Any) -> list[str]:
    """`msg.cookies`: a value, an object with value and options, or null to delete."""
    if not isinstance(given, Mapping):
        return []
    return [_set_cookie(str(name), cookie) for name, cookie in given.items()]


def _set_cookie(name: str, cookie: Any) -> str:
    options = dict(cookie) if isinstance(cookie, Mapping) else {"value": cookie}
    value = options.get("value")
    if value is None:
        return f"{name}=; Path={options.get('path', '/')}; Expires={_http_date(0)}"
    parts = [f"{name}={quote(as_text(value), safe='')}", f"Path={options.get('path', '/')}"]
    if "maxAge" in options:  # milliseconds, as in Express
        parts.append(f"Max-Age={int(options['maxAge']) // 1000}")
    if "domain" in options:
        parts.append(f"Domain={options['domain']}")
    parts += [word for key, word in (("httpOnly", "HttpOnly"), ("secure", "Secure")) if options.get(key)]
    if same_site := options.get("sameSite"):
        parts.append(f"SameSite={'Strict' if same_site is True else str(same_site).capitalize()}")
    return "; ".join(part for line in parts for part in _listed(line))


def _http_date(at_s: float) -> str:
    return datetime.fromtimestamp(at_s, UTC).strftime("%a, %d %b %Y %H:%M:%S GMT")
