"""What `bench.editor` gave: JSON for programs, a table for people."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import msgspec

from bench.loss_report import shared
from bench.report import _table as table
from bench.report import _version, machine
from tests.editors import chromium

BEGIN, END = "<!-- figures: python -m bench.editor --write -->", "<!-- end of editor -->"
USABLE_S, MEMORY_MB, SHARE = 2.0, 130.0, 0.9
"""The targets."""

Who = Literal["nobody", "elsewhere", "here"]
LOOKING: dict[Who, str] = {
    "nobody": "nobody looks, the debug node is off",
    "elsewhere": "an editor on another machine, the debug node is on",
    "here": "the editor in Chromium on this machine, the debug node is on",
}


class Visit(msgspec.Struct, frozen=True):
    """One time that the editor was opened: until it could be used, and what it asked the gateway for."""

    usable_s: float
    requests: int
    bytes: int


class Window(msgspec.Struct, frozen=True):
    """Some seconds at full speed. `cpu_us`: of the agent, a message. `shown`: debug messages that reached who looked."""

    messages_s: float
    cpu_us: float
    shown: int
    lost: int
    doubled: int


class Figures(msgspec.Struct, kw_only=True):
    """A whole run; windows of one round stand at the same place of their lists."""

    command: str
    packs: int
    rate: float
    load_packs: int
    machine: dict[str, str] = msgspec.field(
        default_factory=lambda: {**machine(), "chromium": _version([chromium(), "--version"])}
    )
    cold: list[Visit] = []
    warm: list[Visit] = []
    rss_mb: list[float] = []
    rss_open_mb: list[float] = []
    windows: dict[Who, list[Window]] = msgspec.field(default_factory=lambda: {who: [] for who in LOOKING})

    @classmethod
    def read(cls, path: Path) -> Figures:
        return msgspec.json.decode(path.read_bytes(), type=cls)

    def write(self, path: Path) -> None:
        """FILE.json and FILE.md, whatever ending `path` has."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".json").write_bytes(
            msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n"
        )
        path.with_suffix(".md").write_text(self.markdown())

    @property
    def is_sound(self) -> bool:
        """Whether every message came once, and whoever looked saw some."""
        return all(
            not window.lost and not window.doubled and bool(window.shown) == (who != "nobody")
            for who, windows in self.windows.items()
            for window in windows
        )

    def share(self, who: Who) -> list[float]:
        """Of the messages/s without anybody looking, by round."""
        pairs = zip(self.windows[who], self.windows["nobody"], strict=True)
        return [seen.messages_s / alone.messages_s for seen, alone in pairs]

    # -- for people -------------------------------------------------------------------------------------------------

    def markdown(self) -> str:
        m = self.machine
        head = (
            f"`{self.command}`, {m['date']}: {m['cpu']}, {m['cores']} cores (load average before: {m['load_before']}), "
            f"{m['system']}. Python {m['python']}, mosquitto {m['mosquitto']}, Chromium {m['chromium']}. "
            f"Median (least–most).{shared(m)}"
        )
        return f"{head}\n\n{table(('what', 'measured', 'target'), self._rows())}\n"

    def _rows(self) -> Iterator[tuple[str, str, str]]:
        for name, visits in (("first visit, nothing cached", self.cold), ("visited again", self.warm)):
            yield f"usable after, s: {name}", _span([v.usable_s for v in visits], 2), f"< {USABLE_S:g}"
            size = statistics.median(v.bytes for v in visits) / 1e6
            yield "… requests; MB", f"{statistics.median(v.requests for v in visits):g}; {size:.2f}", ""
        load = f"{self.packs} packs, {self.rate:g} messages/s"
        yield f"agent's memory, MB, {load}: no editor was open", _span(self.rss_mb, 0), ""
        yield "… with the editor open", _span(self.rss_open_mb, 0), f"≤ {MEMORY_MB:g}"
        for who, title in LOOKING.items():
            windows = self.windows[who]
            yield (
                f"messages/s, {self.load_packs:,} packs: {title}",
                _span([w.messages_s for w in windows], 0),
                "",
            )
            yield "… CPU µs a message", _span([w.cpu_us for w in windows], 1), ""
            if who != "nobody":
                yield "… of those without", _span(self.share(who), 2), f"≥ {SHARE:g}"
        every = [window for windows in self.windows.values() for window in windows]
        yield "lost; doubled", f"{sum(w.lost for w in every):,}; {sum(w.doubled for w in every):,}", "0; 0"


def _span(values: list[float], digits: int) -> str:
    """The median, and the least and the most where there is more than one."""
    text = f"{statistics.median(values):,.{digits}f}"
    return text if len(values) == 1 else f"{text} ({min(values):,.{digits}f}–{max(values):,.{digits}f})"
