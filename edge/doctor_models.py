"""Are the models those that were released, and do they compute here what they computed there?"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from edge.model import Model, ModelError, load_model, released_models
from edge.settings import AgentSettings
from voltflow.battery.features import FEATURES
from voltflow.doctor.checks import Check, Finding, ok, problem, warning


def check(settings: AgentSettings) -> Check:
    folder = Path(settings.models_dir) if settings.models_dir else released_models()
    return Check("models", "models", lambda: look(folder), limit_s=120.0)


def look(folder: Path) -> Iterator[Finding]:
    """What is wrong with the four models in a folder."""
    again = "reinstall voltflow[edge], or set models_dir to a folder of models as `cloud-train run` makes it"
    fine = []
    for name in FEATURES:
        try:
            model = load_model(folder, name)
        except ModelError as error:
            yield problem(str(error), again)
            continue
        findings = [*_identity(folder / name, model), *_golden(folder / name, model)]
        yield from findings
        if not findings:
            fine.append(f"{name} {model.hash}")
    if fine:
        yield ok(f"loaded, as on their cards, and computing what they should: {', '.join(fine)}")


def _identity(folder: Path, model: Model) -> Iterator[Finding]:
    found = hashlib.sha256((folder / "model.onnx").read_bytes()).hexdigest()
    stated = model.card.get("sha256")
    if stated != found:
        yield problem(f"model {model.name}: the file is {found[:12]}…, its card says {str(stated)[:12]}…",
                      f"copy model.onnx and card.json of one release to '{folder}'")  # fmt: skip


def _golden(folder: Path, model: Model) -> Iterator[Finding]:
    """Recorded inputs and outputs: another processor or library must come to the same, within the tolerance beside them."""
    try:
        vectors = json.loads((folder / "golden.json").read_text("utf-8"))
        rows = np.array(vectors["features"], dtype=np.float64).astype(np.float32)
        expected, tolerance = vectors["outputs"], vectors["tolerance"]
    except FileNotFoundError:
        yield warning(
            f"model {model.name}: '{folder}' has no golden.json to check it with", "copy it from the release"
        )
        return
    except (OSError, ValueError, KeyError, TypeError) as error:
        yield problem(
            f"model {model.name}: golden.json cannot be used: {error!r}", "copy it from the release"
        )
        return
    found = model.predict(rows)
    for name, values in expected.items():
        off = float(np.abs(np.array(found[name]) - np.array(values)).max()) if name in found else float("inf")
        if not off <= tolerance[name]:  # NaN is wrong, too
            yield problem(f"model {model.name}: {name} is off by {off:g} from golden.json, allowed is {tolerance[name]:g}",
                          "the file or this machine's onnxruntime is not what was released: pip install "
                          "--force-reinstall onnxruntime; else take the release's model")  # fmt: skip
