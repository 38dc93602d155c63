"""Blank optional inputs of some training packs, so that the trees meet a missing sensor before the field shows one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from cloud.training.rows import Rows
from voltflow.battery.features import FEATURES

SENSORS: dict[str, tuple[str, float]] = {
    "coolant": ("coolant", 0.33),
    "ambient": ("ambient", 0.33),
    "speed": ("speed", 0.1),
    "insulation": ("insulation", 0.1),
}
"""By sensor: what the names of inputs made from it hold, and in which share of packs it is taken away."""
OTHER_SHARE = 0.03


def blank(rows: Rows, model: str, seed: int) -> Rows:
    """The rows with inputs set to NaN, whole packs at a time; required inputs stay.

    >>> import numpy as np
    >>> n = len(FEATURES["temperature"])
    >>> packs = np.array([f"p{i}" for i in range(100)])
    >>> zeros = np.zeros(100, np.int64)
    >>> rows = Rows(np.zeros((100, n), np.float32), np.zeros(100), packs, zeros, zeros)
    >>> gone = np.isnan(blank(rows, "temperature", 0).features).mean(axis=0)
    >>> float(gone[0]), bool(0.2 < gone[17] < 0.5)
    (0.0, True)
    """
    rng = np.random.default_rng([seed, 77])
    packs, of_row = np.unique(rows.pack, return_inverse=True)
    features = rows.features.copy()
    gone = {name: rng.random(len(packs)) < share for name, (_, share) in SENSORS.items()}
    for column, feature in enumerate(FEATURES[model]):
        if feature.required:
            continue
        without = rng.random(len(packs)) < OTHER_SHARE
        for sensor, (part, _) in SENSORS.items():
            if part in feature.name:
                without |= gone[sensor]
        features[without[of_row], column] = np.nan
    return replace(rows, features=features)
