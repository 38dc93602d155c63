"""What agent and bridge say of themselves: their metrics and the agent's API, read over HTTP."""

from __future__ import annotations

import urllib.request
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

TIMEOUT_S = 5.0
TOP_PACKS = 8

Samples = dict[str, list[tuple[dict[str, str], float]]]
"""By name of the series: labels and value of each."""


class Endpoints(msgspec.Struct, frozen=True):
    """Where the parts answer."""

    api: str
    agent_metrics: str
    bridge_metrics: str


class PackLine(msgspec.Struct):
    """A pack as `/api/packs` has it, as far as it is shown."""

    name: str
    worry: int = 0
    worries: list[str] = []
    soc_pct: float | None = None
    temp_c: float | None = None
    temp_predicted_c: float | None = None
    rul_efc: float | None = None
    failure_pct: float | None = None


class _Packs(msgspec.Struct):
    packs: list[PackLine]


class Figures(msgspec.Struct):
    """The state of the run at one moment; counters since the parts started."""

    received: int = 0
    rows: int = 0
    redelivered: int = 0
    dead_letters: int = 0
    alerts: int = 0
    spooled: int = 0
    predictions: dict[str, int] = {}
    p50_ms: float | None = None
    p99_ms: float | None = None
    packs: list[PackLine] = []


def read(endpoints: Endpoints) -> Figures:
    """The figures now; raises OSError or ValueError when a part does not answer."""
    agent, bridge = scrape(endpoints.agent_metrics), scrape(endpoints.bridge_metrics)
    packs = msgspec.json.decode(_get(f"{endpoints.api}/api/packs?limit={TOP_PACKS}"), type=_Packs).packs
    predictions = {labels["model"]: int(value) for labels, value in agent.get("predictions_total", [])}
    limits, counts = _latency(bridge)
    return Figures(
        received=int(_sum(agent, "voltflow_mqtt_messages_total", node="local", event="received")),
        rows=int(_sum(bridge, "voltflow_rows_total", table="telemetry")),
        redelivered=int(_sum(bridge, "voltflow_redelivered_total")),
        dead_letters=int(_sum(bridge, "voltflow_rows_total", table="dead_letter")),
        alerts=int(_sum(bridge, "voltflow_rows_total", table="alert")),
        spooled=int(_sum(agent, "voltflow_spool_messages")),
        predictions=predictions,
        p50_ms=quantile_ms(limits, counts, 0.5),
        p99_ms=quantile_ms(limits, counts, 0.99),
        packs=packs,
    )


def connected(url: str) -> bool:
    """Whether a part's `/metrics` answers and says that each of its MQTT connections is up."""
    try:
        links = scrape(url).get("voltflow_mqtt_connected", [])
    except OSError:
        return False
    return bool(links) and all(value == 1 for _, value in links)


def scrape(url: str) -> Samples:
    """The samples of a `/metrics` address; raises OSError."""
    from prometheus_client.parser import text_string_to_metric_families

    samples: Samples = {}
    for family in text_string_to_metric_families(_get(url).decode()):
        for sample in family.samples:
            samples.setdefault(sample.name, []).append((sample.labels, sample.value))
    return samples


def quantile_ms(limits_s: Sequence[float], cumulated: Sequence[float], q: float) -> float | None:
    """A quantile of a histogram in milliseconds, interpolated within its bucket; None while it is empty.

    >>> quantile_ms([0.001, 0.002, float("inf")], [0, 10, 10], 0.5)
    1.5
    >>> quantile_ms([0.001, float("inf")], [0, 4], 0.99), quantile_ms([0.001], [0], 0.5)
    (1.0, None)
    """
    total = cumulated[-1] if cumulated else 0
    if not total:
        return None
    place = bisect_left(cumulated, q * total)
    low = limits_s[place - 1] if place else 0.0
    high = limits_s[place] if limits_s[place] != float("inf") else low
    below = cumulated[place - 1] if place else 0
    share = (q * total - below) / (cumulated[place] - below)
    return round((low + (high - low) * share) * 1000, 3)


def _latency(bridge: Samples) -> tuple[list[float], list[float]]:
    """The latency histogram over all nodes: upper limits in seconds, cumulated counts."""
    by_limit: dict[float, float] = {}
    for labels, value in bridge.get("voltflow_latency_seconds_bucket", []):
        limit = float(labels["le"])
        by_limit[limit] = by_limit.get(limit, 0.0) + value
    limits = sorted(by_limit)
    return limits, [by_limit[limit] for limit in limits]


def _sum(samples: Samples, name: str, **wanted: str) -> float:
    return sum(value for labels, value in samples.get(name, []) if _has(labels, wanted))


def _has(labels: Mapping[str, str], wanted: Mapping[str, str]) -> bool:
    return all(labels.get(name) == value for name, value in wanted.items())


def rate(readings: Sequence[tuple[float, int]]) -> float:
    """Increase per second over readings (time in seconds, total), oldest first.

    >>> rate([(10.0, 100), (12.0, 300)]), rate([(1.0, 5)])
    (100.0, 0.0)
    """
    if len(readings) < 2:
        return 0.0
    (start_s, first), (end_s, last) = readings[0], readings[-1]
    return (last - first) / (end_s - start_s)


def _get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:  # noqa: S310
        return answer.read()
