"""Messages that belong together: `msg.parts`, and what stands between the parts of a text or of bytes.

>>> separator("\\\\r\\\\n", "str"), separator("[13, 10]", "bin")
('\\r\\n', b'\\r\\n')
>>> as_bytes("é"), as_bytes([1, 2])
(b'\\xc3\\xa9', b'\\x01\\x02')
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping
from typing import Any

from voltflow.flow.field import ConfigError
from voltflow.message import Msg

_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "e": "\x1b", "f": "\f", "0": "\0"}


def new_sequence() -> str:
    """A name for a sequence, as Node-RED's ids."""
    return secrets.token_hex(8)


def with_parts(msg: Msg, parts: Mapping[str, Any] | None, **others: Any) -> Msg:
    """A message that is part of a sequence, or no longer (None); `others` is what else `derive` is to change."""
    props = {name: value for name, value in (msg.props or {}).items() if name != "parts"}
    if parts is not None:
        props["parts"] = parts
    return msg.derive(props=props or None, **others)


def separator(value: Any, kind: str) -> str | bytes:
    """A text in which `\\n` and the like may stand (`str`), or the bytes of a JSON list (`bin`); raises ConfigError."""
    if kind == "str":
        return re.sub(r"\\([nrtef0])", lambda match: _ESCAPES[match[1]], str(value))
    try:
        return bytes(json.loads(value) if isinstance(value, str) else value)
    except (TypeError, ValueError):
        raise ConfigError(f"{str(value)[:80]!r} is not a JSON list of bytes (0 … 255)") from None


def as_bytes(value: Any) -> bytes:
    """A text, a list of numbers or bytes as bytes; raises TypeError or ValueError for anything else."""
    if isinstance(value, str):
        return value.encode()
    if not isinstance(value, bytes | bytearray | list | tuple):
        raise TypeError(
            f"a {type(value).__name__} cannot be part of a buffer, only bytes, text and lists of bytes"
        )
    return bytes(value)
