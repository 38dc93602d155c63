"""A gateway whose clock is wrong: the real agent under libfaketime, whose file sets its wall clock while it runs."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from tests import servers
from tests.integration.test_sim_device import Listener, listening
from tests.programs import Agent, device
from tests.servers import wait_until

Own = Callable[[AbstractContextManager[servers.Server]], servers.Server]

HOUR_S = 3600
RIGHT_MS = 600_000
"""A receive time so near to the device's sending is right; a slow machine is not an hour slow."""


class DisplacedAgent(Agent):
    """An agent that sees a wall clock some seconds away from the true one; clocks that only count are true."""

    def __init__(self, broker: servers.Mosquitto, folder: Path, displaced_s: int) -> None:
        super().__init__(broker, folder / "agent")
        self._file = folder / "displaced"
        self.displace(displaced_s)

    def displace(self, seconds: int) -> None:
        """Set the wall clock."""
        new = self._file.with_suffix(".new")
        new.write_text(f"{seconds:+d}\n")
        new.replace(self._file)

    def command(self) -> list[str]:
        libraries = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
        if not libraries:
            raise servers.Missing("libfaketime is not installed: sudo apt-get install faketime")
        self.environment = {
            "LD_PRELOAD": str(libraries[0]), "FAKETIME_TIMESTAMP_FILE": str(self._file), "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1", "NO_FAKE_STAT": "1",
        }  # fmt: skip
        return [*super().command()]

    def doubts(self) -> set[str]:
        """What health says of the clock."""
        reasons = self.get("/api/health")["reasons"]
        return {reason["code"] for reason in reasons if reason["code"].startswith("clock_")}


class Twins:
    """What the gateway publishes of its packs."""

    def __init__(self, got: Listener) -> None:
        self._got = got

    @property
    def all(self) -> list[dict[str, Any]]:
        found = {topic: list(payloads) for topic, payloads in list(self._got.by_topic.items())}
        return [json.loads(p) for topic, ps in found.items() if topic.endswith("/twin") for p in ps]

    def errors_ms(self) -> list[int]:
        """How far each known receive time is from the device's sending."""
        known = [m for m in self.all if m["received_ms"] is not None]
        return [m["received_ms"] - m["telemetry"]["sent_ms"] for m in known]

    def unknown(self) -> int:
        return sum(message["received_ms"] is None for message in self.all)

    def newest_is_right(self) -> bool:
        messages = self.all
        newest = max(messages, key=lambda m: (m["telemetry"]["sent_ms"], m["pack"]), default=None)
        if newest is None or newest["received_ms"] is None:
            return False
        return bool(abs(newest["received_ms"] - newest["telemetry"]["sent_ms"]) < RIGHT_MS)

    def wait_for_more(self, count: int) -> None:
        before = len(self.all)
        wait_until(lambda: len(self.all) >= before + count, f"{count} more messages", 30)


def fleet(unique: str) -> tuple[str, ...]:
    return ("--packs", "3", "--hz", "5", "--no-gaps", "--fleet", unique)


@pytest.fixture
def broker(own: Own) -> servers.Mosquitto:
    server = own(servers.Mosquitto())
    assert isinstance(server, servers.Mosquitto)
    return server


def test_gateway_that_starts_in_1970_knows_no_time_until_it_is_set(
    broker: servers.Mosquitto, own: Own, unique: str, tmp_path: Path
) -> None:
    agent = DisplacedAgent(broker, tmp_path, -int(time.time()) + 60)
    with listening(broker.port, f"ev/v1/{unique}/#") as got, device(broker, "run", *fleet(unique)):
        own(agent)
        twins = Twins(got)
        twins.wait_for_more(20)
        assert twins.errors_ms() == []
        assert agent.doubts() == {"clock_unknown"}
        assert 'voltflow_clock_state{state="unknown"} 1.0' in agent.metrics()
        assert agent.get("/api/health")["uptime_s"] < HOUR_S
        agent.displace(0)
        wait_until(twins.newest_is_right, "receive times", 30)
        twins.wait_for_more(20)
        assert agent.doubts() == set()
        assert agent.get("/api/health")["uptime_s"] < HOUR_S
    assert twins.unknown() >= 20
    assert max(map(abs, twins.errors_ms())) < RIGHT_MS


@pytest.mark.parametrize("step_s", [HOUR_S, -HOUR_S])
def test_clock_that_jumps_by_an_hour_and_back_changes_no_receive_time(
    broker: servers.Mosquitto, own: Own, unique: str, tmp_path: Path, step_s: int
) -> None:
    agent = DisplacedAgent(broker, tmp_path, 0)
    with listening(broker.port, f"ev/v1/{unique}/#") as got, device(broker, "run", *fleet(unique)):
        own(agent)
        twins = Twins(got)
        twins.wait_for_more(20)
        agent.displace(step_s)
        wait_until(lambda: agent.doubts() == {"clock_suspect"}, "the jump to be noticed", 30)
        twins.wait_for_more(40)
        assert agent.doubts() == {"clock_suspect"}
        assert "voltflow_clock_steps_total 1.0" in agent.metrics()
        packs = agent.get("/api/packs")["packs"]
        assert not any(pack["silent"] for pack in packs)
        agent.displace(0)
        wait_until(lambda: not agent.doubts(), "the jump to be forgotten", 30)
        twins.wait_for_more(20)
    assert twins.unknown() == 0
    assert max(map(abs, twins.errors_ms())) < RIGHT_MS
    skews_ms = [message["skew_ms"] for message in twins.all]
    assert max(map(abs, skews_ms)) < RIGHT_MS


def test_clock_that_was_an_hour_behind_is_taken_when_it_is_put_right(
    broker: servers.Mosquitto, own: Own, unique: str, tmp_path: Path
) -> None:
    """The devices, whose clocks are right, confirm the jump at once, whatever the kernel says."""
    agent = DisplacedAgent(broker, tmp_path, -HOUR_S)
    with listening(broker.port, f"ev/v1/{unique}/#") as got, device(broker, "run", *fleet(unique)):
        own(agent)
        twins = Twins(got)
        twins.wait_for_more(20)
        agent.displace(0)
        wait_until(twins.newest_is_right, "right receive times", 30)
        wait_until(lambda: not agent.doubts(), "the clock to be believed", 30)
        twins.wait_for_more(20)
        assert twins.newest_is_right()
