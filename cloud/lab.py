"""What the bridge gives a flow that is tested (`voltflow.lab.host`): its variables."""

from __future__ import annotations

from pathlib import Path

from cloud.bridge import BridgeSettings
from voltflow.engine.timer import Timer
from voltflow.lab.host import Surroundings


def surroundings(_: Timer, __: Path) -> Surroundings:
    """As with every sink configured, and the messages shared with other bridges."""
    settings = BridgeSettings(
        name="lab", shared=True, database="postgresql://history/voltflow", kafka_bootstrap="kafka:9092",
        influx_url="http://influx:8086",
    )  # fmt: skip
    return Surroundings(settings.variables(), {})
