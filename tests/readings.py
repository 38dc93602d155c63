"""Readings of twins for battery nodes, without the nodes that make them."""

from __future__ import annotations

from typing import Any

from edge.reading import Reading
from voltflow.message import Msg
from voltflow.telemetry import Prediction, Quality, Telemetry, TwinPrediction

START_MS = 1_700_000_000_000


def reading(
    seq: int = 0, *, pack: str = "P1", late: bool = False, invalid: list[str] | None = None,
    predictions: dict[str, float] | None = None, **telemetry: Any,
) -> Msg:  # fmt: skip
    """A message with the reading of a pack, 10 s after the one before."""
    ts_ms = START_MS + seq * 10_000
    item = Telemetry(
        schema_="bms.telemetry/1", pack=pack, boot=1, seq=seq, ts_ms=ts_ms, quality=Quality(invalid or []), **telemetry
    )  # fmt: skip
    twin = TwinPrediction(
        schema_="twin.prediction/1", fleet="depot", pack=pack, boot=1, seq=seq, ts_ms=ts_ms, gateway="gw1", flow_rev="rev",
        received_ms=1, telemetry=item, late=late,
        predictions={name: Prediction(unit="", model="0", value=value) for name, value in (predictions or {}).items()},
    )  # fmt: skip
    return Msg(f"ev/v1/depot/{pack}/twin", Reading(twin, 0, None, 0))  # type: ignore[arg-type]
