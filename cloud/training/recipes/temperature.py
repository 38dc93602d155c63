"""Highest cell temperature in ten minutes, learnt as a change."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from cloud.training.errors import TrainError
from cloud.training.recipes.base import Answers, Bar, Fitted, Recipe, Size
from cloud.training.rows import Rows, join
from cloud.training.scores import Score, mae, rmse, score, skill
from cloud.training.trees import Change, EdgeModel, trainable

EVENT_C = 1.5
NOW = "cell_temp_max_c"


class Temperature(Recipe):
    """What the BMS will show as highest cell temperature at t + 600 s."""

    name = "temperature"
    unit = "c"
    target = "cell_temp_max_c as the BMS shows it 600 s later; learnt as the change from now, answered as a temperature"
    horizon = "600 s"
    cadence_s = 180.0
    most_rows = 600_000
    size = Size(trees=100, depth=4, rate=0.12, min_rows=60)
    bars: ClassVar[tuple[Bar, ...]] = (
        Bar("skill_over_persistence", ">=", 0.20, "1 - RMSE/RMSE"),
        Bar("event_mae_ratio", "<=", 0.5, "of persistence"),
    )
    weak = (
        "R2 of the temperature itself says nothing (persistence has it too); at rest, where nothing changes, "
        "persistence is as good."
    )

    @property
    def now_index(self) -> int:
        if NOW not in self.inputs:
            raise TrainError(f"the features of 'temperature' have no {NOW}, the change cannot be added to it")
        return self.inputs.index(NOW)

    def fit(self, train: Rows, calibrate: Rows, seed: int) -> Fitted:
        train = join([train, calibrate])  # there is nothing to calibrate
        change = train.target - train.features[:, self.now_index]
        booster = self.size.regressor(seed).fit(trainable(train.features), change)
        return Fitted(
            EdgeModel.of([booster], Change(self.now_index)), {"learnt_from_calibration_packs": True}
        )

    def baselines(self, train: Rows, rows: Rows) -> Answers:
        return {"persistence": rows.features[:, self.now_index].astype(np.float64)}

    def scores(self, rows: Rows, answers: Answers, baselines: Answers) -> dict[str, Score]:
        truth, ours, stays = rows.target, answers["value"], baselines["persistence"]
        event = np.abs(truth - stays) >= EVENT_C
        packs, some = rows.pack[event], (truth[event], ours[event], stays[event])
        error, error_stays = mae(some[0], some[1]), mae(some[0], some[2])
        return {
            "rmse": score(rmse(truth, ours), rows.pack),
            "mae": score(mae(truth, ours), rows.pack),
            "skill_over_persistence": score(skill(truth, ours, stays), rows.pack),
            "event_mae": score(error, packs),
            "event_mae_ratio": score(lambda i: error(i) / error_stays(i), packs),
            "baseline_persistence_rmse": score(rmse(truth, stays), rows.pack),
            "baseline_persistence_mae": score(mae(truth, stays), rows.pack),
            "baseline_persistence_event_mae": score(error_stays, packs),
        }
