"""What the demo shows and writes: the screen, the lines, the summary, the verdict."""

from __future__ import annotations

import io
import json
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from voltflow.demo.figures import Figures, PackLine
from voltflow.demo.outcome import Outcome, Summary
from voltflow.demo.view import Facts, LineView, ScreenView, Snapshot, make_view

FACTS = Facts(
    urls={"page": "http://127.0.0.1:5002/"}, broker="embedded iotcore", packs=20, hz=10.0, speedup=300.0,
    logs=".voltflow/logs", ends="ends at Ctrl-C",
)  # fmt: skip
FIGURES = Figures(
    received=2100, rows=2000, dead_letters=3, alerts=2, predictions={"soh": 4, "temperature": 1999},
    p50_ms=6.25, p99_ms=45.0,
    packs=[PackLine("demo/SIM000001", 40, ["info: [nearly] empty"], 3.0, 17.0, 18.04, None, 0.3)],
)  # fmt: skip
SNAPSHOT = Snapshot(12.0, FIGURES, 201.0, 199.0, {"agent": 91.0, "bridge": None})


def console(*, terminal: bool) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=120, height=40, color_system=None)


def written(to: Console) -> str:
    assert isinstance(to.file, io.StringIO)
    return to.file.getvalue()


def test_the_screen_shows_rates_latency_predictions_packs_memory_and_broker() -> None:
    to = console(terminal=True)
    with make_view(FACTS, to) as view:
        assert isinstance(view, ScreenView)
        view.show(SNAPSHOT)
    text = written(to)
    for part in (
        "http://127.0.0.1:5002/", "2000 in the database, 199 a second", "p50 6.2 ms", "p99 45.0 ms",
        "soh 4   temperature 1999   rul 0   failure 0", "dead letters 3", "agent 91 MB", "embedded iotcore",
        "demo/SIM000001", "info: [nearly] empty", "18.0",
    ):  # fmt: skip
        assert part in text


def test_on_a_narrow_terminal_the_pack_s_name_is_whole() -> None:
    to = Console(file=io.StringIO(), force_terminal=True, width=80, height=40, color_system=None)
    with make_view(FACTS, to) as view:
        view.show(SNAPSHOT)
    assert "demo/SIM000001" in written(to)


def test_without_a_terminal_there_are_plain_lines() -> None:
    to = console(terminal=False)
    with make_view(FACTS, to) as view:
        assert isinstance(view, LineView)
        view.show(SNAPSHOT)
        view.show(SNAPSHOT)  # a line every few seconds
    lines = written(to).splitlines()
    assert len(lines) == 3
    assert lines[-1].startswith(
        "   12 s  2000 rows, 199/s, latency p50 6.2 ms p99 45.0 ms, predictions: soh 4"
    )
    assert "\x1b" not in written(to)


def test_before_the_first_row_nothing_is_made_up() -> None:
    to = console(terminal=False)
    with LineView(FACTS, to) as view:
        view.show(Snapshot(0.0, Figures()))
    assert "latency p50 – p99 –" in written(to)


def test_the_summary_has_exactly_the_promised_keys(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "demo.json"
    Outcome(Summary(published=1, rows=1, missing=0, duplicates=0, dead_letters=0, alerts=0)).write(path)
    summary = json.loads(path.read_text())
    keys = "published rows missing duplicates dead_letters predictions alerts latency_ms rss_mb startup_s"
    assert list(summary) == keys.split()
    assert list(summary["predictions"]) == ["soh", "temperature", "rul", "failure"]
    assert (list(summary["latency_ms"]), list(summary["rss_mb"])) == (["p50", "p99"], ["agent", "bridge"])


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({}, None),
        ({"published": 0, "rows": 0}, "no message was published"),
        ({"rows": 9}, "10 messages were published and 9 became rows"),
        ({"missing": 1}, "1 messages are missing"),
        ({"duplicates": 2}, "2 rows are duplicates"),
    ],
)
def test_the_verdict(change: dict[str, int], problem: str | None) -> None:
    good = Summary(published=10, rows=10, missing=0, duplicates=0, dead_letters=0, alerts=0)
    outcome = Outcome(msgspec.structs.replace(good, **change))
    assert list(outcome.problems()) == ([problem] if problem else [])
    assert ("NOT OK" in outcome.text()) is bool(problem)


def test_a_part_that_did_not_end_well_is_a_problem_and_an_error_in_a_log_is_shown() -> None:
    summary = Summary(published=10, rows=10, missing=0, duplicates=0, dead_letters=0, alerts=0)
    assert not Outcome(summary, unclean=["bridge ended with exit code 1"]).ok
    outcome = Outcome(summary, errors={"agent.log": ["ERROR a", "ERROR b"]})
    assert outcome.ok
    assert "errors in the logs: 2\n  agent.log: 2, the first: ERROR a" in outcome.text()
