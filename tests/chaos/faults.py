"""The faults: what each does to the house, how it is undone, and how it proves that it happened.

A fault is a function that gets the house and a random generator, does its harm, waits at `yield` until it is time to
undo it, and undoes it. It yields the proof that it fired (a text) or "" when there is none yet; then the proof is the
last thing it yields. `FAULTS` has all of them by name.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tests.chaos.house import KEEPALIVE_S, House
from tests.chaos.network import Link
from tests.servers import wait_until

Deed = Callable[[House, random.Random], Iterator[str]]
FROZEN_S = (2.2 * KEEPALIVE_S, 3.0 * KEEPALIVE_S)
"""Longer than both sides of a connection wait for a sign of life."""

PACKET_S = 5.0
TELEMETRY_PATH = ("device", "devices-link", "local-broker", "agent", "uplink-link", "uplink-broker")
"""What a fault takes for itself that needs telemetry to come: to fill a spool, to store a row that is then taken away."""


@dataclass(frozen=True)
class Fault:
    """`targets` are what it takes for itself; faults that share one do not happen at the same time."""

    name: str
    targets: frozenset[str]
    deed: Deed
    lasts_s: tuple[float, float] = (0.5, 2.5)
    needs: str = ""
    """What must be possible: "network", "disk", "clock", "kafka"; empty: nothing."""


FAULTS: dict[str, Fault] = {}


def fault(
    name: str, *targets: str, lasts_s: tuple[float, float] = (0.5, 2.5), needs: str = ""
) -> Callable[[Deed], Deed]:
    """Register a fault."""

    def register(deed: Deed) -> Deed:
        FAULTS[name] = Fault(name, frozenset(targets), deed, lasts_s, needs)
        return deed

    return register


# -- programs -------------------------------------------------------------------------------------------------------


def _kill(member: str) -> Deed:
    def deed(house: House, rng: random.Random) -> Iterator[str]:
        code = house[member].kill()
        yield f"exit status {code}" if code == -9 else ""
        house[member].launch()

    return deed


def _freeze(member: str) -> Deed:
    def deed(house: House, rng: random.Random) -> Iterator[str]:
        yield house[member].freeze()
        house[member].thaw()

    return deed


for _member in ("local-broker", "agent", "uplink-broker", "bridge", "database", "kafka"):
    fault(f"kill-{_member}", _member, needs="kafka" if _member == "kafka" else "")(_kill(_member))
for _member in ("device", "local-broker", "agent", "uplink-broker", "bridge", "database", "kafka"):
    fault(f"freeze-{_member}", _member, lasts_s=FROZEN_S, needs="kafka" if _member == "kafka" else "")(
        _freeze(_member)
    )


# -- networks -------------------------------------------------------------------------------------------------------


def _cut(link: str) -> Deed:
    def deed(house: House, rng: random.Random) -> Iterator[str]:
        wire = house.links[link]
        before = wire.counters.cut
        wire.cut()
        yield ""
        count = _count(wire, "cut", before)
        wire.heal()
        yield f"{count} packets" if count else ""

    return deed


def _impair(link: str, counter: str, **rules: float) -> Deed:
    def deed(house: House, rng: random.Random) -> Iterator[str]:
        wire = house.links[link]
        before = getattr(wire.counters, counter)
        wire.impair(**rules)
        yield ""
        count = _count(wire, counter, before)
        wire.heal()
        yield f"{count} packets" if count else ""

    return deed


def _count(wire: Link, counter: str, before: int) -> int:
    """How many packets the fault has met; where that is none yet, it goes on for a while."""
    with contextlib.suppress(AssertionError):
        wait_until(lambda: getattr(wire.counters, counter) > before, "a packet", PACKET_S, 0.05)
    return int(getattr(wire.counters, counter)) - before


def _narrow(link: str, rate_kbps: float) -> Deed:
    def deed(house: House, rng: random.Random) -> Iterator[str]:
        wire = house.links[link]
        before = wire.counters.passed
        wire.impair(rate_kbps=rate_kbps)
        yield ""
        passed = wire.counters.passed - before
        wire.heal()
        yield f"{passed} packets at {rate_kbps:g} kbit/s"

    return deed


for _link in ("devices", "uplink"):
    fault(f"cut-{_link}", f"{_link}-link", lasts_s=(0.5, 2.0), needs="network")(_cut(_link))
    fault(f"long-cut-{_link}", f"{_link}-link", lasts_s=FROZEN_S, needs="network")(_cut(_link))
    fault(f"delay-{_link}", f"{_link}-link", lasts_s=(1.5, 3.0), needs="network")(
        _impair(_link, "delayed", delay_ms=200)
    )
    fault(f"loss-{_link}", f"{_link}-link", lasts_s=(1.5, 3.0), needs="network")(
        _impair(_link, "lost", loss=0.1)
    )
    fault(f"duplicate-{_link}", f"{_link}-link", lasts_s=(1.5, 3.0), needs="network")(
        _impair(_link, "duplicated", duplicate=0.1)
    )
    fault(f"reorder-{_link}", f"{_link}-link", lasts_s=(1.5, 3.0), needs="network")(
        _impair(_link, "reordered", reorder=0.2)
    )
fault("narrow-uplink", "uplink-link", lasts_s=(2.0, 4.0), needs="network")(_narrow("uplink", 600))
