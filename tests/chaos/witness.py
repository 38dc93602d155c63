"""The witness: what the devices published, message by message, beside what the history holds of it."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg2

from cloud.rows import FLOATS, INTEGERS, TEXTS
from voltflow.battery.chemistry import valid_ranges
from voltflow.telemetry import Telemetry, decode_telemetry

Key = tuple[str, int, int]
"""Pack, boot, seq."""
Boot = tuple[str, int]

MEASURED = (*TEXTS, *FLOATS, *INTEGERS)
COLUMNS = (
    "pack",
    "boot",
    "seq",
    "ts",
    "sent",
    "received",
    "stored",
    "late",
    "replay",
    "dtc",
    "invalid",
    "stale_s",
    *MEASURED,
)
SLACK = timedelta(seconds=90)
"""A receive time may lie so far before its round (a spool) or after its row, and is then still believed."""
PAIRS = (("cell_voltage_min_v", "cell_voltage_max_v"), ("cell_temp_min_c", "cell_temp_max_c"))


@dataclass
class Findings:
    """What one look at the history told."""

    rows: int = 0
    repeated: int = 0
    """Rows marked `replay`: out of a spool, or sent again by the device."""
    explained: int = 0
    missing: list[Key] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


class Witness:
    """Reads what was published; keeps what is not proven yet."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._number, self._offset, self._rest = 0, 0, b""
        self._unproven: dict[Key, bytes] = {}
        self._newest: dict[Boot, int] = {}
        self.digest = hashlib.sha256()
        self.proven = 0

    def read(self) -> dict[Boot, int]:
        """Take in what was published since; how many messages each boot of a pack has now."""
        while self._read_file():
            (self._folder / f"published-{self._number:06d}").unlink()
            self._number, self._offset = self._number + 1, 0
        return dict(self._newest)

    def _read_file(self) -> bool:
        """Read on in the current file; True when it is finished."""
        following = (self._folder / f"published-{self._number + 1:06d}").exists()
        path = self._folder / f"published-{self._number:06d}"
        if not path.exists():
            return False
        with path.open("rb") as file:
            file.seek(self._offset)
            data = file.read()
        self._offset += len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            head = json.loads(line)
            key = (head["pack"], head["boot"], head["seq"])
            self._unproven.setdefault(key, line)
            boot = key[:2]
            self._newest[boot] = max(self._newest.get(boot, 0), key[2] + 1)
        return following

    def look(
        self, dsn: str, until: dict[Boot, int], *, thorough: bool = False, ordered: bool = True
    ) -> Findings:
        """Compare all that was published below `until` and is not proven yet with the history.

        Thorough: contents too, and the order where one is promised. Raises psycopg2.Error when the database does not answer.
        """
        wanted = {key for key in self._unproven if key[2] < until.get(key[:2], 0)}
        if not wanted:
            return Findings()
        oldest_ms = min(json.loads(self._unproven[key])["ts_ms"] for key in wanted)
        with contextlib.closing(psycopg2.connect(dsn, connect_timeout=5)) as connection:
            connection.set_session(readonly=True)
            with connection.cursor() as cursor:
                cursor.execute("SET statement_timeout = '20s'")
                rows = _rows(cursor, sorted({key[0] for key in wanted}), oldest_ms)
                reasons = _reasons(cursor) if wanted - {key for key, _ in rows} else {}
        found = self._compare(wanted, rows, reasons)
        if thorough:
            found.wrong += self._contents(wanted, rows)
            found.wrong += self._check_order(rows) if ordered else ()
        return found

    def _compare(
        self, wanted: set[Key], rows: list[tuple[Key, dict[str, Any]]], reasons: dict[Boot, list[range]]
    ) -> Findings:
        keys = [key for key, _ in rows]
        found = Findings(rows=sum(key in wanted for key in keys))
        found.repeated = sum(row["replay"] for key, row in rows if key in wanted)
        if len(set(keys)) != len(keys):
            twice = sorted({key for key in keys if keys.count(key) > 1})
            found.wrong.append(f"{len(keys) - len(set(keys))} rows are double, for instance {twice[:3]}")
        for key in sorted(wanted - set(keys)):
            if any(key[2] in span for span in reasons.get(key[:2], ())):
                found.explained += 1
            else:
                found.missing.append(key)
        return found

    def _contents(self, wanted: set[Key], rows: list[tuple[Key, dict[str, Any]]]) -> Iterator[str]:
        for key, row in sorted(rows, key=lambda item: item[0]):
            if key in wanted:
                published = decode_telemetry(self._unproven[key])
                self.digest.update(repr([key, *(row[name] for name in MEASURED)]).encode())
                yield from (f"{key}: {text}" for text in differences(published, row))

    def _check_order(self, rows: list[tuple[Key, dict[str, Any]]]) -> Iterator[str]:
        """Live rows of later transactions have higher numbers; `rows` are in the order of their transactions.

        What stands in one transaction cannot be told apart: the order on the disk's pages says nothing.
        """
        newest: dict[Boot, dict[str, Any]] = {}
        for _, group in itertools.groupby(rows, key=lambda item: item[1]["stored"]):
            live = [(key[:2], row) for key, row in group if not (row["replay"] or row["late"])]
            for boot, row in live:
                last = newest.get(boot)
                if last is not None and row["seq"] < last["seq"]:
                    yield f"{boot}: live row {row['seq']} ({_when(row)}) was stored after {last['seq']} ({_when(last)})"
            for boot, row in live:
                if boot not in newest or row["seq"] > newest[boot]["seq"]:
                    newest[boot] = row

    def settle(self, until: dict[Boot, int]) -> None:
        """What is below `until` is proven: forget it."""
        before = len(self._unproven)
        self._unproven = {
            key: line for key, line in self._unproven.items() if key[2] >= until.get(key[:2], 0)
        }
        self.proven += before - len(self._unproven)


def _when(row: dict[str, Any]) -> str:
    times = {name: row[name] and f"{row[name]:%H:%M:%S.%f}"[:-3] for name in ("sent", "received", "stored")}
    return ", ".join(f"{name} {time}" for name, time in times.items())


def _rows(cursor: Any, packs: list[str], oldest_ms: int) -> list[tuple[Key, dict[str, Any]]]:
    """Rows of the packs from a device time on, in the order they were stored."""
    cursor.execute(
        f"SELECT {', '.join(COLUMNS)} FROM telemetry WHERE pack = ANY(%s) AND ts >= to_timestamp(%s / 1000.0)"
        " ORDER BY stored",
        (packs, oldest_ms - 1),
    )
    rows = [dict(zip(COLUMNS, row, strict=True)) for row in cursor.fetchall()]
    return [((row["pack"], row["boot"], row["seq"]), row) for row in rows]


def _reasons(cursor: Any) -> dict[Boot, list[range]]:
    """What losses and dead letters explain, by pack and boot."""
    cursor.execute(
        "SELECT pack, boot, seq_from, seq_to FROM loss UNION ALL"
        " SELECT pack, boot, seq, seq FROM dead_letter WHERE seq IS NOT NULL"
    )
    reasons: dict[Boot, list[range]] = {}
    for pack, boot, first, last in cursor.fetchall():
        reasons.setdefault((pack, boot), []).append(range(first, last + 1))
    return reasons


def differences(published: Telemetry, row: dict[str, Any]) -> Iterator[str]:
    """Where a row is not what was published: only an impossible value may be missing, and is then named in `invalid`."""
    invalid = set(row["invalid"] or ())
    for name in MEASURED:
        sent, stored = getattr(published, name), row[name]
        if sent == stored:
            continue
        if stored is None and name in invalid and _impossible(published, name):
            continue
        yield f"{name} was published as {sent!r} and stored as {stored!r}"
    if not set(published.quality.invalid) <= invalid:
        yield f"invalid is {sorted(invalid)}, the device named {published.quality.invalid}"
    if (row["dtc"] or []) != published.dtc:
        yield f"dtc is {row['dtc']}, published was {published.dtc}"
    if not math.isclose(row["stale_s"], published.quality.stale_s):
        yield f"stale_s is {row['stale_s']}, published was {published.quality.stale_s}"
    yield from _wrong_times(published, row)


def _wrong_times(published: Telemetry, row: dict[str, Any]) -> Iterator[str]:
    for name, sent_ms in (("ts", published.ts_ms), ("sent", published.sent_ms)):
        if sent_ms is not None and row[name] != _time(sent_ms):
            yield f"{name} is {row[name]}, published was {_time(sent_ms)}"
    if published.sent_ms is not None and row["received"] is not None:
        earliest, latest = _time(published.sent_ms) - SLACK, row["stored"] + SLACK
        if not earliest <= row["received"] <= latest:
            yield f"received is {row['received']}, between {earliest} and {latest} is possible"


def _impossible(published: Telemetry, name: str) -> bool:
    """Whether a gateway may refuse a value: outside what any chemistry can have, or a minimum above its maximum."""
    value = getattr(published, name)
    for kind in ((None, None), *((chemistry, None) for chemistry in ("NMC", "LFP", "NCA"))):
        low, high = valid_ranges(*kind).get(name, (-math.inf, math.inf))
        if not low <= value <= high:
            return True
    pair = next((pair for pair in PAIRS if name in pair), None)
    if pair is None:
        return False
    low, high = (getattr(published, end) for end in pair)
    return low is not None and high is not None and low > high


def _time(ms: int) -> datetime:
    return datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=ms)
