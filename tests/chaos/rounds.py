"""A round: faults, their end, waiting until the ledger is settled, and the checks."""

from __future__ import annotations

import heapq
import random
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import psycopg2

from tests.chaos.faults import Fault
from tests.chaos.house import DATABASE, House
from tests.chaos.schedule import Act
from tests.chaos.witness import Boot, Findings, Witness
from voltflow.ledger.ledger import Expected, verify

SETTLE_S = 60.0
ASK_EVERY_S = 0.2
GROWTH_MB = 60.0
"""Resident memory that a program may gain over a run."""
GROWTH_SHARE = 0.5
TWO_AGENTS = "two-agents"

Say = Callable[[str], None]


@dataclass
class Fired:
    """A fault that was to happen, and the proof that it did; no proof: it did not."""

    fault: str
    at_s: float
    until_s: float
    proof: str = ""


@dataclass
class Result:
    """What became of a round."""

    number: int
    faults: list[Fired] = field(default_factory=list)
    faults_s: float = 0.0
    settle_s: float = 0.0
    rows: int = 0
    repeated: int = 0
    explained: int = 0
    rss_mb: dict[str, float] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def line(self) -> str:
        faults = ", ".join(f"{f.fault}{'' if f.proof else ' (did not fire)'}" for f in self.faults)
        end = "ok" if not self.problems else "FAILED: " + self.problems[0]
        return (f"round {self.number:4d}  {self.faults_s:4.1f} + {self.settle_s:4.1f} s  {self.rows:5d} rows, "
                f"{self.repeated:4d} repeated, {self.explained:4d} explained  [{faults}]  {end}")  # fmt: skip


class Runner:
    """Plays rounds in a house."""

    def __init__(self, house: House, say: Say, settle_s: float = SETTLE_S) -> None:
        self.house, self._say, self._settle_s = house, say, settle_s
        self.witness = Witness(house.device.witness)
        self._rss_limit_mb: dict[str, float] = {}

    def warm_up(self) -> None:
        """Wait until everything runs and the first rows have arrived."""
        result = Result(0)
        self._settle(result)
        if result.problems:
            raise AssertionError(f"the house does not run without faults: {result.problems}")

    def play(self, number: int, acts: Sequence[Act]) -> Result:
        """One round; problems are in the result."""
        result = Result(number)
        started = time.monotonic()
        try:
            self._trouble(result, acts, started)
        except (AssertionError, OSError, psycopg2.Error, subprocess.SubprocessError) as error:
            result.problems.append(f"fault: {type(error).__name__}: {error}")
        result.faults_s = time.monotonic() - started
        if not result.problems:
            self._settle(result)
            result.settle_s = time.monotonic() - started - result.faults_s
        return result

    # -- trouble --------------------------------------------------------------------------------------------------------

    def _trouble(self, result: Result, acts: Sequence[Act], started: float) -> None:
        """Begin each fault at its time and end it when it has lasted; one that waits for something holds up the others."""
        running: dict[str, Iterator[str]] = {}
        records: dict[str, Fired] = {}
        events = [(act.at_s, number, act) for number, act in enumerate(acts)]
        heapq.heapify(events)
        try:
            while events:
                at_s, number, act = heapq.heappop(events)
                time.sleep(max(0.0, started + at_s - time.monotonic()))
                name, now_s = act.fault.name, time.monotonic() - started
                if begins := name not in running:
                    running[name] = act.fault.deed(self.house, random.Random(act.seed))
                    records[name] = Fired(name, now_s, now_s)
                    result.faults.append(records[name])
                for proof in running[name]:
                    records[name].proof = proof or records[name].proof
                    if begins:
                        break
                records[name].until_s = time.monotonic() - started
                if begins:
                    heapq.heappush(events, (records[name].until_s + act.until_s - act.at_s, number, act))
        finally:
            for deed in running.values():
                _undo(deed)

    # -- peace ----------------------------------------------------------------------------------------------------------

    def _settle(self, result: Result) -> None:
        """Wait until everything published up to now is where it belongs, then check all."""
        deadline = time.monotonic() + self._settle_s
        state = "nothing was looked at"
        until: dict[Boot, int] | None = None
        said = time.monotonic()
        while time.monotonic() < deadline:
            try:
                state, until = self._look(until)
            except AssertionError as error:
                result.problems.append(str(error))
                return
            if not state and until is not None:
                self._check(result, until)
                return
            if time.monotonic() - said > 10:
                self._say(f"round {result.number}: waiting for {state}")
                said = time.monotonic()
            time.sleep(ASK_EVERY_S)
        result.problems.append(f"not settled after {self._settle_s:g} s: {state}")

    def _look(self, until: dict[Boot, int] | None) -> tuple[str, dict[Boot, int] | None]:
        """What is still missing (empty: nothing), and up to where is looked."""
        if unready := self.house.unready():
            return f"{', '.join(unready)} to be ready", None
        newest = self.witness.read()
        if until is None:
            if not newest:
                return "the first message", None
            until = newest
        try:
            found = self.witness.look(self._dsn, until)
        except psycopg2.Error as error:
            return f"the database: {error}", until
        if found.missing:
            return _missing_text(found), until
        if waiting := self.house.spooled():
            return f"the spool: {waiting}", until
        return "", until

    @property
    def _dsn(self) -> str:
        return self.house.database.dsn(DATABASE)

    def _check(self, result: Result, until: dict[Boot, int]) -> None:
        # two gateways each keep their own order
        ordered = not any(fired.fault == TWO_AGENTS for fired in result.faults)
        found = self.witness.look(self._dsn, until, thorough=True, ordered=ordered)
        result.rows, result.repeated, result.explained = found.rows, found.repeated, found.explained
        if found.missing:
            result.problems.append(_missing_text(found))
        if not found.rows:
            result.problems.append("nothing was published in this round, so nothing is proven")
        result.problems += found.wrong[:20]
        result.problems += self._ledger(until)
        result.problems += self._memory(result)
        if not found.missing:
            self.witness.settle(until)

    def _ledger(self, until: dict[Boot, int]) -> Iterator[str]:
        """What the product's own ledger says of all rounds so far."""
        report = verify(self._dsn, {pack: Expected(boot, count) for (pack, boot), count in until.items()})
        for entry in report.entries:
            below = until.get((entry.pack, entry.boot), 0)
            for hole in entry.missing:
                if hole.first < below:
                    yield f"ledger: {entry.pack} boot {entry.boot}: {hole.first} to {hole.last} missing"
        if report.duplicates:
            yield f"ledger: {report.duplicates} duplicates"

    def _memory(self, result: Result) -> Iterator[str]:
        """Memory of agent and bridge does not grow without end."""
        for name in ("agent", "bridge"):
            now_mb = result.rss_mb[name] = round(self.house[name].rss_mb, 1)
            limit_mb = self._rss_limit_mb.setdefault(name, now_mb * (1 + GROWTH_SHARE) + GROWTH_MB)
            if now_mb > limit_mb:
                yield f"{name} has {now_mb:.0f} MB, the limit of this run is {limit_mb:.0f} MB"


def _undo(deed: Iterator[str]) -> None:
    """Let a fault that is not over yet undo what it did: also a round that is given up leaves the house whole."""
    try:
        for _ in deed:
            pass
    except (AssertionError, OSError, psycopg2.Error, subprocess.SubprocessError):
        return


def _missing_text(found: Findings) -> str:
    """The first and the number of what is missing, by pack."""
    packs: dict[str, list[int]] = {}
    for pack, _, seq in found.missing:
        packs.setdefault(pack, []).append(seq)
    some = [f"{pack} {_ranges(seqs)}" for pack, seqs in list(packs.items())[:4]]
    return f"{len(found.missing)} messages of {len(packs)} packs missing: {'; '.join(some)}"


def _ranges(seqs: list[int]) -> str:
    """Numbers as ranges, the first three.

    >>> _ranges([1, 2, 3, 7])
    '1–3, 7'
    """
    ranges: list[list[int]] = []
    for seq in seqs:
        if ranges and ranges[-1][1] == seq - 1:
            ranges[-1][1] = seq
        else:
            ranges.append([seq, seq])
    texts = [f"{first}" if first == last else f"{first}–{last}" for first, last in ranges]
    return ", ".join(texts[:3] + (["…"] if len(texts) > 3 else []))


def chosen(faults: Sequence[Fault], names: Sequence[str]) -> list[Fault]:
    """The faults of these names; `kill` stands for all whose names begin so."""
    picked = [f for f in faults if any(f.name == name or f.name.startswith(f"{name}-") for name in names)]
    unknown = [
        name for name in names if not any(f.name == name or f.name.startswith(f"{name}-") for f in faults)
    ]
    if unknown:
        raise SystemExit(
            f"--faults {','.join(unknown)}: there is none; known are {', '.join(f.name for f in faults)}"
        )
    return picked
