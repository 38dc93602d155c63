"""CSV as RFC 4180 has it, with any separator and line end: what the `csv` node reads and writes.

>>> [*rows('a,"b ""q"", c",\\r\\n\\n,"",d', ",")]
[['a', 'b "q", c'], [None, '', 'd']]
>>> cell_value("1.50"), cell_value("007"), cell_value("0x1f"), cell_value("12 V")
(1.5, '007', 31, '12 V')
>>> quoted('a "b", c', ",")
'"a ""b"", c"'

An empty cell is None, one that is quoted an empty text; empty cells at the end of a line are not there.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache

from voltflow.nodelib.loose import as_number

Row = list[str | None]

_QUOTED = re.compile(r'"([^"]*(?:""[^"]*)*)("?)')
_LINE_END = re.compile(r"\r\n|\r|\n")
_NO_NUMBER = re.compile(r" *(\+|-?0\d)|\s*\Z")


class CsvError(ValueError):
    """A text breaks the rules of CSV; the message says where."""


@lru_cache(maxsize=64)
def _bare(sep: str) -> re.Pattern[str]:
    return re.compile(rf"[^{re.escape(sep)}\r\n]*")


def rows(text: str, sep: str, at: int = 0, *, strict: bool = False) -> Iterator[Row]:
    """The rows that are not empty, from a position on. Stray quotes are kept, where `strict` they raise CsvError."""
    while at < len(text):
        row, at = read_row(text, sep, at, strict=strict)
        if row:
            yield row


def read_row(text: str, sep: str, at: int, *, strict: bool = False) -> tuple[Row, int]:
    """One row, and where the next begins."""
    row: Row = []
    while True:
        cell, at = _cell(text, sep, at, strict)
        if text.startswith(sep, at):
            row.append(cell)
            at += len(sep)
            continue
        if cell is not None:
            row.append(cell)
        end = _LINE_END.match(text, at)
        return row, end.end() if end else at


def _cell(text: str, sep: str, at: int, strict: bool) -> tuple[str | None, int]:
    quoted = _QUOTED.match(text, at)
    begin = at if quoted is None else quoted.end()
    bare = _bare(sep).match(text, begin)
    rest, end = (bare[0], bare.end()) if bare else ("", begin)
    if strict and (('"' in rest) if quoted is None else (rest or not quoted[2])):
        raise CsvError(
            f"a quote stands where it must not, in the cell at position {at + 1}: {text[at : at + 40]!r}"
        )
    if quoted is None:
        return (_stray(rest) if rest else None), end
    inner = quoted[1].replace('""', '"')
    return (inner + _stray(f'"{rest}') if rest else inner), end


def _stray(text: str) -> str:
    """A cell with quotes in its middle: they are kept, but for one at the end."""
    return re.sub(r'""|"\Z', lambda match: '"' if len(match[0]) == 2 else "", text) if '"' in text else text


def after_lines(text: str, count: int) -> int:
    """Where the line after so many begins; the length of the text when there is none."""
    at = 0
    for _ in range(count):
        found = _LINE_END.search(text, at)
        if found is None:
            return len(text)
        at = found.end()
    return at


def line_ends(text: str, at: int = 0) -> int:
    """How many lines end behind a position."""
    return sum(1 for _ in _LINE_END.finditer(text, at))


def cell_value(cell: str) -> str | int | float:
    """A cell that is a number as one; what begins with + or 0 (a telephone, a postcode) stays a text."""
    if _NO_NUMBER.match(cell):
        return cell
    number = as_number(cell)
    return number if math.isfinite(number) else cell


def quoted(cell: str, sep: str) -> str:
    """A cell with the quotes it needs."""
    if '"' in cell:
        return '"' + cell.replace('"', '""') + '"'
    return f'"{cell}"' if sep in cell or "\n" in cell or "\r" in cell else cell


def columns_of(text: str) -> list[str]:
    """The names in a list with commas; an empty one is a column that is left out. Raises CsvError."""
    found = [*rows(text, ",", strict=True)]
    if len(found) > 1:
        raise CsvError(f"column names are one line, but these are {len(found)}")
    return [name or "" for name in found[0]] if found else []


def columns_text(columns: Sequence[str | None]) -> str:
    """The names as `msg.columns` has them."""
    return ",".join(quoted(name, ",") for name in columns if name)
