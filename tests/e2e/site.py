"""A depot: a broker, its gateway's agent, devices that publish, and the gateway's page in a window."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec

from tests.e2e.window import Window
from tests.mqtt import linked
from tests.programs import Agent
from tests.servers import NPM_FOLDER, Mosquitto, wait_until
from voltflow.telemetry import Cells, State, Telemetry
from voltflow.topics import CELLS, STATE, TELEMETRY

FLEET = "depot"
AXE = NPM_FOLDER / "node_modules" / "axe-core" / "axe.min.js"
STEP_MS = 10_000
"""Of device time between two messages of a device that `history` makes."""

Item = tuple[str, bytes]


class Device:
    """What one pack's device sends. `name` is the pack; the page calls it `depot/NAME`."""

    def __init__(self, name: str, *, series: int = 96, parallel: int = 2) -> None:
        self.name = name
        self.path = f"{FLEET}/{name}"
        self.series, self.parallel = series, parallel
        self._seq = -1

    def birth(self) -> Item:
        state = State(
            schema_="bms.state/1", pack=self.name, online=True, boot=1, chemistry="NMC", cells_series=self.series,
            cells_parallel=self.parallel, capacity_rated_ah=150.0,
        )  # fmt: skip
        return STATE.of(FLEET, self.name), msgspec.json.encode(state)

    def reading(self, ts_ms: int | None = None, **fields: Any) -> Item:
        self._seq += 1
        values: dict[str, Any] = {
            "vehicle_state": "parked", "charging_state": "charging", "pack_voltage_v": 350.4, "pack_current_a": 40.0,
            "soc_pct": 62.0, "cell_voltage_min_v": 3.64, "cell_voltage_max_v": 3.66, "cell_voltage_avg_v": 3.65,
            "cell_temp_min_c": 24.0, "cell_temp_max_c": 26.0, "cell_temp_avg_c": 25.0, "insulation_kohm": 900.0,
        }  # fmt: skip
        item = Telemetry(
            schema_="bms.telemetry/1", pack=self.name, boot=1, seq=self._seq, ts_ms=ts_ms or now_ms(), **(values | fields)
        )  # fmt: skip
        return TELEMETRY.of(FLEET, self.name), msgspec.json.encode(item)

    def cells(self, temps_c: Sequence[float | None], voltages_mv: Sequence[float | None] = ()) -> Item:
        item = Cells(
            schema_="bms.cells/1", pack=self.name, boot=1, ts_ms=now_ms(), temps_c=list(temps_c),
            voltages_mv=list(voltages_mv or [3650.0 + i % 5 for i in range(self.series)]),
        )  # fmt: skip
        return CELLS.of(FLEET, self.name), msgspec.json.encode(item)

    def history(self, minutes: int, until_ms: int | None = None, **fields: Any) -> list[Item]:
        """The birth and the readings of the last minutes; some values rise and fall."""
        count, end = minutes * 60_000 // STEP_MS, until_ms or now_ms()
        waves = [(i, (i % 30) / 30) for i in range(count)]
        return [self.birth()] + [
            self.reading(
                end - (count - i) * STEP_MS, **{"pack_voltage_v": 346 + 8 * wave, "pack_current_a": 20 + 40 * wave} | fields
            )
            for i, wave in waves
        ]  # fmt: skip


def now_ms() -> int:
    return int(time.time() * 1000)


class Site:
    """A gateway, and those who publish to it."""

    def __init__(self, broker: Mosquitto, agent: Agent) -> None:
        self.broker, self.agent = broker, agent

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.agent.port}/"

    def publish(self, *items: Item) -> None:
        """Return when the broker has all of it."""

        async def send() -> None:
            async with linked(self.broker.port, client_id="devices", sends_only=True) as link:
                for start in range(0, len(items), 1000):
                    await link.publish_batch(items[start : start + 1000])

        _apart(send())

    def known(self, path: str) -> dict[str, Any]:
        """What the API says of a pack as soon as it has heard all that was published of it."""
        found: dict[str, Any] = wait_until(lambda: self._find(path), f"{path} at the gateway", 30)
        return found

    def _find(self, path: str) -> Any:
        try:
            return self.agent.get(f"/api/packs/{path}/status")
        except OSError:  # not yet
            return None


def _apart(work: Coroutine[Any, Any, None]) -> None:
    """Run it in a thread: Playwright has an event loop of its own in this one."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, work).result()


class PageWindow(Window):
    """The gateway's page as somebody sees it."""

    def __init__(self, browser: Any, site: Site, **options: Any) -> None:
        super().__init__(browser, **{"viewport": {"width": 1280, "height": 800}, **options})
        self.site = site

    def open(self, place: str = "") -> PageWindow:
        """`place` is the part behind the `#`."""
        self.page.goto(f"{self.site.url}#{place}")
        return self

    def still(self) -> None:
        self.page.evaluate("() => document.fonts.ready")

    def barriers(self, of: str = "html") -> list[str]:
        """What axe finds of the page, or of a part, as it is now and calls serious or critical."""
        if not self.page.evaluate("() => 'axe' in window"):
            self.page.evaluate(AXE.read_text())
        found = self.page.evaluate("of => axe.run(of, {resultTypes: ['violations']})", of)
        return [
            f"{item['id']}: {node['target']} {node['failureSummary']}"
            for item in found["violations"]
            if item["impact"] in {"serious", "critical"}
            for node in item["nodes"]
        ]

    def overflow(self) -> int:
        """Pixels by which the page is wider than its window."""
        return int(
            self.page.evaluate("() => document.documentElement.scrollWidth - document.documentElement.clientWidth")
        )  # fmt: skip
