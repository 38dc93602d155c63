"""The dashboards as code: `python -m grafana.boards` writes `grafana/dashboards/`, `--check` tells what is not up to date."""

from __future__ import annotations

from pathlib import Path

from grafana.boards import battery, fleet, gateway, ledger, model_quality
from grafana.boards.board import as_json

FOLDER = Path(__file__).resolve().parent.parent / "dashboards"


def all_boards() -> dict[Path, str]:
    """The text of every dashboard by its file."""
    made = {
        "battery": battery,
        "fleet": fleet,
        "gateway": gateway,
        "model-quality": model_quality,
        "ledger": ledger,
    }
    return {FOLDER / f"{name}.json": as_json(module.make()) for name, module in made.items()}


def stale(boards: dict[Path, str]) -> list[str]:
    """Names of files that are not what the code says: to be written, or of no board any more."""
    wanted = [
        path.name
        for path, content in boards.items()
        if not path.exists() or path.read_text("utf-8") != content
    ]
    return wanted + [path.name for path in FOLDER.glob("*.json") if path not in boards]
