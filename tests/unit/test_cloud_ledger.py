"""The arithmetic of the ledger, without a database."""

import argparse
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voltflow.ledger import Expected, LedgerError, Range, _holes, explain, load_expected, main

ranges = st.builds(lambda first, size: Range(first, first + size), st.integers(0, 60), st.integers(0, 12))


def numbers(found: list[Range]) -> list[int]:
    return sorted(n for item in found for n in range(item.first, item.last + 1))


@given(st.sets(st.integers(0, 60)), st.integers(0, 80))
def test_holes_are_what_is_left(present: set[int], end: int) -> None:
    singles = [(n, n) for n in sorted(present)]
    everything = range(max(end, max(present, default=-1) + 1))
    assert numbers(list(_holes(singles, end))) == sorted(set(everything) - present)


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
    args = argparse.Namespace(database="postgresql://u@127.0.0.1:1/x", config=None, expected=None, json=False)
    assert main(args) == 2
    assert "the database cannot be read" in capsys.readouterr().err


def test_main_without_a_database_says_what_to_set(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("VOLTFLOW_BRIDGE_DATABASE", raising=False)
    args = argparse.Namespace(database=None, config=None, expected=None, json=False)
    assert main(args) == 2
    assert "use --database, VOLTFLOW_BRIDGE_DATABASE or `database`" in capsys.readouterr().err
