"""Recorded files as telemetry: GB/T 32960 codes, signs, times, and errors that name the place."""

from __future__ import annotations

from itertools import islice, pairwise
from pathlib import Path

import pytest

from sim_device.gbt import COLUMNS, FormatError, nameplate, open_recording
from voltflow.telemetry import Telemetry

FIELD_MONTH = Path(__file__).parents[3] / "shared" / "data" / "field_month"
HEADER = (
    "vehicle_id,timestamp_placeholder_year,speed_kmh,charging_state,odometer_km,pack_voltage_V,pack_current_A,"
    "soc_pct,cell_voltage_max_V,cell_voltage_min_V,cell_temp_max_C,cell_temp_min_C"
)
ROW = "V9,2000-04-01 06:41:08,1.4,3,305135,603.3,11.6,98,3.397,3.332,20,19"


def write(tmp_path: Path, *rows: str, header: str = HEADER, end: str = "\n") -> Path:
    path = tmp_path / "own.csv"
    path.write_text(end.join([header, *rows, ""]), newline="")
    return path


def read(path: Path) -> list[Telemetry]:
    return [telemetry for telemetry, _ in open_recording(path).read(boot=1)]


def changed(column: str, text: str) -> str:
    cells = dict(zip(HEADER.split(","), ROW.split(","), strict=True)) | {column: text}
    return ",".join(cells.values())


def test_row_becomes_telemetry_with_the_current_turned(tmp_path: Path) -> None:
    (telemetry,) = read(write(tmp_path, ROW))
    assert telemetry.pack == "V9"
    assert telemetry.pack_current_a == -11.6  # the file is discharge-positive, the contract charging-positive
    assert telemetry.charging_state == "not_charging"
    assert telemetry.ts_ms == 954571268000  # 2000-04-01 06:41:08 UTC; the placeholder year stays
    assert telemetry.quality.invalid == []
    assert telemetry.seq == 0
    assert telemetry.ambient_c is None


@pytest.mark.parametrize(
    ("column", "text"),
    [
        ("cell_voltage_max_V", "65535.0"),
        ("cell_voltage_min_V", "65534"),
        ("cell_voltage_min_V", "65.535"),
        ("cell_temp_max_C", "255"),
        ("cell_temp_max_C", "254"),
        ("cell_temp_min_C", "215"),
        ("pack_voltage_V", "6553.5"),
        ("pack_current_A", "5553.4"),
        ("soc_pct", "255"),
        ("speed_kmh", "6553.4"),
        ("odometer_km", "429496729.5"),
        ("pack_voltage_V", ""),
    ],
)
def test_code_of_the_standard_is_null_and_named(tmp_path: Path, column: str, text: str) -> None:
    (telemetry,) = read(write(tmp_path, changed(column, text)))
    field = COLUMNS[column].field
    assert getattr(telemetry, field) is None
    assert telemetry.quality.invalid == [field]


@pytest.mark.parametrize(
    ("column", "text", "value"),
    [
        ("cell_temp_min_C", "-40", -40.0),
        ("cell_voltage_min_V", "0.0", 0.0),
        ("pack_voltage_V", "1310.7", 1310.7),
        ("pack_current_A", "0.0", 0.0),
    ],
)
def test_other_impossible_value_is_passed_on(tmp_path: Path, column: str, text: str, value: float) -> None:
    """A recorder cannot know; the gateway judges (see the module's docstring)."""
    (telemetry,) = read(write(tmp_path, changed(column, text)))
    assert getattr(telemetry, COLUMNS[column].field) == value
    assert telemetry.quality.invalid == []


@pytest.mark.parametrize(
    ("code", "state"),
    [
        ("1", "charging"),
        ("2.0", "charging_driving"),
        ("3", "not_charging"),
        ("4", "complete"),
        ("255", None),
        ("", None),
    ],
)
def test_charging_state_is_mapped(tmp_path: Path, code: str, state: str | None) -> None:
    (telemetry,) = read(write(tmp_path, changed("charging_state", code)))
    assert telemetry.charging_state == state
    assert telemetry.quality.invalid == ([] if state else ["charging_state"])


def test_order_of_the_file_stays_with_repeated_and_backward_times(tmp_path: Path) -> None:
    rows = [ROW.replace("06:41:08", clock) for clock in ("06:41:08", "06:41:08", "06:40:00", "06:42:00")]
    found = read(write(tmp_path, *rows, end="\r\n"))
    assert [t.seq for t in found] == [0, 1, 2, 3]
    assert [t.ts_ms - found[0].ts_ms for t in found] == [0, 0, -68_000, 52_000]


BAD = {
    "other format": (
        "a,b\n1,2\n", "line 1, column vehicle_id: is missing; the file has a, b"),
    "no rows": (HEADER + "\n", "line 2, column vehicle_id: the file has no rows"),
    "empty": ("", "line 1, column vehicle_id: is missing; the file has nothing"),
    "no number": (
        f"{HEADER}\n{changed('soc_pct', 'full')}\n", "line 2, column soc_pct: 'full' is not a number"),
    "NaN": (f"{HEADER}\n{changed('soc_pct', 'nan')}\n", "line 2, column soc_pct: 'nan' is not a number"),
    "time": (
        f"{HEADER}\n{ROW}\n{changed('timestamp_placeholder_year', 'noon')}\n",
        "line 3, column timestamp_placeholder_year: 'noon' is not a time like 2000-04-01 04:29:09"),
    "short row": (f"{HEADER}\n{ROW}\nV9,2000\n", "line 3, column speed_kmh: 2 cells in a row of 12 columns"),
    "two vehicles": (
        f"{HEADER}\n{ROW}\n{changed('vehicle_id', 'V8')}\n",
        "line 3, column vehicle_id: 'V8', but the file began with 'V9': one vehicle per file"),
    "charging": (
        f"{HEADER}\n{changed('charging_state', '7')}\n",
        "line 2, column charging_state: '7' is not one of 1, 2, 3, 4 (GB/T 32960), 254, 255"),
    "name": (
        f"{HEADER}\n{changed('vehicle_id', 'a/b')}\n",
        "line 2, column vehicle_id: 'a/b' cannot be a pack's name, it must match [A-Za-z0-9_-]{1,64}"),
}  # fmt: skip


@pytest.mark.parametrize("case", list(BAD))
def test_wrong_file_is_refused_with_its_place(tmp_path: Path, case: str) -> None:
    text, message = BAD[case]
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(FormatError) as error:
        read(path)
    assert str(error.value) == f"{path}, {message}"


def test_binary_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bad.csv"
    path.write_bytes(bytes(range(255, 0, -1)))
    with pytest.raises(
        FormatError, match=r"bad\.csv, line 1, column 1: is not text: a CSV file in UTF-8 is needed"
    ):
        open_recording(path)


def test_nameplate_says_what_is_known_and_no_more() -> None:
    assert nameplate("V01", 1).cells_series == 91
    assert nameplate("V09", 1).chemistry == "LFP"
    assert nameplate("V09", 1).capacity_rated_ah is None
    assert nameplate("X", 1, known={"chemistry": "NMC"}).chemistry == "NMC"


@pytest.mark.parametrize("vehicle", ["V01", "V08", "V09"])
def test_field_month_is_read(vehicle: str) -> None:
    path = FIELD_MONTH / f"{vehicle}.csv"
    if not path.is_file():
        pytest.skip(f"{path} is not there: the public field month is not part of the project")
    rows = list(islice(open_recording(path).read(boot=3), 5000))
    assert [t.seq for t, _ in rows] == list(range(5000))
    assert all(t.pack == vehicle for t, _ in rows)
    volts = [v for t, _ in rows for v in (t.cell_voltage_min_v, t.cell_voltage_max_v) if v is not None]
    assert max(volts) < 5.0
    nulls = sum(t.cell_voltage_max_v is None for t, _ in rows)
    assert nulls == sum("cell_voltage_max_v" in t.quality.invalid for t, _ in rows)
    assert (nulls > 500) == (vehicle != "V01")
    assert all(954_000_000_000 < t.ts_ms < 958_000_000_000 for t, _ in rows)
    assert all(a < b for (_, a), (_, b) in pairwise(rows))
