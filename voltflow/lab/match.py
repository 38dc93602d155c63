"""Whether a message is as a test expects it: what is not named may be anything, numbers may be near.

>>> differences({"payload": {"soc_pct": 80}}, {"payload": {"soc_pct": 81, "pack": "P1"}, "topic": "t"})
['payload.soc_pct: expected 80, is 81']
>>> differences(
...     {"soc_pct": {"$near": 80, "$within": 2}, "pack": {"$match": "^P"}}, {"soc_pct": 81, "pack": "P1"}
... )
[]

Instead of a value: `{"$near": 3.7, "$within": 0.1}`, `{"$above": 3}`, `{"$below": 4}` (both: between), `{"$match": "regex"}`,
`{"$any": true}` (it is there), `{"$absent": true}` (it is not).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

RELATIVE: Final = 1e-9
"""How far numbers may be apart in any case: what computers of two kinds may make of the same sum."""
_NOTHING: Final = object()


class MatchError(ValueError):
    """An expectation is not written as one."""


def differences(expected: Any, actual: Any, tolerance: float = 0.0) -> list[str]:
    """What is not as expected, a line each: where, what was expected, what is there. Raises MatchError."""
    return list(_compare(expected, actual, "", tolerance))


def shown(value: Any, longest: int = 120) -> str:
    """A value for people, on one line."""
    if value is _NOTHING:
        return "not there"
    text = json.dumps(value, ensure_ascii=False, default=repr)
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def _compare(expected: Any, actual: Any, path: str, tolerance: float) -> Iterator[str]:
    if isinstance(expected, Mapping) and any(name.startswith("$") for name in expected):
        yield from _special(expected, actual, path)
    elif isinstance(expected, Mapping) and isinstance(actual, Mapping):
        for name, value in expected.items():
            found = actual.get(name, _NOTHING)
            yield from _compare(value, found, f"{path}.{name}" if path else name, tolerance)
    elif isinstance(expected, list) and isinstance(actual, list):
        yield from _lists(expected, actual, path, tolerance)
    elif not _same(expected, actual, tolerance):
        yield _line(path, shown(expected), actual)


def _lists(expected: list[Any], actual: list[Any], path: str, tolerance: float) -> Iterator[str]:
    if len(expected) != len(actual):
        yield f"{path or 'it'}: expected {len(expected)} elements, there are {len(actual)}: {shown(actual)}"
        return
    for index, (one, other) in enumerate(zip(expected, actual, strict=True)):
        yield from _compare(one, other, f"{path}[{index}]", tolerance)


def _same(expected: Any, actual: Any, tolerance: float) -> bool:
    if _is_number(expected) and _is_number(actual):
        return _near(expected, actual, tolerance)
    return type(expected) is type(actual) and bool(expected == actual)


def _near(expected: float, actual: float, tolerance: float) -> bool:
    return math.isclose(expected, actual, rel_tol=RELATIVE, abs_tol=tolerance)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _line(path: str, expected: str, actual: Any) -> str:
    return f"{path or 'it'}: expected {expected}, is {shown(actual)}"


# -- instead of a value -------------------------------------------------------------------------------------------

_SPECIAL: Final[Mapping[str, tuple[Callable[[Any, Any], bool], str]]] = {
    "$any": (lambda wanted, actual: (actual is not _NOTHING) is bool(wanted), "something"),
    "$absent": (lambda wanted, actual: (actual is _NOTHING) is bool(wanted), "nothing"),
    "$match": (lambda wanted, actual: isinstance(actual, str) and re.search(wanted, actual) is not None, "text like"),
    "$above": (lambda wanted, actual: _is_number(actual) and actual > wanted, "above"),
    "$below": (lambda wanted, actual: _is_number(actual) and actual < wanted, "below"),
}  # fmt: skip
_WITHOUT_VALUE: Final = frozenset({"$any", "$absent"})


def _special(expected: Mapping[str, Any], actual: Any, path: str) -> Iterator[str]:
    if set(expected) == {"$near", "$within"}:
        near, within = expected["$near"], expected["$within"]
        if not _is_number(actual) or not _near(near, actual, within):
            yield _line(path, f"{shown(near)} ± {shown(within)}", actual)
        return
    for name, wanted in expected.items():
        if name not in _SPECIAL:
            allowed = ", ".join(["$near with $within", *_SPECIAL])
            raise MatchError(f"{path or 'it'}: {name!r} is nothing that can be expected; there are {allowed}")
        holds, words = _SPECIAL[name]
        try:
            is_so = holds(wanted, actual)
        except (TypeError, re.error) as error:
            raise MatchError(f"{path or 'it'}: {name}: {shown(wanted)}: {error}") from None
        if not is_so:
            yield _line(path, words if name in _WITHOUT_VALUE else f"{words} {shown(wanted)}", actual)
