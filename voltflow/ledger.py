"""`voltflow ledger verify`: proves from the history what was received, lost or doubled, by sequence numbers.

A message is known by fleet, pack, boot and seq, and seq counts up from 0 in each boot, so a hole in the numbers is a
message that never became a row. Holes, duplicates and their explanations are found by the database as ranges; only the
ranges come here. The tables are those of `cloud/schema/`; nothing else of the cloud side is needed, only psycopg2.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from psycopg2.extensions import connection

DATABASE_VARIABLE = "VOLTFLOW_BRIDGE_DATABASE"
PACKS_AT_ONCE = 50
"""Packs that one query looks at: few enough for progress to move, enough for 10,000 packs to need few round trips."""

Progress = Callable[[int, int], None]
"""Called with the number of packs done and of all packs."""


class LedgerError(Exception):
    """The history could not be read; the message says what to do."""


class Range(msgspec.Struct, frozen=True):
    """Sequence numbers `first` … `last`, both included; `why` is empty where nothing explains them."""

    first: int
    last: int
    why: str = ""

    @property
    def count(self) -> int:
        return self.last - self.first + 1


class Entry(msgspec.Struct):
    """What the history knows of one boot of one pack. `rows` counts all, `received` each sequence number once."""

    fleet: str
    pack: str
    boot: int
    rows: int
    received: int
    first: int | None
    last: int | None
    missing: list[Range] = []
    explained: list[Range] = []
    duplicates: list[Range] = []

    @property
    def missing_count(self) -> int:
        return sum(item.count for item in self.missing)

    @property
    def duplicate_count(self) -> int:
        return self.rows - self.received


class Report(msgspec.Struct):
    """The whole ledger. `dead_letters` counts all of them, also those whose message had no readable key."""

    rows: int
    received: int
    missing: int
    explained: int
    duplicates: int
    dead_letters: int
    entries: list[Entry]

    @property
    def ok(self) -> bool:
        return not self.missing and not self.duplicates


class Expected(msgspec.Struct):
    """What a device says of one pack: it published seq 0 … published − 1 of a boot."""

    boot: int
    published: int
    confirmed: int | None = None


class _Summary(msgspec.Struct):
    packs: dict[str, Expected]


# A pack's rows as ranges. Numbers that follow each other have the same seq - row_number(), so an island of them is a
# group; it costs one sort for each boot and no row leaves the database.
_ISLANDS = """
WITH numbers AS (
    SELECT fleet, pack, boot, seq, count(*) AS copies FROM telemetry WHERE pack = ANY(%s)
    GROUP BY fleet, pack, boot, seq
), runs AS (
    SELECT *, seq - row_number() OVER (PARTITION BY fleet, pack, boot, copies ORDER BY seq) AS island FROM numbers
)
SELECT fleet, pack, boot, min(seq), max(seq), copies FROM runs
GROUP BY fleet, pack, boot, copies, island ORDER BY fleet, pack, boot, min(seq)
"""

_EXPLANATIONS = """
SELECT fleet, pack, boot, seq_from, seq_to, 'dropped: ' || reason FROM loss WHERE pack = ANY(%(packs)s)
UNION ALL
SELECT DISTINCT fleet, pack, boot, seq, seq, 'dead letter: ' || error FROM dead_letter
WHERE pack = ANY(%(packs)s) AND seq IS NOT NULL AND boot IS NOT NULL
ORDER BY 1, 2, 3, 4
"""

_FAREWELLS = "SELECT fleet, pack, boot, published FROM pack_boot WHERE pack = ANY(%s)"

# The distinct packs by jumping from one to the next in the index, not by reading every row.
_PACKS = """
WITH RECURSIVE jump AS (
    (SELECT pack FROM telemetry ORDER BY pack LIMIT 1)
    UNION ALL
    SELECT (SELECT t.pack FROM telemetry t WHERE t.pack > jump.pack ORDER BY t.pack LIMIT 1) FROM jump
    WHERE jump.pack IS NOT NULL
)
SELECT pack FROM jump WHERE pack IS NOT NULL
UNION SELECT pack FROM pack_boot UNION SELECT pack FROM loss
UNION SELECT pack FROM dead_letter WHERE seq IS NOT NULL
ORDER BY 1
"""

Key = tuple[str, str, int]
"""Fleet, pack, boot."""


def verify(
    dsn: str, expected: Mapping[str, Expected] | None = None, progress: Progress | None = None
) -> Report:
    """The ledger of the whole history; `expected` by pack makes lost tails and wholly lost packs visible.

    Raises LedgerError when the database cannot be reached or holds no history.
    """
    import psycopg2

    try:
        with contextlib.closing(
            psycopg2.connect(dsn, connect_timeout=10, application_name="voltflow-ledger")
        ) as conn:
            # One snapshot for all queries: rows that arrive meanwhile are not holes in the next query.
            conn.set_session(isolation_level="REPEATABLE READ", readonly=True)
            return _verify(conn, expected or {}, progress)
    except psycopg2.errors.UndefinedTable as error:
        first = str(error).splitlines()[0]
        raise LedgerError(
            f"the database holds no history ({first}); `cloud-bridge migrate` makes the tables"
        ) from None
    except psycopg2.Error as error:
        raise LedgerError(f"the database cannot be read: {str(error).strip()}") from None


def _verify(conn: connection, expected: Mapping[str, Expected], progress: Progress | None) -> Report:
    packs = sorted({row[0] for row in _query(conn, _PACKS)} | set(expected))
    entries: list[Entry] = []
    for start in range(0, len(packs), PACKS_AT_ONCE):
        some = packs[start : start + PACKS_AT_ONCE]
        entries += _entries(conn, some, {pack: expected[pack] for pack in some if pack in expected})
        if progress:
            progress(min(start + PACKS_AT_ONCE, len(packs)), len(packs))
    return Report(
        rows=sum(e.rows for e in entries),
        received=sum(e.received for e in entries),
        missing=sum(e.missing_count for e in entries),
        explained=sum(item.count for e in entries for item in e.explained),
        duplicates=sum(e.duplicate_count for e in entries),
        dead_letters=_query(conn, "SELECT count(*) FROM dead_letter")[0][0],
        entries=entries,
    )


def _query(conn: connection, sql: str, parameters: Any = None) -> list[tuple[Any, ...]]:
    with conn.cursor() as cursor:
        cursor.execute(sql, parameters)
        return cursor.fetchall()


def _entries(conn: connection, packs: list[str], expected: Mapping[str, Expected]) -> list[Entry]:
    islands = _grouped(_query(conn, _ISLANDS, (packs,)))
    reasons = _grouped(_query(conn, _EXPLANATIONS, {"packs": packs}))
    ends = {
        (fleet, pack, boot): published for fleet, pack, boot, published in _query(conn, _FAREWELLS, (packs,))
    }
    for key, published in _expected_ends(expected, {*islands, *ends, *reasons}):
        ends[key] = max(published, ends.get(key, 0))
    keys = sorted({*islands, *reasons, *(key for key, published in ends.items() if published)})
    return [_entry(key, islands.get(key, []), reasons.get(key, []), ends.get(key, 0)) for key in keys]


def _expected_ends(expected: Mapping[str, Expected], known: set[Key]) -> Iterator[tuple[Key, int]]:
    """A device does not say its fleet: it is that of the rows with its pack and boot, `?` when there are none."""
    for pack, item in expected.items():
        fleets = {fleet for fleet, name, boot in known if (name, boot) == (pack, item.boot)} or {"?"}
        for fleet in fleets:
            yield (fleet, pack, item.boot), item.published


def _grouped(rows: Sequence[tuple[Any, ...]]) -> dict[Key, list[tuple[Any, ...]]]:
    grouped: dict[Key, list[tuple[Any, ...]]] = {}
    for fleet, pack, boot, *rest in rows:
        grouped.setdefault((fleet, pack, boot), []).append(tuple(rest))
    return grouped


def _entry(key: Key, islands: list[tuple[Any, ...]], reasons: list[tuple[Any, ...]], published: int) -> Entry:
    fleet, pack, boot = key
    entry = Entry(fleet, pack, boot, rows=0, received=0, first=None, last=None)
    for first, last, copies in islands:
        entry.received += last - first + 1
        entry.rows += (last - first + 1) * copies
        if copies > 1:
            entry.duplicates.append(Range(first, last, f"{copies} rows each"))
    if islands:
        entry.first, entry.last = islands[0][0], max(last for _, last, _ in islands)
    end = max(
        published, -1 if entry.last is None else entry.last + 1, *(last + 1 for _, last, _ in reasons), 0
    )
    holes = list(_holes([(first, last) for first, last, _ in islands], end))
    entry.missing, entry.explained = explain(holes, [Range(*reason) for reason in reasons])
    return entry


def _holes(ranges: list[tuple[int, int]], end: int) -> Iterator[Range]:
    """What is left of 0 … end − 1 without the ranges, which are in order."""
    following = 0
    for first, last in ranges:
        if first > following:
            yield Range(following, first - 1)
        following = max(following, last + 1)
    if end > following:
        yield Range(following, end - 1)


def explain(holes: Sequence[Range], reasons: Sequence[Range]) -> tuple[list[Range], list[Range]]:
    """Split holes into what nothing explains and what a reason covers.

    >>> missing, explained = explain([Range(5, 9)], [Range(6, 7, "quota")])
    >>> [(r.first, r.last) for r in missing], [(r.first, r.last, r.why) for r in explained]
    ([(5, 5), (8, 9)], [(6, 7, 'quota')])
    """
    missing, explained = list(holes), []
    for reason in reasons:
        rest: list[Range] = []
        for hole in missing:
            first, last = max(hole.first, reason.first), min(hole.last, reason.last)
            if first > last:
                rest.append(hole)
                continue
            explained.append(Range(first, last, reason.why))
            rest += [r for r in (Range(hole.first, first - 1), Range(last + 1, hole.last)) if r.count > 0]
        missing = rest
    return missing, explained


# -- the command ----------------------------------------------------------------------------------------------------

EXAMPLES = """examples:
  voltflow ledger verify                          the database is VOLTFLOW_BRIDGE_DATABASE, or `database` in voltflow.toml
  voltflow ledger verify --json | jq .missing
  sim-device run --packs 20 --json > sent.json
  voltflow ledger verify --expected sent.json     finds lost tails and wholly lost packs too

exit status: 0 every message is exactly one row, or a dead letter or a loss explains it; 1 something is missing or
doubled; 2 the history cannot be read
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `ledger` to the `voltflow` command; `args.run(args)` runs it and returns the exit status."""
    ledger = subparsers.add_parser("ledger", help="what was received, lost or doubled")
    actions = ledger.add_subparsers(dest="action", required=True, metavar="ACTION")
    check = actions.add_parser(
        "verify", help="find holes and duplicates in the history", epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="From the sequence numbers in the history, for each pack and boot: received, missing, duplicates.",
    )  # fmt: skip
    check.add_argument(
        "--database", metavar="DSN", help="connection string without a password (see PGPASSWORD, ~/.pgpass)"
    )
    check.add_argument("--config", metavar="FILE", help="settings file with the bridge's database")
    check.add_argument(
        "--expected", metavar="FILE", type=Path, help="JSON summary of sim-device: what was published"
    )
    check.add_argument("--json", action="store_true", help="print the whole ledger as JSON")
    check.set_defaults(run=main)


def main(args: argparse.Namespace) -> int:
    """Run `voltflow ledger verify`."""
    try:
        expected = load_expected(args.expected) if args.expected else None
        report = verify(_database(args, os.environ), expected, None if args.json else _progress())
    except LedgerError as error:
        print(f"voltflow ledger: {error}", file=sys.stderr)
        return 2
    print(msgspec.json.format(msgspec.json.encode(report)).decode() if args.json else text(report))
    return 0 if report.ok else 1


def load_expected(path: Path) -> dict[str, Expected]:
    """By pack, what the simulator's JSON summary says it published; raises LedgerError."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Summary).packs
    except (OSError, msgspec.DecodeError) as error:
        wanted = '{"packs": {"<pack>": {"boot": …, "published": …}}}'
        raise LedgerError(f"--expected {path} cannot be used: {error}; wanted is {wanted}") from None


def _database(args: argparse.Namespace, environ: Mapping[str, str]) -> str:
    """The connection string: option, environment, settings file. The file is read without the bridge's other
    settings, which only `cloud-bridge` knows."""
    given: str = args.database or environ.get(DATABASE_VARIABLE, "")
    if given:
        return given
    named = args.config or environ.get("VOLTFLOW_CONFIG")
    for path in [Path(named)] if named else [Path("voltflow.toml"), Path("/etc/voltflow/voltflow.toml")]:
        found = _from_file(path, must_exist=bool(named))
        if found:
            return found
    raise LedgerError(
        f"no database is given: use --database, {DATABASE_VARIABLE} or `database` in the table [bridge]"
    )


def _from_file(path: Path, *, must_exist: bool) -> str | None:
    try:
        table = tomllib.loads(path.read_text("utf-8")).get("bridge", {})
        if "database_file" in table:
            return (path.parent / str(table["database_file"])).read_text("utf-8").strip()
        return str(table.get("database", ""))
    except FileNotFoundError:
        if must_exist:
            raise LedgerError(f"settings file {path} is not there") from None
        return None
    except (OSError, ValueError) as error:
        raise LedgerError(f"settings file {path} cannot be read: {error}") from None


def _progress() -> Progress | None:
    """Packs done, on a terminal only, and only when it takes long enough to wonder."""
    if not sys.stderr.isatty():
        return None
    started = time.monotonic()

    def show(done: int, total: int) -> None:
        if time.monotonic() - started > 1:
            print(f"\r{done}/{total} packs", end="\n" if done == total else "", file=sys.stderr, flush=True)

    return show


def text(report: Report) -> str:
    """The ledger for people: the sums, then each boot where something is to be said."""
    r = report
    sums = f"{r.missing} missing, {r.duplicates} duplicates, {r.explained} explained, {r.dead_letters} dead letters"
    lines = [f"{r.rows} rows of {r.received} messages in {len(r.entries)} boots: {sums}"]
    for e in report.entries:
        for what, ranges in (("missing", e.missing), ("duplicate", e.duplicates), ("explained", e.explained)):
            lines += [_range_line(e, what, item) for item in ranges[:10]]
            if len(ranges) > 10:
                lines.append(f"  … and {len(ranges) - 10} more ranges {what} (--json has all)")
    return "\n".join(lines)


def _range_line(entry: Entry, what: str, item: Range) -> str:
    numbers = f"{item.first}" if item.count == 1 else f"{item.first}–{item.last} ({item.count})"
    why = f"  {item.why}" if item.why else ""
    return f"  {entry.fleet}/{entry.pack} boot {entry.boot}: {what} {numbers}{why}"
