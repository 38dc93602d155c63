"""A limit for code that runs in the event loop's thread and may not return: a person's Python in a flow.

Chosen of what was measured (CPython 3.11): a timer of the system whose signal raises TimeIsUp within the code, armed once for a
batch: 2 µs a batch and nothing a message but a look at the clock. A trace function made a loop 8 times slower, a check in each
round of each loop 5 times, and neither ends a call that waits; a second thread can only raise between two bytecodes, too,
needs the interpreter's lock for it and may come too late, into the engine. What nothing here can end is one call that runs
outside of Python without an end (`sum(itertools.count())`): the engine's watchdog names it.

Signals go to the main thread only, where the gateway's loop runs. In another one `arm` does nothing, and `works` says so.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import Any

MIN_LOOK_S = 0.01
WAITS = 5
"""For how many times its limit a piece of work may last that hardly uses the processor: on a machine that is busy with other
things, innocent work takes long, too. What does use it is ended a quarter after its limit."""
AGAIN_S = 0.001
STRIKES = 3
"""How often work may take too long before it rests."""
REST = 30
"""For how many times its limit; so work that never ends holds up the flow for a tenth of the time at most."""


class TimeIsUp(BaseException):
    """Not an Exception, so that the code that is to end does not take it for an error of its own."""


class TimeLimit:
    """Use: `with limit.armed():`, and in it `limit.begin()` before each piece of work and `limit.end()` after it."""

    _users = 0
    _before: Any = None
    _armed: TimeLimit | None = None

    def __init__(self, limit_s: float, files: Iterable[str]) -> None:
        """`files` are the names that the limited code was compiled with: nothing is raised elsewhere."""
        self.limit_s, self._files = limit_s, frozenset(files)
        self._ends_s: float | None = None
        self._used_s: float | None = None
        """Of the processor, when the time was found to be over."""
        self._hurries = False

    @staticmethod
    def works() -> bool:
        """Whether it holds in this thread."""
        return threading.current_thread() is threading.main_thread()

    @classmethod
    def open(cls) -> None:
        """Take the signal over, until `close` was called as often; also from somebody who took it since the last time."""
        TimeLimit._users += 1
        cls._take_signal()

    @classmethod
    def close(cls) -> None:
        TimeLimit._users -= 1
        cls._give_signal_back()

    @staticmethod
    def _take_signal() -> None:
        if TimeLimit.works() and signal.getsignal(signal.SIGALRM) is not _on_alarm:
            TimeLimit._before = signal.signal(signal.SIGALRM, _on_alarm)

    @staticmethod
    def _give_signal_back() -> None:
        """Where nobody needs it any more."""
        idle = not TimeLimit._users and TimeLimit._armed is None
        if idle and TimeLimit.works() and signal.getsignal(signal.SIGALRM) is _on_alarm:
            signal.signal(signal.SIGALRM, TimeLimit._before or signal.SIG_DFL)

    @contextlib.contextmanager
    def armed(self) -> Iterator[None]:
        """Somebody else's timer goes on after it."""
        if not self.works():
            yield
            return
        TimeLimit._armed, outer = self, TimeLimit._armed
        began_s = time.monotonic()
        others = self._set()
        try:
            yield
        finally:
            self._ends_s = None
            self._stop_timer()
            TimeLimit._armed = outer
            left_s = max(others[0] - (time.monotonic() - began_s), AGAIN_S) if others[0] else 0.0
            signal.setitimer(signal.ITIMER_REAL, left_s, others[1])

    def begin(self) -> None:
        """The time runs from now on."""
        self._used_s = None
        if self._hurries:
            self._set()
        self._ends_s = time.monotonic() + self.limit_s

    def end(self) -> None:
        """What comes now is not limited."""
        self._ends_s = None

    def _set(self) -> tuple[float, float]:
        self._hurries = False
        return signal.setitimer(signal.ITIMER_REAL, self.limit_s, max(self.limit_s / 4, MIN_LOOK_S))

    @staticmethod
    def _stop_timer() -> None:
        """Python hears a signal that has just come right after this call: while the limit it was for is still armed, so that
        nobody else takes it for theirs."""
        signal.setitimer(signal.ITIMER_REAL, 0.0)

    def _look(self, frame: FrameType | None) -> None:
        if self._ends_s is None or (over_s := time.monotonic() - self._ends_s) < 0:
            return
        if not self._is_at_work(frame):
            return  # it has just returned, or was ended a moment ago
        used_s = time.thread_time()
        if self._used_s is None:
            self._used_s = used_s
        elif used_s - self._used_s >= self.limit_s / 8 or over_s >= (WAITS - 1) * self.limit_s:
            # soon once more: code that catches everything may have caught this one
            self._hurries = True
            signal.setitimer(signal.ITIMER_REAL, AGAIN_S, AGAIN_S)
            raise TimeIsUp

    def _is_at_work(self, frame: FrameType | None) -> bool:
        """Whether the limited code runs, that is, one of these frames is of it."""
        while frame is not None and frame.f_code.co_filename not in self._files:
            frame = frame.f_back
        return frame is not None


def _on_alarm(number: int, frame: FrameType | None) -> None:
    limit = TimeLimit._armed
    if limit is not None:
        limit._look(frame)
    elif callable(TimeLimit._before):
        TimeLimit._before(number, frame)
