"""What the long-running programs share: logging, the end by signal, a flow's variables from settings."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import signal
from collections.abc import Mapping

import msgspec

from voltflow import logs
from voltflow.flow.environment import Hidden
from voltflow.log_levels import LogLevels
from voltflow.logs import LogSettings, parse_levels
from voltflow.setting import SettingsError, settings_of


def set_up_logging(settings: LogSettings) -> LogLevels:
    """Log as the settings say; what comes back changes the levels while the program runs. Raises SettingsError."""
    try:
        by_logger = parse_levels(settings.log_levels)
    except ValueError as error:
        raise SettingsError(str(error)) from None
    logs.set_up(settings.log_format)
    return LogLevels(settings.log_level, by_logger)


M_MMAP_THRESHOLD = -3  # malloc.h of glibc
LARGE_BUFFER_BYTES = 128 * 1024


def give_large_buffers_back() -> None:
    """Have the C library return large buffers to the system when they are freed, for good.

    glibc raises the size that counts as large after the first one, and what the drain of a spool needed for a while would
    stay with the program. Other C libraries do it by themselves or do not know the call.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, LARGE_BUFFER_BYTES)


def stop_on_signals() -> asyncio.Event:
    """An event that SIGTERM or SIGINT sets; a second signal ends the program at once."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal(number: signal.Signals) -> None:
        logging.getLogger(__name__).info("%s: stopping", number.name)
        stop.set()
        loop.remove_signal_handler(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    return stop


def flow_variables(
    section: str, settings: msgspec.Struct, extra: Mapping[str, str] | None = None
) -> dict[str, str]:
    """What `${VOLTFLOW_<SECTION>_<NAME>}` in a flow stands for: each setting as text, a secret one hidden, then `extra` by its
    short name.

    >>> class S(msgspec.Struct):
    ...     port: int = 1
    >>> flow_variables("agent", S(), {"state_topic": "gw"})
    {'VOLTFLOW_AGENT_PORT': '1', 'VOLTFLOW_AGENT_STATE_TOPIC': 'gw'}
    """
    secret = {item.name for item in settings_of(type(settings)) if item.secret}
    values = {
        name: Hidden(_text(value)) if name in secret else _text(value)
        for name, value in msgspec.structs.asdict(settings).items()
    }
    values |= extra or {}
    return {f"VOLTFLOW_{section.upper()}_{name.upper()}": value for name, value in values.items()}


def _text(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return ",".join(map(str, value))
    return "" if value is None else str(value)
