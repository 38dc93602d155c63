"""Work of a flow that some message may make endless: expressions and regular expressions, which need no right but to deploy.

It is ended by the same signal as the code of `python` nodes; Python's own regular expressions look for signals, too. But this
work is short and comes from anywhere, so the timer is not set for each piece: it is set when one begins and none runs, and
looks again while there is always one. That costs 0.3 µs a piece (a simple JSONata expression takes 12).

>>> Bounded("it", abs)(-1)
1
"""

from __future__ import annotations

import atexit
import signal
import time
from collections import deque
from collections.abc import Callable
from types import FrameType
from typing import Any, Generic, ParamSpec, TypeVar

from voltflow.nodelib.time_limit import AGAIN_S, REST, STRIKES, TimeIsUp, TimeLimit

LIMIT_S = 1.0

P = ParamSpec("P")
T = TypeVar("T")


class TooLongError(Exception):
    """Work was ended, or is not tried, because it takes too long."""


class Bounded(Generic[P, T]):
    """A function that raises TooLongError where it takes longer than a second; in threads other than the main one it has no
    limit. Three times within 30 times the limit, and it rests for as long. `what` it is, for people."""

    def __init__(self, what: str, work: Callable[P, T]) -> None:
        self._what, self._work = what, work
        self._late: deque[tuple[float, Any]] = deque(maxlen=STRIKES)
        """When it took too long, and for what."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        if self._late:
            self._look_back(args)
        _LIMIT.begin()
        try:
            return self._work(*args, **kwargs)
        except TimeIsUp:
            self._late.append((time.monotonic(), args))
            raise TooLongError(f"{self._what} took longer than {LIMIT_S:g} s and was ended") from None
        finally:
            _LIMIT._ends_s = None

    def _look_back(self, args: tuple[Any, ...]) -> None:
        """Not again for the same: the engine tries a batch in parts to find the messages that are at fault."""
        rest_s = REST * LIMIT_S
        while self._late and time.monotonic() - self._late[0][0] > rest_s:
            self._late.popleft()
        if len(self._late) == STRIKES:
            raise TooLongError(
                f"{self._what} rests, because it took longer than {LIMIT_S:g} s again and again"
            )
        if any(_same(args, of) for _, of in self._late):
            raise TooLongError(f"{self._what} took longer than {LIMIT_S:g} s for this message")


def _same(some: tuple[Any, ...], others: tuple[Any, ...]) -> bool:
    return all(
        one is other or (type(one) is str and one == other) for one, other in zip(some, others, strict=True)
    )


class _Standing(TimeLimit):
    """A limit whose timer runs as long as there is always work when it looks."""

    _runs = False
    _others_end_s = _others_interval_s = 0.0

    def begin(self) -> None:
        self._used_s = None
        self._ends_s = time.monotonic() + LIMIT_S
        if self._hurries or not self._runs:
            self._run()

    def _run(self) -> None:
        if self._runs:
            self._set()
        if TimeLimit._armed is not None or not self.works():
            return
        self._take_signal()
        TimeLimit._armed, self._runs = self, True
        left_s, self._others_interval_s = self._set()
        self._others_end_s = time.monotonic() + left_s if left_s else 0.0

    def rest(self) -> None:
        """Somebody else's timer goes on."""
        if self._runs:
            self._runs = self._hurries = False
            self._stop_timer()
            TimeLimit._armed = None
            self._give_signal_back()
            left_s = max(self._others_end_s - time.monotonic(), AGAIN_S) if self._others_end_s else 0.0
            signal.setitimer(signal.ITIMER_REAL, left_s, self._others_interval_s)

    def _look(self, frame: FrameType | None) -> None:
        if self._ends_s is not None:
            super()._look(frame)
        else:
            self.rest()

    def _is_at_work(self, frame: FrameType | None) -> bool:
        while frame is not None:
            caller = frame.f_back
            if caller is not None and caller.f_code is _CALL:
                return frame.f_code not in _OWN
            frame = caller
        return False


_LIMIT = _Standing(LIMIT_S, ())
_CALL = Bounded.__call__.__code__
_OWN = frozenset({Bounded._look_back.__code__, _Standing.begin.__code__})
"""What is called beside the work."""
atexit.register(_LIMIT.rest)  # the signal would end the process once Python no longer takes it
