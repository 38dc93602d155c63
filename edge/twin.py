"""The twins of all packs of a gateway: what is known of each now, for the flow's nodes and for whoever asks.

The nodes write, in the event loop; the API and the metrics read copies. Everything is bounded: one entry a pack,
short histories, at most an hour of predictions that wait for their actual value.
"""

from __future__ import annotations

from array import array
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from edge.cells import CellsOfPacks
from edge.history import PERIOD_MS, History
from edge.sessions import SessionLog
from voltflow.battery.twin_states import TwinStates
from voltflow.clock import Clock
from voltflow.message import Key
from voltflow.sequence import Sequence as PackSequence
from voltflow.telemetry import Alert, Estimate, Joined, Prediction, Session, State, Telemetry

JOIN_TOLERANCE_MS = 120_000
"""A prediction is compared with a measurement at most this long after its target time; later ones say nothing."""
PENDING_LIMIT = 100
WIDE_SESSION_PCT = 50.0
"""A charge session measures capacity only when it spans at least this much SoC: with an error of 2 % in either end
point, a span of 50 % bounds the error of the capacity at about 6 %."""
ALERTS_KEPT = 1000
UNREADABLE_KEPT = 1000
FLEET_LIMIT = 20_000
"""Packs at most, unless a `twin` node says otherwise. Whoever may publish can make up names of packs, each of which
would stay in memory: about 10 kB with its predictions and up to 3 kB with its sessions and cells, so 20,000 fit into the MemoryMax of the
agent's unit."""
SILENT_AFTER_S = 1200.0
"""A pack that says nothing for longer is called silent, unless a setting says otherwise: parked ones send every 15 minutes."""

_NONE = Prediction(unit="", model="")


class FleetFullError(ValueError):
    """One more pack than the gateway is set to follow."""


@dataclass
class PackTwin:
    """What the gateway knows of one pack. Times are device time in ms unless the name says `received`."""

    slot: int
    fleet: str
    pack: str
    state: State | None = None
    telemetry: Telemetry | None = None
    received_ms: int | None = 0
    """0: nothing received yet; None: received while the gateway did not know what time it is."""
    skew_ms: float | None = None
    """How far the device's clock is ahead of the gateway's; None: not known."""
    sequence: PackSequence = field(default_factory=PackSequence)
    late: int = 0
    messages: int = 0
    estimate: Estimate = field(default_factory=Estimate)
    session: Session | None = None
    wide_session: Session | None = None
    """The last one that measured capacity over at least WIDE_SESSION_PCT: the actual to compare SoH with."""
    sessions: SessionLog = field(default_factory=SessionLog)
    predictions: dict[str, Prediction] = field(default_factory=dict)
    joined: dict[str, Joined] = field(default_factory=dict)
    alerts: dict[str, Alert] = field(default_factory=dict)
    worst: dict[str, float] = field(default_factory=dict)
    """The worst value since an active alert was raised, by its code."""
    acknowledged: dict[str, int] = field(default_factory=dict)
    """Alerts that somebody has seen to: when the one that was acknowledged was raised, by code."""
    pending: array[float] = field(default_factory=lambda: array("d"))
    """Temperatures that wait for their actual value, oldest first: target_ms, made_ms, value of each. One array,
    because objects would take 180 bytes an entry, 200 MB in a fleet of 20,000."""
    history_ms: int = -(2**62)
    after_crash: bool = False
    """Restored after a crash: whether messages after the last one here were taken in and forgotten is not known yet."""
    silent_after_s: float = SILENT_AFTER_S
    hole_ms: int | None = None
    """Device time at which the last hole that a crash left ended: nothing is known of the time just before it."""

    @property
    def name(self) -> str:
        return f"{self.fleet}/{self.pack}"


class TwinStore:
    """All packs of the gateway. `states` holds the estimator's numbers, `packs` everything else, by slot."""

    def __init__(self, clock: Clock | None = None, *, silent_after_s: float = SILENT_AFTER_S) -> None:
        self.clock = clock or Clock()
        """By which messages were received; the agent's is that of its process."""
        self.silent_after_s = silent_after_s
        self.states = TwinStates()
        self.fleet_limit = FLEET_LIMIT
        self.packs: list[PackTwin] = []
        self.by_name: dict[tuple[str, str], PackTwin] = {}
        self.recent_alerts: deque[Alert] = deque(maxlen=ALERTS_KEPT)
        self.alert_changes = 0
        self.predictions_made: dict[str, int] = {}
        self.invalid_fields: dict[str, int] = {}
        self.joined_errors: deque[float] = deque(maxlen=10_000)
        self.missed_joins = 0
        self.sequence_events: Counter[str] = Counter()
        """What the sequence node has counted, by event."""
        self.unreadable: deque[tuple[PackTwin, Key]] = deque(maxlen=UNREADABLE_KEPT)
        """Messages that came but are no telemetry, for the sequence node: to ask for them again would bring the same bytes."""
        self.cells = CellsOfPacks()
        """What single cells measured last; not in the state, the devices say it again within a minute."""
        self.history = History()

    def pack(self, fleet: str, pack: str) -> PackTwin:
        """The twin of a pack, made at its first message; raises FleetFullError where there are `fleet_limit` already."""
        found = self.by_name.get((fleet, pack))
        if found is None:
            if len(self.packs) >= self.fleet_limit:
                raise FleetFullError(
                    f"{fleet}/{pack} would be one pack more than fleet_limit = {self.fleet_limit}: look who publishes, "
                    "or raise fleet_limit of the twin node and the memory of the agent (13 kB a pack)"
                )
            slot = self.states.slot_for(f"{fleet}/{pack}")
            found = PackTwin(slot, fleet, pack, silent_after_s=self.silent_after_s)
            self.by_name[fleet, pack] = found
            self.packs.append(found)
        return found

    def find(self, pack: str) -> PackTwin | None:
        """A pack by `fleet/pack`, or by its id alone where only one fleet has it."""
        if "/" in pack:
            fleet, _, name = pack.partition("/")
            return self.by_name.get((fleet, name))
        matches = [twin for twin in self.packs if twin.pack == pack]
        return matches[0] if len(matches) == 1 else None

    def hear(self, twin: PackTwin, telemetry: Telemetry, received_ms: int) -> None:
        """Compare the device's clock with the gateway's by a message the device has just sent."""
        sent_ms = telemetry.sent_ms
        says_wall = sent_ms is not None
        device_ms = telemetry.ts_ms if sent_ms is None else sent_ms
        twin.skew_ms = self.clock.observe(twin.slot, device_ms, received_ms, is_wall=says_wall)

    def on_state(self, fleet: str, state: State) -> None:
        """Take a birth (with the nameplate) or a last will."""
        twin = self.pack(fleet, state.pack)
        if twin.state is not None and not state.online:
            twin.state.online = False  # a last will has no nameplate; what was known stays
            return
        twin.state = state
        self.states.set_nameplate(
            twin.slot,
            state.chemistry,
            capacity_rated_ah=state.capacity_rated_ah,
            cells_series=state.cells_series,
        )

    def on_session(self, twin: PackTwin, session: Session) -> None:
        """Take a charge session that has ended."""
        twin.session = session
        span = session.soc_end_pct - session.soc_start_pct
        if session.capacity_est_ah is not None and span >= WIDE_SESSION_PCT:
            twin.wide_session = session
            if twin.state is not None and twin.state.capacity_rated_ah:
                soh_pct = 100.0 * session.capacity_est_ah / twin.state.capacity_rated_ah
                twin.sessions.measured(session.start_ms, session.end_ms, soh_pct)

    def on_prediction(self, twin: PackTwin, model: str, prediction: Prediction) -> None:
        """Remember a model's answer; a temperature waits for its actual value."""
        twin.predictions[model] = prediction
        if prediction.value is None:
            return
        self.predictions_made[model] = self.predictions_made.get(model, 0) + 1
        if model == "temperature" and prediction.target_ms is not None and prediction.made_ms is not None:
            twin.pending.extend((prediction.target_ms, prediction.made_ms, prediction.value))
            del twin.pending[: -3 * PENDING_LIMIT]

    def join(self, twin: PackTwin, telemetry: Telemetry) -> Joined | None:
        """The latest temperature prediction that this message makes comparable, removed from those that wait."""
        pending, ts_ms, joined = twin.pending, telemetry.ts_ms, None
        if telemetry.cell_temp_max_c is None:
            return None
        unit = twin.predictions["temperature"].unit if pending else ""
        while pending and pending[0] <= ts_ms:
            target_ms, made_ms, predicted = pending[:3]
            del pending[:3]
            if ts_ms - target_ms > JOIN_TOLERANCE_MS:
                self.missed_joins += 1
                continue
            joined = Joined(predicted, telemetry.cell_temp_max_c, int(made_ms), int(target_ms), unit)
            self.joined_errors.append(joined.actual - joined.predicted)
        if joined is not None:
            twin.joined["temperature"] = joined
        return joined

    def on_alert(self, twin: PackTwin, alert: Alert) -> None:
        """Take an alert that is raised or cleared."""
        if alert.state == "raised":
            twin.alerts[alert.code] = alert
        else:
            twin.alerts.pop(alert.code, None)
            twin.worst.pop(alert.code, None)
        self.recent_alerts.append(alert)
        self.alert_changes += 1

    def remember(
        self, twin: PackTwin, telemetry: Telemetry, estimate: Estimate, received_ms: int | None
    ) -> None:
        """Take the newest message of a pack as its present."""
        if twin.after_crash:
            twin.after_crash = False
            if not _follows(telemetry, twin.telemetry):
                twin.hole_ms = telemetry.ts_ms
        twin.telemetry, twin.estimate, twin.received_ms = telemetry, estimate, received_ms
        if telemetry.ts_ms - twin.history_ms >= PERIOD_MS:
            twin.history_ms = telemetry.ts_ms
            self.history.append(twin.slot, telemetry.ts_ms, _history_values(twin, telemetry, estimate))
            soc_pct = telemetry.soc_pct
            twin.sessions.see(telemetry, estimate.soc_pct if soc_pct is None else soc_pct)

    def active_alerts(self) -> Iterator[Alert]:
        """All alerts raised and not cleared."""
        for twin in self.packs:
            yield from twin.alerts.values()


def _follows(telemetry: Telemetry, last: Telemetry | None) -> bool:
    """Whether nothing came between two messages of a pack; before a pack's first message there is nothing to miss."""
    return last is None or (telemetry.boot, telemetry.seq) == (last.boot, last.seq + 1)


def _history_values(twin: PackTwin, telemetry: Telemetry, estimate: Estimate) -> Sequence[float | None]:
    """What stands in the pack's history, in the order of `edge.history.VALUES`."""
    get = twin.predictions.get
    soh, temperature, rul, failure = (
        get("soh", _NONE), get("temperature", _NONE), get("rul", _NONE), get("failure", _NONE)
    )  # fmt: skip
    return (
        telemetry.soc_pct, estimate.soc_pct, soh.value, soh.low, soh.high, telemetry.pack_voltage_v,
        telemetry.pack_current_a, telemetry.cell_temp_max_c, temperature.value, rul.value, rul.low, rul.high, failure.value,
    )  # fmt: skip
