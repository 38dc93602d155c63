"""flows.json: round trip, checks with the right lines, variables, what is disabled, and the default flows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tests.flows  # the node types of the tests
from voltflow.flow.flow import Flow, FlowError
from voltflow.flow.line_numbers import lines_of
from voltflow.node import ConfigNode, Transform, config, load_installed_nodes, node

ROOT = Path(__file__).parents[2]
load_installed_nodes()
assert tests.flows


@node("test shared", category="test")
class Shared(ConfigNode):
    """A config node."""


@node("test typed", category="test", outputs=2)
class Typed(Transform):
    """With properties."""

    needed: str = config(help="a text")
    limit: float = config(1.0, help="a limit", high=100)
    shared: str = config("", help="a config node", reference="test shared")


def problems(text: str, env: dict[str, str] | None = None, *, elsewhere: bool = False) -> list[str]:
    found = Flow.parse(text).check(env or {}, elsewhere=elsewhere)
    return [str(problem) for problem in found if "no dead letter node" not in problem.text]


# -- round trip ---------------------------------------------------------------------------------------------------

FEWER = settings(max_examples=60)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
NODES = st.lists(
    st.builds(
        lambda extra, key, id_, type_: {**extra, "id": id_, "type": type_, **key},
        st.dictionaries(st.text(), JSON), st.dictionaries(st.sampled_from(["wires", "z", "d", "name", "x"]), JSON),
        st.text(), st.text() | st.sampled_from(["tab", "group", "function", "test source", "test sink", "test typed"]),
    )
)  # fmt: skip


@FEWER
@given(NODES)
def test_flow_comes_back_with_every_field_and_in_its_order(nodes: list[dict[str, Any]]) -> None:
    written = Flow.parse(json.dumps(nodes)).dumps()
    again = json.loads(written)
    assert again == nodes
    assert [list(item) for item in again] == [list(item) for item in nodes]
    assert Flow.parse(written).dumps() == written
    assert Flow.parse(written).revision == Flow.parse(json.dumps(nodes, indent=1)).revision


@FEWER
@given(NODES)
def test_check_says_what_is_wrong_and_never_fails_itself(nodes: list[dict[str, Any]]) -> None:
    """Whatever a file holds: `wires` that are a number, a tab's id that is a list …"""
    flow = Flow.parse(json.dumps(nodes, indent=2))
    found = flow.check({})
    assert all(problem.line is not None for problem in found if problem.node_id)
    if not any(problem.severity == "error" for problem in found):
        assert set(flow.build({})) == {raw["id"] for raw in flow.active()}


@FEWER
@given(st.lists(st.dictionaries(st.text(), JSON)), st.sampled_from([None, 0, 2, "\t"]))
def test_lines_are_those_of_the_text(nodes: list[dict[str, Any]], indent: int | None) -> None:
    text = json.dumps(nodes, indent=indent)
    found = lines_of(text)
    assert [list(lines.properties) for lines in found] == [list(item) for item in nodes]
    rows = text.split("\n")
    for lines in found:
        for name, line in lines.properties.items():
            assert json.dumps(name) in rows[line - 1]


@pytest.mark.parametrize(
    ("text", "error"),
    [('[{"id": "a",\n "type" "tab"}]', "error: line 2: flow file: not JSON: Expecting ':' delimiter"),
     ("{}", "error: flow file: a flow is a JSON array of nodes, as Node-RED exports it"),
     ('[{"id": "a"}]', 'error: entry 0: a node is an object with the texts "id" and "type"'),
     ('[{"id": 1, "type": "tab"}]', 'error: entry 0: a node is an object with the texts "id" and "type"'),
     ('[{"id": "a", "type": "tab", "x": NaN}]', "error: flow file: not JSON: NaN is no finite number"),
     ("[" * 100_000, "error: flow file: not a flow: nested too deeply")],
)  # fmt: skip
def test_text_that_is_no_flow_is_refused(text: str, error: str) -> None:
    with pytest.raises(FlowError) as raised:
        Flow.parse(text)
    assert str(raised.value) == error


def test_file_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    (tmp_path / "flows.json").write_text("[]", encoding="utf-8-sig")
    assert Flow.load(tmp_path / "flows.json").nodes == []


def test_text_that_is_not_unicode_has_a_revision_too() -> None:
    assert len(Flow.parse('[{"id": "\\ud800", "type": "tab"}]').revision) == 12


# -- checks -------------------------------------------------------------------------------------------------------

CASES = {
    "unknown type": (
        '[\n{"type": "gadget",\n "id": "a"}]',
        "error: line 2: gadget 'a': unknown type \"gadget\"; there are: ",
    ),
    "missing property": (
        '[\n\n{"id": "a", "type": "test typed"}]',
        "error: line 3: test typed 'a': property \"needed\" is missing: a text",
    ),
    "property out of range": (
        '[{"id": "a", "type": "test typed", "name": "hot",\n"needed": "x",\n"limit": "101"}]',
        'error: line 3: test typed \'hot\': property "limit": 101.0 is out of range, allowed is ≤ 100',
    ),
    "line of a property, not of one of the same name inside it or in the next node": (
        ('[{"type": "test typed", "id": "a", "env": [{"id": "b", "limit": 3}], "needed": "\\"limit\\":",\n"limit": 500},\n'
        '{"limit": 1, "id": "b", "type": "tab"}]'),
        "error: line 2: test typed 'a': property \"limit\": 500.0 is out of range, allowed is ≤ 100",
    ),
    "dangling wire": (
        '[{"id": "a", "type": "test source",\n"wires": [["b"]]}]',
        "error: line 2: test source 'a': a wire leads to \"b\", which is not in the flow",
    ),
    "wire to a node without input": (
        '[{"id": "a", "type": "test source", "wires": [["b"]]},\n{"id": "b", "type": "test source"}]',
        "error: line 1: test source 'a': a wire leads to \"b\", which has no input",
    ),
    "wire from an output that is not there": (
        '[{"id": "a", "type": "test source", "wires": [[], ["b"]]}, {"id": "b", "type": "test sink"}]',
        "error: line 1: test source 'a': a wire leaves output 2, but it has 1",
    ),
    "cycle": (
        ('[{"id": "a", "type": "test transform", "wires": [["b"]]},\n'
        '{"id": "b", "type": "test transform", "wires": [["a"]]}]'),
        "error: line 1: test transform 'a': the wires form a cycle: a → b → a",
    ),
    "cycle of one": (
        '[{"id": "a", "type": "test transform", "wires": [["a"]]}]',
        "error: line 1: test transform 'a': the wires form a cycle: a → a",
    ),
    "wires that are none": (
        '[{"id": "a", "type": "test source",\n"wires": ["b"]}]',
        "error: line 2: test source 'a': \"wires\" is a list of lists of node ids, one for each output",
    ),
    "config node that is not there": (
        '[{"id": "a", "type": "test typed", "needed": "x",\n"shared": "c"}]',
        'error: line 2: test typed \'a\': property "shared": config node "c" is not in the flow',
    ),
    "config node of another type": (
        '[{"id": "a", "type": "test typed", "needed": "x", "shared": "c"}, {"id": "c", "type": "test sink"}]',
        'error: line 1: test typed \'a\': property "shared": "c" is a test sink, not a test shared',
    ),
    "config node that is disabled": (
        ('[{"id": "a", "type": "test typed", "needed": "x", "shared": "c"},\n'
        '{"id": "c", "type": "test shared", "d": true}]'),
        'error: line 1: test typed \'a\': property "shared": config node "c" is disabled',
    ),
    "double id, at the second": (
        '[{"id": "a", "type": "test sink"},\n{"id": "a", "type": "test sink"}]',
        "error: line 2: test sink 'a': another node has the same id; give each its own",
    ),
    "JavaScript": (
        '[\n{"id": "f", "type": "function", "name": "sum", "func": "return msg;", "wires": [[]]}]',
        "error: line 2: function 'sum': JavaScript and commands are not run here: use change, switch, template or a python node in its place; it is kept as it is: 'return msg;'",
    ),
    "variable that is not set": (
        '[{"id": "a", "type": "test typed",\n"needed": "${NOT_SET_HERE}"}]',
        "error: line 2: test typed 'a': property \"needed\": the environment has no NOT_SET_HERE for ${NOT_SET_HERE}",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("text", "error"), CASES.values(), ids=CASES)
def test_check_names_what_is_wrong_and_where(text: str, error: str) -> None:
    found = problems(text)
    assert len(found) == 1
    assert found[0].startswith(error)
    with pytest.raises(FlowError):
        Flow.parse(text).build({})


def test_everything_wrong_is_named_at_once() -> None:
    text = (
        "["
        + ",".join(case[0].strip("[]").replace('"a"', f'"a{i}"') for i, case in enumerate(CASES.values()))
        + "]"
    )
    assert len(problems(text)) >= len(CASES) - 3  # some wires now lead to another case's node


def test_every_wrong_property_of_a_node_is_named_in_its_line() -> None:
    text = (
        '[{"id": "a", "type": "test typed",\n"needed": 5,\n"limit": "x",\n"shared": "c"},\n'
        '{"id": "in", "type": "mqtt in", "broker": "b",\n"topic": "a/#/c"}, {"id": "b", "type": "mqtt-broker"}]'
    )
    assert [[*problem.split(": ", 3)[1:3], problem.split('"')[1]] for problem in problems(text)] == [
        ["line 2", "test typed 'a'", "needed"],
        ["line 3", "test typed 'a'", "limit"],
        ["line 4", "test typed 'a'", "shared"],
        ["line 6", "mqtt in 'in'", "topic"],
    ]


def test_config_nodes_that_are_not_chosen_are_all_named_before_anything_starts() -> None:
    nodes = [
        {"id": "tab", "type": "tab", "label": "Flow 1"},
        {"id": "1", "type": "mqtt in", "z": "tab", "name": "", "topic": "t", "broker": "", "wires": [[]]},
        {"id": "2", "type": "mqtt latest", "z": "tab", "broker": ""},
        {"id": "3", "type": "dead letter", "name": "lost", "z": "tab", "broker": ""},
    ]
    assert problems(json.dumps(nodes)) == [
        'error: line 1: mqtt in \'1\' on "Flow 1": property "broker": choose one',
        'error: line 1: mqtt latest \'2\' on "Flow 1": property "broker": choose one',
        "error: line 1: dead letter 'lost': property \"broker\": choose one",
    ]


def test_config_node_that_instances_of_a_subflow_choose_need_not_be_chosen_in_it() -> None:
    nodes = [
        {
            "id": "sub",
            "type": "subflow",
            "in": [],
            "out": [],
            "env": [{"name": "BROKER", "type": "str", "value": ""}],
        },
        {"id": "in", "type": "mqtt in", "z": "sub", "topic": "t", "broker": "${BROKER}", "wires": [[]]},
    ]
    assert not [text for text in problems(json.dumps(nodes)) if text.startswith("error")]


def test_flow_without_a_dead_letter_node_is_warned_of() -> None:
    found = Flow.parse('[{"id": "a", "type": "test source"}]').check({})
    assert [str(problem) for problem in found] == [
        "warning: flow: no dead letter node: a message that a node fails on is logged, counted and dropped"
    ]


def test_variable_of_another_machine_is_only_a_warning() -> None:
    found = problems(CASES["variable that is not set"][0], elsewhere=True)
    assert found[0].startswith("warning: line 2")


# -- what is built ------------------------------------------------------------------------------------------------


def flow(*nodes: dict[str, Any]) -> Flow:
    return Flow(list(nodes))


def test_text_numbers_and_variables_become_what_the_field_says() -> None:
    built = flow({"id": "a", "type": "test typed", "needed": "${WHO}", "limit": "5"}).build({"WHO": "me"})
    typed = built["a"].node
    assert isinstance(typed, Typed)
    assert (typed.needed, typed.limit) == ("me", 5.0)


def test_disabled_nodes_and_tabs_are_left_out_with_the_wires_to_them() -> None:
    built = flow(
        {"id": "off", "type": "tab", "disabled": True}, {"id": "on", "type": "tab", "disabled": False},
        {"id": "s", "type": "test source", "z": "on", "wires": [["k1", "k2", "k3"]]},
        {"id": "k1", "type": "test sink", "z": "on"}, {"id": "k2", "type": "test sink", "z": "on", "d": True},
        {"id": "k3", "type": "test sink", "z": "off"}, {"id": "?", "type": "unknown", "z": "off"},
        {"id": "g", "type": "group", "z": "on"}, {"id": "c", "type": "comment", "z": "on"},
    ).build({})  # fmt: skip
    assert list(built) == ["s", "k1"]
    assert built["s"].targets == (("k1",),)


def test_nodes_are_built_in_the_order_of_the_wires_config_nodes_first() -> None:
    built = flow(
        {"id": "k", "type": "test sink"}, {"id": "t", "type": "test transform", "wires": [["k"]]},
        {"id": "s", "type": "test source", "wires": [["t"]]}, {"id": "c", "type": "test shared"},
    ).build({})  # fmt: skip
    assert list(built) == ["c", "s", "t", "k"]


@pytest.mark.parametrize("file", ["edge/flows.json", "cloud/flows.json"])
def test_default_flow_is_right(file: str) -> None:
    found = Flow.load(ROOT / file).check({}, elsewhere=True)
    assert [str(problem) for problem in found if problem.severity == "error"] == []
    assert all("the environment has no VOLTFLOW_" in problem.text for problem in found)


def test_command_names_file_and_lines_and_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from voltflow import cli

    path = tmp_path / "flows.json"
    path.write_text(CASES["dangling wire"][0])
    assert cli.main(["flow", "check", str(path)]) == 1
    assert f"{path}: {CASES['dangling wire'][1]}" in capsys.readouterr().out
    assert cli.main(["flow", "check", str(ROOT / "edge/flows.json")]) == 0
    assert (
        capsys.readouterr().out == f"{ROOT / 'edge/flows.json'}: the flow can run\n"
    )  # the agent sets its variables
    assert cli.main(["flow", "check", str(tmp_path / "none.json")]) == 2


def test_command_names_in_one_line_what_must_be_set_where_the_flow_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from voltflow import cli

    path = tmp_path / "flows.json"
    text = (ROOT / "edge/flows.json").read_text()
    path.write_text(text.replace("AGENT_BROKER_HOST", "HOST").replace("AGENT_BROKER_PORT", "PORT"))
    assert cli.main(["flow", "check", str(path)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{path}: note: to be set in the environment where it runs: VOLTFLOW_HOST, VOLTFLOW_PORT",
        f"{path}: the flow can run",
    ]


def test_example_of_the_documentation_is_right() -> None:
    page = (ROOT / "docs/flows.md").read_text()
    example = Flow.parse(page.split("```json\n")[1].split("```")[0])
    assert example.check({}) == []
    assert len(example.build({})) == 5
