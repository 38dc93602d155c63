"""The `features` node: gives each message the input vectors of the models that are due."""

from __future__ import annotations

from edge.reading import FeatureVector, readings_of
from voltflow.battery.features import FEATURES
from voltflow.battery.twin_states import Outputs
from voltflow.message import Msg
from voltflow.node import ConfigError, Context, Transform, config, node


@node("features", category="battery", color="#a7c7e7", icon="font-awesome/fa-list-ol")
class Features(Transform):
    """Attach the feature vectors that the models' nodes read.

    A model is due when its inputs have something new to say: temperature every 10 s of device time, failure every
    minute, rul every hour and after a charge, soh at the end of a charge session over 30 % of the state of charge.
    A reading that has become an object (held over a restart, from a python node) has lost what they are made of, and passes.
    """

    models: str = config("soh,temperature,rul,failure", help="models to prepare, separated by commas")

    async def start(self, ctx: Context) -> None:
        self._models = [name.strip() for name in self.models.split(",") if name.strip()]
        unknown = set(self._models) - set(FEATURES)
        if unknown:
            raise ConfigError(
                f'property "models": no features for {sorted(unknown)}; there are {sorted(FEATURES)}'
            )

    def process(self, msgs: list[Msg]) -> list[Msg]:
        by_batch: dict[int, dict[int, dict[str, FeatureVector]]] = {}
        result = []
        for msg, reading in zip(msgs, readings_of(msgs), strict=True):
            if reading is None:
                result.append(msg)
                continue
            due = by_batch.get(id(reading.outputs))
            if due is None:
                due = by_batch[id(reading.outputs)] = self._due(reading.outputs)
            vectors = due.get(reading.row)
            result.append(msg.derive(payload=reading.with_features(vectors)) if vectors else msg)
        return result

    def _due(self, outputs: Outputs) -> dict[int, dict[str, FeatureVector]]:
        """By row of the batch, then by model."""
        due: dict[int, dict[str, FeatureVector]] = {}
        for model in self._models:
            found = outputs.features[model]
            for row, values, ready in zip(
                found.rows.tolist(), found.values, found.ready.tolist(), strict=True
            ):
                due.setdefault(row, {})[model] = FeatureVector(values, ready)
        return due
