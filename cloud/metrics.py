"""The bridge's Prometheus metrics, read from the engine when scraped: the hot path pays nothing."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from cloud.nodes.timescale_out import TimescaleOut
from voltflow.engine import Engine, NodeStats
from voltflow.node import Sink
from voltflow.nodes.mqtt_broker import MqttBroker

log = logging.getLogger(__name__)

_NODE_COUNTERS = {
    "messages_in": "Messages that reached the node.",
    "failures": "Messages the node failed on or its far side refused.",
    "retries": "Writes that were tried again because the far side was away.",
}


class BridgeCollector(Collector):
    """What an engine with the bridge's flow has to tell."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def collect(self) -> Iterable[Metric]:
        yield from self._engine_metrics()
        yield from self._node_metrics()
        yield self._connection_metrics()
        yield from self._history_metrics()

    def _engine_metrics(self) -> Iterator[Metric]:
        engine = self._engine
        yield CounterMetricFamily("voltflow_batches", "Batches that entered the flow.", engine.batches)
        yield CounterMetricFamily("voltflow_messages", "Messages that entered the flow.", engine.messages)
        yield CounterMetricFamily(
            "voltflow_stalls", "Batches or nodes that the watchdog reported.", engine.stalls
        )
        yield GaugeMetricFamily(
            "voltflow_in_flight_batches", "Batches not yet safe.", len(engine.transactions)
        )
        dropped = CounterMetricFamily("voltflow_dropped", "Messages dropped, by reason.", labels=["reason"])
        for reason, count in sorted(engine.dropped.items()):
            dropped.add_metric([reason], count)
        yield dropped

    def _node_metrics(self) -> Iterator[Metric]:
        for name, text in _NODE_COUNTERS.items():
            family = CounterMetricFamily(f"voltflow_node_{name}", text, labels=["node", "type"])
            for labels, stats, _ in self._nodes():
                family.add_metric(labels, getattr(stats, name))
            yield family
        busy = CounterMetricFamily(
            "voltflow_node_busy_seconds", "Time spent in the node.", labels=["node", "type"]
        )
        waiting = GaugeMetricFamily(
            "voltflow_sink_waiting", "Messages waiting at a sink.", labels=["node", "type"]
        )
        up = GaugeMetricFamily(
            "voltflow_sink_up", "1 while the sink's far side takes batches.", labels=["node", "type"]
        )
        for labels, stats, is_sink in self._nodes():
            busy.add_metric(labels, stats.busy_s)
            if is_sink:
                waiting.add_metric(labels, stats.waiting)
                up.add_metric(labels, 0 if stats.error else 1)
        yield from (busy, waiting, up)

    def _connection_metrics(self) -> Metric:
        up = GaugeMetricFamily("voltflow_mqtt_connected", "1 while connected.", labels=["node"])
        for node_id, wired in self._engine.nodes.items():
            if isinstance(wired.node, MqttBroker):
                up.add_metric([node_id], int(wired.node.status()["connected"]))
        return up

    def _nodes(self) -> Iterator[tuple[list[str], NodeStats, bool]]:
        for node_id, wired in self._engine.nodes.items():
            yield [node_id, wired.node.type], self._engine.stats[node_id], isinstance(wired.node, Sink)

    def _history_metrics(self) -> Iterator[Metric]:
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
    registry.register(BridgeCollector(engine))
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
