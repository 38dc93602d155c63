"""The report of `bench.loss`: JSON for programs, Markdown for people and for `docs/loss.md`."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec

from bench.loss_run import SCENARIOS, Plan, Trial, title
from bench.loss_systems import SYSTEMS
from bench.report import _table as table
from bench.report import machine

PAGE = Path(__file__).resolve().parent.parent / "docs" / "loss.md"
BEGIN, END = "<!-- figures: python -m bench.loss --write -->", "<!-- end of figures -->"
BUSY_LOAD = 1.0
COLUMNS = ("system", "QoS", "sent", "lost", "of them named", "doubled", "out of order: all / live / replayed",
           "again after s", "all there after s", "in the spool: messages, MB written, fsyncs")  # fmt: skip


class Report(msgspec.Struct, kw_only=True):
    """All trials of a run."""

    command: str
    plan: Plan
    rounds: int
    machine: dict[str, str] = msgspec.field(default_factory=lambda: {**machine(), "node-red": _node_red()})
    trials: list[Trial] = []

    def write(self, path: Path) -> None:
        """FILE.json and FILE.md, whatever ending `path` has."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".json").write_bytes(
            msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n"
        )
        path.with_suffix(".md").write_text(self.markdown())

    def markdown(self) -> str:
        """A table for each scenario."""
        m, plan = self.machine, self.plan
        parts = [
            f"`{self.command}`, {m['date']}: {m['cpu']}, {m['cores']} cores (load average before: {m['load_before']}), "
            f"{m['system']}. Python {m['python']}, mosquitto {m['mosquitto']}, Node.js {m['node']}, Node-RED {m['node-red']}. "
            f"{plan.rate:,.0f} messages/s of {plan.packs} packs"
            + (f"; {self.rounds} rounds: median (least–most)." if self.rounds > 1 else "; one round.")
            + shared(m)
        ]
        for name in SCENARIOS:
            found = [trial for trial in self.trials if trial.scenario == name]
            if found:
                parts += [f"**{name}: {title(name, plan)}**", table(COLUMNS, _rows(found))]
        return "\n\n".join(parts) + "\n"


def shared(found: dict[str, str]) -> str:
    """What figures of a busy machine have to say of themselves; empty: it had next to nothing else to do."""
    busy = float(found["load_before"].split()[0]) > BUSY_LOAD
    return " The machine had other work to do meanwhile: times say little." if busy else ""


def put_into(page: Path, begin: str, end: str, text: str) -> None:
    """The text between the two marks of a page."""
    whole = page.read_text()
    if begin not in whole or end not in whole:
        raise ValueError(f"{page} has no place for figures: it needs the lines {begin} and {end}")
    before, after = whole.partition(begin)[0], whole.partition(begin)[2].partition(end)[2]
    page.write_text(f"{before}{begin}\n\n{text}\n{end}{after}")


def _rows(trials: list[Trial]) -> Iterable[list[str]]:
    groups: dict[tuple[str, int], list[Trial]] = {}
    for trial in trials:
        groups.setdefault((trial.system, trial.qos), []).append(trial)
    for name, qos in sorted(groups, key=lambda group: (group[1], list(SYSTEMS).index(group[0]))):
        yield [SYSTEMS[name].title, str(qos), *_figures(groups[name, qos])]


def _figures(trials: list[Trial]) -> list[str]:
    found = [trial for trial in trials if not trial.error]
    if not found:
        return [trials[0].error.partition("\n")[0][:60], *[""] * (len(COLUMNS) - 3)]
    return [
        _span(found, lambda t: t.published), _span(found, lambda t: t.lost), _span(found, lambda t: t.explained),
        _span(found, lambda t: t.doubled),
        " / ".join((_span(found, lambda t: t.disordered), _span(found, lambda t: t.disordered_live),
                    _span(found, lambda t: t.disordered_replayed))),
        _recovered(found, "again_s"), _recovered(found, "all_there_s"), _spool(found),
    ]  # fmt: skip


def _span(trials: list[Any], value: Callable[[Any], float], digits: int = 0) -> str:
    values = [value(trial) for trial in trials]
    text = f"{statistics.median(values):,.{digits}f}"
    return (
        text
        if min(values) == max(values)
        else f"{text} ({min(values):,.{digits}f}–{max(values):,.{digits}f})"
    )


def _recovered(trials: list[Trial], name: str) -> str:
    """Over all faults of all rounds; the load may end before a system comes back to take anything more."""
    found = [recovery for trial in trials for recovery in trial.recoveries if recovery]
    faults = sum(len(trial.recoveries) for trial in trials)
    never = f", {faults - len(found)} × never" if len(found) < faults else ""
    return _span(found, lambda recovery: float(getattr(recovery, name)), 1) + never if found else "never"


def _spool(trials: list[Trial]) -> str:
    if not trials[0].spool:
        return "–"
    parts = [_span(trials, lambda t: t.spool["appended"]), _span(trials, lambda t: t.spool["bytes_written"] / 1e6, 1),
             _span(trials, lambda t: t.spool["fsyncs"])]  # fmt: skip
    left = max(trial.spool["left_messages"] for trial in trials)
    return ", ".join(parts) + (f"; {left:,} still there" if left else "")


def _node_red() -> str:
    path = Path(__file__).resolve().parent / "npm" / "node_modules" / "node-red" / "package.json"
    return str(msgspec.json.decode(path.read_bytes())["version"]) if path.exists() else "not installed"
