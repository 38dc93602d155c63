"""Numbers of versions, to be compared."""

from __future__ import annotations

import re


def numbers(version: str) -> tuple[int, ...]:
    """
    >>> numbers("0.10.1") > numbers("0.9"), numbers("2.1rc1"), numbers("local")
    (True, (2, 1), ())
    """
    match = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(map(int, match[0].split("."))) if match else ()
