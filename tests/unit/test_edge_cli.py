"""The command `edge-agent`: what `check` finds before a start, and what it prints where a pipe ends."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from edge.cli import main


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # no voltflow.toml of the developer's


def test_check_loads_the_models(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check"]) == 0
    printed = capsys.readouterr().out
    assert "ready to run" in printed
    assert all(f"{name} " in printed for name in ("soh", "temperature", "rul", "failure"))


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--models-dir", "model soh: cannot read /nope/soh"),
        ("--flow", "flow = '/nope' cannot be read: No such file or directory"),
    ],
)
def test_check_names_what_is_not_there(option: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", option, "/nope"]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("command", [["edge.cli", "config"], ["voltflow.cli", "nodes", "--json"]])
def test_a_reader_that_has_seen_enough_is_no_error(command: list[str]) -> None:
    """The pipe's reading end is closed before anything is written."""
    process = subprocess.Popen(
        [sys.executable, "-m", *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait(30) == 0
