"""`python -m bench.scrape` counts what it says it counts; how fast anything is, is not asserted here."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.loss_report import put_into
from bench.report import machine
from bench.scrape import ALL, BEGIN, END, PAGE, measure, render
from edge.metrics import PACK_GAUGES
from tests import servers
from tests.conftest import do_without


@pytest.mark.slow
def test_a_series_of_each_pack_is_what_the_limit_keeps_out(tmp_path: Path) -> None:
    try:
        one, each = measure(3, 1, 1), measure(3, ALL, 1)
    except servers.Missing as reason:
        do_without(reason)
    more = each.series - one.series
    assert 2 * 8 <= more <= 2 * len(PACK_GAUGES)  # of two packs, what is known of them
    assert each.bytes > one.bytes > 1000
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\n{END}\nafter\n")
    put_into(page, BEGIN, END, render([one, each], machine()))
    text = page.read_text()
    assert f"| {each.series:,} " in text
    assert "With 3 packs, series of each are" in text
    assert text.startswith("before\n")
    assert text.endswith("after\n")


def test_the_page_has_a_place_for_it() -> None:
    text = PAGE.read_text()
    assert BEGIN in text
    assert END in text
