"""Ten thousand packs on the page."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.e2e.site import Device, Site
from tests.e2e.window import ARTIFACTS
from tests.servers import wait_until

PACKS = 10_000
FEW = 300
"""More than the page asks for at once; of so many the gateway makes the order anew each second."""
MOST_ROWS = 80
"""Elements for rows that a list of any length may have."""
SCROLL = """async () => {
    const times = [], end = document.documentElement.scrollHeight, steps = 90;
    let most = 0, before = performance.now();
    for (let i = 1; i <= steps; i += 1) {
        scrollTo({top: (end * i) / steps, behavior: 'instant'});
        await new Promise(requestAnimationFrame);
        const now = performance.now();
        times.push(now - before);
        before = now;
        most = Math.max(most, document.querySelectorAll('#packs .rows .line').length);
    }
    return {times, most};
}"""


@pytest.fixture(scope="module")
def few(site: Site) -> list[Device]:
    """The first of them; the gateway has them."""
    return arrived(site, range(FEW))


@pytest.fixture(scope="module")
def fleet(site: Site, few: list[Device]) -> list[Device]:
    """All of them."""
    return few + arrived(site, range(FEW, PACKS))


def arrived(site: Site, numbers: range) -> list[Device]:
    devices = [Device(f"EV{i:05d}") for i in numbers]
    site.publish(*(device.reading(soc_pct=20 + i % 70) for i, device in zip(numbers, devices, strict=True)))
    wait_until(
        lambda: site.agent.get("/api/health")["packs"] == numbers.stop,
        f"{numbers.stop} packs at the gateway",
        60,
    )
    return devices


def test_worrying_pack_comes_to_the_top(site: Site, window: Any, few: list[Device]) -> None:
    """From a part of the list that the page has not asked for."""
    at = window().open()
    page = at.page
    page.wait_for_selector(".line[data-pack]")
    device = few[250]
    site.publish(device.reading(cell_temp_max_c=63.0))
    page.wait_for_selector(f".line[aria-rowindex='2'][data-pack='{device.path}']")
    page.locator("#wrong", has_text=device.path).wait_for()


def test_list_of_ten_thousand_scrolls(site: Site, window: Any, fleet: list[Device]) -> None:
    at = window().open("/?sort=name")
    page = at.page
    page.locator("#packs-count", has_text="10,000").wait_for()
    page.wait_for_selector(f".line[data-pack='{fleet[0].path}']")
    seen = page.evaluate(SCROLL)
    assert seen["most"] <= MOST_ROWS
    page.wait_for_selector(f".line[data-pack='{fleet[-1].path}']")
    assert page.get_attribute(f".line[data-pack='{fleet[-1].path}']", "aria-rowindex") == str(PACKS + 1)
    times = sorted(seen["times"])
    figures = {
        name: round(times[int(part * (len(times) - 1))], 1)
        for name, part in (("p50", 0.5), ("p95", 0.95), ("max", 1))
    }
    (ARTIFACTS / "page-fleet-frames.json").write_text(
        json.dumps({"packs": PACKS, "rows": seen["most"], "frame_ms": figures})
    )
    at.shot("page-10000-packs")


def test_search_finds_one_of_ten_thousand(site: Site, window: Any, fleet: list[Device]) -> None:
    at = window(viewport={"width": 390, "height": 844}).open()
    page = at.page
    page.fill("#search", "ev07777")
    page.wait_for_selector(f".line[data-pack='{fleet[7777].path}']")
    page.wait_for_function("() => document.querySelectorAll('#packs .rows .line').length === 1")
    assert at.overflow() == 0
    page.press("#search", "Enter")
    page.wait_for_selector("#view[data-view=pack]")
    assert page.inner_text("#pack-name") == fleet[7777].path
