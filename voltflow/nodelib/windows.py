"""Which windows of time are open, by key: for the `window` node."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Window:
    """An open one. A session's end is when it would be over; its messages may be in several groups of what is held."""

    start_ms: int
    end_ms: int
    groups: list[str]
    session: bool = False


@dataclass(slots=True)
class Track:
    """What is known of a key: the newest event time, when that came, up to where windows were closed."""

    key: Any
    newest_ms: float = -math.inf
    at_s: float = 0.0
    closed_ms: float = -math.inf
    windows: list[Window] = field(default_factory=list)

    def fixed(self, start_ms: int, end_ms: int, new_group: Callable[[], str]) -> Window:
        """The open window of this span, a new one where there is none."""
        for window in self.windows:
            if (window.start_ms, window.end_ms, window.session) == (start_ms, end_ms, False):
                return window
        self.windows.append(Window(start_ms, end_ms, [new_group()]))
        return self.windows[-1]

    def near(self, at_ms: int, gap_ms: int) -> list[Window]:
        """Open sessions that a time belongs to."""
        return [w for w in self.windows if w.session and w.start_ms < at_ms + gap_ms and at_ms < w.end_ms]

    def session(self, at_ms: int, gap_ms: int, new_group: Callable[[], str]) -> Window:
        """The session a time belongs to: an open one, what it joins to one, or a new one."""
        near = self.near(at_ms, gap_ms)
        if not near:
            self.windows.append(Window(at_ms, at_ms + gap_ms, [new_group()], session=True))
            return self.windows[-1]
        first, *others = near
        for other in others:
            first.groups += other.groups
            self.windows.remove(other)
        first.start_ms = min(at_ms, *(window.start_ms for window in near))
        first.end_ms = max(at_ms + gap_ms, *(window.end_ms for window in near))
        return first
