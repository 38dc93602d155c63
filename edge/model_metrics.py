"""Prometheus metrics of the models: which ones run, what they answer, how far they are from what was then measured."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from math import sqrt
from typing import Any

import numpy as np
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from edge.state import AppState
from edge.survey import Column, Survey
from voltflow.battery.features import FEATURES

STATS = ("mae", "rmse", "bias")
_BASELINE = re.compile(r"baseline_(\w+)_(mae|rmse)")


class ModelCollector(Collector):
    """Models and predictions. Errors are known where an actual value is: of a temperature 10 minutes after the prediction, of
    the state of health at wide charge sessions."""

    def __init__(self, state: AppState) -> None:
        self._state = state

    def collect(self) -> Iterable[Metric]:
        survey = self._state.surveyor.look()
        yield from self._loaded()
        yield from self._made()
        errors = {"temperature": self._temperature_errors(), "soh": _known(survey, "soh_error")}
        yield from _errors(errors)
        yield _accuracy(survey)

    def _loaded(self) -> Iterator[Metric]:
        info = GaugeMetricFamily(
            "voltflow_model_info", "1 for each model that runs; hash: of its file.", labels=["model", "hash"]
        )
        expected = GaugeMetricFamily(
            "voltflow_model_error_expected",
            "Error on unseen packs that the model's card states, and that of the simple method it was compared with (of).",
            labels=["model", "hash", "stat", "of"],
        )
        for (model, digits), card in self._running().items():
            info.add_metric([model, digits], 1)
            for stat, of, value in _expected(card):
                expected.add_metric([model, digits, stat, of], value)
        yield from (info, expected)

    def _running(self) -> dict[tuple[str, str], dict[str, Any]]:
        """The cards by model and hash; several nodes may run the same."""
        loaded = [(node.model, getattr(node, "loaded", None)) for node in self._state.models]
        described = [(model, it.describe()) for model, it in loaded if it is not None]
        return {(model, each["hash"]): each["card"] for model, each in described}

    def _made(self) -> Iterator[Metric]:
        store = self._state.store
        made = dict(store.predictions_made)
        family = CounterMetricFamily("predictions", "Predictions made, without null ones.", labels=["model"])
        for model in dict.fromkeys([*FEATURES, *made]):
            family.add_metric([model], made.get(model, 0))
        yield family
        yield CounterMetricFamily(
            "model_training",
            "Trainings done here: always 0, a gateway runs models and the cloud trains them.",
            0,
        )
        yield CounterMetricFamily(
            "voltflow_predictions_not_compared",
            "Temperature predictions whose time came without a measurement.",
            store.missed_joins,
        )

    def _temperature_errors(self) -> Column:
        """Predicted minus actual of the last 10,000 that could be compared."""
        return -np.array(list(self._state.store.joined_errors), dtype=np.float64)


def _accuracy(survey: Survey) -> Metric:
    family = GaugeMetricFamily(
        "prediction_accuracy", "Mean accuracy over the packs whose actual value is known, percent.",
        labels=["metric"],
    )  # fmt: skip
    for metric in ("soh", "temperature"):
        if len(known := _known(survey, f"{metric}_accuracy")):
            family.add_metric([metric], float(known.mean()))
    return family


def _known(survey: Survey, column: str) -> Column:
    values = survey.columns[column]
    return values[~np.isnan(values)]


def _errors(errors: dict[str, Column]) -> Iterator[Metric]:
    error = GaugeMetricFamily(
        "voltflow_model_error",
        "Predicted minus actual in the model's unit, over the last 10,000 temperatures and over the packs with a measured "
        "state of health: mean of the absolute values (mae), root of the mean square (rmse), mean (bias).",
        labels=["model", "stat"],
    )
    compared = GaugeMetricFamily("voltflow_model_compared", "How many that is over.", labels=["model"])
    for model, values in errors.items():
        compared.add_metric([model], len(values))
        if len(values):
            stats = (np.abs(values).mean(), sqrt(np.square(values).mean()), values.mean())
            for stat, value in zip(STATS, stats, strict=True):
                error.add_metric([model, stat], float(value))
    yield from (error, compared)


def _expected(card: dict[str, Any]) -> Iterator[tuple[str, str, float]]:
    """Statistic, whose it is (the model's or a simple method's) and value, of a model's card."""
    for stat in ("mae", "rmse"):
        if (score := card.get("scores", {}).get(stat)) is not None:
            yield stat, "model", score["value"]
    for name, score in card.get("baseline", {}).items():
        if (found := _BASELINE.fullmatch(name)) is not None:
            yield found[2], found[1], score["value"]
