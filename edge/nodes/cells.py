"""The `cells` node: what single cells and probes measure, for the page's picture of a pack."""

from __future__ import annotations

from typing import Any

import msgspec

from edge.cells import PackCells, compact
from edge.twin import PackTwin, TwinStore
from voltflow import topics
from voltflow.battery.chemistry import Range, valid_ranges
from voltflow.message import Msg
from voltflow.node import Context, Transform, config, node
from voltflow.telemetry import Cells

_decode = msgspec.json.Decoder(Cells).decode


@node("cells", category="battery", color="#b5d6a7", icon="font-awesome/fa-th")
class CellsNode(Transform):
    """Take `bms.cells/1`: the voltage of every cell in series and the temperature of every probe of a pack.

    A value that cannot be for the pack's chemistry becomes null, as in a `validate` node. The gateway keeps the newest message
    of each pack, in memory only, for `/api/packs/{pack}/cells`; nothing is estimated from it. The output gives the
    checked messages on, for a flow that sends them somewhere: the gateway's own does not. A message that is none (no JSON, wrong
    types, flags that do not fit the cells, a topic that does not fit the pack) fails and becomes a dead letter.
    """

    check_ranges: bool = config(True, help="off: values pass as they come")

    # state
    messages: int = 0
    invalid: int = 0

    async def start(self, ctx: Context) -> None:
        self._store = ctx.service(TwinStore)

    def process(self, msgs: list[Msg]) -> list[Msg]:
        found = [_cells_of(msg) for msg in msgs]
        twins = [self._store.pack(fleet, cells.pack) for fleet, cells in found]
        # nothing fails from here on
        return [
            msg.derive(payload=self._keep(twin, cells))
            for msg, twin, (_, cells) in zip(msgs, twins, found, strict=True)
        ]

    def _keep(self, twin: PackTwin, cells: Cells) -> Cells:
        invalid = 0
        if self.check_ranges:
            ranges = valid_ranges(twin.state.chemistry if twin.state else None)
            low_v, high_v = ranges["cell_voltage_min_v"]
            voltages, bad_v = _checked(cells.voltages_mv, (1000.0 * low_v, 1000.0 * high_v))
            temps, bad_c = _checked(cells.temps_c, ranges["cell_temp_min_c"])
            invalid = bad_v + bad_c
            cells = msgspec.structs.replace(cells, voltages_mv=voltages, temps_c=temps)
        self._store.cells.put(
            twin.slot,
            PackCells(
                cells.ts_ms,
                compact([None if value is None else value / 1000.0 for value in cells.voltages_mv]),
                compact(cells.temps_c),
                None if cells.balancing is None else bytes(cells.balancing),
                invalid,
            ),
        )
        self.messages += 1
        self.invalid += invalid
        return cells

    def status(self) -> dict[str, Any]:
        return {"packs": len(self._store.cells), "messages": self.messages, "invalid": self.invalid}


def _cells_of(msg: Msg) -> tuple[str, Cells]:
    """Fleet and message; raises ValueError for what is none."""
    topic = topics.parse(msg.topic)
    if topic is None or topic.kind != topics.CELLS.kind:
        raise ValueError(f"topic {msg.topic!r} is not {topics.CELLS.filter.replace('+/+', '{fleet}/{pack}')}")
    cells = _decode(msg.payload) if isinstance(msg.payload, bytes) else msgspec.convert(msg.payload, Cells)
    if cells.pack != topic.pack:
        raise ValueError(f"pack {cells.pack!r} of the payload is not the topic's {topic.pack!r}")
    if cells.balancing is not None and len(cells.balancing) != len(cells.voltages_mv):
        raise ValueError(f"balancing has {len(cells.balancing)} flags for {len(cells.voltages_mv)} voltages")
    return topic.fleet, cells


def _checked(values: list[float | None], allowed: Range) -> tuple[list[float | None], int]:
    """The values with null for what is outside the limits, and how many that are."""
    low, high = allowed
    kept = [value if value is not None and low <= value <= high else None for value in values]
    return kept, kept.count(None) - values.count(None)
