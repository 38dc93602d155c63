"""Answers about one pack that are more than a look at its twin: single cells."""

from __future__ import annotations

from array import array
from math import isnan

from edge import answers
from edge.nodes.cells import CellsNode
from edge.state import AppState
from edge.twin import PackTwin
from voltflow import topics


def cells(state: AppState, twin: PackTwin) -> answers.Cells:
    """The pack's cells as they were said last; empty lists and a reason where they were not."""
    plate, kept = twin.state, state.store.cells.get(twin.slot)
    result = answers.Cells(twin.pack, twin.fleet)
    if plate is not None:
        result.series, result.parallel = plate.cells_series, plate.cells_parallel
    if kept is None:
        result.reason = _why_no_cells(state, twin)
        return result
    result.ts_ms, result.voltages_v, result.temps_c = (
        kept.ts_ms,
        _numbers(kept.voltages_v),
        _numbers(kept.temps_c),
    )
    result.balancing = None if kept.balancing is None else [bool(flag) for flag in kept.balancing]
    known = [(volt, number) for number, volt in enumerate(result.voltages_v, 1) if volt is not None]
    if known:
        (low, result.min_id), (high, result.max_id) = min(known), max(known)
        result.spread_mv = round(1000.0 * (high - low), 1)
    result.reason = _what_is_wrong(result, kept.invalid)
    return result


def _numbers(values: array[float]) -> list[float | None]:
    """Single precision, as it is kept, has more digits than a battery management system measures."""
    return [None if isnan(value) else round(value, 4) for value in values]


def _why_no_cells(state: AppState, twin: PackTwin) -> str:
    if not any(isinstance(wired.node, CellsNode) for wired in state.engine.nodes.values()):
        return f"the flow has no cells node: wire one to an mqtt in of {topics.CELLS.filter}"
    return (
        f"nothing has come on {topics.CELLS.of(twin.fleet, twin.pack)} since the gateway started; it keeps cells in "
        "memory only, and a device says them about once a minute"
    )


def _what_is_wrong(found: answers.Cells, invalid: int) -> str | None:
    reasons = []
    if found.series is not None and len(found.voltages_v) != found.series:
        reasons.append(
            f"the message has {len(found.voltages_v)} voltages, the nameplate says {found.series} cells in series"
        )
    if invalid:
        reasons.append(f"{invalid} value{'s were' if invalid > 1 else ' was'} impossible and null")
    return "; ".join(reasons) or None
