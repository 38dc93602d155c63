"""The time that is in messages, for nodes that go by it, and what tells the messages apart.

A node that goes by event time believes the newest one it has seen: what is much older is late. A device whose clock is far in
the future would so make everything late that comes after it, so a message from further ahead than `ahead` is put aside.
"""

from __future__ import annotations

from typing import Any, Literal

from voltflow.flow.properties import get
from voltflow.message import Msg
from voltflow.nodelib.aggregate import is_number

AHEAD_S = 3600.0
"""More than clocks that somebody sets are wrong."""
AHEAD_HELP = "a message whose time is further ahead of its receiving is put aside; 0: no limit, as for a simulated time"


def time_of(msg: Msg, path: str) -> int:
    """Milliseconds since 1970; raises ValueError."""
    value = get(msg, path)
    if not is_number(value) or isinstance(value, bool):
        raise ValueError(f"{path} is {value!r:.100}, expected are milliseconds since 1970")
    return int(value)


def key_of(msg: Msg, path: str) -> str | int | float:
    """What tells messages apart, empty without a path; raises TypeError."""
    key: Any = get(msg, path) if path else ""
    if not isinstance(key, str | int | float):
        raise TypeError(f"{path} is {key!r:.100}, expected is a text or a number to tell messages apart")
    return key


def is_ahead(at_ms: int, msg: Msg, ahead_s: float) -> bool:
    """Whether a message comes from too far in the future. When the gateway did not know the time, nobody can tell."""
    return bool(ahead_s and msg.received_ms) and at_ms > msg.received_ms + ahead_s * 1000


def aside(msg: Msg, why: Literal["late", "future"]) -> Msg:
    """The message with the reason for which it was put aside, in `msg.late`."""
    return msg.derive(props={**(msg.props or {}), "late": why})
