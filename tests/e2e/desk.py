"""The editor in a window of Chromium, with what people do in it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from tests.e2e.window import PATIENCE_S, Window
from tests.editors import Gateway, wait_for

DEPLOY = "#red-ui-header-button-deploy"
_POINT_OF_WIRE = """([source, part]) => {
    const wire = d3.selectAll(".red-ui-flow-link-background").filter(link => link.source.id === source).node();
    const point = wire.getPointAtLength(wire.getTotalLength() * part).matrixTransform(wire.getScreenCTM());
    return [point.x, point.y];
}"""


class Desk(Window):
    """The editor in a window of its own."""

    def __init__(self, browser: Any, gateway: Gateway) -> None:
        super().__init__(browser, viewport={"width": 1500, "height": 900})
        self.gateway = gateway

    def open(self) -> Desk:
        self.page.goto(self.gateway.url)
        self.loaded()
        return self

    def loaded(self) -> None:
        self.page.wait_for_selector("#red-ui-header-toolbar:not(.hide)")
        self.page.wait_for_function(
            "() => !document.querySelector('#red-ui-loading-progress:not([style*=none])')"
        )

    def still(self) -> None:
        """Nothing moves any more: dialogs slide, notices fade."""
        self.page.wait_for_function(
            "() => $(':animated').length === 0 && !document.getAnimations().some(a => a instanceof CSSTransition)"
        )

    def drag(self, type: str, x: int, y: int) -> str:
        """Drag a node from the palette onto the tab; its id."""
        with self._adding() as added:
            self.move(self._offered(type), self.page.locator("#red-ui-workspace-chart"), to=(x, y))
        return added[0]

    def drag_onto_wire(self, type: str, source: str, part: float) -> str:
        """Drag a node from the palette onto the wire that leads from a node, at that part of its length; its id. The
        wire then leads through it."""
        x, y = self.page.evaluate(_POINT_OF_WIRE, [source, part])
        y -= 6  # the editor looks a bit further down than the middle of what is dragged
        with self._adding() as added:
            self._hold(self._offered(type))
            self.page.mouse.move(x, y, steps=12)
            self.page.wait_for_selector(".red-ui-flow-link-splice", state="attached")
            self.page.mouse.up()
        return added[0]

    def _offered(self, type: str) -> Any:
        """A node of the palette."""
        item = self.page.locator(f".red-ui-palette-node[data-palette-type='{type}']")
        item.scroll_into_view_if_needed()
        return item

    @contextlib.contextmanager
    def _adding(self) -> Iterator[list[str]]:
        """After the block the list has the id of the node that was added in it."""
        known, added = self.ids(), list[str]()
        yield added
        added += [id for id in self.ids() if id not in known]
        assert len(added) == 1, added

    def ids(self) -> list[str]:
        """Of all nodes that are drawn."""
        found: list[str] = self.page.evaluate(
            "() => { const ids = []; RED.nodes.eachNode(n => ids.push(n.id)); return ids }"
        )
        return found

    def wire(self, source: str, target: str) -> None:
        """From the first output of one node to the input of another."""
        self.move(self._port(source, "output"), self._port(target, "input"))

    def _port(self, id: str, side: str) -> Any:
        return self.page.locator(f"[id='{id}'] .red-ui-flow-port-{side} .red-ui-flow-port").first

    def _hold(self, item: Any) -> None:
        """Press the mouse on something."""
        box = item.bounding_box()
        self.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        self.page.mouse.down()

    def move(self, start: Any, end: Any, to: tuple[int, int] | None = None) -> None:
        self._hold(start)
        b, mouse = end.bounding_box(), self.page.mouse
        x, y = (b["width"] / 2, b["height"] / 2) if to is None else to
        mouse.move(b["x"] + x, b["y"] + y, steps=12)
        mouse.up()

    def edit(self, id: str) -> None:
        """Open a node's dialog; its buttons are there, and do nothing, before the form is."""
        self.page.evaluate("id => RED.editor.edit(RED.nodes.node(id))", id)
        self.page.wait_for_function("() => $('.red-ui-tray').last()[0]?.style.right === '0px'")
        self.still()

    def text_editor(self) -> None:
        """Wait until it has come, which is after the page; a dialog that is opened before gets a plain one."""
        self.page.wait_for_function("() => window.monaco")

    def done(self) -> None:
        self.page.click("#node-dialog-ok")
        self.page.wait_for_selector("#node-dialog-ok", state="detached")
        self.still()

    def deploy(self) -> None:
        """Press Deploy, and see it done."""
        before = self.gateway.store.rev
        self.page.click(DEPLOY)
        wait_for(lambda: self.gateway.store.rev != before, "the deploy", PATIENCE_S)
        self.page.wait_for_selector(f"{DEPLOY}.disabled")

    def notice(self, text: str) -> Any:
        found = self.page.locator(".red-ui-notification", has_text=text).first
        found.wait_for()
        return found

    def badge(self, id: str, text: str) -> None:
        """Wait until that stands in what is shown below a node."""
        self.page.wait_for_selector(f"[id='{id}'] .red-ui-flow-node-status-label:has-text('{text}')")

    def stored(self) -> dict[str, dict[str, Any]]:
        """The nodes as the gateway keeps them, by id."""
        return {node["id"]: node for node in self.gateway.store.read()[0]}

    def is_dirty(self) -> bool:
        return bool(self.page.evaluate("() => RED.nodes.dirty()"))
