"""What a flow becomes when it runs: subflows, junctions and links taken for what they stand for, variables, what is off."""

from __future__ import annotations

from typing import Any

import pytest

from voltflow.flow import expand as expansion
from voltflow.flow.environment import Environment
from voltflow.flow.expand import ExpandError, Part, active, expand
from voltflow.flow.flow import Flow
from voltflow.node import load_nodes

load_nodes("voltflow.nodes")

Raw = dict[str, Any]


def node(id: str, *ports: list[str], type: str = "x", **properties: Any) -> Raw:
    return {"id": id, "type": type, "wires": list(ports), **properties}


def subflow(id: str, inputs: list[str], outputs: list[list[tuple[str, int]]], **properties: Any) -> Raw:
    """A definition whose input leads to inner nodes and whose outputs come from (inner node, its port)."""
    return {
        "id": id, "type": "subflow",
        "in": [{"wires": [{"id": target} for target in inputs]}],
        "out": [{"wires": [{"id": inner, "port": port} for inner, port in wires]} for wires in outputs],
        **properties,
    }  # fmt: skip


def wires(*nodes: Raw) -> dict[str, list[list[str]]]:
    """The wires of the flow as it runs, by node."""
    return {id: part.raw["wires"] for id, part in expand(list(nodes)).parts.items()}


def part(id: str, *nodes: Raw) -> Part:
    return expand(list(nodes)).parts[id]


def value(name: str, id: str, *nodes: Raw, process: dict[str, str] | None = None) -> str | None:
    return Environment(part(id, *nodes).env, process or {}).get(name)


def env(**values: Any) -> list[Raw]:
    return [{"name": name, "type": "str", "value": text} for name, text in values.items()]


# -- subflows -----------------------------------------------------------------------------------------------------

DOUBLE = (
    subflow("s", ["i"], [[("o", 0)], [("i", 1)]]),
    node("i", ["o"], [], z="s"),
    node("o", [], z="s"),
)


def test_subflow_instance_is_replaced_by_what_is_in_it() -> None:
    flow = (node("a", ["n"]), node("n", ["b"], ["c"], type="subflow:s"), node("b"), node("c"), *DOUBLE)
    assert wires(*flow) == {
        "a": [["n-i"]], "n-i": [["n-o"], ["c"]], "n-o": [["b"]], "b": [], "c": [],
    }  # fmt: skip


def test_each_instance_has_nodes_of_its_own() -> None:
    flow = (node("a", ["m", "n"]), node("m", type="subflow:s"), node("n", type="subflow:s"), *DOUBLE)
    assert wires(*flow)["a"] == [["m-i", "n-i"]]
    assert wires(*flow)["m-i"] == [["m-o"], []]
    assert wires(*flow)["n-i"] == [["n-o"], []]


def test_nested_subflows_are_wired_through_all_levels() -> None:
    flow = (
        node("a", ["n"]), node("n", ["b"], type="subflow:outer"), node("b"),
        subflow("outer", ["inner"], [[("inner", 0)]]),
        node("inner", [], type="subflow:s", z="outer"), *DOUBLE,
    )  # fmt: skip
    assert wires(*flow) == {
        "a": [["n-inner-i"]], "n-inner-i": [["n-inner-o"], []], "n-inner-o": [["b"]], "b": [],
    }  # fmt: skip


def test_input_wired_straight_to_an_output_leads_on() -> None:
    flow = (
        node("a", ["n"]), node("n", ["b"], type="subflow:p"), node("b"),
        {"id": "p", "type": "subflow", "in": [{"wires": []}], "out": [{"wires": [{"id": "p", "port": 0}]}]},
    )  # fmt: skip
    assert wires(*flow)["a"] == [["b"]]


def test_two_outputs_of_an_instance_may_come_from_one_inner_output() -> None:
    flow = (
        node("a", ["n"]), node("n", ["b"], ["c"], type="subflow:p"), node("b"), node("c"),
        subflow("p", ["i"], [[("i", 0)], [("i", 0)]]), node("i", [], z="p"),
    )  # fmt: skip
    assert wires(*flow)["n-i"] == [["b", "c"]]


def test_inner_node_knows_its_source_instance_and_groups() -> None:
    flow = (
        node("n", type="subflow:p", z="t"), subflow("p", ["i"], []),
        {"id": "g", "type": "group", "z": "p"}, node("i", z="p", g="g"),
    )  # fmt: skip
    found = expand(list(flow))
    inner = found.parts["n-i"]
    assert (inner.source_id, inner.tab, inner.groups, inner.raw["z"]) == ("i", "n", ("g",), "n")
    assert (found.instances["n"].tab, found.instances["n"].source_id) == ("t", "n")


def test_instance_knows_the_nodes_that_get_what_comes_into_it() -> None:
    flow = (
        node("n", ["b"], type="subflow:p"), node("b"),
        {"id": "p", "type": "subflow", "in": [{"wires": [{"id": "inner"}, {"id": "i"}]}],
         "out": [{"wires": [{"id": "p", "port": 0}]}]},
        node("inner", [], type="subflow:s", z="p"), node("i", [], z="p"), *DOUBLE,
    )  # fmt: skip
    instances = expand(list(flow)).instances
    assert instances["n"].entries == ("n-inner-i", "n-i", "b")
    assert instances["n-inner"].entries == ("n-inner-i",)


def test_references_within_a_subflow_lead_to_the_instance_and_texts_stay() -> None:
    """A topic or a name may be spelled as the id of a node is."""
    flow = (
        node("n", type="subflow:p"), subflow("p", ["out"], []),
        node("broker", type="mqtt-broker", z="p", broker="broker"),
        node("out", type="mqtt out", z="p", broker="broker", topic="out", name="broker"),
        node("catch", ["out"], type="catch", z="p", scope=["out"]),
    )  # fmt: skip
    parts = expand(list(flow)).parts
    assert {k: parts["n-out"].raw[k] for k in ("broker", "topic", "name")} == {
        "broker": "n-broker", "topic": "out", "name": "broker",
    }  # fmt: skip
    assert parts["n-broker"].raw["broker"] == "broker"
    assert parts["n-catch"].raw["scope"] == ["n-out"]


def test_subflow_that_contains_itself_is_refused() -> None:
    flow = [
        node("n", type="subflow:a"), subflow("a", ["x"], []), node("x", type="subflow:b", z="a"),
        subflow("b", ["y"], []), node("y", type="subflow:a", z="b"),
    ]  # fmt: skip
    with pytest.raises(ExpandError, match="the subflow contains itself") as caught:
        expand(flow)
    assert caught.value.node_id == "y"
    assert [str(problem) for problem in Flow(flow).check({})] == [
        "error: subflow:a 'y': the subflow contains itself"
    ]


def test_subflow_that_is_missing_is_named() -> None:
    with pytest.raises(ExpandError, match='its subflow "gone" is not in the flow'):
        expand([node("n", type="subflow:gone")])


def test_subflows_that_double_with_each_level_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixty lines of a file would else become a million nodes."""
    monkeypatch.setattr(expansion, "MOST_PARTS", 1000)
    flow = [node("n", type="subflow:0")]
    for level in range(20):
        flow += [
            subflow(f"{level}", [], []),
            *(node(f"{level}{c}", type=f"subflow:{level + 1}", z=f"{level}") for c in "ab"),
        ]
    with pytest.raises(ExpandError, match="with it the flow has more than 1,000 nodes"):
        expand([*flow, subflow("20", [], []), node("leaf", z="20")])


# -- junctions and links ------------------------------------------------------------------------------------------


def junction(id: str, *targets: str, **properties: Any) -> Raw:
    return node(id, list(targets), type="junction", **properties)


def test_junctions_become_the_wires_behind_them() -> None:
    flow = (node("a", ["j"], ["b"]), junction("j", "k", "b"), junction("k", "c"), node("b"), node("c"))
    assert wires(*flow) == {"a": [["c", "b"], ["b"]], "b": [], "c": []}


def test_two_ways_to_a_node_are_two_wires_as_in_node_red() -> None:
    flow = (node("a", ["j", "k", "b"]), junction("j", "b"), junction("k", "b"), node("b"))
    assert wires(*flow)["a"] == [["b", "b", "b"]]


def test_junctions_in_a_circle_lead_nowhere() -> None:
    flow = (node("a", ["j"]), junction("j", "k", "b"), junction("k", "j"), node("b"))
    assert wires(*flow)["a"] == [["b"]]


def test_junctions_that_multiply_without_end_are_refused() -> None:
    chain = [junction(f"j{i}", f"j{i + 1}", f"j{i + 1}") for i in range(40)]
    with pytest.raises(ExpandError, match="through junctions an output has more than 10,000 wires") as caught:
        expand([node("a", ["j0"]), *chain, junction("j40", "b"), node("b")])
    assert caught.value.node_id == "a"


def test_long_chain_of_junctions_is_no_recursion() -> None:
    chain = [junction(f"j{i}", f"j{i + 1}") for i in range(3000)]
    assert wires(node("a", ["j0"]), *chain, junction("j3000", "b"), node("b"))["a"] == [["b"]]


def test_links_become_wires_whichever_side_names_the_other() -> None:
    flow = (
        node("o", type="link out", links=["i"]), node("p", type="link out", links=[]),
        node("i", ["b"], type="link in", links=["o", "p"], z="another tab"), node("b"),
    )  # fmt: skip
    assert (wires(*flow)["o"], wires(*flow)["p"]) == ([["i"]], [["i"]])


def test_link_out_that_returns_is_wired_to_nothing() -> None:
    flow = (node("o", type="link out", mode="return", links=["i"]), node("i", [], type="link in", links=[]))
    assert wires(*flow)["o"] == []


def test_links_within_a_subflow_stay_in_their_instance() -> None:
    flow = (
        node("m", type="subflow:p"), node("n", type="subflow:p"), subflow("p", ["o"], []),
        node("o", type="link out", z="p", links=["i"]), node("i", type="link in", z="p", links=["o"]),
    )  # fmt: skip
    assert (wires(*flow)["m-o"], wires(*flow)["n-o"]) == ([["m-i"]], [["n-i"]])


# -- what is off --------------------------------------------------------------------------------------------------


def test_what_is_disabled_is_gone_with_the_wires_to_it() -> None:
    flow = (
        {"id": "t", "type": "tab", "disabled": True}, node("a", ["j", "k"]), node("off", d=True), node("on_tab", z="t"),
        junction("j", "off", "b"), junction("k", "b", d=True), node("b"), node("n", ["b"], type="subflow:s", d=True), *DOUBLE,
    )  # fmt: skip
    assert wires(*flow) == {"a": [["b"]], "b": []}


def test_active_names_inner_nodes_and_nothing_that_is_only_drawn() -> None:
    flow = [{"id": "t", "type": "tab"}, {"id": "g", "type": "group"}, {"id": "c", "type": "comment"}, junction("j"),
            {"id": "e", "type": "global-config", "env": []}, node("n", type="subflow:s"), *DOUBLE]  # fmt: skip
    assert [raw["id"] for raw in active(flow)] == ["n", "i", "o"]


# -- variables ----------------------------------------------------------------------------------------------------

NESTED = (
    {"id": "all", "type": "global-config", "env": env(A="everywhere", B="everywhere")},
    {"id": "t", "type": "tab", "env": env(B="tab", C="tab")},
    {"id": "g1", "type": "group", "z": "t", "env": env(C="outer group", D="outer group")},
    {"id": "g2", "type": "group", "z": "t", "g": "g1", "env": env(D="inner group")},
    node("x", z="t", g="g2"),
)


def test_variables_are_looked_up_from_the_inside_out() -> None:
    names = [value(name, "x", *NESTED, process={"A": "process", "E": "process"}) for name in "ABCDEF"]
    assert names == ["everywhere", "tab", "outer group", "inner group", "process", None]


def test_parent_begins_one_level_further_out() -> None:
    found = [value(f"$parent.{name}", "x", *NESTED) for name in ("D", "C", "$parent.C")]
    assert found == ["outer group", "outer group", "tab"]
    assert value("$parent.HOME", "x", *NESTED, process={"HOME": "/root"}) == "/root"


def test_instance_sets_what_its_subflow_declares() -> None:
    flow = (
        {"id": "t", "type": "tab", "env": env(LIMIT="tab", TAB="tab")}, node("n", type="subflow:p", z="t", env=env(LIMIT="instance")),
        subflow("p", ["i"], [], env=env(LIMIT="definition", OTHER="definition")), node("i", z="p"),
    )  # fmt: skip
    assert [value(name, "n-i", *flow) for name in ("LIMIT", "OTHER", "TAB", "$parent.LIMIT")] == [
        "instance", "definition", "tab", "tab",
    ]  # fmt: skip


def test_variable_may_be_made_from_others_and_from_its_own_outer_value() -> None:
    flow = (
        {"id": "t", "type": "tab", "env": [
            {"name": "COPY", "type": "env", "value": "HOST"}, {"name": "URL", "type": "env", "value": "http://${HOST}:${PORT}"},
            {"name": "HOST", "type": "str", "value": "gateway"}, {"name": "LEVEL", "type": "str", "value": "1"}]},
        {"id": "g", "type": "group", "env": [{"name": "LEVEL", "type": "env", "value": "LEVEL"},
                                             {"name": "ON", "type": "bool", "value": True}]},
        node("x", z="t", g="g"),
    )  # fmt: skip
    found = [value(name, "x", *flow, process={"PORT": "1883"}) for name in ("COPY", "URL", "LEVEL", "ON")]
    assert found == ["gateway", "http://gateway:1883", "1", "true"]


def test_many_levels_of_variables_stay_few() -> None:
    """Each level has those of all levels around it; doubling them would end at forty groups."""
    flow = [{"id": f"g{i}", "type": "group", "g": f"g{i + 1}", "env": env(X=str(i))} for i in range(40)]
    found = part("x", *flow, node("x", g="g0"))
    assert (found.env["X"], found.env["$parent." * 39 + "X"], len(found.env)) == ("0", "39", 3 * 40)


NAMED = (
    {"id": "t", "type": "tab", "label": "First tab", "env": env(WHERE="${NR_FLOW_NAME}", NR_FLOW_ID="mine")},
    {"id": "g", "type": "group", "z": "t", "name": "Outer group"},
    node("x", z="t", g="g", name="A node"),
    node("n", type="subflow:p", z="t", g="g", name="An instance"),
    subflow("p", [], []),
    {"id": "ig", "type": "group", "z": "p", "name": "Inner group"},
    node("i", z="p", name="Inner"), node("j", z="p", g="ig"), node("m", type="subflow:q", z="p", name="Nested"),
    subflow("q", [], []), node("k", z="q"),
    node("c", name="A config node"),
)  # fmt: skip


@pytest.mark.parametrize(
    ("id", "expected"),
    [
        ("x", {"NODE_ID": "x", "NODE_NAME": "A node", "NODE_PATH": "t/x", "GROUP_ID": "g", "GROUP_NAME": "Outer group",
               "FLOW_ID": "t", "FLOW_NAME": "First tab", "SUBFLOW_ID": None}),
        ("n-i", {"NODE_ID": "n-i", "NODE_NAME": "Inner", "NODE_PATH": "t/n/i", "GROUP_NAME": "Outer group", "FLOW_ID": "t",
                 "SUBFLOW_ID": "n", "SUBFLOW_NAME": "An instance", "SUBFLOW_PATH": "t/n"}),
        ("n-j", {"GROUP_ID": "n-ig", "GROUP_NAME": "Inner group", "NODE_NAME": ""}),
        ("n-m-k", {"NODE_PATH": "t/n/m/k", "SUBFLOW_ID": "n-m", "SUBFLOW_NAME": "Nested", "SUBFLOW_PATH": "t/n/m",
                   "FLOW_NAME": "First tab"}),
        ("c", {"NODE_NAME": "A config node", "NODE_PATH": "global/c", "FLOW_ID": None, "GROUP_ID": None}),
    ],
)  # fmt: skip
def test_node_may_ask_what_it_and_all_it_is_in_are_called(id: str, expected: dict[str, str | None]) -> None:
    variables = Environment(part(id, *NAMED).variables, {})
    assert {name: variables.get(f"NR_{name}") for name in expected} == expected


def test_names_are_variables_like_others() -> None:
    flow = Flow([
        {"id": "t", "type": "tab", "label": "Depot"}, {"id": "g", "type": "group", "z": "t", "name": "Chargers"},
        node("b", type="mqtt-broker"), node("o", type="mqtt out", z="t", g="g", broker="b", topic="${NR_FLOW_NAME}"),
        node("n", type="subflow:s", z="t", g="g", name="Bay"), subflow("s", [], []),
        node("i", type="mqtt out", z="s", broker="b", topic="${NR_SUBFLOW_NAME}"),
        node("j", type="mqtt out", z="s", broker="b", topic="${NR_GROUP_NAME}"),
    ])  # fmt: skip
    assert flow.check({}) == []
    built = flow.build({})
    topics = [built[id].node.topic for id in ("o", "n-i", "n-j")]  # type: ignore[attr-defined]
    assert topics == ["Depot", "Bay", "Chargers"]


def test_new_name_makes_only_those_nodes_anew_that_ask_for_it() -> None:
    def flow(name: str) -> Flow:
        return Flow([
            {"id": "t", "type": "tab", "label": name}, node("b", type="mqtt-broker"),
            node("asks", type="mqtt out", z="t", broker="b", topic="${NR_FLOW_NAME}"),
            node("other", type="mqtt out", z="t", broker="b", topic="x", name=name),
        ])  # fmt: skip

    before = flow("Depot").build({})
    after = flow("Garage").build({}, before)
    kept = [id for id in before if after[id].node is before[id].node]
    assert kept == ["b", "other"]
    assert after["asks"].node.topic == "Garage"  # type: ignore[attr-defined]


# -- the status output --------------------------------------------------------------------------------------------


def test_status_output_ends_in_a_node_of_each_instance() -> None:
    status = {"wires": [{"id": "o", "port": 0}, {"id": "s", "port": 0}]}
    flow = (node("a", ["n"]), node("n", ["b"], ["c"], type="subflow:s"), node("b"), node("c"),
            {**DOUBLE[0], "status": status}, *DOUBLE[1:])  # fmt: skip
    assert wires(*flow) == {
        "a": [["n-i", "n:subflow-status"]], "n-i": [["n-o"], ["c"]], "n-o": [["b", "n:subflow-status"]],
        "n:subflow-status": [], "b": [], "c": [],
    }  # fmt: skip


def test_flow_check_knows_declared_variables() -> None:
    flow = Flow([
        {"id": "t", "type": "tab", "env": env(TOPIC="alerts")}, node("b", type="mqtt-broker"),
        node("o", type="mqtt out", z="t", broker="b", topic="${TOPIC}"),
        node("p", type="mqtt out", z="t", broker="b", topic="${$parent.TOPIC}"),
    ])  # fmt: skip
    assert flow.check({}) == []
    assert flow.build({"TOPIC": "of the process"})["o"].node.topic == "alerts"  # type: ignore[attr-defined]
    assert flow.build({"TOPIC": "of the process"})["p"].node.topic == "of the process"  # type: ignore[attr-defined]
