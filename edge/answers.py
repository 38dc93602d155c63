"""The shapes of the API's answers, and how they are made from a pack's twin.

The OpenAPI document is generated from these structs. Every function reads each attribute of the twin once and copies
containers in one call, because the flow goes on writing in its own thread.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

import msgspec

from edge.bands import Band, acknowledged_count, is_silent, worries, worry
from edge.comparison import Compared, compare, device_time, soh_actual
from edge.quantities import power_w, predicted
from edge.roster import FleetCounts, Level, level_of
from edge.twin import PackTwin
from voltflow.clock import receive_clock
from voltflow.telemetry import Alert, Estimate, Prediction, Session, State, Telemetry


class ErrorBody(msgspec.Struct):
    """What went wrong, for programs (`code`) and for people (`message`)."""

    code: str
    message: str


class Error(msgspec.Struct):
    """Every answer that is not 2xx."""

    error: ErrorBody


class PackRow(msgspec.Struct):
    """One pack in one line. `grade` is what `fleet` counts it as; `age_s` is by the gateway's clock, `ts_ms` is the device's. `soh_predicted_pct`, `rul_efc` and
    `failure_pct` are the models' answers; `acknowledged` counts those of the `alerts` that somebody has seen to."""

    name: str
    fleet: str
    pack: str
    online: bool | None
    silent: bool
    worry: int
    grade: Level
    worries: list[str]
    alerts: int
    acknowledged: int
    ts_ms: int | None = None
    age_s: float | None = None
    charging_state: str | None = None
    soc_pct: float | None = None
    soc_est_pct: float | None = None
    soh_predicted_pct: float | None = None
    temp_c: float | None = None
    temp_predicted_c: float | None = None
    rul_efc: float | None = None
    failure_pct: float | None = None
    voltage_v: float | None = None
    current_a: float | None = None
    power_kw: float | None = None


class Packs(msgspec.Struct):
    """A page of packs; `total` counts those of all pages, `fleet` all there are."""

    total: int
    limit: int
    offset: int
    packs: list[PackRow]
    bands: dict[str, Band]
    fleet: FleetCounts


class Status(msgspec.Struct):
    """A pack now: what it measures, what the models say. `soh_measured_pct` is null until a
    wide charge session has measured it; the model's answer is `predictions.soh`."""

    battery_id: str
    fleet: str
    timestamp: datetime | None
    ts_ms: int | None
    age_s: float | None
    online: bool | None
    charging_state: str | None
    vehicle_state: str | None
    soc_pct: float | None
    soc_est_pct: float | None
    soh_measured_pct: float | None
    temperature_c: float | None
    voltage_v: float | None
    current_a: float | None
    power_kw: float | None
    predictions: dict[str, float | None]
    invalid: list[str]
    alerts: list[str]


class Detailed(msgspec.Struct):
    """All the gateway knows of a pack: last valid telemetry, nameplate, estimate, session, predictions, alerts."""

    battery_id: str
    fleet: str
    timestamp: datetime | None
    online: bool | None
    messages: int
    late_messages: int
    skew_ms: int | None
    """How far the device's clock is ahead of the gateway's; null where that cannot be told."""
    worries: list[str]
    telemetry: Telemetry | None
    nameplate: State | None
    estimate: Estimate
    session: Session | None
    predictions: dict[str, Prediction]
    comparisons: dict[str, Compared]
    alerts: list[Alert]


class Cells(msgspec.Struct):
    """A pack's single cells and probes as the last `bms.cells/1` had them. The first is number 1, which `min_id` and `max_id`
    count by. `series` and `parallel` are the nameplate's; `reason` says why there is nothing, or what is wrong with it."""

    battery_id: str
    fleet: str
    ts_ms: int | None = None
    series: int | None = None
    parallel: int | None = None
    voltages_v: list[float | None] = []
    temps_c: list[float | None] = []
    balancing: list[bool] | None = None
    spread_mv: float | None = None
    min_id: int | None = None
    max_id: int | None = None
    reason: str | None = None


class HistoryPoint(msgspec.Struct):
    """One point; predictions are those that stood at that time, `low` and `high` the ends of their intervals."""

    ts_ms: int
    soc_pct: float | None = None
    soc_est_pct: float | None = None
    soh_predicted_pct: float | None = None
    soh_low_pct: float | None = None
    soh_high_pct: float | None = None
    voltage_v: float | None = None
    current_a: float | None = None
    temp_c: float | None = None
    temp_predicted_c: float | None = None
    rul_efc: float | None = None
    rul_low_efc: float | None = None
    rul_high_efc: float | None = None
    failure_pct: float | None = None


class History(msgspec.Struct):
    """Points oldest first, at most one in `period_ms` of device time; usually `step_ms` lie between two, so where much more do
    some are missing. The gateway keeps them in memory only."""

    battery_id: str
    fleet: str
    period_ms: int
    step_ms: int
    points: list[HistoryPoint]


class SessionEntry(msgspec.Struct):
    """A charge or discharge; `end_ms` null: it goes on. `energy_kwh` and `charge_ah` are what went the session's way, less what
    came back (recuperation). `reason` says why `soh_measured_pct` is null."""

    kind: Literal["charge", "discharge"]
    start_ms: int
    end_ms: int | None
    soc_from_pct: float | None
    soc_to_pct: float | None
    energy_kwh: float
    charge_ah: float
    temp_max_c: float | None
    soh_measured_pct: float | None
    reason: str | None


class Sessions(msgspec.Struct):
    """A pack's last sessions, the newest first."""

    battery_id: str
    fleet: str
    sessions: list[SessionEntry]


class FlowNode(msgspec.Struct):
    """A node of the running flow with its counters since the start; of a sink also whether its far side takes batches
    (`circuit`), how often it stopped to, and why it does not (`error`); `broker` is the id of an MQTT node's broker, whose
    `status` says whether it is connected; `last_error` says why it failed on a message last (the gateway's time)."""

    id: str
    type: str
    name: str
    wires: list[list[str]]
    messages_in: int
    messages_out: int
    failures: int
    busy_s: float
    waiting: int
    retries: int
    status: dict[str, Any]
    circuit: Literal["closed", "open", "half_open"] | None = None
    error: str = ""
    circuit_opened: int = 0
    broker: str = ""
    last_error: str = ""
    last_error_ms: int | None = None


class HeldMessages(msgspec.Struct):
    """Messages that nodes hold for later (delay, join, window …): `unacknowledged` ones, which their sources send again, and
    those `on_disk`, with the `orphans` among them, by the id of a node that the flow does not have. `is_full`: no more
    go there; `error` says why none can."""

    unacknowledged: int
    on_disk: int
    orphans: dict[str, int]
    is_full: bool
    error: str


class Flow(msgspec.Struct):
    """The running flow. `state` is `stop` where the editor stopped it; in `safe_mode` the flow before the last deploy runs,
    because that one ended the gateway again and again; `notices` says so, and what else is wrong with the flow's files.
    `last_pause_s`, `longest_pause_s`: how long deploys let the sources wait."""

    revision: str
    state: Literal["start", "stop"]
    safe_mode: bool
    notices: list[str]
    batches: int
    messages: int
    in_flight_batches: int
    stalls: int
    deploys: int
    last_pause_s: float
    longest_pause_s: float
    dropped: dict[str, int]
    held: HeldMessages
    nodes: list[FlowNode]


class ModelState(msgspec.Struct):
    """A model of the flow. `predictions` counts its answers, without those that are null."""

    name: str
    loaded: bool
    predictions: int
    reason: str | None = None
    hash: str | None = None
    unit: str | None = None
    size_bytes: int | None = None
    outputs: list[str] = []
    card: dict[str, Any] = {}


class TemperatureErrors(msgspec.Struct):
    """How the last temperature predictions compared with what was then measured (predicted minus actual)."""

    compared: int
    missed: int
    mean_absolute_c: float | None = None
    mean_c: float | None = None


class Models(msgspec.Struct):
    """The four models and how the one that can be checked within minutes has done."""

    models: list[ModelState]
    temperature_errors: TemperatureErrors


def power_kw(telemetry: Telemetry) -> float | None:
    """Power into the battery; null where voltage or current is."""
    power = power_w(telemetry)
    return None if power is None else round(power / 1000, 3)


def row(twin: PackTwin, now_s: float | None = None) -> PackRow:
    """A pack in one line."""
    now_s = receive_clock.now_s() if now_s is None else now_s
    points = worry(twin, now_s)
    result = PackRow(
        name=twin.name, fleet=twin.fleet, pack=twin.pack, online=online(twin), silent=is_silent(twin, now_s),
        worry=points, grade=level_of(twin, points), worries=worries(twin, now_s),
        alerts=len(twin.alerts), acknowledged=acknowledged_count(twin),
        soh_predicted_pct=predicted(twin, "soh"), temp_predicted_c=predicted(twin, "temperature"),
        rul_efc=predicted(twin, "rul"), failure_pct=predicted(twin, "failure"),
    )  # fmt: skip
    if (telemetry := twin.telemetry) is not None:
        result.ts_ms, result.age_s = telemetry.ts_ms, age_s(twin, now_s)
        result.charging_state = telemetry.charging_state
        result.soc_pct, result.soc_est_pct = telemetry.soc_pct, twin.estimate.soc_pct
        result.temp_c, result.voltage_v = telemetry.cell_temp_max_c, telemetry.pack_voltage_v
        result.current_a, result.power_kw = telemetry.pack_current_a, power_kw(telemetry)
    return result


def online(twin: PackTwin) -> bool | None:
    """What the device's birth and last will say; null where it has sent neither."""
    state = twin.state
    return None if state is None else state.online


def age_s(twin: PackTwin, now_s: float) -> float | None:
    """Since the last message; null where the gateway did not know what time it was then."""
    return None if twin.received_ms is None else round(max(0.0, now_s - twin.received_ms / 1000), 1)


def status(twin: PackTwin) -> Status:
    """A pack now."""
    telemetry = twin.telemetry
    return Status(
        battery_id=twin.pack, fleet=twin.fleet, online=online(twin),
        timestamp=device_time(telemetry.ts_ms if telemetry else None),
        ts_ms=telemetry.ts_ms if telemetry else None,
        age_s=age_s(twin, receive_clock.now_s()) if telemetry else None,
        charging_state=telemetry.charging_state if telemetry else None,
        vehicle_state=telemetry.vehicle_state if telemetry else None,
        soc_pct=telemetry.soc_pct if telemetry else None,
        soc_est_pct=twin.estimate.soc_pct,
        soh_measured_pct=soh_actual(twin)[0],
        temperature_c=telemetry.cell_temp_max_c if telemetry else None,
        voltage_v=telemetry.pack_voltage_v if telemetry else None,
        current_a=telemetry.pack_current_a if telemetry else None,
        power_kw=power_kw(telemetry) if telemetry else None,
        predictions={model: item.value for model, item in dict(twin.predictions).items()},
        invalid=list(telemetry.quality.invalid) if telemetry else [],
        alerts=list(twin.alerts),
    )  # fmt: skip


def detailed(twin: PackTwin) -> Detailed:
    """All the gateway knows of a pack."""
    telemetry = twin.telemetry
    return Detailed(
        battery_id=twin.pack, fleet=twin.fleet, online=online(twin),
        timestamp=device_time(telemetry.ts_ms if telemetry else None),
        messages=twin.messages, late_messages=twin.late,
        skew_ms=None if twin.skew_ms is None else round(twin.skew_ms), worries=worries(twin), telemetry=telemetry,
        nameplate=twin.state, estimate=twin.estimate, session=twin.session, predictions=dict(twin.predictions),
        comparisons=compare(twin).comparisons, alerts=list(twin.alerts.values()),
    )  # fmt: skip
