"""Draws a dashboard's answers with matplotlib, where its grid puts them: what a reader will see, without a Grafana server.

`draw(board, ask, path)` for a dashboard's JSON; `python -m grafana.draw --help` for boards of a running house.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from grafana.answers import POINTS, Frame
from grafana.draw import look
from grafana.draw.panels import DRAWERS

Ask = Callable[[Mapping[str, Any], int], list[Frame]]

ROW_PX, COLUMN_PX, DPI = 30, 54, 100


def draw(board: Mapping[str, Any], ask: Ask, path: Path, most_rows: int = 100) -> None:
    """Write a PNG of the board's first `most_rows` grid rows."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    panels = [panel for panel in board["panels"] if _bottom(panel) <= most_rows]
    rows = max(map(_bottom, panels))
    height_px = rows * ROW_PX + look.HEAD_PX
    with mpl.rc_context(look.STYLE):
        figure = Figure(figsize=(24 * COLUMN_PX / DPI, height_px / DPI), dpi=DPI, facecolor=look.PAGE)
        figure.text(
            16 / (24 * COLUMN_PX),
            1 - 27 / height_px,
            board["title"],
            fontsize=14,
            weight="bold",
            color=look.TEXT,
        )
        for panel in panels:
            grid = panel["gridPos"]
            box = look.Box(grid["x"] * COLUMN_PX, look.HEAD_PX + grid["y"] * ROW_PX, grid["w"] * COLUMN_PX, grid["h"] * ROW_PX,
                           24 * COLUMN_PX, height_px)  # fmt: skip
            _panel(figure, panel, box, ask)
        figure.savefig(path, dpi=DPI, facecolor=look.PAGE)
    _shrink(path)


def _bottom(panel: Mapping[str, Any]) -> int:
    return int(panel["gridPos"]["y"] + panel["gridPos"]["h"])


def _panel(figure: Any, panel: Mapping[str, Any], box: look.Box, ask: Ask) -> None:
    if panel["type"] == "row":
        look.heading(figure, box, panel["title"])
        return
    look.frame(figure, box, panel["title"])
    points = int(panel.get("maxDataPoints") or POINTS)
    frames = [frame for target in panel["targets"] for frame in ask(target, points)]
    if not any(frame.has_data for frame in frames):
        look.nothing(figure, box)
        return
    DRAWERS[panel["type"]](figure, box, panel, frames)


def _shrink(path: Path) -> None:
    """A palette of 128 colours is enough and a third of the bytes."""
    from PIL import Image

    with Image.open(path) as image:
        small = image.convert("RGB").quantize(128, dither=Image.Dither.NONE)
    small.save(path, optimize=True)
