"""What flows between the battery nodes: a twin prediction in the making."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from voltflow.message import Msg
from voltflow.telemetry import Prediction, TwinPrediction

if TYPE_CHECKING:
    from voltflow.battery.twin_states import Outputs


class FeatureVector(NamedTuple):
    """One model's inputs at one message. `ready` is false where a required input is missing."""

    values: NDArray[np.float32]
    ready: bool


class Reading(msgspec.Struct, gc=False):
    """A validated message with its twin, before and after the models have spoken.

    `outputs` and `row` lead to what the twin computed for the batch the message came in; `features` are the vectors
    due at this message, by model.
    """

    twin: TwinPrediction
    slot: int
    outputs: Outputs
    row: int
    features: dict[str, FeatureVector] = {}

    def wire(self) -> TwinPrediction:
        """What leaves the gateway."""
        return self.twin

    def with_features(self, features: dict[str, FeatureVector]) -> Reading:
        return Reading(self.twin, self.slot, self.outputs, self.row, features)

    def with_prediction(self, model: str, prediction: Prediction) -> Reading:
        """The same reading with one more prediction; this one stays as it is."""
        twin = msgspec.structs.replace(self.twin, predictions={**self.twin.predictions, model: prediction})
        return Reading(twin, self.slot, self.outputs, self.row, self.features)

    def get(self, name: str) -> Any:
        """A field of the telemetry, for nodes that look at one by its name."""
        return getattr(self.twin.telemetry, name, None)


_only_readings = frozenset({Reading}).issuperset


def readings_of(msgs: Iterable[Msg]) -> list[Reading]:
    """The payloads; raises TypeError where one is no reading."""
    payloads = [msg.payload for msg in msgs]
    if not _only_readings(map(type, payloads)):
        raise TypeError("expected a twin's reading: wire a twin node before this one")
    return payloads
