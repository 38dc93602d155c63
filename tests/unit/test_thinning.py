"""What stays of a backlog that is thinned: a steady sample, the extremes, what exists only once."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from voltflow.spool.format import Record
from voltflow.spool.thinning import keep
from voltflow.telemetry import Estimate, Joined, Prediction, Session, Telemetry, TwinPrediction

START_MS = 1_764_000_000_000


def twin(seq: int, *, period_ms: int = 500, pack: str = "p", **fields: Any) -> Record:
    """A message of the gateway; fields that are not the telemetry's are the twin's."""
    ts_ms = START_MS + seq * period_ms
    own = {name: fields.pop(name) for name in ("estimate", "joined", "predictions") if name in fields}
    values: dict[str, Any] = {
        "cell_temp_max_c": 25.0,
        "cell_voltage_min_v": 3.7,
        "cell_voltage_max_v": 3.71,
        "pack_current_a": 0.0,
    }
    telemetry = Telemetry("bms.telemetry/1", pack, 1, seq, ts_ms, **{**values, **fields})
    payload = TwinPrediction(
        "twin.prediction/1", "f", pack, 1, seq, ts_ms, "gw", "rev", ts_ms, telemetry, **own
    )
    return Record(f"ev/v1/f/{pack}/twin", msgspec.json.encode(payload), ts_ms, "f", pack, 1, seq, ts_ms)


def kept(records: list[Record], period_ms: int = 10_000) -> list[int]:
    return [record.seq for record, stays in zip(records, keep(records, period_ms), strict=True) if stays]


def test_a_steady_pack_keeps_one_message_a_period() -> None:
    records = [twin(seq) for seq in range(120)]
    assert kept(records) == [0, 20, 40, 60, 80, 100]
    assert kept(records, 60_000) == [0]


def test_packs_are_thinned_apart() -> None:
    records = [twin(seq, pack=pack) for seq in range(30) for pack in ("p", "q")]
    assert kept(records) == [0, 0, 20, 20]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("cell_temp_max_c", 27.0),
        ("cell_voltage_min_v", 3.69),
        ("cell_voltage_max_v", 3.72),
        ("pack_current_a", 80.0),
        ("pack_current_a", -80.0),
    ],
    ids=["hottest", "lowest voltage", "highest voltage", "highest current", "lowest current"],
)
def test_the_extreme_of_a_period_stays(field: str, value: float) -> None:
    records = [twin(seq, **({field: value} if seq == 7 else {})) for seq in range(20)]
    assert kept(records) == [0, 7]


def test_less_than_the_sensor_can_tell_is_no_extreme() -> None:
    noise: dict[str, Any] = {
        "cell_temp_max_c": 26.0,
        "cell_voltage_min_v": 3.699,
        "cell_voltage_max_v": 3.711,
        "pack_current_a": 0.1,
    }
    assert kept([twin(seq, **(noise if seq == 7 else {})) for seq in range(20)]) == [0]


def test_one_message_with_several_extremes_stays_for_all_of_them() -> None:
    burst: dict[str, Any] = {"cell_voltage_min_v": 3.4, "pack_current_a": -200.0}
    assert kept([twin(seq, **(burst if seq == 7 else {})) for seq in range(20)]) == [0, 7]


def test_a_value_that_is_missing_is_no_extreme_and_the_first_that_is_there_stays() -> None:
    records = [twin(seq, cell_temp_max_c=25.0 if seq >= 5 else None) for seq in range(20)]
    assert kept(records) == [0, 5]


SESSION = Estimate(session=Session(0, 1, 20.0, 80.0, 90.0, 150.0, 25.0, 30.0))


@pytest.mark.parametrize(
    "fields",
    [
        {"estimate": SESSION},
        {"joined": {"temperature": Joined(25.0, 25.5, 0, 1, "°C")}},
        {"predictions": {"soh": Prediction("%", "abc", 93.0)}},
        {"predictions": {"rul": Prediction("d", "abc", None, reason="missing: efc")}},
        {"predictions": {"failure": Prediction("1", "abc", 0.01)}},
    ],
    ids=["session", "joined", "soh", "rul", "failure"],
)
def test_what_exists_only_once_stays(fields: dict[str, Any]) -> None:
    assert kept([twin(seq, **(fields if seq == 7 else {})) for seq in range(20)]) == [0, 7]


def test_a_temperature_prediction_is_thinned_with_its_message() -> None:
    prediction = {"temperature": Prediction("°C", "abc", 31.0)}
    assert kept([twin(seq, predictions=prediction) for seq in range(20)]) == [0]


def test_an_alarm_stays_where_it_comes_and_where_it_goes() -> None:
    assert kept([twin(seq, alarm_level=2 if 5 <= seq < 12 else 0) for seq in range(20)]) == [0, 5, 12]


def test_a_trouble_code_stays_where_it_comes_and_where_it_goes() -> None:
    assert kept([twin(seq, dtc=["P0A7F"] if 5 <= seq < 12 else []) for seq in range(20)]) == [0, 5, 12]


def test_what_cannot_be_understood_stays() -> None:
    records = [twin(seq) for seq in range(20)]
    records[3].payload, records[9].payload = b"not json", b'{"telemetry":{"pack_current_a":"high"}}'
    assert kept(records) == [0, 3, 9]


def test_plain_telemetry_is_thinned_like_a_twin() -> None:
    records = [
        Record(
            "ev/v1/f/p/telemetry",
            msgspec.json.encode({"pack_current_a": 90.0 if seq == 7 else 0.0}),
            seq=seq,
            ts_ms=START_MS + seq * 500,
        )
        for seq in range(20)
    ]
    assert kept(records) == [0, 7]


def test_a_device_without_a_clock_is_thinned_by_the_time_of_receipt() -> None:
    records = [twin(seq) for seq in range(40)]
    for record in records:
        record.ts_ms = 0
    assert kept(records) == [0, 20]
    for record in records:
        record.received_ms = 0
    assert kept(records) == list(range(40))
