"""One small picture per model: what it answers against what was true, beside its baseline."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cloud.training.recipes.base import Answers
from cloud.training.rows import Rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DOTS = 4000
OURS, BASE, LINE = "#2563eb", "#d1a054", "#444444"


def draw(model: str, rows: Rows, answers: Answers, baselines: Answers, path: Path) -> None:
    """Write the model's PNG (about 20 kB)."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    path.parent.mkdir(parents=True, exist_ok=True)
    figure, axes = plt.subplots(1, 2, figsize=(7.2, 3.2), layout="constrained")
    DRAWERS[model](axes[0], axes[1], rows, answers, baselines)
    figure.savefig(path, dpi=80, metadata={"Software": ""})
    plt.close(figure)


def _some(rows: Rows) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
    return np.random.default_rng(0).permutation(len(rows))[:DOTS]


def _against(axes: Axes, truth: Answers, unit: str) -> None:
    """Dots of predicted against true; `truth` holds `true`, `ours`, `base`, at least one row."""
    axes.plot(truth["true"], truth["base"], ".", ms=2, alpha=0.35, color=BASE, label="baseline")
    axes.plot(truth["true"], truth["ours"], ".", ms=2, alpha=0.5, color=OURS, label="model")
    low, high = float(np.min(truth["true"])), float(np.max(truth["true"]))
    axes.plot([low, high], [low, high], color=LINE, lw=0.8)
    axes.set_xlabel(f"true, {unit}")
    axes.set_ylabel(f"predicted, {unit}")
    axes.legend(markerscale=4, fontsize=7)


def _errors(axes: Axes, truth: Answers, unit: str) -> None:
    """How often an error of at most so much happens."""
    if not len(truth["true"]):  # in a very small run
        axes.set_title("no such row among the test packs", fontsize=8)
        return
    for name, color, label in (("base", BASE, "baseline"), ("ours", OURS, "model")):
        error = np.sort(np.abs(truth[name] - truth["true"]))
        axes.plot(error, np.linspace(0, 100, len(error)), color=color, label=label)
    axes.set_xlim(0, float(np.quantile(np.abs(truth["base"] - truth["true"]), 0.99)) or 1.0)
    axes.set_xlabel(f"absolute error, {unit}")
    axes.set_ylabel("share of rows below, %")
    axes.legend(fontsize=7)


def _soh(left: Axes, right: Axes, rows: Rows, answers: Answers, baselines: Answers) -> None:
    i = _some(rows)
    points = {"true": rows.target[i], "ours": answers["value"][i], "base": baselines["age_throughput"][i]}
    _against(left, points, "% SoH")
    _errors(right, points, "% SoH")


def _temperature(left: Axes, right: Axes, rows: Rows, answers: Answers, baselines: Answers) -> None:
    now = baselines["persistence"]
    i = _some(rows)
    points = {"true": (rows.target - now)[i], "ours": (answers["value"] - now)[i], "base": np.zeros(len(i))}
    _against(left, points, "°C change in 10 min")
    event = np.abs(rows.target - now) >= 1.5
    moved = {"true": rows.target[event], "ours": answers["value"][event], "base": now[event]}
    _errors(right, moved, "°C, where it moved by 1.5 °C")


def _rul(left: Axes, right: Axes, rows: Rows, answers: Answers, baselines: Answers) -> None:
    ends = np.flatnonzero(rows.extra["censored"] == 0)
    i = np.random.default_rng(0).permutation(ends)[:300]
    i = i[np.argsort(rows.target[i])]
    left.fill_between(range(len(i)), answers["low"][i], answers["high"][i], color=OURS, alpha=0.25, lw=0)
    left.plot(answers["value"][i], ".", ms=2, color=OURS, label="model, 80 % interval")
    left.plot(rows.target[i], color=LINE, lw=1, label="true")
    left.set_xlabel("pack-days with a known end, by life left")
    left.set_ylabel("cycles to 80 %")
    left.legend(fontsize=7)
    points = {
        "true": rows.target[ends],
        "ours": answers["value"][ends],
        "base": baselines["extrapolation"][ends],
    }
    _errors(right, points, "cycles")


def _failure(left: Axes, right: Axes, rows: Rows, answers: Answers, baselines: Answers) -> None:
    from sklearn.metrics import roc_curve

    truth = rows.target > 0
    for values, color, label in (
        (baselines["insulation"], BASE, "insulation"),
        (answers["value"], OURS, "model"),
    ):
        false, true, _ = roc_curve(truth, values)
        left.plot(100 * false, 100 * true, color=color, label=label)
    left.set_xlabel("false alarms, % of rows")
    left.set_ylabel("found, % of rows before a fault")
    left.legend(fontsize=7)
    days = rows.extra["left_days"]
    near = np.isfinite(days) & (days < 14)
    right.plot(days[near], answers["value"][near], ".", ms=2, alpha=0.5, color=OURS)
    right.set_yscale("log")
    right.set_xlim(14, 0)
    right.set_xlabel("days before a critical fault")
    right.set_ylabel("predicted, %")


Drawer = Callable[["Axes", "Axes", Rows, Answers, Answers], None]
DRAWERS: dict[str, Drawer] = {"soh": _soh, "temperature": _temperature, "rul": _rul, "failure": _failure}
