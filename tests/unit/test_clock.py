"""The receive time: every way in which a gateway's clock is wrong, with clocks the test sets."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voltflow.clock import PATIENCE_S, STALE_S, Clock, ClockStatus, counted_ns, kernel_synchronised
from voltflow.skew import EVERY, SAMPLES, DeviceClocks

TRUE_S = 1_790_000_000
"""The true time at which every test begins."""
HOUR_S = 3600.0


class World:
    """A gateway of which time passes when the test says so; its wall clock is `wrong_s` ahead of the true time."""

    def __init__(self, *, wrong_s: float = 0.0, synchronised: bool | None = False) -> None:
        self.passed_s, self.wrong_s, self.synchronised = 0.0, wrong_s, synchronised
        self.clock = Clock(
            wall_ns=lambda: round((TRUE_S + self.passed_s + self.wrong_s) * 1e9),
            counted_ns=lambda: round((50 + self.passed_s) * 1e9),
            synchronised=lambda: self.synchronised,
        )

    def step_to(self, wrong_s: float) -> None:
        """Somebody sets the wall clock; the next look at it is some seconds later."""
        self.wrong_s = wrong_s
        self.passed_s += 2.0

    def wait(self, seconds: float) -> None:
        for _ in range(int(seconds)):
            self.passed_s += 1.0
            self.clock.now_ms()

    @property
    def error_s(self) -> float | None:
        """How far the receive time is from the true one; None while it is unknown."""
        now_ms = self.clock.now_ms()
        return round(now_ms / 1000 - TRUE_S - self.passed_s, 3) if now_ms else None

    def look(self) -> tuple[float | None, str]:
        """The error, and what is said of the clock."""
        return self.error_s, self.clock.status().state

    def hear(self, ahead_s: float = 0.0, devices: int = 3, *, is_wall: bool = True) -> float | None:
        """A message of each device, whose clocks are right but for `ahead_s`; the first one's skew."""
        sent_ms = round((TRUE_S + self.passed_s + ahead_s) * 1000)
        skews = [
            self.clock.observe(device, sent_ms, self.clock.now_ms(), is_wall=is_wall)
            for device in range(devices)
        ]
        return skews[0]


def test_time_of_a_good_clock_is_that_clock() -> None:
    world = World()
    world.wait(100)
    assert world.error_s == 0.0
    assert world.clock.status() == ClockStatus("ok", "", 0)


def test_no_time_is_known_in_1970(caplog: pytest.LogCaptureFixture) -> None:
    world = World(wrong_s=-TRUE_S)
    world.wait(20)
    world.hear()
    assert world.error_s is None
    assert world.clock.status() == ClockStatus(
        "unknown", "the system's clock says 1970-01-01 00:00:20, before this software was released", 0
    )
    assert len(caplog.records) == 1  # once, not every second
    world.step_to(0.0)
    assert world.look() == (0.0, "ok")


def test_slewing_is_followed() -> None:
    world = World()
    for _ in range(60):
        world.wrong_s += 0.2
        world.wait(1)
    assert world.error_s == 12.0
    assert world.clock.status().steps == 0


@pytest.mark.parametrize("step_s", [HOUR_S, -HOUR_S, 30 * 86400.0, -float(TRUE_S)])
def test_step_is_not_believed_and_forgotten_when_it_is_taken_back(
    step_s: float, caplog: pytest.LogCaptureFixture
) -> None:
    world = World()
    world.wait(5)
    world.step_to(step_s)
    world.wait(30)
    assert world.look() == (0.0, "suspect")
    assert world.clock.status().steps == 1
    assert len(caplog.records) == 1
    world.step_to(0.0)
    assert world.look() == (0.0, "ok")


@pytest.mark.parametrize("synchronised", [True, False, None])
def test_devices_that_agree_with_a_step_confirm_it(synchronised: bool | None) -> None:
    """The gateway was an hour late, whoever set its clock."""
    world = World(wrong_s=-HOUR_S, synchronised=True)
    world.wait(PATIENCE_S + 5)
    assert world.hear() == HOUR_S * 1000
    world.synchronised = synchronised
    world.step_to(0.0)
    assert world.look() == (0.0, "ok")
    assert world.hear() == 0.0


@pytest.mark.parametrize("synchronised", [True, False, None])
def test_devices_that_disagree_outweigh_the_kernel_for_a_while(synchronised: bool | None) -> None:
    world = World(synchronised=synchronised)
    world.wait(5)
    world.hear()
    world.step_to(HOUR_S)
    for _ in range(int(PATIENCE_S / 60) - 1):
        world.wait(60)
        world.hear()
    assert world.look() == (0.0, "suspect")
    world.wait(60)
    world.hear()
    world.wait(60)
    assert world.error_s == (HOUR_S if synchronised else 0.0)


def test_synchronised_kernel_confirms_a_step_nobody_else_can_judge() -> None:
    world = World()
    world.wait(5)
    world.hear(ahead_s=400 * 86400.0, is_wall=False)  # recorded data
    world.synchronised = True
    world.step_to(HOUR_S)
    assert world.look() == (HOUR_S, "ok")


def test_step_without_any_evidence_is_taken_in_the_end() -> None:
    world = World(synchronised=None)
    world.wait(5)
    world.step_to(HOUR_S)
    world.wait(PATIENCE_S - 10)
    assert world.error_s == 0.0
    world.wait(20)
    assert world.look() == (HOUR_S, "ok")


def test_steps_are_counted_one_by_one_and_patience_begins_anew() -> None:
    world = World()
    world.wait(5)
    for wrong_s in (HOUR_S, -HOUR_S, 2 * HOUR_S):
        world.step_to(wrong_s)
        world.wait(PATIENCE_S - 10)
        assert world.look() == (0.0, "suspect")
    assert world.clock.status().steps == 3


def test_time_of_an_earlier_shutdown_is_unknown_when_devices_are_ahead() -> None:
    """A machine without a clock of its own starts with the time at which it was switched off: not to be believed."""
    world = World(wrong_s=-3 * HOUR_S)
    world.wait(2)
    world.hear()
    world.wait(1)
    assert world.look() == (None, "unknown")
    assert "not synchronised, and the devices' are 10800 s ahead" in world.clock.status().reason
    assert world.hear() is None  # of a clock that is not believed no skew is told
    world.step_to(0.0)
    assert world.look() == (0.0, "ok")


@pytest.mark.parametrize("by", ["kernel", "patience", "devices"])
def test_doubted_start_ends(by: str) -> None:
    world = World(wrong_s=-2 * STALE_S)
    world.wait(2)
    world.hear()
    world.wait(1)
    assert world.error_s is None
    if by == "kernel":
        world.synchronised = True
    elif by == "devices":
        for _ in range(EVERY * SAMPLES):
            world.hear(ahead_s=-2 * STALE_S)
    world.wait(PATIENCE_S + 1 if by == "patience" else 1)
    assert world.look() == (-2 * STALE_S, "ok")


@pytest.mark.parametrize(
    ("ahead_s", "is_wall", "synchronised"),
    [(2 * STALE_S, True, True), (-HOUR_S, True, False), (2 * 86400.0, False, False), (STALE_S / 2, True, False)],
    ids=["the kernel knows better", "messages that waited", "a simulated time", "devices a bit ahead"],
)  # fmt: skip
def test_start_is_not_doubted_for_less(ahead_s: float, is_wall: bool, synchronised: bool) -> None:
    world = World(synchronised=synchronised)
    world.wait(2)
    world.hear(ahead_s, is_wall=is_wall)
    world.wait(2)
    assert world.look() == (0.0, "ok")


@given(st.integers(0, 2**32))
def test_no_time_that_was_told_is_an_hour_off_while_devices_are_heard(seed: int) -> None:
    """Any sequence of steps of the wall clock, large ones only, while devices whose clocks are right send."""
    draw = random.Random(seed)
    world = World(synchronised=draw.choice([True, False, None]))
    world.wait(3)
    for _ in range(25):  # shorter than PATIENCE_S
        world.hear()
        if draw.random() < 0.3:
            world.step_to(draw.choice([0.0, HOUR_S, -HOUR_S, -float(TRUE_S), 86400.0]))
        world.wait(draw.choice([1, 5, 20]))
        assert world.error_s in (0.0, None), f"seed {seed}"


def test_skew_is_a_median_and_survives_messages_that_waited() -> None:
    clocks = DeviceClocks()
    for _ in range(SAMPLES):
        clocks.observe(1, 250, 0)
    found = [clocks.observe(1, -3_600_000, 0) for _ in range(SAMPLES // 2 * EVERY)]
    assert found == [250.0] * len(found)
    for _ in range(EVERY * SAMPLES):
        clocks.observe(1, -500, 0)
    assert clocks.median_ms(0) == -500.0


def test_only_devices_heard_lately_are_witnesses() -> None:
    clocks = DeviceClocks()
    clocks.observe(1, 7_000, 0)
    clocks.observe(2, 1_000, 500 * 10**9)
    assert clocks.median_ms(600 * 10**9) == 1_000
    assert clocks.median_ms(2000 * 10**9) is None


def test_system_answers() -> None:
    """The kernel's own clocks, as they are here."""
    assert kernel_synchronised() in (True, False, None)
    assert counted_ns() <= counted_ns()
    assert Clock().status().state == "ok"
