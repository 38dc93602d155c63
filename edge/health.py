"""Is the gateway well, and if not why: `/api/health`, and what is held where: `/api/spool`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

import msgspec

from edge.fixes import FIXES
from edge.model import Model
from voltflow import __version__
from voltflow.battery.features import FEATURES
from voltflow.clock import receive_clock
from voltflow.engine.engine import Engine
from voltflow.engine.store_forward import SpoolingQueue
from voltflow.node import Sink
from voltflow.nodes.mqtt_broker import MqttBroker

if TYPE_CHECKING:
    from edge.state import AppState


HealthStatus = Literal["ok", "degraded", "unhealthy"]


class Reason(msgspec.Struct):
    """One thing that is not as it should be: `code` for programs, `message` what it is, `fix` what mends it."""

    code: str
    message: str
    fix: str = ""

    def __post_init__(self) -> None:
        self.fix = self.fix or FIXES.get(self.code, "")


class Health(msgspec.Struct):
    """`ok`, `degraded` (something is away; a restart would not bring it back), `unhealthy` (stuck; a restart may
    help, answered with 503)."""

    status: HealthStatus
    reasons: list[Reason]
    gateway: str
    version: str
    flow_revision: str
    uptime_s: float
    packs: int
    messages: int
    newest_message_age_s: float | None
    active_alerts: int


class SpoolState(msgspec.Struct):
    """What one sink's spool holds on disk, and what became of what was there. `oldest_ms` is the gateway's receive time of
    the oldest message; `disk_error` says why the spool takes nothing; `lost` counts what was given up, by reason."""

    messages: int
    bytes: int
    oldest_ms: int | None
    classes: dict[str, int]
    appended: int
    delivered: int
    damaged: int
    repaired: int
    lost: dict[str, int]
    disk_error: str


class SinkState(msgspec.Struct):
    """What waits at one sink. `circuit` is closed while its far side takes batches; `error` says why it is not, `away_s`
    for how long."""

    id: str
    type: str
    name: str
    waiting_messages: int
    retries: int
    circuit: Literal["closed", "open", "half_open"]
    circuit_opened: int
    away_s: float | None
    error: str
    spool: SpoolState | None


class Spool(msgspec.Struct):
    """What the gateway holds that is not yet safe at its sinks."""

    spool: bool
    explanation: str
    backlog_messages: int
    backlog_bytes: int
    in_flight_batches: int
    in_flight_messages: int
    oldest_s: float
    sinks: list[SinkState]


NOTHING_YET_S = 60.0
"""So long after the start a gateway that has never heard of a pack says so: whoever installs it is standing there."""

NO_SPOOL = (
    "This gateway keeps nothing on disk: a message that is not yet safe at every sink is not acknowledged, and the "
    "devices' broker keeps it and sends it again. What is listed here is in memory."
)


SPOOL = (
    "A message that its sink does not take in time waits on disk, in the sink's spool, and is acknowledged by that; when "
    "the far side is back it is sent beside what is new. What is not yet safe is not acknowledged, and the devices' "
    "broker keeps it."
)


def health(state: AppState) -> Health:
    """The gateway as it is now; reasons first those that stop the flow."""
    engine, packs = state.engine, list(state.store.packs)
    received_ms = [
        twin.received_ms for twin in packs
    ]  # None: while the gateway did not know what time it was
    newest_s = max((ms or 0 for ms in received_ms), default=0) / 1000
    age_s = round(max(0.0, receive_clock.now_s() - newest_s), 1) if newest_s else None
    away = [*_brokers(engine), *_sinks(engine), *_held(engine)]
    stuck = [] if away else list(_stuck(engine))
    reasons = [
        *stuck,
        *away,
        *_held_orphans(engine),
        *_flow(state),
        *_clock(state),
        *_state(state),
        *([] if None in received_ms else _silence(state, age_s)),
        *_models(state),
    ]
    return Health(
        status="unhealthy" if stuck else "degraded" if reasons else "ok",
        reasons=reasons,
        gateway=state.gateway,
        version=__version__,
        flow_revision=engine.flow.revision,
        uptime_s=round(state.uptime_s, 1),
        packs=len(packs),
        messages=engine.messages,
        newest_message_age_s=age_s,
        active_alerts=sum(len(twin.alerts) for twin in packs),
    )


def spool(engine: Engine) -> Spool:
    """What is held in memory and on disk, by sink."""
    spools = {queue.sink.id: _spool_state(queue) for queue in engine.spools.queues}
    transactions = list(engine.transactions)
    now = time.monotonic()
    return Spool(
        spool=bool(spools),
        explanation=SPOOL if spools else NO_SPOOL,
        backlog_messages=sum(found.messages for found in spools.values()),
        backlog_bytes=sum(found.bytes for found in spools.values()),
        in_flight_batches=len(transactions),
        in_flight_messages=sum(transaction.size for transaction in transactions),
        oldest_s=round(max((now - transaction.started for transaction in transactions), default=0.0), 3),
        sinks=[
            SinkState(
                node_id, wired.node.type, wired.node.name, stats.waiting, stats.retries, circuit.state, circuit.opened,
                None if circuit.closed else round(circuit.away_s, 1), circuit.reason, spools.get(node_id),
            )
            for node_id, wired in engine.nodes.items()
            if isinstance(wired.node, Sink)
            for stats, circuit in [(engine.stats[node_id], engine.circuit(node_id))]
        ],
    )  # fmt: skip


def _spool_state(queue: SpoolingQueue) -> SpoolState:
    backlog, counters = queue.spool.backlog, queue.spool.counters
    return SpoolState(
        messages=backlog.messages, bytes=backlog.bytes, oldest_ms=backlog.oldest_ms, classes=dict(backlog.by_class),
        appended=counters.appended, delivered=counters.delivered, damaged=counters.damaged, repaired=counters.repaired,
        lost=dict(counters.lost_by_reason), disk_error=queue.disk_error,
    )  # fmt: skip


def _brokers(engine: Engine) -> Iterator[Reason]:
    for wired in engine.nodes.values():
        node = wired.node
        if not isinstance(node, MqttBroker):
            continue
        status = node.status()
        where = f"{node.label} at {node.broker}:{node.port}"
        if not status["connected"]:
            yield Reason("broker_not_connected", f"{where}: {status['error'] or 'not connected yet'}")
        for topic, why in status["refused_subscriptions"].items():
            yield Reason("subscription_refused", f"{where} refuses the subscription {topic}: {why:#x}")


def _sinks(engine: Engine) -> Iterator[Reason]:
    for node_id, wired in engine.nodes.items():
        if not isinstance(wired.node, Sink) or engine.circuit(node_id).closed:
            continue
        stats, circuit = engine.stats[node_id], engine.circuit(node_id)
        held = f"; {_messages(stats.waiting)} in memory" if stats.waiting else ""
        away = f"{wired.node.label}: away for {circuit.away_s:.0f} s{held}"
        yield Reason("sink_waiting", f"{away}: {circuit.reason}")
    for name, size_bytes in engine.spools.orphans.items():
        text = f"spool/{name} in state_dir holds {size_bytes / 1e6:.1f} MB that no sink of the flow delivers any more"
        yield Reason("spool_orphaned", f"{text}: give a sink that id and a spool, or delete the folder")
    for queue in engine.spools.queues:
        backlog = queue.spool.backlog
        if queue.disk_error:
            yield Reason("spool_blocked", f"{queue.sink.label}: {queue.disk_error}")
        if backlog.messages:
            size = f"{_messages(backlog.messages)} ({backlog.bytes / 1e6:.1f} MB)"
            doing = (
                f"sending the backlog: {size} left"
                if queue.circuit.closed
                else f"{size} safe on disk until it is back"
            )
            yield Reason("spool_backlog", f"{queue.sink.label}: {doing}")


def _held(engine: Engine) -> Iterator[Reason]:
    """What nodes hold for later stays unacknowledged while it cannot go to disk: nothing is lost, and their sources wait."""
    held = engine.held
    if held.error:
        waiting = f"{_messages(held.unsafe)} unacknowledged, their sources wait"
        text = f"what nodes hold cannot be kept in '{held.path}': {held.error}; {waiting}"
        yield Reason("held_not_written", text)
    if held.is_full:
        text = f"{_messages(held.on_disk)} that nodes hold are on disk, more are not: the next ones stay unacknowledged"
        yield Reason("held_full", f"{text} until some have left")


def _held_orphans(engine: Engine) -> Iterator[Reason]:
    held = engine.held
    for node_id, count in dict(held.orphans).items():
        text = (
            f"{_messages(count)} in '{held.path}' wait for the node {node_id!r}, which the flow does not have"
        )
        yield Reason("held_orphaned", f"{text}: give a node that holds messages this id, and it takes them")


def _messages(count: int) -> str:
    return f"{count:,} message{'' if count == 1 else 's'}"


def _stuck(engine: Engine) -> Iterator[Reason]:
    """A batch that nothing outside explains."""
    now = time.monotonic()
    for transaction in list(engine.transactions):
        age_s = now - transaction.started
        if age_s > engine.watchdog_s:
            holding = [node_id for node_id, count in dict(transaction.waiting_for).items() if count]
            where = ", ".join(engine.nodes[node_id].node.label for node_id in holding) or "no sink"
            yield Reason(
                "stalled", f"{where} has not confirmed a batch of {transaction.size} for {age_s:.0f} s"
            )


def _flow(state: AppState) -> Iterator[Reason]:
    """The flow that runs is not the one of the last deploy, is stopped, lacks its credentials; nobody can log in."""
    for notice in state.flows.notices if state.flows is not None else ():
        yield Reason(notice.code, notice.text)
    if state.auth is not None and state.auth.error:
        yield Reason("users_unreadable", state.auth.error)


def _clock(state: AppState) -> Iterator[Reason]:
    """Receive times are null while it is unknown, and go on as before beside a clock that has jumped."""
    clock = state.store.clock.status()
    if clock.state != "ok":
        yield Reason(f"clock_{clock.state}", clock.reason)


def _state(state: AppState) -> Iterator[Reason]:
    """The flow goes on; what a crash would make it forget grows."""
    durable = state.durable
    if durable is not None and durable.error:
        yield Reason(
            "state_not_written", f"state_dir = '{durable.folder}' cannot be written: {durable.error}"
        )


def _silence(state: AppState, age_s: float | None) -> Iterator[Reason]:
    """Nothing of any pack: one that is parked sends seldom, and may be the only one."""
    up_s = state.uptime_s
    if age_s is None and up_s > NOTHING_YET_S:
        yield Reason("no_telemetry", f"no telemetry since the gateway started {up_s:.0f} s ago")
    elif age_s is not None and age_s > state.store.silent_after_s:
        yield Reason("no_telemetry", f"no telemetry for {age_s:.0f} s")


def loaded_models(state: AppState) -> dict[str, Model | None]:
    """The flow's models by name; None where one is not loaded (yet)."""
    return {node.model: getattr(node, "loaded", None) for node in state.models}


def _models(state: AppState) -> Iterator[Reason]:
    loaded = loaded_models(state)
    for name in FEATURES:
        if name not in loaded:
            yield Reason("model_missing", f"model {name}: the flow has no onnx node for it")
        elif loaded[name] is None:
            yield Reason("model_missing", f"model {name}: not loaded; the flow has not started or refused it")
