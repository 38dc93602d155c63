"""`msg.parts`: which place a message has in its sequence (id, index, count).

>>> parts_of(with_parts(Msg("t", 1), id="a", index=0))
{'id': 'a', 'index': 0}
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from voltflow.message import Msg


def parts_of(msg: Msg) -> Mapping[str, Any]:
    """Empty where the message is not part of a sequence."""
    parts = (msg.props or {}).get("parts")
    return parts if isinstance(parts, Mapping) else {}


def with_parts(msg: Msg, **changes: Any) -> Msg:
    """The message with some of its parts set."""
    return msg.derive(props={**(msg.props or {}), "parts": {**parts_of(msg), **changes}})
