"""The page of a gateway with a simulated fleet; `make pictures` makes the pictures of the README of it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.site import STEP_MS, Device, Item, Site, now_ms
from tests.programs import device
from tests.servers import wait_until

PACKS = 24
SPEEDUP, HZ = 1200, 10
MORNING_H = 7
"""When vehicles are on the road and at chargers."""
LOOKS: dict[str, dict[str, Any]] = {
    "desktop": {"viewport": {"width": 1280, "height": 900}, "color_scheme": "light"},
    "phone": {"viewport": {"width": 390, "height": 844}, "color_scheme": "light", "device_scale_factor": 2, "has_touch": True},
    "dark": {"viewport": {"width": 1280, "height": 900}, "color_scheme": "dark"},
}  # fmt: skip


def hours() -> float:
    """Of device time that is to be seen: one, or for the README's pictures until the morning, so that every model has an
    answer and many packs are charged or driven."""
    if not os.environ.get("VOLTFLOW_PICTURES"):
        return 1.0
    now = time.gmtime()
    return (MORNING_H - now.tm_hour - now.tm_min / 60 - 4) % 24 + 4


@pytest.fixture(scope="module")
def fleet(site: Site) -> Iterator[Device]:
    """Packs that go on driving and charging, and one of which a part is hot: that one."""
    hot = Device("EV-0417")
    with device(site.broker, "run", "--packs", str(PACKS), "--hz", str(HZ), "--speedup", str(SPEEDUP), "--fleet", "depot",
                "--cells-s", "1", "--no-gaps"):  # fmt: skip
        messages = PACKS * hours() * 3600 / (SPEEDUP / HZ)
        wait_until(lambda: site.agent.get("/api/health")["messages"] >= messages, "the fleet's messages", 600)
        site.publish(*hot.history(40), *(heating(hot, i) for i in range(60)))
        site.publish(hot.cells([31.0, 32.5, 34.0, 37.5, 43.0, 61.5, 46.0, 38.0, 34.5, 33.0, 32.0, 31.0]))
        site.known(hot.path)
        yield hot


def heating(pack: Device, i: int) -> Item:
    return pack.reading(now_ms() + i * STEP_MS, cell_temp_max_c=round(26 + 35.5 * (i / 59) ** 2, 1), cell_temp_avg_c=25 + i / 8,
                        pack_current_a=96.0, soc_pct=62 + i / 4, pack_voltage_v=round(350 + i / 5, 1))  # fmt: skip


def busy(site: Site) -> str:
    """A pack that charges or drives, if possible one of which all models have said something."""
    rows = [row for row in site.agent.get("/api/packs?limit=100")["packs"] if row["worry"] < 100]
    return str(max(rows, key=lambda row: (row["rul_efc"] is not None, abs(row["power_kw"] or 0.0)))["name"])


@pytest.mark.parametrize("name", LOOKS)
def test_pack_of_a_fleet(window: Any, fleet: Device, name: str) -> None:
    at = window(**LOOKS[name])
    page = at.open("/").page
    page.wait_for_function("n => document.querySelectorAll('.line[data-pack]').length >= n", arg=10)
    page.locator("#wrong", has_text=fleet.path).wait_for()
    at.shot(f"picture-fleet-{name}")
    page.goto(f"{at.site.url}#/pack/{busy(at.site)}")
    page.wait_for_selector("#chart-power[data-points]")
    page.wait_for_selector("#cells-map [data-cell]")
    at.shot(f"picture-pack-{name}")


def test_pack_in_3d(window: Any, fleet: Device) -> None:
    at = window(viewport={"width": 1280, "height": 760})
    page = at.open(f"/pack/{fleet.path}").page
    page.wait_for_selector("#chart-power[data-points]")
    page.click("#cells-view-3d")
    page.click("#cells-by-temperature")
    page.wait_for_selector("#pack3d[data-frames]:not([data-frames='0'])")
    page.locator("#pack3d", has_text="61.5 °C").wait_for()
    page.focus("#pack3d canvas")
    page.keyboard.press("ArrowRight")
    page.locator(".pack3d-tip", has_text="61.5 °C").wait_for()
    at.shot("picture-3d", "#cells-section")
