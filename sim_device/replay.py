"""`sim-device replay`: publishes recorded data as the vehicle would have sent it, at its own pace or faster."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from sim_device.gbt import Recording, nameplate, open_recording
from sim_device.options import CommonSettings
from sim_device.publish import Outbox, Summary
from voltflow.message import now_ms

log = logging.getLogger(__name__)

PROGRESS_S = 2.0
BREATH = 64
"""At speed-up 0, so many messages are handed over before confirmations are looked at."""

_encoder = msgspec.json.Encoder()


async def replay(
    settings: CommonSettings,
    files: Sequence[Path],
    stop: asyncio.Event,
    nameplates: dict[str, dict[str, Any]] | None = None,
) -> Summary:
    """Publish the files, different vehicles side by side, several files of one vehicle one after the other."""
    boot = now_ms()
    vehicles: dict[str, list[Recording]] = {}
    for recording in map(open_recording, files):
        vehicles.setdefault(recording.pack, []).append(recording)
    known = nameplates or {}
    states = [nameplate(pack, boot, known=known.get(pack)) for pack in vehicles]
    outbox = Outbox(settings, states)
    await outbox.open()
    tasks = [
        asyncio.create_task(_vehicle(settings, outbox, i, parts, boot), name=f"replay {pack}")
        for i, (pack, parts) in enumerate(vehicles.items())
    ]
    stopping = asyncio.create_task(stop.wait(), name="replay stop")
    everything = asyncio.ensure_future(_all(tasks))
    try:
        await asyncio.wait([everything, stopping], return_when=asyncio.FIRST_COMPLETED)
        if everything.done():
            everything.result()
            await outbox.linger(stop)
    finally:
        stopping.cancel()
        everything.cancel()
        with contextlib.suppress(asyncio.CancelledError, ValueError):
            await everything
        await outbox.close(settings.drain_s)
    return outbox.summary()


async def _all(tasks: Sequence[asyncio.Task[None]]) -> bool:
    await asyncio.gather(*tasks)
    return True


async def _vehicle(
    settings: CommonSettings, outbox: Outbox, i: int, parts: Sequence[Recording], boot: int
) -> None:
    pace = _Pace(settings.speedup)
    progress_due_s, seq = 0.0, 0
    for recording in parts:
        size = recording.path.stat().st_size
        for telemetry, done_bytes in recording.read(boot, seq):
            await pace.wait(telemetry.ts_ms)
            await outbox.room(i)
            telemetry.sent_ms = now_ms()
            outbox.publish(i, _encoder.encode(telemetry))
            seq += 1
            if seq % BREATH == 0:
                await asyncio.sleep(0)
            if time.monotonic() >= progress_due_s:
                progress_due_s = time.monotonic() + PROGRESS_S
                _progress(recording, seq, done_bytes, size, outbox.count(i).confirmed)
        _progress(recording, seq, size, size, outbox.count(i).confirmed)


class _Pace:
    """Waits until a device time is due; times that go backward are due at once."""

    def __init__(self, speedup: float) -> None:
        self._speedup = speedup
        self._start: tuple[int, float] | None = None

    async def wait(self, ts_ms: int) -> None:
        if not self._speedup:
            return
        if self._start is None:
            self._start = (ts_ms, time.monotonic())
        due_s = self._start[1] + (ts_ms - self._start[0]) / 1000.0 / self._speedup
        delay_s = due_s - time.monotonic()
        if delay_s > 0:
            await asyncio.sleep(delay_s)


def _progress(recording: Recording, rows: int, done_bytes: int, size: int, confirmed: int) -> None:
    share = 100.0 * done_bytes / max(size, 1)
    log.info(
        "%s: %d rows (%.0f %% of %s), %d confirmed",
        recording.pack,
        rows,
        share,
        recording.path.name,
        confirmed,
    )
