"""Stream a dataset through the gateway's own `TwinStates` and keep, for each model, feature rows with their targets.

The features are those of voltflow.battery, computed message after message as on a gateway; nothing here looks ahead
but the labels. In a `fleet` the twin lives through all visits of a pack; in a `faults` dataset every visit is another
life with its own defect, so the twin starts anew.
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cloud.training import rows as rows_file
from cloud.training.dataset import NOT_SENT, Dataset, Plan, Progress
from cloud.training.labels import LABELS, VisitTruth
from cloud.training.recipes.base import Recipe
from cloud.training.rows import Rows
from voltflow.battery import features as battery_features
from voltflow.battery.twin_states import INPUTS, TwinStates

BLOCK_ROWS = 60_000
"""Messages given to the twin at once; bounds the memory."""

Ints = NDArray[np.int64]
Messages = tuple[Ints, Ints, Mapping[str, NDArray[np.float64]]]
"""(step within the visit, pack's position, columns) of some messages in time order."""


def collect(dataset: Dataset, plan: Plan, recipes: list[Recipe], progress: Progress) -> dict[str, Rows]:
    """Rows of each recipe that uses this kind of dataset; the same dataset gives the same rows."""
    keepers = {recipe.name: _Keeper(recipe) for recipe in recipes if plan.kind in recipe.sources}
    twins, slots = _new_twins(dataset)
    for number in range(dataset.visits):
        if number and plan.kind == "faults":
            twins, slots = _new_twins(dataset)
        visit = VisitTruth(dataset, number)
        for keeper in keepers.values():
            keeper.start()
        for messages in _messages(dataset, number):
            _run(twins, slots, messages, visit, keepers)
        counts = ", ".join(f"{name} {keeper.count}" for name, keeper in keepers.items())
        progress(f"features: {plan.kind} visit {number + 1}/{dataset.visits}: {counts} rows")
    return {name: keeper.rows(dataset) for name, keeper in keepers.items()}


def cached(
    dataset: Dataset, plan: Plan, recipes: list[Recipe], cache: Path, progress: Progress
) -> dict[str, Rows]:
    """`collect`, or its result of an earlier run with the same data and the same feature code."""
    wanted = [recipe for recipe in recipes if plan.kind in recipe.sources]
    folder = cache / f"{plan.folder}-{feature_version(wanted)}"
    paths = {recipe.name: folder / f"{recipe.name}.npz" for recipe in wanted}
    if all(path.is_file() for path in paths.values()):
        progress(f"features: {folder} is there")
        return {name: rows_file.load(path) for name, path in paths.items()}
    folder.mkdir(parents=True, exist_ok=True)
    found = collect(dataset, plan, recipes, progress)
    for name, rows in found.items():
        rows.save(paths[name])
    return found


def feature_version(recipes: list[Recipe]) -> str:
    """Changes when the code that makes features or labels, or what is kept of them, changes."""
    digest = hashlib.sha256()
    ours = [Path(__file__), Path(__file__).with_name("labels.py")]
    for path in [*sorted(Path(battery_features.__file__).parent.glob("*.py")), *ours]:
        digest.update(ast.dump(ast.parse(path.read_bytes())).encode())  # comments and layout do not count
    kept = {recipe.name: (recipe.cadence_s, recipe.most_rows) for recipe in recipes}
    digest.update(json.dumps(kept, sort_keys=True).encode())
    return digest.hexdigest()[:12]


class _Keeper:
    """Collects the rows of one model, at most one per pack and cadence."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe, self.count = recipe, 0
        self._last: dict[int, int] = {}
        self.parts: list[tuple[Any, ...]] = []

    def start(self) -> None:
        """A new visit: time may jump either way."""
        self._last = {}

    def add(self, visit: VisitTruth, step: Ints, pack: Ints, values: NDArray[np.float32]) -> None:
        """Rows that are ready, in time order."""
        keep = self._due(visit.ts_ms[step], pack)
        step, pack, values = step[keep], pack[keep], values[keep]
        target, extra = LABELS[self.recipe.name](visit, step, pack)
        known = np.isfinite(target)
        kept = {name: column[known] for name, column in extra.items()}
        numbers = np.full(int(known.sum()), visit.number)
        self.parts.append(
            (values[known], target[known], pack[known], numbers, visit.ts_ms[step[known]], kept)
        )
        self.count += int(known.sum())

    def _due(self, ts_ms: Ints, pack: Ints) -> NDArray[np.bool_]:
        """The first row of each pack in each period of the cadence."""
        if not self.recipe.cadence_s:
            return np.ones(len(pack), bool)
        period = ts_ms // int(self.recipe.cadence_s * 1000)
        due = np.zeros(len(pack), bool)
        _, first = np.unique(np.stack([pack, period]), axis=1, return_index=True)
        for i in np.sort(first):
            if self._last.get(int(pack[i])) != period[i]:
                self._last[int(pack[i])] = int(period[i])
                due[i] = True
        return due

    def rows(self, dataset: Dataset) -> Rows:
        width = len(battery_features.FEATURES[self.recipe.name])
        names = np.array([pack.id for pack in dataset.packs])
        if not self.parts:
            empty = np.zeros(0)
            return Rows(
                np.zeros((0, width), np.float32), empty, names[:0], empty.astype(int), empty.astype(int)
            )
        columns = [np.concatenate([part[i] for part in self.parts]) for i in range(5)]
        extra = {n: np.concatenate([part[5][n] for part in self.parts]) for n in self.parts[0][5]}
        found = Rows(columns[0], columns[1], names[columns[2]], columns[3], columns[4], extra)
        return found.at_most(self.recipe.most_rows, seed=0)


def _new_twins(dataset: Dataset) -> tuple[TwinStates, Ints]:
    """A twin for each pack, and the slot of each pack's position."""
    twins = TwinStates()
    slots = np.array([twins.slot_for(f"sim/{pack.id}") for pack in dataset.packs])
    for slot, pack in zip(slots, dataset.packs, strict=True):
        twins.set_nameplate(
            int(slot),
            pack.chemistry,
            capacity_rated_ah=pack.capacity_rated_ah,
            cells_series=pack.cells_series,
        )
    return twins, slots


def _messages(dataset: Dataset, visit: int) -> Iterator[Messages]:
    """The messages of a visit in blocks, in time order, without what was not sent."""
    first = 0
    for chunk in dataset.chunks(visit):
        steps, packs = chunk["charging"].shape
        per_block = max(1, BLOCK_ROWS // packs)
        for start in range(0, steps, per_block):
            part = slice(start, min(start + per_block, steps))
            step, pack = np.nonzero(chunk["charging"][part] != NOT_SENT)
            columns = {
                name: chunk[name][part][step, pack].astype(np.float64)
                for name in INPUTS
                if name in chunk and name != "ts_ms"
            }
            columns["ts_ms"] = chunk["ts_ms"][part][step].astype(np.float64)
            yield step + first + start, pack, columns
        first += steps


def _run(
    twins: TwinStates, slots: Ints, messages: Messages, visit: VisitTruth, keepers: Mapping[str, _Keeper]
) -> None:
    step, pack, columns = messages
    out = twins.run(slots[pack], columns)
    for name, keeper in keepers.items():
        found = out.features[name]
        at = found.rows[found.ready]
        keeper.add(visit, step[at], pack[at], found.values[found.ready])
