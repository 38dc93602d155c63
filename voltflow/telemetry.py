"""The typed contracts of what travels: telemetry in, twin predictions, alerts and dead letters out.

`docs/schema/` holds the JSON Schema of each, generated from these structs (`voltflow schema`). Numbers are SI with
the unit in the name; a current is positive **into** the battery; a value that is missing or impossible is null and
named in `quality.invalid`.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from voltflow.topics import NAME_PATTERN

Name = Annotated[str, Meta(pattern=rf"^{NAME_PATTERN}(?!\n)$")]
"""`$` alone would let a line end at the end through."""
Count = Annotated[int, Meta(ge=0, le=2**53)]
"""JSON numbers above 2^53 lose digits in JavaScript and in many databases' JSON, so counters stop there."""
EpochMs = Annotated[
    int,
    Meta(
        ge=0,
        le=253402300799999,
        description="milliseconds since 1970, UTC; until the year 9999",
    ),
]

CellCount = Annotated[int, Meta(ge=0, le=1_000_000)]
Code = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.:-]{1,32}(?!\n)$")]
FieldName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_]{1,64}(?!\n)$")]
PlainText = Annotated[str, Meta(pattern=r"^[^\x00-\x1f]{0,100}(?!\n)$")]
"""One line without control characters: PostgreSQL cannot store a NUL."""

CELLS_LIMIT = 1000
"""Cells in series, or probes, that a message can tell of; as many as a nameplate can say."""

VehicleState = Literal["driving", "parked", "other"]
ChargingState = Literal["charging", "charging_driving", "not_charging", "complete"]
Contactor = Literal["open", "precharge", "closed", "fault"]
Chemistry = Literal["NMC", "LFP", "NCA"]


class Quality(msgspec.Struct):
    """What is known to be wrong with a telemetry message."""

    invalid: Annotated[list[FieldName], Meta(max_length=256)] = []
    stale_s: float = 0.0


class Telemetry(msgspec.Struct, rename={"schema_": "schema"}, gc=False):
    """`bms.telemetry/1`: one reading of a battery management system.

    The key is `(pack, boot, seq)`: `boot` changes when the device starts anew, `seq` counts up from 0 within it.
    `ts_ms` is the device's clock, which need not be the gateway's; `sent_ms` is the wall clock of the sender when it
    published, for latency only.
    """

    schema_: Literal["bms.telemetry/1"]
    pack: Name
    boot: Count
    seq: Count
    ts_ms: EpochMs
    sent_ms: EpochMs | None = None
    replay: bool = False
    vehicle_state: VehicleState | None = None
    charging_state: ChargingState | None = None
    speed_kmh: float | None = None
    odometer_km: float | None = None
    pack_voltage_v: float | None = None
    pack_current_a: float | None = None
    soc_pct: float | None = None
    soh_bms_pct: float | None = None
    soh_basis: Literal["capacity", "energy", "resistance"] | None = None
    cell_voltage_min_v: float | None = None
    cell_voltage_max_v: float | None = None
    cell_voltage_avg_v: float | None = None
    cell_voltage_min_id: CellCount | None = None
    cell_voltage_max_id: CellCount | None = None
    cell_temp_min_c: float | None = None
    cell_temp_max_c: float | None = None
    cell_temp_avg_c: float | None = None
    coolant_inlet_c: float | None = None
    coolant_outlet_c: float | None = None
    ambient_c: float | None = None
    insulation_kohm: float | None = None
    contactor: Contactor | None = None
    limit_charge_kw: float | None = None
    limit_discharge_kw: float | None = None
    charge_throughput_ah: float | None = None
    discharge_throughput_ah: float | None = None
    efc: float | None = None
    balancing_cells: CellCount | None = None
    alarm_level: Annotated[int, Meta(ge=0, le=3)] | None = None
    dtc: Annotated[list[Code], Meta(max_length=64)] = []
    quality: Quality = msgspec.field(default_factory=Quality)


class State(msgspec.Struct, rename={"schema_": "schema"}, omit_defaults=False):
    """`bms.state/1`: retained; the nameplate at birth, `online: false` as the last will."""

    schema_: Literal["bms.state/1"]
    pack: Name
    online: bool
    boot: Count | None = None
    ts_ms: EpochMs | None = None
    chemistry: Chemistry | None = None
    cells_series: Annotated[int, Meta(ge=1, le=1000)] | None = None
    cells_parallel: Annotated[int, Meta(ge=1, le=1000)] | None = None
    capacity_rated_ah: Annotated[float, Meta(gt=0, le=10000)] | None = None
    firmware: PlainText | None = None
    published: Count | None = None


class Cells(msgspec.Struct, rename={"schema_": "schema"}):
    """`bms.cells/1`: every cell in series and every probe of a pack now, about once a minute; the newest replaces the others.

    The first of each list is number 1, as in `cell_voltage_min_id`. `balancing` says which cells are being discharged, one
    for each voltage. There may be fewer probes than cells.
    """

    schema_: Literal["bms.cells/1"]
    pack: Name
    boot: Count
    ts_ms: EpochMs
    voltages_mv: Annotated[list[float | None], Meta(max_length=CELLS_LIMIT)] = []
    temps_c: Annotated[list[float | None], Meta(max_length=CELLS_LIMIT)] = []
    balancing: Annotated[list[bool], Meta(max_length=CELLS_LIMIT)] | None = None


class Prediction(msgspec.Struct, omit_defaults=True):
    """One model's answer. `value` is null exactly when `reason` says why; `model` is the first 12 hex digits of the
    model file's SHA-256. `made_ms` and `target_ms` are device time: when it was made, and what time it speaks of."""

    unit: str
    model: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    made_ms: int | None = None
    target_ms: int | None = None
    reason: str | None = None


class Joined(msgspec.Struct):
    """A prediction made earlier beside what was then measured."""

    predicted: float
    actual: float
    made_ms: int
    target_ms: int
    unit: str


class Session(msgspec.Struct):
    """What a finished charge session tells: device times, the SoC window, the charge moved, the temperature."""

    start_ms: int
    end_ms: int
    soc_start_pct: float
    soc_end_pct: float
    charge_ah: float
    capacity_est_ah: float | None
    temp_avg_c: float | None
    current_avg_a: float | None


class Estimate(msgspec.Struct, gc=False):
    """What the twin makes of one message; null where it could not be estimated.

    Residuals are measured minus model: `voltage_residual_mv` of the average cell, `soc_residual_pct` the BMS's SoC
    minus the twin's.
    """

    soc_pct: float | None = None
    soc_sigma_pct: float | None = None
    resistance_mohm: float | None = None
    voltage_residual_mv: float | None = None
    soc_residual_pct: float | None = None
    session: Session | None = None


class TwinPrediction(msgspec.Struct, rename={"schema_": "schema"}, gc=False):
    """`twin.prediction/1`: self-contained: the validated telemetry with estimates and predictions beside it.

    The cloud stores telemetry and predictions from this one message; the key is that of the telemetry. `received_ms` is
    null while the gateway does not know what time it is; `skew_ms` is how far the device's clock is ahead of the
    gateway's, null where that cannot be told; `replay` marks what waited in a gateway's spool.
    """

    schema_: Literal["twin.prediction/1"]
    fleet: Name
    pack: Name
    boot: Count
    seq: Count
    ts_ms: EpochMs
    gateway: str
    flow_rev: str
    received_ms: int | None
    telemetry: Telemetry
    chemistry: Chemistry | None = None
    capacity_rated_ah: float | None = None
    late: bool = False
    replay: bool = False
    skew_ms: int | None = None
    estimate: Estimate = msgspec.field(default_factory=Estimate)
    predictions: dict[str, Prediction] = {}
    joined: dict[str, Joined] = {}


class Alert(msgspec.Struct, rename={"schema_": "schema"}):
    """`alert/1`: a condition raised or cleared. `since_ms` is device time of the raise; `seq` of the message that did it."""

    schema_: Literal["alert/1"]
    fleet: Name
    pack: Name
    boot: Count
    seq: Count
    code: str
    severity: Literal["info", "warning", "critical"]
    state: Literal["raised", "cleared"]
    since_ms: int
    ts_ms: int
    value: float | None = None
    limit: float | None = None
    unit: str | None = None
    text: str = ""


class Dead(msgspec.Struct, rename={"schema_": "schema"}):
    """`dead/1`: a message that could not be processed, with everything needed to look at it and send it again.

    `payload` are the original bytes (base64 in JSON); when the original was larger than the node's limit, `truncated`
    is true and `size_bytes` and `sha256` still describe the whole. `id` is random: by it the letter that comes twice
    is told from two letters of the same bytes. `pack`, `boot` and `seq` are there where the original's could be read.
    """

    schema_: Literal["dead/1"]
    gateway: str
    node: str
    error: str
    topic: str
    payload: bytes
    size_bytes: int
    sha256: str
    received_ms: int | None
    truncated: bool = False
    pack: str | None = None
    boot: int | None = None
    seq: int | None = None
    id: str = ""


class Loss(msgspec.Struct, rename={"schema_": "schema"}):
    """`loss/1`: messages `seq_from` … `seq_to` of a boot that a gateway dropped on purpose, and why."""

    schema_: Literal["loss/1"]
    fleet: Name
    pack: Name
    boot: Count
    seq_from: Count
    seq_to: Count
    reason: str
    gateway: str = ""


class ReplayCommand(msgspec.Struct, tag_field="cmd", tag="replay", rename={"from_": "from"}):
    """Asks a device to publish messages `from` … `to` of a boot again, marked `replay`; both ends are included."""

    boot: Count
    from_: Count
    to: Count


class RateCommand(msgspec.Struct, tag_field="cmd", tag="rate"):
    """Asks a device to publish so often."""

    hz: Annotated[float, Meta(gt=0, le=100)]


Command = ReplayCommand | RateCommand
"""What travels on `cmd` topics."""


class Downlink(msgspec.Struct, rename={"schema_": "schema"}):
    """`gw.down/1`: a message that a gateway publishes at its devices' broker for the cloud."""

    schema_: Literal["gw.down/1"]
    topic: str
    payload: bytes


class GatewayState(msgspec.Struct, rename={"schema_": "schema"}, omit_defaults=True):
    """`gw.state/1`. Birth, farewell and last will hold no more than whether the gateway is there."""

    schema_: Literal["gw.state/1"]
    gateway: str
    online: bool
    version: str
    status: str | None = None
    reasons: list[str] = []
    flow_revision: str = ""
    packs: int = 0
    active_alerts: int = 0
    spool_messages: int = 0
    spool_bytes: int = 0


CONTRACTS: dict[str, type[msgspec.Struct]] = {
    "bms.telemetry/1": Telemetry,
    "bms.state/1": State,
    "bms.cells/1": Cells,
    "twin.prediction/1": TwinPrediction,
    "alert/1": Alert,
    "dead/1": Dead,
    "loss/1": Loss,
    "gw.down/1": Downlink,
    "gw.state/1": GatewayState,
}

_telemetry_decoder = msgspec.json.Decoder(Telemetry)


def decode_telemetry(data: bytes) -> Telemetry:
    """Telemetry from its JSON bytes; raises `msgspec.DecodeError` naming the field that is wrong.

    >>> decode_telemetry(b'{"schema":"bms.telemetry/1","pack":"p","boot":1,"seq":-1,"ts_ms":0}')
    Traceback (most recent call last):
    msgspec.ValidationError: Expected `int` >= 0 - at `$.seq`
    """
    return _telemetry_decoder.decode(data)
