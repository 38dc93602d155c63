"""Rows of one model: features as the gateway computes them, target, and who and when; kept as one npz file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]
_OWN = ("features", "target", "pack", "visit", "ts_ms")


@dataclass(frozen=True)
class Rows:
    """n rows; `extra` holds what baselines and scores need and the model never sees."""

    features: NDArray[np.float32]
    target: F64
    pack: NDArray[np.str_]
    visit: NDArray[np.int64]
    ts_ms: NDArray[np.int64]
    extra: Mapping[str, F64] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.target)

    def take(self, index: NDArray[np.bool_] | NDArray[np.intp]) -> Rows:
        """The rows of a mask or of positions."""
        extra = {name: values[index] for name, values in self.extra.items()}
        own = (
            self.features[index],
            self.target[index],
            self.pack[index],
            self.visit[index],
            self.ts_ms[index],
        )
        return Rows(*own, extra)

    def at_most(self, n: int, seed: int) -> Rows:
        """A random part of n rows, in the same order; all where there are not more."""
        if len(self) <= n:
            return self
        chosen = np.random.default_rng(seed).choice(len(self), n, replace=False)
        return self.take(np.sort(chosen))

    def save(self, path: Path) -> None:
        """Write to an npz file; it appears under its name only when complete."""
        partial = path.with_name(path.name + ".partial")
        arrays: dict[str, Any] = {name: getattr(self, name) for name in _OWN}
        arrays |= {f"extra_{name}": values for name, values in self.extra.items()}
        with partial.open("wb") as file:
            np.savez(file, **arrays)
        partial.rename(path)


def load(path: Path) -> Rows:
    """What `Rows.save` wrote."""
    with np.load(path) as archive:
        extra = {n.removeprefix("extra_"): archive[n] for n in archive.files if n.startswith("extra_")}
        own: dict[str, Any] = {name: archive[name] for name in _OWN}
        return Rows(**own, extra=extra)


def join(parts: Sequence[Rows]) -> Rows:
    """Rows of several sources one after the other; all must have the same extras."""
    own: dict[str, Any] = {n: np.concatenate([getattr(part, n) for part in parts]) for n in _OWN}
    names = parts[0].extra
    extra = {name: np.concatenate([part.extra[name] for part in parts]) for name in names}
    return Rows(**own, extra=extra)
