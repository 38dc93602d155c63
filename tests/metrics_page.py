"""Every metric that agent and bridge export, from their own collectors; `python -m tests.metrics_page` writes docs/metrics.md."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from cloud.bridge import Bridge, BridgeSettings
from cloud.metrics import make_registry as bridge_registry
from edge.metrics import make_registry as agent_registry
from edge.snapshot import copy_twins
from edge.stream import Streams
from tests.gateway import Gateway
from tests.servers import REPOSITORY
from voltflow.state.state import StateStore

PAGE = REPOSITORY / "docs" / "metrics.md"
BEGIN, END = "<!-- metrics: python -m tests.metrics_page -->", "<!-- end of metrics -->"
TITLES = {
    "TwinCollector": "Packs, one by one, and their messages",
    "FleetCollector": "All packs of a fleet",
    "ModelCollector": "Models",
    "HealthCollector": "Is the gateway well",
    "ClockCollector": "Clocks",
    "StreamCollector": "Live streams (only on the API's port)",
    "StateCollector": "State on disk",
    "EngineCollector": "Flow, sinks, spools, broker connections",
    "HistoryCollector": "History",
    "LedgerCollector": "Ledger",
    "RetentionCollector": "Size of the history, and what retention took out",
    "ProcessCollector": "Process",
    "PlatformCollector": "Interpreter",
}
"""By the name of the collector, in the order of the page."""


_ENDS = {
    "gauge of buckets": ("_bucket", "_gcount", "_gsum"),
    "histogram": ("_bucket", "_count", "_sum"),
}


class Exported(NamedTuple):
    """A metric as it is written in an expression."""

    name: str
    kind: str
    labels: tuple[str, ...]
    help: str

    @property
    def series(self) -> list[str]:
        """The names of its series: of a histogram those of its parts."""
        ends = _ENDS.get(self.kind, ("",))
        return [self.name + end for end in ends]


@cache
def exported(program: str) -> dict[str, list[Exported]]:
    """What `agent` or `bridge` exports, by the collector's name."""
    with tempfile.TemporaryDirectory() as folder:
        registry = {"agent": _agent, "bridge": _bridge}[program](Path(folder))
        return {type(collector).__name__: [*_of(collector)] for collector in _collectors(registry)}


def names() -> dict[str, Exported]:
    """All metrics of both programs by name."""
    found = (
        metric for program in ("agent", "bridge") for each in exported(program).values() for metric in each
    )
    return {metric.name: metric for metric in found}


def series_names() -> set[str]:
    """The names of all series."""
    return {name for metric in names().values() for name in metric.series}


def page() -> str:
    """The tables of docs/metrics.md."""
    agent, bridge = exported("agent"), exported("bridge")
    lines: list[str] = []
    for collector, title in TITLES.items():
        who = [who for who, found in (("agent", agent), ("bridge", bridge)) if collector in found]
        lines += [f"## {title}", "", f"Exported by: {', '.join(who)}.", "", "| name | type | labels | meaning |",
                  "|---|---|---|---|"]  # fmt: skip
        for metric in agent.get(collector) or bridge[collector]:
            labels = ", ".join(f"`{label}`" for label in metric.labels)
            text = metric.help.replace("|", "\\|")
            lines.append(f"| `{metric.name}` | {metric.kind} | {labels} | {text} |")
        lines.append("")
    return "\n".join(lines).strip()


def written() -> str:
    """The tables as the page has them."""
    return PAGE.read_text("utf-8").split(BEGIN)[1].split(END)[0].strip()


def _agent(folder: Path) -> CollectorRegistry:
    gateway = Gateway(folder)
    gateway.feed("depot/P1")
    store = gateway.state.durable = StateStore(folder / "state")
    store.register("twins", lambda: copy_twins(gateway.store), lambda _: None)
    asyncio.run(_write(store))
    return agent_registry(gateway.state, Streams(gateway.state))


async def _write(store: StateStore) -> None:
    await store.open()
    await store.close()


def _bridge(folder: Path) -> CollectorRegistry:
    bridge = Bridge(BridgeSettings(database="postgresql:///none", state_dir=folder))
    assert bridge.ledger is not None
    bridge.ledger.status.active = True
    assert bridge.retention is not None
    bridge.retention.active, bridge.retention.ended_s = True, 0.0
    return bridge_registry(bridge.engine, bridge.ledger, bridge.retention)


def _collectors(registry: CollectorRegistry) -> Iterator[Collector]:
    yield from list(registry._collector_to_names)


def _of(collector: Collector) -> Iterator[Exported]:
    for family in collector.collect():
        suffix = "_total" if family.type == "counter" else ""
        kind = "gauge of buckets" if family.type == "gaugehistogram" else family.type
        yield Exported(family.name + suffix, kind, _labels(family), family.documentation)


def _labels(family: Metric) -> tuple[str, ...]:
    own = getattr(family, "_labelnames", None)
    if own is None:  # a family that its collector has put together by hand
        own = dict.fromkeys(label for sample in family.samples for label in sample.labels)
    return (*own, "le") if "histogram" in family.type else tuple(own)


def main() -> None:
    before, after = PAGE.read_text("utf-8").split(BEGIN)[0], PAGE.read_text("utf-8").split(END)[1]
    PAGE.write_text(f"{before}{BEGIN}\n\n{page()}\n\n{END}{after}", "utf-8")


if __name__ == "__main__":
    main()
