"""The lab: real nodes in a flow without network, in a time of its own, the same each time."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from voltflow.flow.flow import Flow, FlowError
from voltflow.lab.lab import FlowLab, LabError
from voltflow.message import Msg
from voltflow.node import (
    REGISTRY,
    Context,
    Emit,
    Holder,
    Source,
    Transform,
    Worker,
    config,
    load_installed_nodes,
    load_nodes,
    node,
)

load_nodes("voltflow.nodes")
Raw = dict[str, Any]

PROGRAMS = {"voltflow", "edge", "cloud"}

BROKER = {"id": "b", "type": "mqtt-broker", "broker": "${NOT_SET}"}


def n(id: str, type: str, *ports: Sequence[str], **properties: Any) -> Raw:
    return {"id": id, "type": type, "wires": [list(port) for port in ports], **properties}


def mqtt_in(id: str, *targets: str, **properties: Any) -> Raw:
    return n(id, "mqtt in", targets, **{"topic": "t/#", "broker": "b", **properties})


def mqtt_out(id: str, **properties: Any) -> Raw:
    return n(id, "mqtt out", **{"broker": "b", **properties})


@node("lab hour", category="test")
class Hour(Holder):
    """Gives out each message an hour later, together with all that came meanwhile."""

    def process(self, msgs: list[Msg]) -> list[Msg]:
        for msg in msgs:
            self.held.keep(msg, "hour")
        return []

    def due_s(self) -> float | None:
        first = next(self.held.entries(), None)
        return None if first is None else first.at_s + 3600

    def tick(self) -> list[Msg]:
        msgs = self.held.release("hour")
        return [msgs[-1].derive(payload=[msg.payload for msg in msgs])]


@node("lab clock", category="common")
class Clock(Source):
    """Emits every so often, for ever."""

    every: float = config(60.0, help="between", unit="s", low=0.001, high=1e6)

    async def start(self, ctx: Context) -> None:
        self._timer = ctx.timer

    async def run(self, emit: Emit) -> None:
        due_s = self._timer.now_s()
        while True:
            due_s += self.every
            await self._timer.until(due_s, asyncio.Event())
            await emit([Msg("tick", self._timer.now_s())])


@node("lab do", category="test", outputs=2)
class Do(Transform):
    """Odd numbers to the first output, even ones to the second; fails on texts."""

    def process(self, msgs: list[Msg]) -> tuple[list[Msg], list[Msg]]:
        self.show({"text": str(msgs[-1].payload)})
        return [m for m in msgs if m.payload % 2], [m for m in msgs if not m.payload % 2]


@node("lab ask", category="network", outputs=1)
class Ask(Worker):
    """Asks over a network."""

    async def work(self, msgs: list[Msg]) -> list[Msg]:
        raise AssertionError("not in a lab")


@node("lab work", category="function", outputs=1)
class Work(Worker):
    """Works in a thread."""

    async def work(self, msgs: list[Msg]) -> list[Msg]:
        return await asyncio.to_thread(lambda: [msg.derive(payload=-msg.payload) for msg in msgs])


@node("lab hangs", category="function", outputs=1)
class Hangs(Worker):
    """Never comes back."""

    async def work(self, msgs: list[Msg]) -> list[Msg]:
        await asyncio.Event().wait()
        return []


@node("lab foreign", category="test")
class Foreign(Transform):
    """Needs what no program gives."""

    async def start(self, ctx: Context) -> None:
        ctx.service(Foreign)


@pytest.fixture
def lab() -> Iterator[Any]:
    """`lab(nodes…)`: a running lab."""
    labs: list[FlowLab] = []

    def start(*nodes: Raw, **options: Any) -> FlowLab:
        found = FlowLab(Flow(list(nodes)), **options).__enter__()
        labs.append(found)
        return found

    yield start
    for item in labs:
        item.__exit__()


def seen(lab: FlowLab, where: str) -> list[tuple[float, Any]]:
    return [(item.at_s, item.payload) for item in lab.reached(where)]


# -- stand-ins ----------------------------------------------------------------------------------------------------


def test_network_is_replaced_and_what_would_be_sent_is_remembered(lab: Any) -> None:
    """Neither the broker's host, which is not set here, nor its certificates are looked at."""
    found = lab(
        {**BROKER, "tls": "t"},
        n("t", "tls-config", cert="/no/file"),
        mqtt_in("in", "out", datatype="json"),
        mqtt_out("out"),
    )
    found.send("in", {"soc_pct": 80}, topic="t/1", retain=True)
    (item,) = found.reached("out")
    assert (item.topic, item.payload, item.props) == ("t/1", {"soc_pct": 80}, {"retain": True})


@pytest.mark.parametrize(
    ("datatype", "sent", "payload"),
    [("json", {"a": 1}, {"a": 1}), ("buffer", {"a": 1}, b'{"a":1}'), ("utf8", "21", "21"), ("auto-detect", "21", 21),
     ("buffer", {"$base64": "/wA="}, b"\xff\x00")],
)  # fmt: skip
def test_source_decodes_as_the_real_one(lab: Any, datatype: str, sent: Any, payload: Any) -> None:
    found = lab(BROKER, mqtt_in("in", "d", datatype=datatype), n("d", "debug"))
    found.send("in", sent)
    assert found.reached("d")[0].msg.payload == payload


def test_bytes_are_shown_as_what_they_say(lab: Any) -> None:
    found = lab(BROKER, mqtt_in("in", "d", datatype="buffer"), n("d", "debug"))
    for payload in ({"a": [1]}, "21", {"$base64": "/wA="}):
        found.send("in", payload)
    assert [item.payload for item in found.reached("d")] == [{"a": [1]}, "21", {"$base64": "/wA="}]


def test_what_cannot_be_sent_is_a_dead_letter(lab: Any) -> None:
    found = lab(BROKER, n("in", "link in", ["out"]), mqtt_out("out"))
    found.send_all([("in", Msg("t", object())), ("in", Msg("t", 2))])
    assert [(letter.node, letter.error[:9]) for letter in found.dead] == [("out", "TypeError")]


def test_node_that_asks_over_a_network_answers_what_the_test_says(lab: Any) -> None:
    found = lab(n("in", "link in", ["ask"]), n("ask", "lab ask", ["d"], name="price"), n("d", "debug"),
                answers={"price": [{"payload": 3, "statusCode": 200}, {"payload": 4}]})  # fmt: skip
    for count in range(3):
        found.send("in", count, topic="q")
    assert [(i.topic, i.payload, dict(i.props)) for i in found.reached("d")] == [
        ("q", 3, {"statusCode": 200}), ("q", 4, {}), ("q", 4, {}),
    ]  # fmt: skip


def test_node_that_asks_and_gets_no_answer_gives_out_nothing(lab: Any) -> None:
    found = lab(n("in", "link in", ["ask"]), n("ask", "lab ask", ["d"]), n("d", "debug"))
    found.send("in", 1)
    assert (seen(found, "ask"), seen(found, "d")) == ([(0, 1)], [])


def test_variable_that_a_real_node_needs_is_named(lab: Any) -> None:
    flow = [n("c", "lab clock", every="${EVERY}")]
    with pytest.raises(
        FlowError, match=r'the environment has no EVERY for \$\{EVERY\}; give it in "env" of the test'
    ):
        lab(*flow)
    assert lab(*flow, env={"EVERY": "5"}).engine.nodes["c"].node.every == 5.0


# -- places -------------------------------------------------------------------------------------------------------

SPLIT = (n("in", "link in", ["do"]), n("do", "lab do", ["odd"], ["even", "all"], name="split it"), n("odd", "debug"),
         n("even", "debug"), n("all", "debug"), n("x", "debug", name="twin"), n("y", "debug", name="twin"))  # fmt: skip


@pytest.mark.parametrize(
    ("to", "expected"),
    [("in", "odd even even all all"), ("do", "odd even even all all"), ("split it", "odd even even all all"),
     ("do#2", "even even even all all all"), ("do -> all", "all all all"), ("odd", "odd odd odd")],
)  # fmt: skip
def test_messages_enter_at_a_node_an_output_or_a_wire(lab: Any, to: str, expected: str) -> None:
    found = lab(*SPLIT)
    found.send_all([(to, found.message(to, number)) for number in (1, 2, 4)])
    assert (
        " ".join(
            sorted((k for k in ("odd", "even", "all") for _ in found.reached(k)), key="odd even all".find)
        )
        == expected
    )


def test_messages_are_seen_at_a_node_an_output_and_a_wire(lab: Any) -> None:
    found = lab(*SPLIT)
    found.send_all([("in", found.message("in", number)) for number in (1, 2, 3)])
    places = ("do", "do#1", "do#2", "do->all", "split it", "in")
    assert [[item.payload for item in found.reached(where)] for where in places] == [
        [1, 2, 3], [1, 3], [2], [2], [1, 2, 3], [1, 2, 3],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("where", "error"),
    [
        ("evn", "node 'evn' is not in the flow, or disabled; there is even"),
        ("twin", "node 'twin' is the name of x, y: use the id"),
        ("in->odd", "'in->odd': no wire leads from 'in' to 'odd'"),
        ("do#0", "node 'do#0' is not in the flow, or disabled; there is do"),
        ("", "node '' is not in the flow, or disabled"),
    ],
)
def test_place_that_is_not_there_is_said_to_be_missing(lab: Any, where: str, error: str) -> None:
    with pytest.raises(LabError) as caught:
        lab(*SPLIT).reached(where)
    assert str(caught.value) == error


def test_only_places_that_are_watched_are_remembered(lab: Any) -> None:
    found = lab(*SPLIT, watch=["even"])
    found.send("in", 2)
    assert (seen(found, "even"), seen(found, "all"), seen(found, "do")) == ([(0, 2)], [], [])


def test_dead_letters_and_badges(lab: Any) -> None:
    found = lab(*SPLIT)
    found.send("in", 2, topic="t")
    found.advance(5)
    found.send("in", "two", topic="u")
    (letter,) = found.dead
    assert (letter.at_s, letter.node, letter.original.topic, letter.original.payload) == (5, "do", "u", "two")
    assert letter.error.startswith("TypeError: ")
    assert (found.badge("split it"), found.badge("odd")) == ({"text": "two"}, {})


# -- time ---------------------------------------------------------------------------------------------------------

HOUR = (n("in", "link in", ["h"]), n("h", "lab hour", ["d"]), n("d", "debug"))


def test_time_jumps_to_when_a_node_waits_for(lab: Any) -> None:
    found = lab(*HOUR)
    found.send("in", 1)
    found.advance(1800)
    found.send("in", 2)
    found.advance(1799)
    assert seen(found, "d") == []
    found.rest()
    assert seen(found, "d") == [(3600, [1, 2])]


def test_day_takes_less_than_a_moment(lab: Any) -> None:
    found = lab(n("c", "lab clock", ["h"], every=10), n("h", "lab hour", ["d"]), n("d", "debug"))
    started = time.process_time()
    found.advance(24 * 3600 + 1)
    assert [len(item.payload) for item in found.reached("d")] == [360] * 23
    assert time.process_time() - started < 20.0


def test_window_of_a_day_ends_at_once(lab: Any) -> None:
    rules = [{"function": "mean", "property": "payload.soc_pct", "name": "soc_pct"}]
    found = lab(
        n("in", "link in", ["w"]),
        n("w", "window", ["d"], size="86400", time="receive", rules=rules),
        n("d", "debug"),
    )
    for soc_pct in (40, 50, 60):
        found.send("in", {"soc_pct": soc_pct})
        found.advance(3600)
    started = time.process_time()
    found.rest()
    ((at_s, payload),) = seen(found, "d")
    assert (at_s, payload["count"], payload["soc_pct"]) == (86400, 3, 50)
    assert time.process_time() - started < 0.5


def test_rest_does_not_wait_for_sources_that_go_on_for_ever(lab: Any) -> None:
    found = lab(n("c", "lab clock", ["h"], every=100), n("h", "lab hour", ["d"]), n("d", "debug"))
    found.rest()
    assert (found.now_s, seen(found, "d")) == (1, [])
    found.advance(200)
    found.rest(longest_s=3000)
    assert found.now_s == pytest.approx(202)


def test_inject_sends_at_the_start_by_time_and_by_its_button(lab: Any) -> None:
    flow = (
        n("i", "inject", ["d"], once=True, onceDelay="0.5", repeat="60", payload="7", payloadType="num"),
        n("d", "debug"),
    )
    found = lab(*flow)
    found.rest()
    found.advance(119)
    found.press("i")
    assert [at_s for at_s, _ in seen(found, "d")] == [0.5, 60.5, 120.0]
    assert {payload for _, payload in seen(found, "d")} == {7}
    with pytest.raises(LabError, match="'d' is a debug, which has no button: give it a message"):
        found.press("d")


def test_time_of_a_message_is_that_of_the_flow(lab: Any) -> None:
    found = lab(*HOUR, start_s=1000.0)
    found.advance(2.5)
    found.send("in", 1)
    assert found.reached("in")[0].msg.received_ms == 1_002_500


def test_call_that_nobody_answers_times_out_at_its_time(lab: Any) -> None:
    found = lab(
        n("call", "link call", ["d"], links=["in"], timeout=30), n("in", "link in", []), n("d", "debug")
    )
    found.send("call", 1)
    found.rest()
    assert [(letter.at_s, letter.error) for letter in found.dead] == [(30, "timeout")]


def test_work_in_threads_is_waited_for(lab: Any) -> None:
    found = lab(n("in", "link in", ["w"]), n("w", "lab work", ["d"]), n("d", "debug"))
    for count in range(5):
        found.send("in", count)
    assert seen(found, "d") == [(0, -count) for count in range(5)]


def test_node_that_never_comes_back_is_named(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("voltflow.lab.lab.PATIENCE_S", 0.2)
    found = lab(n("w", "lab hangs", [], name="the thing"))
    with pytest.raises(LabError, match=r"the flow does not come to rest in 0\.2 s: the thing"):
        found.send("w", 1)


def test_two_runs_are_the_same(lab: Any) -> None:
    """Random delays too."""

    def run() -> list[tuple[float, Any]]:
        with FlowLab(Flow([n("in", "link in", ["delay"]), n("delay", "delay", ["d"], pauseType="random", randomFirst="1",
                                                            randomLast="50", randomUnits="seconds"), n("d", "debug")])) as found:  # fmt: skip
            for count in range(20):
                found.send("in", count)
            found.rest()
            return seen(found, "d")

    first = run()
    assert len(first) == 20
    assert len({at_s for at_s, _ in first}) > 5
    assert run() == first


# -- files --------------------------------------------------------------------------------------------------------


def test_files_are_the_labs_own_and_gone_with_it() -> None:
    nodes = [
        n("in", "link in", ["write"]),
        n("write", "file", ["read"], filename="a/log.txt", createDir=True),
        n("read", "file in", ["d", "where"], filename="a/log.txt", format="utf8"),
        n(
            "where",
            "change",
            [],
            rules=[{"t": "set", "p": "payload", "to": "VOLTFLOW_AGENT_FILES_DIR", "tot": "env"}],
        ),
        n("d", "debug"),
    ]
    with FlowLab(Flow(nodes)) as found:
        found.send("in", "one")
        found.send("in", "two")
        assert seen(found, "d") == [(0, "one\n"), (0, "one\ntwo\n")]
        assert [item.payload for item in found.reached("where#1")] == [str(found.files.folder)] * 2
        written = found.files.path("a/log.txt")
        assert written.read_bytes() == b"one\ntwo\n"
    assert not written.exists()
    assert not found.files.folder.parent.exists()


NEEDED: dict[str, Raw] = {
    "onnx": {"model": "temperature"}, "range": {"minin": 0, "maxin": 1, "minout": 0, "maxout": 1},
    "http in": {"url": "/x"}, "link call": {"links": ["l"]}, "kafka in": {"bootstrap": "k", "topic": "t"},
    "kafka out": {"bootstrap": "k", "topic": "t"}, "influx out": {"url": "http://h", "database": "d"}, "timescale out": {"database": "d"},
    **{type: {"topic": "t", "broker": "b"} for type in ("mqtt in", "mqtt out", "mqtt heir", "mqtt latest", "dead letter")},
}  # fmt: skip
"""Properties without which a node is none."""


def test_every_type_of_node_starts_in_a_lab() -> None:
    load_installed_nodes()
    for type in sorted(
        type for type, spec in REGISTRY.items() if spec.cls.__module__.partition(".")[0] in PROGRAMS
    ):
        given = {"id": "n", "type": type, "name": "the one", "wires": [], **NEEDED.get(type, {})}
        with FlowLab(Flow([BROKER, n("l", "link in", []), given])) as found:
            assert "n" in found.engine.nodes, type


def test_node_that_cannot_start_is_named(lab: Any) -> None:
    with pytest.raises(LabError, match=r"^the one cannot start here: this program has no Foreign: "):
        lab(n("f", "lab foreign", name="the one"))


# -- the fixture --------------------------------------------------------------------------------------------------

PYTEST = """
def test_file(flow):
    lab = flow("flows.json")
    lab.send("in", {"a": 1}, topic="t")
    assert [item.payload for item in lab.reached("d")] == [{"a": 1}]

def test_nodes(flow):
    lab = flow([{"id": "d", "type": "debug", "wires": []}])
    lab.send("d", 2)
    assert lab.reached("d")[0].payload == 2
"""


def test_fixture_of_the_pytest_plugin(tmp_path: Path) -> None:
    (tmp_path / "flows.json").write_text(Flow([n("in", "link in", ["d"]), n("d", "debug")]).dumps())
    (tmp_path / "test_it.py").write_text(PYTEST)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "voltflow.lab.pytest_plugin", "-p", "no:cacheprovider", "--rootdir", tmp_path, tmp_path],
        cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout.splitlines()[-1][:8]) == (0, "2 passed"), done.stdout


def test_nothing_else_imports_pytest() -> None:
    code = "import sys, voltflow.cli, voltflow.lab.lab, edge.lab; sys.exit('pytest' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=False).returncode
        == 0
    )
