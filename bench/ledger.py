"""How long `voltflow ledger verify` takes: `python -m bench.ledger --rows 10000000`.

Makes a history of that many rows in a PostgreSQL of its own, with known holes, duplicates and pairs of both that cancel
out in counts, verifies it with one and with two connections, and looks at what a bridge's continuous check costs.
`--write` puts the table into `docs/fleet-operator.md`.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import resource
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import psutil
import psycopg2

from bench.report import machine
from cloud.ledger_watch import Watch
from cloud.migrate import migrate
from tests import servers
from voltflow.ledger.ledger import Report, verify

DOCS = servers.REPOSITORY / "docs" / "fleet-operator.md"
BEGIN, END = "<!-- figures: python -m bench.ledger --write -->", "<!-- end of figures -->"
PARTS = 20
FAULTS_EVERY = 100
"""Every so many packs has a hole of ten, a doubled message, and a hole and a duplicate that cancel out."""

# As rows come: all packs a second, then the next second.
FILL = """
INSERT INTO telemetry (fleet, pack, boot, seq, ts, received, gateway, flow_rev, late, replay, stored, soc_pct, pack_voltage_v)
SELECT 'bench', 'SIM' || lpad(p::text, 6, '0'), 1764000000, q, timestamptz '2025-11-24' + q * interval '1 second', now(),
    'gw', 'rev', false, false, now() - interval '2 days', 50, 350
FROM generate_series(%s, %s) q, generate_series(0, %s) p
WHERE NOT (p %% 100 = 7 AND q BETWEEN 1000 AND 1009) AND NOT (p %% 100 = 8 AND q = 500)
"""
DOUBLES = """
INSERT INTO telemetry (fleet, pack, boot, seq, ts, gateway, flow_rev, late, replay, stored)
SELECT fleet, pack, boot, seq, ts + interval '500 milliseconds', gateway, flow_rev, late, replay, stored FROM telemetry
WHERE pack LIKE '%%08' AND seq = 501
"""
NEW = """
INSERT INTO telemetry (fleet, pack, boot, seq, ts, received, gateway, flow_rev, late, replay)
SELECT 'bench', 'SIM' || lpad(p::text, 6, '0'), 1764000000, q, timestamptz '2025-11-24' + q * interval '1 second', now(),
    'gw', 'rev', false, false
FROM generate_series(%s, %s) q, generate_series(0, %s) p
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, prog="python -m bench.ledger", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--rows", type=float, default=1e7, help="rows of the history (%(default)g)")
    parser.add_argument("--packs", type=int, default=1000, help="packs they are of (%(default)s)")
    parser.add_argument("--write", action="store_true", help=f"put the table into {DOCS.name}")
    args = parser.parse_args()
    with servers.Postgres() as postgres:
        rows = fill(postgres.dsn, int(args.rows), args.packs)
        lines = [
            *header(rows, args.packs, postgres.dsn),
            *verified(postgres, args.packs),
            "",
            *watched(postgres.dsn, rows, args.packs),
        ]
    table = "\n".join(lines)
    print(table)
    if args.write:
        write(table)


def execute(dsn: str, sql: str, parameters: Any = None) -> list[tuple[Any, ...]]:
    with contextlib.closing(psycopg2.connect(dsn)) as conn:
        conn.autocommit = True
        with conn.cursor() as cursor:
            cursor.execute(sql, parameters)
            return cursor.fetchall() if cursor.description else []


def fill(dsn: str, rows: int, packs: int) -> int:
    """The history; how many rows it has."""
    with contextlib.closing(psycopg2.connect(dsn)) as conn:
        migrate(conn)
    seconds = rows // packs
    for part in range(PARTS):
        first, last = seconds * part // PARTS, seconds * (part + 1) // PARTS - 1
        execute(dsn, FILL, (first, last, packs - 1))
        print(f"filled {part + 1}/{PARTS}", flush=True)
    execute(dsn, DOUBLES)
    execute(dsn, "VACUUM ANALYZE telemetry")
    return int(execute(dsn, "SELECT count(*) FROM telemetry")[0][0])


def header(rows: int, packs: int, dsn: str) -> list[str]:
    sizes = execute(
        dsn,
        "SELECT pg_total_relation_size('telemetry'), pg_relation_size('telemetry_pack_ts_boot_seq_fleet_key')",
    )
    total, index = sizes[0]
    here = machine()
    measured_on = (
        f"{time.strftime('%Y-%m-%d', time.gmtime())}: {here['cpu']}, {os.cpu_count()} cores (load average before: "
        f"{here['load_before']}), PostgreSQL 18 with its default settings. {rows:,} rows of {packs:,} packs "
        f"({total / 1e9:.1f} GB, the unique index {index / 1e9:.2f} GB), stored in the order of time, visibility map set."
    )
    return [
        measured_on,
        "",
        "| `voltflow ledger verify` | seconds | million rows/s | server CPU µs/row | server memory MB | client memory MB | 10⁹ rows, at this speed |",
        "|---|---|---|---|---|---|---|",
    ]  # fmt: skip


def verified(postgres: servers.Postgres, packs: int) -> Iterator[str]:
    for jobs in (1, 2):
        with Backends(postgres.pid) as backends:
            started = time.monotonic()
            report = verify(postgres.dsn, jobs=jobs)
            seconds = time.monotonic() - started
        check(report, packs)
        client_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        per_row_us = backends.cpu_s / report.rows * 1e6
        yield (
            f"| {jobs} connection{'s' * (jobs > 1)} | {seconds:.1f} | {report.rows / seconds / 1e6:.2f} | {per_row_us:.2f} | "
            f"{backends.peak_mb:.0f} | {client_mb:.0f} | {seconds / report.rows * 1e9 / 60:.0f} minutes |"
        )


def check(report: Report, packs: int) -> None:
    """The faults that were made, all of them and nothing else."""
    holes, pairs = (len(range(start, packs, FAULTS_EVERY)) for start in (7, 8))
    found = (report.missing, report.duplicates, sum(bool(e.missing) for e in report.entries))
    assert found == (10 * holes + pairs, pairs, holes + pairs), found


class Backends:
    """What the server's processes for our connections use meanwhile: CPU, and memory of their own (without shared buffers)."""

    def __init__(self, postmaster: int) -> None:
        self._postmaster = psutil.Process(postmaster)
        self._over = threading.Event()
        self._cpu: dict[int, float] = {}
        self._before: dict[int, float] = {}
        self.peak_mb = 0.0

    @property
    def cpu_s(self) -> float:
        return sum(cpu - self._before.get(pid, 0.0) for pid, cpu in self._cpu.items())

    def __enter__(self) -> Self:
        self._look()
        self._before = dict(self._cpu)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(0.1):
            self._look()

    def _look(self) -> None:
        used_mb = 0.0
        for process in self._postmaster.children():
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                times = process.cpu_times()
                self._cpu[process.pid] = times.user + times.system
                if "postgres: " in " ".join(process.cmdline()) and "voltflow" not in process.name():
                    memory = process.memory_info()
                    used_mb += (memory.rss - memory.shared) / 1e6
        self.peak_mb = max(self.peak_mb, used_mb)


def watched(dsn: str, rows: int, packs: int) -> Iterator[str]:
    """The continuous check after a minute's messages of all packs."""
    seconds = rows // packs
    with contextlib.closing(Watch(dsn, window_s=3600)) as watch:
        watch.look()
        execute(dsn, NEW, (seconds + 1, seconds + 60, packs - 1))
        started = time.monotonic()
        while (account := watch.look()) is None or account.delivered < 60 * packs:
            assert time.monotonic() - started < 60, account
        looked_s = time.monotonic() - started
    yield (
        f"The bridge's continuous check of a minute of {packs:,} packs at 1 Hz ({60 * packs:,} new rows beside that history): "
        f"{looked_s:.2f} s."
    )


def write(table: str) -> None:
    text = Path(DOCS).read_text()
    before, rest = text.split(BEGIN, 1)
    _, after = rest.split(END, 1)
    Path(DOCS).write_text(f"{before}{BEGIN}\n\n{table}\n\n{END}{after}")


if __name__ == "__main__":
    os.nice(5)
    main()
