"""What many values become in one: for windows.

>>> FUNCTIONS["mean"]([1.0, 2.0, 6.0]), FUNCTIONS["stddev"]([1.0]), percentile([1.0, 2.0, 3.0, 4.0], 50)
(3.0, None, 2.5)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from voltflow.flow.field import ConfigError
from voltflow.flow.properties import UNDEFINED, PathError, parse

Values = Sequence[float]


def total(values: Values) -> float | None:
    """The sum, without the rounding errors of many small ones; None where it is beyond all numbers."""
    try:
        return math.fsum(values)
    except OverflowError:
        return None


def mean(values: Values) -> float | None:
    found = total(values) if values else None
    return None if found is None else found / len(values)


def stddev(values: Values) -> float | None:
    """Of a sample (n − 1); None for fewer than two."""
    middle = mean(values)
    if middle is None or len(values) < 2:
        return None
    squares = total([(value - middle) * (value - middle) for value in values])
    return None if squares is None else math.sqrt(squares / (len(values) - 1))


def percentile(values: Values, percent: float) -> float | None:
    """Interpolated between the two values beside it, as numpy does by default."""
    if not values:
        return None
    ordered = sorted(values)
    position = (len(ordered) - 1) * percent / 100
    low = math.floor(position)
    share = position - low
    return ordered[low] if not share else ordered[low] * (1 - share) + ordered[low + 1] * share


FUNCTIONS: dict[str, Callable[[Values], Any]] = {
    "sum": total,
    "mean": mean,
    "min": lambda values: min(values, default=None),
    "max": lambda values: max(values, default=None),
    "stddev": stddev,
}
"""Of numbers; `percentile` has a parameter, and `count`, `first` and `last` take any value."""
ANY = ("count", "first", "last")


def aggregated(function: str, values: Sequence[Any], percent: float = 50) -> Any:
    """A function of the values, oldest first; None where there is none."""
    if function == "count":
        return len(values)
    if function in ANY:
        return values[0 if function == "first" else -1] if values else None
    numbers = [value for value in values if is_number(value)]
    found = percentile(numbers, percent) if function == "percentile" else FUNCTIONS[function](numbers)
    return found if found is None or math.isfinite(found) else None


def is_number(value: Any) -> bool:
    """Whether it can be added up: no text, no NaN."""
    return isinstance(value, int | float) and -1.8e308 < value < 1.8e308


def is_missing(value: Any) -> bool:
    """Whether there is no value: null, a property that is not there, a NaN or an infinity."""
    return value is None or value is UNDEFINED or (isinstance(value, float) and not math.isfinite(value))


class Rule(NamedTuple):
    """One aggregate: its name, the function, the property whose values it takes (empty: the messages)."""

    name: str
    function: str
    path: str
    percent: float

    @property
    def numeric(self) -> bool:
        return self.function not in ANY

    @classmethod
    def list_of(cls, items: list[dict[str, Any]], reserved: Sequence[str]) -> list[Rule]:
        """Of a node's property `rules`; raises ConfigError."""
        rules = [cls._of(number, item) for number, item in enumerate(items, 1)]
        names = [*reserved, *(rule.name for rule in rules)]
        for name in names:
            if names.count(name) > 1:
                raise ConfigError(f'property "rules": {name!r} is there twice; give one a name of its own')
        return rules

    @classmethod
    def _of(cls, number: int, item: dict[str, Any]) -> Rule:
        function, path = str(item.get("function", "")), str(item.get("property") or "")
        allowed = (*ANY, *FUNCTIONS, "percentile")
        if function not in allowed:
            raise ConfigError(
                f'property "rules": function of rule {number} is {function!r}, allowed are {", ".join(allowed)}'
            )
        if path:
            check_path("rules", path)
        elif function != "count":
            raise ConfigError(f'property "rules": rule {number} ({function}) needs a property')
        percent = item.get("percent", 95)
        if not is_number(percent) or not 0 <= percent <= 100:
            raise ConfigError(
                f'property "rules": percent of rule {number} is {percent!r}, allowed is 0 … 100'
            )
        suffix = f"p{percent:g}" if function == "percentile" else function
        name = f"{parse(path)[-1]}_{suffix}" if path else function
        return cls(str(item.get("name") or name), function, path, percent)


def check_path(name: str, path: str) -> None:
    """Raises ConfigError where the value of a node's property is no path."""
    try:
        parse(path)
    except PathError as error:
        raise ConfigError(f'property "{name}": {error}') from None
