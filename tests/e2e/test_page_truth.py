"""What the page says is so: what is so now and not what was, what did not come and what is not there, what nobody knows."""

from __future__ import annotations

from typing import Any

import pytest

from tests.e2e.site import STEP_MS, Device, PageWindow, Site, now_ms

PHONE = {"width": 390, "height": 844}
SHEETS = "() => [...document.styleSheets].filter(sheet => sheet.href?.includes('uPlot')).length"
LAID_OUT = "() => getComputedStyle(document.querySelector('#chart-voltage .u-over')).position === 'absolute'"


def test_alert_says_what_is_so_now(site: Site, window: Any) -> None:
    device = Device("RISING1")
    site.publish(device.birth(), device.reading(cell_temp_max_c=60.5))
    site.known(device.path)
    at = window().open()
    alert = at.page.locator("#wrong li.critical", has_text=device.path)
    alert.filter(has_text="60.5 °C now").wait_for()
    site.publish(device.reading(now_ms() + STEP_MS, cell_temp_max_c=97.0))
    alert.filter(has_text="97 °C now, 60.5 °C when raised").wait_for()
    at.shot("page-alert-now")
    site.publish(device.reading(now_ms() + 2 * STEP_MS, cell_temp_max_c=91.0))
    for view in ("/alerts", f"/pack/{device.path}"):
        at.open(view)
        at.page.locator(
            "[data-testid=alert]", has_text="91 °C now, 97 °C at the worst, 60.5 °C when raised"
        ).first.wait_for()
    site.publish(device.reading(now_ms() + 3 * STEP_MS))


@pytest.fixture
def parked(site: Site) -> Device:
    device = Device("CHARTS1")
    site.publish(*device.history(10), device.cells([25.0] * 8))
    site.known(device.path)
    return device


def to_pack(at: PageWindow, device: Device) -> None:
    """Without loading the page anew."""
    at.page.evaluate("hash => { location.hash = hash; }", f"#/pack/{device.path}")


def test_charts_and_3d_that_did_not_come_are_asked_for_again(site: Site, window: Any, parked: Device) -> None:
    at = window().open()
    at.page.wait_for_selector(f".line[data-pack='{parked.path}']")
    at.context.set_offline(True)
    to_pack(at, parked)
    at.page.locator("#charts-missing", has_text="did not come").wait_for()
    at.page.click("#cells-view-3d")
    at.page.locator("#pack3d", has_text="did not come").wait_for()
    assert "install" not in at.page.inner_text("#main")
    at.context.set_offline(False)
    at.page.wait_for_selector("#chart-voltage[data-points]")
    assert at.page.evaluate(SHEETS) == 1
    assert at.page.evaluate(LAID_OUT)
    at.page.wait_for_selector("#pack3d[data-renderer=webgl]")
    at.expected("ERR_")


def test_what_is_not_installed_is_said_to_be(site: Site, window: Any, parked: Device) -> None:
    at = window()
    at.page.route("**/vendor/**", lambda route: route.fulfill(status=404, body=""))
    at.open(f"/pack/{parked.path}")
    at.page.locator("#charts-missing", has_text="voltflow page install").wait_for()
    at.page.click("#cells-view-3d")
    at.page.locator("#pack3d", has_text="voltflow page install").wait_for()
    assert at.page.get_attribute("#pack3d", "data-renderer") == "2d"
    at.expected("404")


def test_pack_of_which_nothing_is_known_is_not_green(site: Site, window: Any) -> None:
    device = Device("BORN1")
    nothing = (
        "soc_pct",
        "cell_temp_min_c",
        "cell_temp_max_c",
        "cell_temp_avg_c",
        "pack_voltage_v",
        "pack_current_a",
    )
    site.publish(device.birth(), device.reading(**dict.fromkeys(nothing)))
    site.known(device.path)
    at = window().open("/?q=BORN1")
    at.page.locator(f".line[data-pack='{device.path}'] .dot.unknown").wait_for()
    assert "1 not known" in at.page.inner_text("#bands").replace("\n", " ")
