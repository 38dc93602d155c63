"""What the ledger asks the database: sequence numbers as runs, what explains holes, what devices say they published.

No row leaves the database, only ranges of sequence numbers do. Rows are read in the order of the unique index
`(pack, ts, boot, seq, fleet)` and from it alone, a page of a bounded number of rows after the other, so memory and the time
of a query do not grow with the history.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from voltflow.ledger.ranges import Range, Run

if TYPE_CHECKING:
    from psycopg2.extensions import connection

PAGE_ROWS = 1_000_000
"""Rows that one query looks at: about a second."""
RUNS_OF_A_PAGE = 50_000
"""With more runs than that the order of the index is not that of the numbers, and the page is sorted."""
PACKS_AT_ONCE = 500

EXPIRED = "expired"
"""Why a number is not there that retention took out: it was delivered."""

Key = tuple[str, str, int]
"""Fleet, pack, boot."""
Counted = Callable[[int], None]
"""Called with the number of rows of each page."""


class Filter(msgspec.Struct, frozen=True):
    """Which part of the history to look at; `since` is device time for rows and time of storing for the rest."""

    packs: tuple[str, ...] = ()
    fleet: str = ""
    since: dt.datetime | None = None


class Scope(msgspec.Struct, frozen=True):
    """A part of the index: from the pack `first` on to the pack `last`, where given; device times in [since, until)."""

    first: str = ""
    last: str | None = None
    since: str = "-infinity"
    until: str = "infinity"


# In index order seq − row_number() stays the same while numbers follow each other, so such a group is a run; one
# sort-free pass. A group can also be made of several runs, when what lies between them has as many rows as numbers are
# missing. Its numbers are all different, so then it has fewer rows than its ends are apart, and the pack is sorted.
_ROWS = """
SELECT fleet, pack, boot, seq, ts FROM telemetry
WHERE (pack, ts, boot, seq, fleet) > (%(pack)s, %(ts)s::timestamptz, %(boot)s, %(seq)s, %(fleet)s)
    AND ts >= %(since)s::timestamptz AND ts < %(until)s::timestamptz {more}
"""
_IN_ORDER = " ORDER BY pack, ts, boot, seq, fleet LIMIT %(rows)s"

_RUNS = """
SELECT fleet, pack, boot, min(seq), max(seq), count(*), max(ts)::text, max(seq) - island AS place FROM (
    SELECT fleet, pack, boot, seq, ts, seq - row_number() OVER () AS island FROM ({page}) AS page
) AS numbered
GROUP BY fleet, pack, boot, island LIMIT %(runs)s + 1
"""

_SORTED_RUNS = """
WITH numbers AS (
    SELECT fleet, pack, boot, seq, count(*) AS copies FROM ({rows}) AS page GROUP BY fleet, pack, boot, seq
), runs AS (
    SELECT *, seq - row_number() OVER (PARTITION BY fleet, pack, boot, copies ORDER BY seq) AS island FROM numbers
)
SELECT fleet, pack, boot, min(seq), max(seq), copies FROM runs GROUP BY fleet, pack, boot, copies, island
"""
_UP_TO = """
    AND (pack, ts, boot, seq, fleet) <= (%(end_pack)s, %(end_ts)s::timestamptz, %(end_boot)s, %(end_seq)s, %(end_fleet)s)
"""

_PAGE_END = """
WITH page AS MATERIALIZED ({page})
SELECT fleet, pack, boot, seq, ts::text, (SELECT count(*) FROM page) FROM page
ORDER BY pack DESC, ts DESC, boot DESC, seq DESC, fleet DESC LIMIT 1
"""

# The distinct packs by jumping from one to the next in the index, not by reading every row.
PACKS = """
WITH RECURSIVE jump AS (
    (SELECT pack FROM telemetry ORDER BY pack LIMIT 1)
    UNION ALL
    SELECT (SELECT t.pack FROM telemetry t WHERE t.pack > jump.pack ORDER BY t.pack LIMIT 1) FROM jump
    WHERE jump.pack IS NOT NULL
)
SELECT pack FROM jump WHERE pack IS NOT NULL ORDER BY 1
"""

# Where a boot must at least end: what the device says it published, and what is known of lost messages.
_ENDS = """
SELECT fleet, pack, boot, max(published) FROM pack_boot WHERE published > 0 {where} GROUP BY 1, 2, 3
UNION ALL
SELECT fleet, pack, boot, max(seq_to) + 1 FROM loss WHERE true {where} GROUP BY 1, 2, 3
UNION ALL
SELECT fleet, pack, boot, max(seq) + 1 FROM dead_letter
WHERE seq IS NOT NULL AND boot IS NOT NULL {where} GROUP BY 1, 2, 3
UNION ALL
SELECT fleet, pack, boot, max(seq_to) + 1 FROM expired WHERE true {where} GROUP BY 1, 2, 3
"""

_REASONS = """
SELECT fleet, pack, boot, seq_from, seq_to, 'dropped: ' || reason FROM loss WHERE pack = ANY(%(packs)s)
UNION ALL
SELECT DISTINCT fleet, pack, boot, seq, seq, 'dead letter: ' || error FROM dead_letter
WHERE pack = ANY(%(packs)s) AND seq IS NOT NULL AND boot IS NOT NULL
UNION ALL
SELECT fleet, pack, boot, seq_from, seq_to, why FROM expired WHERE pack = ANY(%(packs)s)
"""

# The last row before a time: where it is of the same boot, the boot did not begin after that time.
_BEFORE = """
SELECT k.fleet, k.pack, k.boot, r.seq FROM unnest(%(fleets)s::text[], %(packs)s::text[], %(boots)s::bigint[])
    AS k(fleet, pack, boot)
CROSS JOIN LATERAL (
    SELECT t.boot, t.seq FROM telemetry t WHERE t.pack = k.pack AND t.ts < %(since)s AND t.fleet = k.fleet
    ORDER BY t.ts DESC, t.boot DESC, t.seq DESC LIMIT 1
) AS r WHERE r.boot = k.boot
"""

_LATE = "SELECT fleet, pack, boot, count(*) FROM telemetry WHERE late {where} GROUP BY 1, 2, 3"

# A hypertable is read chunk by chunk; over all of them each row would be looked for in every chunk's index.
_CHUNKS = """
SELECT range_start::text, range_end::text FROM timescaledb_information.chunks
WHERE hypertable_name = 'telemetry' AND hypertable_schema = current_schema() ORDER BY range_start
"""

_ESTIMATE = """
SELECT coalesce(sum(greatest(reltuples, 0)), 0)::bigint FROM pg_class WHERE oid = 'telemetry'::regclass
    OR oid IN (SELECT inhrelid FROM pg_inherits WHERE inhparent = 'telemetry'::regclass)
"""


class Reader:
    """The queries over one connection, which is in the snapshot that all of them shall see."""

    def __init__(self, conn: connection, wanted: Filter) -> None:
        self._conn = conn
        self._wanted = wanted

    def query(self, sql: str, parameters: Any = None) -> list[tuple[Any, ...]]:
        with self._conn.cursor() as cursor:
            cursor.execute(sql, parameters)
            return cursor.fetchall()

    def plan_for_order(self) -> None:
        """Pages are to be read in index order and grouped by hashing, whatever the statistics say."""
        self.query("SELECT set_config(name, 'off', true) FROM pg_settings WHERE name = ANY(%s)",
                   (["enable_sort", "enable_incremental_sort", "enable_seqscan", "enable_bitmapscan", "jit"],))  # fmt: skip

    def estimated_rows(self) -> int:
        return int(self.query(_ESTIMATE)[0][0])

    def scopes(self, parts: int = 1) -> list[Scope]:
        """The parts of the history to read, at least `parts` where there are so many packs."""
        slices = self._slices()
        if self._wanted.packs or self._wanted.since is not None:
            since = self._wanted.since.isoformat() if self._wanted.since else "-infinity"
            packs = self._wanted.packs or [row[0] for row in self.query(PACKS)]
            return [Scope(pack, pack, since) for pack in packs]
        if parts > 1 and len(slices) == 1:
            packs = [row[0] for row in self.query(PACKS)]
            step = -(-len(packs) // (4 * parts)) or 1
            return [Scope(packs[i], packs[i : i + step][-1]) for i in range(0, len(packs), step)]
        return slices

    def _slices(self) -> list[Scope]:
        if not self.query("SELECT 1 FROM pg_extension WHERE extname = 'timescaledb'"):
            return [Scope()]
        return [Scope("", None, start, end) for start, end in self.query(_CHUNKS)] or [Scope()]

    def runs(self, scope: Scope, counted: Counted | None = None) -> Iterator[tuple[Key, Run]]:
        """The sequence numbers of the scope as runs; a boot's runs may come in pieces and in any order."""
        more = "AND pack <= %(last)s" if scope.last is not None else ""
        more += " AND fleet = %(only)s" if self._wanted.fleet else ""
        rows = _ROWS.format(more=more)
        where = {"pack": scope.first, "ts": "-infinity", "boot": -1, "seq": -1, "fleet": "", "last": scope.last,
                 "only": self._wanted.fleet, "since": scope.since, "until": scope.until,
                 "rows": PAGE_ROWS, "runs": RUNS_OF_A_PAGE}  # fmt: skip
        size = PAGE_ROWS
        while size == PAGE_ROWS:
            found, size, end = self._page(rows, where)
            where.update(end)
            yield from found
            if counted:
                counted(size)

    def _page(self, rows: str, where: dict[str, Any]) -> tuple[list[tuple[Key, Run]], int, dict[str, Any]]:
        """A page's runs, how many rows it has, and the key of its last row."""
        groups = self.query(_RUNS.format(page=rows + _IN_ORDER), where)
        if not groups:
            return [], 0, {}
        if len(groups) > where["runs"]:
            *last, size = self.query(_PAGE_END.format(page=rows + _IN_ORDER), where)[0]
            end = dict(zip(("fleet", "pack", "boot", "seq", "ts"), last, strict=True))
            return self._sorted(rows, where, end), size, end
        fleet, pack, boot, _, seq, _, ts, size = max(groups, key=lambda group: group[7])
        end = {"fleet": fleet, "pack": pack, "boot": boot, "seq": seq, "ts": ts}
        doubtful = {g[1] for g in groups if g[4] - g[3] + 1 != g[5]}
        runs = [((g[0], g[1], g[2]), (g[3], g[4], 1)) for g in groups if g[1] not in doubtful]
        if doubtful:
            runs += self._sorted(
                rows + " AND pack = ANY(%(packs)s)", {**where, "packs": sorted(doubtful)}, end
            )
        return runs, size, end

    def _sorted(self, rows: str, where: dict[str, Any], end: dict[str, Any]) -> list[tuple[Key, Run]]:
        """The runs of the rows up to the key, worked out by sorting them."""
        ends = {f"end_{name}": value for name, value in end.items()}
        groups = self.query(_SORTED_RUNS.format(rows=rows + _UP_TO), {**where, **ends})
        return [((g[0], g[1], g[2]), (g[3], g[4], g[5])) for g in groups]

    def ends(self) -> Iterator[tuple[Key, int]]:
        """How many messages each boot must have had at least."""
        where, parameters = self._where("stored")
        for fleet, pack, boot, end in self.query(_ENDS.format(where=where), parameters):
            yield (fleet, pack, boot), end

    def reasons(self, packs: Sequence[str]) -> Iterator[tuple[Key, Range]]:
        """What explains holes of the packs."""
        for start in range(0, len(packs), PACKS_AT_ONCE):
            some = list(packs[start : start + PACKS_AT_ONCE])
            for fleet, pack, boot, first, last, why in self.query(_REASONS, {"packs": some}):
                yield (fleet, pack, boot), Range(first, last, why)

    def before(self, keys: Sequence[Key], since: dt.datetime) -> dict[Key, int]:
        """Of the boots that had a message before the time, its sequence number."""
        fleets, packs, boots = ([key[i] for key in keys] for i in range(3))
        wanted = {"fleets": fleets, "packs": packs, "boots": boots, "since": since}
        return {(fleet, pack, boot): seq for fleet, pack, boot, seq in self.query(_BEFORE, wanted)}

    def late(self) -> dict[Key, int] | None:
        """How many rows came late, by boot; None where counting them would read the whole table."""
        if self.query("SELECT to_regclass('telemetry_late')")[0][0] is None:
            return None
        where, parameters = self._where("ts")
        return {(f, p, b): n for f, p, b, n in self.query(_LATE.format(where=where), parameters)}

    def dead_letters(self) -> int:
        where, parameters = self._where("stored")
        return int(self.query(f"SELECT count(*) FROM dead_letter WHERE true {where}", parameters)[0][0])  # noqa: S608

    def _where(self, time_column: str) -> tuple[str, dict[str, Any]]:
        """The filter as conditions, for the tables that are not read in pages."""
        w = self._wanted
        parts = ["AND pack = ANY(%(packs)s)"] if w.packs else []
        parts += ["AND fleet = %(fleet)s"] if w.fleet else []
        parts += [f"AND {time_column} >= %(since)s"] if w.since else []
        return " ".join(parts), {"packs": list(w.packs), "fleet": w.fleet, "since": w.since}
