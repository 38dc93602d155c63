"""Boosted trees as the edge runs them: scikit-learn ensembles with an affine correction and a small output head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
Booster: TypeAlias = HistGradientBoostingRegressor | HistGradientBoostingClassifier


@dataclass(frozen=True)
class Value:
    """`value` is the raw output."""


@dataclass(frozen=True)
class Change:
    """`value` = input column `index` + raw: what was learnt is a change, what is answered is the quantity."""

    index: int


@dataclass(frozen=True)
class Interval:
    """Raw outputs are ln(1 + low), ln(1 + median), ln(1 + high); answers are ordered and stay in [0, `cap`]."""

    cap: float


@dataclass(frozen=True)
class Percent:
    """`value` = 100 / (1 + exp(-raw)): a probability in percent."""


Head = Value | Change | Interval | Percent


def trainable(features: F32) -> F32:
    """Features to fit on: an input that is missing in every row becomes a constant, which no tree can split on.

    scikit-learn 1.9 fails on a column of NaN only (it looks for a threshold between no values).
    """
    nowhere = np.isnan(features).all(axis=0)
    return np.where(nowhere, np.float32(0.0), features) if nowhere.any() else features


def raw_output(booster: Booster, features: F32) -> F64:
    """The sum of leaves of one ensemble, before any link function, shape (n,)."""
    if isinstance(booster, HistGradientBoostingClassifier):
        return np.asarray(booster.decision_function(features), np.float64)
    return np.asarray(booster.predict(features), np.float64)


@dataclass(frozen=True)
class EdgeModel:
    """One model as the gateway runs it: ensembles -> `scale` * raw + `shift` -> head.

    The affine part holds what is fitted after the trees on packs that they did not see (calibration of a
    probability, widening of an interval); the export folds it into the leaves, so it costs nothing at run time.
    """

    boosters: tuple[Booster, ...]
    head: Head
    scale: tuple[float, ...]
    shift: tuple[float, ...]

    @classmethod
    def of(cls, boosters: Sequence[Booster], head: Head) -> EdgeModel:
        return cls(tuple(boosters), head, (1.0,) * len(boosters), (0.0,) * len(boosters))

    def corrected(self, scale: Sequence[float], shift: Sequence[float]) -> EdgeModel:
        """The same trees with another affine correction, one pair per ensemble."""
        return replace(self, scale=tuple(map(float, scale)), shift=tuple(map(float, shift)))

    def raw(self, features: F32) -> F64:
        """Corrected ensemble outputs, shape (n, ensembles)."""
        columns = [raw_output(b, features) for b in self.boosters]
        return np.asarray(np.stack(columns, axis=1) * np.array(self.scale) + np.array(self.shift))

    def predict(self, features: F32) -> dict[str, F64]:
        """The model's answers by output name, each of shape (n,)."""
        return apply_head(self.head, self.raw(features), features)

    @property
    def outputs(self) -> tuple[str, ...]:
        return ("value", "low", "high") if isinstance(self.head, Interval) else ("value",)

    def cost_shape(self) -> Mapping[str, int]:
        """How large the ensembles are: trees and leaves in all."""
        trees = [t for b in self.boosters for stage in b._predictors for t in stage]
        return {"trees": len(trees), "leaves": sum(int(t.nodes["is_leaf"].sum()) for t in trees)}


def apply_head(head: Head, raw: F64, features: F32) -> dict[str, F64]:
    """What the ONNX graph's last nodes compute, in numpy.

    >>> apply_head(Percent(), np.array([[0.0]]), np.zeros((1, 1), np.float32))["value"].tolist()
    [50.0]
    """
    if isinstance(head, Change):
        return {"value": features[:, head.index].astype(np.float64) + raw[:, 0]}
    if isinstance(head, Percent):
        return {"value": 100.0 / (1.0 + np.exp(-raw[:, 0]))}
    if isinstance(head, Interval):
        low, value, high = np.clip(np.expm1(raw), 0.0, head.cap).T
        return {"value": value, "low": np.minimum(low, value), "high": np.maximum(high, value)}
    return {"value": raw[:, 0]}
