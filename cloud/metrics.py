"""The bridge's Prometheus metrics, read from the engine when scraped: the hot path pays nothing."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector, make_wsgi_app
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from cloud.ledger_task import LedgerStatus, LedgerTask
from cloud.ledger_watch import Account
from cloud.nodes.timescale_out import TimescaleOut
from cloud.retention_task import RetentionTask
from voltflow.access import address_of, refusal, require_token
from voltflow.engine.engine import Engine
from voltflow.logs import id_of_request, request_id
from voltflow.metrics import EngineCollector

log = logging.getLogger(__name__)


class HistoryCollector(Collector):
    """What the bridge's history sinks have to tell; `EngineCollector` tells the rest."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def collect(self) -> Iterable[Metric]:
        rows = CounterMetricFamily("voltflow_rows", "New rows in the history.", labels=["node", "table"])
        again = CounterMetricFamily(
            "voltflow_redelivered", "Messages that were in the history already.", labels=["node", "table"]
        )
        latency = HistogramMetricFamily(
            "voltflow_latency_seconds",
            "From the device's publish to the row being committed.",
            labels=["node"],
        )
        lag = GaugeMetricFamily(
            "voltflow_lag_seconds",
            "Age of the newest reading in the history, since it came to its gateway.",
            labels=["node"],
        )
        for node_id, wired in self._engine.nodes.items():
            if not isinstance(wired.node, TimescaleOut):
                continue
            for table, count in sorted(wired.node.rows.copy().items()):
                rows.add_metric([node_id, table], count)
            for table, count in sorted(wired.node.again.copy().items()):
                again.add_metric([node_id, table], count)
            histogram = wired.node.latency
            latency.add_metric([node_id], histogram.buckets_s(), sum_value=histogram.sum_ms / 1000)
            if newest_ms := wired.node.tally.newest_ms:
                lag.add_metric([node_id], max(0.0, time.time() - newest_ms / 1000))
        yield from (rows, again, latency, lag)


class LedgerCollector(Collector):
    """What the continuous ledger knows; only of the bridge that looks at it where there are several."""

    def __init__(self, ledger: LedgerTask) -> None:
        self._ledger = ledger

    def collect(self) -> Iterable[Metric]:
        status, account = self._ledger.status, self._ledger.status.account
        yield GaugeMetricFamily(
            "voltflow_ledger_active",
            "1 where this bridge looks at the ledger; others wait.",
            int(status.active),
        )
        yield CounterMetricFamily(
            "voltflow_ledger_errors",
            "Looks at the ledger that the database or the broker prevented.",
            status.errors,
        )
        events = CounterMetricFamily(
            "voltflow_repair",
            "Missing messages asked for again, no longer missing then, given up.",
            labels=["event"],
        )
        for event, count in sorted(self._ledger.repairs.events.copy().items()):
            events.add_metric([event], count)
        yield events
        if status.active:
            yield from self._account(status, account)

    def _account(self, status: LedgerStatus, account: Account) -> Iterator[Metric]:
        looked_s = self._ledger.started_s if status.looked_s is None else status.looked_s
        yield GaugeMetricFamily(
            "voltflow_ledger_age_seconds", "Age of what the ledger knows.", time.monotonic() - looked_s
        )
        messages = GaugeMetricFamily(
            "voltflow_ledger_messages",
            "Messages of the boots with something new in the window; pending ones are missing for a short time only.",
            labels=["class"],
        )
        counts = {
            "delivered": account.delivered,
            "explained": account.explained.total(),
            "unexplained": status.unexplained,
            "pending": status.pending,
            "duplicate": account.duplicate,
            "late": account.late,
        }
        for name, count in counts.items():
            messages.add_metric([name], count)
        lost = GaugeMetricFamily(
            "voltflow_ledger_explained_messages", "Lost messages by what explains them.", labels=["reason"]
        )
        for reason, count in sorted(account.explained.items()):
            lost.add_metric([reason], count)
        holes = sum(map(len, account.missing.values()))
        yield from (messages, lost)
        yield GaugeMetricFamily(
            "voltflow_ledger_holes", "Ranges of missing messages, pending ones too.", holes
        )
        yield GaugeMetricFamily("voltflow_ledger_boots", "Boots of packs that are looked at.", account.boots)


class RetentionCollector(Collector):
    """How big the tables are and what was taken out; only of the bridge that does it where there are several."""

    def __init__(self, task: RetentionTask) -> None:
        self._task = task

    def collect(self) -> Iterable[Metric]:
        task, retention = self._task, self._task.retention
        removed = CounterMetricFamily(
            "voltflow_retention_removed",
            "Rows taken out of the history because they were old.",
            labels=["table"],
        )
        for table, count in sorted(retention.removed.copy().items()):
            removed.add_metric([table], count)
        yield removed
        yield CounterMetricFamily(
            "voltflow_retention_errors", "Rounds of retention that the database prevented.", task.errors
        )
        yield CounterMetricFamily(
            "voltflow_retention_compressed_chunks", "Chunks of telemetry compressed.", retention.compressed
        )
        if not task.active or task.ended_s is None:
            return
        yield GaugeMetricFamily(
            "voltflow_retention_age_seconds",
            "Since the last round of retention.",
            time.monotonic() - task.ended_s,
        )
        rows = GaugeMetricFamily(
            "voltflow_table_rows", "Rows of the table, by the database's estimate.", labels=["table"]
        )
        size = GaugeMetricFamily("voltflow_table_bytes", "The table with its indexes.", labels=["table"])
        for table, found in sorted(retention.sizes.items()):
            rows.add_metric([table], found.rows)
            size.add_metric([table], found.bytes)
        yield from (rows, size)


def make_registry(
    engine: Engine, ledger: LedgerTask | None = None, retention: RetentionTask | None = None
) -> CollectorRegistry:
    """Everything the bridge's `/metrics` answers."""
    registry = CollectorRegistry()
    registry.register(EngineCollector(engine))
    registry.register(HistoryCollector(engine))
    if ledger is not None:
        registry.register(LedgerCollector(ledger))
    if retention is not None:
        registry.register(RetentionCollector(retention))
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    return registry


class PortTakenError(OSError):
    """The metrics' port cannot be opened; the message names the settings."""


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Handler(WSGIRequestHandler):
    timeout = 30
    """Seconds that a connection without a request gets."""

    def log_message(self, format: str, *args: Any) -> None:
        pass


def _guarded(app: Callable[..., Any], bearer: str) -> Callable[..., Any]:
    def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        own = id_of_request(environ.get("HTTP_X_REQUEST_ID", ""))
        token = request_id.set(own)

        def start(status: str, headers: list[tuple[str, str]], *more: Any) -> Any:
            return start_response(status, [*headers, ("X-Request-ID", own)], *more)

        try:
            return guarded(environ, start)
        except Exception:
            log.exception("%s failed", environ.get("PATH_INFO"))
            start("500 Internal Server Error", [("Content-Type", "text/plain; charset=utf-8")])
            return [b"the bridge failed on this request; see its log\n"]
        finally:
            request_id.reset(token)

    def guarded(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        refused = refusal(bearer, environ.get("HTTP_AUTHORIZATION", ""), environ.get("HTTP_HOST", ""))
        if refused is None:
            return app(environ, start_response)
        status, reason = refused
        headers = [("Content-Type", "text/plain; charset=utf-8")]
        if status == 401:
            headers.append(("WWW-Authenticate", "Bearer"))
            reason += " with the bridge's metrics_token"
        start_response(f"{status} {'Unauthorized' if status == 401 else 'Misdirected Request'}", headers)
        return [f"{reason}\n".encode()]

    return answer


@contextlib.contextmanager
def serve(
    engine: Engine,
    host: str,
    port: int,
    token: str = "",
    ledger: LedgerTask | None = None,
    retention: RetentionTask | None = None,
) -> Iterator[None]:
    """Serve `/metrics` on the address while the block runs; port 0: not at all.

    Raises PortTakenError, and SettingsError where other machines could ask and there is no token.
    """
    if not port:
        yield
        return
    registry = make_registry(engine, ledger, retention)
    try:
        family, address = address_of(host, port)
        require_token("metrics", host, address, token, "metrics_token")
        _Server.address_family = family
        app = _guarded(make_wsgi_app(registry), token)
        server: WSGIServer = make_server(address, port, app, _Server, _Handler)
    except OSError as error:
        raise PortTakenError(
            f"metrics_host = '{host}', metrics_port = {port} cannot be opened: {error.strerror}; "
            "end the other program or set another metrics_port"
        ) from error
    thread = threading.Thread(target=server.serve_forever, name="metrics", daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
