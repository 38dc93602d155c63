"""What the log says of a connection: the first end at once, a flapping one a line a minute, one that is away once."""

from __future__ import annotations

import logging

import pytest

from voltflow.mqtt.report import Report


class Clock:
    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock(caplog: pytest.LogCaptureFixture) -> Clock:
    caplog.set_level(logging.INFO, "voltflow.mqtt")
    return Clock()


def flap(report: Report, clock: Clock, times: int, every_s: float, *, refused: bool = False) -> None:
    for _ in range(times):
        report.lost("closed by the broker")
        if refused:
            report.failed("refused")
        clock.now_s += every_s
        report.connected("5")


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage().removeprefix("b: ") for record in caplog.records]


@pytest.mark.parametrize("refused", [False, True])
def test_flapping_connection_is_said_once_and_then_once_a_minute_with_the_count(
    clock: Clock, caplog: pytest.LogCaptureFixture, refused: bool
) -> None:
    report = Report("b", "host:1", clock)
    report.connected("5")
    flap(report, clock, 60, 5.0, refused=refused)
    lines = said(caplog)
    assert lines[:2] == ["connected to host:1 (MQTT 5)", "connection to host:1 lost: closed by the broker"]
    counted = lines[-4:]
    attempts = " after 1 failed attempt(s)" if refused else ""
    assert counted == [f"connected to host:1 (MQTT 5){attempts}; it was lost 12 more time(s) in 60 s"] * 4
    assert len(lines) == (9 if refused else 8)


def test_end_that_is_not_a_flap_is_said_at_once_however_long_the_link_lives(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    report = Report("b", "host:1", clock)
    report.connected("5")
    flap(report, clock, 3, 5.0)
    caplog.clear()
    clock.now_s += 600
    report.lost("closed by the broker")
    report.failed("refused")
    report.failed("refused")
    report.connected("5")
    assert said(caplog) == [
        "connection to host:1 lost: closed by the broker",
        "cannot connect to host:1, trying again: refused",
        "connected to host:1 (MQTT 5) after 2 failed attempt(s)",
    ]


def test_flapping_that_ends_in_an_outage_says_that_it_is_away(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    report = Report("b", "host:1", clock)
    report.connected("5")
    flap(report, clock, 3, 5.0, refused=True)
    caplog.clear()
    report.lost("closed by the broker")
    for _ in range(1000):
        report.failed("refused")
        clock.now_s += 15
    report.connected("5")
    assert said(caplog) == [
        "cannot connect to host:1, trying again: refused",
        "connected to host:1 (MQTT 5) after 1000 failed attempt(s); it was lost 3 more time(s) in 15015 s",
    ]


def test_new_reason_is_said_although_the_connection_flaps(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    report = Report("b", "host:1", clock)
    report.connected("5")
    flap(report, clock, 3, 5.0)
    caplog.clear()
    report.lost("taken over")
    assert said(caplog) == ["connection to host:1 lost: taken over"]
