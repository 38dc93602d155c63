"""Is anything missing? Delivered, explained, unexplained; spools, sinks and dead letters beside it."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard as build

from grafana.boards import panels as p
from grafana.boards.board import board, row
from grafana.boards.sources import FLEET, Query, prom, prom_now, sql, sql_variable


def make() -> build.Dashboard:
    """The board."""
    made = board("ledger", "Ledger", "Whether every message became exactly one row, and what explains those that did not.", refresh="30s",
                 since="now-6h", variables=[sql_variable("fleet", "Fleet", FLEET, several=True)])  # fmt: skip
    return _tables(_ways(_account(made)))


def _of(name: str) -> Query:
    return prom_now(f'max(voltflow_ledger_messages{{class="{name}"}})')


def _account(made: build.Dashboard) -> build.Dashboard:
    age: p.Steps = ((None, "green"), (180, "orange"), (600, "red"))
    return (
        made.with_panel(p.number("Delivered", _of("delivered"), about="Messages of the newest history that are a row."))
        .with_panel(p.number("Lost, unexplained", _of("unexplained"), steps=p.NONE_IS_GOOD,
                             about="Messages that never became a row although nothing explains it, missing for longer than repair_after_s. 0 is the promise."))
        .with_panel(p.number("Lost, explained", _of("explained"), steps=p.FEW_ARE_BEARABLE,
                             about="Messages that a gateway gave up with a loss record, or that lie in a dead letter."))
        .with_panel(p.number("Duplicate rows", _of("duplicate"), steps=p.NONE_IS_GOOD, about="Rows beyond the first of a message. 0 is the promise."))
        .with_panel(p.number("Late", _of("late"), about="Messages that came after newer ones of their pack."))
        .with_panel(p.number("Ledger looked at", prom_now("min(voltflow_ledger_age_seconds)"), unit=p.SECONDS, steps=age,
                             about="Since the ledger was last looked at. No value: no bridge does it."))
        .with_panel(p.lines("Ledger classes", prom('max by (class) (voltflow_ledger_messages{class!="delivered"})', "{{class}}"), low=0,
                            about="Messages of the boots that had something new in the window. Pending ones are missing for a short time only."))
        .with_panel(p.lines("Holes and repair", prom("max(voltflow_ledger_holes)", "holes"),
                            prom("sum by (event) (increase(voltflow_repair_total[$__rate_interval]))", "{{event}}"), low=0,
                            about="Ranges of missing messages, and messages asked for again, no longer missing after that, given up."))
        .with_panel(p.lines("Losses by what explains them", prom("max by (reason) (voltflow_ledger_explained_messages)", "ledger: {{reason}}"),
                            prom("sum by (reason) (increase(voltflow_spool_lost_total[$__rate_interval]))", "spool: {{reason}}"), low=0))
        .with_panel(p.lines("Dead letters a minute",
                            prom('sum(rate(voltflow_rows_total{table="dead_letter"}[$__rate_interval])) * 60', "dead letters"),
                            prom("sum by (reason) (rate(voltflow_dropped_total[$__rate_interval])) * 60", "dropped: {{reason}}"), low=0,
                            about="Letters that reached the history, and messages dropped without one."))
    )  # fmt: skip


def _ways(made: build.Dashboard) -> build.Dashboard:
    by = "{{instance}} {{node}}"
    return (
        made.with_row(row("On the way"))
        .with_panel(p.lines("Spool backlog", prom("sum by (instance, node, class) (voltflow_spool_messages)", f"{by} {{{{class}}}}"), low=0,
                            about="Messages that wait on a gateway's or a bridge's disk."))
        .with_panel(p.lines("Spool on disk", prom("sum by (instance, node) (voltflow_spool_bytes)", by), unit=p.BYTES, low=0))
        .with_panel(p.lines("Oldest message in a spool", prom("max by (instance, node) (voltflow_spool_oldest_seconds)", by),
                            unit=p.SECONDS, low=0))
        .with_panel(p.lines("Waiting at sinks", prom("sum by (instance, node) (voltflow_sink_waiting_messages)", by), low=0,
                            about="Messages that wait at a sink or are being written."))
        .with_panel(p.timeline("Sinks: is the far side there?", prom("min by (instance, node) (voltflow_sink_up)", by),
                               words={"0": "away", "1": "there"}, colors={"0": "red", "1": "green"},
                               about="The circuit of each sink: closed while its far side takes batches, open while it does not."))
        .with_panel(p.lines("From the device's publish to the row",
                            prom("histogram_quantile(0.5, sum by (le) (rate(voltflow_latency_seconds_bucket[$__rate_interval])))", "half"),
                            prom("histogram_quantile(0.99, sum by (le) (rate(voltflow_latency_seconds_bucket[$__rate_interval])))", "99 %"),
                            unit=p.SECONDS, low=0, about="Committed, by the device's clock of sending."))
    )  # fmt: skip


def _tables(made: build.Dashboard) -> build.Dashboard:
    chosen = "fleet IN (${fleet:sqlstring})"
    return (
        made.with_row(row("What was lost"))
        .with_panel(p.rows("Losses that gateways declared", sql(f"""
            SELECT stored, fleet, pack, gateway, reason, boot, seq_from AS "from", seq_to AS "to", seq_to - seq_from + 1 AS "messages"
            FROM loss WHERE {chosen} AND $__timeFilter(stored) ORDER BY stored DESC LIMIT 200"""), size=(12, 9)))
        .with_panel(p.rows("Dead letters", sql(f"""
            SELECT stored, fleet, pack, gateway, node, error, size_bytes AS "size",
                CASE WHEN replayed IS NOT NULL THEN 'replayed' WHEN dropped IS NOT NULL THEN 'dropped' ELSE 'open' END AS "state"
            FROM dead_letter WHERE {chosen} AND $__timeFilter(stored) ORDER BY stored DESC LIMIT 200"""), size=(12, 9),
            columns={"size": p.Column(p.BYTES, decimals=0)}, about="`cloud-bridge dead show` has the original bytes; this role may not read them."))
    )  # fmt: skip
