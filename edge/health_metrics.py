"""Prometheus metrics of what `/api/health` says, and of when a message last came."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import get_args

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from edge.health import HealthStatus, health
from edge.state import AppState


class HealthCollector(Collector):
    """Is the gateway well, and if not, what is wrong."""

    def __init__(self, state: AppState) -> None:
        self._state = state

    def collect(self) -> Iterable[Metric]:
        found = health(self._state)
        status = GaugeMetricFamily(
            "voltflow_health_status", "1 for what `/api/health` says.", labels=["status"]
        )
        for name in get_args(HealthStatus):
            status.add_metric([name], int(name == found.status))
        reasons = GaugeMetricFamily(
            "voltflow_health_reasons", "Things that are not as they should be, by code.", labels=["code"]
        )
        for code, count in sorted(Counter(reason.code for reason in found.reasons).items()):
            reasons.add_metric([code], count)
        age = GaugeMetricFamily(
            "voltflow_newest_message_age_seconds",
            "Since telemetry of any pack last came; absent where none came since the start or the clock is not known.",
        )
        if found.newest_message_age_s is not None:
            age.add_metric([], found.newest_message_age_s)
        yield from (status, reasons, age)
