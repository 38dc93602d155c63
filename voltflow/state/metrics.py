"""Prometheus metrics of a state store, and of what the process has written to its disks by the kernel's own count."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from voltflow.state.state import DAY_S, StateStore

_PROCESS_IO = Path("/proc/self/io")


class StateCollector(Collector):
    """What a state store has to tell."""

    def __init__(self, store: StateStore) -> None:
        self._store = store

    def collect(self) -> Iterable[Metric]:
        yield from self._counters()
        yield from self._gauges()
        written = disk_written_bytes()
        if written is not None:
            yield CounterMetricFamily(
                "voltflow_disk_written_bytes",
                "Bytes this process sent to its disks, counted by the kernel (/proc/self/io); without what the file "
                "system writes for itself.",
                written,
            )

    def _counters(self) -> Iterator[Metric]:
        counters = self._store.counters
        for name, text, value in (
            ("bytes", "Bytes of state written.", counters.bytes_written),
            ("writes", "Times the state was written.", counters.writes),
            ("write_seconds", "Time spent writing it, in a thread of its own.", counters.write_s),
            ("copy_seconds", "Time the flow stood still for copies of it.", counters.copy_s),
            ("unchanged", "Times nothing had changed and nothing was written.", counters.unchanged),
            ("discarded", "Copies not written because a batch in them was given up.", counters.discarded),
            ("write_failures", "Times it could not be written.", counters.failures),
        ):
            yield CounterMetricFamily(f"voltflow_state_{name}", text, value)

    def _gauges(self) -> Iterator[Metric]:
        store = self._store
        for name, text, value in (
            ("age_seconds", "Age of the state on disk; a crash now would lose what is newer.", store.age_s),
            ("period_seconds", "Time from write to write, by setting or budget.", store.effective_period_s),
            ("bytes_per_day", "What the state costs at that period.",
             store.counters.last_bytes * DAY_S / store.effective_period_s),
            ("budget_bytes_per_day", "What it may cost (disk_write_budget_mb_per_day).", store.budget_bytes_per_day),
        ):  # fmt: skip
            if value is not None:
                yield GaugeMetricFamily(f"voltflow_state_{name}", text, value)


def disk_written_bytes() -> int | None:
    """What the kernel says this process has sent to storage; None where it does not say."""
    try:
        lines = dict(line.split(": ") for line in _PROCESS_IO.read_text().splitlines())
        return int(lines["write_bytes"])
    except (OSError, ValueError, KeyError):
        return None
