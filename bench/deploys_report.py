"""What `bench.deploys` gave: JSON for programs, tables for people."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from pathlib import Path

import msgspec
import numpy as np

from bench.deploys_flow import CHANGES, HELD_ENDS
from bench.loss_account import Account
from bench.loss_report import shared
from bench.report import _table as table
from bench.report import machine
from bench.soak_report import Latency

BEGIN, END = "<!-- figures: python -m bench.deploys --write -->", "<!-- end of deploys -->"
AFTER_S = 0.5
"""What the subscriber sees of a deploy is looked for until so long after its answer, or until the next one."""


class Done(msgspec.Struct, kw_only=True):
    """One deploy, from its request to its answer (CLOCK_MONOTONIC). `pause_s`: how long the engine let its sources wait;
    `silence_ms`, `latency_ms`: the longest at the subscriber, of messages that no node holds."""

    what: str
    kind: str
    begin_s: float
    end_s: float
    pause_s: float = 0.0
    refused: str = ""
    wrong: bool = False
    """It was to be refused."""
    silence_ms: float = 0.0
    latency_ms: float = 0.0

    @property
    def as_it_should(self) -> bool:
        return bool(self.refused) == self.wrong


class Storm(msgspec.Struct, kw_only=True):
    """A whole run. `quiet`, `quiet_silence_ms`: the same while no deploy was under way or just over."""

    command: str
    minutes: float
    rate: float
    period_s: float
    machine: dict[str, str] = msgspec.field(default_factory=machine)
    published: int = 0
    lost: int = 0
    explained: int = 0
    doubled: int = 0
    disordered: int = 0
    deploys: list[Done] = []
    engine_deploys: int = 0
    quiet: Latency = Latency()
    all: Latency = Latency()
    quiet_silence_ms: float = 0.0
    complaints: list[str] = []
    """What the agent's log has at WARNING or ERROR, without its times."""

    @classmethod
    def read(cls, path: Path) -> Storm:
        return msgspec.json.decode(path.read_bytes(), type=cls)

    def write(self, path: Path) -> None:
        """FILE.json and FILE.md, whatever ending `path` has."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".json").write_bytes(msgspec.json.encode(self) + b"\n")
        path.with_suffix(".md").write_text(self.markdown())

    @property
    def sound(self) -> bool:
        """Nothing lost, doubled or out of order, and each deploy went as it should."""
        return not (self.lost or self.doubled or self.disordered) and all(
            done.as_it_should for done in self.deploys
        )

    def account_for(self, account: Account) -> None:
        """All figures that need every message."""
        self.published, self.lost, self.explained = account.published, account.lost, account.explained
        self.doubled, self.disordered = account.doubled, account.disordered()
        firsts = account.firsts[~np.isin(account.firsts["pack"] % 10, [int(end) for end in HELD_ENDS])]
        came_s, sent_s = firsts["at_s"], account.sent_s[account.place(firsts)]
        took_ms = (came_s - sent_s) * 1000.0
        apart_ms, calm_gaps = np.diff(came_s) * 1000.0, np.ones(max(0, len(came_s) - 1), dtype=bool)
        calm = np.ones(len(came_s), dtype=bool)
        nexts_s = [*(done.begin_s for done in self.deploys[1:]), np.inf]
        for done, next_s in zip(self.deploys, nexts_s, strict=True):
            end_s = min(done.end_s + AFTER_S, next_s)
            during = (sent_s < end_s) & (came_s > done.begin_s)
            gaps = (came_s[:-1] < end_s) & (came_s[1:] > done.begin_s)
            done.latency_ms, done.silence_ms = _most(took_ms[during]), _most(apart_ms[gaps])
            calm[during] = calm_gaps[gaps] = False
        self.quiet, self.all = Latency.of(took_ms[calm]), Latency.of(took_ms)
        self.quiet_silence_ms = _most(apart_ms[calm_gaps])

    # -- for people -------------------------------------------------------------------------------------------------

    def markdown(self) -> str:
        m = self.machine
        head = (
            f"`{self.command}`, {m['date']}: {m['cpu']}, {m['cores']} cores (load average before: {m['load_before']}), "
            f"{m['system']}. Python {m['python']}, mosquitto {m['mosquitto']}.{shared(m)}"
        )
        columns = ("what is changed", "deploys", "pause ms", "silence ms", "longest way ms")
        return f"{head}\n\n{table(('what', 'measured'), self._rows())}\n\nMedian / longest:\n\n{table(columns, self._kinds())}\n"

    def _rows(self) -> list[tuple[str, str]]:
        refused = [done for done in self.deploys if done.refused]
        made = [done for done in self.deploys if not done.refused]
        return [
            ("messages sent; lost; of them named; doubled; out of order",
             f"{self.published:,}; {self.lost:,}; {self.explained:,}; {self.doubled:,}; {self.disordered:,}"),
            ("deploys; refused as they should; otherwise than they should",
             f"{len(made)}; {sum(done.wrong for done in refused)}; {sum(not done.as_it_should for done in self.deploys)}"),
            ("pause of the sources, ms, median / longest", _span([done.pause_s * 1000 for done in made])),
            ("request to answer, ms, median / longest", _span([(done.end_s - done.begin_s) * 1000 for done in made])),
            ("silence at the subscriber, ms, median / longest; longest without a deploy",
             f"{_span([done.silence_ms for done in made])}; {self.quiet_silence_ms:.0f}"),
            ("longest way of a message at a deploy, ms, median / longest", _span([done.latency_ms for done in made])),
            ("messages' way, ms p50 / p99 / longest: without a deploy", str(self.quiet)),
            ("… all of them", str(self.all)),
            ("complaints in the agent's log", f"{len(self.complaints)}"),
        ]  # fmt: skip

    def _kinds(self) -> Iterable[tuple[str, ...]]:
        for change in CHANGES:
            found = [done for done in self.deploys if done.what == change.what]
            if found:
                refused = " (refused)" if change.wrong else ""
                yield (
                    f"{change.what}{refused}", str(len(found)), _span([done.pause_s * 1000 for done in found]),
                    _span([done.silence_ms for done in found]), _span([done.latency_ms for done in found]),
                )  # fmt: skip


def _most(values: np.ndarray) -> float:
    return float(values.max()) if len(values) else 0.0


def _span(values: list[float]) -> str:
    return f"{statistics.median(values):.1f} / {max(values):.1f}" if values else "–"
