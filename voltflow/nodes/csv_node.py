"""The `csv` node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, Self, cast

from voltflow.flow.properties import plain
from voltflow.message import Msg, message_id
from voltflow.node import ConfigError, Context, Ports, Transform, config, node
from voltflow.nodelib import csv_text
from voltflow.nodelib.csv_text import CsvError, columns_of, columns_text, line_ends, quoted
from voltflow.nodelib.gathering import GatherLimits, Gathers
from voltflow.nodelib.loose import NAN, as_cell, as_number, is_object
from voltflow.nodelib.parts import parts_of

Columns = Sequence[str | None]


@dataclass(frozen=True)
class State:
    """What a message leaves behind for the next: the columns in use, and whether the header line was written."""

    columns: Columns
    header_sent: bool = False


@node("csv", category="parser", color="#debd5c", icon="parser-csv.svg")
class Csv(GatherLimits, Transform):
    """Turn CSV text into objects, or objects and lists into CSV text.

    By RFC 4180, whatever `spec` says. A text gives a message for each row (`msg.parts` tells them) or one with a list of all. The column
    names stand in the first line, in the property, or are col1, col2 and so on. An object gives a row, a list of objects or of
    lists several; `msg.columns` may name the columns. Bytes are taken for a text. What is neither makes the message fail.

    With `mult` the lines of a sequence are held until it is complete, on disk when that takes longer than a moment; one that does not
    get complete becomes dead letters in time, one of which a line cannot be read at once, and after a crash one may leave twice. The
    names from the first line of a sequence, and that a header was sent once, are forgotten at a restart. `msg.reset` forgets the
    header too.
    """

    rules: str = config(
        "rfc", name="spec", help="rules of the text: rfc, or those of old flows (empty)", choices=("rfc", "")
    )
    sep: str = config(",", help="what stands between cells, one letter; \\t is a tab")
    hdrin: bool = config(False, help="the first line of a text has the column names")
    hdrout: Any = config(
        "none",
        help="write a header line: none, all (for each message), once; flows of old say true for all, or false",
    )
    multi: str = config(
        "one", help="of a text make a message for each row, or one with a list", choices=("one", "mult")
    )
    ret: str = config("\\r\\n", help="line end of a text that is written, with \\r and \\n")
    temp: str = config("", help="names of the columns, with commas between; an empty one is left out")
    skip: int = config(0, help="lines at the beginning of a text that are passed over", low=0, high=1_000_000)
    strings: bool = config(True, help="turn cells that are numbers into numbers")
    include_empty_strings: bool = config(False, help="keep cells that are empty texts")
    include_null_values: bool = config(False, help="keep empty cells, as null")

    def __new__(cls, **values: Any) -> Self:
        gathers = cls is Csv and values.get("multi") == "mult"
        return cast("Self", object.__new__(_GatheringCsv if gathers else cls))

    def __post_init__(self) -> None:
        if self.hdrout not in ("none", "all", "once", "", True, False):
            raise ConfigError(f"property \"hdrout\": {self.hdrout!r} is not one of 'none', 'all', 'once'")
        self._sep, self._ret = _unescaped(self.sep or ","), _unescaped(self.ret or "\\r\\n")
        if len(self._sep) != 1 or self._sep in '"\r\n':
            raise ConfigError(f'property "sep": {self.sep!r} is not one letter other than " and a line end')
        try:
            self._columns = columns_of(self.temp)
        except CsvError as error:
            raise ConfigError(f'property "temp": {error}') from None

    async def start(self, ctx: Context) -> None:
        self._state = State(self._columns)

    def process(self, msgs: list[Msg]) -> list[Msg] | Ports:
        state, out = self._state, []
        for msg in msgs:
            made, state = self.convert(msg, state)
            out += made
        self._state = state
        return out

    def convert(self, msg: Msg, state: State) -> tuple[list[Msg], State]:
        """What a message becomes."""
        value = plain(msg.payload)
        if "reset" in (msg.props or {}):
            state = replace(state, header_sent=False)
            if value is None:
                return [], state
        if value is None:
            return [msg], state
        if isinstance(value, bytes):
            value = value.decode()
        if isinstance(value, str):
            return self._read(msg, value, state)
        if not is_object(value):
            raise TypeError(f"msg.payload is {type(value).__name__}, expected a text, an object or a list")
        return self._write(msg, value, state)

    # -- from text ------------------------------------------------------------------------------------------------

    def _read(self, msg: Msg, text: str, state: State) -> tuple[list[Msg], State]:
        found, columns, state = self.rows_of(msg, text, state)
        if found is None:
            return [], state
        made = _with(msg, columns=columns_text(columns))
        if self.multi == "mult":
            return [made.derive(payload=found)], state
        parts = parts_of(msg)
        if not parts:
            id, count = message_id(msg), len(found)
            return [
                _with(made, parts={"id": id, "index": i, "count": count}).derive(payload=row)
                for i, row in enumerate(found)
            ], state
        last = as_number(parts.get("index", NAN)) + 1 >= as_number(parts.get("count", NAN))
        gone = self.skip + self.hdrin
        moved = {name: parts[name] - gone for name in ("index", "count") if name in parts}
        changes: dict[str, Any] = {"parts": {**parts, **moved}, **({"complete": True} if last else {})}
        if last and not found:
            return [msg.derive(topic="", payload=None, props={"complete": True})], state
        return [_with(made, **changes).derive(payload=row) for row in found], state

    def rows_of(
        self, msg: Msg, text: str, state: State
    ) -> tuple[list[dict[str, Any]] | None, Columns, State]:
        """The rows of a text, its columns and what is kept of it; None where all lines are passed over."""
        line = int(as_number(parts_of(msg).get("index", 0)))
        at = csv_text.after_lines(text, max(0, self.skip - line))
        if at >= len(text) and line < self.skip:
            return None, state.columns, state
        first = line <= self.skip or (self.multi == "mult" and line_ends(text, at) > 1)
        columns = state.columns
        if self.hdrin and first:
            columns, at = csv_text.read_row(text, self._sep, at, strict=True)
            state = replace(state, columns=columns)
        found = [*csv_text.rows(text, self._sep, at)]
        if not _named(columns):
            columns = [f"col{i + 1}" for i in range(len(found[0]))] if found else []
        return [made for row in found if (made := self._object(row, columns))], columns, state

    def _object(self, row: list[str | None], columns: Columns) -> dict[str, Any]:
        made: dict[str, Any] = {}
        for index, name in enumerate(columns):
            cell = row[index] if index < len(row) else None
            if not name or (cell is None and not self.include_null_values):
                continue
            if cell == "" and not self.include_empty_strings:
                continue
            made[name] = csv_text.cell_value(cell) if cell and self.strings else cell
        return made

    # -- to text --------------------------------------------------------------------------------------------------

    def _write(self, msg: Msg, value: Any, state: State) -> tuple[list[Msg], State]:
        table = value if isinstance(value, list) else [value]
        if table and not is_object(table[0]) and table[0] is not None:
            table = [table]
        columns = state.columns
        if self._columns or not as_number(parts_of(msg).get("index", 0)) > 0:
            columns = self._columns
        first, writes_header = plain(table[0]) if table else None, self._writes_header(state)
        given = (msg.props or {}).get("columns")
        if given and not _named(columns) and (writes_header or isinstance(first, Mapping)):
            columns = columns_of(str(given))
        lines = []
        if writes_header and (table or _named(columns)):
            columns = columns if _named(columns) else _names(first)
            lines.append(self._line(name or "" for name in columns))
        for row in map(plain, table):
            if not _named(columns) and isinstance(row, Mapping):
                columns = _names(row)
            lines.append(self._line(_cells(row, columns)))
        state = State(columns, state.header_sent or (self.hdrout == "once" and bool(lines)))
        text = self._ret.join(lines) + self._ret
        return [_with(msg, columns=columns_text(columns)).derive(payload=text)], state

    def _writes_header(self, state: State) -> bool:
        return self.hdrout in ("all", True) or (self.hdrout == "once" and not state.header_sent)

    def _line(self, cells: Any) -> str:
        return self._sep.join(quoted(cell, self._sep) for cell in cells)


class _GatheringCsv(Gathers, Csv):
    """A csv node that makes one list of the lines of a sequence."""

    def process(self, msgs: list[Msg]) -> list[Msg] | Ports:
        state, out = self._state, []
        for msg in msgs:
            text = msg.payload.decode() if isinstance(msg.payload, bytes) else msg.payload
            if {"index", "id"} <= parts_of(msg).keys() and isinstance(text, str) and line_ends(text) <= 1:
                made = self._gather(msg)
            else:
                made, state = self.convert(msg, state)
            out += made
        self._state = state
        return out

    def _gather(self, msg: Msg) -> list[Msg]:
        found, columns = self.gathered.made_of(str(parts_of(msg)["id"]), msg, self._list_of) or ([], ())
        if not found:
            return []  # there are more to come, or all lines are passed over
        props = {key: value for key, value in (msg.props or {}).items() if key != "parts"}
        return [msg.derive(payload=[*chain(*found)], props={**props, "columns": columns_text(columns)})]

    def _list_of(self, msgs: list[Msg]) -> tuple[list[list[dict[str, Any]]], Columns]:
        """The rows of each line that has some, and the columns."""
        state, columns = State(self._columns), cast("Columns", self._columns)
        found: list[list[dict[str, Any]]] = []
        for part in msgs:
            text = part.payload.decode() if isinstance(part.payload, bytes) else part.payload
            made, columns, state = self.rows_of(part, text, state)
            found += [] if made is None else [made]
        return found, columns


def _unescaped(text: str) -> str:
    return text.replace("\\t", "\t").replace("\\n", "\n").replace("\\r", "\r")


def _named(columns: Columns) -> bool:
    return any(columns)


def _names(row: Any) -> list[str]:
    return [str(name) for name in (row if isinstance(row, Mapping) else range(len(row)))]


def _cells(row: Any, columns: Columns) -> list[str]:
    if isinstance(row, Mapping):
        return [as_cell(row.get(name, "")) if name else "" for name in columns]
    if not isinstance(row, list | tuple):
        raise TypeError(f"a row is {type(row).__name__}, expected an object or a list like the first")
    if not _named(columns):
        return [as_cell(cell) for cell in row]
    return [as_cell(row[i]) if name and i < len(row) else "" for i, name in enumerate(columns)]


def _with(msg: Msg, **props: Any) -> Msg:
    return msg.derive(props={**(msg.props or {}), **props})
