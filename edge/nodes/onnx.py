"""The `onnx` node: lets one model speak where its inputs are due."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from edge.model import Model, ModelError, load_model, released_models
from edge.reading import Reading, readings_of
from edge.twin import TwinStore
from edge.warming import warming
from voltflow.battery import features
from voltflow.engine.events import Badge
from voltflow.message import Msg
from voltflow.node import ConfigError, Context, Transform, config, node
from voltflow.telemetry import Prediction

HORIZON_MS = {"temperature": round(features.TEMPERATURE_HORIZON_S * 1000)}
UNFED = Badge(fill="yellow", shape="ring", text="no features: wire a features node before it")
DIGITS = {"soh": 2, "temperature": 2, "rul": 0, "failure": 3}


@node("onnx", category="battery", color="#c9b6e4", icon="font-awesome/fa-microchip")
class Onnx(Transform):
    """Run one ONNX model on the messages that carry its feature vector; the others pass unchanged.

    All rows of a batch are one call of ONNX Runtime (one thread, no spinning). Where a required input is missing the
    prediction is null with the reason, never a number. So it is while the time a model speaks of holds a hole that a
    crash of the gateway left: the reason begins with `warming`. A model whose inputs are not the gateway's features is
    refused when the flow starts. Where no features node before it prepares the vectors, it predicts nothing and its badge says so.
    """

    model: str = config(help="which model", choices=tuple(features.FEATURES), example="temperature")
    folder: str = config("", help="folder that holds the models; empty: the released ones")

    # state
    is_fed: bool = False
    """Whether a feature vector of the model has come."""

    async def start(self, ctx: Context) -> None:
        self._store = ctx.service(TwinStore)
        self.loaded = self.load()

    def load(self) -> Model:
        """The node's model, read anew; raises ConfigError where it cannot run here."""
        try:
            return load_model(Path(self.folder) if self.folder else released_models(), self.model)
        except ModelError as error:
            raise ConfigError(f"{self.label}: {error}") from None

    def process(self, msgs: list[Msg]) -> list[Msg]:
        readings = readings_of(msgs)
        due = [
            (index, reading)
            for index, reading in enumerate(readings)
            if reading is not None and self.model in reading.features
        ]
        if not self.is_fed:
            self._look_whether_fed(readings, is_due=bool(due))
        if not due:
            return msgs
        predictions = self._predict([reading for _, reading in due])
        result = list(msgs)
        for (index, reading), prediction in zip(due, predictions, strict=True):
            result[index] = msgs[index].derive(payload=reading.with_prediction(self.model, prediction))
            self._store.on_prediction(self._store.packs[reading.slot], self.model, prediction)
        return result

    def _look_whether_fed(self, readings: list[Reading | None], *, is_due: bool) -> None:
        """Say it where the twin has computed what the model needs, and no node before this one has brought it along."""
        self.is_fed = is_due
        if is_due:
            self.show({})
        elif any(reading is not None and self._is_due(reading) for reading in readings):
            self.show(UNFED)

    def _is_due(self, reading: Reading) -> bool:
        rows = reading.outputs.features[self.model].rows
        return len(rows) > 0 and reading.row in rows

    def _predict(self, readings: list[Reading]) -> list[Prediction]:
        vectors = [reading.features[self.model] for reading in readings]
        reasons = [self._warming(reading) for reading in readings]
        ready = [i for i, vector in enumerate(vectors) if vector.ready and not reasons[i]]
        answers: dict[str, list[float]] = {}
        if ready:
            answers = self.loaded.predict(np.stack([vectors[index].values for index in ready]))
        rank = {index: place for place, index in enumerate(ready)}
        return [
            self._prediction(
                reading,
                {name: values[rank[i]] for name, values in answers.items()} if i in rank else {},
                reasons[i],
            )
            for i, reading in enumerate(readings)
        ]

    def _warming(self, reading: Reading) -> str:
        hole_ms = self._store.packs[reading.slot].hole_ms
        return "" if hole_ms is None else warming(self.model, reading.twin, hole_ms)

    def _prediction(self, reading: Reading, answer: dict[str, float], reason: str) -> Prediction:
        made_ms = reading.twin.ts_ms
        horizon_ms = HORIZON_MS.get(self.model)
        prediction = Prediction(
            unit=self.loaded.unit,
            model=self.loaded.hash,
            made_ms=made_ms,
            target_ms=made_ms + horizon_ms if horizon_ms else None,
        )
        if not answer:
            missing = features.missing(self.model, reading.features[self.model].values)
            prediction.reason = reason or f"missing: {', '.join(missing)}"
        elif not all(np.isfinite(value) for value in answer.values()):
            prediction.reason = "the model's answer is not a number"
        else:
            for name, value in answer.items():
                setattr(prediction, name, round(value, DIGITS[self.model]))
        return prediction

    def status(self) -> dict[str, Any]:
        return {"model": self.model, "hash": self.loaded.hash}
