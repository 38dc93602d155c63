"""Answers about one pack that are more than a look at its twin: single cells, sessions, history."""

from __future__ import annotations

from array import array
from math import isnan

from edge import answers
from edge.history import PERIOD_MS, step_ms
from edge.nodes.cells import CellsNode
from edge.sessions import SessionRow
from edge.state import AppState
from edge.twin import WIDE_SESSION_PCT, PackTwin, TwinStore
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


def history(store: TwinStore, twin: PackTwin, limit: int) -> answers.History:
    """The pack's last points."""
    rows = store.history.rows(twin.slot, limit)
    points = [answers.HistoryPoint(ts_ms, **values) for ts_ms, values in rows]
    step = step_ms([ts_ms for ts_ms, _ in rows])
    return answers.History(twin.pack, twin.fleet, PERIOD_MS, step, points)


def sessions(twin: PackTwin, limit: int) -> answers.Sessions:
    """The pack's last sessions."""
    return answers.Sessions(twin.pack, twin.fleet, [_session(row) for row in twin.sessions.rows(limit)])


def _session(row: SessionRow) -> answers.SessionEntry:
    return answers.SessionEntry(*row, reason=None if row.soh_pct is not None else _why_no_soh(row))


def _why_no_soh(row: SessionRow) -> str:
    if row.kind == "discharge":
        return "only a charge session measures the capacity"
    if row.end_ms is None:
        return "the session goes on, or its end has not been heard of"
    span = (row.soc_to_pct or 0.0) - (row.soc_from_pct or 0.0)
    if span < WIDE_SESSION_PCT:
        return f"it spans {span:.0f} %, the capacity is measured from {WIDE_SESSION_PCT:.0f} % on"
    return "the charge at its two ends was not known well enough, messages were missing, or the rated capacity is not known"
