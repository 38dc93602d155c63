"""The `twin` node: brings the digital twin of each pack up to date with a batch of telemetry."""

from __future__ import annotations

import logging
from math import isnan
from operator import attrgetter
from typing import Any

import numpy as np

from edge.reading import Reading, telemetry_of
from edge.twin import FLEET_LIMIT, PackTwin, TwinStore
from voltflow import topics
from voltflow.battery.twin_states import INPUTS, Outputs
from voltflow.logs import about
from voltflow.message import Msg
from voltflow.mqtt.properties import not_sent_with
from voltflow.node import Context, Transform, config, node
from voltflow.sequence import DUPLICATE
from voltflow.telemetry import Estimate, Session, Telemetry, TwinPrediction

log = logging.getLogger(__name__)

_NUMBERS = tuple(name for name in INPUTS if name != "charging")
_numbers_of = attrgetter(*_NUMBERS)
_CHARGING = {"charging": 1.0, "charging_driving": 0.0, "not_charging": 0.0, "complete": 0.0, None: np.nan}
_DIGITS = {
    "soc_pct": 2,
    "soc_sigma_pct": 2,
    "resistance_mohm": 4,
    "voltage_residual_mv": 2,
    "soc_residual_pct": 2,
}
_SCALE = np.array([[10.0**digits] for digits in _DIGITS.values()])


@node("twin", category="battery", color="#a7c7e7", icon="font-awesome/fa-clone")
class Twin(Transform):
    """Estimate state of charge, resistance and residuals of each pack, and follow its charge sessions.

    Turns validated telemetry into `twin.prediction/1`. A message that is not newer than the pack's last (sent again,
    late, a clock that went back, one that a `sequence` node calls a duplicate) is passed on marked `late` and changes
    nothing. A prediction made ten minutes ago is joined with what is measured now. The twins go on after a restart where
    they were; after a crash they may be as old as the last snapshot, and a message that comes again is no duplicate then.
    """

    fleet_limit: int = config(
        FLEET_LIMIT, help="packs at most; telemetry and state of more are dead letters", low=1, high=1_000_000
    )

    async def start(self, ctx: Context) -> None:
        self._store = ctx.service(TwinStore)
        self._store.fleet_limit = self.fleet_limit
        self._gateway, self._flow_rev = ctx.gateway, ctx.flow_rev

    def process(self, msgs: list[Msg]) -> list[Msg]:
        items = telemetry_of(msgs)
        twins = [self._twin_of(msg) for msg in msgs]
        again = [
            row
            for row, msg in enumerate(msgs)
            if msg.props and DUPLICATE in msg.props and self._is_again(msg, twins[row])
        ]
        outputs = self._run(twins, items, again)
        estimates = _estimates(outputs)
        sessions = _sessions(outputs)
        late = outputs.late.tolist()
        return [
            self._message(msg, twin, item, outputs, row, estimates[row], sessions.get(row), late[row])
            for row, (msg, twin, item) in enumerate(zip(msgs, twins, items, strict=True))
        ]

    def _twin_of(self, msg: Msg) -> PackTwin:
        topic = topics.parse(msg.topic)
        if topic is None:
            raise TypeError(f"topic {msg.topic!r} is no pack's")
        return self._store.pack(topic.fleet, topic.pack)

    def _is_again(self, msg: Msg, twin: PackTwin) -> bool:
        """Whether the estimator must not take it, however new its time is. One that knows nothing of the pack may."""
        return bool(msg.props and msg.props.get(DUPLICATE)) and not isnan(
            self._store.states.last_ms(twin.slot)
        )

    def _run(self, twins: list[PackTwin], items: list[Telemetry], again: list[int]) -> Outputs:
        """The estimates of a batch. The rows `again` get a time before all others, which makes them late."""
        slots = np.fromiter((twin.slot for twin in twins), dtype=np.intp, count=len(twins))
        matrix = np.array([_numbers_of(item) for item in items], dtype=np.float64).T
        columns = dict(zip(_NUMBERS, matrix, strict=True))
        if again:
            columns["ts_ms"][again] = -np.inf
        columns["charging"] = np.array([_CHARGING[item.charging_state] for item in items])
        return self._store.states.run(slots, columns)

    def _message(
        self, msg: Msg, twin: PackTwin, telemetry: Telemetry, outputs: Outputs, row: int, estimate: Estimate,
        session: Session | None, late: bool,
    ) -> Msg:  # fmt: skip
        store, state, received_ms = self._store, twin.state, msg.received_ms or None
        twin.messages += 1
        if not telemetry.replay and not (late and msg.props and msg.props.get(DUPLICATE)):
            store.hear(twin, telemetry, msg.received_ms)
        joined = {}
        if late:
            twin.late += 1
            if log.isEnabledFor(logging.DEBUG):
                log.debug("a message came late", extra=about(msg))
        else:
            if session is not None:
                estimate.session = session
                store.on_session(twin, session)
            if twin.pending and (pair := store.join(twin, telemetry)) is not None:
                joined["temperature"] = pair
            store.remember(twin, telemetry, estimate, received_ms)
        result = TwinPrediction(
            schema_="twin.prediction/1", fleet=twin.fleet, pack=telemetry.pack, boot=telemetry.boot, seq=telemetry.seq,
            ts_ms=telemetry.ts_ms, gateway=self._gateway, flow_rev=self._flow_rev, received_ms=received_ms,
            telemetry=telemetry, chemistry=state.chemistry if state else None,
            capacity_rated_ah=state.capacity_rated_ah if state else None, late=late, estimate=estimate, joined=joined,
            skew_ms=None if twin.skew_ms is None else round(twin.skew_ms),
        )  # fmt: skip
        topic = topics.TWIN.of(twin.fleet, twin.pack)
        # a statement of ours: how long the device's own is of use, and what kind it is, is not said of it
        return msg.derive(
            topic=topic, payload=Reading(result, twin.slot, outputs, row), props=not_sent_with(msg.props)
        )

    def status(self) -> dict[str, Any]:
        store = self._store
        newest_ms = max((twin.received_ms or 0 for twin in store.packs), default=0)
        return {
            "packs": len(store.packs),
            "late": sum(twin.late for twin in store.packs),
            "missed_joins": store.missed_joins,
            "newest_s": round(store.clock.now_s() - newest_ms / 1000, 1),
        }


def _estimates(outputs: Outputs) -> list[Estimate]:
    """One Estimate for each row, rounded to what the sensors justify; NaN becomes null."""
    values = np.array([outputs.estimates[name] for name in _DIGITS])
    rounded = np.rint(values * _SCALE) / _SCALE
    rows = rounded.T.tolist()
    if np.isnan(rounded).any():
        rows = [[None if isnan(value) else value for value in row] for row in rows]
    return [Estimate(*row) for row in rows]


def _sessions(outputs: Outputs) -> dict[int, Session]:
    found = outputs.sessions
    return {
        int(row): Session(
            start_ms=int(found.start_ms[i]), end_ms=int(found.end_ms[i]),
            soc_start_pct=round(float(found.soc_start_pct[i]), 2), soc_end_pct=round(float(found.soc_end_pct[i]), 2),
            charge_ah=round(float(found.charge_ah[i]), 3), capacity_est_ah=_number(found.capacity_est_ah[i], 2),
            temp_avg_c=_number(found.temp_avg_c[i], 1), current_avg_a=_number(found.current_avg_a[i], 2),
        )
        for i, row in enumerate(found.rows)
    }  # fmt: skip


def _number(value: float, digits: int) -> float | None:
    return None if np.isnan(value) else round(float(value), digits)
