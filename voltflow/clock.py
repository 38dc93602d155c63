"""The time at which messages are received: a wall clock that never jumps because the system's does.

A gateway may start in 1970 (no clock of its own), with the time of its last shutdown, or have its clock set while it
runs. Receive time is therefore the wall clock as it was when it could be believed, plus what a clock that only counts has
counted since. A jump of the wall clock is taken over only when somebody else agrees with it: the kernel (synchronised by
NTP) or the devices. What cannot be known is 0, which becomes null in what the gateway publishes.

>>> receive_clock.now_ms() > RELEASED_MS, receive_clock.status().state
(True, 'ok')
"""

from __future__ import annotations

import ctypes
import logging
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple

from voltflow.skew import DeviceClocks

log = logging.getLogger(__name__)

RELEASED_MS = 1_735_689_600_000
"""2025-01-01: no time before this software existed is right."""
STEP_S = 5.0
"""A difference up to this is followed (NTP slews and small corrections), a larger one is a step."""
PATIENCE_S = 600.0
"""How long a step nobody has anything to say about is doubted, and a start without synchronisation."""
STALE_S = 300.0
"""Devices so far ahead of a clock that was not synchronised since the start: it is the time of an earlier shutdown."""
CHECK_S = 1.0

_NS = 1_000_000_000
_STA_UNSYNC = 0x40  # linux/timex.h

State = Literal["ok", "unknown", "suspect"]


class ClockStatus(NamedTuple):
    """`ok`; `unknown`: receive times are 0; `suspect`: the old time goes on beside a wall clock that has jumped."""

    state: State
    reason: str
    steps: int


class _Timex(ctypes.Structure):
    """The beginning of `struct timex` (adjtimex(2)); the rest is room."""

    _fields_ = (
        ("modes", ctypes.c_uint), ("offset", ctypes.c_long), ("freq", ctypes.c_long), ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long), ("status", ctypes.c_int), ("room", ctypes.c_byte * 512),
    )  # fmt: skip


def kernel_synchronised() -> bool | None:
    """Whether the kernel's clock is synchronised; None where it does not tell. A clock set by hand is not."""
    try:
        timex = _Timex()
        answer = ctypes.CDLL(None).adjtimex(ctypes.byref(timex))
    except (OSError, AttributeError):
        return None
    return None if answer < 0 else not timex.status & _STA_UNSYNC


counted_ns = partial(time.clock_gettime_ns, getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
"""A clock that nobody sets and that goes on while the machine sleeps."""


class Clock:
    """The receive time of one process. `devices` learns how the devices' clocks stand; the other arguments are the
    system's clocks."""

    def __init__(
        self,
        *,
        wall_ns: Callable[[], int] = time.time_ns,
        counted_ns: Callable[[], int] = counted_ns,
        synchronised: Callable[[], bool | None] = kernel_synchronised,
    ) -> None:
        self.devices = DeviceClocks()
        self._wall_ns, self._counted_ns, self._synchronised = wall_ns, counted_ns, synchronised
        self._lock = threading.Lock()
        self._state: State = "unknown"
        self._reason = ""
        self._steps = 0
        self._known = False
        """Whether `now_ms` answers."""
        self._offset_ns = 0
        """Believed wall clock minus counted time."""
        self._jumped_ns = 0
        """Wall clock minus counted time while that is not believed."""
        self._anchored = False
        self._since_ns = self._started_ns = self._next_check_ns = counted_ns()
        self._vouched = False
        """Whether the time need not be doubted any more although it may come from an earlier shutdown."""

    def now_ms(self) -> int:
        """Milliseconds since 1970, or 0 while that is unknown."""
        counted = self._counted_ns()
        if counted >= self._next_check_ns:
            self._check()
        return (counted + self._offset_ns) // 1_000_000 if self._known else 0

    def now_s(self) -> float:
        """For the age of what was received: the receive time, or while that is unknown the wall clock; seconds."""
        return (self.now_ms() or self._wall_ns() // 1_000_000) / 1000

    def observe(
        self, device: int, device_ms: int, received_ms: int, *, is_wall: bool = False
    ) -> float | None:
        """Take a message that a device (any number that stands for it) has just sent, and is not sending again: how far
        the device's clock is ahead, ms; None while that is unknown. `is_wall`: the device says that it is wall time.
        """
        counted = self._counted_ns()
        if received_ms:
            return self.devices.observe(device, device_ms - received_ms, counted, is_wall=is_wall)
        if self._anchored:  # it may be doubted because of the devices, and they may agree with it later
            self.devices.observe(device, device_ms - self._believed_ms(counted), counted, is_wall=is_wall)
        return None

    def status(self) -> ClockStatus:
        """What is to be thought of the time now."""
        self._check()
        return ClockStatus(self._state, self._reason, self._steps)

    def _believed_ms(self, counted: int) -> int:
        return (counted + self._offset_ns) // 1_000_000

    # -- once a second ------------------------------------------------------------------------------------------

    def _check(self) -> None:
        """Look at the wall clock; the API's threads ask too."""
        with self._lock:
            counted = self._counted_ns()
            self._next_check_ns = counted + round(CHECK_S * _NS)
            wall = self._wall_ns()
            if wall < RELEASED_MS * 1_000_000:
                self._on_impossible(wall)
            elif not self._anchored:
                self._anchor(wall - counted, "")
            else:
                self._on_offset(wall - counted, counted)

    def _on_impossible(self, wall: int) -> None:
        shown = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(wall / _NS))
        if self._state != "unknown":
            self._doubt(
                -(2**62), f"the system's clock went back to {shown}, before this software was released"
            )
        else:
            self._say("unknown", f"the system's clock says {shown}, before this software was released")

    def _on_offset(self, offset_ns: int, counted: int) -> None:
        """`offset_ns` is what the wall clock says now, minus counted time."""
        if abs(offset_ns - self._offset_ns) <= STEP_S * _NS:
            self._offset_ns = offset_ns
            if self._state == "suspect":
                self._say("ok", "the system's clock is back")
            self._judge_start(counted)
        elif self._state == "unknown":
            self._anchor(offset_ns, "the system's clock was set")
        else:
            step_s = (offset_ns - self._offset_ns) / _NS
            self._doubt(
                offset_ns,
                f"the system's clock jumped by {step_s:+.0f} s: the old time goes on until that is confirmed",
            )
            if why := self._accepted(step_s, counted):
                self._anchor(offset_ns, why)

    def _doubt(self, offset_ns: int, reason: str) -> None:
        if self._state != "suspect" or abs(offset_ns - self._jumped_ns) > STEP_S * _NS:
            self._steps += 1
            self._since_ns = self._counted_ns()
            self._jumped_ns = offset_ns
            self._say("suspect", reason)

    def _accepted(self, step_s: float, counted: int) -> str:
        """Why the wall clock is right although it jumped; empty while that is not known."""
        agree = self.devices.agree(step_s * 1000.0, counted)
        synchronised = self._synchronised()
        late = counted - self._since_ns > PATIENCE_S * _NS
        if agree:
            return "the devices' clocks agree with it"
        if synchronised and (agree is None or late):
            return "the kernel says it is synchronised"
        return f"nothing spoke against it for {PATIENCE_S:.0f} s" if agree is None and late else ""

    def _judge_start(self, counted: int) -> None:
        """A clock that nobody has synchronised since the start may go on from an earlier shutdown."""
        if self._vouched:
            return
        if self._synchronised() or counted - self._started_ns > PATIENCE_S * _NS:
            self._vouched = True
        ahead_s = (self.devices.median_ms(counted) or 0.0) / 1000.0
        if not self._vouched and ahead_s > STALE_S:
            self._known = False
            self._say(
                "unknown",
                f"the system's clock is not synchronised, and the devices' are {ahead_s:.0f} s ahead of it",
            )
        elif self._state == "unknown":
            self._known = True
            self._say("ok", "the system's clock is believed")

    def _anchor(self, offset_ns: int, why: str) -> None:
        self._offset_ns, self._anchored, self._known = offset_ns, True, True
        self.devices.forget()
        self._say("ok", f"the system's clock is taken: {why}" if why else "")

    def _say(self, state: State, reason: str) -> None:
        """Logged when it becomes something else, and when a doubted clock jumps again."""
        if reason and (state != self._state or state == "suspect" or not self._reason):
            log.log(logging.INFO if state == "ok" else logging.WARNING, "clock %s: %s", state, reason)
        self._state, self._reason = state, "" if state == "ok" else reason


receive_clock = Clock()
"""The one of this process."""
