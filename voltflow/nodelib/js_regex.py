r"""Regular expressions as JavaScript writes them, for Python's engine.

>>> compile_regex(r"(?<unit>[mk]?V)$").search("12 mV")["unit"]
'mV'
>>> replacement(compile_regex(r"(\d+)-(\d+)"), "$2/$1 of $& for 5$$")(re.match(r"(\d+)-(\d+)", "1-2"))
'2/1 of 1-2 for 5$'
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache

REGEX = "the regular expression"
"""What it is called for people."""

# What is written otherwise, or means more in Python: its \d takes the digits of all scripts, its $ also stands before a last
# line break.
_PART = re.compile(r"\\k<(\w+)>|\\u\{([0-9a-fA-F]+)\}|\\(.)|\(\?<(?![=!])|\[\^?\]|[\[\]$]", re.DOTALL)
_CLASSES = {"d": "0-9", "w": "A-Za-z0-9_"}


@lru_cache(maxsize=512)
def compile_regex(pattern: str, *, ignore_case: bool = False) -> re.Pattern[str]:
    """The expression; raises ValueError saying what is wrong with it."""
    try:
        return re.compile(translate(pattern), re.IGNORECASE if ignore_case else 0)
    except re.error as error:
        raise ValueError(f"{pattern!r} is not a regular expression: {error}") from None


def translate(pattern: str) -> str:
    r"""The pattern in Python's way of writing it.

    >>> translate(r"^\d{2}[\w$]$")
    '^[0-9]{2}[A-Za-z0-9_$]\\Z'
    >>> translate(r"[[]$][^]")
    '[\\[]\\Z][\\s\\S]'
    """
    in_class = False

    def part(match: re.Match[str]) -> str:
        nonlocal in_class
        text = match[0]
        if match[1]:
            return f"(?P={match[1]})"
        if match[2]:
            return re.escape(chr(int(match[2], 16)))
        if match[3]:
            return _escape(match[3], in_class)
        if in_class:
            in_class = not text.endswith("]")
            return text.replace("[", "\\[")
        if text == "[":
            in_class = True
            return text
        return {"(?<": "(?P<", "$": r"\Z", "[]": "(?!)", "[^]": r"[\s\S]"}.get(text, text)

    return _PART.sub(part, pattern)


def _escape(char: str, in_class: bool) -> str:
    if char in _CLASSES:
        return _CLASSES[char] if in_class else f"[{_CLASSES[char]}]"
    if char.lower() in _CLASSES and not in_class:
        return f"[^{_CLASSES[char.lower()]}]"
    if char == "/" or (char.isascii() and char.isalpha() and char not in "bBdDfnrstSuvwWx"):
        return char  # JavaScript takes an escape that means nothing for the letter
    return f"\\{char}"


_REFERENCE = re.compile(r"\$(\$|&|`|'|\d{1,2}|<(\w+)>)")


def replacement(expression: re.Pattern[str], text: str) -> Callable[[re.Match[str]], str]:
    """What stands for a match, with `$1`, `$&`, `$<name>` filled in."""
    if "$" not in text:
        return lambda _: text

    def fill(match: re.Match[str]) -> str:
        return _REFERENCE.sub(lambda reference: _referred(reference, match, expression), text)

    return fill


def _referred(reference: re.Match[str], match: re.Match[str], expression: re.Pattern[str]) -> str:
    what, name = reference[1], reference[2]
    if what == "$":
        return "$"
    if what in "&`'":
        return {"&": match[0], "`": match.string[: match.start()], "'": match.string[match.end() :]}[what]
    if name is not None:
        return (
            (match[name] or "")
            if name in expression.groupindex
            else ""
            if expression.groupindex
            else reference[0]
        )
    for digits in (what, what[:1]):
        if 0 < int(digits) <= expression.groups:
            return (match[int(digits)] or "") + what[len(digits) :]
    return reference[0]
