"""How an `mqtt out` node publishes a message: QoS, retain and properties, by the node and by the message."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

from voltflow.flow.properties import UNDEFINED
from voltflow.mqtt.codec import NO_PROPERTIES
from voltflow.mqtt.properties import PROPERTIES, encode_properties
from voltflow.nodelib.loose import as_text, json_text

_INTEGER = re.compile(r"\s*([+-]?\d+)", re.ASCII)

Props = Mapping[str, Any] | None


class How(NamedTuple):
    """What is said to the broker of a message, beside topic and payload."""

    qos: int = 1
    retain: bool = False
    properties: bytes = NO_PROPERTIES


HowOf = Callable[[Props], How]
"""How a message with such properties is published; raises ValueError where it cannot be."""


def by_message(own: Mapping[str, Any], *, qos: int | None = None, retain: bool | None = None) -> HowOf:
    """As the node's `own` properties say, and the message's where the node has none; None: as the message says.

    What a message says of QoS counts where it is 1 or 2: one that came at QoS 0 would be lost while the broker is away.
    Raises ValueError where the node's own properties cannot be sent.
    """
    plain = How(1 if qos is None else qos, bool(retain), encode_properties(own))
    names = PROPERTIES - own.keys()
    heeded = names | {name for name, fixed in (("qos", qos), ("retain", retain)) if fixed is None}

    def how_of(props: Props) -> How:
        if not props or heeded.isdisjoint(props):
            return plain
        said_qos = plain.qos if qos is not None else _qos(props.get("qos"))
        said_retain = plain.retain if retain is not None else is_true(props.get("retain"))
        if names.isdisjoint(props):
            return How(said_qos, said_retain, plain.properties)
        return How(said_qos, said_retain, encode_properties({**properties_of(props), **own}))

    return how_of


def is_true(value: Any) -> bool:
    """Whether a message or a node that says this wants something to be so."""
    return value is True or value == "true"


def _qos(said: Any) -> int:
    return 2 if _integer(said) == 2 else 1


def properties_of(props: Mapping[str, Any]) -> dict[str, Any]:
    """What of a message is sent as properties, as Node-RED takes it: what makes no sense is not there. Raises ValueError.

    >>> properties_of(
    ...     {"contentType": 7, "messageExpiryInterval": "60 s", "userProperties": {"a": 1, "b": None}}
    ... )
    {'messageExpiryInterval': 60, 'userProperties': {'a': '1'}}
    """
    found: dict[str, Any] = {}
    for name in ("responseTopic", "contentType"):
        if isinstance(value := props.get(name), str) and value:
            found[name] = value
    if data := props.get("correlationData"):
        found["correlationData"] = _bytes(data)
    if (seconds := _integer(props.get("messageExpiryInterval"))) is not None and seconds >= 0:
        found["messageExpiryInterval"] = seconds
    is_text = props.get("payloadFormatIndicator")
    if isinstance(is_text, bool) or is_text in ("true", "false"):
        found["payloadFormatIndicator"] = is_true(is_text)
    pairs = props.get("userProperties")
    if isinstance(pairs, Mapping) and (texts := _texts(pairs)):
        found["userProperties"] = texts
    return found


def _integer(value: Any) -> int | None:
    """What a text begins with (`parseInt`)."""
    found = None if value is None or value is UNDEFINED else _INTEGER.match(as_text(value))
    return int(found[1]) if found else None


def _bytes(value: Any) -> bytes:
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, bytes | bytearray):
        return bytes(value)
    if isinstance(value, list) and all(isinstance(item, int) for item in value):
        return bytes(item & 0xFF for item in value)
    raise ValueError(f"correlationData: a {type(value).__name__} is neither bytes nor text")


def _texts(pairs: Mapping[Any, Any]) -> dict[str, str]:
    """Texts as they are, other values as JSON."""
    found = {}
    for name, value in pairs.items():
        if value is not None and value is not UNDEFINED:
            with suppress(TypeError):  # JSON cannot say it
                found[as_text(name)] = value if isinstance(value, str) else json_text(value)
    return found
