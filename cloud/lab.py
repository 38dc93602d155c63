"""What the bridge gives a flow that is tested (`voltflow.lab.lab`): its variables."""

from __future__ import annotations

from cloud.bridge import BridgeSettings
from voltflow.engine.timer import Timer
from voltflow.lab.lab import Surroundings


def surroundings(_: Timer) -> Surroundings:
    """As with every sink configured, and the messages shared with other bridges."""
    settings = BridgeSettings(
        name="lab", shared=True, database="postgresql://history/voltflow", kafka_bootstrap="kafka:9092",
        influx_url="http://influx:8086",
    )  # fmt: skip
    return Surroundings(settings.variables(), {})
