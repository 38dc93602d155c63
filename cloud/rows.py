"""From messages to rows: one declaration of what each table of the history holds and where in a message it stands.

`TABLES` maps the kind of a topic to its table. Decoding checks the message against its contract; what does not fit
raises ValueError (msgspec's ValidationError is one) with the field's name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from operator import attrgetter
from typing import Any, Literal, NamedTuple

import msgspec

from voltflow.message import Msg, encode_payload
from voltflow.telemetry import Alert, Dead, Joined, Loss, Prediction, State, TwinPrediction
from voltflow.topics import PackTopic, parse

Row = tuple[Any, ...]


class Column(NamedTuple):
    """A column: `kind` says how a value travels. `ms` is epoch milliseconds for a timestamptz, `bytes` base64 text
    for a bytea, `list` the text of an array for a text[]."""

    name: str
    kind: Literal["text", "bigint", "integer", "float", "boolean", "ms", "jsonb", "bytes", "list"]


TEXTS = ("vehicle_state", "charging_state", "soh_basis", "contactor")
FLOATS = (
    "speed_kmh", "odometer_km", "pack_voltage_v", "pack_current_a", "soc_pct", "soh_bms_pct",
    "cell_voltage_min_v", "cell_voltage_max_v", "cell_voltage_avg_v",
    "cell_temp_min_c", "cell_temp_max_c", "cell_temp_avg_c", "coolant_inlet_c", "coolant_outlet_c", "ambient_c",
    "insulation_kohm", "limit_charge_kw", "limit_discharge_kw",
    "charge_throughput_ah", "discharge_throughput_ah", "efc",
)  # fmt: skip
INTEGERS = ("cell_voltage_min_id", "cell_voltage_max_id", "balancing_cells", "alarm_level")
ESTIMATES = ("soc_pct", "soc_sigma_pct", "resistance_mohm", "voltage_residual_mv", "soc_residual_pct")
MODEL_UNITS = {"soh": "pct", "temperature": "c", "rul": "efc", "failure": "pct"}
"""Models whose values have typed columns, and the unit those columns are in."""


def _columns(kind: Any, *names: str) -> tuple[Column, ...]:
    return tuple(Column(name, kind) for name in names)


def _prediction_columns(model: str, unit: str) -> tuple[Column, ...]:
    values = _columns("float", f"{model}_predicted_{unit}", f"{model}_low_{unit}", f"{model}_high_{unit}")
    return (*values, Column(f"{model}_made", "ms"))


TELEMETRY_COLUMNS = (
    *_columns("text", "fleet", "pack"), *_columns("bigint", "boot", "seq"), *_columns("ms", "ts", "sent", "received"),
    *_columns("text", "gateway", "flow_rev"), *_columns("boolean", "late", "replay"), Column("skew_ms", "bigint"),
    Column("chemistry", "text"), Column("capacity_rated_ah", "float"),
    *_columns("text", *TEXTS), *_columns("float", *FLOATS), *_columns("integer", *INTEGERS),
    *_columns("list", "dtc", "invalid"), Column("stale_s", "float"),
    *_columns("float", *(f"twin_{name}" for name in ESTIMATES)), Column("session", "jsonb"),
    *(column for model, unit in MODEL_UNITS.items() for column in _prediction_columns(model, unit)),
    Column("temperature_target", "ms"),
    *_columns("jsonb", "models", "reasons", "predictions_other", "joined"),
)  # fmt: skip

_decode_twin = msgspec.json.Decoder(TwinPrediction).decode
_encode = msgspec.json.Encoder().encode
_measured = attrgetter(*TEXTS, *FLOATS, *INTEGERS)
_estimated = attrgetter(*ESTIMATES)
_NO_PREDICTION = (None, None, None, None)


def telemetry_row(twin: TwinPrediction) -> Row:
    """The row of a `twin.prediction/1` in the order of `TELEMETRY_COLUMNS`."""
    reading, estimate, predictions = twin.telemetry, twin.estimate, twin.predictions
    values: list[Any] = []
    known = 0
    for model, unit in MODEL_UNITS.items():
        found = predictions.get(model)
        if found is None or found.unit != unit:
            values += _NO_PREDICTION
        else:
            known += 1
            values += (found.value, found.low, found.high, found.made_ms)
    temperature = predictions.get("temperature")
    return (
        twin.fleet, twin.pack, twin.boot, twin.seq, twin.ts_ms, reading.sent_ms, twin.received_ms,
        twin.gateway, twin.flow_rev, twin.late, twin.replay or reading.replay, twin.skew_ms,
        twin.chemistry, twin.capacity_rated_ah,
        *_measured(reading), reading.dtc or None, reading.quality.invalid or None, reading.quality.stale_s,
        *_estimated(estimate), _json(estimate.session), *values, temperature.target_ms if temperature else None,
        *_provenance(predictions), None if known == len(predictions) else _others(predictions), _joined(twin.joined),
    )  # fmt: skip


def _json(value: Any) -> str | None:
    return _encode(value).decode() if value is not None else None


def _provenance(predictions: dict[str, Prediction]) -> tuple[str | None, str | None]:
    """Models and reasons as JSON texts: the same in nearly every message, so made once."""
    if not predictions:
        return None, None
    return _cached_provenance(tuple([(name, p.model, p.reason) for name, p in predictions.items()]))


@lru_cache(maxsize=4096)
def _cached_provenance(items: tuple[tuple[str, str, str | None], ...]) -> tuple[str | None, str | None]:
    reasons = {name: reason for name, _, reason in items if reason is not None}
    return _json({name: model for name, model, _ in items}), _json(reasons or None)


def _others(predictions: dict[str, Prediction]) -> str | None:
    return _json({name: p for name, p in predictions.items() if MODEL_UNITS.get(name) != p.unit})


def _joined(joined: dict[str, Joined]) -> str | None:
    return _json(joined or None)


# -- the other tables -----------------------------------------------------------------------------------------------

_decode_alert = msgspec.json.Decoder(Alert).decode
_decode_dead = msgspec.json.Decoder(Dead).decode
_decode_loss = msgspec.json.Decoder(Loss).decode
_decode_state = msgspec.json.Decoder(State).decode


class Decoded(NamedTuple):
    """One message as a row; `sent_ms` is the device's wall clock at its publish, where the message says it, `received_ms` the
    gateway's when a reading came to it."""

    row: Row
    sent_ms: int | None = None
    received_ms: int | None = None


def _twin(topic: PackTopic, msg: Msg) -> Decoded:
    twin = _decode_twin(encode_payload(msg.payload))
    if twin.pack != topic.pack or twin.fleet != topic.fleet:
        raise ValueError(
            f"the message is of {twin.fleet}/{twin.pack}, its topic of {topic.fleet}/{topic.pack}"
        )
    return Decoded(telemetry_row(twin), twin.telemetry.sent_ms, twin.received_ms)


def _alert(topic: PackTopic, msg: Msg) -> Decoded:
    a = _decode_alert(encode_payload(msg.payload))
    row = (topic.fleet, topic.pack, a.boot, a.seq, a.code, a.state, a.severity, a.since_ms, a.ts_ms,
           a.value, a.limit, a.unit, a.text)  # fmt: skip
    return Decoded(row)


def _dead(topic: PackTopic, msg: Msg) -> Decoded:
    """Never raises: a dead letter that is refused would become a dead letter again, without end."""
    data = encode_payload(msg.payload)
    try:
        d = _decode_dead(data)
    except ValueError as error:
        d = Dead("dead/1", "", "", f"a dead letter that cannot be read: {error}", msg.topic, data, len(data), "",
                 msg.received_ms or None)  # fmt: skip
    keyed = topic.pack == d.pack and all(n is not None and 0 <= n < 2**63 for n in (d.boot, d.seq))
    row = (topic.fleet, _plain(d.gateway, 200), _plain(d.node, 200), _plain(d.error, 2000), _plain(d.topic, 2000),
           d.payload, d.truncated, min(d.size_bytes, 2**62), _plain(d.sha256, 64), _time_ms(d.received_ms),
           topic.pack, d.boot if keyed else None, d.seq if keyed else None,
           _plain(d.id, 64) or hashlib.sha256(data).hexdigest()[:32])  # fmt: skip
    return Decoded(row)


def _time_ms(time_ms: int | None) -> int | None:
    """A time that PostgreSQL takes; unknown stays unknown."""
    return None if time_ms is None else min(max(time_ms, 0), 2**47)


def _plain(text: str, limit: int) -> str:
    """Text that PostgreSQL takes: without NUL, and not endless."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}")[:limit]


def _loss(topic: PackTopic, msg: Msg) -> Decoded:
    m = _decode_loss(encode_payload(msg.payload))
    return Decoded((topic.fleet, topic.pack, m.boot, m.seq_from, m.seq_to, m.reason, m.gateway))


def _state(topic: PackTopic, msg: Msg) -> Decoded:
    s = _decode_state(encode_payload(msg.payload))
    row = (topic.fleet, topic.pack, s.online, s.boot, s.chemistry, s.cells_series, s.cells_parallel,
           s.capacity_rated_ah, s.firmware, s.ts_ms, s.published)  # fmt: skip
    return Decoded(row)


@dataclass(frozen=True)
class Table:
    """A table of the history and how a message becomes a row of it."""

    name: str
    columns: tuple[Column, ...]
    decode: Callable[[PackTopic, Msg], Decoded]


TABLES: dict[str, Table] = {
    "twin": Table("telemetry", TELEMETRY_COLUMNS, _twin),
    "alert": Table("alert", (
        *_columns("text", "fleet", "pack"), *_columns("bigint", "boot", "seq"),
        *_columns("text", "code", "state", "severity"), *_columns("ms", "since", "ts"),
        *_columns("float", "value", "limit_value"), *_columns("text", "unit", "text"),
    ), _alert),
    "dead": Table("dead_letter", (
        *_columns("text", "fleet", "gateway", "node", "error", "topic"), Column("payload", "bytes"),
        Column("truncated", "boolean"), Column("size_bytes", "bigint"), Column("sha256", "text"),
        Column("received", "ms"), Column("pack", "text"), *_columns("bigint", "boot", "seq"), Column("id", "text"),
    ), _dead),
    "loss": Table("loss", (
        *_columns("text", "fleet", "pack"), *_columns("bigint", "boot", "seq_from", "seq_to"),
        *_columns("text", "reason", "gateway"),
    ), _loss),
    "state": Table("pack", (
        *_columns("text", "fleet", "pack"), Column("online", "boolean"), Column("boot", "bigint"),
        Column("chemistry", "text"), *_columns("integer", "cells_series", "cells_parallel"),
        Column("capacity_rated_ah", "float"), Column("firmware", "text"), Column("state_ts", "ms"),
        Column("published", "bigint"),
    ), _state),
}  # fmt: skip
"""The tables by the kind of topic that feeds them."""


def decode(msg: Msg) -> tuple[str, Decoded]:
    """The kind of a message and its row; raises ValueError saying why it has none."""
    topic = parse(msg.topic)
    table = TABLES.get(topic.kind) if topic else None
    if topic is None or table is None:
        kinds = ", ".join(TABLES)
        raise ValueError(f"topic {msg.topic!r:.200} has no table: ev/v1/{{fleet}}/{{pack}}/ one of {kinds}")
    return topic.kind, table.decode(topic, msg)
