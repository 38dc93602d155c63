"""What flows between the battery nodes: a twin prediction in the making."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from voltflow import topics
from voltflow.message import Msg
from voltflow.sequence import DUPLICATE
from voltflow.telemetry import Prediction, Telemetry, TwinPrediction

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


# -- what a message carries -----------------------------------------------------------------------------------------

_only_readings = frozenset({Reading}).issuperset
_only_telemetry = frozenset({Telemetry}).issuperset
_NO_READING = "expected a twin's reading: wire a twin node before this one"
_NO_TELEMETRY = "expected validated telemetry: wire a validate node before this one"


def telemetry_of(msgs: list[Msg]) -> list[Telemetry]:
    """The payloads; raises TypeError or a ValidationError where one is no validated telemetry.

    What was held over a restart, or comes out of a python or json node, is a dict.
    """
    payloads = [msg.payload for msg in msgs]
    return payloads if _only_telemetry(map(type, payloads)) else [_telemetry(payload) for payload in payloads]


def readings_of(msgs: list[Msg]) -> list[Reading | None]:
    """The payloads, None where one has become a dict: nothing leads from that to what the twin computed. Raises TypeError
    where one is no reading."""
    payloads = [msg.payload for msg in msgs]
    if _only_readings(map(type, payloads)):
        return payloads
    for payload in payloads:
        _twin(payload)
    return [payload if isinstance(payload, Reading) else None for payload in payloads]


def twins_of(msgs: list[Msg], *, bare: bool = False) -> list[TwinPrediction]:
    """The twins' messages of readings, also of such as have become dicts; with `bare` validated telemetry will do, and what the
    twin would say is null. Raises TypeError or a ValidationError."""
    payloads = [msg.payload for msg in msgs]
    if _only_readings(map(type, payloads)):
        return [payload.twin for payload in payloads]
    return [_bare(msg) if bare and _is_telemetry(msg.payload) else _twin(msg.payload) for msg in msgs]


def _twin(payload: Any) -> TwinPrediction:
    if isinstance(payload, Reading):
        return payload.twin
    if isinstance(payload, TwinPrediction):
        return payload
    if not isinstance(payload, dict) or payload.get("schema") != "twin.prediction/1":
        raise TypeError(_NO_READING)
    return msgspec.convert(payload, TwinPrediction)


def _is_telemetry(payload: Any) -> bool:
    return isinstance(payload, Telemetry) or (
        isinstance(payload, dict) and payload.get("schema") == "bms.telemetry/1"
    )


def _telemetry(payload: Any) -> Telemetry:
    if isinstance(payload, Telemetry):
        return payload
    if not _is_telemetry(payload):
        raise TypeError(_NO_TELEMETRY)
    return msgspec.convert(payload, Telemetry)


def _bare(msg: Msg) -> TwinPrediction:
    """What a twin would say that estimates nothing."""
    item, topic = _telemetry(msg.payload), topics.parse(msg.topic)
    if topic is None:
        raise TypeError(f"topic {msg.topic!r} is no pack's")
    return TwinPrediction(
        schema_="twin.prediction/1", fleet=topic.fleet, pack=item.pack, boot=item.boot, seq=item.seq, ts_ms=item.ts_ms,
        gateway="", flow_rev="", received_ms=msg.received_ms or None, telemetry=item,
        late=bool(msg.props and msg.props.get(DUPLICATE)),
    )  # fmt: skip
