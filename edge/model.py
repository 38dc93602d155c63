"""Released ONNX models on the gateway: loading, refusing what does not fit, running.

A model is a folder with `model.onnx` and `card.json`. Its inputs are named with units in the file itself; a model
whose inputs are not those of `voltflow.battery.features` is refused, because it would answer with nonsense.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voltflow.battery.features import FEATURES

HASH_DIGITS = 12


class ModelError(ValueError):
    """A model cannot be used; the message says which, why, and what to do."""


@dataclass(frozen=True)
class Model:
    """One loaded model. `hash` are the first 12 hex digits of the file's SHA-256; `outputs` name what it answers."""

    name: str
    hash: str
    unit: str
    outputs: tuple[str, ...]
    card: dict[str, Any]
    size_bytes: int
    session: Any

    def predict(self, features: NDArray[np.float32]) -> dict[str, list[float]]:
        """Outputs by name, one number for each row of `features` (n, inputs)."""
        answers = self.session.run(self.outputs, {"features": features})
        return {name: values.reshape(-1).tolist() for name, values in zip(self.outputs, answers, strict=True)}

    def describe(self) -> dict[str, Any]:
        """For `/api/models`: identity, size and the card."""
        return {
            "name": self.name,
            "hash": self.hash,
            "unit": self.unit,
            "size_bytes": self.size_bytes,
            "outputs": list(self.outputs),
            "card": self.card,
        }


def released_models() -> Path:
    """The folder of the released models; in a checkout a link to `models/`."""
    return Path(__file__).with_name("models")


def load_model(folder: Path, name: str) -> Model:
    """The model of that name in `folder/name`; raises ModelError."""
    import onnxruntime  # heavy: only where a model runs

    path = folder / name / "model.onnx"
    try:
        data = path.read_bytes()
        card = json.loads((folder / name / "card.json").read_text())
    except (OSError, ValueError) as error:
        raise ModelError(
            f"model {name}: cannot read {path.parent}: {error}; set models_dir to the released models"
        ) from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # noqa: BLE001 - onnxruntime raises kinds of its own, all of them mean the file
        raise ModelError(f"model {name}: {path} is not a model this gateway can run: {error}") from None
    metadata = session.get_modelmeta().custom_metadata_map
    _check_inputs(name, path, metadata)
    return Model(
        name=name,
        hash=hashlib.sha256(data).hexdigest()[:HASH_DIGITS],
        unit=metadata.get("output_unit", ""),
        outputs=tuple(output.name for output in session.get_outputs()),
        card=card,
        size_bytes=len(data),
        session=session,
    )


def _check_inputs(name: str, path: Path, metadata: dict[str, str]) -> None:
    if name not in FEATURES:
        raise ModelError(f"model {name}: there are features for {', '.join(sorted(FEATURES))} only")
    expected = [(feature.name, feature.unit) for feature in FEATURES[name]]
    try:
        stated = [(item["name"], item["unit"]) for item in json.loads(metadata["inputs"])]
    except (KeyError, TypeError, ValueError):
        raise ModelError(
            f"model {name}: {path} does not state its inputs; train it with cloud-train"
        ) from None
    if stated != expected:
        wrong = sorted({f"{n} [{u}]" for n, u in set(stated) ^ set(expected)}) or ["their order"]
        raise ModelError(
            f"model {name}: the inputs of {path} are not this gateway's features ({', '.join(wrong[:5])}); "
            "use the model released with this version or train it again"
        )
