"""Write a released model: `model.onnx` with its card inside, `card.json`, `golden.json`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import sklearn
from onnx import helper

from cloud.training.errors import TrainError
from cloud.training.onnx_export import INPUT, IR_VERSION, OPSET, OPSET_ML
from cloud.training.recipes.base import Recipe
from cloud.training.scores import Score
from cloud.training.trees import F32, EdgeModel
from voltflow.battery.features import FEATURES

CARD_SCHEMA = "voltflow.model/1"
GOLDEN_ROWS = 24


def inputs(model: str) -> list[dict[str, Any]]:
    """A model's inputs in column order, as the gateway compares them with its own."""
    return [{"name": f.name, "unit": f.unit, "required": f.required} for f in FEATURES[model]]


def versions() -> dict[str, str]:
    """Of what made the model."""
    return {
        "scikit-learn": sklearn.__version__,
        "onnx": onnx.__version__,
        "onnxruntime": onnxruntime.__version__,
        "numpy": np.__version__,
    }


def describe(recipe: Recipe, model: EdgeModel) -> dict[str, Any]:
    """The part of a card that does not depend on data."""
    return {
        "schema": CARD_SCHEMA,
        "name": recipe.name,
        "inputs": inputs(recipe.name),
        "outputs": list(model.outputs),
        "output_unit": recipe.unit,
        "target": recipe.target,
        "horizon": recipe.horizon,
        "weak": recipe.weak,
        "onnx": {"opset": OPSET, "opset_ml": OPSET_ML, "ir_version": IR_VERSION},
        "size": dict(model.cost_shape()),
        "parameters": recipe.parameters(),
        "versions": versions(),
    }


def score_table(scores: Mapping[str, Score]) -> dict[str, Any]:
    """Scores as a card has them."""
    return {name: item.as_dict() for name, item in scores.items()}


def metadata(card: Mapping[str, Any]) -> dict[str, str]:
    """What goes into the ONNX file: the few fields a gateway needs as they are, and the whole card."""
    plain = {name: str(card[name]) for name in ("name", "output_unit", "target", "horizon")}
    return {**plain, "inputs": json.dumps(card["inputs"]), "card": json.dumps(card, ensure_ascii=False)}


def golden(model: EdgeModel, features: F32, seed: int) -> dict[str, Any]:
    """Inputs and outputs for a few rows: a gateway that answers otherwise runs another model.

    Optional inputs that are missing are null. The tolerance is what float32 sums may differ by.
    """
    chosen = np.random.default_rng(seed).permutation(len(features))[:GOLDEN_ROWS]
    rows = features[np.sort(chosen)]
    outputs = {name: values.astype(np.float32) for name, values in model.predict(rows).items()}
    return {
        "features": [[float(v) if np.isfinite(v) else None for v in row] for row in rows],
        "outputs": {name: [float(v) for v in values] for name, values in outputs.items()},
        "tolerance": {name: tolerance(values) for name, values in outputs.items()},
    }


def tolerance(values: F32) -> float:
    """Allowed difference between ONNX and scikit-learn: 2e-5 of the largest value, at least 1e-4."""
    return float(max(1e-4, 2e-5 * np.abs(values).max(initial=0.0)))


def write(
    folder: Path, card: dict[str, Any], proto: onnx.ModelProto, vectors: Mapping[str, Any]
) -> dict[str, Any]:
    """Write the three files; the card returned also has the hash and size of the model file."""
    folder.mkdir(parents=True, exist_ok=True)
    del proto.metadata_props[:]
    helper.set_model_props(proto, metadata(card))
    data = proto.SerializeToString(deterministic=True)
    full = {**card, "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    _replace(folder / "model.onnx", data)
    _replace(folder / "card.json", (json.dumps(full, indent=1, ensure_ascii=False) + "\n").encode())
    _replace(folder / "golden.json", (_lines(vectors) + "\n").encode())
    return full


def _replace(path: Path, data: bytes) -> None:
    """A gateway that watches the folder never sees half a file."""
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(data)
    partial.replace(path)


def _lines(vectors: Mapping[str, Any]) -> str:
    """JSON with one feature row a line."""
    rows = ",\n  ".join(json.dumps(row) for row in vectors["features"])
    rest = ",\n ".join(f"{json.dumps(n)}: {json.dumps(v)}" for n, v in vectors.items() if n != "features")
    return f'{{"features": [\n  {rows}],\n {rest}}}'


def read(models: Path) -> list[dict[str, Any]]:
    """The cards in a folder of models."""
    cards = [json.loads(path.read_text("utf-8")) for path in sorted(models.glob("*/card.json"))]
    if not cards:
        raise TrainError(f"no models in {models}: run cloud-train run, or name the folder with --models")
    return cards


def check_golden(folder: Path) -> dict[str, float]:
    """Run a released model on its golden vectors; largest difference by output, TrainError beyond the tolerance."""
    vectors = json.loads((folder / "golden.json").read_text("utf-8"))
    rows = np.array(vectors["features"], dtype=np.float64).astype(np.float32)
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    names: Sequence[str] = list(vectors["outputs"])
    found = dict(zip(names, session.run(names, {INPUT: rows}), strict=True))
    differences = {n: float(np.abs(found[n][:, 0] - np.array(vectors["outputs"][n])).max()) for n in names}
    for name, difference in differences.items():
        if difference > vectors["tolerance"][name]:
            raise TrainError(
                f"{folder}: {name} differs by {difference:g} from golden.json, allowed "
                f"{vectors['tolerance'][name]:g}"
            )
    return differences
