"""`python -m bench.editor` counts what it says it counts; how fast anything is, is not asserted here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import do_without
from tests.editors import chromium, need_files
from tests.servers import REPOSITORY, Missing


@pytest.mark.slow
def test_quick_run_visits_measures_and_puts_its_table_into_a_page(tmp_path: Path) -> None:
    try:
        chromium()
        need_files()
    except Missing as reason:
        do_without(reason)
    page, report = tmp_path / "page.md", tmp_path / "editor"
    page.write_text(
        "before\n<!-- figures: python -m bench.editor --write -->\n<!-- end of editor -->\nafter\n"
    )
    command = [
        sys.executable,
        "-m",
        "bench.editor",
        "--quick",
        "--write",
        "--page",
        str(page),
        "--report",
        str(report),
    ]
    done = subprocess.run(command, check=False, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(report.with_suffix(".json").read_text())
    first, again = found["cold"][0], found["warm"][0]
    assert first["bytes"] > 10 * again["bytes"] > 0  # the browser keeps what it may
    assert min(*found["rss_mb"], *found["rss_open_mb"]) > 10
    assert {who: bool(windows[0]["shown"]) for who, windows in found["windows"].items()} == {
        "nobody": False, "elsewhere": True, "here": True,
    }  # fmt: skip
    assert "| … with the editor open" in page.read_text()
    assert page.read_text().startswith("before\n")
    assert page.read_text().endswith("after\n")
