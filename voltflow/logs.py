"""Log lines: as text for people or JSON for programs, both with the ids by which lines of one request or message are found.

Request ids come by themselves (`request_id` is set around each request); whoever logs about a message says so:

>>> from voltflow.message import Key, Msg
>>> about(Msg("ev/v1/f/p/telemetry", b"", Key("p", 1, 7)))
{'pack': 'p', 'boot': 1, 'seq': 7, 'topic': 'ev/v1/f/p/telemetry'}

    log.debug("%s failed on a message", label, exc_info=error, extra=about(msg))

On a path that messages take, ask `log.isEnabledFor` first: making the fields costs more than a line that is not logged.
"""

from __future__ import annotations

import datetime as dt
import logging
import re
import secrets
import sys
from contextvars import ContextVar
from typing import Annotated, Any, Literal, Protocol

import msgspec
from msgspec import Meta

from voltflow.message import Msg

Level = Literal["debug", "info", "warning", "error"]
LEVELS: tuple[Level, ...] = ("debug", "info", "warning", "error")

LogLevel = Annotated[Level, Meta(description="least level that is logged")]
LogLevels = Annotated[
    list[str],
    Meta(description="other levels for parts of the program, e.g. voltflow.mqtt=debug,uvicorn=error"),
]
LogFormat = Annotated[
    Literal["text", "json"], Meta(description="log lines as text for people, or as one JSON object each")
]


class LogSettings(Protocol):
    """The part of a program's settings that is about its log."""

    @property
    def log_level(self) -> Level: ...
    @property
    def log_levels(self) -> list[str]: ...
    @property
    def log_format(self) -> Literal["text", "json"]: ...


request_id: ContextVar[str] = ContextVar("request_id", default="")
"""Of the HTTP request that is being answered; empty where there is none."""

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
"""What is taken over from a client: it must not be able to write lines of its own into the log."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
"""What would begin a new line, steer a terminal or turn the order of letters round."""

_PLAIN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}
"""What every record has; all else was given as `extra`."""


def about(msg: Msg) -> dict[str, Any]:
    """The fields that tell which message a line speaks of: its topic as it came, and its key where it has one."""
    topic = (msg.origin or msg).topic
    if msg.key is None:
        return {"topic": topic} if topic else {}
    return {**msg.key._asdict(), "topic": topic}


def id_of_request(given: str) -> str:
    """The id a client sent (X-Request-ID), or a new one where it sent none that can be used.

    >>> id_of_request("abc-1"), len(id_of_request("two\\nlines"))
    ('abc-1', 16)
    """
    return given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(8)


def set_up(format: Literal["text", "json"]) -> None:
    """Log to standard error, where systemd and containers look for it."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if format == "json" else TextLines())
    logging.basicConfig(handlers=[handler], force=True)


def parse_levels(levels: list[str]) -> dict[str, Level]:
    """By logger, its level.

    >>> parse_levels(["voltflow.mqtt=debug"])
    {'voltflow.mqtt': 'debug'}
    """
    found: dict[str, Level] = {}
    for item in levels:
        name, _, level = item.partition("=")
        if not name or level not in LEVELS:
            raise ValueError(
                f"log_levels: {item!r} is not allowed, it must be LOGGER=LEVEL with a level of {', '.join(LEVELS)}"
            )
        found[name] = level
    return found


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    """What the line says beside its text."""
    fields = {name: value for name, value in vars(record).items() if name not in _PLAIN}
    if "request_id" not in fields and (current := request_id.get()):
        fields["request_id"] = current
    return fields


def _time(record: logging.LogRecord) -> str:
    """RFC 3339, in UTC: gateways and cloud are in several zones.

    >>> _time(logging.makeLogRecord({"created": 1.25}))
    '1970-01-01T00:00:01.250Z'
    """
    moment = dt.datetime.fromtimestamp(record.created, dt.UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}Z"


def _in_one_line(text: str) -> str:
    r"""Nobody whose words are logged can write lines of their own.

    >>> print(_in_one_line("GET /a\n2026-03-01T12:00:00.000Z ERROR edge: forged"))
    GET /a\n2026-03-01T12:00:00.000Z ERROR edge: forged
    """
    return _CONTROL.sub(lambda match: repr(match[0])[1:-1], text)


class TextLines(logging.Formatter):
    """`2026-03-01T12:00:00.000Z WARNING voltflow.mqtt: text [pack=p boot=1 seq=7]`; a traceback follows, indented."""

    def format(self, record: logging.LogRecord) -> str:
        fields = " ".join(f"{name}={value}" for name, value in _fields(record).items())
        line = f"{record.name}: {record.getMessage()}{f' [{fields}]' if fields else ''}"
        more = [f"  {_in_one_line(text)}" for text in _traceback(self, record).split("\n") if text]
        return "\n".join([f"{_time(record)} {record.levelname:7} {_in_one_line(line)}", *more])


class JsonLines(logging.Formatter):
    """One JSON object in each line: `ts`, `level`, `logger`, `message`, then the fields, and `exception` with a traceback."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "ts": _time(record), "level": record.levelname.lower(), "logger": record.name,
            "message": record.getMessage(),
        }  # fmt: skip
        line |= {name: value for name, value in _fields(record).items() if name not in line}
        if more := _traceback(self, record):
            line["exception"] = more
        return msgspec.json.encode(line, enc_hook=str).decode()


def _traceback(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    parts = [formatter.formatException(record.exc_info)] if record.exc_info else []
    parts += [formatter.formatStack(record.stack_info)] if record.stack_info else []
    return "\n".join(parts)
