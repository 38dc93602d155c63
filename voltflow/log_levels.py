"""Log levels while a program runs: set for a time or for good, and back to what the settings say.

>>> root = logging.getLogger().level
>>> levels = LogLevels("warning", {})
>>> levels.set("error", {"voltflow.mqtt": "debug"})
>>> levels.now().level, levels.now().levels
('error', {'voltflow.mqtt': 'debug'})
>>> levels.reset()
>>> levels.now().level, logging.getLogger("voltflow.mqtt").level == logging.NOTSET
('warning', True)
>>> logging.getLogger().setLevel(root)
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping

import msgspec

from voltflow.logs import LEVELS, Level, LogSettings, parse_levels

log = logging.getLogger(__name__)

DEBUG_S = 600.0
"""How long SIGUSR1 has everything logged."""


class Now(msgspec.Struct):
    """What is logged now: the least `level`, and those of loggers that have one of their own. `configured` is what the
    settings say; `back_in_s` is when it will be that again, null where it stays."""

    level: Level
    levels: dict[str, Level]
    configured: dict[str, Level]
    back_in_s: float | None


class LogLevels:
    """The levels of this process. Every method may be called from any thread."""

    def __init__(self, level: Level, levels: Mapping[str, Level]) -> None:
        self._configured = (level, dict(levels))
        self._level, self._levels = self._configured
        self._before: dict[str, int] = {}
        self._timer: threading.Timer | None = None
        self._due_s = 0.0
        self._lock = threading.Lock()
        self._apply(level, levels)

    @classmethod
    def of_process(cls) -> LogLevels:
        """With what is logged now as what the settings say."""
        name = logging.getLevelName(logging.getLogger().level).lower()
        return cls(next((level for level in LEVELS if level == name), "warning"), {})

    def set(self, level: Level | None, levels: Mapping[str, Level], for_s: float | None = None) -> None:
        """The root's level (None: as it is) and those of the loggers named; the others with one of their own lose it.
        After `for_s` seconds it is again as the settings say."""
        with self._lock:
            self._cancel()
            self._apply(level or self._level, levels)
            if for_s is not None:
                self._timer = threading.Timer(for_s, self._time_is_up)
                self._timer.daemon = True
                self._due_s = time.monotonic() + for_s
                self._timer.start()
        self._say("" if for_s is None else f" for {for_s:g} s")

    def reset(self) -> None:
        """As the settings say."""
        with self._lock:
            self._cancel()
            self._apply(*self._configured)
        self._say(" again")

    def configure(self, level: Level, levels: Mapping[str, Level]) -> None:
        """The settings say something else now."""
        with self._lock:
            self._configured = (level, dict(levels))
        self.reset()

    def now(self) -> Now:
        with self._lock:
            back_in_s = None if self._timer is None else max(0.0, round(self._due_s - time.monotonic(), 1))
            level, levels = self._configured
            return Now(self._level, dict(self._levels), {"": level, **levels}, back_in_s)

    def _time_is_up(self) -> None:
        with self._lock:
            if self._timer is not threading.current_thread():
                return  # somebody has set something else in this moment
        self.reset()

    def _cancel(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    def _apply(self, level: Level, levels: Mapping[str, Level]) -> None:
        for name in self._levels.keys() - levels.keys():
            logging.getLogger(name).setLevel(self._before.pop(name, logging.NOTSET))
        logging.getLogger().setLevel(level.upper())
        for name, own in levels.items():
            self._before.setdefault(name, logging.getLogger(name).level)
            logging.getLogger(name).setLevel(own.upper())
        self._level, self._levels = level, dict(levels)

    def _say(self, how_long: str) -> None:
        """At a level that is logged, whatever it is: who reads the log wonders where the lines come from, or went."""
        text = ", ".join([self._level, *(f"{name}={level}" for name, level in self._levels.items())])
        log.log(max(log.getEffectiveLevel(), logging.INFO), "log level is %s%s", text, how_long)

    def follow_signals(self, reread: Callable[[], LogSettings]) -> None:
        """In the running event loop: SIGHUP reads `log_level` and `log_levels` of the settings again, SIGUSR1 logs everything
        for ten minutes.

        At a terminal SIGHUP goes on meaning that the terminal is gone, and where it is ignored (nohup) it stays so.
        """

        def on_hup() -> None:
            try:
                settings = reread()
                self.configure(settings.log_level, parse_levels(settings.log_levels))
            except (OSError, ValueError) as error:
                log.error("SIGHUP: the log levels stay as they are: %s", error)  # noqa: TRY400 - the message says it all

        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGUSR1, lambda: self.set("debug", {}, DEBUG_S))
        if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL and not _at_terminal():
            loop.add_signal_handler(signal.SIGHUP, on_hup)


def _at_terminal() -> bool:
    """Whether the program was started at one; standard input may also be closed."""
    return sys.stdin is not None and not sys.stdin.closed and sys.stdin.isatty()
