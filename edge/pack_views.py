"""Answers about one pack that are more than a look at its twin: single cells, sessions, history."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from itertools import pairwise
from math import isnan

from edge import answers
from edge.history import MOST_ROWS, PERIOD_MS, step_ms
from edge.nodes.cells import CellsNode
from edge.sessions import SessionRow
from edge.state import AppState
from edge.twin import WIDE_SESSION_PCT, PackTwin, TwinStore
from voltflow import topics
from voltflow.battery.kernel import GAP_S
from voltflow.battery.kernel_session import CAPACITY_GAP_SHARE


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


def sessions(store: TwinStore, twin: PackTwin, limit: int) -> answers.Sessions:
    """The pack's last sessions."""
    rows = twin.sessions.rows(limit)
    times = [ts_ms for ts_ms, _ in store.history.rows(twin.slot, MOST_ROWS)]
    return answers.Sessions(twin.pack, twin.fleet, [_session(twin, row, times) for row in rows])


def _session(twin: PackTwin, row: SessionRow, times: list[int]) -> answers.SessionEntry:
    return answers.SessionEntry(
        *row, reason=None if row.soh_pct is not None else _why_no_soh(twin, row, times)
    )


def _why_no_soh(twin: PackTwin, row: SessionRow, times: list[int]) -> str:
    """`times`: of the pack's history, which may not reach back to the session."""
    if row.kind == "discharge":
        return "only a charge session measures the capacity"
    if row.end_ms is None:
        return "the session goes on, or its end has not been heard of"
    span = (row.soc_to_pct or 0.0) - (row.soc_from_pct or 0.0)
    if span < WIDE_SESSION_PCT:
        return f"it spans {span:.0f} %, the capacity is measured from {WIDE_SESSION_PCT:.0f} % on"
    if twin.state is None or not twin.state.capacity_rated_ah:
        return "the rated capacity is not known: the pack's birth message does not say it"
    uncertain = (
        "the charge at its two ends was not known well enough: the cells' voltage says it only after a rest"
    )
    if not times or times[0] > row.start_ms:
        return f"{uncertain}; or messages were missing, the gateway's history does not reach back to it"
    unknown_s = sum(gap_s for gap_s in _steps_s(times, row.start_ms, row.end_ms) if gap_s > GAP_S)
    share = unknown_s / max(1.0, (row.end_ms - row.start_ms) / 1000.0)
    if share >= CAPACITY_GAP_SHARE:
        return f"for {100.0 * share:.0f} % of it messages came more than {GAP_S:.0f} s apart: what flowed in between is not known"
    return uncertain


def _steps_s(times: list[int], start_ms: int, end_ms: int) -> Iterator[float]:
    within = [ts_ms for ts_ms in times if start_ms <= ts_ms <= end_ms]
    return ((after - before) / 1000.0 for before, after in pairwise(within))
