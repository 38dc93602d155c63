"""Rows of the history in InfluxDB's line protocol, and what the server says of lines it refuses."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import msgspec

from cloud.rows import Column, Row

_TAGS = frozenset({"fleet", "pack"})


def line(measurement: str, columns: Iterable[Column], row: Row) -> str:
    """A row in line protocol: what is null is left out, times become milliseconds, `ts` is the point's time.

    >>> from cloud.rows import Column
    >>> names = [Column("fleet", "text"), Column("pack", "text"), Column("seq", "bigint"), Column("ts", "ms")]
    >>> line("telemetry", names, ("f", "p", 7, 1700000000000))
    'telemetry,fleet=f,pack=p seq=7i 1700000000000'
    """
    values = {column.name: (column.kind, value) for column, value in zip(columns, row, strict=True)}
    fields = ",".join(
        f"{name}={_field(kind, value)}"
        for name, (kind, value) in values.items()
        if value is not None and name not in _TAGS and name != "ts"
    )
    return f"{measurement},fleet={values['fleet'][1]},pack={values['pack'][1]} {fields} {values['ts'][1]}"


def _field(kind: str, value: Any) -> str:
    if kind == "float":
        return repr(float(value))
    if kind == "boolean":
        return "true" if value else "false"
    if kind in ("bigint", "integer", "ms"):
        return f"{value}i"
    text = value if isinstance(value, str) else json.dumps(value)
    text = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\0", "")
    return f'"{text}"'


class _Refused(msgspec.Struct):
    line_number: int
    error_message: str = ""


class _Answer(msgspec.Struct):
    data: list[_Refused] | _Refused | None = None


def refused_lines(body: bytes, count: int) -> dict[int, str]:
    """The lines, counted from 0, that the body of an answer names with a reason, as InfluxDB 3 does; else empty.

    >>> refused_lines(b'{"error":"partial write","data":[{"line_number":2,"error_message":"no field"}]}', 5)
    {1: 'no field'}
    """
    try:
        data = msgspec.json.decode(body, type=_Answer).data
    except ValueError:
        return {}
    named = data if isinstance(data, list) else [data] if data else []
    return {each.line_number - 1: each.error_message for each in named if 0 < each.line_number <= count}
