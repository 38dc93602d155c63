"""Keep a training in MLflow: parameters, metrics, plots, the model and its place in the registry."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx

from cloud.training.settings import TrainSettings

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # a training says nothing to anyone by itself
os.environ.setdefault("DO_NOT_TRACK", "true")


class Tracking:
    """One experiment; `run` opens a run in it."""

    def __init__(self, settings: TrainSettings) -> None:
        import mlflow

        self._mlflow, self.settings = mlflow, settings
        logging.getLogger("mlflow").setLevel(logging.WARNING)
        logging.getLogger("alembic").setLevel(logging.WARNING)
        mlflow.set_tracking_uri(settings.tracking_uri)
        mlflow.set_registry_uri(settings.tracking_uri)
        if mlflow.get_experiment_by_name(settings.experiment) is None:
            mlflow.create_experiment(settings.experiment, artifact_location=_artifacts(settings))
        mlflow.set_experiment(settings.experiment)

    @contextmanager
    def run(self, name: str, tags: Mapping[str, str]) -> Iterator[str]:
        """A run, inside the one that is open if any; gives its id. An exception marks it as failed."""
        nested = self._mlflow.active_run() is not None
        with self._mlflow.start_run(run_name=name, nested=nested, tags=dict(tags)) as run:
            yield run.info.run_id

    def parameters(self, values: Mapping[str, Any]) -> None:
        self._mlflow.log_params({key: str(value) for key, value in values.items()})

    def metrics(self, values: Mapping[str, float]) -> None:
        self._mlflow.log_metrics(dict(values))

    def files(self, folder: Path, place: str) -> None:
        self._mlflow.log_artifacts(str(folder), artifact_path=place)

    def register(self, model: str, proto: onnx.ModelProto) -> str:
        """Keep the ONNX model in the open run and register it; returns `name/version`."""
        import mlflow.onnx

        name = f"{self.settings.registry_prefix}{model}"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            info = mlflow.onnx.log_model(
                proto, name="model", registered_model_name=name, pip_requirements=["onnxruntime", "numpy"]
            )
        return f"{name}/{info.registered_model_version}"


def _artifacts(settings: TrainSettings) -> str | None:
    """Beside the SQLite file; a tracking server chooses its own place."""
    return None if settings.mlflow_uri else (settings.mlflow_db.resolve().parent / "mlartifacts").as_uri()
