"""The gateway's page with live data: a real broker, the agent, devices' messages, Chromium."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.e2e.pixels import Picture, middle, near, picture
from tests.e2e.site import STEP_MS, Device, PageWindow, Site, now_ms

MEASURED = (29, 95, 209)
"""Of what was measured, in the light theme."""
HOT = (240, 249, 33)
"""The upper end of the scale of temperatures."""
NO_WEBGL = """
const real = HTMLCanvasElement.prototype.getContext;
HTMLCanvasElement.prototype.getContext = function (kind, ...more) {
    return kind.startsWith("webgl") ? null : real.call(this, kind, ...more);
};
"""
NO_POLL = """
const real = setTimeout;
window.setTimeout = (call, ms, ...more) => (ms === 3000 ? 0 : real(call, ms, ...more));
"""
"""The page asks for nothing by itself again."""
SIZES = {"desktop": (1280, 800), "phone": (390, 844)}
VIEWS = {"fleet": "/", "pack": "/pack/depot/{}", "alerts": "/alerts", "gateway": "/gateway"}


@pytest.fixture(scope="module")
def hot(site: Site) -> Device:
    """A pack with an hour of history, every cell's values, and an alert: its hottest cell is too hot."""
    device = Device("HOT1")
    site.publish(*device.history(60, now_ms() - 1000), device.cells([25.0] * 7 + [62.0]))
    site.publish(
        *[device.reading(now_ms() + i, cell_temp_max_c=62.0, pack_current_a=-80.0) for i in range(3)]
    )
    site.known(device.path)
    return device


def pack(at: PageWindow, device: Device) -> PageWindow:
    """Its view, with the charts drawn."""
    at.open(f"/pack/{device.path}")
    at.page.wait_for_selector("#chart-voltage[data-points]")
    return at


def chart(at: PageWindow, key: str) -> Picture:
    """Of a chart only its plot: the legend's text changes too."""
    return picture(at.page.locator(f"#chart-{key} .u-over"))


def test_list_shows_what_comes(site: Site, window: Any) -> None:
    at = window().open()
    device = Device("LIVE1")
    site.publish(device.birth(), device.reading(soc_pct=47.0))
    row = at.page.locator(f".line[data-pack='{device.path}']")
    row.locator("[data-col=soc]", has_text="47 %").wait_for()
    site.publish(device.reading(now_ms() + STEP_MS, soc_pct=48.0))
    row.locator("[data-col=soc]", has_text="48 %").wait_for()


def test_list_asks_anew_when_the_stream_tells_of_other_counts(site: Site, window: Any) -> None:
    known, comes = Device("HERE1"), Device("COMES1")
    site.publish(known.birth(), known.reading())
    site.known(known.path)
    at = window()
    at.page.add_init_script(NO_POLL)
    at.open().page.wait_for_selector(f".line[data-pack='{known.path}']")
    at.page.wait_for_selector("body[data-connection=live]")
    site.publish(comes.birth(), comes.reading())
    at.page.wait_for_selector(f".line[data-pack='{comes.path}']")


def test_dots_are_as_red_as_the_counts_say(site: Site, window: Any, hot: Device) -> None:
    """Also of a pack with no more than a warning."""
    device = Device("SPREAD1")
    site.publish(
        device.birth(), *[device.reading(now_ms() + i * STEP_MS, cell_voltage_min_v=3.4) for i in range(5)]
    )
    at = window().open()
    at.page.locator(f".line[data-pack='{device.path}'] .dot.poor").wait_for()
    (row,) = [row for row in site.agent.get("/api/packs")["packs"] if row["name"] == device.path]
    assert 200 <= row["worry"] < 1000
    at.page.wait_for_function(
        "() => Number(document.querySelector('[data-count=poor] b').textContent) === "
        "document.querySelectorAll('.rows .dot.poor').length"
    )


def test_charts_move_with_live_data(site: Site, window: Any) -> None:
    device = Device("CHART1")
    site.publish(*device.history(30))
    site.known(device.path)
    at = pack(window(), device)
    before, last = chart(at, "voltage"), at.page.get_attribute("#chart-voltage", "data-last")
    site.publish(device.reading(now_ms() + STEP_MS, pack_voltage_v=361.5))
    at.page.locator("#chart-voltage figcaption", has_text="361.5 V").wait_for()
    assert float(at.page.get_attribute("#chart-voltage", "data-last")) > float(last)
    assert (chart(at, "voltage") != before).any()


def drawn_columns(at: PageWindow) -> Any:
    """Of the chart of voltages: whether a column of pixels has any of its line."""
    return near(chart(at, "voltage"), MEASURED, 120).any(axis=0)


def test_gap_is_shown_as_a_gap(site: Site, window: Any) -> None:
    whole, broken = Device("WHOLE1"), Device("GAP1")
    half_an_hour = 30 * 60_000
    site.publish(*whole.history(90))
    site.publish(*broken.history(30, now_ms() - 2 * half_an_hour), *broken.history(30)[1:])
    site.known(broken.path)
    at = pack(window(color_scheme="light"), whole)
    assert drawn_columns(at)[20:-200].all()
    at = pack(window(color_scheme="light"), broken)
    columns = drawn_columns(at)
    third = len(columns) // 3
    there = columns[10 : third - 40], columns[2 * third + 40 : -80]
    assert all(part.mean() > 0.9 for part in there)
    assert not columns[third + 20 : 2 * third - 40].any()


def test_zoom_with_mouse_keys_and_buttons(site: Site, window: Any, hot: Device) -> None:
    at = pack(window(), hot)
    page, whole = at.page, chart(at, "voltage")
    page.mouse.move(5, 5)
    box = page.locator("#chart-voltage .u-over").bounding_box()
    y = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] * 0.3, y)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.5, y, steps=5)
    page.mouse.up()
    page.locator("#zoom-reset").wait_for()
    assert (chart(at, "voltage") != whole).any()
    page.click("#zoom-reset")
    page.locator("#zoom-reset").wait_for(state="hidden")
    for zoom_in, back in (("+", "0"), ("Enter", "Escape")):
        (page.locator("#zoom-in") if zoom_in == "Enter" else page.locator("#chart-voltage .plot")).press(
            zoom_in
        )
        page.locator("#zoom-reset").wait_for()
        page.locator("#chart-voltage .plot").press(back)
        page.locator("#zoom-reset").wait_for(state="hidden")


def open_3d(at: PageWindow, device: Device) -> Any:
    """The canvas of the pack, by temperature."""
    pack(at, device)
    at.page.click("#cells-view-3d")
    at.page.click("#cells-by-temperature")
    at.page.wait_for_selector("#pack3d[data-frames]:not([data-frames='0'])")
    canvas = at.page.locator("#pack3d canvas")
    canvas.scroll_into_view_if_needed()
    return canvas


def said_at(at: PageWindow, canvas: Any, place: tuple[float, float]) -> str:
    box = canvas.bounding_box()
    at.page.mouse.move(box["x"] + place[0], box["y"] + place[1])
    return str(at.page.locator(".pack3d-tip").inner_text())


@pytest.mark.parametrize("renderer", ["webgl", "2d"])
def test_cells_follow_a_heated_one(site: Site, window: Any, renderer: str) -> None:
    device = Device(f"CELLS-{renderer}")
    site.publish(*device.history(5), device.cells([25.0] * 8))
    site.known(device.path)
    at = window(reduced_motion="reduce")
    if renderer == "2d":
        at.page.add_init_script(NO_WEBGL)
    canvas = open_3d(at, device)
    assert at.page.get_attribute("#pack3d", "data-renderer") == renderer
    at.page.locator("#pack3d", has_text="25.0 °C").wait_for()
    seen = picture(canvas)
    assert (np.abs(seen - seen[0, 0]).sum(axis=2) > 60).mean() > 0.1
    assert not near(seen, HOT).any()
    site.publish(device.cells([25.0] * 5 + [58.0] + [25.0] * 2))
    at.page.locator("#pack3d", has_text="58.0 °C").wait_for()
    at.page.wait_for_function("n => Number(document.getElementById('pack3d').dataset.frames) >= n", arg=1)
    heated = near(picture(canvas), HOT)
    assert 0 < heated.sum() < near(picture(canvas), (13, 8, 135)).sum()
    said = said_at(at, canvas, middle(heated))
    assert "58.0 °C" in said
    assert 61 <= int(said.split("Cell ")[1].split(",")[0]) <= 72  # the sixth of eight probes, of 96 cells


def test_long_name_fits_on_a_phone(site: Site, window: Any) -> None:
    device = Device("X" * 64)
    site.publish(*device.history(5))
    site.known(device.path)
    at = pack(window(viewport={"width": 390, "height": 844}), device)
    at.page.locator("#cells-text", has_text=device.name).wait_for()  # where its cells would come from
    assert at.overflow() == 0


def test_heat_map_says_cells(site: Site, window: Any, hot: Device) -> None:
    at = pack(window(), hot)
    at.page.click("#cells-by-temperature")
    at.page.locator("#cells-text", has_text="62.0 °C").wait_for()
    at.page.locator("#cells-map [data-cell='95']").hover()
    at.page.locator("#cells-told", has_text="62.0 °C").wait_for()
    at.page.locator("#cells-map").press("ArrowLeft")
    at.page.locator("#cells-told", has_text="95").wait_for()


@pytest.mark.parametrize("size", SIZES)
def test_views_fit(site: Site, window: Any, hot: Device, size: str) -> None:
    width, height = SIZES[size]
    at = window(viewport={"width": width, "height": height})
    for view in VIEWS:
        look_at(at, view, hot)
        assert at.overflow() == 0, view
        at.shot(f"page-{view}-{size}")
    open_3d(at, hot)
    assert at.overflow() == 0
    at.shot(f"page-3d-{size}")


def test_views_are_accessible(site: Site, window: Any, hot: Device) -> None:
    """What axe finds and calls serious or critical."""
    at = window(reduced_motion="reduce")
    for view in VIEWS:
        look_at(at, view, hot)
        assert_accessible(at, view)
    open_3d(at, hot)
    assert_accessible(at, "3d")
    at.page.add_init_script(NO_WEBGL)
    at.page.reload()
    open_3d(at, hot)
    assert at.page.get_attribute("#pack3d", "data-renderer") == "2d"
    assert_accessible(at, "2d", "#cells-section")


def assert_accessible(at: PageWindow, view: str, of: str = "html") -> None:
    for theme in ("light", "dark"):
        at.page.emulate_media(color_scheme=theme)
        assert at.barriers(of) == [], (view, theme)
        if view == "3d":
            at.shot(f"page-3d-{theme}")


def look_at(at: PageWindow, view: str, device: Device) -> None:
    at.open(VIEWS[view].format(device.name))
    at.page.wait_for_selector(f"#view[data-view={view}] >> {FILLED[view]}")


FILLED = {
    "fleet": ".line[data-pack]", "pack": "#chart-voltage[data-points]", "alerts": "[data-testid=alert]", "gateway": "#flow tbody tr",
}  # fmt: skip
"""What is there when a view is complete."""


def test_alert_is_acknowledged_with_the_keyboard_alone(site: Site, window: Any, hot: Device) -> None:
    """From the top of the page: into the list, the pack, its alert, and a note."""
    at = window().open()
    page, keys = at.page, at.page.keyboard
    page.wait_for_selector(f".line[data-pack='{hot.path}']")
    tab_to(page, ".rows a")
    keys.press("Home")
    for _ in range(50):
        if page.evaluate("() => document.activeElement.textContent") == hot.path:
            break
        keys.press("ArrowDown")
    keys.press("Enter")
    page.wait_for_selector("#view[data-view=pack] >> #chart-voltage[data-points]")
    page.wait_for_selector("#pack-alerts .acknowledge")
    tab_to(page, ".acknowledge")
    keys.press("Enter")
    keys.type("cell 96 is being looked at")
    keys.press("Enter")
    page.locator("#pack-alerts", has_text="cell 96 is being looked at").wait_for()
    (alert,) = [
        a for a in site.agent.get("/api/alerts")["alerts"] if a["pack"] == hot.name and a["acknowledged"]
    ]
    assert alert["acknowledged"]["note"] == "cell 96 is being looked at"


def tab_to(page: Any, selector: str) -> None:
    """Press Tab until that has the focus, which is to be seen."""
    for _ in range(80):
        page.keyboard.press("Tab")
        if page.evaluate("selector => document.activeElement.matches(selector)", selector):
            return
    raise AssertionError(f"Tab does not lead to {selector}")


def test_theme_is_chosen_and_kept(site: Site, window: Any) -> None:
    at = window(color_scheme="light").open()
    at.page.locator("#theme").click()
    at.page.locator("#theme").click()  # auto, light, dark
    assert at.page.evaluate("() => document.documentElement.dataset.theme") == "dark"
    background = "() => getComputedStyle(document.body).backgroundColor"
    dark = at.page.evaluate(background)
    at.page.reload()
    at.page.wait_for_selector("html[data-theme=dark]")
    assert at.page.evaluate(background) == dark
