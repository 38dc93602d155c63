"""What a recipe is: how one model is fitted, what it is compared with, how it is scored."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

from cloud.training.rows import Rows
from cloud.training.scores import Score
from cloud.training.trees import EdgeModel

F64 = NDArray[np.float64]
Answers = Mapping[str, F64]


@dataclass(frozen=True)
class Size:
    """How large an ensemble is; measured costs in docs/models.md."""

    trees: int
    depth: int
    rate: float = 0.1
    min_rows: int = 20

    def options(self, seed: int) -> dict[str, Any]:
        return {
            "max_iter": self.trees,
            "max_depth": self.depth,
            "max_leaf_nodes": 2**self.depth,
            "learning_rate": self.rate,
            "min_samples_leaf": self.min_rows,
            "l2_regularization": 1.0,
            "early_stopping": False,  # it would split off rows at random, packs on both sides
            "random_state": seed,
        }

    def regressor(self, seed: int, **more: Any) -> HistGradientBoostingRegressor:
        return HistGradientBoostingRegressor(**self.options(seed), **more)

    def classifier(self, seed: int) -> HistGradientBoostingClassifier:
        return HistGradientBoostingClassifier(**self.options(seed))


@dataclass(frozen=True)
class Bar:
    """What a score is expected to reach (DOMAIN 2d); a missed bar is reported, it stops nothing."""

    score: str
    rule: Literal["<=", ">="]
    limit: float
    unit: str

    def passed(self, scores: Mapping[str, Score]) -> bool:
        value = scores[self.score].value if self.score in scores else np.nan
        return bool(value <= self.limit if self.rule == "<=" else value >= self.limit)


@dataclass(frozen=True)
class Fitted:
    """A model and what was found while fitting that belongs on its card."""

    model: EdgeModel
    facts: Mapping[str, Any]


class Recipe(ABC):
    """One of the four models."""

    name: ClassVar[str]
    unit: ClassVar[str]
    target: ClassVar[str]
    horizon: ClassVar[str]
    sources: ClassVar[tuple[str, ...]] = ("fleet",)
    """Which datasets its rows come from."""
    cadence_s: ClassVar[float] = 0.0
    """At most one row of a pack in this time; 0 = every row that is ready."""
    most_rows: ClassVar[int] = 400_000
    size: ClassVar[Size]
    bars: ClassVar[tuple[Bar, ...]] = ()
    weak: ClassVar[str] = ""
    """What a user must know before trusting it."""

    def __init__(self, inputs: tuple[str, ...]) -> None:
        self.inputs = inputs

    @abstractmethod
    def fit(self, train: Rows, calibrate: Rows, seed: int) -> Fitted:
        """Learn from packs of role `train`; correct on packs of role `calibrate`, or learn from them as well."""

    @abstractmethod
    def baselines(self, train: Rows, rows: Rows) -> Answers:
        """What somebody without this model would answer, by name of the baseline."""

    @abstractmethod
    def scores(self, rows: Rows, answers: Answers, baselines: Answers) -> dict[str, Score]:
        """Figures of merit of the model and its baselines on these rows."""

    def parameters(self) -> dict[str, Any]:
        """For MLflow and the card."""
        return {"estimator": "HistGradientBoosting", **self.size.options(0), "inputs": len(self.inputs)}
