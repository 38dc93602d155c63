"""The message that flows: topic, payload, key, time, properties."""

from __future__ import annotations

import itertools
import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec


class Key(NamedTuple):
    """What makes a message unique: `seq` counts up from 0 within one `boot` of one `pack`."""

    pack: str
    boot: int
    seq: int


class Msg(msgspec.Struct, gc=False):
    """One message on its way through a flow.

    `payload` is bytes as a source read it, or whatever a node made of it; it is never changed in place, so a
    fan-out needs no copy: a node that changes something calls `derive`. `origin` is the message as the source
    received it, kept so that a dead letter can carry the original topic and bytes.

    >>> raw = Msg("ev/v1/f/p/telemetry", b"{}")
    >>> raw.derive(payload={}).origin is raw
    True
    """

    topic: str
    payload: Any
    key: Key | None = None
    received_ms: int = 0
    props: Mapping[str, Any] | None = None
    origin: Msg | None = None
    number: int = 0
    """Set by `message_id`, at the origin."""

    def derive(
        self,
        *,
        topic: str | None = None,
        payload: Any = ...,
        key: Key | None = None,
        props: Any = ...,
    ) -> Msg:
        """A new message made from this one; what is not given stays, the origin is remembered."""
        return Msg(
            self.topic if topic is None else topic,
            self.payload if payload is ... else payload,
            self.key if key is None else key,
            self.received_ms,
            self.props if props is ... else props,
            self.origin or self,
        )


def share_props(msgs: Sequence[Msg]) -> bool:
    """Whether all have the very same properties, as what a source gives mostly has: then looking at one is enough."""
    props = msgs[0].props if msgs else None
    return not [msg for msg in msgs if msg.props is not props]


_numbers = itertools.count(1)
_run = secrets.token_hex(4)


def message_id(msg: Msg) -> str:
    """16 hex digits that stay with a message and all that is made from it: Node-RED's `_msgid`.

    Made when somebody asks, for most messages never are. One that a flow has set stands in the properties.

    >>> msg = Msg("t", 1)
    >>> message_id(msg) == message_id(msg.derive(payload=2)), message_id(msg) == message_id(Msg("t", 1))
    (True, False)
    """
    given = msg.props and msg.props.get("_msgid")
    if isinstance(given, str):
        return given
    root = msg.origin or msg
    if not root.number:
        root.number = next(_numbers)
    return f"{_run}{root.number & 0xFFFFFFFF:08x}"


def now_ms() -> int:
    """The gateway's wall clock, milliseconds since 1970."""
    return time.time_ns() // 1_000_000


_encoder = msgspec.json.Encoder()


def encode_payload(payload: Any) -> bytes:
    """The bytes a network sink sends for a payload: bytes as they are, text as UTF-8, anything else as JSON.

    A payload with a method `wire` is asked for what it looks like outside.
    """
    if isinstance(payload, bytes):
        return payload
    if isinstance(payload, str):
        return payload.encode()
    wire = getattr(payload, "wire", None)
    return _encoder.encode(payload if wire is None else wire())
