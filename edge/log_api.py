"""`/api/log`: what the gateway logs, and changing it while it runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import msgspec
from msgspec import Meta

from edge.state import AppState
from edge.writing import Change
from voltflow.log_levels import Now
from voltflow.logs import Level

PATH = "/api/log"
LoggerName = Annotated[str, Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_.]{0,99}$")]


class LogChange(msgspec.Struct, forbid_unknown_fields=True):
    """What is to be logged: the least `level` (null: as it is) and those of loggers that shall have one of their own; other
    loggers lose theirs. After `for_s` seconds it is again as the settings say; null: it stays until the gateway ends.
    An empty object takes it back to the settings at once."""

    level: Level | None = None
    levels: Annotated[dict[LoggerName, Level], Meta(max_length=50)] = {}
    for_s: Annotated[float, Meta(ge=1, le=86400)] | None = None


def read(state: AppState) -> Now:
    """What is logged now."""
    return state.log_levels.now()


def change(state: AppState, _: Mapping[str, str], wanted: Change) -> Now:
    """Log as the body says."""
    if wanted.body == LogChange():
        state.log_levels.reset()
    else:
        state.log_levels.set(wanted.body.level, wanted.body.levels, wanted.body.for_s)
    return read(state)
