"""Reads recorded vehicle data (CSV) whose values came over GB/T 32960, as telemetry.

GB/T 32960.3 says 0xFE/0xFFFE = abnormal and 0xFF/0xFFFF = invalid, in the *raw* code of a field. In recordings these
codes are found undecoded (65535 as a cell voltage, 255 as a temperature) or decoded (65.535 V, 215 °C); both become
null here and are named in `quality.invalid`, and so does an empty cell. Nothing else is judged:

* -40 °C is what raw code 0, a legal code, decodes to; 0 °C and 0.000 V are legal too. The recorder cannot know.
* 1310.7 V is no code of the standard (at 0.1 V it would be raw 13107 = 0x3333). It is 65535 x 0.02 V: the invalid
  code of the vehicle's own bus with 20 mV a bit, passed on by its terminal as a number.

A BMS or terminal passes such values on, so the replay does, and the gateway has to see that they are impossible.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from voltflow.telemetry import ChargingState, Quality, State, Telemetry
from voltflow.topics import NAME_PATTERN, is_name

TIME_COLUMNS = ("timestamp_placeholder_year", "timestamp")


class FormatError(ValueError):
    """A file is not of this format; the message names file, line and column."""

    def __init__(self, file: Path, line: int, column: str, problem: str) -> None:
        super().__init__(f"{file}, line {line}, column {column}: {problem}")


@dataclass(frozen=True)
class Column:
    """A column of the file: the telemetry field, unit per raw bit, value of raw 0, bytes of the raw code, sign."""

    field: str
    per_bit: float
    offset: float = 0.0
    size: int = 2
    sign: float = 1.0

    def codes(self) -> frozenset[float]:
        """The abnormal and the invalid code, undecoded and decoded."""
        top = 256**self.size - 1
        decoded = {round(code * self.per_bit + self.offset, 4) for code in (top, top - 1)}
        return frozenset(decoded | {float(top), float(top - 1)})


COLUMNS = {
    "speed_kmh": Column("speed_kmh", 0.1),
    "odometer_km": Column("odometer_km", 0.1, size=4),
    "pack_voltage_V": Column("pack_voltage_v", 0.1),
    "pack_current_A": Column(
        "pack_current_a", 0.1, offset=-1000.0, sign=-1.0
    ),  # the files: discharge positive
    "soc_pct": Column("soc_pct", 1.0, size=1),
    "cell_voltage_max_V": Column("cell_voltage_max_v", 0.001),
    "cell_voltage_min_V": Column("cell_voltage_min_v", 0.001),
    "cell_temp_max_C": Column("cell_temp_max_c", 1.0, offset=-40.0, size=1),
    "cell_temp_min_C": Column("cell_temp_min_c", 1.0, offset=-40.0, size=1),
}
_CODES = {name: column.codes() for name, column in COLUMNS.items()}
CHARGING: dict[float, ChargingState] = {
    1.0: "charging", 2.0: "charging_driving", 3.0: "not_charging", 4.0: "complete",
}  # fmt: skip
_STATE_CODES = (254.0, 255.0)

NAMEPLATES: dict[str, dict[str, Any]] = {
    "V01": {"chemistry": "NMC", "cells_series": 91, "capacity_rated_ah": 150.0},
    "V08": {"chemistry": "LFP", "capacity_rated_ah": 645.0},
    "V09": {"chemistry": "LFP"},  # 505 or 645 Ah: its source does not say which
}
"""What is known about the vehicles of the public field month."""


@dataclass(frozen=True)
class Recording:
    """A file, checked as far as its header and first row; `read` streams it."""

    path: Path
    pack: str
    time_column: str

    def read(self, boot: int, first_seq: int = 0) -> Iterator[tuple[Telemetry, int]]:
        """Telemetry and the bytes read so far, row by row in the order of the file (repeated or backward times too)."""
        with self.path.open("rb") as raw:
            done = 0

            def lines() -> Iterator[str]:
                nonlocal done
                for line in raw:
                    done += len(line)
                    yield line.decode("utf-8-sig")

            for seq, (line, row) in enumerate(_rows(self.path, lines()), first_seq):
                yield self._telemetry(line, row, boot, seq), done

    def _telemetry(self, line: int, row: dict[str, str], boot: int, seq: int) -> Telemetry:
        if row["vehicle_id"] != self.pack:
            problem = f"{row['vehicle_id']!r}, but the file began with {self.pack!r}: one vehicle per file"
            raise FormatError(self.path, line, "vehicle_id", problem)
        fields: dict[str, Any] = {}
        invalid: list[str] = []
        for name, column in COLUMNS.items():
            if name in row:
                value = _number(self.path, line, name, row[name])
                if value is None or value in _CODES[name]:
                    invalid.append(column.field)
                else:
                    fields[column.field] = column.sign * value + 0.0  # + 0.0: no -0.0
        charging = _charging(self.path, line, row["charging_state"])
        if charging is None:
            invalid.append("charging_state")
        ts_ms = _time_ms(self.path, line, self.time_column, row[self.time_column])
        return Telemetry(
            "bms.telemetry/1", self.pack, boot, seq, ts_ms,
            charging_state=charging, quality=Quality(invalid), **fields,
        )  # fmt: skip


def open_recording(path: Path) -> Recording:
    """Check that a file is of this format and find its vehicle; raises FormatError or OSError."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = _rows(path, iter(file))
        try:
            line, row = next(rows)
        except StopIteration:
            raise FormatError(path, 2, "vehicle_id", "the file has no rows") from None
    time_column = next(name for name in TIME_COLUMNS if name in row)
    recording = Recording(path, row["vehicle_id"], time_column)
    if not is_name(recording.pack):
        problem = f"{recording.pack!r} cannot be a pack's name, it must match {NAME_PATTERN}"
        raise FormatError(path, line, "vehicle_id", problem)
    recording._telemetry(line, row, 0, 0)
    return recording


def nameplate(pack: str, boot: int, ts_ms: int | None = None, known: dict[str, Any] | None = None) -> State:
    """The birth of a recorded vehicle, with what is known about it."""
    data = {**NAMEPLATES.get(pack, {}), **(known or {})}
    return State("bms.state/1", pack, online=True, boot=boot, ts_ms=ts_ms, firmware="recorded", **data)


def _rows(path: Path, lines: Iterator[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Line number and row; the header must have what is needed, a row as many cells as the header."""
    reader = csv.reader(lines)
    header = [name.strip() for name in next(_cells(path, reader), [])]
    _check_header(path, header)
    for cells in _cells(path, reader):
        if len(cells) != len(header):
            column = header[min(len(cells), len(header) - 1)]
            raise FormatError(
                path, reader.line_num, column, f"{len(cells)} cells in a row of {len(header)} columns"
            )
        yield reader.line_num, dict(zip(header, cells, strict=True))


def _cells(path: Path, reader: Iterator[list[str]]) -> Iterator[list[str]]:
    """The reader's rows; what is no text or no CSV is a FormatError."""
    while True:
        try:
            yield next(reader)
        except StopIteration:
            return
        except (csv.Error, UnicodeDecodeError):
            line = getattr(reader, "line_num", 0) + 1
            raise FormatError(path, line, "1", "is not text: a CSV file in UTF-8 is needed") from None


def _check_header(path: Path, header: list[str]) -> None:
    for name in ("vehicle_id", "charging_state"):
        if name not in header:
            raise FormatError(path, 1, name, f"is missing; the file has {', '.join(header) or 'nothing'}")
    if not any(name in header for name in TIME_COLUMNS):
        raise FormatError(path, 1, " or ".join(TIME_COLUMNS), f"is missing; the file has {', '.join(header)}")
    if not any(name in header for name in COLUMNS):
        raise FormatError(path, 1, " or ".join(COLUMNS), "none is there: nothing to publish")


def _number(path: Path, line: int, column: str, text: str) -> float | None:
    """The number in a cell, None where it is empty."""
    if not text.strip():
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise FormatError(path, line, column, f"{text!r} is not a number")
    return value


def _charging(path: Path, line: int, text: str) -> ChargingState | None:
    code = _number(path, line, "charging_state", text)
    if code is None or code in _STATE_CODES:
        return None
    if code not in CHARGING:
        raise FormatError(
            path, line, "charging_state", f"{text!r} is not one of 1, 2, 3, 4 (GB/T 32960), 254, 255"
        )
    return CHARGING[code]


def _time_ms(path: Path, line: int, column: str, text: str) -> int:
    """Milliseconds since 1970; a time without zone counts as UTC, a placeholder year stays."""
    try:
        when = datetime.fromisoformat(text.strip())
    except ValueError:
        raise FormatError(path, line, column, f"{text!r} is not a time like 2000-04-01 04:29:09") from None
    when = when if when.tzinfo else when.replace(tzinfo=UTC)
    if when.timestamp() < 0:
        raise FormatError(path, line, column, f"{text!r} is before 1970")
    return round(when.timestamp() * 1000)
