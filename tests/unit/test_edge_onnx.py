"""The `onnx` node in a flow: what it says where nothing prepares its inputs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edge.nodes.onnx import UNFED
from voltflow.flow.flow import Flow
from voltflow.lab.lab import FlowLab

READING = json.loads((Path(__file__).parents[2] / "edge/flows.test.json").read_text())["messages"]["reading"]


def flow(*between: dict[str, Any]) -> Flow:
    """A twin, these nodes, and a model."""
    nodes = [
        {"id": "in", "type": "link in"}, {"id": "valid", "type": "validate"}, {"id": "twin", "type": "twin"},
        *between, {"id": "onnx", "type": "onnx", "model": "temperature"}, {"id": "out", "type": "debug"},
    ]  # fmt: skip
    followers = [[[item["id"]]] for item in nodes[1:]] + [[]]
    return Flow([{**item, "wires": wires} for item, wires in zip(nodes, followers, strict=True)])


@pytest.mark.parametrize(
    ("between", "badge"),
    [
        ([], UNFED),
        ([{"id": "f", "type": "features", "models": "soh,rul"}], UNFED),
        ([{"id": "f", "type": "features"}], {}),
    ],
)  # fmt: skip
def test_model_without_features_says_so(between: list[dict[str, Any]], badge: dict[str, str]) -> None:
    with FlowLab(flow(*between)) as lab:
        for seq in range(4):
            payload = {**READING["payload"], "seq": seq, "ts_ms": READING["payload"]["ts_ms"] + seq * 10_000}
            lab.send("in", json.dumps(payload).encode(), topic=READING["topic"])
            lab.advance(10)
        assert lab.badge("onnx") == badge
        predictions = [item.payload["predictions"] for item in lab.reached("out")]
        assert [bool(found) for found in predictions] == [not badge] * 4
