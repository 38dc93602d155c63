"""How far the devices' clocks are ahead of the gateway's: a running median per device, and what they all say together.

>>> clocks = DeviceClocks()
>>> [clocks.observe(7, ahead_ms, counted_ns=0) for ahead_ms in (300, 280, 9_000, 310)]
[300.0, 290.0, 300.0, 305.0]
"""

from __future__ import annotations

from array import array
from itertools import islice
from statistics import median

SAMPLES = 15
"""Messages whose median is a device's skew: one that waited somewhere, or a few, change nothing."""
EVERY = 4
"""Of a device with all its samples only every so-manieth message is taken: they reach over a longer time and cost less."""
NOT_WALL_MS = 86_400_000
"""A device more than a day off that does not say what its time is sends a simulated or recorded one: no witness."""
FRESH_NS = 600 * 1_000_000_000
WITNESSES = 1000
"""Devices that are asked at most."""
MOST_OF = 0.5
"""How much of a step the devices' clocks must be nearer after it, or farther, to have said something."""


class _Device:
    """The last differences of one device, as a ring."""

    __slots__ = ("count", "is_wall", "samples", "seen_ns", "skew_ms")

    def __init__(self) -> None:
        self.samples = array("q")
        self.count = 0
        self.skew_ms = 0.0
        self.seen_ns = 0
        self.is_wall = False


class DeviceClocks:
    """All devices of a gateway, known by a number each; some 300 bytes a device."""

    def __init__(self) -> None:
        self._devices: dict[int, _Device] = {}

    def observe(self, device: int, ahead_ms: int, counted_ns: int, *, is_wall: bool = False) -> float:
        """Take how far one message's time was ahead of its receiving; the device's skew, ms. `is_wall`: it is known to be
        wall time, however far off."""
        found = self._devices.get(device)
        if found is None:
            found = self._devices[device] = _Device()
        count, samples = found.count, found.samples
        found.count = count + 1
        if count >= SAMPLES and count % EVERY:
            return found.skew_ms
        found.seen_ns, found.is_wall = counted_ns, is_wall
        if count < SAMPLES:
            samples.append(ahead_ms)
            found.skew_ms = float(median(samples))
        else:
            samples[count // EVERY % SAMPLES] = ahead_ms
            found.skew_ms = float(sorted(samples)[SAMPLES // 2])
        return found.skew_ms

    def median_ms(self, counted_ns: int) -> float | None:
        """What the devices heard of lately say together; None without any that may know the time."""
        skews = self._witnesses(counted_ns)
        return median(skews) if skews else None

    def agree(self, step_ms: float, counted_ns: int) -> bool | None:
        """Whether a clock that jumped by `step_ms` is nearer to the devices' than before, or farther; None: who knows."""
        before = self.median_ms(counted_ns)
        if before is None:
            return None
        nearer = abs(before) - abs(before - step_ms)
        return None if abs(nearer) < MOST_OF * abs(step_ms) else nearer > 0

    def forget(self) -> None:
        """Begin anew: the gateway's time has changed."""
        self._devices.clear()

    def _witnesses(self, counted_ns: int) -> list[float]:
        fresh = (d for d in list(self._devices.values()) if counted_ns - d.seen_ns < FRESH_NS)
        able = (d.skew_ms for d in fresh if d.is_wall or abs(d.skew_ms) <= NOT_WALL_MS)
        return list(islice(able, WITNESSES))
