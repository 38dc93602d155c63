"""The arithmetic of the ledger, without a database."""

import argparse
import datetime as dt
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voltflow.cli import main
from voltflow.ledger.cli import moment
from voltflow.ledger.ledger import Expected, LedgerError, Range, load_expected
from voltflow.ledger.ranges import Numbers, explain, flattened, holes

ranges = st.builds(lambda first, size: Range(first, first + size), st.integers(0, 60), st.integers(0, 12))


def numbers(found: list[Range]) -> list[int]:
    return sorted(n for item in found for n in range(item.first, item.last + 1))


@given(st.sets(st.integers(0, 60)), st.integers(0, 80))
def test_holes_are_what_is_left(present: set[int], end: int) -> None:
    singles = [(n, n) for n in sorted(present)]
    assert numbers(list(holes(singles, end))) == sorted(set(range(end)) - present)


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 12)), max_size=20), st.integers(0, 90))
def test_numbers_are_a_set(parts: list[tuple[int, int]], end: int) -> None:
    found, model = Numbers(), set[int]()
    for first, size in parts:
        more = set(range(first, first + size + 1))
        assert found.add(first, first + size) == len(more - model)
        model |= more
    assert (len(found), found.last, found.first) == (
        len(model),
        max(model, default=-1),
        min(model, default=None),
    )
    assert numbers(list(found.holes(3, end))) == sorted(set(range(3, end)) - model)
    kept = list(found.ranges())
    assert all(after[0] > before[1] + 1 for before, after in pairwise(kept))


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 9), st.integers(1, 3)), max_size=12))
def test_flattened_counts_each_number(parts: list[tuple[int, int, int]]) -> None:
    runs = [(first, first + size, copies) for first, size, copies in parts]
    counted: Counter[int] = Counter()
    for first, last, copies in runs:
        counted.update(dict.fromkeys(range(first, last + 1), copies))
    flat = flattened(runs)
    assert {n: copies for first, last, copies in flat for n in range(first, last + 1)} == counted
    assert flat == sorted(flat)


@given(st.lists(ranges, max_size=5), st.lists(ranges, max_size=5))
def test_explain_loses_and_doubles_no_number(holes: list[Range], reasons: list[Range]) -> None:
    missing, explained = explain(holes, reasons)
    covered = set(numbers(reasons))
    assert numbers([*missing, *explained]) == numbers(holes)
    assert not covered & set(numbers(missing))
    assert set(numbers(explained)) <= covered


def test_load_expected_reads_the_simulators_summary(tmp_path: Path) -> None:
    file = tmp_path / "sent.json"
    file.write_text(
        '{"packs": {"SIM1": {"boot": 7, "published": 10, "confirmed": 10, "more": 1}}, "seconds": 3}'
    )
    assert load_expected(file) == {"SIM1": Expected(7, 10, 10)}


def test_load_expected_names_the_file_and_the_field(tmp_path: Path) -> None:
    file = tmp_path / "sent.json"
    file.write_text('{"packs": {"SIM1": {"boot": "x"}}}')
    with pytest.raises(LedgerError, match=r"Expected `int`, got `str` - at `\$.packs\[...\].boot`"):
        load_expected(file)


def test_main_database_away_ends_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ledger", "verify", "--database", "postgresql://u@127.0.0.1:1/x"]) == 2
    assert "the database cannot be read" in capsys.readouterr().err


def test_main_without_a_database_says_what_to_set(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("VOLTFLOW_BRIDGE_DATABASE", raising=False)
    assert main(["ledger", "verify"]) == 2
    assert "use --database, VOLTFLOW_BRIDGE_DATABASE or `database`" in capsys.readouterr().err


def test_moment_takes_ages_and_dates() -> None:
    now = dt.datetime.now(dt.UTC)
    assert abs(now - dt.timedelta(hours=48) - moment("48h")) < dt.timedelta(minutes=1)
    assert moment("2026-03-01T12:00:00+02:00") == dt.datetime(2026, 3, 1, 10, tzinfo=dt.UTC)
    with pytest.raises(
        argparse.ArgumentTypeError, match=r"'yesterday' is not a time: use an age \(90m, 48h, 7d\)"
    ):
        moment("yesterday")
