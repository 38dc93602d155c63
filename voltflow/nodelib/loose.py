"""Values as JavaScript takes them: as text, as a number, compared. Flows made in Node-RED rely on it.

>>> as_text(2.0), as_text([1, None, "a"]), as_text(True), as_text({"a": 1})
('2', '1,,a', 'true', '[object Object]')
>>> as_number(" 0x10 "), as_number("1e3"), as_number(""), as_number("12 V")
(16, 1000.0, 0, nan)
>>> equal("1", 1), equal(None, UNDEFINED), equal("", None), less("10", "9"), less("10", 9)
(True, True, False, True, False)
"""

from __future__ import annotations

import json
import math
import re
from decimal import Decimal
from typing import Any

from voltflow.flow.properties import UNDEFINED, plain

NAN = math.nan

_DECIMAL = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_PREFIXED = re.compile(r"0[xX][0-9a-fA-F]+|0[oO][0-7]+|0[bB][01]+")
_INFINITY = {"Infinity": math.inf, "+Infinity": math.inf, "-Infinity": -math.inf}
_LEADING = re.compile(rf"\s*({_DECIMAL.pattern})", re.ASCII)


def as_text(value: Any) -> str:
    """What JavaScript makes of a value where a text is needed."""
    if isinstance(value, str):
        return value
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, float):
        return _float_text(value)
    if isinstance(value, bytes | bytearray):
        return value.decode(errors="replace")
    value = plain(value)
    if isinstance(value, list | tuple):
        return ",".join("" if item is None else as_text(item) for item in value)
    return "[object Object]" if isinstance(value, dict) else str(value)


def _float_text(value: float) -> str:
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    text = repr(value)
    if "e" in text and 1e-6 <= abs(value) < 1e21:
        return format(Decimal(text), "f")
    if value.is_integer() and abs(value) < 1e21:
        return str(int(value))
    return re.sub(r"e([+-])0*", r"e\1", text)


def as_number(value: Any) -> int | float:
    """What JavaScript makes of a value where a number is needed; NaN where it is none."""
    if value is None:
        return 0
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, int | float):
        return value
    text = as_text(value).strip()
    if not text:
        return 0
    if _PREFIXED.fullmatch(text):
        return int(text, 0)
    if _DECIMAL.fullmatch(text):
        return int(text) if text.lstrip("+-").isdigit() and len(text) < 400 else float(text)
    return _INFINITY.get(text, NAN)


def leading_number(value: Any) -> int | float:
    """The number that a text begins with (`parseFloat`), for instance 12.5 of "12.5 V"; NaN where there is none."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    text = as_text(value)
    found = _LEADING.match(text)
    return as_number(found[1]) if found else _INFINITY.get(text.strip(), NAN)


def is_object(value: Any) -> bool:
    """Whether it is a list, a dict, bytes or an object of the gateway's own, and neither text, number, bool nor nothing."""
    return not (value is None or value is UNDEFINED or isinstance(value, str | int | float))


def equal(a: Any, b: Any) -> bool:
    """JavaScript's `==`: a text that is a number equals it, null is what is not there, two objects differ."""
    if a is None or a is UNDEFINED or b is None or b is UNDEFINED:
        return (a is None or a is UNDEFINED) and (b is None or b is UNDEFINED)
    if is_object(a) and is_object(b):
        return a is b
    if isinstance(a, bool) or isinstance(b, bool):
        return as_number(a) == as_number(b)
    a, b = _primitive(a), _primitive(b)
    return bool(a == b) if isinstance(a, str) == isinstance(b, str) else as_number(a) == as_number(b)


def less(a: Any, b: Any) -> bool:
    """JavaScript's `<`: texts by their letters, everything else as numbers."""
    a, b = _primitive(a), _primitive(b)
    return a < b if isinstance(a, str) and isinstance(b, str) else as_number(a) < as_number(b)


def at_most(a: Any, b: Any) -> bool:
    """JavaScript's `<=`; with a NaN neither this nor `less(b, a)`."""
    a, b = _primitive(a), _primitive(b)
    return a <= b if isinstance(a, str) and isinstance(b, str) else as_number(a) <= as_number(b)


def _primitive(value: Any) -> Any:
    return as_text(value) if is_object(value) else value


def json_text(value: Any, indent: int | None = None) -> str:
    """A value as `JSON.stringify` writes it: what is no number there is null, bytes are a Buffer. Raises TypeError."""
    separators = (",", ":") if indent is None else (",", ": ")
    return json.dumps(
        _finite(plain(value)), ensure_ascii=False, indent=indent, separators=separators, default=_other
    )


def _other(value: Any) -> Any:
    if isinstance(value, bytes | bytearray):
        return {"type": "Buffer", "data": list(value)}
    found = plain(value)
    if found is value:
        raise TypeError(f"JSON cannot say a {type(value).__name__}")
    return found


def _finite(value: Any) -> Any:
    """With 2.0 as 2, and NaN and the infinities as null."""
    if isinstance(value, float):
        if value.is_integer() and abs(value) < 1e21:
            return int(value)
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value


def as_cell(value: Any) -> str:
    """A value as one text: objects and lists as JSON."""
    return json_text(value) if is_object(value) and not isinstance(value, bytes) else as_text(value)
