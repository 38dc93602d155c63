"""`python -m bench.scrape`: how big a gateway's `/metrics` is, how long it takes, and what it costs the agent.

The agent as it is installed with simulated packs, once with its own limit of packs with series and once with a series of each.
It is asked as Prometheus asks, every few seconds, and right after that a second time, as a second Prometheus would.
docs/benchmarks.md says how to read the figures.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import psutil

from bench.loss_report import put_into, shared
from bench.measure import cpu_s, say
from bench.report import _table as table
from bench.report import machine
from edge.settings import AgentSettings
from tests import servers
from tests.programs import Agent, device, finish

PAGE = servers.REPOSITORY / "docs" / "benchmarks.md"
BEGIN, END = "<!-- figures: python -m bench.scrape --write -->", "<!-- end of scrapes -->"
PACKS = (200, 1000, 10_000)
EVERY_S, SCRAPE_TIMEOUT_S = 5.0, 120.0
LIMIT, ALL = AgentSettings().metrics_max_packs, 1_000_000
FEED_S, HZ, SPEED_UP = 30.0, 0.1, 60.0
"""What the packs publish before they are asked for: three messages each, over half an hour of their time."""


class Figures(msgspec.Struct, kw_only=True, frozen=True):
    """One agent: what a scrape has, and what it took. `again_s`: right after another one; `cpu_s`: of the agent for both."""

    packs: int
    limit: int
    bytes: int
    series: int
    took_s: list[float]
    again_s: list[float]
    cpu_s: float
    rss_mb: float


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, and put the table into the page where asked to."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False, prog="python -m bench.scrape", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--packs", type=int, help="this many packs alone (default: 200, 1,000 and 10,000)")
    parser.add_argument("--scrapes", type=int, default=8, help="of each agent (default: %(default)s)")
    parser.add_argument("--write", action="store_true", help=f"put the table into {PAGE.name}")
    parser.add_argument("--page", type=Path, default=PAGE, help="into another page")
    args = parser.parse_args(argv)
    here = machine()
    found = []
    for packs in [args.packs] if args.packs else PACKS:
        for limit in (LIMIT, ALL) if packs > LIMIT else (LIMIT,):
            say(f"{packs:,} packs, {min(packs, limit):,} with series of their own")
            found.append(measure(packs, limit, args.scrapes))
            say(" | ".join(_row(found[-1])))
    text = render(found, here)
    print(text)
    if args.write:
        put_into(args.page, BEGIN, END, text)
    return 0


def measure(packs: int, limit: int, scrapes: int) -> Figures:
    """An agent of its own, filled and asked."""
    with tempfile.TemporaryDirectory() as folder, servers.mosquitto() as broker:
        options = ("--metrics-max-packs", str(limit), "--window", "1000", "--state-period-s", "3600")
        with Agent(broker, Path(folder), *options) as agent:
            _fill(broker, agent, packs)
            process = psutil.Process(agent.pid)
            idle = _idle_share(process)
            text, took_s, again_s, began_s, before_s = "", [], [], time.monotonic(), cpu_s(process)
            for _ in range(scrapes):
                until_s = time.monotonic() + EVERY_S
                text, seconds = _scrape(agent)
                took_s.append(seconds)
                again_s.append(_scrape(agent)[1])
                time.sleep(max(0.0, until_s - time.monotonic()))
            used_s, rss_mb = cpu_s(process) - before_s - idle * (time.monotonic() - began_s), agent.rss_mb
            agent.kill()  # its state of many packs is of no use to anybody
            return Figures(
                packs=packs, limit=limit, bytes=len(text.encode()),
                series=sum(not line.startswith("#") for line in text.splitlines()), took_s=took_s, again_s=again_s,
                cpu_s=used_s / scrapes, rss_mb=rss_mb,
            )  # fmt: skip


def _fill(broker: servers.Mosquitto, agent: Agent, packs: int) -> None:
    """Until the gateway knows all packs."""
    fleet = ("--packs", str(packs), "--hz", str(HZ), "--seconds", str(FEED_S), "--speedup", str(SPEED_UP))
    with device(
        broker, "run", *fleet, "--ring-messages", "0", "--cells-s", "0", "--drain-s", "60"
    ) as feeding:
        finish(feeding)
    servers.wait_until(lambda: _known(agent) == packs, f"{packs} packs to be known", 120, 1.0)


def _known(agent: Agent) -> int:
    lines = [line for line in _scrape(agent)[0].splitlines() if line.startswith("battery_fleet_packs{")]
    return round(sum(float(line.rsplit(" ", 1)[1]) for line in lines))


def _scrape(agent: Agent) -> tuple[str, float]:
    started_s = time.perf_counter()
    url = f"http://127.0.0.1:{agent.metrics_port}/metrics"
    with urllib.request.urlopen(url, timeout=SCRAPE_TIMEOUT_S) as answer:
        text = answer.read().decode()
    return text, time.perf_counter() - started_s


def _idle_share(process: psutil.Process) -> float:
    """What share of a core it uses by itself."""
    before_s, began_s = cpu_s(process), time.monotonic()
    time.sleep(EVERY_S)
    return (cpu_s(process) - before_s) / (time.monotonic() - began_s)


def render(found: Sequence[Figures], here: dict[str, str]) -> str:
    """The table as it stands in the page."""
    columns = ("packs", "with series of their own", "series", "MB", "ms, median (longest)", "ms a second time",
               "agent's CPU ms for both", "RSS MB")  # fmt: skip
    here_and_now = (
        f"`python -m bench.scrape --write`, {here['date']}: {here['cpu']}, {here['cores']} cores (load average before: "
        f"{here['load_before']}), Python {here['python']}; asked every {EVERY_S:.0f} s.{shared(here)}"
    )
    lines = [
        here_and_now,
        "",
        table(columns, [_row(figures) for figures in found]),
        "",
        *_ratios(found),
    ]
    return "\n".join(lines) + "\n"


def _row(f: Figures) -> list[str]:
    return [
        f"{f.packs:,}", f"{min(f.packs, f.limit):,}", f"{f.series:,}", f"{f.bytes / 1e6:.2f}",
        f"{statistics.median(f.took_s) * 1000:.0f} ({max(f.took_s) * 1000:.0f})",
        f"{statistics.median(f.again_s) * 1000:.0f}", f"{f.cpu_s * 1000:.0f}", f"{f.rss_mb:.0f}",
    ]  # fmt: skip


def _ratios(found: Sequence[Figures]) -> Iterator[str]:
    """What the limit saves."""
    limited = {figures.packs: figures for figures in found if figures.limit < ALL}
    for each in (figures for figures in found if figures.limit == ALL):
        own = limited[each.packs]
        took = statistics.median(each.took_s) / statistics.median(own.took_s)
        yield (
            f"With {each.packs:,} packs, series of each are {each.bytes / own.bytes:.1f} times the bytes, "
            f"{each.series / own.series:.1f} times the series, {each.cpu_s / max(own.cpu_s, 0.01):.1f} times the CPU and {took:.1f} times "
            f"the time of those of {own.limit}."
        )


if __name__ == "__main__":
    sys.exit(main())
