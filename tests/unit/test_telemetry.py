"""The contracts: what decodes, what is refused and how the refusal reads, and the schemas in docs/."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from voltflow import cli
from voltflow.schemas import json_schemas
from voltflow.telemetry import CONTRACTS, State, Telemetry, decode_telemetry

SCHEMAS = Path(__file__).parents[2] / "docs" / "schema"
LEAST = {"schema": "bms.telemetry/1", "pack": "SIM000001", "boot": 1, "seq": 0, "ts_ms": 0}

CODE = r"^[A-Za-z0-9_.:-]{1,32}(?!\n)$"
FIELD = r"^[A-Za-z0-9_]{1,64}(?!\n)$"


def encoded(**changes: Any) -> bytes:
    return json.dumps({**LEAST, **changes}).encode()


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (encoded(seq=-1), "Expected `int` >= 0 - at `$.seq`"),
        (encoded(boot=2**53 + 1), "Expected `int` <= 9007199254740992 - at `$.boot`"),
        (encoded(seq="0"), "Expected `int`, got `str` - at `$.seq`"),
        (encoded(seq=True), "Expected `int`, got `bool` - at `$.seq`"),
        (encoded(seq=1.5), "Expected `int`, got `float` - at `$.seq`"),
        (encoded(ts_ms=253402300800000), "Expected `int` <= 253402300799999 - at `$.ts_ms`"),
        (encoded(schema="bms.telemetry/2"), "Invalid enum value 'bms.telemetry/2' - at `$.schema`"),
        (encoded(soc_pct="50"), "Expected `float | null`, got `str` - at `$.soc_pct`"),
        (encoded(alarm_level=4), "Expected `int` <= 3 - at `$.alarm_level`"),
        (encoded(charging_state="maybe"), "Invalid enum value 'maybe' - at `$.charging_state`"),
        (encoded(pack="a b"), r"Expected `str` matching regex '^[A-Za-z0-9_-]{1,64}(?!\\n)$' - at `$.pack`"),
        (encoded(dtc="P0A80"), "Expected `array`, got `str` - at `$.dtc`"),
        (encoded(dtc=["a\0b"]), f"Expected `str` matching regex {CODE!r} - at `$.dtc[0]`"),
        (encoded(dtc=["P0A80\n"]), f"Expected `str` matching regex {CODE!r} - at `$.dtc[0]`"),
        (encoded(dtc=["x" * 33]), f"Expected `str` matching regex {CODE!r} - at `$.dtc[0]`"),
        (encoded(dtc=["P0A80"] * 65), "Expected `array` of length <= 64 - at `$.dtc`"),
        (
            encoded(quality={"invalid": ["soc_pct\0"]}),
            f"Expected `str` matching regex {FIELD!r} - at `$.quality.invalid[0]`",
        ),
        (b'{"schema":"bms.telemetry/1"}', "Object missing required field `pack`"),
        (b"", "Input data was truncated"),
        (b"[]", "Expected `object`, got `array`"),
        (encoded()[:-1] + b',"speed_kmh":1e400}', "Number out of range - at `$.speed_kmh`"),
        (encoded()[:-1] + b',"speed_kmh":NaN}', "JSON is malformed: invalid character (byte 95)"),
    ],
)
def test_wrong_telemetry_is_refused_and_the_field_named(data: bytes, error: str) -> None:
    with pytest.raises(msgspec.DecodeError) as raised:
        decode_telemetry(data)
    assert str(raised.value) == error


@pytest.mark.parametrize("firmware", ["a\0b", "1.0\n", "\x1b[2J", "x" * 101])
def test_wrong_firmware_is_refused(firmware: str) -> None:
    data = json.dumps({"schema": "bms.state/1", "pack": "p", "online": True, "firmware": firmware})
    with pytest.raises(msgspec.ValidationError, match=r"at `\$.firmware`"):
        msgspec.json.decode(data, type=State)


def test_deep_nesting_ends_as_an_error_not_as_a_crash() -> None:
    with pytest.raises(RecursionError):
        decode_telemetry(encoded()[:-1] + b',"more":' + b"[" * 100_000 + b"}")


def test_unknown_fields_are_passed_over_so_that_devices_may_be_newer() -> None:
    assert decode_telemetry(encoded(cabin_c=21.0)) == decode_telemetry(encoded())


NUMBERS = st.none() | st.floats(allow_nan=False, allow_infinity=False)


@given(
    NUMBERS,
    NUMBERS,
    st.integers(0, 2**53),
    st.lists(st.from_regex(r"[A-Za-z0-9_.:-]{1,32}", fullmatch=True), max_size=3),
)
def test_telemetry_comes_back_from_json_as_it_was(
    soc: float | None, current: float | None, seq: int, dtc: list[str]
) -> None:
    item = Telemetry("bms.telemetry/1", "p", 1, seq, 0, soc_pct=soc, pack_current_a=current, dtc=dtc)
    assert decode_telemetry(msgspec.json.encode(item)) == item


def test_telemetry_encodes_to_what_its_published_schema_allows() -> None:
    item = Telemetry("bms.telemetry/1", "p", 1, 2, 3, soc_pct=50.0, alarm_level=1)
    jsonschema.validate(json.loads(msgspec.json.encode(item)), json_schemas()["bms.telemetry/1"])


def test_docs_schema_is_what_the_command_writes(tmp_path: Path) -> None:
    """`voltflow schema --out docs/schema` remakes it."""
    assert cli.main(["schema", "--out", str(tmp_path)]) == 0
    made = {path.name: path.read_text() for path in tmp_path.iterdir()}
    kept = {path.name: path.read_text() for path in SCHEMAS.iterdir()}
    assert kept == made, "docs/schema is stale: run voltflow schema --out docs/schema"
    assert len(made) == len(json_schemas())


@pytest.mark.parametrize("name", CONTRACTS)
def test_schema_is_a_valid_json_schema(name: str) -> None:
    jsonschema.Draft202012Validator.check_schema(json_schemas()[name])
