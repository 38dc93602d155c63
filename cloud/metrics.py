"""The bridge's Prometheus metrics, read from the engine when scraped: the hot path pays nothing."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from cloud.nodes.timescale_out import TimescaleOut
from voltflow.engine import Engine
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
        for node_id, wired in self._engine.nodes.items():
            if not isinstance(wired.node, TimescaleOut):
                continue
            for table, count in sorted(wired.node.rows.copy().items()):
                rows.add_metric([node_id, table], count)
            for table, count in sorted(wired.node.again.copy().items()):
                again.add_metric([node_id, table], count)
            histogram = wired.node.latency
            latency.add_metric([node_id], histogram.buckets_s(), sum_value=histogram.sum_ms / 1000)
        yield from (rows, again, latency)


class PortTakenError(OSError):
    """The metrics' port cannot be opened; the message names the settings."""


@contextlib.contextmanager
def serve(engine: Engine, host: str, port: int) -> Iterator[None]:
    """Serve `/metrics` on the address while the block runs; port 0: not at all."""
    if not port:
        yield
        return
    registry = CollectorRegistry()
    registry.register(EngineCollector(engine))
    registry.register(HistoryCollector(engine))
    try:
        server, thread = start_http_server(port, host, registry)
    except OSError as error:
        raise PortTakenError(
            f"metrics_host = '{host}', metrics_port = {port} cannot be opened: {error.strerror}; "
            "end the other program or set another metrics_port"
        ) from error
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
