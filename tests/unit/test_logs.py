"""Log lines as text and JSON, the ids in them, and levels that go back by themselves."""

import io
import json
import logging
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.gateway import Gateway, request, running
from tests.servers import wait_until
from voltflow import logs
from voltflow.log_levels import LogLevels
from voltflow.message import Key, Msg

log = logging.getLogger("voltflow.test_logs")


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    """What is logged as JSON, at debug, in this process; not at the root, whose handlers a program replaces as it starts."""
    handler = logging.StreamHandler(io.StringIO())
    handler.setFormatter(logs.JsonLines())
    loggers = [logging.getLogger(name) for name in ("voltflow", "edge")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.DEBUG)
    yield handler.stream
    for logger, level in zip(loggers, before, strict=True):
        logger.removeHandler(handler)
        logger.setLevel(level)


def parsed(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_json_line_has_the_messages_ids_and_its_traceback(lines: io.StringIO) -> None:
    msg = Msg("ev/v1/f/p/telemetry", b"{}").derive(topic="elsewhere", key=Key("p", 3, 7))
    try:
        int("two\nlines")
    except ValueError:
        log.exception("failed with %s", "é", extra=logs.about(msg))
    (line,) = parsed(lines)
    assert {name: line[name] for name in ("level", "logger", "message", "pack", "boot", "seq", "topic")} == {
        "level": "error", "logger": "voltflow.test_logs", "message": "failed with é", "pack": "p", "boot": 3, "seq": 7,
        "topic": "ev/v1/f/p/telemetry",
    }  # fmt: skip
    assert "\nValueError: invalid literal" in str(line["exception"])
    assert "request_id" not in line


def test_text_line_shows_the_ids_at_its_end() -> None:
    record = logging.makeLogRecord(
        {"name": "a.b", "levelname": "INFO", "msg": "x", "created": 0.5, "pack": "p", "seq": 7}
    )
    assert logs.TextLines().format(record) == "1970-01-01T00:00:00.500Z INFO    a.b: x [pack=p seq=7]"


FORGED = "2026-03-01T12:00:00.000Z ERROR   edge: forged"


def test_text_lines_cannot_be_forged() -> None:
    """Not by a message, a topic, what an error says, or letters that only some programs take for the end of a line."""
    topic = f"ev/v1/f/p\r\n{FORGED}"
    try:
        int(f"x\u2028\n{FORGED}\x1b[2J")
    except ValueError as error:
        record = logging.LogRecord(
            "a.b", logging.INFO, __file__, 1, "took %s", (f"\x85\x0b{FORGED}",), (type(error), error, None)
        )
    vars(record).update(logs.about(Msg(topic, b"")), sinfo=None)
    first, *more = logs.TextLines().format(record).splitlines()
    assert first.endswith(rf"a.b: took \x85\x0b{FORGED} [topic=ev/v1/f/p\r\n{FORGED} sinfo=None]")
    assert more
    assert all(line.startswith("  ") and line.isprintable() for line in more)


def test_a_requests_path_is_in_one_line(tmp_path: Path) -> None:
    """It is logged decoded, and before anybody is asked for a token."""
    handler, access = logging.StreamHandler(io.StringIO()), logging.getLogger("edge.access")
    handler.setFormatter(logs.TextLines())
    access.addHandler(handler)
    before = access.level
    access.setLevel(logging.DEBUG)
    try:
        with running(Gateway(tmp_path).state, token="0123456789abcdef") as server:
            assert request(server, "/a%0A" + FORGED.replace(" ", "%20")).status == 401
    finally:
        access.removeHandler(handler)
        access.setLevel(before)
    (line,) = handler.stream.getvalue().splitlines()
    assert rf"GET /a\n{FORGED} 401" in line


def test_failing_request_is_found_by_the_id_in_its_answer(
    tmp_path: Path, lines: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = Gateway(tmp_path)
    monkeypatch.setattr(gateway.state.roster, "ranked", lambda: 1 / 0)
    with running(gateway.state) as server:
        answer = request(server, "/api/packs", **{"X-Request-ID": "ticket-4711"})
        other = request(server, "/api/flow", **{"X-Request-ID": "two\x09ids"})
    assert answer.status == 500
    assert answer.headers["x-request-id"] == "ticket-4711"
    assert len(other.headers["x-request-id"]) == 16
    found = [line for line in parsed(lines) if line.get("request_id") == "ticket-4711"]
    assert any("ZeroDivisionError" in str(line.get("exception")) for line in found)
    assert [
        (line["level"], str(line["message"]).split(" in ")[0])
        for line in found
        if line["logger"] == "edge.access"
    ] == [("warning", "GET /api/packs 500")]
    assert [
        line["level"] for line in parsed(lines) if line.get("request_id") == other.headers["x-request-id"]
    ] == ["debug"]


def test_refused_request_has_an_id_too(tmp_path: Path) -> None:
    with running(Gateway(tmp_path).state, token="0123456789abcdef") as server:
        answer = request(server, "/api/packs")
    assert answer.status == 401
    assert len(answer.headers["x-request-id"]) == 16


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        ("[]", "application/json"),
        ('{"level": "loud"}', "application/json"),
        ('{"levels": {"a b": "info"}}', "application/json"),
        ('{"for_s": 0}', "application/json"),
        ("{}", "text/plain"),
        (f'{{"levels": {{"{"a" * 20_000}": "info"}}}}', "application/json"),
    ],
)
def test_log_change_that_cannot_be_is_refused_and_changes_nothing(
    tmp_path: Path, body: str, content_type: str
) -> None:
    gateway = Gateway(tmp_path)
    before = gateway.state.log_levels.now()
    with running(gateway.state) as server:
        answer = request(server, "/api/log", "PUT", body, **{"Content-Type": content_type})
    assert (answer.status, answer.json()["error"]["code"]) == (400, "bad_body")
    assert gateway.state.log_levels.now() == before


def test_only_loggers_that_are_there_can_be_named(tmp_path: Path) -> None:
    """Every other name would be kept until the gateway ends."""
    gateway, json_body = Gateway(tmp_path), {"Content-Type": "application/json"}
    before = gateway.state.log_levels.now()
    with running(gateway.state) as server:
        body = '{"levels": {"voltflow.test_logs": "debug", "voltflow.test_lags": "debug"}}'
        refused = request(server, "/api/log", "PUT", body, **json_body)
        assert gateway.state.log_levels.now() == before
        taken = request(
            server, "/api/log", "PUT", '{"levels": {"voltflow.test_logs": "warning"}}', **json_body
        )
        request(server, "/api/log", "PUT", "{}", **json_body)
    assert refused.status == 404
    assert (
        "no logger voltflow.test_lags; did you mean voltflow.test_logs?" in refused.json()["error"]["message"]
    )
    assert "voltflow.test_lags" not in logging.root.manager.loggerDict
    assert taken.status == 200


@pytest.fixture
def levels() -> Iterator[LogLevels]:
    found = LogLevels.of_process()
    yield found
    found.reset()


def test_levels_go_back_by_themselves_to_what_they_were(levels: LogLevels) -> None:
    noisy = logging.getLogger("kafka.test_logs")
    noisy.setLevel(logging.CRITICAL)
    configured = levels.now().level
    levels.set("debug", {"kafka.test_logs": "info"}, for_s=0.05)
    assert (logging.getLogger().level, noisy.level) == (logging.DEBUG, logging.INFO)
    wait_until(lambda: levels.now().back_in_s is None, "the levels to go back", 30)
    wait_until(lambda: levels.now().level == configured, "the levels to go back", 30)
    assert noisy.level == logging.CRITICAL


def test_a_later_change_stays_when_the_time_of_an_earlier_one_is_up(levels: LogLevels) -> None:
    levels.set("debug", {}, for_s=0.05)
    first = levels._timer
    assert isinstance(first, threading.Timer)
    levels.set("error", {})
    first.join(30)
    levels._time_is_up()  # it may have been about to when it was called off
    assert levels.now().level == "error"


def test_log_levels_setting_names_what_is_wrong() -> None:
    with pytest.raises(ValueError, match=r"'voltflow\.mqtt=loud' is not allowed"):
        logs.parse_levels(["voltflow.mqtt=loud"])
