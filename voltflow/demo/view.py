"""What the demo shows while it runs: one screen on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

import msgspec

from voltflow.demo.figures import Figures, PackLine, rate
from voltflow.demo.history import PREDICTION_COLUMNS

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table

RATE_OVER = 5
"""Readings over which a rate is taken."""
LINE_EVERY_S = 5.0


class Facts(msgspec.Struct, frozen=True):
    """What stays the same during a run."""

    urls: dict[str, str]
    broker: str
    packs: int
    hz: float
    speedup: float
    logs: str
    ends: str


class Snapshot(msgspec.Struct):
    """All that is shown at one moment."""

    running_s: float
    figures: Figures
    received_per_s: float = 0.0
    rows_per_s: float = 0.0
    rss_mb: dict[str, float | None] = {}
    uplink: str = ""
    """What the demo does to the gateway's way to the cloud; empty: nothing."""
    agent: str = ""
    """What the demo did to the agent; empty: nothing."""


class Rates:
    """Rates from counters that are read again and again."""

    def __init__(self) -> None:
        self._received: deque[tuple[float, int]] = deque(maxlen=RATE_OVER + 1)
        self._rows: deque[tuple[float, int]] = deque(maxlen=RATE_OVER + 1)

    def add(self, figures: Figures) -> tuple[float, float]:
        """Messages and rows per second."""
        now = time.monotonic()
        self._received.append((now, figures.received))
        self._rows.append((now, figures.rows))
        return rate(list(self._received)), rate(list(self._rows))


class View(Protocol):
    """Shows snapshots between enter and exit."""

    def show(self, snapshot: Snapshot) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def make_view(facts: Facts, console: Console) -> View:
    """The screen where the console is a terminal, else plain lines."""
    return ScreenView(facts, console) if console.is_terminal else LineView(facts, console)


class LineView:
    """A line every few seconds, for logs and pipes."""

    def __init__(self, facts: Facts, console: Console, every_s: float = LINE_EVERY_S) -> None:
        self._facts, self._console, self._every_s = facts, console, every_s
        self._due_s = 0.0

    def show(self, snapshot: Snapshot) -> None:
        if time.monotonic() >= self._due_s:
            self._due_s = time.monotonic() + self._every_s
            self._print(line(snapshot))

    def __enter__(self) -> Self:
        self._print(f"{fleet_text(self._facts)}; broker: {self._facts.broker}; {self._facts.ends}")
        for name, url in self._facts.urls.items():
            self._print(f"  {name:8} {url}")
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def _print(self, text: str) -> None:
        self._console.print(text, soft_wrap=True, markup=False, highlight=False)
        self._console.file.flush()


class ScreenView:
    """One screen, drawn anew at each snapshot."""

    def __init__(self, facts: Facts, console: Console) -> None:
        from rich.live import Live

        self._facts = facts
        self._live = Live(console=console, auto_refresh=False, transient=False)

    def show(self, snapshot: Snapshot) -> None:
        self._live.update(screen(self._facts, snapshot), refresh=True)

    def __enter__(self) -> Self:
        self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.__exit__(kind, error, trace)


def fleet_text(facts: Facts) -> str:
    """The fleet in one phrase."""
    return (
        f"{facts.packs} packs, {facts.hz:g} messages a second each, time runs {facts.speedup:g} times as fast"
    )


def line(snapshot: Snapshot) -> str:
    """A snapshot in one line."""
    f = snapshot.figures
    made = " ".join(f"{model} {f.predictions.get(model, 0)}" for model in PREDICTION_COLUMNS)
    return (
        f"{snapshot.running_s:5.0f} s  {f.rows} rows, {snapshot.rows_per_s:.0f}/s, latency p50 {_ms(f.p50_ms)}"
        f" p99 {_ms(f.p99_ms)}, predictions: {made}, {f.alerts} alerts raised or cleared, dead letters {f.dead_letters},"
        f" RSS {_rss(snapshot.rss_mb)}{_outage(snapshot)}"
    )


def _outage(snapshot: Snapshot) -> str:
    spooled = snapshot.figures.spooled
    agent = f", agent {snapshot.agent}" if snapshot.agent else ""
    if not snapshot.uplink and not spooled:
        return agent
    return f"{agent}, uplink {snapshot.uplink or 'as it is'}, {spooled} messages in the gateway's spool"


def screen(facts: Facts, snapshot: Snapshot) -> RenderableType:
    """A snapshot as one screen."""
    from rich.console import Group
    from rich.text import Text

    head = Text.assemble(("Voltflow ", "bold"), f"demo, {snapshot.running_s:.0f} s · {fleet_text(facts)}")
    return Group(
        head, _grid([(name, url) for name, url in facts.urls.items()]), Text(),
        _grid(_numbers(facts, snapshot)), Text(), _packs(snapshot.figures.packs),
        Text(f"logs: {facts.logs} · {facts.ends}", style="dim"),
    )  # fmt: skip


def _numbers(facts: Facts, snapshot: Snapshot) -> list[tuple[str, str]]:
    f = snapshot.figures
    made = "   ".join(f"{model} {f.predictions.get(model, 0)}" for model in PREDICTION_COLUMNS)
    return [
        ("messages", f"{f.received} at the agent, {snapshot.received_per_s:.0f} a second"),
        ("rows", f"{f.rows} in the database, {snapshot.rows_per_s:.0f} a second"),
        (
            "latency",
            f"p50 {_ms(f.p50_ms)}   p99 {_ms(f.p99_ms)}   from the device's publish to the row committed",
        ),
        ("predictions", made),
        (
            "alerts",
            f"{f.alerts} raised or cleared   dead letters {f.dead_letters}   redelivered {f.redelivered}",
        ),
        ("memory", _rss(snapshot.rss_mb)),
        ("uplink", f"{snapshot.uplink or 'whole'}   {f.spooled} messages wait in the gateway's spool"),
        *([("agent", snapshot.agent)] if snapshot.agent else []),
        ("broker", facts.broker),
    ]


def _grid(rows: Sequence[tuple[str, str]]) -> Table:
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="cyan", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, text in rows:
        grid.add_row(name, Text(text))
    return grid


def _packs(packs: Sequence[PackLine]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(
        title="packs that worry most", title_justify="left", title_style="bold", box=None, expand=True
    )
    for name in ("pack", "SoC %", "°C", "°C in 10 min", "RUL cycles", "failure %"):
        table.add_column(name, justify="left" if name == "pack" else "right", no_wrap=True)
    table.add_column("why", no_wrap=True, ratio=1)
    for pack in packs:
        numbers = (pack.soc_pct, pack.temp_c, pack.temp_predicted_c, pack.rul_efc, pack.failure_pct)
        digits = (0, 1, 1, 0, 1)
        shown = [_number(value, places) for value, places in zip(numbers, digits, strict=True)]
        table.add_row(Text(pack.name), *shown, Text(", ".join(pack.worries)))
    return table


def _number(value: float | None, places: int) -> str:
    return "–" if value is None else f"{value:.{places}f}"


def _ms(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f} ms"


def _rss(rss_mb: dict[str, float | None]) -> str:
    return "   ".join(f"{name} {'–' if mb is None else f'{mb:.0f} MB'}" for name, mb in rss_mb.items())
