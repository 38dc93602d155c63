"""The flow of `bench.deploys`, and what its deploys change."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from bench.systems import BENCH, TELEMETRY

Nodes = dict[str, dict[str, Any]]
"""Of a flow, by id."""
HELD_ENDS = ("0", "1")
"""The last digit of the packs whose messages wait in the delay node."""
MARK, ROUTE, WAIT, EXTRA, OUT = "mark", "route", "wait", "extra", "out"


def flow() -> list[dict[str, Any]]:
    """mqtt in → change → switch → mqtt out, for some packs through a delay; the connections are those of `bench.loss`."""
    text = (BENCH / "flows" / "forward.json").read_text().replace("${BENCH_QOS}", "1")
    nodes: Nodes = {node["id"]: node for node in json.loads(text)}
    nodes["tab"]["label"] = "Deploys: in, several nodes, out to the uplink"
    nodes["in"] |= {"datatype": "json", "wires": [[MARK]]}
    ends = f"[{''.join(HELD_ENDS)}]/telemetry$"
    added = [
        {"id": MARK, "type": "change", "rules": [_set("mark", "0")], "wires": [[ROUTE]]},
        {"id": ROUTE, "type": "switch", "property": "topic", "propertyType": "msg", "checkall": "false", "outputs": 2,
         "rules": [{"t": "regex", "v": ends, "vt": "str", "case": False}, {"t": "else"}], "wires": [[WAIT], [OUT]]},
        {"id": WAIT, "type": "delay", "pauseType": "delay", "timeout": "100", "timeoutUnits": "milliseconds",
         "wires": [[OUT]]},
    ]  # fmt: skip
    return [*nodes.values(), *({**node, "z": "tab"} for node in added)]


def _set(name: str, value: str) -> dict[str, str]:
    return {"t": "set", "p": f"payload.{name}", "pt": "msg", "to": value, "tot": "num"}


@dataclass(frozen=True)
class Change:
    """One kind of deploy: as which type it is sent, what it does to the flow (given its number), whether it is to be refused."""

    what: str
    kind: Literal["nodes", "flows", "full"]
    edit: Callable[[Nodes, int], None]
    wrong: bool = False


def _property(nodes: Nodes, number: int) -> None:
    nodes[MARK]["rules"] = [_set("mark", str(number))]


def _position(nodes: Nodes, number: int) -> None:
    for place, node in enumerate(nodes.values()):
        if node.get("z"):
            node |= {"x": 100 + 7 * place + number % 50, "y": 80 + number % 30}


def _add(nodes: Nodes, number: int) -> None:
    nodes[EXTRA] = {
        "id": EXTRA,
        "type": "change",
        "z": "tab",
        "rules": [_set("extra", str(number))],
        "wires": [[ROUTE]],
    }
    nodes[MARK]["wires"] = [[EXTRA]]


def _remove(nodes: Nodes, number: int) -> None:
    del nodes[EXTRA]
    nodes[MARK]["wires"] = [[ROUTE]]


def _source(nodes: Nodes, number: int) -> None:
    """The one filter has all topics of the other, so the broker sends to both for a moment."""
    before = nodes["in"]["topic"]
    nodes["in"]["topic"] = TELEMETRY if before == "ev/v1/+/+/telemetry" else "ev/v1/+/+/telemetry"


def _held(nodes: Nodes, number: int) -> None:
    nodes[WAIT]["timeout"] = "150" if nodes[WAIT]["timeout"] == "100" else "100"


def _sink(nodes: Nodes, number: int) -> None:
    nodes[OUT]["qos"] = "2" if nodes[OUT]["qos"] == "1" else "1"


def _brokers(nodes: Nodes, number: int) -> None:
    for name in ("local", "uplink"):
        nodes[name]["keepalive"] = 30 + number % 30


def _wrong(nodes: Nodes, number: int) -> None:
    nodes[WAIT]["timeout"] = "soon"


CHANGES = (
    Change("a property of a node", "nodes", _property),
    Change("positions", "nodes", _position),
    Change("a node added", "flows", _add),
    Change("a topic filter", "nodes", _source),
    Change("a node that holds messages", "nodes", _held),
    Change("all nodes anew", "full", _property),
    Change("the way out", "flows", _sink),
    Change("a wrong property", "nodes", _wrong, wrong=True),
    Change("a node removed", "nodes", _remove),
    Change("both connections", "nodes", _brokers),
)


def deploys() -> Iterator[tuple[int, Change]]:
    """All kinds in turn, for ever, each with its number."""
    return enumerate(itertools.cycle(CHANGES), 1)


def changed(nodes: list[dict[str, Any]], change: Change, number: int) -> list[dict[str, Any]]:
    """The flow after it; the one given stays."""
    by_id: Nodes = {node["id"]: dict(node) for node in nodes}
    change.edit(by_id, number)
    return list(by_id.values())
