"""Properties by which a message tells a node something, whatever else it is: `reset`, `flush`, `complete`, `rate`.

>>> msg = Msg("", None, props={"flush": 2})
>>> says(msg, "flush"), is_only(msg, "flush"), is_only(msg.derive(payload=1), "flush")
(True, True, False)
"""

from __future__ import annotations

import math
from typing import Any

from voltflow.flow.properties import UNDEFINED
from voltflow.message import Msg
from voltflow.nodelib.loose import leading_number


def says(msg: Msg, name: str) -> bool:
    """Whether a message has a property of its own; what it is does not matter."""
    return bool(msg.props) and name in (msg.props or ())


def number_of(msg: Msg, name: str) -> float | None:
    """The number in a property, None where there is none."""
    found = leading_number((msg.props or {}).get(name, UNDEFINED))
    return None if math.isnan(found) else found


def is_only(msg: Msg, *names: str) -> bool:
    """Whether a message is nothing but that: it has neither topic nor payload nor another property."""
    return msg.payload is None and not msg.topic and {"_msgid", *names}.issuperset(msg.props or ())


def without(msg: Msg, *names: str) -> Msg:
    """A message that no longer says that."""
    if not any(says(msg, name) for name in names):
        return msg
    props: dict[str, Any] = {name: value for name, value in (msg.props or {}).items() if name not in names}
    return msg.derive(props=props or None)
