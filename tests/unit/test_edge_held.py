"""What the gateway tells of messages that nodes hold: health, metrics, `/api/flow`."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import generate_latest

from edge.health import health
from edge.metrics import make_registry
from edge.state import AppState
from edge.twin import TwinStore
from tests.flows import raw, running, until
from tests.gateway import ask, request
from tests.holders import START_S, Held, holding, msg, run
from voltflow.engine import keeper
from voltflow.engine.engine import Engine
from voltflow.engine.held_store import FILE
from voltflow.engine.timer import VirtualTimer

HOUR = dict(timeout=1, timeoutUnits="hours")


def state_of(engine: Engine) -> AppState:
    return AppState(TwinStore(), engine, "gw1", time.time(), [])


def reasons(engine: Engine) -> dict[str, str]:
    return {
        item.code: item.message for item in health(state_of(engine)).reasons if item.code.startswith("held")
    }


def metrics(engine: Engine) -> dict[str, float]:
    lines = generate_latest(make_registry(state_of(engine))).decode().splitlines()
    found = (
        line.removeprefix("voltflow_held_").rsplit(" ", 1)
        for line in lines
        if line.startswith("voltflow_held_")
    )
    return {name: float(value) for name, value in found}


async def told(engine: Engine) -> Any:
    """`held` of `/api/flow`."""
    state = state_of(engine)
    return await asyncio.to_thread(ask, state, lambda server: request(server, "/api/flow").json()["held"])


def test_held_messages_are_counted_where_they_are(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with holding("delay", state_dir=tmp_path, **HOUR) as held:
            await held.give(msg(1), msg(2))
            assert (metrics(held.engine), reasons(held.engine)) == (
                {'messages{where="unacknowledged"}': 2, 'messages{where="disk"}': 0, "blocked": 0}, {},
            )  # fmt: skip
            task = await held.give(msg(3))
            await held.pass_s(1.5)
            await asyncio.wait_for(task, 20)
            assert metrics(held.engine) == {
                'messages{where="unacknowledged"}': 0,
                'messages{where="disk"}': 3,
                "blocked": 0,
            }
            assert await told(held.engine) == {
                "unacknowledged": 0, "on_disk": 3, "orphans": {}, "is_full": False, "error": "",
            }  # fmt: skip

    run(scenario)


def test_disk_that_takes_nothing_is_told_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper, "AGAIN_S", 0.01)
    (tmp_path / FILE).mkdir()  # something is in the way

    async def scenario() -> None:
        async with holding("delay", state_dir=tmp_path, **HOUR) as held:
            task = await held.give(msg(1))
            await held.pass_s(1.5)
            assert (await told(held.engine))["error"] == held.engine.held.error != ""
            assert reasons(held.engine) == {
                "held_not_written": f"what nodes hold cannot be kept in '{tmp_path / FILE}': {held.engine.held.error}; "
                "1 message unacknowledged, their sources wait"
            }
            assert metrics(held.engine)["blocked"] == 1
            held.engine.watchdog_s = 0.0
            assert health(state_of(held.engine)).status == "degraded", "a restart would not help"
            (tmp_path / FILE).rmdir()
            await asyncio.wait_for(task, 20)
            assert (reasons(held.engine), metrics(held.engine)["blocked"]) == ({}, 0)

    run(scenario)


def test_more_than_may_be_on_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper, "MOST_ON_DISK", 2)

    async def scenario() -> None:
        async with holding("delay", state_dir=tmp_path, **HOUR) as held:
            await held.give(msg(1), msg(2), msg(3))
            await held.pass_s(1.5)
            await until(lambda: held.engine.held.on_disk == 2, "what may be written", 20)
            assert list(reasons(held.engine)) == ["held_full"]
            assert "2 messages that nodes hold are on disk, more are not" in reasons(held.engine)["held_full"]
            assert metrics(held.engine)["blocked"] == 1
            assert (await told(held.engine))["is_full"]

    run(scenario)


def test_what_waits_for_a_node_that_is_not_there_is_told(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with holding("delay", state_dir=tmp_path, **HOUR) as held:
            await held.give(msg(1))
        timer = VirtualTimer(START_S)
        without = [raw("s", "source", ["k1"]), raw("k1", "sink"), raw("d", "dead letters")]
        async with running(*without, timer=timer, state_dir=tmp_path) as lab:
            engine = Held(lab, timer).engine
            assert reasons(engine) == {
                "held_orphaned": f"1 message in '{tmp_path / FILE}' wait for the node 'n', which the flow does not have: give "
                "a node that holds messages this id, and it takes them"
            }
            assert metrics(engine)['orphans{node="n"}'] == 1
            assert (await told(engine))["orphans"] == {"n": 1}

    run(scenario)
