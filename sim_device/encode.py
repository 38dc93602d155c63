"""From arrays to messages: a reading of all packs as `bms.telemetry/1`, the hidden state as `sim.truth/1`."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from sim_device.bms import NUMERIC, WHOLE_NUMBERS, Bms
from sim_device.cells import CellReader
from sim_device.duty import CHARGE, DRIVE, REST
from sim_device.packs import Packs
from sim_device.plant import Truth
from voltflow.telemetry import ChargingState, Contactor, Quality, State, Telemetry

Floats = NDArray[np.float64]

_encoder = msgspec.json.Encoder()
_SOUND = Quality()
FIRMWARE = "sim-device 1"


def birth(packs: Packs, boot: int, ts_ms: int) -> list[State]:
    """The nameplates."""
    names = packs.chemistry_names()
    return [
        State(
            "bms.state/1", packs.id[i], online=True, boot=boot, ts_ms=ts_ms, chemistry=names[i],  # type: ignore[arg-type]
            cells_series=int(packs.cells_series[i]), cells_parallel=int(packs.cells_parallel[i]),
            capacity_rated_ah=float(packs.capacity_rated_ah[i]), firmware=FIRMWARE,
        )
        for i in range(len(packs))
    ]  # fmt: skip


class Reading:
    """One reading of all packs, ready to be encoded pack by pack when its turn to be sent comes."""

    def __init__(self, bms: Bms, values: dict[str, Floats], boot: int, ts_ms: int) -> None:
        assert bms.truth is not None
        self.boot, self.ts_ms, self.published = boot, ts_ms, bms.published
        self._bms, self._values, self._names = bms, values, bms.packs.id
        self._columns = [values[name].tolist() for name in NUMERIC]
        self._bad = np.isnan(np.stack([values[name] for name in NUMERIC]))
        self._any_bad: list[bool] = np.any(self._bad, axis=0).tolist()
        self._mode = bms.truth.mode.tolist()
        self._charging = _charging_states(bms.truth)
        self._alarm = values["alarm_level"].tolist()

    def encode_cells(self, i: int, cells: CellReader) -> bytes:
        """The cells of pack `i`, beside which `encode` has the lowest and the highest."""
        series = int(self._bms.packs.cells_series[i])
        return cells.encode(i, self._names[i], self._values, series, boot=self.boot, ts_ms=self.ts_ms)

    def encode(self, i: int, seq: int, sent_ms: int) -> bytes:
        """The JSON of pack `i`."""
        fields: dict[str, Any] = {
            name: column[i] for name, column in zip(NUMERIC, self._columns, strict=True)
        }
        for name in WHOLE_NUMBERS:
            fields[name] = int(fields[name])
        quality = _SOUND
        if self._any_bad[i]:
            quality = Quality([name for name, bad in zip(NUMERIC, self._bad[:, i], strict=True) if bad])
            fields |= dict.fromkeys(quality.invalid)
        resting = self._mode[i] == REST
        contactor: Contactor = "open" if resting else "closed"
        dtc = self._bms.dtc(i, self._values) if self._alarm[i] >= 2 else []
        return _encoder.encode(
            Telemetry(
                "bms.telemetry/1", self._names[i], self.boot, seq, self.ts_ms, sent_ms,
                vehicle_state="driving" if self._mode[i] == DRIVE else "parked",
                charging_state=self._charging[i], contactor=contactor, soh_basis="capacity", dtc=dtc,
                quality=quality, **fields,
            )
        )  # fmt: skip


def _charging_states(truth: Truth) -> list[ChargingState]:
    complete = truth.plugged & (truth.mode == REST)
    return [
        "charging" if mode == CHARGE else "complete" if done else "not_charging"
        for mode, done in zip(truth.mode.tolist(), complete.tolist(), strict=True)
    ]


class Hidden(msgspec.Struct, rename={"schema_": "schema"}):
    """`sim.truth/1`: what is really the case; for scoring, never an input."""

    schema_: str
    pack: str
    boot: int
    ts_ms: int
    soc_pct: float
    soh_pct: float
    cell_temp_max_c: float
    core_temp_c: float
    capacity_ah: float
    fault: str


def encode_truth(bms: Bms, truth: Truth, boot: int, ts_ms: int, faults: list[str]) -> list[bytes]:
    """The hidden state of all packs."""
    capacity = bms.plant.capacity_ah
    columns = [
        np.round(column, 3).tolist()
        for column in (truth.soc * 100.0, truth.soh * 100.0, truth.temp_max_c, truth.core_c, capacity)
    ]
    rows = zip(bms.packs.id, *columns, faults, strict=True)
    return [
        _encoder.encode(Hidden("sim.truth/1", pack, boot, ts_ms, soc, soh, temp, core, ah, fault))
        for pack, soc, soh, temp, core, ah, fault in rows
    ]
