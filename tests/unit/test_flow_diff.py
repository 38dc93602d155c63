"""What is different between two flows, in words."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voltflow.admin.flow_diff import changed_tabs, differences, in_words
from voltflow.node import load_nodes

load_nodes("voltflow.nodes")


def raw(id: str, type: str = "switch", *ports: list[str], **properties: Any) -> dict[str, Any]:
    return {"id": id, "type": type, "z": "t", "wires": list(ports), **properties}


TAB = {"id": "t", "type": "tab", "label": "Depot"}


def words(old: list[dict[str, Any]], new: list[dict[str, Any]]) -> list[str]:
    return in_words(differences(old, new))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ([], [], ["no difference"]),
        ([TAB], [TAB, raw("a", name="hot")], ['added: switch "hot": on tab "Depot"']),
        ([TAB, raw("a")], [TAB], ['removed: switch "a": on tab "Depot"']),
        ([raw("a")], [raw("a", "change")], ['removed: switch "a"', 'added: change "a"']),
        ([raw("a", name="x")], [raw("a", name="y")], ['renamed: switch "y": it was "x"']),
        ([TAB], [{**TAB, "label": "Yard"}], ['renamed: tab "Yard": it was "Depot"']),
        ([raw("a", x=1, y=1)], [raw("a", x=9, y=9)], ["drawn otherwise: 1 node, without effect on what runs"]),
        ([raw("a")], [raw("a", d=True)], ['disabled: switch "a"']),
        ([{**TAB, "disabled": True}], [{**TAB, "disabled": False}], ['enabled: tab "Depot"']),
        ([TAB, raw("a")], [TAB, raw("a", z="u")], ['moved: switch "a": to no tab']),
        ([raw("a", property="x")], [raw("a", property="y")], ['changed: switch "a": property "x" → "y"']),
        ([raw("a")], [raw("a", repair=True)], ['changed: switch "a": repair (not set) → true']),
        ([raw("a", f="a\nb")], [raw("a", f="a\nc\nd")], ['changed: switch "a": f: 2 lines added, 1 removed']),
        (
            [raw("a", "switch", ["b"], []), raw("b", name="hot")],
            [raw("a", "switch", [], ["b"]), raw("b", name="hot")],
            [
                'rewired: switch "a": output 1 no longer leads to switch "hot"',
                'rewired: switch "a": output 2 now leads to switch "hot"',
            ],
        ),
        ([raw("a", info="x")], [raw("a", info="y", name="")], ["drawn otherwise: 1 node, without effect on what runs"]),
    ],
    ids=[
        "same", "added", "removed", "type", "name", "label", "position", "node off", "tab on", "tab", "setting",
        "new setting", "code", "wires", "description",
    ],
)  # fmt: skip
def test_differences_are_told_in_words(
    old: list[dict[str, Any]], new: list[dict[str, Any]], said: list[str]
) -> None:
    assert words(old, new) == said


def test_values_of_secrets_are_never_told() -> None:
    old = [raw("b", "mqtt-broker", password="first", user="ann", broker="x")]
    new = [raw("b", "mqtt-broker", password="second", user="bob", broker="y")]
    assert words(old, new) == [
        'changed: mqtt-broker "b": password (a secret)',
        'changed: mqtt-broker "b": user (a secret)',
        'changed: mqtt-broker "b": broker "x" → "y"',
    ]
    sent = [{**old[0], "credentials": {"password": "third"}}]
    assert words(old, sent) == ['changed: mqtt-broker "b": its credentials']


def test_long_values_are_cut() -> None:
    (said,) = words([raw("a", topic="x" * 100)], [raw("a", topic="y")])
    assert said == f'changed: switch "a": topic "{"x" * 58}… → "y"'


def test_where_the_inputs_of_a_subflow_are_drawn_says_nothing() -> None:
    def subflow(x: int) -> dict[str, Any]:
        return {"id": "s", "type": "subflow", "name": "s", "in": [{"x": x, "y": 1, "wires": [{"id": "a"}]}]}

    assert words([subflow(1)], [subflow(2)]) == ["no difference"]


# -- which tabs ---------------------------------------------------------------------------------------------------

TABS = [{"id": "t", "type": "tab"}, {"id": "u", "type": "tab"}]


@pytest.mark.parametrize(
    ("old", "new", "tabs"),
    [
        ([raw("a")], [raw("a", property="y")], {"t"}),
        ([raw("a"), raw("b", z="u")], [raw("a"), raw("b", "switch", ["a"], z="u")], {"u"}),
        ([raw("a")], [raw("a", x=5, name="z", info="i")], set()),
        ([raw("a")], [raw("a", z="u")], {"t", "u"}),
        ([raw("a")], [], {"t"}),
        (
            [raw("b", "mqtt-broker", z="", broker="x"), raw("i", "mqtt in", broker="b", z="u")],
            [raw("b", "mqtt-broker", z="", broker="y"), raw("i", "mqtt in", broker="b", z="u")],
            {"u"},
        ),
        (
            [{"id": "s", "type": "subflow"}, raw("n", z="s"), raw("i", "subflow:s", z="u")],
            [{"id": "s", "type": "subflow"}, raw("n", z="s", property="y"), raw("i", "subflow:s", z="u")],
            {"u"},
        ),
        (
            [{"id": "s", "type": "subflow", "env": []}, raw("i", "subflow:s", z="u")],
            [{"id": "s", "type": "subflow", "env": [{"name": "A"}]}, raw("i", "subflow:s", z="u")],
            {"u"},
        ),
    ],
    ids=["setting", "wire", "drawing", "moved", "removed", "config node", "in a subflow", "of a subflow"],
)  # fmt: skip
def test_tabs_that_run_otherwise(
    old: list[dict[str, Any]], new: list[dict[str, Any]], tabs: set[str]
) -> None:
    assert changed_tabs([*TABS, *old], [*TABS, *new]) == tabs


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda x: st.lists(x, max_size=3),
    max_leaves=5,
)
NODES = st.lists(
    st.fixed_dictionaries(
        {"id": st.sampled_from("abcd"), "type": st.sampled_from(["switch", "tab", "subflow:x", "odd"])},
        optional={
            "z": JSON,
            "d": JSON,
            "wires": JSON,
            "name": JSON,
            "env": JSON,
            "info": JSON,
            "x": JSON,
            "p": JSON,
        },
    ),
    max_size=4,
    unique_by=lambda node: node["id"],
)


@given(NODES, NODES)
def test_any_two_flows_can_be_compared(old: list[dict[str, Any]], new: list[dict[str, Any]]) -> None:
    assert differences(old, old) == []
    assert words(old, new)
    changed_tabs(old, new)
    kinds = {item.node_id: item.kind for item in differences(old, new) if item.kind in ("added", "removed")}
    assert set(kinds) >= {node["id"] for node in old} ^ {node["id"] for node in new}
