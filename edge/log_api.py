"""`/api/log`: what the gateway logs, and changing it while it runs."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Mapping
from typing import Annotated

import msgspec
from msgspec import Meta

from edge.queries import ApiError
from edge.state import AppState
from edge.writing import MAY_NOT, Change
from voltflow.log_levels import Now
from voltflow.logs import Level

PATH = "/api/log"
FAILURES = {**MAY_NOT, "404": "The gateway has no such logger"}
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
    """Log as the body says; raises ApiError for a logger that the gateway does not have."""
    for name in wanted.body.levels:
        _check(name)
    if wanted.body == LogChange():
        state.log_levels.reset()
    else:
        state.log_levels.set(wanted.body.level, wanted.body.levels, wanted.body.for_s)
    return read(state)


def _check(name: str) -> None:
    """A logger stays for ever once it is asked for, so only those that are there may be named."""
    known = [*logging.root.manager.loggerDict]
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]}?" if near else ", see the lines of its log"
        raise ApiError(404, "unknown_logger", f"the gateway has no logger {name}{hint}")
