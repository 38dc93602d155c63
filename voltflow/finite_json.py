"""JSON as browsers and Node-RED read it: every number is finite. Python's own reader also takes `NaN`, and makes infinity of `1e400`."""

from __future__ import annotations

import json
import math
from typing import Any


def loads(text: str | bytes) -> Any:
    """The value of a text; raises ValueError (JSONDecodeError where it knows the place) and RecursionError.

    >>> loads('{"x": 1.5}')
    {'x': 1.5}
    >>> loads('{"x": 1e400}')
    Traceback (most recent call last):
    ValueError: 1e400 is no finite number
    """
    return json.loads(text, parse_constant=_refuse, parse_float=_finite)


def _refuse(text: str) -> Any:
    raise ValueError(f"{text} is no finite number")


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _refuse(text)
