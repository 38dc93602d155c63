"""What a PUBLISH says beside topic and payload (MQTT 5, 3.3.2.3), under the names that Node-RED gives it in a message."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from voltflow.mqtt.codec import check_topic, varint

PROPERTIES = frozenset(
    ("responseTopic", "correlationData", "contentType", "userProperties", "messageExpiryInterval", "payloadFormatIndicator")
)  # fmt: skip

PLAIN: tuple[Mapping[str, Any], ...] = tuple(
    {"qos": flags >> 1, "retain": bool(flags & 1)} for flags in range(8)
)
"""What is told of a message without properties, by the lower three bits of its first byte: nearly all messages share
these few, so they are never changed."""

_NAMES = {
    "response_topic": "responseTopic",
    "content_type": "contentType",
    "correlation_data": "correlationData",
    "message_expiry_interval": "messageExpiryInterval",
    "payload_format_id": "payloadFormatIndicator",
}
"""By gmqtt's names."""


def told(flags: int, parsed: Mapping[str, list[Any]]) -> dict[str, Any]:
    """What a message from the broker is told to have been sent with; `parsed` are its properties as gmqtt reads them.

    >>> told(0x33, {"content_type": ["text/csv"], "user_property": [("a", "1"), ("b", "2"), ("a", "3")]})
    {'qos': 1, 'retain': True, 'contentType': 'text/csv', 'userProperties': {'a': '["1","3"]', 'b': '2'}}
    """
    props = dict(PLAIN[flags & 7])
    for name, found in parsed.items():
        if name in _NAMES and found[-1] != "":
            props[_NAMES[name]] = found[-1]
    if "payloadFormatIndicator" in props:
        props["payloadFormatIndicator"] = bool(props["payloadFormatIndicator"])
    if pairs := parsed.get("user_property"):
        props["userProperties"] = _by_name(pairs)
    return props


def not_sent_with(props: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """Without what a PUBLISH says: for a message that is a statement of its own, of another kind and use.

    >>> not_sent_with({"messageExpiryInterval": 60, "site": "depot"})
    {'site': 'depot'}
    """
    if props is None or PROPERTIES.isdisjoint(props):
        return props
    return {name: value for name, value in props.items() if name not in PROPERTIES}


def _by_name(pairs: list[tuple[str, str]]) -> dict[str, str]:
    """What has a name several times is a list, as JSON."""
    found: dict[str, list[str]] = {}
    for name, value in pairs:
        found.setdefault(name, []).append(value)
    return {
        name: values[0] if len(values) == 1 else msgspec.json.encode(values).decode()
        for name, values in found.items()
    }


def encode_properties(props: Mapping[str, Any]) -> bytes:
    """The properties of a PUBLISH with their length; `correlationData` is bytes, `userProperties` are texts by name.

    Raises ValueError for what the broker would close the connection on.

    >>> encode_properties({}), encode_properties({"contentType": "x", "messageExpiryInterval": 60})
    (b'\\x00', b'\\t\\x02\\x00\\x00\\x00<\\x03\\x00\\x01x')
    """
    parts: list[bytes] = []
    if "payloadFormatIndicator" in props:
        parts.append(b"\x01\x01" if props["payloadFormatIndicator"] else b"\x01\x00")
    if "messageExpiryInterval" in props:
        parts.append(b"\x02" + _seconds(props["messageExpiryInterval"]))
    if "contentType" in props:
        parts.append(b"\x03" + _text("contentType", props["contentType"]))
    if "responseTopic" in props:
        parts.append(b"\x08" + _text("responseTopic", check_topic(props["responseTopic"])))
    if "correlationData" in props:
        parts.append(b"\x09" + _sized("correlationData", props["correlationData"]))
    for name, value in props.get("userProperties", {}).items():
        parts.append(b"\x26" + _text("userProperties", name) + _text("userProperties", value))
    body = b"".join(parts)
    return varint(len(body)) + body


def _seconds(value: int) -> bytes:
    if not 0 <= value <= 0xFFFFFFFF:
        raise ValueError(f"messageExpiryInterval: {value} is not from 0 to {0xFFFFFFFF} s")
    return value.to_bytes(4)


def _text(name: str, value: str) -> bytes:
    if found := _NOT_IN_TEXT.search(value):
        raise ValueError(f"{name}: a broker may take no text with {found[0]!r} (MQTT 5, 1.5.4)")
    return _sized(name, value.encode())


def _sized(name: str, value: bytes) -> bytes:
    if len(value) > 0xFFFF:
        raise ValueError(f"{name}: {len(value)} bytes, at most 65535 can be sent")
    return len(value).to_bytes(2) + value


_NOT_IN_TEXT = re.compile(
    "[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef"
    + "".join(chr(plane << 16 | last) for plane in range(17) for last in (0xFFFE, 0xFFFF))
    + "]"
)
"""Control characters, surrogates and what is no character: mosquitto closes the connection on them."""
