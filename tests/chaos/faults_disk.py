"""Faults of the spool's disk: full, read-only, a torn tail, a flipped bit, a quota that is too small."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.chaos.faults import TELEMETRY_PATH, fault
from tests.chaos.house import House
from tests.servers import wait_until

BACKLOG_S = 15.0
"""An agent whose uplink is gone has written something to its spool after so long, or it does not spool."""


@contextlib.contextmanager
def _uplink_away(house: House) -> Iterator[None]:
    """The spool is used while the uplink is away."""
    house.links["uplink"].cut()
    try:
        yield
    finally:
        house.links["uplink"].heal()


def _disk(house: House) -> Path:
    assert house.spool_disk is not None
    return house.spool_disk


def _segments(house: House) -> list[Path]:
    """The spool's files with contents, the newest last."""
    files = [
        path for path in (house.state_dir / "spool").rglob("*") if path.is_file() and path.stat().st_size
    ]
    return sorted((path for path in files if path.name != "filler"), key=lambda path: path.stat().st_mtime_ns)


def _wait_for_backlog(house: House, more_bytes: int = 20_000) -> None:
    """Wait until the spool has grown: something is in it that is not delivered."""
    before = sum(path.stat().st_size for path in _segments(house))
    with contextlib.suppress(FileNotFoundError):  # a segment that was finished in this moment
        wait_until(lambda: sum(path.stat().st_size for path in _segments(house)) > before + more_bytes,
                   "the spool to grow", BACKLOG_S, 0.1)  # fmt: skip


@fault("full-disk", *TELEMETRY_PATH, lasts_s=(2.0, 4.0), needs="disk")
def full_disk(house: House, rng: random.Random) -> Iterator[str]:
    """ENOSPC while the spool is needed; the room comes back before or after the uplink does."""
    disk, filler = _disk(house), _disk(house) / "filler"
    with _uplink_away(house):
        if rng.random() < 0.5:
            _wait_for_backlog(house)
        refused = _fill(filler)
        yield f"{disk.name}: {errno.errorcode[refused]}, {os.statvfs(disk).f_bavail} blocks free"
        if first := rng.random() < 0.5:
            filler.unlink()
    if not first:
        filler.unlink()


def _fill(path: Path) -> int:
    """Write until the disk is full; the error that said so."""
    with path.open("wb", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1):
            while True:
                try:
                    file.write(b"x" * size)
                except OSError as error:
                    code = error.errno or 0
                    break
    return code


@fault("read-only-disk", *TELEMETRY_PATH, lasts_s=(2.0, 4.0), needs="disk")
def read_only_disk(house: House, rng: random.Random) -> Iterator[str]:
    """The disk comes up read-only (as after a fault of an SD card), the agent with it; later it can be written again."""
    disk = _disk(house)
    with _uplink_away(house):
        if rng.random() < 0.5:
            _wait_for_backlog(house)
        house["agent"].kill()
        _remount(disk, "ro")
        house["agent"].launch()
        yield _refusal(disk)
        if first := rng.random() < 0.5:
            _remount(disk, "rw")
    if not first:
        _remount(disk, "rw")


def _remount(disk: Path, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", str(disk)], check=True)


def _refusal(disk: Path) -> str:
    try:
        (disk / "probe").write_bytes(b"x")
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    (disk / "probe").unlink()
    return ""


@fault("torn-spool", *TELEMETRY_PATH, lasts_s=(0.3, 1.0), needs="network")
def torn_spool(house: House, rng: random.Random) -> Iterator[str]:
    """The agent dies in the middle of an append: behind the last record stands half of one, or what the disk held before."""
    with _uplink_away(house):
        _wait_for_backlog(house)
        house["agent"].kill()
        newest = _segments(house)[-1]
        size = newest.stat().st_size
        start = max(0, size - rng.randrange(100, 2000))
        tail = (
            newest.read_bytes()[start : start + rng.randrange(1, 90)]
            if rng.random() < 0.5
            else rng.randbytes(rng.randrange(1, 3000))
        )
        with newest.open("ab") as file:
            file.write(tail)
        house["agent"].launch()
        yield f"{newest.name}: {len(tail)} bytes behind {size}"


@fault("flipped-spool", *TELEMETRY_PATH, lasts_s=(0.3, 1.0), needs="network")
def flipped_spool(house: House, rng: random.Random) -> Iterator[str]:
    """One bit of what waits in the spool is wrong."""
    with _uplink_away(house):
        _wait_for_backlog(house)
        house["agent"].kill()
        segment = rng.choice(_segments(house))
        data = bytearray(segment.read_bytes())
        # From the second half: what lies before may be delivered already.
        bit = rng.randrange(len(data) * 4, len(data) * 8)
        data[bit // 8] ^= 1 << bit % 8
        segment.write_bytes(data)
        house["agent"].launch()
        yield f"{segment.name}: bit {bit} of {len(data) * 8}"


@fault("small-spool", *TELEMETRY_PATH, lasts_s=(4.0, 6.0), needs="network")
def small_spool(house: House, rng: random.Random) -> Iterator[str]:
    """The uplink is away for longer than the spool's quota lasts: telemetry is thinned and dropped, each loss recorded."""
    usual, small = house.agent, house.make_agent(house.state_dir, spool_max_mb="1")
    house["agent"].kill()
    house.replace_agent(small)
    house["agent"].launch()
    wait_until(house["agent"].ready, "the agent with a small spool", 30, 0.1)
    with _uplink_away(house):
        yield ""
        wait_until(lambda: _given_up(house), "the spool to give up telemetry", BACKLOG_S, 0.2)
        given_up = _given_up(house)
    yield f"{given_up:g} messages thinned out or dropped"
    house["agent"].kill()
    house.replace_agent(usual)
    house["agent"].launch()


def _given_up(house: House) -> float:
    """How many messages the agent's spool says it gave up."""
    text = house["agent"].here(house.agent.metrics)
    lines = [line for line in text.splitlines() if line.startswith("voltflow_spool_lost_total{")]
    return sum(float(line.split()[-1]) for line in lines)
