"""Prometheus metrics of an engine, read when scraped, so that the hot path pays nothing for them.

Agent and bridge register the same collector beside their own. What is read are plain numbers and copies made by one
C call (`list(...)`, `dict(...)`), so a scrape in another thread never sees a container change under it.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from voltflow import __version__
from voltflow.engine.circuit import STATES as CIRCUIT_STATES
from voltflow.engine.engine import Engine, NodeStats
from voltflow.node import DeadLetterSink, Node, Sink
from voltflow.nodes.mqtt_broker import MqttBroker

_NODE = ("node", "type")
_SPOOL_EVENTS = (
    "appended", "delivered", "damaged", "repaired", "torn", "set_aside", "thinned", "fsyncs", "bytes_written",
)  # fmt: skip


def _age_s(since_ms: int | None) -> float:
    return max(0.0, time.time() - since_ms / 1000) if since_ms else 0.0


class EngineCollector(Collector):
    """What an engine has to tell: nodes, sinks, batches, MQTT connections."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def collect(self) -> Iterable[Metric]:
        yield self._info()
        yield from self._batches()
        yield self._dead_letters()
        yield from self._nodes()
        yield from self._sinks()
        yield from self._held()
        yield from self._spools()
        yield from self._disk()
        yield from self._connections()

    def _info(self) -> Metric:
        info = GaugeMetricFamily(
            "voltflow_info",
            "1, with the name of the gateway or bridge, its version and the revision of the flow that runs.",
            labels=["gateway", "version", "flow_revision"],
        )
        info.add_metric([self._engine.gateway, __version__, self._engine.flow.revision], 1)
        return info

    def _dead_letters(self) -> Metric:
        family = CounterMetricFamily(
            "voltflow_dead_letters", "Messages given to a node that publishes dead letters.", labels=["node"]
        )
        for node, stats in self._pairs():
            if isinstance(node, DeadLetterSink):
                family.add_metric([node.id], stats.messages_in)
        return family

    def _disk(self) -> Iterator[Metric]:
        """The disk of the state and the spools; nothing where it cannot be asked."""
        try:
            usage = shutil.disk_usage(self._engine.state_dir)
        except OSError:
            return
        yield GaugeMetricFamily("voltflow_disk_bytes", "Size of the disk that state_dir is on.", usage.total)
        yield GaugeMetricFamily(
            "voltflow_disk_free_bytes", "What is free there for this program.", usage.free
        )

    def _batches(self) -> Iterator[Metric]:
        engine = self._engine
        started = [transaction.started for transaction in list(engine.transactions)]
        oldest_s = time.monotonic() - min(started) if started else 0.0
        yield CounterMetricFamily("voltflow_batches", "Batches that entered the flow.", engine.batches)
        yield GaugeMetricFamily("voltflow_batches_in_flight", "Batches that are not yet safe.", len(started))
        yield GaugeMetricFamily(
            "voltflow_oldest_batch_seconds", "Age of the oldest batch that is not yet safe.", oldest_s
        )
        yield CounterMetricFamily("voltflow_stalls", "Nodes or batches the watchdog reported.", engine.stalls)
        yield CounterMetricFamily("voltflow_deploys", "Deploys of the flow.", engine.deploys)
        yield GaugeMetricFamily(
            "voltflow_deploy_longest_pause_seconds", "Longest time a deploy let the sources wait.", engine.longest_pause_s
        )  # fmt: skip
        dropped = CounterMetricFamily("voltflow_dropped", "Messages dropped, by reason.", labels=["reason"])
        for reason, count in sorted(self._dropped().items()):
            dropped.add_metric([reason], count)
        yield dropped

    def _dropped(self) -> dict[str, int]:
        """Every drop of the flow by reason; those that a node counts itself are named `<type>_<what>`."""
        dropped = dict(self._engine.dropped)
        for node, _ in self._pairs():
            status = node.status() if isinstance(node, MqttBroker) else {}
            for what in ("dropped", "dropped_qos0"):
                count = status.get(what, getattr(node, what, 0))
                if isinstance(count, int) and count:
                    reason = f"{node.type}_{what}".replace(" ", "_")
                    dropped[reason] = dropped.get(reason, 0) + count
        return dropped

    def _nodes(self) -> Iterator[Metric]:
        messages = CounterMetricFamily(
            "voltflow_messages", "Messages in and out of each node.", labels=[*_NODE, "direction"]
        )
        failures = CounterMetricFamily(
            "voltflow_node_failures", "Messages a node failed on or its far side refused.", labels=_NODE
        )
        seconds = CounterMetricFamily(
            "voltflow_node_seconds",
            "Time spent in each node; for a sink with waiting for its far side.",
            labels=_NODE,
        )
        for node, stats in self._pairs():
            if not node.spec.inputs and not node.spec.outputs:
                continue  # a config node has no messages
            labels = [node.id, node.type]
            messages.add_metric([*labels, "in"], stats.messages_in)
            if node.spec.outputs:
                messages.add_metric([*labels, "out"], stats.messages_out)
            failures.add_metric(labels, stats.failures)
            seconds.add_metric(labels, stats.busy_s)
        yield from (messages, failures, seconds)

    def _sinks(self) -> Iterator[Metric]:
        waiting = GaugeMetricFamily(
            "voltflow_sink_waiting_messages",
            "Messages that wait at a sink or are being written.",
            labels=_NODE,
        )
        up = GaugeMetricFamily("voltflow_sink_up", "1 while a sink's far side takes batches.", labels=_NODE)
        retries = CounterMetricFamily(
            "voltflow_sink_retries", "Writes tried again because the far side was away.", labels=_NODE
        )
        state = GaugeMetricFamily(
            "voltflow_sink_circuit", "1 for the state a sink's circuit is in.", labels=[*_NODE, "state"]
        )
        opened = CounterMetricFamily(
            "voltflow_sink_circuit_opened", "Times a sink's far side stopped taking batches.", labels=_NODE
        )
        for node, stats in self._pairs():
            if isinstance(node, Sink):
                labels, circuit = [node.id, node.type], self._engine.circuit(node.id)
                waiting.add_metric(labels, stats.waiting)
                up.add_metric(labels, int(circuit.closed))
                retries.add_metric(labels, stats.retries)
                opened.add_metric(labels, circuit.opened)
                for name in CIRCUIT_STATES:
                    state.add_metric([*labels, name], int(circuit.state == name))
        yield from (waiting, up, retries, state, opened)

    def _spools(self) -> Iterator[Metric]:
        """What waits on disk, and what became of what was there."""
        messages = GaugeMetricFamily(
            "voltflow_spool_messages", "Messages in a spool.", labels=["node", "class"]
        )
        held = GaugeMetricFamily("voltflow_spool_bytes", "Bytes of a spool on disk.", labels=["node"])
        limit = GaugeMetricFamily(
            "voltflow_spool_limit_bytes",
            "What a spool may hold: telemetry up to its quota, alerts and the like up to theirs.",
            labels=["node"],
        )
        oldest = GaugeMetricFamily(
            "voltflow_spool_oldest_seconds", "Age of the oldest message in a spool; 0: none.", labels=["node"]
        )
        blocked = GaugeMetricFamily(
            "voltflow_spool_blocked", "1 while a spool takes nothing (disk full, read-only, quota).", labels=["node"]
        )  # fmt: skip
        events = CounterMetricFamily(
            "voltflow_spool_events", "What happened in a spool.", labels=["node", "event"]
        )
        lost = CounterMetricFamily(
            "voltflow_spool_lost", "Messages a spool gave up, by reason.", labels=["node", "reason"]
        )
        for queue in self._engine.spools.queues:
            node, backlog, counters = queue.sink.id, queue.spool.backlog, queue.spool.counters
            for name, count in backlog.by_class.items():
                messages.add_metric([node, name], count)
            held.add_metric([node], backlog.bytes)
            limit.add_metric([node], queue.spool.limit_bytes)
            oldest.add_metric([node], _age_s(backlog.oldest_ms))
            blocked.add_metric([node], int(bool(queue.disk_error)))
            for event in _SPOOL_EVENTS:
                events.add_metric([node, event], getattr(counters, event))
            for reason, count in sorted(counters.lost_by_reason.items()):
                lost.add_metric([node, reason], count)
        yield from (messages, held, limit, oldest, blocked, events, lost)

    def _held(self) -> Iterator[Metric]:
        """What nodes hold for later."""
        held = self._engine.held
        messages = GaugeMetricFamily(
            "voltflow_held_messages",
            "Messages that nodes hold for later, by where they are.",
            labels=["where"],
        )
        messages.add_metric(["unacknowledged"], held.unsafe)
        messages.add_metric(["disk"], held.on_disk)
        orphans = GaugeMetricFamily(
            "voltflow_held_orphans", "Messages held on disk for a node that the flow does not have.", labels=["node"]
        )  # fmt: skip
        for node_id, count in sorted(dict(held.orphans).items()):
            orphans.add_metric([node_id], count)
        blocked = int(bool(held.error) or held.is_full)
        yield from (messages, orphans)
        yield GaugeMetricFamily(
            "voltflow_held_blocked", "1 while held messages cannot go to disk (it fails, or too many are there).", blocked
        )  # fmt: skip

    def _connections(self) -> Iterator[Metric]:
        connected = GaugeMetricFamily("voltflow_mqtt_connected", "1 while connected.", labels=["node"])
        reconnects = CounterMetricFamily("voltflow_mqtt_reconnects", "Lost connections.", labels=["node"])
        lost = CounterMetricFamily(
            "voltflow_mqtt_sessions_lost",
            "Reconnects at which the broker had forgotten the session.",
            labels=["node"],
        )
        taken_over = CounterMetricFamily(
            "voltflow_mqtt_taken_over", "Times another client with the same client id took the session.", labels=["node"]
        )  # fmt: skip
        messages = CounterMetricFamily(
            "voltflow_mqtt_messages", "Messages received, published, confirmed by the broker, confirmed with nobody there.",
            labels=["node", "event"],
        )  # fmt: skip
        for node, _ in self._pairs():
            if not isinstance(node, MqttBroker):
                continue
            status = node.status()
            connected.add_metric([node.id], int(status["connected"]))
            reconnects.add_metric([node.id], status["reconnects"])
            for event in ("received", "published", "confirmed", "without_subscriber"):
                messages.add_metric([node.id, event], status[event])
            lost.add_metric([node.id], status["sessions_lost"])
            taken_over.add_metric([node.id], status["taken_over"])
        yield from (connected, reconnects, lost, taken_over, messages)

    def _pairs(self) -> Iterator[tuple[Node, NodeStats]]:
        for node_id, wired in self._engine.nodes.items():
            yield wired.node, self._engine.stats[node_id]
