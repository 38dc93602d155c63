"""The `base64` node."""

from __future__ import annotations

import base64
import binascii
import re

from voltflow.flow.properties import UNDEFINED, get, plain, put
from voltflow.flow.typed import check
from voltflow.message import Msg
from voltflow.node import ConfigError, Transform, config, node
from voltflow.nodelib.loose import as_cell

_BASE64 = re.compile(r"[A-Za-z0-9+/=]*")


@node("base64", category="parser", color="#debd5c", icon="parser-base64.png")
class Base64(Transform):
    """Turn bytes into a Base64 text, or such a text into bytes.

    Without an action bytes become Base64, a Base64 text becomes bytes, and another text is encoded. `str` encodes anything; `b64`
    decodes to a text, whose letters that are no UTF-8 become �. What cannot be converted makes the message fail.
    """

    action: str = config(
        "",
        help="bytes to Base64 and back (empty), anything to Base64 (str), Base64 to a text (b64)",
        choices=("", "str", "b64"),
    )
    property: str = config("payload", help="the property that is converted", types=("msg",))

    def __post_init__(self) -> None:
        try:
            check(self.property, "msg")
        except ConfigError as error:
            raise ConfigError(f'property "property": {error}') from None

    def process(self, msgs: list[Msg]) -> list[Msg]:
        return [put(msg, self.property, self._converted(msg)) for msg in msgs]

    def _converted(self, msg: Msg) -> str | bytes:
        value = plain(get(msg, self.property))
        if value is UNDEFINED or (value is None and self.property == "payload"):
            raise TypeError(f"the message has no msg.{self.property}")
        if self.action == "str":
            return _encoded(value if isinstance(value, bytes) else as_cell(value).encode())
        if isinstance(value, bytes) and not self.action:
            return _encoded(value)
        if not isinstance(value, str):
            raise TypeError(f"msg.{self.property} is {type(value).__name__}, expected a text")
        decoded = _decoded(value)
        if self.action == "b64":
            if decoded is None:
                raise ValueError(f"msg.{self.property} is not Base64: {value!r:.80}")
            return decoded.decode(errors="replace")
        return _encoded(value.encode()) if decoded is None else decoded


def _encoded(value: bytes) -> str:
    return base64.b64encode(value).decode()


def _decoded(text: str) -> bytes | None:
    """None: it is not Base64."""
    text = re.sub(r"\s+", "", text)
    if len(text) % 4 or not _BASE64.fullmatch(text):
        return None
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        return None
