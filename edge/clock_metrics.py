"""Prometheus metrics of the gateway's clock and of how far the devices' are from it."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import median
from typing import get_args

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from edge.twin import TwinStore
from voltflow import clock


class ClockCollector(Collector):
    """What the receive clock and the packs' skews tell; a pack's own skew is in the API."""

    def __init__(self, store: TwinStore) -> None:
        self._store = store

    def collect(self) -> Iterable[Metric]:
        status = self._store.clock.status()
        states = GaugeMetricFamily(
            "voltflow_clock_state",
            "1 for what is to be thought of the gateway's time: ok, unknown (no receive times), suspect (a jump not confirmed).",
            labels=["state"],
        )
        for state in get_args(clock.State):
            states.add_metric([state], float(state == status.state))
        yield states
        yield CounterMetricFamily(
            "voltflow_clock_steps", "Jumps of the system's clock by more than 5 s.", status.steps
        )
        skews = GaugeMetricFamily(
            "voltflow_device_skew_seconds",
            "How far the devices' clocks are ahead of the gateway's: the middle one of all packs, and the farthest either way.",
            labels=["of"],
        )
        if known := [skew / 1000 for twin in list(self._store.packs) if (skew := twin.skew_ms) is not None]:
            skews.add_metric(["median"], median(known))
            skews.add_metric(["farthest"], max(known, key=abs))
        yield skews
