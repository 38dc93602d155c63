"""What a history sink counts: rows, and latencies in a histogram with buckets fine enough for a p99 in milliseconds."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

BUCKETS_MS = (
    0.5, 1, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8, 10, 12, 15, 20, 25, 30, 40, 50, 65, 80, 100, 130, 160, 200, 250, 300, 400,
    500, 650, 800, 1000, 1500, 2000, 3000, 5000, 10_000, 20_000, 30_000, 60_000, 120_000,
    200_000, 300_000, 400_000, 600_000, 900_000, 1_800_000, 3_600_000, 14_400_000, 86_400_000,
)  # fmt: skip
"""Upper limits of the buckets in milliseconds; about a fifth apart where a latency is usually found, further where it is
that of a backlog."""


class LatencyHistogram:
    """Counts latencies by bucket; one thread observes, others may read.

    >>> histogram = LatencyHistogram()
    >>> histogram.observe([1.2, 1.4, 90.0])
    >>> histogram.count, histogram.quantiles_ms(0.5, 0.99)
    (3, {'p50': 1.375, 'p99': 99.4})
    """

    def __init__(self) -> None:
        self.counts = np.zeros(len(BUCKETS_MS) + 1, dtype=np.int64)
        self.sum_ms = 0.0

    @property
    def count(self) -> int:
        return int(self.counts.sum())

    def observe(self, latencies_ms: Sequence[float]) -> None:
        """Count latencies; a negative one (clocks differ) counts as 0."""
        if not latencies_ms:
            return
        values = np.maximum(np.asarray(latencies_ms, dtype=np.float64), 0.0)
        self.sum_ms += float(values.sum())
        places = np.searchsorted(BUCKETS_MS, values, side="left")
        self.counts = self.counts + np.bincount(places, minlength=len(self.counts))

    def quantiles_ms(self, *quantiles: float) -> dict[str, float | None]:
        """Quantiles in milliseconds, interpolated within their bucket; None before the first observation."""
        return {f"p{round(q * 100):d}": self._quantile(q) for q in quantiles}

    def _quantile(self, q: float) -> float | None:
        cumulated = np.cumsum(self.counts).tolist()
        total = cumulated[-1]
        if not total:
            return None
        place = bisect_left(cumulated, q * total)
        if place == len(BUCKETS_MS):
            return float(BUCKETS_MS[-1])
        low, high = (BUCKETS_MS[place - 1] if place else 0.0), BUCKETS_MS[place]
        below = cumulated[place - 1] if place else 0
        share: float = (q * total - below) / (cumulated[place] - below)
        return round(low + (high - low) * share, 3)

    def buckets_s(self) -> list[tuple[str, float]]:
        """Cumulated counts by upper limit in seconds, as Prometheus wants them."""
        limits = [f"{limit / 1000:g}" for limit in BUCKETS_MS] + ["+Inf"]
        return list(zip(limits, np.cumsum(self.counts).astype(float).tolist(), strict=True))


@dataclass
class Tally:
    """What was stored; one thread writes, others may read."""

    latency: LatencyHistogram = field(default_factory=LatencyHistogram)
    rows: Counter[str] = field(default_factory=Counter)
    """New rows by table."""
    again: Counter[str] = field(default_factory=Counter)
    """Messages that were there already, by table."""
    newest_ms: int = 0
    """When the newest reading in the history came to its gateway, of gateways whose clock is not ahead; 0: none yet."""
