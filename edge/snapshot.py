"""The twins as bytes and back: what the gateway knows of its packs, for the state store.

`copy_twins` gathers references in the event loop, some microseconds a pack; what they lead to is never changed in place,
so the bytes are made in another thread. The short histories behind the page's charts are not kept: they are the larger
part, and the database has them.
"""

from __future__ import annotations

import logging
from array import array
from collections.abc import Callable, Iterator
from typing import Final

import msgspec

from edge.sessions import SessionLog
from edge.twin import PackTwin, TwinStore
from voltflow.battery.twin_states import TwinStates
from voltflow.sequence import Sequence
from voltflow.telemetry import Alert, Estimate, Joined, Prediction, Session, State, Telemetry

log = logging.getLogger(__name__)

NOT_KEPT: Final = frozenset({"slot", "fleet", "pack", "history_ms", "acknowledged", "silent_after_s"})
"""Fields of a pack's twin that are known otherwise (`edge.acknowledgements` has a file, the settings), or belong to what is not kept."""
_PIECE_PACKS: Final = 50
"""Packs in a piece of the bytes: half a millisecond of encoding, then other threads have a turn."""
_LENGTH_BYTES: Final = 4


class _Sessions(msgspec.Struct, omit_defaults=True, gc=False):
    """A pack's sessions, as in `SessionLog`. Those of another version are forgotten."""

    ended: bytes = b""
    current: list[float] = []
    version: int = 1
    turn: list[float] = []


class _Pack(msgspec.Struct, omit_defaults=True, gc=False):
    """A pack's twin, its fields as in `PackTwin`. A field of a later version is passed over, one that is missing has its
    default."""

    state: State | None = None
    telemetry: Telemetry | None = None
    received_ms: int | None = 0
    skew_ms: float | None = None
    late: int = 0
    messages: int = 0
    estimate: Estimate = msgspec.field(default_factory=Estimate)
    session: Session | None = None
    wide_session: Session | None = None
    predictions: dict[str, Prediction] = {}
    joined: dict[str, Joined] = {}
    alerts: dict[str, Alert] = {}
    pending: bytes = b""
    sequence: msgspec.Raw = msgspec.Raw(b"")
    sessions: _Sessions | None = None
    after_crash: bool = False
    hole_ms: int | None = None
    worst: dict[str, float] = {}


class _Fleet(msgspec.Struct):
    """What is not of a single pack; `states` are the estimator's numbers."""

    states: bytes
    recent_alerts: list[Alert] = []
    predictions_made: dict[str, int] = {}
    invalid_fields: dict[str, int] = {}
    sequence_events: dict[str, int] = {}
    missed_joins: int = 0


_PLAIN: Final = tuple(
    name for name in _Pack.__struct_fields__ if name not in {"pending", "sequence", "sessions"}
)
_encode = msgspec.msgpack.Encoder().encode
_decode_pack = msgspec.msgpack.Decoder(_Pack).decode
_decode_sequence = msgspec.msgpack.Decoder(Sequence).decode
_decode_fleet = msgspec.msgpack.Decoder(_Fleet).decode


def copy_twins(store: TwinStore) -> Callable[[], Iterator[bytes]]:
    """What the store holds now; the function makes bytes of it, in any thread: a `_Fleet`, then a `_Pack` for each slot,
    each with its length before it."""
    states, packs = store.states.copy(), [_copy_pack(twin) for twin in store.packs]
    rest = (
        list(store.recent_alerts), dict(store.predictions_made), dict(store.invalid_fields),
        dict(store.sequence_events), store.missed_joins,
    )  # fmt: skip
    return lambda: _pieces(_Fleet(states(), *rest), packs)


def _copy_pack(twin: PackTwin) -> _Pack:
    """References to what is never changed in place, copies of the rest; the sequence is encoded sooner than copied."""
    return _Pack(
        None if twin.state is None else msgspec.structs.replace(twin.state), twin.telemetry, twin.received_ms,
        twin.skew_ms, twin.late, twin.messages, twin.estimate, twin.session, twin.wide_session, twin.predictions.copy(),
        twin.joined.copy(), twin.alerts.copy(), twin.pending.tobytes(), msgspec.Raw(_encode(twin.sequence)),
        _copy_sessions(twin.sessions), twin.after_crash, twin.hole_ms, twin.worst.copy(),
    )  # fmt: skip


def _copy_sessions(log: SessionLog) -> _Sessions:
    return _Sessions(log.ended.tobytes(), log.current.copy(), turn=log.turn.copy())


def _pieces(fleet: _Fleet, packs: list[_Pack]) -> Iterator[bytes]:
    yield _framed(_encode(fleet))
    for start in range(0, len(packs), _PIECE_PACKS):
        yield b"".join([_framed(_encode(pack)) for pack in packs[start : start + _PIECE_PACKS]])


def _framed(data: bytes) -> bytes:
    return len(data).to_bytes(_LENGTH_BYTES, "little") + data


def _unframed(data: bytes) -> Iterator[memoryview]:
    view, place = memoryview(data), 0
    while place < len(view):
        first = place + _LENGTH_BYTES
        place = first + int.from_bytes(view[place:first], "little")
        yield view[first:place]


def restore_twins(store: TwinStore, data: bytes) -> None:
    """Fill an empty store with what `copy_twins` gathered; a pack that cannot be read keeps only its estimates."""
    records = _unframed(data)
    fleet = _decode_fleet(next(records))
    states = TwinStates.restore(fleet.states)
    packs = _packs(list(zip(states.names, records, strict=True)), store.silent_after_s)
    store.states, store.packs = states, packs  # from here on nothing can fail
    store.by_name = {(twin.fleet, twin.pack): twin for twin in packs}
    store.recent_alerts.extend(fleet.recent_alerts)
    store.predictions_made.update(fleet.predictions_made)
    store.invalid_fields.update(fleet.invalid_fields)
    store.sequence_events.update(fleet.sequence_events)
    store.missed_joins = fleet.missed_joins


def _packs(records: list[tuple[str, memoryview]], silent_after_s: float) -> list[PackTwin]:
    packs, failed = [], []
    for slot, (name, record) in enumerate(records):
        fleet, _, pack = name.partition("/")
        twin = PackTwin(slot, fleet, pack, silent_after_s=silent_after_s)
        packs.append(twin)
        try:
            _fill(twin, record)
        except (msgspec.DecodeError, ValueError) as error:
            failed.append(f"{name}: {error}")
    if failed:
        log.error("%d of %d packs cannot be restored, only their estimates go on; the first is %s",
                  len(failed), len(packs), failed[0])  # fmt: skip
    return packs


def _fill(twin: PackTwin, record: memoryview) -> None:
    kept = _decode_pack(record)
    pending, sequence = array("d", kept.pending), _sequence(kept.sequence)
    twin.pending, twin.sequence, twin.sessions = pending, sequence, _sessions(kept.sessions)
    for field in _PLAIN:
        setattr(twin, field, getattr(kept, field))


def _sessions(kept: _Sessions | None) -> SessionLog:
    if kept is None or kept.version != 1:
        return SessionLog()
    return SessionLog(kept.ended, kept.current, kept.turn)


def _sequence(data: msgspec.Raw) -> Sequence:
    sequence = _decode_sequence(data) if bytes(data) else Sequence()
    for hole in sequence.open_holes():
        hole.due_s = 0.0  # it was of a clock that begins anew with the machine
    return sequence


def mark_after_crash(store: TwinStore) -> None:
    """Say of every pack that what came after its last message here may be missing."""
    for twin in store.packs:
        twin.after_crash = True
        twin.sequence.after_crash()
