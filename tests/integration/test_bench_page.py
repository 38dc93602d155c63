"""`python -m bench.page` asks what it says it asks; how fast anything is, is not asserted here."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bench.page import LOOKERS, REQUESTS
from tests.servers import REPOSITORY


@pytest.mark.slow
def test_a_small_run_puts_its_tables_into_a_page(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- figures: python -m bench.page --write -->\n<!-- end of page -->\nafter\n")
    command = [sys.executable, "-m", "bench.page", "--packs", "130", "--seconds", "1", "--rounds", "1"]
    done = subprocess.run(
        [*command, "--write", "--page", str(page)],
        check=False,
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    text = page.read_text()
    assert [name for name in (*REQUESTS, *LOOKERS) if f"| {name} " not in text] == []
    rows = {
        line.split("|")[1].strip(): line.split("|") for line in text.splitlines() if line.startswith("| ")
    }
    assert [rows[name][2].strip() for name in REQUESTS] == ["100", "130", "130", "10"]
    assert float(rows["1,000 by name"][3]) < float(rows["1,000 by name"][4]) / 4, "what is sent is compressed"
    assert (text.startswith("before\n"), text.endswith("after\n")) == (True, True)
