"""The `inject` node: what its messages are, and when they begin."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from tests.flows import Lab, raw, running, until
from voltflow.engine.timer import VirtualTimer
from voltflow.flow.properties import as_object
from voltflow.message import Msg
from voltflow.node import ConfigError, Context, load_nodes
from voltflow.nodes.inject import UNDER_WAY_LIMIT, Inject, _next_time

load_nodes("voltflow.nodes")

START_S = 1_700_000_000.0
"""2023-11-14 22:13:20 UTC"""


def inject(**properties: Any) -> Inject:
    node = Inject.spec.build("i", properties, {})
    assert isinstance(node, Inject)
    return node


def made(**properties: Any) -> dict[str, Any]:
    """What one message has."""
    node = inject(**properties)

    async def scenario() -> Msg:
        await node.start(
            Context({}, {}, "gw", "rev", Path(), timer=VirtualTimer(START_S), env={"SITE": "depot"})
        )
        return node.process([Msg("", None)])[0]

    found = as_object(asyncio.run(scenario()))
    del found["_msgid"]
    return found


async def passes(lab: Lab, seconds: float) -> None:
    """Virtual time goes on; at each time that somebody waits for, the flow comes to rest."""
    timer = lab.engine.timer
    assert isinstance(timer, VirtualTimer)
    for _ in timer.advance(timer.now_s() + seconds):
        await rest()
    await rest()


async def rest() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def scenario_of(
    properties: dict[str, Any], play: Callable[[Lab], Coroutine[Any, Any, None]]
) -> list[dict[str, Any]]:
    """What a sink gets from an inject node; `play` lets time pass and presses the button."""
    found: list[dict[str, Any]] = []

    async def scenario() -> None:
        nodes = {"id": "i", "type": "inject", "wires": [["k"]], **properties}, raw("k", "sink")
        async with running(*nodes, timer=VirtualTimer(START_S)) as lab:
            await until(lambda: "i" in lab.engine.sources.tasks, "the source")
            await rest()
            await play(lab)
            found.extend(as_object(msg) for msg in lab["k"].safe())

    asyncio.run(scenario())
    return found


def offsets(found: list[dict[str, Any]]) -> list[float]:
    """When the messages began, by their payload, the time."""
    return [item["payload"] / 1000 - START_S for item in found]


# -- what the messages are ----------------------------------------------------------------------------------------


def test_a_plain_node_gives_the_time_and_an_empty_topic() -> None:
    assert made() == {"topic": "", "payload": 1_700_000_000_000}


@pytest.mark.parametrize(
    ("kind", "value", "payload"),
    [("str", "5", "5"), ("num", "5", 5), ("bool", "true", True), ("json", '{"a":[1]}', {"a": [1]}), ("bin", "[1,255]", b"\x01\xff"),
     ("env", "SITE", "depot"), ("date", "iso", "2023-11-14T22:13:20.000Z"), ("jsonata", "1 + 2", 3), ("flow", "none", None)],
)  # fmt: skip
def test_payload_is_of_its_type(kind: str, value: str, payload: Any) -> None:
    found = made(payload=value, payloadType=kind, topic="t")
    assert found == {"topic": "t", "payload": payload}
    assert type(found["payload"]) is type(payload)


def test_properties_are_set_one_after_the_other() -> None:
    props = [
        {"p": "payload", "v": '{"soc": 71}', "vt": "json"},
        {"p": "payload.site", "v": "SITE", "vt": "env"},
        {"p": "topic", "v": "given", "vt": "str"},
        {"p": "seen", "v": "payload.soc", "vt": "msg"},
        {"p": "twice", "v": "seen * 2", "vt": "jsonata"},
        {"p": "", "v": "passed over"},
        {"p": "bare"},
    ]
    assert made(props=props, topic="not this one", payload="nor this one", payloadType="str") == {
        "topic": "given", "payload": {"soc": 71, "site": "depot"}, "seen": 71, "twice": 142, "bare": "",
    }  # fmt: skip


def test_a_node_without_payload_gives_none() -> None:
    assert made(props=[{"p": "topic", "vt": "str"}], topic="t", payload="5") == {
        "topic": "t",
        "payload": None,
    }


@pytest.mark.parametrize(
    ("properties", "error"),
    [
        ({"payload": "12x", "payloadType": "num"}, "property \"payload\": payload: '12x' is not a number"),
        ({"payload": "{", "payloadType": "json"}, "property \"payload\": payload: '{' is not JSON: "),
        ({"props": [{"p": "a..b", "v": "1"}]}, "property \"props\": a..b: 'a..b' is not a property: "),
        ({"props": [{"p": "a", "v": "1", "vt": "x"}]}, "property \"props\": a: 'x' is not one of the types "),
        ({"props": [{"p": "a", "v": "$sum(", "vt": "jsonata"}]}, "property \"props\": a: '$sum(' is not a JSONata expression: "),
        ({"crontab": "61 * * * *"}, "property \"crontab\": '61 * * * *': bad minute; expected are minute, hour, day, month "),
        ({"crontab": "* * *"}, "property \"crontab\": '* * *': wrong number of fields; expected are minute, hour, "),
        ({"repeat": "-1"}, 'property "repeat": -1.0 is out of range, allowed is 0 … '),
        ({"payloadType": "none"}, "property \"payloadType\": 'none' is not one of "),
    ],
)  # fmt: skip
def test_what_cannot_be_is_named_when_the_flow_is_checked(properties: dict[str, Any], error: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(error)}"):
        inject(**properties)


# -- when they begin ----------------------------------------------------------------------------------------------


def test_button_begins_a_message_now_also_with_other_properties() -> None:
    async def play(lab: Lab) -> None:
        lab["i"].press()
        await rest()
        lab["i"].press([{"p": "payload", "v": "1.5", "vt": "num"}, {"p": "by", "v": "hand", "vt": "str"}])
        await rest()
        lab["i"].press()
        await rest()

    found = scenario_of({"payload": "own", "payloadType": "str", "topic": "t"}, play)
    assert [(item["topic"], item["payload"], item.get("by")) for item in found] == [
        ("t", "own", None), ("", 1.5, "hand"), ("t", "own", None),
    ]  # fmt: skip
    assert not any("__user_inject_props__" in item for item in found)


def test_nothing_begins_by_itself_where_no_time_is_set() -> None:
    async def play(lab: Lab) -> None:
        await passes(lab, 86400)

    assert scenario_of({}, play) == []


def test_once_comes_after_its_delay_and_never_again() -> None:
    async def play(lab: Lab) -> None:
        await passes(lab, 1.5)
        assert lab["k"].payloads() == []
        await passes(lab, 86400)

    assert offsets(scenario_of({"once": True, "onceDelay": "2"}, play)) == [2.0]


def test_interval_begins_a_period_after_the_start_and_does_not_drift() -> None:
    async def play(lab: Lab) -> None:
        await passes(lab, 35)

    assert offsets(scenario_of({"repeat": "10"}, play)) == [10.0, 20.0, 30.0]
    assert offsets(scenario_of({"repeat": "10", "once": True, "onceDelay": 1}, play)) == [
        1.0,
        11.0,
        21.0,
        31.0,
    ]
    assert offsets(scenario_of({"repeat": "10", "crontab": "* * * * *"}, play)) == [10.0, 20.0, 30.0]


def test_a_day_of_an_interval_passes_at_once() -> None:
    async def play(lab: Lab) -> None:
        await passes(lab, 86400)

    assert len(scenario_of({"repeat": 60}, play)) == 1440


def test_crontab_goes_by_the_time_of_day(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Europe/Berlin")

    async def play(lab: Lab) -> None:
        await passes(lab, 3 * 86400)

    found = scenario_of({"crontab": "30 7 * * 1-5"}, play)
    times = [datetime.fromtimestamp(item["payload"] / 1000, UTC).isoformat() for item in found]
    assert times == ["2023-11-15T06:30:00+00:00", "2023-11-16T06:30:00+00:00", "2023-11-17T06:30:00+00:00"]


@pytest.mark.parametrize(
    ("crontab", "after", "times"),
    [
        pytest.param("30 2 * * *", "2024-03-30T12:00", ["2024-03-31 03:00", "2024-04-01 02:30"],
                     id="an hour that is left out in spring"),
        pytest.param("30 2 * * *", "2024-10-26T12:00", ["2024-10-27 02:30", "2024-10-28 02:30"],
                     id="an hour that comes twice in autumn"),
        pytest.param("0 */1 * * *", "2024-10-27T00:30", ["2024-10-27 01:00", "2024-10-27 02:00", "2024-10-27 02:00",
                                                         "2024-10-27 03:00"], id="every hour of that night"),
        pytest.param("0 0 L * *", "2024-02-01T00:00", ["2024-02-29 00:00", "2024-03-31 00:00"], id="the last of a month"),
        pytest.param("*/20 59 23 31 12 *", "2024-01-01T00:00", ["2024-12-31 23:59", "2024-12-31 23:59"], id="seconds"),
    ],
)  # fmt: skip
def test_times_of_day_in_summer_and_winter(crontab: str, after: str, times: list[str]) -> None:
    zone = ZoneInfo("Europe/Berlin")
    at_s: float | None = datetime.fromisoformat(after).replace(tzinfo=zone).timestamp()
    found = []
    for _ in times:
        assert at_s is not None
        at_s = _next_time(crontab, at_s, zone)
        assert at_s is not None
        found.append(f"{datetime.fromtimestamp(at_s, zone):%Y-%m-%d %H:%M}")
    assert found == times


def test_crontab_that_never_comes_begins_nothing() -> None:
    assert _next_time("* * */20 * 1L", START_S, UTC) is None


# -- what goes wrong ----------------------------------------------------------------------------------------------


def test_value_that_cannot_be_made_fails_that_message_only() -> None:
    async def scenario() -> None:
        nodes = (
            {"id": "i", "type": "inject", "wires": [["k"]]},
            raw("k", "sink"),
            {"id": "c", "type": "catch", "wires": [["e"]]},
            raw("e", "sink"),
        )
        async with running(*nodes, timer=VirtualTimer(START_S)) as lab:
            await until(lambda: "i" in lab.engine.sources.tasks, "the source")
            lab["i"].press([{"p": "payload", "v": "x", "vt": "num"}])
            lab["i"].press()
            await until(lambda: lab["k"].payloads() and lab["e"].payloads(), "one message each")
            error = lab["e"].safe()[0].props["error"]["message"]
            assert error == "property \"payload\": payload: 'x' is not a number"

    asyncio.run(scenario())


def test_flow_that_stands_gathers_no_more_than_the_limit() -> None:
    gate = asyncio.Event()

    async def play(lab: Lab) -> None:
        async def stands(_: list[Msg]) -> None:
            await gate.wait()

        lab["k"].write_ = stands
        await passes(lab, 150)
        assert lab["i"].status() == {"injected": UNDER_WAY_LIMIT, "dropped": 50}
        gate.set()
        await until(lambda: len(lab["k"].payloads()) == UNDER_WAY_LIMIT, "what was under way")

    assert len(scenario_of({"repeat": 1}, play)) == UNDER_WAY_LIMIT


def test_stop_waits_for_what_is_under_way() -> None:
    async def play(lab: Lab) -> None:
        arrived, gate = asyncio.Event(), asyncio.Event()

        async def slow(_: list[Msg]) -> None:
            arrived.set()
            await gate.wait()

        lab["k"].write_ = slow
        lab["i"].press()
        await arrived.wait()
        ending = asyncio.create_task(lab.end())
        await rest()
        assert not ending.done()
        gate.set()
        assert await ending

    assert len(scenario_of({}, play)) == 1
