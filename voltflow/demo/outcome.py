"""What a run of the demo came to: the summary for programs, the verdict for people."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

from voltflow.demo.history import PREDICTION_COLUMNS


class Latency(msgspec.Struct):
    """From the device's publish to the row being committed, milliseconds; null when there was no row."""

    p50: float | None = None
    p99: float | None = None


class Memory(msgspec.Struct):
    """Resident memory at the end of the run, MB of 10⁶ bytes; null where the system does not tell."""

    agent: float | None = None
    bridge: float | None = None


class Summary(msgspec.Struct, kw_only=True):
    """What `--summary` writes. `startup_s`: from the start of the command to the first row with a prediction."""

    published: int
    rows: int
    missing: int
    duplicates: int
    dead_letters: int
    predictions: dict[str, int] = msgspec.field(default_factory=lambda: dict.fromkeys(PREDICTION_COLUMNS, 0))
    alerts: int
    latency_ms: Latency = msgspec.field(default_factory=Latency)
    rss_mb: Memory = msgspec.field(default_factory=Memory)
    startup_s: float | None = None


class Outcome(msgspec.Struct):
    """The summary and what a summary has no place for."""

    summary: Summary
    unclean: list[str] = []
    """Parts that did not end well, with their last lines."""
    errors: dict[str, list[str]] = {}
    """By log file, its lines that report an error."""

    @property
    def ok(self) -> bool:
        return not list(self.problems())

    def problems(self) -> Iterator[str]:
        """Why the demo does not count as a success; errors in the logs are shown, but do not decide."""
        s = self.summary
        if s.published == 0:
            yield "no message was published"
        if s.published != s.rows:
            yield f"{s.published} messages were published and {s.rows} became rows"
        if s.missing:
            yield f"{s.missing} messages are missing"
        if s.duplicates:
            yield f"{s.duplicates} rows are duplicates"
        yield from self.unclean

    def text(self) -> str:
        """For people."""
        s = self.summary
        made = ", ".join(f"{model} {count}" for model, count in s.predictions.items())
        counted = (
            f"published {s.published}, rows {s.rows}, missing {s.missing}, duplicates {s.duplicates},"
            f" dead letters {s.dead_letters}"
        )
        measured = (
            f"latency p50 {_shown(s.latency_ms.p50)} ms, p99 {_shown(s.latency_ms.p99)} ms;"
            f" memory agent {_shown(s.rss_mb.agent)} MB, bridge {_shown(s.rss_mb.bridge)} MB;"
            f" first prediction after {_shown(s.startup_s)} s"
        )
        lines = [counted, f"predictions: {made}; alerts {s.alerts}", measured, *self._error_lines()]
        problems = [f"NOT OK: {text}" for text in self.problems()]
        return "\n".join([*lines, *(problems or ["OK: every message that was published is exactly one row"])])

    def _error_lines(self) -> Iterator[str]:
        yield f"errors in the logs: {sum(map(len, self.errors.values()))}"
        for log, found in self.errors.items():
            yield f"  {log}: {len(found)}, the first: {found[0]}"

    def write(self, path: Path) -> None:
        """Write the summary as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(msgspec.json.format(msgspec.json.encode(self.summary)) + b"\n")


def _shown(value: float | None) -> str:
    return "–" if value is None else f"{value:g}"
