"""`sim-device run`: a fleet that publishes at a fixed rate, in real time or faster.

At `--speedup S` each message is S/hz seconds of simulated time after the one before it; time starts now. The packs'
messages are spread evenly over the period, as those of real vehicles are, so a broker sees no bursts.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time

import numpy as np

from sim_device import ageing, encode, faults
from sim_device.bms import Bms
from sim_device.cells import CellReader
from sim_device.dataset import END_OF_LIFE
from sim_device.options import Settings
from sim_device.packs import Packs, draw_packs
from sim_device.plant import MAX_STEP_S, Plant, Truth, life_stress
from sim_device.publish import Outbox, Summary
from voltflow.message import now_ms

log = logging.getLogger(__name__)

SLICE_S = 0.01
"""Messages that fall into the same slice of time are sent together."""
TOO_LATE_S = 1.0
"""A fleet that is further behind (the broker was away) goes on from there instead of sending a burst."""
MOST_A_SECOND = 20_000.0
"""Messages of all packs together that a command for another rate can lead to."""
FIRST_CELLS_A_SECOND = 100
"""Packs whose first cells come at once; those of a large fleet are spread over a period."""
OLDEST_D = 8.0 * 365.25
FAULTY_SHARE = 0.05


class Simulation:
    """The fleet of `run`: used packs of all ages, a few with a fault that has begun, all of them busy."""

    def __init__(self, settings: Settings, start_s: float) -> None:
        packs = draw_packs(settings.packs, settings.seed, settings.prefix)
        rng = np.random.default_rng([settings.seed, 41])
        starts = np.full(len(packs), start_s)
        defects = faults.draw_faults(len(packs), rng, starts, 86400.0, FAULTY_SHARE)
        self.packs = packs
        health = _used(packs, start_s, rng)
        self.plant = Plant(packs, start_s, health=health, defects=defects, busy=True)
        self.bms = Bms(self.plant, settings.seed, gaps=settings.gaps)
        self.faults = [faults.KINDS[kind] for kind in defects.kind]
        self.step_s = settings.speedup / settings.hz
        """Device time between two messages; it may change."""
        self.start_ms, self.elapsed_s = round(start_s * 1000), 0.0

    @property
    def ts_ms(self) -> int:
        """Simulated time now."""
        return self.start_ms + round(self.elapsed_s * 1000)

    def advance(self, boot: int) -> tuple[encode.Reading, Truth]:
        """The fleet's next reading."""
        self.elapsed_s += self.step_s
        parts = math.ceil(self.step_s / MAX_STEP_S)
        for _ in range(parts):
            truth = self.plant.step(self.step_s / parts)
        values = self.bms.read(truth, self.step_s)
        return encode.Reading(self.bms, values, boot, self.ts_ms), truth


def _used(packs: Packs, start_s: float, rng: np.random.Generator) -> ageing.Health:
    """Packs of 1 month to 8 years; who would be past the end of its life is retired before."""
    law, health = ageing.Ageing(packs), ageing.new_health(len(packs))
    months = 96
    age_d = rng.uniform(30.0, OLDEST_D, len(packs))
    for month in range(months):
        back_s = float(np.mean(age_d)) * 86400.0 * (1.0 - month / months)
        alive = packs.capacity_scale * (1.0 - health.loss) > END_OF_LIFE + 0.01
        stress = life_stress(packs, start_s - back_s, np.ones(len(packs)))
        health = law.advance(health, np.where(alive, age_d / months, 0.0), stress)
    return health


async def run(settings: Settings, stop: asyncio.Event) -> Summary:
    """Publish until `stop` is set or the time is over; returns what was published and confirmed."""
    boot = now_ms()
    simulation = Simulation(settings, boot / 1000.0)
    states = encode.birth(simulation.packs, boot, boot)
    outbox = Outbox(settings, states, connections=settings.connections)
    await outbox.open()
    _say(
        f"{settings.packs} packs publish to {settings.host}:{settings.port}, fleet {settings.fleet}, boot {boot}"
    )
    sender = asyncio.create_task(_send(settings, simulation, outbox, boot), name="sim sender")
    stopping = asyncio.create_task(stop.wait(), name="sim stop")
    try:
        await asyncio.wait(
            {sender, stopping}, timeout=settings.seconds or None, return_when=asyncio.FIRST_COMPLETED
        )
        if sender.done():
            sender.result()
        await _ended(sender)
        await outbox.linger(stop)
    finally:
        await _ended(sender)
        stopping.cancel()
        await outbox.close(settings.drain_s)
    return outbox.summary()


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


class _CellsDue:
    """Each pack's cells every `period_s` of wall clock, spread over that time; 0: never."""

    def __init__(self, settings: Settings, now_s: float) -> None:
        self._reader, self._period_s = CellReader(settings.seed), settings.cells_s
        spread_s = min(self._period_s, settings.packs / FIRST_CELLS_A_SECOND)
        places = range(settings.packs) if self._period_s else ()
        self._due_s = [now_s + spread_s * place / settings.packs for place in places]

    def publish(self, i: int, reading: encode.Reading, outbox: Outbox) -> None:
        """Of a pack that publishes a reading just now, where they are due."""
        if self._due_s and (now_s := time.monotonic()) >= self._due_s[i]:
            self._due_s[i] = now_s + self._period_s
            outbox.publish_cells(i, reading.encode_cells(i, self._reader))


async def _send(settings: Settings, simulation: Simulation, outbox: Outbox, boot: int) -> None:
    due_s, truth_due_s, period_s = time.monotonic(), 0.0, 0.0
    cells = _CellsDue(settings, due_s)
    turns: list[list[int]] = []
    while True:
        hz = min(outbox.asked_hz or settings.hz, max(settings.hz, MOST_A_SECOND / settings.packs))
        if period_s != 1.0 / hz:
            period_s, simulation.step_s = 1.0 / hz, settings.speedup / hz
            turns = _turns(settings.packs, period_s)
        reading, truth = simulation.advance(boot)
        for place, turn in enumerate(turns):
            await _sleep_until(due_s + place * period_s / len(turns))
            await _send_turn(turn, reading, outbox, cells)
        if settings.truth_s and time.monotonic() >= truth_due_s:
            truth_due_s = time.monotonic() + settings.truth_s
            hidden = encode.encode_truth(simulation.bms, truth, boot, simulation.ts_ms, simulation.faults)
            for i, payload in enumerate(hidden):
                outbox.publish_truth(i, payload)
        due_s += period_s
        if time.monotonic() - due_s > TOO_LATE_S:
            _say(f"behind by {time.monotonic() - due_s:.1f} s: going on from here")
            due_s = time.monotonic()


def _turns(packs: int, period_s: float) -> list[list[int]]:
    """Who sends together: the packs spread over a period."""
    slices = max(1, min(round(period_s / SLICE_S), packs))
    return [turn.tolist() for turn in np.array_split(np.arange(packs), slices)]


async def _send_turn(turn: list[int], reading: encode.Reading, outbox: Outbox, cells: _CellsDue) -> None:
    for i in turn:
        if reading.published[i]:
            await outbox.room(i)
            outbox.publish(i, reading.encode(i, outbox.count(i).published, now_ms()))
            cells.publish(i, reading, outbox)


async def _sleep_until(due_s: float) -> None:
    await asyncio.sleep(max(0.0, due_s - time.monotonic()))


def _say(text: str) -> None:
    log.info("%s", text)
