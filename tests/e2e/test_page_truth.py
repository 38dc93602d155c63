"""What the page says is so: what is so now and not what was, what did not come and what is not there, what nobody knows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Use
from tests.e2e.site import STEP_MS, Device, PageWindow, Site, now_ms
from tests.programs import Agent
from tests.servers import Mosquitto

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


@pytest.fixture(scope="module")
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


VINS = ("WVWZZZ1KZAW-WITH-THE-LONG-WHEELBASE-000000", "WVWZZZ1KZAW-WITH-THE-LONG-WHEELBASE-000001")


@pytest.mark.parametrize("viewport", [{"width": 1280, "height": 800}, PHONE])
def test_two_vehicles_are_told_apart_in_the_list(site: Site, window: Any, viewport: dict[str, int]) -> None:
    devices = [Device(vin) for vin in VINS]
    for device in devices:
        site.publish(device.birth(), device.reading())
        site.known(device.path)
    at = window(viewport=viewport).open("/?q=WVWZZZ")
    for device in devices:
        name = at.page.locator(f".line[data-pack='{device.path}'] .name")
        name.locator(f"a[title='{device.path}']").wait_for()
        end = name.locator(".last")
        assert end.inner_text() == device.name[-6:]
        cell, last = name.bounding_box(), end.bounding_box()
        assert last["x"] + last["width"] <= cell["x"] + cell["width"] + 1
    at.shot(f"page-vins-{viewport['width']}")


VALUES_OVERLAP = """line => {
    const boxes = [...line.querySelectorAll('.value')].map(v => v.getBoundingClientRect()).filter(box => box.width);
    const end = line.getBoundingClientRect().right;
    return boxes.some((box, i) => box.right > (boxes[i + 1]?.left ?? end));
}"""


@pytest.mark.parametrize("width", [390, 360])
def test_values_of_a_worrying_pack_are_beside_each_other(site: Site, window: Any, width: int) -> None:
    device = Device(f"BAD{width}")
    site.publish(device.birth(), device.reading(soc_pct=12.0, cell_temp_max_c=66.0))
    site.known(device.path)
    at = window(viewport={"width": width, "height": 844}).open(f"/?q={device.name}")
    line = at.page.locator(f".line[data-pack='{device.path}']")
    line.locator(".soc", has_text="▲ 12 %").wait_for()
    assert not line.evaluate(VALUES_OVERLAP)
    at.shot(f"page-values-{width}")
    site.publish(device.reading(now_ms() + STEP_MS))


WATCH = """() => {
    window.seen = [];
    const told = () => {
        const fact = [...document.querySelectorAll('#pack-values div')].find(e => e.firstChild.textContent === 'Hottest in 10 min');
        window.seen.push([fact.lastChild.textContent, document.querySelector('[data-testid=gauge-temperature] small').textContent]);
    };
    new MutationObserver(told).observe(document.getElementById('pack-values'), {subtree: true, childList: true, characterData: true});
}"""


def test_one_screen_says_one_thing(site: Site, window: Any) -> None:
    device = Device("SAME1")
    site.publish(*device.history(10))
    site.known(device.path)
    at = window().open(f"/pack/{device.path}")
    at.page.locator("#pack-values", has_text="Hottest in 10 min").wait_for()
    at.page.evaluate(WATCH)
    for step in range(1, 4):
        temp_c = 26.0 + 5 * step
        site.publish(device.reading(now_ms() + step * STEP_MS, cell_temp_max_c=temp_c))
        at.page.locator("[data-testid=gauge-temperature] b", has_text=f"{temp_c} °C").wait_for()
    seen = at.page.evaluate("() => window.seen")
    assert seen
    assert [note for _, note in seen] == [f"{fact} in 10 minutes" for fact, _ in seen]


def test_impossible_value_is_said_to_be(site: Site, window: Any) -> None:
    device = Device("IMPOSSIBLE1")
    site.publish(device.birth(), device.reading(cell_temp_max_c=900.0))
    site.known(device.path)
    at = window().open(f"/pack/{device.path}")
    at.page.locator("[data-testid=gauge-temperature] small", has_text="impossible").wait_for()
    at.page.locator("#pack-worries", has_text="impossible and left out: hottest cell").wait_for()


WIDE = "() => [...document.querySelectorAll('.scroll')].filter(e => e.scrollWidth > e.clientWidth + 1).map(e => e.ariaLabel)"


def test_tables_fit_on_a_phone(site: Site, window: Any, parked: Device) -> None:
    at = window(viewport=PHONE)
    at.open(f"/pack/{parked.path}")
    at.page.wait_for_selector("#sessions-table tbody tr")
    at.page.wait_for_selector("#comparison tbody tr.below")
    assert at.page.evaluate(WIDE) == []
    at.shot("page-tables-phone", "#compare-section")
    at.shot("page-sessions-phone", "#sessions-section")
    at.open("/gateway")
    at.page.wait_for_selector("#flow tbody tr")
    assert at.page.evaluate(WIDE) == []
    at.shot("page-flow-phone", "#flow-section")


def test_name_that_no_pack_can_have_is_said_to_be_wrong(site: Site, window: Any) -> None:
    at = window().open("/pack/depot/NOPE/x")
    at.page.locator("#pack-absent:visible").wait_for()
    assert not at.page.is_visible("#gauges")
    at.expected("400", "404")


@pytest.fixture
def quick(site: Site, own: Use[Agent], tmp_path: Path) -> Site:
    """A gateway that calls packs silent after a second."""
    return Site(site.broker, own(Agent(site.broker, tmp_path, "--gateway", "quick", "--silent-after-s", "1")))


def test_silent_pack_is_named_and_its_values_are_old(quick: Site, window: Any) -> None:
    device = Device("GONE1")
    quick.publish(device.birth(), device.reading(soc_pct=80.0))
    quick.known(device.path)
    at = window(quick).open()
    away = at.page.locator("#wrong li[data-code=away]")
    away.filter(has_text="silent").filter(has_text=device.path).wait_for()
    assert "Nothing is wrong" not in at.page.inner_text("#wrong")
    assert at.page.inner_text("#health") == "gateway ok" or "no telemetry" in at.page.inner_text("#wrong")
    at.shot("page-away")
    at.open(f"/pack/{device.path}")
    at.page.locator(".gauges.old [data-testid=gauge-soc] .word", has_text="ago").wait_for()
    at.page.locator("#pack-state", has_text="silent").wait_for()
    at.shot("page-old")


def test_nodes_are_as_well_as_their_broker(window: Any, own: Use[Any], tmp_path: Path) -> None:
    broker = own(Mosquitto())
    lonely = Site(broker, own(Agent(broker, tmp_path)))
    at = window(lonely).open("/gateway")
    told = at.page.locator("#flow tbody tr:not(.below)")
    told.filter(has_text="mqtt out").first.wait_for()
    assert told.filter(has_text="its broker is not connected").count() == 0
    broker.kill()
    for node in ("mqtt in", "mqtt out"):
        told.filter(has_text=node).filter(has_text="its broker is not connected").first.wait_for()
    at.shot("page-no-broker")


def test_node_says_what_its_last_message_failed_on(site: Site, window: Any) -> None:
    at = window().open("/gateway")
    site.publish(("ev/v1/depot/BROKEN1/telemetry", b"no telemetry at all"))
    told = at.page.locator("#flow tbody tr:not(.below)").filter(has_text="validate")
    told.filter(has_text="last failure").wait_for()
    at.shot("page-last-error")
