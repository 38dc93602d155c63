"""The twins of all packs: state in arrays, a batch of messages in, estimates and feature vectors out.

>>> import numpy as np
>>> twins = TwinStates()
>>> slot = twins.slot_for("demo/p1")
>>> twins.set_nameplate(slot, "NMC", capacity_rated_ah=150.0, cells_series=91)
>>> columns = {
...     "ts_ms": np.array([0.0, 1000.0]),
...     "cell_voltage_avg_v": np.array([3.9, 3.9]),
...     "pack_current_a": np.array([0.0, 0.0]),
...     "cell_temp_max_c": np.array([20.0, 20.0]),
... }
>>> out = twins.run(np.array([slot, slot]), columns)
>>> np.round(out.estimates["soc_pct"])
array([67., 67.])
>>> out.features["temperature"].rows, out.features["temperature"].ready
(array([0]), array([ True]))
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from voltflow.battery.compiled import EMITTED, ESTIMATES, FLOAT_TABLES, INPUTS, PACK, SESSION, STATE, compiled
from voltflow.battery.features import FEATURES, REQUIRED
from voltflow.battery.nameplate import Nameplate, pack_data
from voltflow.battery.records import State
from voltflow.battery.snapshot import read_snapshot, write_snapshot

__all__ = ["INPUTS", "FeatureRows", "Outputs", "SessionRows", "TwinStates"]

F64 = NDArray[np.float64]
Rows = NDArray[np.intp]
VECTOR_ROWS: Final = 40
"""From so many packs in a round numpy is cheaper than a loop that has to fetch and store each pack's state (measured:
0.5 to 0.9 ms a round against 16 µs a pack and 3 to 5 µs a further message)."""
LOOP_ROWS: Final = 2000
_FLOATS: Final = compiled("float")
_ARRAYS: Final = compiled("numpy")
_FRESH: Final = np.array([getattr(State(), name) for name in STATE])
_LAST: Final = STATE.index("last_ms")
_WHOLE: Final = frozenset(i for i, name in enumerate(PACK) if name.endswith("_base"))
_SOC_PCT: Final = INPUTS.index("soc_pct")
_CHARGING: Final = INPUTS.index("charging")


@dataclass(frozen=True, slots=True)
class FeatureRows:
    """The k rows of a batch where a model is due: `rows` (k,) ascending, `values` float32 (k, inputs), `ready` (k,).

    `ready` is false where a required input is missing; `features.missing` says which.
    """

    rows: Rows
    values: NDArray[np.float32]
    ready: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class SessionRows:
    """The k charge sessions that a batch's rows ended; NaN = not known. Fields as in `telemetry.Session`."""

    rows: Rows
    start_ms: F64
    end_ms: F64
    soc_start_pct: F64
    soc_end_pct: F64
    charge_ah: F64
    capacity_est_ah: F64
    temp_avg_c: F64
    current_avg_a: F64


# Most batches, and nearly all of one message, have nothing of these: shared, never changed.
_NO_ROWS: Final = np.empty(0, np.intp)
_NO_SESSIONS: Final = SessionRows(_NO_ROWS, *(np.empty(0) for _ in SESSION))
_NO_FEATURES: Final = {
    model: FeatureRows(_NO_ROWS, np.empty((0, len(features)), np.float32), np.empty(0, np.bool_))
    for model, features in FEATURES.items()
}


@dataclass(frozen=True, slots=True)
class Outputs:
    """What a batch of n messages gave. `late` (n,): not after the pack's last message, so nothing was done with it."""

    late: NDArray[np.bool_]
    estimates: dict[str, F64]
    features: dict[str, FeatureRows]
    sessions: SessionRows


class TwinStates:
    """The twins of packs, each at a slot: an int from 0 on."""

    def __init__(self) -> None:
        self.names: list[str] = []
        """Pack by slot."""
        self.nameplates: list[Nameplate] = []
        """By slot."""
        self._slots: dict[str, int] = {}
        self._state = np.empty((0, len(STATE)))
        self._pack = np.empty((0, len(PACK)))

    def __len__(self) -> int:
        return len(self.names)

    def slot_for(self, pack: str) -> int:
        """The pack's slot; a new one where the pack was not seen before."""
        slot = self._slots.get(pack)
        return self._add(pack, Nameplate()) if slot is None else slot

    def _add(self, pack: str, nameplate: Nameplate) -> int:
        slot = self._slots[pack] = len(self.names)
        self.names.append(pack)
        self.nameplates.append(nameplate)
        if slot >= len(self._state):
            more = max(64, slot)
            self._state = np.concatenate([self._state, np.tile(_FRESH, (more, 1))])
            self._pack = np.concatenate([self._pack, np.empty((more, len(PACK)))])
        self._state[slot] = _FRESH
        self._pack[slot] = pack_data(nameplate)
        return slot

    def set_nameplate(
        self, slot: int, chemistry: str | None, capacity_rated_ah: float | None, cells_series: int | None
    ) -> None:
        """What a pack is. The same again changes nothing; something else makes its estimates start anew."""
        nameplate = Nameplate(chemistry, capacity_rated_ah, cells_series)
        if nameplate != self.nameplates[slot]:
            self.nameplates[slot] = nameplate
            self._pack[slot] = pack_data(nameplate)
            last_ms = self._state[slot, _LAST]
            self._state[slot] = _FRESH
            self._state[slot, _LAST] = last_ms

    def last_ms(self, slot: int) -> float:
        """Device time of the pack's last message, NaN before the first."""
        return float(self._state[slot, _LAST])

    def capacity_pct(self, slot: int) -> tuple[float, float] | None:
        """Filtered capacity over rated and its standard deviation (percent); None before a session told about it."""
        state = self._state[slot]
        if state[STATE.index("sessions")] == 0.0:
            return None
        return 100.0 * float(state[STATE.index("capacity")]), 100.0 * float(
            state[STATE.index("capacity_var")]
        ) ** 0.5

    def run(self, slots: NDArray[np.integer[Any]], columns: Mapping[str, NDArray[Any]]) -> Outputs:
        """Take n messages: `slots` (n,), each column (n,) by telemetry field name (`INPUTS`), NaN or absent = missing.

        Rows of one pack must be in time order; packs may be mixed at will. `charging` is 1, 0, or NaN (negative counts
        as NaN). A row that is not later than the pack's last is marked `late` and changes nothing.
        """
        batch = _Batch(self._state, self._pack, np.asarray(slots, np.intp), _inputs(columns, len(slots)))
        batch.run()
        return batch.outputs()

    def snapshot(self) -> bytes:
        """Everything that is remembered, to be kept on disk; `restore` takes it back."""
        return self.copy()()

    def copy(self) -> Callable[[], bytes]:
        """The quick half of a snapshot; what it returns makes the bytes, in any thread."""
        names, nameplates, state = list(self.names), list(self.nameplates), self._state[: len(self)].copy()
        return lambda: write_snapshot(STATE, names, nameplates, state)

    @classmethod
    def restore(cls, data: bytes) -> TwinStates:
        """Twins from a snapshot; raises SnapshotError where it is damaged.

        What a later version added to the state starts fresh.
        """
        names, nameplates, stored, state = read_snapshot(data)
        twins = cls()
        for name, nameplate in zip(names, nameplates, strict=True):
            twins._add(name, nameplate)
        for i, field in enumerate(STATE):
            if field in stored:
                twins._state[: len(names), i] = state[:, stored.index(field)]
        return twins


def _inputs(columns: Mapping[str, NDArray[Any]], n: int) -> F64:
    inputs = np.full((len(INPUTS), n), np.nan)
    for i, name in enumerate(INPUTS):
        if name in columns:
            inputs[i] = columns[name]
    charging = inputs[_CHARGING]
    charging[charging < 0.0] = np.nan
    return inputs


def _gather(table: F64, rows: Rows) -> F64:
    """Chosen rows as columns. Written through a transposed view: `ascontiguousarray(….T)` takes twelve times as long."""
    gathered = np.empty((table.shape[1], len(rows)))
    gathered.T[...] = table.take(rows, axis=0)
    return gathered


class _Batch:
    """One call of `TwinStates.run`."""

    def __init__(self, state: F64, pack: F64, slots: Rows, inputs: F64) -> None:
        n = len(slots)
        self.state, self.pack, self.slots, self.inputs = state, pack, slots, inputs
        self.late = np.zeros(n, bool)
        self.estimates = np.full((len(ESTIMATES), n), np.nan)
        self.blocks: dict[str, list[F64]] = {kind: [] for kind in EMITTED}

    def run(self) -> None:
        """Rounds with one row a pack in numpy while they hold many packs; what is left pack by pack in a loop."""
        n = len(self.slots)
        if n == 1:
            self._loop(np.zeros(1, np.intp))
            return
        order = np.argsort(self.slots, kind="stable")
        grouped = self.slots[order]
        first = (
            np.flatnonzero(np.concatenate([[True], grouped[1:] != grouped[:-1]]))
            if n
            else np.array([], np.intp)
        )
        counts = np.diff(np.append(first, n))
        done = 0
        while len(first) and np.count_nonzero(counts > done) >= VECTOR_ROWS:
            self._vector(order[first[counts > done] + done])
            done += 1
        for group in np.flatnonzero(counts > done).tolist():
            self._loop(order[first[group] + done : first[group] + counts[group]])

    def _loop(self, rows: Rows) -> None:
        """Rows of one pack in plain floats, in parts: tuples by the ten thousand keep the garbage collector busy."""
        slot = self.slots[rows[0]]
        pack = tuple(int(v) if i in _WHOLE else v for i, v in enumerate(self.pack[slot].tolist()))
        state = self.state[slot].tolist()
        for start in range(0, len(rows), LOOP_ROWS):
            state = self._part(state, pack, rows[start : start + LOOP_ROWS])
        self.state[slot] = state

    def _part(self, state: list[float], pack: tuple[float, ...], rows: Rows) -> list[float]:
        estimates: list[tuple[float, ...]] = []
        late: list[int] = []
        emitted: list[list[tuple[float, ...]]] = [[] for _ in EMITTED]
        # One list a row: unpacking a short list is cheaper than seventeen iterators.
        inputs = self.inputs.take(rows, axis=1).T.tolist()
        new: list[float] = _FLOATS(
            state, pack, rows.tolist(), inputs, estimates, late, *emitted, *FLOAT_TABLES
        )
        self.late[late] = True
        if estimates:
            table = np.array(estimates)
            self.estimates[:, table[:, 0].astype(np.intp)] = table[:, 1:].T
        for kind, tuples in zip(EMITTED, emitted, strict=True):
            if tuples:
                self.blocks[kind].append(np.array(tuples))
        return new

    def _vector(self, rows: Rows) -> None:
        """One row of each of many packs in numpy."""
        slots = self.slots[rows]
        late = self.inputs[0, rows] <= self.state[slots, _LAST]
        if late.any():
            self.late[rows[late]] = True
            rows, slots = rows[~late], slots[~late]
        state, packs = _gather(self.state, slots), _gather(self.pack, slots)
        pack = [row.astype(np.intp) if i in _WHOLE else row for i, row in enumerate(packs)]
        estimates = np.empty((len(ESTIMATES), len(rows)))

        def emit(kind: str, mask: NDArray[np.bool_], values: Sequence[F64 | float]) -> None:
            chosen = np.flatnonzero(mask)
            block = np.empty((len(chosen), len(values) + 1))
            block[:, 0] = rows[chosen]
            for i, value in enumerate(values, 1):
                block[:, i] = value[chosen] if isinstance(value, np.ndarray) else value
            self.blocks[kind].append(block)

        with np.errstate(all="ignore"):
            _ARRAYS(list(state), pack, list(self.inputs.take(rows, axis=1)), emit, state, estimates)
        self.state[slots] = state.T
        self.estimates[:, rows] = estimates

    def outputs(self) -> Outputs:
        """Everything by row of the batch."""
        soc, variance, resistance, residual = self.estimates
        soc_pct = 100.0 * soc
        estimates = {
            "soc_pct": soc_pct,
            "soc_sigma_pct": 100.0 * np.sqrt(variance),
            "resistance_mohm": 1000.0 * resistance,
            "voltage_residual_mv": 1000.0 * residual,
            "soc_residual_pct": self.inputs[_SOC_PCT] - soc_pct,
        }
        estimates["soc_sigma_pct"][np.isnan(soc)] = np.nan
        features = {model: self._features(model) for model in FEATURES}
        return Outputs(self.late, estimates, features, self._sessions())

    def _sessions(self) -> SessionRows:
        if not self.blocks["session"]:
            return _NO_SESSIONS
        rows, values = self._emitted("session")
        return SessionRows(rows, *(np.ascontiguousarray(values[:, i]) for i in range(len(SESSION))))

    def _features(self, model: str) -> FeatureRows:
        if not self.blocks[model]:
            return _NO_FEATURES[model]
        rows, values = self._emitted(model)
        ready = np.asarray(np.isfinite(values[:, REQUIRED[model]]).all(axis=1))
        return FeatureRows(rows, values.astype(np.float32), ready)

    def _emitted(self, kind: str) -> tuple[Rows, F64]:
        blocks = self.blocks[kind]
        table = blocks[0] if len(blocks) == 1 else np.concatenate(blocks)
        rows = table[:, 0].astype(np.intp)
        order = np.argsort(rows, kind="stable")
        return rows[order], table[order, 1:]
