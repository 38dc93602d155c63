"""The REST API: a Bottle application made from the declared routes. Its answers are JSON, also when it fails.

Use: `create_app(AppState(store, engine, "gw", time.time()))` is a WSGI application; `edge/web.py` serves it.
"""

from __future__ import annotations

import gzip
import logging
import re
from collections.abc import Callable

import bottle
import msgspec
from prometheus_client import CollectorRegistry, generate_latest

from edge.answers import Error, ErrorBody
from edge.openapi import METRICS_PATH, METRICS_TYPE, document
from edge.queries import ApiError, parse_query
from edge.routes import ROUTES, Route
from edge.state import AppState, ModelNode
from edge.writing import change

__all__ = ["AppState", "ModelNode", "create_app", "error_json"]

log = logging.getLogger(__name__)

PACKED_BYTES = 2000
"""Smaller answers are sent as they are."""
GZIP_LEVEL = 1
"""A page of 1,000 packs becomes a tenth in a few milliseconds, in which other threads run."""
_CODES = {404: "not_found", 405: "method_not_allowed", 400: "bad_request"}
_encode = msgspec.json.Encoder(enc_hook=str).encode


def create_app(
    state: AppState, registry: CollectorRegistry, *, token_required: bool = False
) -> bottle.Bottle:
    """The application; `registry` is what `/metrics` answers with."""
    app = bottle.Bottle()
    for route in ROUTES:
        callback = _head(route) if route.native else _callback(state, route, has_token=token_required)
        app.route(_bottle_path(route.path), route.method, callback)
    described = _encode(document(token_required=token_required))
    app.get("/api/openapi.json", callback=lambda: _answer(described))
    app.get(METRICS_PATH, callback=lambda: _answer(generate_latest(registry), METRICS_TYPE))
    app.default_error_handler = _on_error
    return app


def error_json(code: str, message: str) -> bytes:
    """The body of an answer that is not 2xx."""
    return _encode(Error(ErrorBody(code, message)))


def _bottle_path(path: str) -> str:
    """`{pack}` may hold a slash (`fleet/pack`).

    >>> _bottle_path("/api/packs/{pack}/status")
    '/api/packs/<pack:path>/status'
    """
    return re.sub(r"\{(\w+)\}", r"<\1:path>", path)


def _callback(state: AppState, route: Route, *, has_token: bool) -> Callable[..., bytes]:
    def handle(**path: str) -> bytes:
        try:
            query = parse_query(bottle.request.query_string, route.query)
            if route.changes:
                query = change(state, bottle.request, route, has_token=has_token)
            answer = route.handle(state, path, query)
            return _answer(_encode(answer), status=route.status_of(answer))
        except ApiError as error:
            return _answer(_encode(error.body), status=error.status)
        except Exception:
            log.exception("%s failed", bottle.request.path)
            return _answer(
                error_json("internal", "the gateway failed on this request; see its log"), status=500
            )

    return handle


def _head(route: Route) -> Callable[..., bytes]:
    """For a route whose GET the event loop answers: HEAD, and through it 405 for other methods."""
    return lambda: _answer(b"", route.media)


def _answer(body: bytes, media: str = "application/json", *, status: int = 200) -> bytes:
    bottle.response.status = status
    bottle.response.content_type = media
    bottle.response.set_header("Cache-Control", "no-store")
    if len(body) < PACKED_BYTES or "gzip" not in bottle.request.get_header("Accept-Encoding", ""):
        return body
    bottle.response.set_header("Content-Encoding", "gzip")
    return gzip.compress(body, GZIP_LEVEL, mtime=0)


def _on_error(error: bottle.HTTPError) -> bytes:
    """What Bottle itself answers: unknown paths, wrong methods."""
    status = error.status_code
    allowed = " or ".join(sorted({*error.get_header("Allow", "GET").split(",")} - {"HEAD"}))
    message = {404: f"there is nothing at {bottle.request.path}; /api/openapi.json lists what is",
               405: f"{bottle.request.method} is not possible here; use {allowed}"}.get(status, str(error.body))  # fmt: skip
    error.content_type = "application/json"
    error.set_header("Cache-Control", "no-store")
    return error_json(_CODES.get(status, "internal"), message)
