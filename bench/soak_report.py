"""What `bench.soak` gave: JSON for programs, a table for people, a picture of every second."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any, Self

import msgspec
import numpy as np

from bench.loss_account import Account, Fault
from bench.loss_log import REPLAYED
from bench.loss_report import shared
from bench.report import _table as table
from bench.report import machine

BEGIN, END = "<!-- figures: python -m bench.soak --write -->", "<!-- end of soak -->"
STEADY_S = 60.0
"""Memory is the median over so long."""
FLAT = 1.1
"""Memory at the end over memory before: more than this is not flat."""
POINTS = 360
"""Points of a line in the picture."""


class Sample(msgspec.Struct):
    """One second. `at_s` since the load began; arrivals in it, and how long the live ones took."""

    at_s: float
    rss_mb: float
    backlog: int
    spool_bytes: int
    live: int = 0
    replayed: int = 0
    p50_ms: float | None = None
    p99_ms: float | None = None


class Latency(msgspec.Struct, frozen=True):
    """Of live messages, from the device's write to the cloud's read."""

    messages: int = 0
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    longest_ms: float = 0.0

    @classmethod
    def of(cls, took_ms: np.ndarray) -> Self:
        if not len(took_ms):
            return cls()
        return cls(len(took_ms), *(float(np.quantile(took_ms, q)) for q in (0.5, 0.99, 1.0)))

    def __str__(self) -> str:
        return f"{self.p50_ms:.1f} / {self.p99_ms:.1f} / {self.longest_ms:.0f}" if self.messages else "–"


class Soak(msgspec.Struct, kw_only=True):
    """A whole run. `again_s`, `drain_s`: after the end of the outage, until something came and until the spool was empty."""

    command: str
    minutes: float
    rate: float
    packs: int
    outage_minutes: float
    machine: dict[str, str] = msgspec.field(default_factory=machine)
    fault: Fault | None = None
    published: int = 0
    lost: int = 0
    explained: int = 0
    doubled: int = 0
    replayed: int = 0
    disordered_live: int = 0
    disordered_replayed: int = 0
    again_s: float = 0.0
    drain_s: float = 0.0
    before: Latency = Latency()
    drain: Latency = Latency()
    after: Latency = Latency()
    rss_before_mb: float = 0.0
    rss_after_mb: float = 0.0
    spool: dict[str, int] = {}
    spool_file_bytes: int = 0
    samples: list[Sample] = []

    @classmethod
    def read(cls, path: Path) -> Soak:
        return msgspec.json.decode(path.read_bytes(), type=cls)

    def write(self, path: Path) -> None:
        """FILE.json and FILE.md, whatever ending `path` has."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".json").write_bytes(msgspec.json.encode(self) + b"\n")
        path.with_suffix(".md").write_text(self.markdown())

    def memory_mb(self, end_s: float) -> float:
        """The median over the minute before a time."""
        found = [sample.rss_mb for sample in self.samples if end_s - STEADY_S < sample.at_s <= end_s]
        return statistics.median(found) if found else 0.0

    def count_by_second(self, account: Account, began_s: float) -> None:
        """What came in the time before each sample."""
        firsts = account.firsts
        took_ms = (firsts["at_s"] - account.sent_s[account.place(firsts)]) * 1000.0
        edges = np.searchsorted(firsts["at_s"], [sample.at_s + began_s for sample in self.samples])
        for sample, begin, end in zip(self.samples, [0, *edges[:-1].tolist()], edges.tolist(), strict=True):
            live = firsts["what"][begin:end] != REPLAYED
            sample.live, sample.replayed = int(live.sum()), int((~live).sum())
            if sample.live:
                sample.p50_ms, sample.p99_ms = (
                    float(np.quantile(took_ms[begin:end][live], q)) for q in (0.5, 0.99)
                )

    # -- for people -------------------------------------------------------------------------------------------------

    def markdown(self) -> str:
        m = self.machine
        head = (
            f"`{self.command}`, {m['date']}: {m['cpu']}, {m['cores']} cores (load average before: {m['load_before']}), "
            f"{m['system']}. Python {m['python']}, mosquitto {m['mosquitto']}.{shared(m)}"
        )
        return f"{head}\n\n{table(('what', 'measured'), self._rows())}\n"

    def _rows(self) -> list[tuple[str, str]]:
        peak = max(self.samples, key=lambda sample: sample.spool_bytes)
        ratio = (
            self.drain.p99_ms / self.before.p99_ms
            if self.before.p99_ms and self.drain.messages
            else float("nan")
        )
        growth = self.rss_after_mb / self.rss_before_mb if self.rss_before_mb else float("nan")
        spool = self.spool
        return [
            ("messages sent; lost; of them named; doubled at the cloud's broker",
             f"{self.published:,}; {self.lost:,}; {self.explained:,}; {self.doubled:,}"),
            ("out of order among live ones; among replayed ones",
             f"{self.disordered_live:,}; {self.disordered_replayed:,}"),
            ("through the spool; written to it; fsyncs",
             f"{spool['appended']:,} messages; {spool['bytes_written'] / 1e6:,.0f} MB; {spool['fsyncs']:,}"),
            ("most in the spool", f"{max(s.backlog for s in self.samples):,} messages, {peak.spool_bytes / 1e6:,.0f} MB"),
            ("spool at the end; its files", f"{spool['left_messages']:,} messages; {self.spool_file_bytes:,} bytes"),
            ("outage; after it the first message came after; spool empty after",
             f"{self.outage_minutes:g} min; {self.again_s:.1f} s; {self.drain_s:.0f} s"),
            ("backlog messages/s while it drained", f"{self.replayed / self.drain_s:,.0f}" if self.drain_s else "–"),
            ("live messages, ms p50 / p99 / longest: before", str(self.before)),
            ("… while the backlog drained", str(self.drain)),
            ("… after", str(self.after)),
            ("p99 in the drain over before (target ≤ 2)", f"{ratio:.2f}"),
            ("memory of the agent, MB: before the outage; highest; at the end",
             f"{self.rss_before_mb:.0f}; {max(s.rss_mb for s in self.samples):.0f}; {self.rss_after_mb:.0f}"),
            (f"memory at the end over before (flat: ≤ {FLAT:g})", f"{growth:.2f}"),
        ]  # fmt: skip


def draw(soak: Soak, path: Path) -> None:
    """Rates, backlog, latency and memory over time, the outage shaded."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(4, 1, sharex=True, figsize=(9, 9), layout="constrained")
    minutes, lines = _thin(soak.samples)
    for axis, (title, series) in zip(axes, lines.items(), strict=True):
        for name, values in series.items():
            axis.plot(minutes, values, linewidth=1, label=name)
        axis.set_ylabel(title)
        axis.legend(loc="upper right", fontsize="small")
        axis.grid(alpha=0.3)
        if soak.fault:
            began_min = (soak.minutes - soak.outage_minutes) / 3
            axis.axvspan(began_min, began_min + soak.outage_minutes, color="#bbbbbb", alpha=0.4, linewidth=0)
    axes[2].set_yscale("log")
    axes[-1].set_xlabel("minutes; grey: the uplink is away")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def _thin(samples: list[Sample]) -> tuple[list[float], dict[str, dict[str, list[float]]]]:
    """Not more points than can be seen: means, and the highest of what matters when it is high."""
    size = max(1, len(samples) // POINTS)
    groups = [samples[i : i + size] for i in range(0, len(samples), size)]

    def line(of: str, choose: Any = statistics.fmean, scale: float = 1.0) -> list[float]:
        values = ([value for s in group if (value := getattr(s, of)) is not None] for group in groups)
        return [choose(found) / scale if found else float("nan") for found in values]

    return [group[0].at_s / 60 for group in groups], {
        "messages/s": {"live": line("live"), "replayed": line("replayed")},
        "in the spool": {"thousand messages": line("backlog", max, 1e3), "MB": line("spool_bytes", max, 1e6)},
        "live, ms": {"p50": line("p50_ms", statistics.median), "p99": line("p99_ms", max)},
        "agent, MB": {"memory": line("rss_mb", max)},
    }
