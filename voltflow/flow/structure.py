"""What is wrong with where the nodes of a flow are, and with what they are in; whether or not it runs.

>>> [fault.text for fault in faults([{"id": "n", "type": "debug", "z": "gone"}])]
['property "z": tab "gone" is not in the flow']
"""

from __future__ import annotations

import graphlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from voltflow.flow.expand import SUBFLOW, RawNode, text_of

_WITH_ENV = frozenset({"tab", "group", "subflow", "global-config"})


class Fault(NamedTuple):
    """One fault, of a property of a node. `runs`: the node does its work all the same, as in Node-RED."""

    raw: RawNode
    property: str
    text: str
    runs: bool = False


def faults(nodes: Sequence[RawNode]) -> Iterator[Fault]:
    """All of them, in the order of the flow."""
    flows = {raw["id"] for raw in nodes if raw["type"] in ("tab", "subflow")}
    closing = _closing_instance(nodes)
    for raw in nodes:
        if not raw["id"]:
            yield Fault(raw, "id", 'property "id": it is empty; give each node its own')
        home = text_of(raw, "z")
        if home and home not in flows:
            yield Fault(raw, "z", f'property "z": tab "{home}" is not in the flow', runs=True)
        if not _is_env(raw):
            yield Fault(
                raw,
                "env",
                'property "env": it is a list of variables, objects with "name", "type" and "value"',
            )
        if closing and raw["id"] == closing:
            yield Fault(raw, "type", "the subflow contains itself")


def _is_env(raw: RawNode) -> bool:
    if raw["type"] not in _WITH_ENV and not raw["type"].startswith(SUBFLOW):
        return True
    env = raw.get("env")
    return env is None or (isinstance(env, list) and all(isinstance(item, dict) for item in env))


def _closing_instance(nodes: Sequence[RawNode]) -> str:
    """The id of an instance by which a subflow contains itself, also one that is used nowhere; empty: none does."""
    inside: dict[str, dict[str, str]] = {raw["id"]: {} for raw in nodes if raw["type"] == "subflow"}
    for raw in nodes:
        if raw["type"].startswith(SUBFLOW) and text_of(raw, "z") in inside and not raw.get("d"):
            inside[text_of(raw, "z")][raw["type"].removeprefix(SUBFLOW)] = raw["id"]
    try:
        graphlib.TopologicalSorter(inside).prepare()
    except graphlib.CycleError as error:
        path: list[str] = error.args[1]  # each in the one behind it
        outermost = next(id for id in inside if id in path)
        return inside[path[path.index(outermost) + 1]][outermost]
    return ""
