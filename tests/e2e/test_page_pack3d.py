"""The battery pack cell by cell, in 3D and from above, on a page of its own that the gateway's address serves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from tests.e2e.pixels import Picture, middle, near, picture
from tests.e2e.window import Window
from tests.gateway import Gateway, running

COLD, HOT = (13, 8, 135), (240, 249, 33)  # the ends of the scale of temperatures
HEALTHY = [25.0] * 7 + [31.0]
HARNESS = """<!doctype html><html lang="en" data-theme="light"><title>Pack</title><link rel="icon" href="data:,"><link rel="stylesheet" href="style/base.css">
<h1>Above</h1><div id="box"></div><script type="module" src="harness.js"></script></html>"""
SCRIPT = """
import { createPack3D } from "./pack3d/pack3d.js";
import { TEXTS } from "./texts.js";
const box = document.getElementById("box");
window.make = async () => { window.pack = await createPack3D(box, { texts: TEXTS }); };
await make();
window.ready = true;
"""
SEES_NO_WEBGL = """
const real = HTMLCanvasElement.prototype.getContext;
HTMLCanvasElement.prototype.getContext = function (kind, ...more) {
    return kind.startsWith("webgl") ? null : real.call(this, kind, ...more);
};
"""
RATE = """async () => {
    const [frames, start] = [Number(box.dataset.frames), performance.now()];
    await new Promise(done => setTimeout(done, 1000));
    return [Number(box.dataset.frames) - frames, (performance.now() - start) / 1000];
}"""
HALF_A_SECOND = "() => new Promise(done => setTimeout(done, 500))"


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Comes before the browser: Playwright has an event loop in this thread, and the gateway is made in one of its own."""
    with running(Gateway(tmp_path_factory.mktemp("gateway")).state) as server:
        yield server.url


class PackWindow(Window):
    """The pack alone."""

    def __init__(self, browser: Any, address: str, before: str = "", **options: Any) -> None:
        super().__init__(browser, **{"viewport": {"width": 900, "height": 700}, **options})
        self.asked: list[str] = []
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.route("**/harness", lambda route: route.fulfill(body=HARNESS, content_type="text/html"))
        self.page.route(
            "**/harness.js", lambda route: route.fulfill(body=SCRIPT, content_type="text/javascript")
        )
        if before:
            self.page.add_init_script(before)
        self.page.goto(f"{address}/harness")
        self.page.wait_for_function("() => window.ready")
        self.canvas = self.page.locator("#box canvas")
        self.tip = self.page.locator(".pack3d-tip")

    def give(self, series: int = 96, parallel: int = 2, **values: Any) -> None:
        """A layout and values; those that are left out are those of a healthy pack without current."""
        given = {
            "voltages_v": [3.65] * series,
            "temps_c": HEALTHY,
            "soc_pct": 62,
            "current_a": 0,
            "by": "temperature",
        }
        self.page.evaluate(
            "([layout, values]) => { pack.setLayout(layout); pack.update(values); }",
            [{"series": series, "parallel": parallel}, given | values],
        )  # fmt: skip
        self.drawn()

    def update(self, **values: Any) -> None:
        self.page.evaluate("values => pack.update(values)", values)
        self.drawn()

    def drawn(self) -> None:
        """The picture is that of what was given."""
        self.page.evaluate(
            "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
        )

    @property
    def renderer(self) -> str:
        return str(self.page.evaluate("() => box.dataset.renderer"))

    @property
    def frames(self) -> int:
        return int(self.page.evaluate("() => Number(box.dataset.frames)"))

    @property
    def seen(self) -> Picture:
        return picture(self.canvas)

    def point_at(self, x: float, y: float) -> str:
        """What is said of the cell there."""
        box = self.canvas.bounding_box()
        self.page.mouse.move(box["x"] + x, box["y"] + y)
        return str(self.tip.inner_text())


@pytest.fixture
def pack(address: str, browser: Any) -> Iterator[Callable[..., PackWindow]]:
    opened: list[PackWindow] = []

    def start(before: str = "", **options: Any) -> PackWindow:
        opened.append(PackWindow(browser, address, before, **options))
        return opened[-1]

    yield start
    for item in opened:
        item.context.close()
        assert item.wrong == []


@pytest.mark.parametrize("before", ["", SEES_NO_WEBGL], ids=["webgl", "2d"])
def test_cells_have_the_colours_of_their_values(pack: Any, before: str) -> None:
    at = pack(before)
    assert at.renderer == ("2d" if before else "webgl")
    at.give(temps_c=[25.0] * 8)
    background = at.seen[0, 0]
    assert (np.abs(at.seen - background).sum(axis=2) > 60).mean() > 0.15  # the pack is there, and large
    assert not near(at.seen, HOT).any()
    at.give(temps_c=[25.0] * 3 + [61.0] + [25.0] * 4)
    hot = near(at.seen, HOT)
    assert hot.any()
    assert near(at.seen, COLD).sum() > 3 * hot.sum()
    assert "61.0 °C" in at.point_at(*middle(hot))
    assert "25.0 °C" in at.point_at(*middle(near(at.seen, COLD)))
    at.shot(f"pack3d-{at.renderer}")


@pytest.mark.parametrize("before", ["", SEES_NO_WEBGL], ids=["webgl", "2d"])
def test_one_cell_of_many_is_where_it_is_said_to_be(pack: Any, before: str) -> None:
    """Each cell that is given the highest voltage is the one that is found under its colour."""
    at = pack(before)
    places: list[tuple[float, float]] = []
    for series, cell in ((96, 0), (96, 95), (108, 50), (14, 3)):
        voltages = [3.6] * series
        voltages[cell] = 3.7
        at.give(series, 1, voltages_v=voltages, by="voltage")
        x, y = middle(near(at.seen, (253, 231, 37)))
        places.append((x, y))
        said = at.point_at(x, y)
        assert said.startswith(f"Cell {cell + 1},")
        assert "3.700 V" in said
        at.page.mouse.move(0, 0)
    first, last = places[:2]  # behind on the left, in front on the right
    assert first[0] < last[0]
    assert first[1] < last[1]


def test_words_say_what_colours_say(pack: Any) -> None:
    at = pack()
    at.give(voltages_v=[3.65] * 95 + [3.601], by="voltage")
    summary, note = at.page.locator(".pack3d-summary"), at.page.locator(".pack3d-note")
    assert "cell 96 with 3.601 V" in summary.inner_text()
    assert "49 mV" in summary.inner_text()
    at.give(voltages_v=[None, *[3.65] * 95], by="voltage")
    assert "without a value: 1" in summary.inner_text()
    at.give(temps_c=[21.0, 24.5])
    assert "cell 49 with 24.5 °C" in summary.inner_text()
    assert "2 probes for 96 cells" in note.inner_text()
    at.give(by="charge")
    assert "62 %" in summary.inner_text()
    assert "of single cells is not measured" in note.inner_text()
    at.give(voltages_v=[], temps_c=[], soc_pct=None, by="voltage")
    assert "No values of single cells" in summary.inner_text()


def test_without_webgl_three_is_not_loaded(pack: Any) -> None:
    assert any("three" in url for url in pack().asked)
    assert not any("three" in url for url in pack(SEES_NO_WEBGL).asked)


def test_lost_graphics_card_leaves_the_pack_from_above(pack: Any) -> None:
    at = pack()
    at.give(temps_c=[25.0] * 7 + [50.0])
    at.page.evaluate(
        "() => box.querySelector('canvas').getContext('webgl2').getExtension('WEBGL_lose_context').loseContext()"
    )
    at.page.wait_for_function("() => box.dataset.renderer === '2d'")
    at.drawn()
    assert "50.0 °C" in at.point_at(*middle(near(at.seen, HOT)))
    assert "no WebGL" in at.page.locator(".pack3d-note").inner_text()


def test_current_is_seen_to_flow_and_said(pack: Any) -> None:
    at = pack()
    flow = at.page.locator(".pack3d-flow")
    at.give(current_a=0.1)
    assert flow.inner_text() == "No current"
    before, still = at.frames, at.seen
    at.page.evaluate(HALF_A_SECOND)
    assert at.frames == before  # nothing moves, nothing is drawn
    at.update(current_a=80)
    assert flow.inner_text() == "Charging: 80 A into the battery"
    at.page.wait_for_function("n => Number(box.dataset.frames) > n + 10", arg=before)
    flowing = at.seen
    assert (flowing != still).any()
    at.page.wait_for_function("n => Number(box.dataset.frames) > n", arg=at.frames + 3)
    assert (at.seen != flowing).any()
    at.update(current_a=-120.5)
    assert flow.inner_text() == "Discharging: 120.5 A out of the battery"
    drawn, passed_s = at.page.evaluate(RATE)
    assert 0 < drawn < 40 * passed_s  # a screen's rate would be 60


def arrow_at_the_terminal(seen: Picture) -> int:
    """Columns from an arrow's widest to its tip, negative where it points to the left; of the arrow outside of the pack."""
    white = near(seen, (255, 255, 255), 20).sum(axis=0)
    columns = np.nonzero(white)[0]
    first = columns[: np.nonzero(np.diff(columns) > 1)[0][0] + 1]
    return int(first[-1] - first[0]) * (
        1 if white[first[: len(first) // 2]].sum() > white[first[len(first) // 2 :]].sum() else -1
    )


def test_arrows_point_into_the_battery_where_it_charges(pack: Any) -> None:
    """Seen from above and with still arrows, on a dark page so that white is theirs."""
    at = pack(SEES_NO_WEBGL, reduced_motion="reduce")
    at.page.evaluate("() => { document.documentElement.dataset.theme = 'dark'; }")
    at.give(current_a=50)
    before = at.frames
    assert arrow_at_the_terminal(at.seen) > 3
    at.page.evaluate(HALF_A_SECOND)
    assert at.frames == before  # who asked for less motion has none
    at.update(current_a=-50)
    assert arrow_at_the_terminal(at.seen) < -3


def test_nothing_is_drawn_that_nobody_sees(pack: Any) -> None:
    at = pack()
    at.give(current_a=80)
    at.page.wait_for_function("() => Number(box.dataset.frames) > 3")
    at.page.evaluate("() => { document.querySelector('h1').style.marginTop = '4000px'; scrollTo(0, 0); }")
    at.drawn()
    before = at.frames
    at.page.evaluate(HALF_A_SECOND)
    assert at.frames <= before + 1
    at.page.evaluate("() => box.scrollIntoView()")
    at.page.wait_for_function("n => Number(box.dataset.frames) > n + 3", arg=before)


def test_keys_go_from_cell_to_cell_and_turn_the_pack(pack: Any) -> None:
    at = pack()
    at.give(temps_c=[25.0] * 4 + [41.0] + [25.0] * 3)
    at.page.keyboard.press("Tab")
    assert at.tip.inner_text().startswith("Cell 49,")  # the first of the hottest
    assert "41.0 °C" in at.tip.inner_text()
    keys = at.page.keyboard
    for key, cell in (
        ("ArrowRight", 50),
        ("ArrowLeft", 49),
        ("ArrowLeft", 48),
        ("ArrowDown", 72),
        ("ArrowUp", 48),
    ):
        keys.press(key)
        assert at.tip.inner_text().startswith(f"Cell {cell},"), key
        assert at.page.locator(".pack3d-spoken").inner_text().startswith(f"Cell {cell},")
    keys.press("Escape")
    assert not at.tip.is_visible()
    at.drawn()
    home = at.seen
    for press in ("Shift+ArrowRight", "Shift+ArrowUp", "+", "-"):
        keys.press(press)
        at.drawn()
        assert (at.seen != home).mean() > 0.02, press
    keys.press("Home")
    at.drawn()
    assert (at.seen != home).mean() < 0.001


def test_mouse_turns_and_the_wheel_is_the_pages_until_the_pack_was_chosen(pack: Any) -> None:
    at = pack()
    at.give()
    at.page.evaluate("() => { document.body.style.height = '3000px'; }")
    home, box = at.seen, at.canvas.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    at.page.mouse.move(x, y)
    at.page.mouse.wheel(0, 40)
    at.page.wait_for_function("() => scrollY > 0")
    at.page.evaluate("() => scrollTo(0, 0)")
    at.page.mouse.down()
    at.page.mouse.move(x + 90, y - 30, steps=4)
    at.page.mouse.up()
    at.page.mouse.move(0, 0)
    at.drawn()
    turned = at.seen
    assert (turned != home).mean() > 0.05
    at.page.mouse.move(x, y)
    at.page.mouse.wheel(0, -400)
    at.page.mouse.move(0, 0)
    at.drawn()
    assert (at.seen != turned).mean() > 0.05
    assert at.page.evaluate("() => scrollY") == 0


def test_theme_changes_what_is_drawn(pack: Any) -> None:
    at = pack()
    at.give()
    light = at.seen
    at.page.evaluate("() => { document.documentElement.dataset.theme = 'dark'; }")
    at.drawn()
    dark = at.seen
    assert light.mean() > dark.mean() + 60
    assert near(dark, COLD).sum() == pytest.approx(
        near(light, COLD).sum(), rel=0.05
    )  # the cells stay as they are


def test_everything_is_given_back(pack: Any) -> None:
    """More packs than a browser keeps WebGL contexts: those before are free again."""
    at = pack()
    said: list[str] = []
    at.page.on("console", lambda message: said.append(message.text))
    at.page.evaluate("async () => { for (let i = 0; i < 20; i += 1) { pack.dispose(); await make(); } }")
    at.give()
    assert at.renderer == "webgl"
    assert near(at.seen, COLD).any()
    assert not [text for text in said if "too many" in text.lower()], said
    at.page.evaluate("() => pack.dispose()")
    assert at.page.evaluate("() => [box.children.length, box.dataset.renderer ?? null]") == [0, None]
