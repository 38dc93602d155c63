"""What a model costs on a gateway: microseconds a row alone and in batches of 100, and bytes; measured here and now."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
from sklearn.ensemble import GradientBoostingRegressor, RandomForestRegressor
from sklearn.linear_model import Ridge
from sklearn.neural_network import MLPRegressor

from cloud.training.cards import read
from cloud.training.errors import TrainError
from cloud.training.onnx_export import to_onnx
from cloud.training.recipes.base import Size
from cloud.training.rows import Rows
from cloud.training.trees import F32, EdgeModel, Value

BATCH = 100
ROUNDS = 7
CALLS = 200


class Cost(NamedTuple):
    """Of one model: alone and per row of a batch, in microseconds; file size in bytes; error if it was fitted here."""

    name: str
    alone_us: float
    batch_us: float
    size: int
    rmse: float | None = None


def session(data: bytes) -> onnxruntime.InferenceSession:
    """As the gateway opens it: one thread, no spinning."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def measure(name: str, data: bytes, rows: F32, error: float | None = None) -> Cost:
    """Best of some rounds over rows that differ from call to call.

    The same 100 rows again and again look three times as fast: the processor's branch prediction learns them by heart.
    """
    ready = session(data)
    alone = _time_us(ready, [rows[i : i + 1] for i in range(min(CALLS, len(rows)))])
    batches = [rows[i * BATCH : (i + 1) * BATCH] for i in range(min(CALLS, len(rows) // BATCH))]
    return Cost(name, alone, _time_us(ready, batches) / BATCH, len(data), error)


def _time_us(ready: onnxruntime.InferenceSession, calls: list[F32]) -> float:
    """Microseconds a call."""
    key, parts = ready.get_inputs()[0].name, [np.ascontiguousarray(call) for call in calls]
    found = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        for part in parts:
            ready.run(None, {key: part})
        found.append((time.perf_counter() - start) / len(parts))
    return 1e6 * min(found)


def released(models: Path) -> list[Cost]:
    """The models of a folder, each on random rows around its golden ones."""
    found = []
    for card in read(models):
        folder = models / card["name"]
        found.append(measure(card["name"], (folder / "model.onnx").read_bytes(), _around_golden(folder)))
    alone, batch = sum(c.alone_us for c in found), sum(c.batch_us for c in found)
    return [*found, Cost("together", alone, batch, sum(c.size for c in found))]


def _around_golden(folder: Path) -> F32:
    """20,000 rows: each input drawn by itself from the golden rows, so that calls don't repeat."""
    import json

    golden = np.array(json.loads((folder / "golden.json").read_text("utf-8"))["features"], dtype=np.float64)
    rng = np.random.default_rng(0)
    drawn = np.stack([rng.choice(column, CALLS * BATCH) for column in golden.T], axis=1)
    return (drawn * rng.uniform(0.98, 1.02, drawn.shape)).astype(np.float32)


def compared(train: Rows, test: Rows, progress: Any) -> Iterator[Cost]:
    """Kinds of estimator on the same rows (change of temperature): what each costs and how well it does."""
    features, change = np.nan_to_num(train.features), train.target - train.features[:, 0]
    rows, truth = np.nan_to_num(test.features), test.target - test.features[:, 0]
    for size in (Size(60, 3), Size(100, 3), Size(100, 4), Size(100, 5), Size(200, 4)):
        model = EdgeModel.of([size.regressor(0).fit(features, change)], Value())
        error = float(np.sqrt(np.mean((model.predict(rows)["value"] - truth) ** 2)))
        name = f"HistGradientBoosting {size.trees} x depth {size.depth}, own export"
        yield measure(name, to_onnx(model, rows.shape[1], {}).SerializeToString(), rows, error)
    for name, estimator in _others():
        progress(f"cost: {name}")
        part = slice(0, 20_000)  # exact splits and networks are slow to fit; enough for their cost
        estimator.fit(features[part], change[part])
        error = float(np.sqrt(np.mean((estimator.predict(rows) - truth) ** 2)))
        yield measure(name, _by_skl2onnx(estimator, rows), rows, error)


def _others() -> list[tuple[str, Any]]:
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    network = MLPRegressor(hidden_layer_sizes=(32, 32), max_iter=60, random_state=0)
    return [
        ("Ridge, skl2onnx", make_pipeline(StandardScaler(), Ridge())),
        ("MLP 32-32, skl2onnx", make_pipeline(StandardScaler(), network)),
        ("GradientBoosting 100 x depth 4, skl2onnx", GradientBoostingRegressor(max_depth=4, random_state=0)),
        ("RandomForest 100 deep trees, skl2onnx", RandomForestRegressor(100, random_state=0)),
    ]


def _by_skl2onnx(estimator: Any, rows: F32) -> bytes:
    from skl2onnx import to_onnx as convert

    return bytes(convert(estimator, rows[:1]).SerializeToString())


def table(costs: list[Cost]) -> str:
    """Markdown."""
    if not costs:
        raise TrainError("nothing was measured")
    lines = ["| model | alone, us | in a batch of 100, us a row | kB | RMSE, °C |", "|---|---|---|---|---|"]
    for c in costs:
        error = "" if c.rmse is None else f"{c.rmse:.3f}"
        lines.append(f"| {c.name} | {c.alone_us:.1f} | {c.batch_us:.2f} | {c.size / 1000:.0f} | {error} |")
    return "\n".join(lines)
