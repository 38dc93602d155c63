"""What the bytes of a message from a broker become, by the data type that a subscription names."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

Decode = Callable[[bytes], Any]

_STEERING = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_MEDIA: Final = frozenset(("contentType", "payloadFormatIndicator"))
"""Properties by which a publisher says what its payload is."""
_TEXT_TYPES = frozenset(("text/css", "text/html", "text/plain", "application/xml"))
_BINARY_TYPES = frozenset(
    ("application/octet-stream", "application/pdf", "application/x-gtar", "application/x-gzip", "application/x-tar",
     "application/zip", "audio/aac", "audio/ac3", "audio/basic", "audio/mp4", "audio/ogg", "image/bmp", "image/gif",
     "image/jpeg", "image/tiff", "image/png")
)  # fmt: skip
"""The types that Node-RED knows."""


def decoder_of(datatype: str, props: Mapping[str, Any] | None) -> Decode:
    """What makes the data type of a payload; `auto` and `auto-detect` believe what its publisher says of it. It raises
    ValueError.

    >>> (
    ...     decoder_of("auto-detect", None)(b"12"),
    ...     decoder_of("auto-detect", {"contentType": "text/plain"})(b"12"),
    ... )
    (12, '12')
    """
    if props and datatype in _DETECTING and not _MEDIA.isdisjoint(props):
        return _said(datatype, props)
    return _DECODERS[datatype]


def _said(datatype: str, props: Mapping[str, Any]) -> Decode:
    media = str(props.get("contentType", "")).lower()
    if media in _BINARY_TYPES:
        return bytes
    if media in _TEXT_TYPES:
        return bytes.decode
    detects = datatype == "auto-detect"
    if media == "application/json":
        return _json if detects else _json_text
    if props.get("payloadFormatIndicator"):
        return _json_or_text if detects else bytes.decode
    return _auto if detects else _text


def _auto(data: bytes) -> Any:
    try:
        return _json(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _text(data)


def _text(data: bytes) -> str | bytes:
    """What is no UTF-8, or has characters that only steer, is no text, as Node-RED sees it."""
    try:
        return data if _STEERING.search(data) else data.decode()
    except UnicodeDecodeError:
        return data


def _json_or_text(data: bytes) -> Any:
    """Of what is text for sure."""
    try:
        return _json(data)
    except msgspec.DecodeError:
        return data.decode()


def _json_text(data: bytes) -> str:
    """The text of what is JSON for sure."""
    _json(data)
    return data.decode()


_json = msgspec.json.Decoder().decode
_DETECTING = frozenset(("auto", "auto-detect"))
_DECODERS: dict[str, Decode] = {
    "buffer": bytes,
    "auto-detect": _auto,
    "auto": _text,
    "utf8": bytes.decode,
    "json": _json,
    "base64": lambda data: base64.b64encode(data).decode(),
}
