"""`python -m bench.state`: what keeping the state of many packs costs: time, bytes, and what a day of it writes.

The battery nodes of the default flow take eleven minutes of telemetry of each pack, so that predictions wait for their
actual values as they do in a gateway. Then the twins are copied, made bytes, written and restored; the fastest of several
rounds counts. Give a folder on the disk in question.
"""

from __future__ import annotations

import argparse
import itertools
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.report import machine
from edge.settings import AgentSettings
from edge.snapshot import copy_twins, restore_twins
from edge.twin import TwinStore
from tests.twins import START_MS, Chain
from voltflow.state import file as state_file
from voltflow.state.state import DAY_S

PAGE = Path(__file__).resolve().parent.parent / "docs" / "state.md"
BEGIN, END = "<!-- figures: python -m bench.state -->", "<!-- end of figures -->"
PACKS = (20, 200, 1000, 10_000)
MESSAGES, PERIOD_MS, BATCH = 66, 10_000, 500
ROUNDS = 7


def main() -> int:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(allow_abbrev=False, prog="python -m bench.state", description=__doc__)
    parser.add_argument("--folder", type=Path, help="where to write (default: a temporary folder)")
    parser.add_argument("--keep", action="store_true", help=f"put the table into {PAGE.name}")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        lines = [_row(packs, Path(folder)) for packs in PACKS]
    facts = machine()
    text = (
        "| packs | copy in the event loop | bytes and compression, in a thread | write and fsync | restore | file | a day at 60 s "
        "| period within 500 MB a day |\n|---|---|---|---|---|---|---|---|\n" + "\n".join(lines)
        + f"\n\nMeasured {facts['date']} on {facts['cpu']}, {facts['cores']} cores, load {facts['load_before']}; "
        f"Python {facts['python']}.\n"
    )  # fmt: skip
    print(text)
    if args.keep:
        page = PAGE.read_text()
        PAGE.write_text(f"{page.partition(BEGIN)[0]}{BEGIN}\n\n{text}\n{END}{page.partition(END)[2]}")
    return 0


def _row(packs: int, folder: Path) -> str:
    store = _filled(packs)
    rounds, data = [], b""
    for number in range(ROUNDS):
        marks = [time.perf_counter()]
        encode = copy_twins(store)
        marks.append(time.perf_counter())
        data = state_file.dump(number, 0, {"twins": encode()}).data
        marks.append(time.perf_counter())
        state_file.write(folder, data, clean=False)
        marks.append(time.perf_counter())
        restore_twins(TwinStore(), state_file.StateFile.load(data).parts["twins"])
        marks.append(time.perf_counter())
        rounds.append([(after - before) * 1e3 for before, after in itertools.pairwise(marks)])
    costs = " | ".join(f"{min(costs):.1f} ms" for costs in zip(*rounds, strict=True))
    defaults = AgentSettings()
    day_mb = len(data) * DAY_S / defaults.state_period_s / 1e6
    period_s = max(defaults.state_period_s, len(data) * DAY_S / defaults.disk_write_budget_mb_per_day / 1e6)
    return f"| {packs:,} | {costs} | {len(data) / 1e3:,.0f} kB | {day_mb:,.0f} MB | {period_s:,.0f} s |"


def _filled(packs: int) -> TwinStore:
    chain, rng = Chain(), random.Random(1)
    names = [f"P{number:05d}" for number in range(packs)]
    for name in names:
        chain.birth(name)
    for seq in range(MESSAGES):
        for start in range(0, packs, BATCH):
            chain.feed([_telemetry(name, seq, rng) for name in names[start : start + BATCH]])
    return chain.store


def _telemetry(pack: str, seq: int, rng: random.Random) -> dict[str, Any]:
    """Every field that a device may send, as the state holds the last message whole."""
    lowest_v = round(rng.uniform(3.60, 3.64), 3)
    return {
        "schema": "bms.telemetry/1", "pack": pack, "boot": START_MS, "seq": seq, "sent_ms": START_MS + PERIOD_MS * seq,
        "ts_ms": START_MS + PERIOD_MS * seq + rng.randrange(900), "vehicle_state": "driving",
        "charging_state": "not_charging", "speed_kmh": round(rng.uniform(0, 100), 1), "soc_pct": round(60 - seq / 20, 1),
        "odometer_km": round(rng.uniform(0, 1e5), 1), "pack_voltage_v": round(rng.uniform(340, 360), 1),
        "pack_current_a": round(rng.uniform(-100, 50), 1), "soh_bms_pct": 94.0, "soh_basis": "capacity",
        "cell_voltage_min_v": lowest_v, "cell_voltage_max_v": round(lowest_v + 0.025, 3), "cell_voltage_avg_v": round(lowest_v + 0.01, 3),
        "cell_voltage_min_id": rng.randrange(96), "cell_voltage_max_id": rng.randrange(96), "cell_temp_min_c": 24.0,
        "cell_temp_max_c": round(rng.uniform(26, 27), 1), "cell_temp_avg_c": 25.1, "coolant_inlet_c": 20.2,
        "coolant_outlet_c": 22.2, "ambient_c": 15.5, "insulation_kohm": 2450.0, "contactor": "closed",
        "limit_charge_kw": 90.0, "limit_discharge_kw": 200.0, "efc": round(rng.uniform(100, 200), 3),
        "charge_throughput_ah": round(rng.uniform(1e4, 2e4), 2), "balancing_cells": 0, "alarm_level": 0,
        "discharge_throughput_ah": round(rng.uniform(1e4, 2e4), 2),
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
