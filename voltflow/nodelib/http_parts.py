"""What goes into HTTP requests and comes out of answers, as Node-RED's nodes make it of messages."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from voltflow.flow.properties import UNDEFINED, get
from voltflow.message import Msg
from voltflow.nodelib.loose import as_text

if TYPE_CHECKING:
    import httpx

TIMEOUT_S = 120.0
ANSWER_BYTES = 16 * 1024 * 1024
OWN_HEADERS = "x-node-red-request-node"
"""Says of `msg.headers` that they are an answer's, so that nobody sends them on."""
FORM = "application/x-www-form-urlencoded"


def headers_mark(headers: Mapping[str, Any]) -> str:
    """What an answer's headers have in `OWN_HEADERS` as long as nobody has changed them."""
    plain_headers = {name: value for name, value in headers.items() if name != OWN_HEADERS}
    return hashlib.sha256(json.dumps(plain_headers, sort_keys=True, default=str).encode()).hexdigest()[:16]


def timeout_of(value: Any) -> float:
    """From milliseconds."""
    try:
        timeout_s = float(value) / 1000
    except (TypeError, ValueError):
        return TIMEOUT_S
    return timeout_s if 0 < timeout_s < TIMEOUT_S else TIMEOUT_S


async def read_body(answer: httpx.Response) -> bytes:
    pieces, size = [], 0
    async for piece in answer.aiter_bytes():
        size += len(piece)
        if size > ANSWER_BYTES:
            raise ValueError(f"the answer of {answer.url} has more than {ANSWER_BYTES // 2**20} MiB")
        pieces.append(piece)
    return b"".join(pieces)


def with_query(url: str, payload: Any) -> str:
    import httpx

    if not isinstance(payload, Mapping):
        raise TypeError(f"the payload is no object whose properties could be in the URL, but {payload!r:.50}")
    found = {name: [as_text(item) for item in value] if isinstance(value, list) else as_text(value)
             for name, value in payload.items()}  # fmt: skip
    return str(httpx.URL(url).copy_merge_params(found))


def content_of(payload: Any, headers: dict[str, str]) -> bytes | None:
    """The body of a payload; where nobody says what it is, an object is JSON."""
    if payload is None:
        return None
    kind = headers.get("content-type", "")
    if isinstance(payload, bytes | bytearray):
        return bytes(payload)
    if isinstance(payload, Mapping) and kind.startswith(FORM):
        import httpx

        return str(httpx.QueryParams({name: as_text(value) for name, value in payload.items()})).encode()
    if kind.startswith("multipart/form-data"):
        raise ValueError(
            "multipart/form-data is not supported: send the payload as JSON, as a form or as bytes"
        )
    if isinstance(payload, dict | list):
        headers.setdefault("content-type", "application/json")
        return json.dumps(payload, separators=(",", ":"), ensure_ascii=False).encode()
    return as_text(payload).encode()


def of_row(kind: Any, value: Any, msg: Msg) -> str:
    """A name or value of the node's own headers, as the editor saves it: its own text, a property, or the type itself."""
    if kind == "msg":
        found = get(msg, str(value))
        return "" if found in (UNDEFINED, None) else as_text(found)
    return as_text(value if kind in ("other", "", None) else kind) if value is not None or kind else ""


def cookie_header(given: Any) -> str:
    if not isinstance(given, Mapping):
        return ""
    found = []
    for name, value in given.items():
        text = value.get("value") if isinstance(value, Mapping) else value
        if text is not None:
            found.append(f"{name}={quote(as_text(text), safe='')}")
    return "; ".join(found)


def received_cookies(cookies: list[str]) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for cookie in cookies:
        first, *options = (part.strip().partition("=") for part in cookie.split(";"))
        found[first[0]] = {"value": first[2], **{name: value for name, _, value in options}}
    return found
