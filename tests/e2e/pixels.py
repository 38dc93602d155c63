"""Pictures as arrays: what colours are where."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Picture = NDArray[np.int16]
"""Rows, columns, red green blue."""


def picture(element: Any) -> Picture:
    """What an element looks like now."""
    return np.asarray(Image.open(io.BytesIO(element.screenshot())).convert("RGB"), dtype=np.int16)


def near(seen: Picture, colour: tuple[int, int, int], distance: int = 40) -> NDArray[np.bool_]:
    """Which pixels have about that colour."""
    return np.asarray(np.abs(seen - np.array(colour, dtype=np.int16)).sum(axis=2) <= distance)


def middle(mask: NDArray[np.bool_]) -> tuple[float, float]:
    """A pixel (x, y) that is set and has most of the set ones around it."""
    rows, columns = np.nonzero(mask)
    nearest = np.argmin((rows - np.median(rows)) ** 2 + (columns - np.median(columns)) ** 2)
    return float(columns[nearest]), float(rows[nearest])
