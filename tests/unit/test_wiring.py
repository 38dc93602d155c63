"""Who hears of what a node fails on, is done with and shows; calls of a part of the flow. On a running engine."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.flows import Lab, raw, running, until
from voltflow.engine.context import Contexts
from voltflow.engine.timer import VirtualTimer
from voltflow.flow.flow import Flow
from voltflow.message import Msg
from voltflow.node import Holder, Transform, Worker, config, load_nodes, node

load_nodes("voltflow.nodes")

Raw = dict[str, Any]


@node("test worker", category="test")
class Work(Worker):
    """Does what a transform does, later."""

    async def work(self, msgs: list[Msg]) -> list[Msg]:
        await asyncio.sleep(0)
        return [msg.derive(payload=msg.payload / 1) for msg in msgs]


@node("test uses", category="test")
class Uses(Transform):
    """Refers to a broker."""

    broker: str = config(help="the broker", reference="mqtt-broker")

    def process(self, msgs: list[Msg]) -> list[Msg]:
        return msgs


@node("test later", category="test")
class Later(Holder):
    """Gives out each message an hour later."""

    def process(self, msgs: list[Msg]) -> list[Msg]:
        for msg in msgs:
            self.held.keep(msg, self.held.new_group())
        return []

    def due_s(self) -> float | None:
        first = next(self.held.entries(), None)
        return first.at_s + 3600 if first else None

    def tick(self) -> list[Msg]:
        return self.held.release(next(iter(self.held.groups)))


@node("test shows at start", category="test")
class ShowsAtStart(Work):
    """Shows a badge in `start`, and then takes messages."""

    async def start(self, ctx: Any) -> None:
        self.show({"text": "ready"})
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        self.got: list[str] = []

    async def work(self, msgs: list[Msg]) -> list[Msg]:
        self.got += [(msg.props or {})["status"]["text"] for msg in msgs]
        return []


def run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(scenario())


def n(id: str, type: str, *ports: Sequence[str], **properties: Any) -> Raw:
    return {"id": id, "type": type, "wires": [list(port) for port in ports], **properties}


def group(id: str, g: str = "", z: str = "") -> Raw:
    return {"id": id, "type": "group", "g": g, "z": z}


def failing(msgs: list[Msg]) -> list[Msg]:
    raise ValueError("too hot")


def only_good(msgs: list[Msg]) -> list[Msg]:
    return failing(msgs) if any(msg.payload == "bad" for msg in msgs) else msgs


FAILS = (raw("s", "source", ["t"]), raw("t", "transform", ["k"]), raw("k", "sink"), raw("d", "dead letters"))


async def heard(lab: Lab, *sinks: str) -> list[str]:
    """The sinks that get something when `t` fails on a message."""
    lab["t"].process_ = failing
    await lab.feed("s", 1)
    return [sink for sink in sinks if lab[sink].payloads()]


def catch(id: str, **properties: Any) -> list[Raw]:
    """A catch node with a sink `id`."""
    return [n(f"catch {id}", "catch", [id], **properties), raw(id, "sink")]


# -- catch --------------------------------------------------------------------------------------------------------


def test_caught_message_comes_as_it_was_with_what_went_wrong() -> None:
    async def scenario() -> None:
        flow = [{**item, "name": "check"} if item["id"] == "t" else item for item in FAILS]
        async with running(*flow, *catch("c")) as lab:
            assert await heard(lab, "c", "k", "d") == ["c"]
            (found,) = lab["c"].safe()
            assert (found.payload, found.props) == (1, {"error": {
                "message": "too hot",
                "name": "ValueError",
                "source": {"id": "t", "type": "test transform", "name": "check", "count": 1},
            }})  # fmt: skip

    run(scenario)


@pytest.mark.parametrize("count", ["x", None, True, [1], -(10**9), 3.5, 10**400])
def test_what_a_message_brings_as_its_error_does_not_fail_the_others_of_its_batch(count: Any) -> None:
    async def scenario() -> None:
        async with running(*FAILS, *catch("c")) as lab:
            lab["t"].process_ = only_good
            error = {"source": {"id": "t", "count": count}}
            await lab["s"].feed([Msg("t", 1), Msg("t", "bad", props={"error": error}), Msg("t", 2)])
            assert lab["k"].payloads() == [1, 2]
            assert len(lab["c"].payloads()) + len(lab["d"].payloads()) == 1

    run(scenario)


def test_what_fails_while_a_failure_is_handled_is_a_dead_letter_and_the_batch_goes_on() -> None:
    """Two nodes that catch for each other: a circle that no check sees, and that has no end."""

    async def scenario() -> None:
        flow = (
            *FAILS, n("of t", "catch", ["u"], scope=["t"]), raw("u", "transform", []), n("of u", "catch", ["t"], scope=["u"]),
        )  # fmt: skip
        async with running(*flow) as lab:
            lab["t"].process_ = lab["u"].process_ = only_good
            await lab.feed("s", 1, "bad", 2)
            assert lab["k"].payloads() == [1, 2]
            (letter,) = lab["d"].safe()
            assert "ValueError: too hot; what caught it failed too: RecursionError" in letter.payload.error

    run(scenario)


@pytest.mark.parametrize(
    ("catches", "expected"),
    [
        pytest.param([catch("a"), catch("b")], "a b", id="all of the tab"),
        pytest.param([catch("a", scope=["t"]), catch("b", scope=["k"])], "a", id="those that name it"),
        pytest.param([catch("a", scope=[])], "d", id="a list without nodes"),
        pytest.param([catch("a", z="other")], "d", id="another tab"),
        pytest.param([catch("a", scope="group")], "a", id="group, but in none"),
        pytest.param([catch("a", scope="group", g="g1"), catch("b", scope="group", g="g2")], "a b", id="own and outer group"),
        pytest.param([catch("a", scope="group", g="g3")], "d", id="another group"),
        pytest.param([catch("a", uncaught=True), catch("b")], "b", id="uncaught, and another heard"),
        pytest.param([catch("a", uncaught=True), catch("b", scope=["k"])], "a", id="uncaught, and no other heard"),
        pytest.param([catch("a", uncaught=True), catch("b", uncaught=True)], "a b", id="two uncaught"),
        pytest.param([catch("a", uncaught=True, g="g1"), catch("b")], "a b", id="uncaught in the group comes first"),
    ],
)  # fmt: skip
def test_scope_of_catch_nodes(catches: list[list[Raw]], expected: str) -> None:
    flow = [{**item, "g": "g1"} if item["id"] == "t" else item for item in FAILS]
    groups = [group("g1", "g2"), group("g2"), group("g3")]

    async def scenario() -> None:
        async with running(*flow, *groups, *(item for pair in catches for item in pair)) as lab:
            sinks = [pair[1]["id"] for pair in catches]
            assert await heard(lab, *sinks, "d") == expected.split()

    run(scenario)


def test_message_that_comes_back_again_and_again_becomes_a_dead_letter() -> None:
    async def scenario() -> None:
        async with running(*FAILS, n("c", "catch", ["t"])) as lab:
            counts = []

            def fail(msgs: list[Msg]) -> list[Msg]:
                counts.extend(
                    (msg.props or {}).get("error", {}).get("source", {}).get("count", 0) for msg in msgs
                )
                raise ValueError("still")

            lab["t"].process_ = fail
            await lab.feed("s", 1)
            assert counts == list(range(10))
            assert [letter.error for letter in lab["d"].payloads()] == ["ValueError: still"]

    run(scenario)


def test_earlier_error_is_kept_beside_a_new_one() -> None:
    async def scenario() -> None:
        flow = (
            *FAILS,
            n("c", "catch", ["u"], scope=["t"]),
            raw("u", "transform", []),
            *catch("last", scope=["u"]),
        )
        async with running(*flow) as lab:
            lab["u"].process_ = failing
            await heard(lab)
            props = lab["last"].safe()[0].props
            assert (props["error"]["source"]["id"], props["_error"]["source"]["id"]) == ("u", "t")

    run(scenario)


def test_caught_message_is_not_acknowledged_before_it_is_safe() -> None:
    async def scenario() -> None:
        async with running(*FAILS, *catch("c")) as lab:
            opened = asyncio.Event()
            lab["t"].process_ = failing

            async def write(msgs: list[Msg]) -> None:
                await opened.wait()

            lab["c"].write_ = write
            emitted = lab.feed("s", 1)
            await until(lambda: lab.engine.stats["c"].waiting, "the message at the sink")
            assert not emitted.done()
            opened.set()
            await emitted

    run(scenario)


def test_failure_in_a_subflow_is_heard_there_or_around_its_instance() -> None:
    def flow(*inner: Raw) -> list[Raw]:
        return [
            raw("s", "source", ["i"]), n("i", "subflow:p", []), raw("d", "dead letters"), *catch("a", scope=["i"]),
            *catch("b", scope=["s"]), {"id": "p", "type": "subflow", "in": [{"wires": [{"id": "t"}]}], "out": []},
            {**raw("t", "transform", []), "z": "p"}, *inner,
        ]  # fmt: skip

    async def scenario() -> None:
        async with running(*flow()) as lab:
            lab["i-t"].process_ = failing
            await lab.feed("s", 1)
            assert [sink for sink in ("a", "b", "d") if lab[sink].payloads()] == ["a"]
            assert lab["a"].safe()[0].props["error"]["source"]["id"] == "i-t"
        inner = [{**item, "z": "p"} for item in catch("c", scope=["t"])]
        async with running(*flow(*inner)) as lab:
            lab["i-t"].process_ = failing
            await lab.feed("s", 1)
            assert [sink for sink in ("a", "i-c", "d") if lab[sink].payloads()] == ["i-c"]

    run(scenario)


def test_sink_that_refuses_a_message_is_caught_too() -> None:
    async def scenario() -> None:
        async with running(*FAILS, *catch("c", scope=["k"])) as lab:

            async def refuse(msgs: list[Msg]) -> None:
                raise ValueError("no")

            lab["k"].write_ = refuse
            await lab.feed("s", 1)
            error = lab["c"].safe()[0].props["error"]
            assert (error["message"], error["name"], error["source"]["id"]) == ("no", "ValueError", "k")

    run(scenario)


# -- complete -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["transform", "worker", "sink"])
def test_complete_tells_of_what_a_node_is_done_with_and_not_of_what_it_fails_on(kind: str) -> None:
    async def scenario() -> None:
        flow = (raw("s", "source", ["x"]), raw("x", kind, []), n("c", "complete", ["k"], scope=["x"]), raw("k", "sink"),
                raw("d", "dead letters"))  # fmt: skip
        async with running(*flow) as lab:

            def check(msgs: list[Msg]) -> list[Msg]:
                return [msg.derive(payload=msg.payload / 1) for msg in msgs]

            async def write(msgs: list[Msg]) -> None:
                check(msgs)

            lab["x"].process_, lab["x"].write_ = check, write
            await lab.feed("s", 1, "two", 3)
            assert [(msg.payload, msg.props) for msg in lab["k"].safe()] == [
                (value, {"complete": {"source": {"id": "x", "type": f"test {kind}", "name": ""}}})
                for value in (1, 3)
            ]
            assert len(lab["d"].safe()) == 1

    run(scenario)


def test_complete_does_not_hear_of_the_node_it_is_wired_to() -> None:
    """Node-RED leaves such nodes out of the scope: they would go round for ever."""

    async def scenario() -> None:
        flow = (
            raw("s", "source", ["x"]),
            raw("x", "transform", ["k"]),
            n("c", "complete", ["x"], scope=["x"]),
            raw("k", "sink"),
        )
        async with running(*flow) as lab:
            await lab.feed("s", 1)
            assert lab["k"].payloads() == [1]

    run(scenario)


def test_circle_through_a_complete_node_is_refused() -> None:
    flow = Flow(
        [raw("x", "transform", []), raw("y", "transform", ["x"]), n("c", "complete", ["y"], scope=["x"])]
    )
    assert [problem.text.split(":")[0] for problem in flow.check({})] == ["the wires form a cycle"]


def test_complete_in_a_subflow_hears_of_its_own_instance() -> None:
    async def scenario() -> None:
        flow = (
            raw("s", "source", ["i"]), n("i", "subflow:p", []), n("j", "subflow:p", []),
            {"id": "p", "type": "subflow", "in": [{"wires": [{"id": "t"}]}], "out": []},
            {**raw("t", "transform", []), "z": "p"}, n("c", "complete", ["k"], scope=["t"], z="p"), {**raw("k", "sink"), "z": "p"},
        )  # fmt: skip
        async with running(*flow) as lab:
            await lab.feed("s", 1)
            assert (lab["i-k"].payloads(), lab["j-k"].payloads()) == ([1], [])

    run(scenario)


def test_complete_node_that_a_deploy_adds_is_told_by_sinks_that_stay() -> None:
    async def scenario() -> None:
        before = (raw("s", "source", ["x"]), raw("x", "sink"), raw("k", "sink"))
        async with running(*before) as lab:
            await lab.engine.deploy(Flow([*before, n("c", "complete", ["k"], scope=["x"])]))
            await lab.feed("s", 1)
            assert lab["k"].payloads() == [1]

    run(scenario)


# -- status -------------------------------------------------------------------------------------------------------

SHOWS = (raw("s", "source", ["t"]), raw("t", "transform", []))


async def show(lab: Lab, *texts: str) -> None:
    for text in texts:
        lab["t"].show({"fill": "red", "shape": "dot", "text": text})
    await until(lambda: lab.engine._badges.quiet, "the status messages")


def test_status_tells_what_a_node_shows_when_it_changes() -> None:
    async def scenario() -> None:
        async with running(*SHOWS, n("st", "status", ["k"]), raw("k", "sink")) as lab:
            await show(lab, "hot", "hot", "cold")
            assert [msg.props["status"] for msg in lab["k"].safe()] == [
                {"fill": "red", "shape": "dot", "text": text, "source": {"id": "t", "type": "test transform", "name": ""}}
                for text in ("hot", "cold")
            ]  # fmt: skip

    run(scenario)


INSTANCE = (
    raw("s", "source", ["n"]), n("n", "subflow:sub", ["k"], name="Bay"),
    {"id": "sub", "type": "subflow", "in": [{"wires": [{"id": "t"}]}], "out": [{"wires": [{"id": "t", "port": 0}]}]},
    raw("t", "transform", [], z="sub"), raw("k", "sink"), n("st", "status", ["heard"]), raw("heard", "sink"),
)  # fmt: skip


def with_status(*wires: tuple[str, int]) -> list[Raw]:
    status = {"wires": [{"id": id, "port": port} for id, port in wires]}
    return [{**each, "status": status} if each["id"] == "sub" else each for each in INSTANCE]


@pytest.mark.parametrize(
    ("payload", "shown"),
    [
        ("charging", {"text": "charging"}),
        ({"fill": "red", "text": 3, "other": 1}, {"fill": "red", "text": "3"}),
        ({}, {}),
        ({"soc": 0.5}, {"text": '{"soc":0.5}'}),
        ([1] * 40, {"text": "[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1..."}),
        (42.0, {"text": "42"}),
    ],
)
def test_status_output_shows_below_the_instance(payload: Any, shown: dict[str, str]) -> None:
    async def scenario() -> None:
        async with running(*with_status(("t", 0))) as lab:
            told: list[tuple[str, Any]] = []
            with lab.engine.events.listening(lambda topic, data: told.append((topic, data))):
                await lab.feed("s", "before", payload)
            assert told[-1] == ("status/n", shown)
            assert lab["k"].payloads() == ["before", payload]
            await until(lambda: len(lab["heard"].safe()) == 2, "the status messages")
            source = {"id": "n", "type": "subflow:sub", "name": "Bay"}
            assert lab["heard"].safe()[-1].props["status"] == {**shown, "source": source}

    run(scenario)


def test_status_node_in_a_subflow_may_lead_to_its_status_output() -> None:
    async def scenario() -> None:
        flow = [*with_status(("inner", 0)), n("inner", "status", [], z="sub")]
        async with running(*flow) as lab:
            lab["n-t"].show({"fill": "green", "text": "ok"})
            await until(lab["heard"].safe, "the status message")
            heard = lab["heard"].safe()[0].props["status"]
            assert (heard["text"], heard["fill"], heard["source"]["id"]) == ("ok", "green", "n")

    run(scenario)


def test_nodes_in_a_subflow_reach_the_context_of_what_it_is_in() -> None:
    async def scenario() -> None:
        rules = [
            {"t": "set", "p": "$parent.seen[msg.topic]", "pt": "flow", "to": "payload", "tot": "msg"},
            {"t": "set", "p": "payload", "pt": "msg", "to": '$flowContext("$parent.seen.t") & $env("NR_SUBFLOW_NAME")', "tot": "jsonata"},
            {"t": "set", "p": "of_tab", "pt": "msg", "to": "#:(file)::$parent.$parent.all", "tot": "flow"},
        ]  # fmt: skip
        inner = {"id": "t", "type": "change", "rules": rules, "z": "sub", "wires": [[]]}
        contexts = Contexts()
        contexts.scope("global").set("all", "everywhere")
        flow = [{**inner} if each["id"] == "t" else {**each, "z": each.get("z", "tab")} for each in INSTANCE]
        async with running({"id": "tab", "type": "tab"}, *flow, services={Contexts: contexts}) as lab:
            await lab.feed("s", 5)
            assert contexts.scope("flow", "tab").get("seen") == {"t": 5}
            [msg] = lab["k"].safe()
            assert (msg.payload, msg.props) == ("5Bay", {"of_tab": "everywhere"})

    run(scenario)


@pytest.mark.parametrize("has_output", [False, True])
def test_status_inside_is_heard_around_where_there_is_no_status_output(has_output: bool) -> None:
    async def scenario() -> None:
        async with running(*(with_status() if has_output else INSTANCE)) as lab:
            lab["n-t"].show({"text": "inside"})
            await until(lambda: lab.engine._badges.quiet, "the status messages")
            heard = [msg.props["status"]["source"]["id"] for msg in lab["heard"].safe()]
            assert heard == ([] if has_output else ["n-t"])

    run(scenario)


@pytest.mark.parametrize(
    ("properties", "heard"),
    [({"scope": None}, True), ({"scope": ["t"]}, True), ({"scope": ["s"]}, False), ({"z": "other"}, False),
     ({"scope": "group", "g": "g2"}, True), ({"scope": "group", "g": "g3"}, False)],
)  # fmt: skip
def test_scope_of_status_nodes(properties: Raw, heard: bool) -> None:
    async def scenario() -> None:
        flow = [{**item, "g": "g1"} if item["id"] == "t" else item for item in SHOWS]
        groups = [group("g1", "g2"), group("g2"), group("g3")]
        async with running(*flow, *groups, n("st", "status", ["k"], **properties), raw("k", "sink")) as lab:
            await show(lab, "hot")
            assert bool(lab["k"].safe()) is heard

    run(scenario)


def test_status_that_its_own_message_changes_goes_round_beside_the_rest() -> None:
    """A node that counts what it gets, wired behind the status node that hears of it: a circle that no check sees."""

    async def scenario() -> None:
        flow = (*SHOWS, n("st", "status", ["count"], scope=["t", "count"]), raw("count", "transform", []))
        async with running(*flow) as lab:
            seen = 0

            def count(msgs: list[Msg]) -> list[Msg]:
                nonlocal seen
                seen += len(msgs)
                lab["count"].show({"text": str(seen)})
                return []

            lab["count"].process_ = count
            lab["t"].show({"text": "go"})
            await until(lambda: seen > 2000, "the circle to go round")
            async with asyncio.timeout(5):
                await lab.feed("s", 1)
            assert lab.engine.stats["count"].failures == 0

    run(scenario)


def test_badge_shown_while_starting_is_told_when_all_have_started() -> None:
    async def scenario() -> None:
        async with running(*SHOWS, n("st", "status", ["x"]), raw("x", "shows at start")) as lab:
            await until(lambda: lab["x"].got, "the status message")
            assert lab["x"].got == ["ready"]

    run(scenario)


def test_config_node_is_heard_by_the_tabs_of_those_that_use_it() -> None:
    async def scenario() -> None:
        flow = (
            n("b", "mqtt-broker"), n("latest", "test uses", broker="b", z="here"),
            n("here st", "status", ["here"], z="here"), raw("here", "sink"), n("there st", "status", ["there"], z="there"),
            raw("there", "sink"), raw("s", "source", []),
        )  # fmt: skip
        async with running(*flow) as lab:
            lab["b"].show({"text": "away"})
            await until(lab["here"].safe, "the status message")
            assert lab["there"].safe() == []

    run(scenario)


# -- link call ----------------------------------------------------------------------------------------------------


def call_flow(*between: Raw, **properties: Any) -> list[Raw]:
    """A call that goes to `in`, which leads to the first node of `between`, and back from `out`."""
    first = between[0]["id"] if between else "out"
    return [
        raw("s", "source", ["call"]), n("call", "link call", ["k"], **{"links": ["in"], **properties}),
        raw("k", "sink"), raw("d", "dead letters"), n("in", "link in", [first], name="double"), *between,
        n("out", "link out", mode="return"),
    ]  # fmt: skip


def doubled(msgs: list[Msg]) -> list[Msg]:
    return [msg.derive(payload=2 * msg.payload) for msg in msgs]


def test_call_gives_out_what_comes_back_in_order_without_its_marks() -> None:
    async def scenario() -> None:
        async with running(*call_flow(raw("t", "transform", ["out"]))) as lab:
            lab["t"].process_ = doubled
            await lab.feed("s", 1, 2, 3)
            assert [(msg.payload, msg.props) for msg in lab["k"].safe()] == [(2, None), (4, None), (6, None)]

    run(scenario)


@pytest.mark.parametrize(
    ("target", "error"),
    [
        ("double", None), ("in", None),
        ("halve", "link call 'call' … target link in node 'halve' is not there"),
        ("twice", "target link in node 'twice' is the name of 2"), (None, "target link in node None is not there"),
    ],
)  # fmt: skip
def test_dynamic_call_finds_its_target_by_name_or_id(target: str | None, error: str | None) -> None:
    async def scenario() -> None:
        twice = [n(f"in{i}", "link in", ["out"], name="twice", z="another") for i in (1, 2)]
        async with running(*call_flow(linkType="dynamic", links=[]), *twice) as lab:
            await lab["s"].feed([Msg("t", 1, props={"target": target} if target else None)])
            found = [letter.error for letter in lab["d"].payloads()]
            assert found == ([] if error is None else [error.split("… ")[-1]])
            assert lab["k"].payloads() == ([] if error else [1])

    run(scenario)


def test_dynamic_call_prefers_the_link_in_of_its_own_tab() -> None:
    async def scenario() -> None:
        other = [n("in2", "link in", ["other"], name="double", z="another"), raw("other", "sink")]
        async with running(*call_flow(linkType="dynamic", links=[]), *other) as lab:
            await lab["s"].feed([Msg("t", 1, props={"target": "double"})])
            assert (lab["k"].payloads(), lab["other"].payloads()) == ([1], [])

    run(scenario)


def test_call_of_a_link_in_that_is_disabled_fails_at_once() -> None:
    async def scenario() -> None:
        flow = [{**item, "d": True} if item["id"] == "in" else item for item in call_flow()]
        async with running(*flow) as lab:
            await lab.feed("s", 1)
            assert [letter.error for letter in lab["d"].payloads()] == [
                "target link in node 'in' is not there"
            ]

    run(scenario)


def test_call_in_a_subflow_reaches_the_link_in_of_its_instance() -> None:
    async def scenario() -> None:
        inner = [{**item, "z": "p"} for item in call_flow()[1:] if item["id"] not in ("k", "d")]
        flow = [
            raw("s", "source", ["i"]), n("i", "subflow:p", ["k"]), n("j", "subflow:p", []), raw("k", "sink"),
            {"id": "p", "type": "subflow", "in": [{"wires": [{"id": "call"}]}], "out": [{"wires": [{"id": "call", "port": 0}]}]},
            *inner,
        ]  # fmt: skip
        async with running(*flow) as lab:
            await lab.feed("s", 1)
            assert lab["k"].payloads() == [1]

    run(scenario)


def test_calls_within_each_other_return_one_by_one() -> None:
    async def scenario() -> None:
        flow = call_flow(n("call2", "link call", ["t"], links=["in2"]), raw("t", "transform", ["out"]))
        inner = [
            n("in2", "link in", ["u"]),
            raw("u", "transform", ["out2"]),
            n("out2", "link out", mode="return"),
        ]
        async with running(*flow, *inner) as lab:
            stacks = []

            def look(msgs: list[Msg]) -> list[Msg]:
                stacks.append([call["node"] for call in (msgs[0].props or {})["_linkSource"]])
                return doubled(msgs)

            lab["t"].process_ = lab["u"].process_ = look
            await lab.feed("s", 1)
            assert (stacks, lab["k"].payloads()) == ([["call", "call2"], ["call"]], [4])

    run(scenario)


def test_call_that_calls_itself_fails_in_the_end() -> None:
    async def scenario() -> None:
        """The calls around it wait for their time, as in Node-RED."""
        again = n("again", "link call", ["out"], links=["in"])
        async with running(*call_flow(again), timer=VirtualTimer(0.0), grace_s=0.1) as lab:
            lab.feed("s", 1)
            await until(lab["d"].payloads, "the dead letter")
            assert [letter.error for letter in lab["d"].payloads()] == [
                "link calls within each other, 50 deep"
            ]

    run(scenario)


def test_call_waits_for_work_and_is_not_acknowledged_before() -> None:
    async def scenario() -> None:
        async with running(*call_flow(raw("w", "worker", ["out"]))) as lab:
            await lab.feed("s", 1, 2)
            assert lab["k"].payloads() == [1, 2]
            assert lab.engine.describe()["in_flight_batches"] == 0

    run(scenario)


def test_call_without_an_answer_fails_with_timeout_and_a_late_answer_goes_on(tmp_path: Path) -> None:
    """In Node-RED what comes back when nobody waits any more is sent on too."""

    async def scenario() -> None:
        timer = VirtualTimer(1000.0)

        async def advance(to_s: float) -> None:
            for _ in timer.advance(to_s):
                await asyncio.sleep(0.01)

        flow = call_flow(raw("later", "later", ["out"]), timeout="30")
        async with running(*flow, timer=timer, state_dir=tmp_path) as lab:
            first, second = lab.feed("s", 1), None
            await until(lambda: lab.engine.stats["later"].messages_in == 1, "the first call")
            await advance(1010.0)
            second = lab.feed("s", 2)
            await until(lambda: lab.engine.stats["later"].messages_in == 2, "the second call")
            await advance(1030.0)
            await until(lab["d"].payloads, "the first timeout")
            await advance(1040.0)
            await until(lambda: len(lab["d"].payloads()) == 2, "the second timeout")
            assert [letter.error for letter in lab["d"].payloads()] == ["timeout", "timeout"]
            await advance(1000.0 + 4000)
            await until(lambda: lab["k"].payloads() == [1, 2], "the late answers")
            await asyncio.gather(first, second)

    run(scenario)


def test_second_answer_goes_on_too() -> None:
    async def scenario() -> None:
        async with running(*call_flow(raw("t", "transform", ["out"]))) as lab:
            lab["t"].process_ = lambda msgs: [msg.derive(payload=i) for msg in msgs for i in (1, 2)]
            await lab.feed("s", 0)
            assert lab["k"].payloads() == [1, 2]

    run(scenario)


@pytest.mark.parametrize("garbage", ["text", [1], [{"node": 5}], {"a": 1}, [{"id": "x", "node": "gone"}]])
def test_link_source_that_a_flow_has_spoilt_holds_up_nothing(garbage: Any) -> None:
    async def scenario() -> None:
        async with running(*call_flow(), raw("s2", "source", ["out"])) as lab:
            await lab["s2"].feed([Msg("t", 1, props={"_linkSource": garbage})])
            await lab["s"].feed([Msg("t", 2, props={"_linkSource": garbage})])
            assert lab["k"].payloads() == [2]

    run(scenario)


def test_link_in_that_a_deploy_adds_is_found_by_a_call_that_stays() -> None:
    async def scenario() -> None:
        flow = call_flow(linkType="dynamic", links=[])
        async with running(*(item for item in flow if item["id"] != "in")) as lab:
            await lab.engine.deploy(Flow(flow))
            await lab["s"].feed([Msg("t", 1, props={"target": "double"})])
            assert lab["k"].payloads() == [1]

    run(scenario)
