"""Faults of people: a clock that is set, a gateway that is there twice, a database from yesterday's backup."""

from __future__ import annotations

import contextlib
import random
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.chaos.faults import TELEMETRY_PATH, fault
from tests.chaos.house import DATABASE, House
from tests.chaos.places import Member
from tests.servers import wait_until

CLOCK_STEPS_S = (3600, -3600, -1_700_000_000)
"""An hour on, an hour back, about 1972."""
BACKUP = "yesterday"
_TAKEN_OVER = "already connected, closing old connection"


@fault("clock-step", "clock", "agent", lasts_s=(1.0, 3.0), needs="clock")
def clock_step(house: House, rng: random.Random) -> Iterator[str]:
    """The gateway's clock is set wrongly while it runs, and later right again."""
    step_s = rng.choice(CLOCK_STEPS_S)
    _set_clock(house, step_s)
    yield f"{step_s:+d} s"
    _set_clock(house, 0)


@fault("start-in-the-past", "clock", "agent", lasts_s=(2.0, 4.0), needs="clock")
def start_in_the_past(house: House, rng: random.Random) -> Iterator[str]:
    """The gateway starts without a battery behind its clock; the time is found later."""
    house["agent"].kill()
    _set_clock(house, CLOCK_STEPS_S[-1])
    house["agent"].launch()
    yield f"started at {CLOCK_STEPS_S[-1]:+d} s"
    _set_clock(house, 0)


def _set_clock(house: House, off_s: int) -> None:
    """Atomically: the agent reads the file at each look at its clock."""
    assert house.clock is not None
    new = house.clock.with_suffix(".new")
    new.write_text(f"{off_s:+d}\n")
    new.replace(house.clock)


@fault("two-agents", "agent", "local-broker", "uplink-broker", lasts_s=(4.0, 6.0))
def two_agents(house: House, rng: random.Random) -> Iterator[str]:
    """A second gateway with the same name, by mistake: both take each other's connection."""
    before = _taken_over(house)
    folder = Path(tempfile.mkdtemp(prefix="second-", dir=house.folder))
    second = Member("second agent", house.make_agent(folder), house["agent"].place)
    second.launch()
    try:
        with contextlib.suppress(AssertionError):  # then the proof is missing
            wait_until(lambda: _taken_over(house) > before, "a takeover", 15, 0.1)
        yield ""
        count = _taken_over(house) - before
        if rng.random() < 0.5:
            second.stop()
    finally:
        second.close()
        shutil.copy(second.log_file(), house.folder / "second-agent.log")
        shutil.rmtree(second.server.folder, ignore_errors=True)
    yield f"{count} takeovers" if count else ""


def _taken_over(house: House) -> int:
    return sum(house[name].log.count(_TAKEN_OVER) for name in ("local-broker", "uplink-broker"))


@fault("yesterdays-database", "database", "bridge", "kafka", *TELEMETRY_PATH, lasts_s=(2.0, 4.0))
def yesterdays_database(house: House, rng: random.Random) -> Iterator[str]:
    """The database fails and is restored from a backup: rows that were stored, and acknowledged, are gone."""
    with _administration(house) as cursor, _nobody_connected(cursor):
        cursor.execute(f"CREATE DATABASE {BACKUP} TEMPLATE {DATABASE} STRATEGY FILE_COPY")
    kept = _rows(house, BACKUP)
    yield ""
    with contextlib.suppress(AssertionError):  # other faults may keep rows away: then there is no proof
        wait_until(lambda: _rows(house, DATABASE) > kept, "a row after the backup", 15, 0.1)
    lost = _rows(house, DATABASE) - kept
    with _administration(house) as cursor, _nobody_connected(cursor):
        cursor.execute(f"ALTER DATABASE {DATABASE} RENAME TO gone")
        cursor.execute(f"ALTER DATABASE {BACKUP} RENAME TO {DATABASE}")
    with _administration(house) as cursor:
        cursor.execute("DROP DATABASE gone")
    yield f"{lost} rows gone" if lost else ""


@contextlib.contextmanager
def _administration(house: House) -> Iterator[Any]:
    import psycopg2

    with contextlib.closing(psycopg2.connect(house.database.dsn("postgres"))) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            yield cursor


@contextlib.contextmanager
def _nobody_connected(cursor: Any) -> Iterator[None]:
    """The history's database has no connections while the block runs; who had one finds it cut."""
    cursor.execute(f"ALTER DATABASE {DATABASE} ALLOW_CONNECTIONS false")
    try:
        cursor.execute(
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = %s", (DATABASE,)
        )
        yield
    finally:
        cursor.execute(f"ALTER DATABASE {DATABASE} ALLOW_CONNECTIONS true")


def _rows(house: House, database: str) -> int:
    import psycopg2

    dsn = house.database.dsn(database)
    with contextlib.closing(psycopg2.connect(dsn)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM telemetry")
        [(count,)] = cursor.fetchall()
        return int(count)
