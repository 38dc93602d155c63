"""One tab out of a flow, put in, replaced or taken away: what `/flow/ID` of Node-RED's admin API does.

>>> tab = {"label": "heat", "nodes": [{"id": "n", "type": "debug", "x": 9, "y": 9}]}
>>> nodes, id = add_flow([], tab)
>>> get_flow(nodes, id)["nodes"][0]["z"] == id
True
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from typing import Any

RawNode = dict[str, Any]

_OF_TAB = ("label", "disabled", "info", "env")


class NoFlowError(LookupError):
    """There is no such tab."""


class WrongFlowError(ValueError):
    """What is to be put in is no flow; the message says why."""


def get_flow(nodes: list[RawNode], id: str) -> dict[str, Any]:
    """A tab with its nodes, or `global`: config nodes without a tab, and subflows. Raises NoFlowError."""
    if id == "global":
        subflows = [node for node in nodes if node["type"] == "subflow"]
        return {
            "id": "global",
            "configs": [node for node in nodes if _is_config(node) and not node.get("z")],
            "subflows": [{**node, **_inside(nodes, node["id"])} for node in subflows],
        }
    tab = _tab(nodes, id)
    return {"id": id, **{name: tab[name] for name in _OF_TAB if name in tab}, **_inside(nodes, id)}


def add_flow(nodes: list[RawNode], flow: dict[str, Any]) -> tuple[list[RawNode], str]:
    """The flow with one more tab, and its new id. Raises WrongFlowError where an id is taken, or no nodes are named."""
    if "nodes" not in flow:
        raise WrongFlowError('property "nodes" is missing: a list of nodes, which may be empty')
    id = secrets.token_hex(8)
    added = _tab_nodes(flow, id)
    _check_ids(nodes, added)
    return [*nodes, *added], id


def put_flow(nodes: list[RawNode], id: str, flow: dict[str, Any]) -> list[RawNode]:
    """The flow with a tab replaced, or what `global` is. Raises NoFlowError, WrongFlowError."""
    if id == "global":
        kept = [node for node in nodes if not _is_global(node, nodes)]
        added = _globals(flow)
        _check_ids(kept, added)
        return [*added, *kept]
    _tab(nodes, id)
    kept = [node for node in nodes if not _belongs(node, id)]
    added = _tab_nodes(flow, id)
    _check_ids(kept, added)
    at = next(index for index, node in enumerate(nodes) if node["id"] == id)
    before = sum(not _belongs(node, id) for node in nodes[:at])
    return [*kept[:before], *added, *kept[before:]]


def delete_flow(nodes: list[RawNode], id: str) -> list[RawNode]:
    """The flow without a tab. Raises NoFlowError; `global` cannot be taken away."""
    if id == "global":
        raise WrongFlowError("the global flow cannot be deleted")
    _tab(nodes, id)
    return [node for node in nodes if not _belongs(node, id)]


def _tab(nodes: Iterable[RawNode], id: str) -> RawNode:
    for node in nodes:
        if node["id"] == id and node["type"] == "tab":
            return node
    raise NoFlowError(f"there is no flow {id}")


def _belongs(node: RawNode, id: str) -> bool:
    return bool(node["id"] == id or node.get("z") == id)


def _is_config(node: RawNode) -> bool:
    """Config nodes have no place on a tab."""
    return node["type"] not in ("tab", "subflow") and "x" not in node and "y" not in node


def _inside(nodes: Iterable[RawNode], id: str) -> dict[str, list[RawNode]]:
    found = [node for node in nodes if node.get("z") == id]
    configs = [node for node in found if _is_config(node)]
    inside = {"nodes": [node for node in found if not _is_config(node)]}
    return {**inside, "configs": configs} if configs else inside


def _is_global(node: RawNode, nodes: Iterable[RawNode]) -> bool:
    subflows = {other["id"] for other in nodes if other["type"] == "subflow"}
    return bool(
        node["id"] in subflows or node.get("z") in subflows or (_is_config(node) and not node.get("z"))
    )


def _globals(flow: dict[str, Any]) -> list[RawNode]:
    added = [dict(node) for node in _list(flow, "configs")]
    for subflow in _list(flow, "subflows"):
        inside = [*_list(subflow, "nodes"), *_list(subflow, "configs")]
        added.append({name: value for name, value in subflow.items() if name not in ("nodes", "configs")})
        added += [{**node, "z": subflow.get("id")} for node in inside]
    return added


def _tab_nodes(flow: dict[str, Any], id: str) -> list[RawNode]:
    """The tab and what is on it, all of them with its id."""
    tab = {"id": id, "type": "tab", "label": "", **{name: flow[name] for name in _OF_TAB if name in flow}}
    return [tab, *({**node, "z": id} for node in (*_list(flow, "nodes"), *_list(flow, "configs")))]


def _list(flow: dict[str, Any], name: str) -> list[RawNode]:
    found = flow.get(name, [])
    if not isinstance(found, list) or not all(isinstance(node, dict) for node in found):
        raise WrongFlowError(f'"{name}" is to be a list of nodes')
    return found


def _check_ids(kept: Iterable[RawNode], added: Iterable[RawNode]) -> None:
    seen = {node["id"] for node in kept}
    for node in added:
        id = node.get("id")
        if not isinstance(id, str) or not isinstance(node.get("type"), str):
            raise WrongFlowError('a node has the texts "id" and "type"')
        if id in seen:
            raise WrongFlowError(f"duplicate id: {id}")
        seen.add(id)
