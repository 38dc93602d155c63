"""The flows that come with gateway and bridge: their cases hold, and people can read them on the canvas."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any, NamedTuple

import jsonschema
import pytest

from cloud.bridge import BridgeSettings
from voltflow.cli import main
from voltflow.flow.flow import Flow
from voltflow.lab import cases as flow_cases
from voltflow.lab.lab import FlowLab

ROOT = Path(__file__).parents[2]
SHIPPED = ("edge/flows.json", "cloud/flows.json", "cloud/flows-from-kafka.json")
WITH_CASES = ("edge/flows.json", "cloud/flows.json")
CHARACTER, AROUND, HEIGHT, BELOW = 7, 60, 30, 20
"""Pixels at most: of a character of a label, of what is around it, of a node, of the status below it."""


@pytest.mark.parametrize("name", WITH_CASES)
def test_cases_hold(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    file = ROOT / name.replace("flows.json", "flows.test.json")
    tests = json.loads(file.read_text())
    jsonschema.validate(tests, flow_cases.json_schema())
    assert (file.parent / tests["$schema"]).resolve() == ROOT / "docs/schema/flow.test-1.json"
    assert main(["flow", "test", str(ROOT / name)]) == 0, capsys.readouterr().out


def test_cases_of_the_bridge_can_fail(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A flow that leaves dead letters out of the history."""
    nodes = json.loads((ROOT / "cloud/flows.json").read_text())
    next(raw for raw in nodes if raw["id"] == "dead")["wires"] = [["kafka"]]
    (tmp_path / "flows.json").write_text(json.dumps(nodes))
    (tmp_path / "flows.test.json").write_text((ROOT / "cloud/flows.test.json").read_text())
    assert main(["flow", "test", str(tmp_path / "flows.json")]) == 1
    assert "3 of 5 passed" in capsys.readouterr().out


def test_flow_of_a_bridge_knows_its_settings_in_a_lab() -> None:
    """All of them, so that a node between broker and database may use any."""
    rule = {
        "t": "set",
        "p": "bridge",
        "pt": "msg",
        "to": "${VOLTFLOW_BRIDGE_NAME} of ${VOLTFLOW_BRIDGE_INFLUX_ORG}",
        "tot": "env",
    }
    nodes = [
        {"id": "c", "type": "change", "rules": [rule], "wires": [["d"]]},
        {"id": "d", "type": "debug", "wires": []},
    ]
    with FlowLab(Flow(nodes)) as lab:
        lab.send("c", 1)
        assert lab.reached("d")[0].props == {"bridge": "lab of voltflow"}
    variables = set(BridgeSettings().variables())
    needed = {name for raw in _nodes("cloud/flows.json") for name in _named(raw)}
    assert needed <= variables


def _named(raw: dict[str, Any]) -> list[str]:
    return [value[2:-1] for value in raw.values() if isinstance(value, str) and value.startswith("${")]


# -- on the canvas ------------------------------------------------------------------------------------------------


class Box(NamedTuple):
    id: str
    left: float
    top: float
    right: float
    bottom: float


def _nodes(name: str) -> list[dict[str, Any]]:
    return Flow.load(ROOT / name).nodes


def _boxes(name: str) -> dict[str, Box]:
    found = {}
    for raw in _nodes(name):
        if "z" not in raw:
            continue
        half = max(100, CHARACTER * len(raw["name"] or raw["type"]) + AROUND) / 2
        x, y = raw["x"], raw["y"]
        found[raw["id"]] = Box(raw["id"], x - half, y - HEIGHT / 2, x + half, y + HEIGHT / 2 + BELOW)
    return found


def _apart(one: Box, other: Box) -> bool:
    return (
        one.right <= other.left
        or other.right <= one.left
        or one.bottom <= other.top
        or other.bottom <= one.top
    )


@pytest.mark.parametrize("name", SHIPPED)
def test_no_node_lies_on_another_one(name: str) -> None:
    boxes = _boxes(name).values()
    assert [(a.id, b.id) for a, b in itertools.combinations(boxes, 2) if not _apart(a, b)] == []
    assert all(box.left >= 0 and box.top >= 0 for box in boxes)
