"""The settings of cloud-train: table [train] of the configuration, VOLTFLOW_TRAIN_* and options."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from cloud.training.dataset import Plan


class TrainSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What `cloud-train` reads; the defaults are those of the released models."""

    cache: Annotated[
        Path, Meta(description="folder for simulated data and features; may be deleted any time")
    ] = Path(".voltflow/train")
    models: Annotated[
        Path, Meta(description="folder that receives <model>/model.onnx, card.json, golden.json")
    ] = Path("models")
    plots: Annotated[
        Path | None, Meta(description="folder for the plots, also kept in MLflow; empty = MLflow only")
    ] = None
    mlflow_db: Annotated[Path, Meta(description="SQLite file of MLflow, made when missing")] = Path(
        ".voltflow/mlflow.db"
    )
    mlflow_uri: Annotated[
        str | None,
        Meta(description="tracking server to use instead of the SQLite file, e.g. http://localhost:5000"),
    ] = None
    experiment: Annotated[str, Meta(min_length=1, max_length=200, description="MLflow experiment")] = (
        "voltflow"
    )
    registry_prefix: Annotated[
        str, Meta(max_length=100, description="models are registered as <prefix><name>")
    ] = "voltflow-"
    seed: Annotated[int, Meta(ge=0, le=2**31 - 1, description="of data, split and training")] = 7
    packs: Annotated[int, Meta(ge=8, le=20_000, description="packs of the simulated fleet")] = 300
    visits: Annotated[int, Meta(ge=1, le=20, description="looks at each pack, 500 days apart")] = 5
    days: Annotated[int, Meta(ge=1, le=60, description="days of each look")] = 4
    step_s: Annotated[
        float, Meta(ge=5, le=30, description="time between messages; 600 s must be whole steps")
    ] = 10.0
    fault_packs: Annotated[int, Meta(ge=8, le=20_000, description="packs of the fleet with many faults")] = (
        200
    )
    fault_visits: Annotated[
        int, Meta(ge=1, le=20, description="visits of it, each with a fault of its own")
    ] = 3
    fault_days: Annotated[int, Meta(ge=2, le=60, description="days of each of these visits")] = 8
    ui_port: Annotated[int, Meta(ge=1, le=65535, description="port of `cloud-train ui`, on localhost")] = 5005

    def __post_init__(self) -> None:
        if 600 % self.step_s:
            raise ValueError(
                f"step_s = {self.step_s:g}: 600 s must be a whole number of steps; take 5, 10, 20 or 30"
            )

    @property
    def fleet(self) -> Plan:
        """The fleet that soh, temperature and rul learn from."""
        return Plan("fleet", self.packs, self.visits, self.days, self.step_s, self.seed)

    @property
    def faults(self) -> Plan:
        """The fleet that failure learns from; other packs than those of `fleet`."""
        return Plan(
            "faults", self.fault_packs, self.fault_visits, self.fault_days, self.step_s, self.seed + 1
        )

    @property
    def tracking_uri(self) -> str:
        """Where MLflow keeps runs and registry."""
        return self.mlflow_uri or f"sqlite:///{self.mlflow_db.resolve()}"
