"""The battery nodes on a store of their own, fed by hand, and lives of a gateway that follow one another."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

import msgspec

from edge.nodes.alert import Alert
from edge.nodes.features import Features
from edge.nodes.onnx import Onnx
from edge.nodes.twin import Twin
from edge.nodes.validate import Validate
from edge.snapshot import copy_twins, mark_after_crash, restore_twins
from edge.twin import TwinStore
from voltflow.battery.features import FEATURES
from voltflow.message import Msg
from voltflow.node import Context
from voltflow.telemetry import Alert as AlertMessage
from voltflow.telemetry import TwinPrediction

START_MS = 1_700_000_000_000


class Chain:
    """The battery nodes on one store, as a gateway's life from start to end."""

    def __init__(self, store: TwinStore | None = None) -> None:
        self.store = store or TwinStore()
        self.nodes: list[Any] = [
            Validate(),
            Twin(),
            Features(),
            *(Onnx(model=model) for model in FEATURES),
            Alert(),
        ]
        asyncio.run(self._start())
        self.alerts: list[AlertMessage] = []

    async def _start(self) -> None:
        ctx = Context({}, {TwinStore: self.store}, "gw", "rev", Path())
        for node in self.nodes:
            await node.start(ctx)

    def birth(self, pack: str) -> None:
        state = {"schema": "bms.state/1", "pack": pack, "online": True, "chemistry": "NMC", "cells_series": 96,
                 "capacity_rated_ah": 150.0, "boot": 1}  # fmt: skip
        self.nodes[0].process([Msg(f"ev/v1/depot/{pack}/state", msgspec.json.encode(state))])

    def feed(self, items: list[dict[str, Any]]) -> list[TwinPrediction]:
        msgs = [
            Msg(f"ev/v1/depot/{item['pack']}/telemetry", msgspec.json.encode(item), received_ms=item["ts_ms"])
            for item in items
        ]
        for node in self.nodes[:-1]:
            found = node.process(msgs)
            msgs = found[0] if isinstance(found, tuple) else found
        msgs, alerts = self.nodes[-1].process(msgs)
        self.alerts += [msg.payload for msg in alerts]
        return [msg.payload.twin for msg in msgs]

    def restarted(self, *, clean: bool = True) -> Chain:
        """The next life of the gateway, from the bytes of this one."""
        store = TwinStore()
        restore_twins(store, b"".join(copy_twins(self.store)()))
        if not clean:
            mark_after_crash(store)
        return Chain(store)


def reading(pack: str, seq: int, step_ms: int = 10_000, **fields: Any) -> dict[str, Any]:
    rng = random.Random(f"{pack} {seq}")
    return {
        "schema": "bms.telemetry/1", "pack": pack, "boot": 1, "seq": seq, "ts_ms": START_MS + seq * step_ms,
        "charging_state": "not_charging", "pack_voltage_v": round(rng.uniform(340, 350), 1), "soc_pct": 60.0 - seq / 100,
        "pack_current_a": round(rng.uniform(-80, 20), 1), "speed_kmh": round(rng.uniform(0, 90), 1), "efc": 120.0,
        "cell_voltage_min_v": 3.64, "cell_voltage_max_v": 3.66, "cell_voltage_avg_v": 3.65, "cell_temp_min_c": 24.0,
        "cell_temp_max_c": round(rng.uniform(44, 46), 1), "cell_temp_avg_c": 25.0, "insulation_kohm": 2000.0, **fields,
    }  # fmt: skip
