"""A sink's circuit: its states, its delays, what it says in the log."""

from __future__ import annotations

import random

import pytest

from voltflow.backoff import Backoff
from voltflow.engine.circuit import STEADY_S, Circuit


class Clock:
    """A clock that the test sets."""

    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def circuit(clock: Clock) -> Circuit:
    return Circuit("history", backoff=Backoff(first_s=1.0, limit_s=60.0, rng=random.Random(1)), clock=clock)


def test_a_circuit_opens_tries_and_closes() -> None:
    it = circuit(Clock())
    assert it.closed
    assert 0.5 <= it.failed("connection refused") <= 1.0
    assert (it.state, it.reason, it.opened) == ("open", "connection refused", 1)
    it.trying()
    assert it.state == "half_open"
    it.succeeded()
    assert (it.state, it.reason, it.opened) == ("closed", "", 1)


def test_trying_and_succeeding_do_nothing_to_a_closed_circuit() -> None:
    it = circuit(Clock())
    it.trying()
    it.succeeded()
    assert (it.state, it.opened) == ("closed", 0)


@pytest.mark.parametrize(("calm_s", "longest_s"), [(STEADY_S / 2, 2.0), (STEADY_S, 1.0)])
def test_a_circuit_that_flaps_goes_on_with_its_delays(calm_s: float, longest_s: float) -> None:
    clock = Clock()
    it = circuit(clock)
    it.failed("away")
    it.succeeded()
    clock.now_s += calm_s
    assert longest_s / 2 <= it.failed("away") <= longest_s
    assert it.opened == 2


def test_the_log_has_each_reason_once_and_the_end(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    with caplog.at_level("INFO"):
        it = circuit(clock)
        for reason in ("refused", "refused", "too slow", "too slow"):
            it.failed(reason)
        clock.now_s += 90
        it.succeeded()
    assert [record.getMessage() for record in caplog.records] == [
        "history is not available: refused",
        "history is not available: too slow",
        "history is available again after 90 s",
    ]
