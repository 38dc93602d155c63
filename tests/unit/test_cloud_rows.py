"""From messages to rows, without a database."""

import re
from pathlib import Path

import msgspec
import pytest

import cloud.migrate
from cloud.influx_lines import line
from cloud.rows import ESTIMATES, FLOATS, INTEGERS, TABLES, TELEMETRY_COLUMNS, TEXTS, decode
from tests import cloud_samples as samples
from voltflow.message import Msg
from voltflow.telemetry import Estimate, Telemetry

NOT_COLUMNS = {"schema", "pack", "boot", "seq", "ts_ms", "sent_ms", "replay", "dtc", "quality"}


def test_telemetry_every_field_of_the_contract_has_a_column() -> None:
    """A field that is added to the contract must not be thrown away silently."""
    fields = {field.encode_name for field in msgspec.structs.fields(Telemetry)} - NOT_COLUMNS
    assert fields == {*TEXTS, *FLOATS, *INTEGERS}
    assert {field.name for field in msgspec.structs.fields(Estimate)} - {"session"} == set(ESTIMATES)


def test_schema_files_have_the_columns_that_are_written() -> None:
    sql = "".join(item.sql for item in cloud.migrate.migrations())
    for table in TABLES.values():
        body = re.search(rf"CREATE TABLE {table.name} \((.*?)\n\);", sql, re.DOTALL)
        assert body is not None
        names = set(re.findall(r"^\s+([a-z_0-9]+) ", body[1], re.MULTILINE))
        names |= set(re.findall(rf"ALTER TABLE {table.name} ADD COLUMN ([a-z_0-9]+) ", sql))
        assert {column.name for column in table.columns} - {"published"} <= names


def test_decode_twin_values_stand_in_their_columns() -> None:
    kind, decoded = decode(samples.twin(3))
    row = dict(zip((column.name for column in TELEMETRY_COLUMNS), decoded.row, strict=True))
    assert kind == "twin"
    assert row["seq"] == 3
    assert row["temperature_predicted_c"] == 23.75
    assert row["rul_predicted_efc"] is None
    assert row["reasons"] == '{"rul":"no charge session yet"}'
    assert row["invalid"] == ["ambient_c"]
    assert msgspec.json.decode(row["predictions_other"])["plating"]["value"] == 0.25


def test_decode_prediction_in_another_unit_does_not_reach_the_column() -> None:
    message = msgspec.json.decode(samples.twin(0).payload)
    message["predictions"] = {"rul": {"unit": "days", "model": "0123456789ab", "value": 900.0}}
    _, decoded = decode(Msg("ev/v1/demo/SIM000001/twin", msgspec.json.encode(message)))
    row = dict(zip((column.name for column in TELEMETRY_COLUMNS), decoded.row, strict=True))
    assert row["rul_predicted_efc"] is None
    assert msgspec.json.decode(row["predictions_other"])["rul"]["unit"] == "days"


def test_decode_twin_of_a_spool_with_unknown_times() -> None:
    """A gateway whose clock is not set does not know when it received; what its spool held is a replay too."""
    message = msgspec.json.decode(samples.twin(0).payload)
    row = dict(zip((c.name for c in TELEMETRY_COLUMNS), _row_of(message), strict=True))
    assert (row["replay"], row["skew_ms"]) == (False, None)
    message |= {"received_ms": None, "replay": True, "skew_ms": -1_764_000_000_000}
    row = dict(zip((c.name for c in TELEMETRY_COLUMNS), _row_of(message), strict=True))
    assert (row["received"], row["replay"], row["skew_ms"]) == (None, True, -1_764_000_000_000)


def _row_of(message: dict[str, object]) -> tuple[object, ...]:
    return decode(Msg("ev/v1/demo/SIM000001/twin", msgspec.json.encode(message)))[1].row


@pytest.mark.parametrize(
    ("msg", "error"),
    [
        pytest.param(
            Msg("ev/v1/demo/SIM000002/twin", samples.twin(0).payload),
            "the message is of demo/SIM000001, its topic of demo/SIM000002",
            id="another pack's topic",
        ),
        pytest.param(
            Msg("ev/v1/demo/SIM000001/telemetry", b"{}"),
            "topic 'ev/v1/demo/SIM000001/telemetry' has no table: ev/v1/{fleet}/{pack}/ one of twin, alert, dead, loss, state",
            id="a topic without a table",
        ),
        pytest.param(
            Msg("ev/v1/demo/SIM000001/twin", b"{}"),
            "Object missing required field `schema`",
            id="not a twin message",
        ),
    ],
)
def test_decode_refuses(msg: Msg, error: str) -> None:
    with pytest.raises(ValueError, match=re.escape(error)):
        decode(msg)


@pytest.mark.parametrize("payload", [b"", b"{", b"\xff\x00", b'{"schema":"dead/1"}', b"[" * 100_000])
def test_decode_dead_never_raises(payload: bytes) -> None:
    """A refused dead letter would become a dead letter again, without end."""
    kind, decoded = decode(Msg("ev/v1/demo/SIM000001/dead", payload))
    row = dict(zip((column.name for column in TABLES["dead"].columns), decoded.row, strict=True))
    assert kind == "dead"
    assert (row["payload"], row["received"]) == (payload, None)
    assert row["error"].startswith("a dead letter that cannot be read")


def test_line_escapes_texts_and_leaves_nulls_out() -> None:
    kind, decoded = decode(samples.twin(1))
    text = line(TABLES[kind].name, TABLES[kind].columns, decoded.row)
    assert text.startswith("telemetry,fleet=demo,pack=SIM000001 boot=1764000000i,seq=1i,")
    assert ",soc_pct=61.001," in text
    assert "soh_predicted_pct" not in text
    assert r'dtc="[\"P0A80\", \"U1:00.2-x\"]"' in text
    assert text.endswith(" 1764000000500")


def test_migrations_refuse_a_gap(tmp_path: Path) -> None:
    (tmp_path / "0001_a.sql").write_text("SELECT 1")
    (tmp_path / "0003_b.sql").write_text("SELECT 1")
    with pytest.raises(cloud.migrate.SchemaError, match="not numbered 1, 2, 3, … without a gap"):
        cloud.migrate.migrations(tmp_path)
