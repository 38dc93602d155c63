"""The look of the pictures: colours, boxes, numbers in words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

PAGE, PANEL, EDGE, TEXT, DIM = "#f4f5f5", "#ffffff", "#d8d9da", "#24292e", "#6e7079"
COLORS = {"green": "#4a9e4d", "orange": "#e8871e", "red": "#d43f4c", "yellow": "#e0b400", "blue": "#3871dc", "purple": "#8f3bb8",
          "gray": "#9fa7b3"}  # fmt: skip
SERIES = (
    "#3871dc",
    "#e8871e",
    "#4a9e4d",
    "#8f3bb8",
    "#d43f4c",
    "#2a9d9d",
    "#8a6d3b",
    "#d36ba6",
    "#6e7079",
    "#94b43b",
)
HEAD_PX = 44
STYLE: dict[Any, Any] = {"font.size": 8, "font.family": "DejaVu Sans", "axes.edgecolor": EDGE, "axes.labelcolor": DIM, "text.color": TEXT,
         "xtick.color": DIM, "ytick.color": DIM, "axes.grid": True, "grid.color": "#ececec", "axes.spines.top": False,
         "axes.spines.right": False, "axes.axisbelow": True}  # fmt: skip
MARGIN_PX, TITLE_PX = 4, 24


@dataclass(frozen=True)
class Box:
    """A panel's place in pixels from the top left, and the size of the whole picture."""

    x: float
    y: float
    w: float
    h: float
    page_w: float
    page_h: float

    def part(self, left: float, top: float, right: float, bottom: float) -> tuple[float, float, float, float]:
        """What is left inside these margins, as matplotlib wants it: from the bottom left, in shares of the picture."""
        x, y = self.x + left, self.y + top
        w, h = self.w - left - right, self.h - top - bottom
        return x / self.page_w, 1 - (y + h) / self.page_h, w / self.page_w, h / self.page_h

    def point(self, x: float, y: float) -> tuple[float, float]:
        """A point inside it, in shares of the picture."""
        return (self.x + x) / self.page_w, 1 - (self.y + y) / self.page_h


def frame(figure: Any, box: Box, title: str) -> None:
    """An empty panel with its title."""
    from matplotlib.patches import Rectangle

    left, bottom, width, height = box.part(*[MARGIN_PX] * 4)
    figure.add_artist(
        Rectangle((left, bottom), width, height, facecolor=PANEL, edgecolor=EDGE, linewidth=0.8, zorder=-5)
    )
    shown = title if len(title) * 6.3 < box.w - 20 else title[: int((box.w - 26) / 6.3)] + "…"
    figure.text(*box.point(12, 20), shown, fontsize=8.5, weight="bold")


def heading(figure: Any, box: Box, title: str) -> None:
    """A row's title."""
    figure.text(*box.point(8, 21), f"⌄ {title}", fontsize=10, weight="bold")


def nothing(figure: Any, box: Box) -> None:
    """What Grafana writes where there is nothing."""
    figure.text(*box.point(box.w / 2, box.h / 2 + 6), "No data", color=DIM, ha="center")


def color_of(value: float | None, steps: Sequence[Mapping[str, Any]]) -> str:
    """The colour of the last step that the value reaches."""
    found = steps[0]["color"] if steps else "blue"
    for step in steps[1:]:
        if value is not None and value >= step["value"]:
            found = step["color"]
    return COLORS.get(found, found)


_SUFFIXES = {"percent": " %", "celsius": " °C", "Bps": "B/s", "decbytes": "B", "mps": "/s", "amph": " Ah"}


def shown(
    value: Any, unit: str = "short", decimals: float | None = None, words: Mapping[str, str] | None = None
) -> str:
    """A value as Grafana writes it, about."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if hasattr(value, "strftime"):
        return str(value.strftime("%Y-%m-%d %H:%M:%S"))
    if not isinstance(value, int | float) or isinstance(value, bool):
        return str(value)
    if words and f"{value:g}" in words:
        return words[f"{value:g}"]
    if unit == "s":
        return _duration(float(value))
    if unit in ("decbytes", "Bps"):
        number = _scaled(float(value))
        return f"{number}{'' if ' ' in number else ' '}{_SUFFIXES[unit]}"
    ending = f" {unit.split(':')[1].strip()}" if unit.startswith("suffix:") else _SUFFIXES.get(unit, "")
    number = f"{value:.{int(decimals)}f}" if decimals is not None else _scaled(float(value))
    return f"{number}{ending}"


def _scaled(value: float) -> str:
    for letter in ("", " K", " M", " G"):
        if abs(value) < 1000 or letter == " G":
            return f"{value:.3g}{letter}" if abs(value) < 1000 else f"{value:.0f}{letter}"
        value /= 1000
    return ""


def _duration(seconds: float) -> str:
    if abs(seconds) < 1:
        return f"{1000 * seconds:.3g} ms"
    for unit, size in (("d", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if abs(seconds) >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"
