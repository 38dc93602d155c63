"""Faults of where nodes are and what they are in, which do not show when a flow runs."""

from __future__ import annotations

from typing import Any

import pytest

from voltflow.flow.flow import Flow
from voltflow.node import load_nodes

load_nodes("voltflow.nodes")
TAB = {"id": "t", "type": "tab", "label": "one"}
SELF = [
    {"id": "a", "type": "subflow", "name": "A"},
    {"id": "b", "type": "subflow", "name": "B"},
    {"id": "in-a", "type": "subflow:b", "z": "a"},
    {"id": "in-b", "type": "subflow:a", "z": "b", "name": "again"},
]


@pytest.mark.parametrize(
    ("nodes", "problem"),
    [
        ([{"id": "", "type": "comment"}], 'error: comment \'\': property "id": it is empty; give each node its own'),
        (
            [{"id": "n", "type": "comment", "z": "gone"}],
            'warning: comment \'n\': property "z": tab "gone" is not in the flow',
        ),
        *(
            ([{**TAB, "name": "t", "env": env}],
             'error: tab \'t\': property "env": it is a list of variables, objects with "name", "type" and "value"')
            for env in ("abc", {"name": "A"}, ["abc"])
        ),
        (SELF, "error: subflow:a 'again': the subflow contains itself"),
        (
            [SELF[0], {"id": "n", "type": "subflow:a", "z": "a", "name": "again"}],
            "error: subflow:a 'again': the subflow contains itself",
        ),
    ],
)  # fmt: skip
def test_fault_is_named_with_node_and_property(nodes: list[dict[str, Any]], problem: str) -> None:
    assert [str(item) for item in Flow(nodes).check({})] == [problem]


def test_what_is_right_is_not_named() -> None:
    flow: list[dict[str, Any]] = [{**TAB, "env": [{"name": "A", "type": "str", "value": "1"}]}, {"id": "g", "type": "group", "z": "t", "env": None},
            {"id": "n", "type": "subflow:b", "z": "t", "env": []}, {"id": "c", "type": "comment", "z": "b"},
            *SELF[:3], {**SELF[3], "d": True}]  # fmt: skip
    assert Flow(flow).check({}) == []


def test_subflows_within_each_other_a_thousand_deep_are_looked_at() -> None:
    subflows = [{"id": f"s{number}", "type": "subflow", "name": "s"} for number in range(2000)]
    inner = [
        {"id": f"i{number}", "type": f"subflow:s{number + 1}", "z": f"s{number}"} for number in range(1999)
    ]
    assert Flow([*subflows, *inner]).check({}) == []
