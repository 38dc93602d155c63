"""The ledger: proves from the history what was delivered, lost, doubled or late, by sequence numbers.

A message is known by fleet, pack, boot and seq, and seq counts up from 0 in each boot, so a hole in the numbers is a
message that never became a row. `verify` looks at the whole history or a part of it; `voltflow ledger verify` is its
command. The tables are those of `cloud/schema/`; nothing else of the cloud side is needed, only psycopg2.
"""

from __future__ import annotations

import contextlib
import datetime as dt
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import NamedTuple

import msgspec

from voltflow.ledger.ranges import Range, Run, explain, flattened, holes
from voltflow.ledger.sql import EXPIRED, Counted, Filter, Key, Reader, Scope

__all__ = ["Entry", "Expected", "LedgerError", "Progress", "Range", "Report", "load_expected", "verify"]

Progress = Callable[[int, int], None]
"""Called with the number of rows read and of all rows; the latter is the database's estimate."""


class LedgerError(Exception):
    """The history could not be read; the message says what to do."""


class Entry(msgspec.Struct):
    """What the history knows of one boot of one pack. `rows` counts all, `received` each sequence number once; `first`
    and `last` are of the rows. `expired` were rows until retention took them out. `late` is null where it was not counted."""

    fleet: str
    pack: str
    boot: int
    rows: int = 0
    received: int = 0
    first: int | None = None
    last: int | None = None
    late: int | None = None
    missing: list[Range] = []
    explained: list[Range] = []
    expired: list[Range] = []
    duplicates: list[Range] = []

    @property
    def missing_count(self) -> int:
        return sum(item.count for item in self.missing)

    @property
    def duplicate_count(self) -> int:
        return self.rows - self.received


class Report(msgspec.Struct):
    """The whole ledger, in messages.

    `received` (delivered), `explained` (lost, and it is known why), `missing` (lost, and nothing explains it),
    `duplicates`, `late` (null: not counted, because the index that does is not there), `expired` (delivered, and since taken
    out by retention). `reasons` has what explains by
    reason. `dead_letters` counts all of them, also those whose message had no readable key.
    """

    rows: int
    received: int
    missing: int
    explained: int
    duplicates: int
    late: int | None
    expired: int
    dead_letters: int
    reasons: dict[str, int]
    entries: list[Entry]

    @property
    def ok(self) -> bool:
        return not self.missing and not self.duplicates

    @property
    def classes(self) -> dict[str, int | None]:
        """The account as people name its classes."""
        return {
            "delivered": self.received,
            "lost (explained)": self.explained,
            "lost (unexplained)": self.missing,
            "duplicate": self.duplicates,
            "late": self.late,
            "expired": self.expired,
        }


class Expected(msgspec.Struct):
    """What a device says of one pack: it published seq 0 … published − 1 of a boot."""

    boot: int
    published: int
    confirmed: int | None = None


class _Summary(msgspec.Struct):
    packs: dict[str, Expected]


def load_expected(path: Path) -> dict[str, Expected]:
    """By pack, what the simulator's JSON summary says it published; raises LedgerError."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Summary).packs
    except (OSError, msgspec.DecodeError) as error:
        wanted = '{"packs": {"<pack>": {"boot": …, "published": …}}}'
        raise LedgerError(f"--expected {path} cannot be used: {error}; wanted is {wanted}") from None


def verify(
    dsn: str,
    expected: Mapping[str, Expected] | None = None,
    progress: Progress | None = None,
    *,
    packs: Sequence[str] = (),
    fleet: str = "",
    since: dt.datetime | None = None,
    jobs: int = 1,
) -> Report:
    """The ledger of the whole history, or of some packs, a fleet, or what devices measured since a time.

    `expected` by pack makes lost tails and wholly lost packs visible also where no device said how many messages it
    published. `jobs` connections read side by side, in one snapshot. Raises LedgerError when the database cannot be
    reached or holds no history.
    """
    import psycopg2

    account = _Account(dsn, Filter(tuple(packs), fleet, since))
    try:
        return account.report(expected or {}, progress, jobs)
    except psycopg2.errors.UndefinedTable as error:
        first = str(error).splitlines()[0]
        raise LedgerError(
            f"the database holds no history ({first}); `cloud-bridge migrate` makes the tables"
        ) from None
    except psycopg2.Error as error:
        raise LedgerError(f"the database cannot be read: {str(error).strip()}") from None


class _Boot(NamedTuple):
    """What is known of a boot: its rows, the number it begins with, and the one it must at least end before."""

    runs: list[Run]
    start: int
    end: int


class _Account:
    """One run of `verify`."""

    def __init__(self, dsn: str, wanted: Filter) -> None:
        self._dsn = dsn
        self._wanted = wanted

    def report(self, expected: Mapping[str, Expected], progress: Progress | None, jobs: int) -> Report:
        with self._snapshot() as reader:
            runs = self._runs(reader, progress, jobs)
            reader.plan_for_order()
            ends = self._ends(reader, expected, runs)
            before = self._before(reader, runs)
            late = reader.late()
            keys = sorted({*runs, *ends})
            boots = {key: _Boot(runs.get(key, []), before.get(key, -1) + 1, ends.get(key, 0)) for key in keys}
            reasons = self._reasons(reader, boots)
            entries = [_entry(key, boot, reasons.get(key, []), late) for key, boot in boots.items()]
            return _report(entries, reader.dead_letters())

    @contextlib.contextmanager
    def _snapshot(self, name: str = "") -> Iterator[Reader]:
        """One snapshot for all queries: rows that arrive meanwhile are not holes in the next query."""
        import psycopg2

        with contextlib.closing(
            psycopg2.connect(self._dsn, connect_timeout=10, application_name="voltflow-ledger")
        ) as conn:
            conn.set_session(isolation_level="REPEATABLE READ", readonly=True)
            reader = Reader(conn, self._wanted)
            if name:
                with conn.cursor() as cursor:
                    cursor.execute("SET TRANSACTION SNAPSHOT %s", (name,))
            yield reader
            conn.rollback()  # a pooler or a server that shares its backend must not keep the transaction open

    def _runs(self, reader: Reader, progress: Progress | None, jobs: int) -> dict[Key, list[Run]]:
        scopes: SimpleQueue[Scope] = SimpleQueue()
        for scope in reader.scopes(jobs):
            scopes.put(scope)
        counted = _counter(progress, reader.estimated_rows()) if progress else None
        if jobs == 1:
            return _drain(reader, scopes, counted)
        snapshot = reader.query("SELECT pg_export_snapshot()")[0][0]

        def work() -> dict[Key, list[Run]]:
            with self._snapshot(snapshot) as own:
                return _drain(own, scopes, counted)

        with ThreadPoolExecutor(jobs) as pool:
            return _merged([task.result() for task in [pool.submit(work) for _ in range(jobs)]])

    @staticmethod
    def _ends(reader: Reader, expected: Mapping[str, Expected], runs: Mapping[Key, object]) -> dict[Key, int]:
        """Where each boot must at least end."""
        ends: dict[Key, int] = {}
        for key, end in reader.ends():
            ends[key] = max(end, ends.get(key, 0))
        for key, published in _expected_ends(expected, {*runs, *ends}):
            if published:
                ends[key] = max(published, ends.get(key, 0))
        return ends

    def _before(self, reader: Reader, runs: Mapping[Key, list[Run]]) -> dict[Key, int]:
        """With `since`: the number before the first of a boot that had begun."""
        if self._wanted.since is None:
            return {}
        return reader.before([key for key, found in runs.items() if min(found)[0] > 0], self._wanted.since)

    @staticmethod
    def _reasons(reader: Reader, boots: Mapping[Key, _Boot]) -> dict[Key, list[Range]]:
        """Asked for only where numbers are missing: in a healthy history that is nowhere."""
        packs = sorted({key[1] for key, boot in boots.items() if _holes(boot)})
        found: dict[Key, list[Range]] = {}
        for key, reason in reader.reasons(packs):
            found.setdefault(key, []).append(reason)
        return found


def _drain(reader: Reader, scopes: SimpleQueue[Scope], counted: Counted | None) -> dict[Key, list[Run]]:
    """The runs of the scopes that are still to be read."""
    reader.plan_for_order()
    runs: dict[Key, list[Run]] = {}
    for scope in _taken(scopes):
        for key, run in reader.runs(scope, counted):
            known = runs.setdefault(key, [])
            if known and known[-1][2] == run[2] == 1 and known[-1][1] == run[0] - 1:
                known[-1] = (known[-1][0], run[1], 1)
            else:
                known.append(run)
    return runs


def _taken(scopes: SimpleQueue[Scope]) -> Iterator[Scope]:
    """What nobody else has taken yet."""
    with contextlib.suppress(Empty):
        while True:
            yield scopes.get_nowait()


def _merged(parts: Sequence[dict[Key, list[Run]]]) -> dict[Key, list[Run]]:
    merged: dict[Key, list[Run]] = {}
    for part in parts:
        for key, runs in part.items():
            merged.setdefault(key, []).extend(runs)
    return merged


def _counter(progress: Progress, total: int) -> Counted:
    done = 0

    def counted(rows: int) -> None:
        nonlocal done
        done += rows
        progress(done, max(total, done))

    return counted


def _expected_ends(expected: Mapping[str, Expected], known: set[Key]) -> Iterator[tuple[Key, int]]:
    """A device does not say its fleet: it is that of the rows with its pack and boot, `?` when there are none."""
    fleets: dict[tuple[str, int], set[str]] = {}
    for fleet, pack, boot in known:
        fleets.setdefault((pack, boot), set()).add(fleet)
    for pack, item in expected.items():
        for fleet in fleets.get((pack, item.boot), {"?"}):
            yield (fleet, pack, item.boot), item.published


def _holes(boot: _Boot) -> list[Range]:
    found = flattened(boot.runs) if boot.runs else []
    end = max(boot.end, found[-1][1] + 1 if found else 0)
    return list(holes([(first, last) for first, last, _ in found], end, boot.start))


def _entry(key: Key, boot: _Boot, reasons: list[Range], late: dict[Key, int] | None) -> Entry:
    entry = Entry(*key, late=None if late is None else late.get(key, 0))
    found = flattened(boot.runs) if boot.runs else []
    for first, last, copies in found:
        entry.received += last - first + 1
        entry.rows += (last - first + 1) * copies
        if copies > 1:
            entry.duplicates.append(Range(first, last, f"{copies} rows each"))
    if found:
        entry.first, entry.last = found[0][0], found[-1][1]
    entry.missing, explained = explain(_holes(boot), reasons)
    entry.explained = [item for item in explained if item.why != EXPIRED]
    entry.expired = [item for item in explained if item.why == EXPIRED]
    return entry


def _report(entries: list[Entry], dead_letters: int) -> Report:
    reasons: Counter[str] = Counter()
    for entry in entries:
        for item in entry.explained:
            reasons[reason_class(item.why)] += item.count
    lates = [entry.late for entry in entries if entry.late is not None]
    return Report(
        rows=sum(e.rows for e in entries),
        received=sum(e.received for e in entries),
        missing=sum(e.missing_count for e in entries),
        explained=reasons.total(),
        duplicates=sum(e.duplicate_count for e in entries),
        late=sum(lates) if lates or not entries else None,
        expired=sum(item.count for entry in entries for item in entry.expired),
        dead_letters=dead_letters,
        reasons=dict(reasons.most_common()),
        entries=entries,
    )


def reason_class(why: str) -> str:
    """What a reason is counted under: a letter's error has endless texts.

    >>> reason_class("dropped: quota"), reason_class("dead letter: not JSON")
    ('dropped: quota', 'dead letter')
    """
    return "dead letter" if why.startswith("dead letter: ") else why
