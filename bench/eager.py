"""`edge-agent` with its default flow, where the vectors of all four models come at every message.

The default flow asks a model when its inputs have something new to say (temperature every 10 s of device time, and so
on). That is not a setting, so a node of this file stands in the place of `features`: where a model is not due it gives
the pack's last vector again. Everything else is the default flow as it is.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import numpy as np

from edge.agent import DEFAULT_FLOW
from edge.cli import main
from edge.nodes.features import Features
from edge.reading import FeatureVector, Reading
from voltflow.battery.features import FEATURES
from voltflow.message import Msg
from voltflow.node import Context, node

UNKNOWN = {
    name: FeatureVector(np.zeros(len(features), np.float32), ready=True)
    for name, features in FEATURES.items()
}
"""By model: what a pack gets whose first vector has not come yet."""


@node("bench every", category="bench")
class Every(Features):
    """Attach a vector for every model to every message."""

    async def start(self, ctx: Context) -> None:
        await super().start(ctx)
        self._last: dict[int, dict[str, FeatureVector]] = {}

    def process(self, msgs: list[Msg]) -> list[Msg]:
        result = []
        for msg in super().process(msgs):
            reading: Reading = msg.payload
            last = self._last.get(reading.slot, UNKNOWN)
            ready = {name: vector for name, vector in reading.features.items() if vector.ready}
            last = self._last[reading.slot] = {**last, **ready}
            result.append(msg.derive(payload=reading.with_features(last)))
        return result


def eager_flow(folder: Path) -> Path:
    """The default flow with this file's node instead of `features`."""
    nodes = json.loads(DEFAULT_FLOW.read_text())
    for raw in nodes:
        if raw["type"] == "features":
            raw["type"] = "bench every"
    path = folder / "eager.json"
    path.write_text(json.dumps(nodes))
    return path


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="voltflow-bench-eager-") as made:
        sys.exit(main([*sys.argv[1:], "--flow", str(eager_flow(Path(made)))]))
