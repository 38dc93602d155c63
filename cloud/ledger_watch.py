"""The newest history as the continuous ledger sees it: what came since the last look, hole by hole.

`Watch(dsn, window_s).look()` reads what was stored since its last call, so that its cost is that of the new rows and not of
the history; `voltflow.ledger.ledger.verify` proves the whole of it. It keeps, for each boot with a message in the window,
its sequence numbers as ranges. A connection that was lost begins anew: what stands in the database may be another
state of it (a restored backup). One watch at a time does this, an advisory lock sees to it.
"""

from __future__ import annotations

import contextlib
import datetime as dt
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from typing import Any

import msgspec
import psycopg2
from psycopg2.extensions import connection

from voltflow.ledger.ledger import reason_class
from voltflow.ledger.ranges import Numbers, Range, explain
from voltflow.ledger.sql import EXPIRED, Key

LOCK_KEY = (0x766F6C74666C6F77 >> 1) ^ 1
"""The advisory lock of whoever watches: that of the migrations with another last bit."""
SLICE = dt.timedelta(minutes=5)
"""Time of storing that one query looks at: the window is read in parts after a start."""
_SESSION = {
    "statement_timeout": 120_000,
    "tcp_keepalives_idle": 10, "tcp_keepalives_interval": 5, "tcp_keepalives_count": 3, "tcp_user_timeout": 30_000,
}  # fmt: skip
"""At the server. Without the latter it would keep the lock of a bridge whose machine or network is gone for two hours, and
nobody would look at the ledger."""
CONNECT_TIMEOUT_S = 5
ANY_TIME = dt.datetime.max.replace(tzinfo=dt.UTC)

# Up to when everything is there: a row's `stored` is the start of its transaction, and one that runs may have older
# ones than those already seen. A transaction that has written nothing for a minute is none of a bridge.
_UNTIL = """
SELECT until, extract(epoch FROM clock_timestamp() - until)::float FROM (
SELECT least(clock_timestamp() - interval '100 milliseconds', min(xact_start)) AS until FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid()
    AND (backend_xid IS NOT NULL OR xact_start > clock_timestamp() - interval '1 minute')
) AS activity
"""

_NEW = """
WITH numbers AS (
    SELECT fleet, pack, boot, seq, count(*) AS copies, count(*) FILTER (WHERE late) AS late, min(ts) AS ts
    FROM telemetry WHERE stored >= %(since)s AND stored < %(until)s GROUP BY fleet, pack, boot, seq
), runs AS (
    SELECT *, seq - row_number() OVER (PARTITION BY fleet, pack, boot, copies ORDER BY seq) AS island FROM numbers
)
SELECT fleet, pack, boot, min(seq), max(seq), copies, sum(late)::bigint, min(ts) FROM runs
GROUP BY fleet, pack, boot, copies, island ORDER BY fleet, pack, boot, min(seq)
"""

_PUBLISHED = """
SELECT fleet, pack, boot, published FROM pack_boot WHERE stored >= %(since)s AND stored < %(until)s AND published > 0
"""

_REASONS = """
SELECT fleet, pack, boot, seq_from, seq_to, 'dropped: ' || reason FROM loss
WHERE stored >= %(since)s AND stored < %(until)s
UNION ALL
SELECT fleet, pack, boot, seq, seq, 'dead letter: ' || error FROM dead_letter
WHERE stored >= %(since)s AND stored < %(until)s AND seq IS NOT NULL AND boot IS NOT NULL
"""

# What retention took out: of boots that are looked at as it happens, of those that begin to be all of it.
_EXPIRED_NEW = """
SELECT fleet, pack, boot, seq_from, seq_to, why FROM expired WHERE stored >= %(since)s AND stored < %(until)s
"""

_EXPIRED = """
SELECT e.fleet, e.pack, e.boot, e.seq_from, e.seq_to, e.why FROM expired AS e
JOIN unnest(%s::text[], %s::text[], %s::bigint[]) AS k(fleet, pack, boot) USING (fleet, pack, boot)
"""

# The row before one that follows a hole, in device time, where it was stored before the window: of the same boot where that
# had begun before.
_BEFORE = """
SELECT k.fleet, k.pack, k.boot, r.seq
FROM unnest(%s::text[], %s::text[], %s::bigint[], %s::timestamptz[]) AS k(fleet, pack, boot, ts)
CROSS JOIN LATERAL (
    SELECT t.boot, t.seq, t.stored FROM telemetry t WHERE t.pack = k.pack AND t.ts < k.ts AND t.fleet = k.fleet
    ORDER BY t.ts DESC, t.boot DESC, t.seq DESC LIMIT 1
) AS r WHERE r.boot = k.boot AND r.stored < %s
"""

_PRESENT = """
SELECT DISTINCT k.fleet, k.pack, k.boot, r.seq
FROM unnest(%s::text[], %s::text[], %s::bigint[], %s::bigint[], %s::bigint[]) AS k(fleet, pack, boot, first, last)
CROSS JOIN LATERAL (
    SELECT t.seq FROM telemetry t WHERE t.pack = k.pack AND t.ts >= %s AND t.boot = k.boot
        AND t.seq BETWEEN k.first AND k.last AND t.fleet = k.fleet LIMIT 1000
) AS r
"""

_GATEWAYS = """
SELECT k.fleet, k.pack, r.gateway FROM unnest(%s::text[], %s::text[]) AS k(fleet, pack)
CROSS JOIN LATERAL (
    SELECT t.gateway FROM telemetry t WHERE t.pack = k.pack AND t.fleet = k.fleet ORDER BY t.ts DESC LIMIT 1
) AS r
"""


class Account(msgspec.Struct):
    """The newest history in messages; `missing` by boot is what neither came nor is explained. `behind_s`: what was stored
    in the last seconds is not in it, because a transaction that writes has been open for so long."""

    delivered: int = 0
    duplicate: int = 0
    late: int = 0
    explained: Counter[str] = msgspec.field(default_factory=Counter)
    missing: dict[Key, list[Range]] = {}
    boots: int = 0
    behind_s: float = 0.0


class _Boot:
    """What is known of one boot."""

    def __init__(self) -> None:
        self.received = Numbers()
        self.start = 0
        self.end = 0
        self.duplicate = self.late = 0
        self.reasons: dict[str, Numbers] = {}
        self.touched = dt.datetime.min.replace(tzinfo=dt.UTC)
        self.missing: list[Range] = []
        self.explained: Counter[str] = Counter()

    def settle(self) -> None:
        """Work out what is missing after something has changed."""
        end = max(self.end, self.received.last + 1)
        reasons = [
            Range(first, last, why)
            for why, numbers in self.reasons.items()
            for first, last in numbers.ranges()
        ]
        self.missing, explained = explain(list(self.received.holes(self.start, end)), reasons)
        self.explained = Counter()
        for item in explained:
            if item.why != EXPIRED:
                self.explained[item.why] += item.count

    def begin_after_expired(self) -> None:
        """What is gone before the first number that was seen was looked at in its time, holes and all."""
        gone, first = self.reasons.get(EXPIRED), self.received.first
        if gone is not None and first is not None:
            self.start = max([self.start, *(last + 1 for _, last in gone.ranges() if last < first)])

    def goes_on(self, first: int) -> bool:
        """Whether numbers from `first` on just follow what is there: then no hole opens or closes."""
        return first == self.received.last + 1 >= self.end


class Watch:
    """See the module. Not for several threads at once, but for `abort`."""

    def __init__(self, dsn: str, window_s: float) -> None:
        self._dsn = dsn
        self._window = dt.timedelta(seconds=window_s)
        self._conn: connection | None = None
        self._forget()

    def _forget(self) -> None:
        self._boots: dict[Key, _Boot] = {}
        self._seen_until: dt.datetime | None = None

    def look(self, go_on: Callable[[], bool] = lambda: True) -> Account | None:
        """The account now, or None where another watch has the lock; raises psycopg2.Error, and forgets everything.

        Between the parts of a long way `go_on` is asked whether to go on.
        """
        try:
            return self._look(go_on)
        except BaseException:
            self.close()
            raise

    def _look(self, go_on: Callable[[], bool]) -> Account | None:
        if self._conn is None and not self._connect():
            return None
        until: dt.datetime
        until, behind_s = self._query(_UNTIL)[0]
        if self._seen_until is not None and until < self._seen_until - SLICE:
            self._forget()  # the database's clock was set back: rows would be passed over
        begin = until - self._window
        since = self._seen_until or begin
        touched: set[Key] = set()
        while since < until and go_on():
            part_end = min(since + SLICE, until)
            touched |= set(self._read(since, part_end, begin))
            since = self._seen_until = part_end
        self._drop_old(begin)
        for key in touched & self._boots.keys():
            self._boots[key].settle()
        return self._account(behind_s)

    def _connect(self) -> bool:
        """Whether this watch has the lock now."""
        self._forget()
        conn = psycopg2.connect(
            self._dsn, connect_timeout=CONNECT_TIMEOUT_S, application_name="voltflow-ledger-watch",
            keepalives_idle=10, keepalives_interval=5, keepalives_count=3, tcp_user_timeout=30_000,
        )  # fmt: skip
        try:
            conn.autocommit = True
            with conn.cursor() as cursor:
                for name, value in _SESSION.items():
                    cursor.execute("SELECT set_config(%s, %s, false)", (name, str(value)))
                cursor.execute("SELECT pg_try_advisory_lock(%s)", (LOCK_KEY,))
                locked = bool(cursor.fetchall()[0][0])
        except BaseException:
            conn.close()
            raise
        if not locked:
            conn.close()
            return False
        self._conn = conn
        return True

    @property
    def boots(self) -> Container[Key]:
        """The boots that are looked at."""
        return self._boots.keys()

    def _query(self, sql: str, parameters: Any = None) -> list[tuple[Any, ...]]:
        assert self._conn is not None
        with self._conn.cursor() as cursor:
            cursor.execute(sql, parameters)
            return cursor.fetchall()

    def _read(self, since: dt.datetime, until: dt.datetime, window_begin: dt.datetime) -> Iterator[Key]:
        """Take in what was stored in the time, and tell which boots it has changed."""
        times = {"since": since, "until": until}
        begun: list[tuple[Key, dt.datetime]] = []
        for fleet, pack, boot, first, last, copies, late, ts in self._query(_NEW, times):
            key = (fleet, pack, boot)
            known = self._boot(key, until)
            if first > known.received.last + 1:
                begun.append((key, ts))
            if not known.goes_on(first):
                yield key
            count = last - first + 1
            known.duplicate += count * copies - known.received.add(first, last)
            known.late += late
        for fleet, pack, boot, published in self._query(_PUBLISHED, times):
            key = (fleet, pack, boot)
            known = self._boot(key, until)
            if known.received.first is None and not known.end:
                begun.append((key, ANY_TIME))  # it may be silent for longer than the window
            if published > max(known.end, known.received.last + 1):
                yield key
            known.end = max(known.end, published)
        self._find_starts(begun, window_begin)
        for fleet, pack, boot, first, last, why in self._query(_REASONS, times):
            known = self._boot((fleet, pack, boot), until)
            known.reasons.setdefault(reason_class(why), Numbers()).add(first, last)
            if why.startswith("dropped: "):
                known.end = max(known.end, last + 1)
            yield fleet, pack, boot
        yield from self._expired(self._query(_EXPIRED_NEW, times))

    def _boot(self, key: Key, touched: dt.datetime) -> _Boot:
        boot = self._boots.setdefault(key, _Boot())
        boot.touched = touched
        return boot

    def _find_starts(self, begun: Sequence[tuple[Key, dt.datetime]], window_begin: dt.datetime) -> None:
        """Where numbers go on from rows that were stored before the window. Also those behind a hole: a message that was
        missing for days and came within the window stands alone, far from what is new. A row that was stored later is
        still to be read, or has been: what is missing before it is missing."""
        if not begun:
            return
        columns = [*_columns(key for key, _ in begun), [ts for _, ts in begun]]
        for fleet, pack, boot, seq in self._query(_BEFORE, [*columns, window_begin]):
            known = self._boots[fleet, pack, boot]
            if seq not in known.received:
                known.start = max(known.start, seq + 1)
        for key in set(self._expired(self._query(_EXPIRED, columns[:3]))):
            self._boots[key].begin_after_expired()

    def _expired(self, found: Iterable[tuple[Any, ...]]) -> Iterator[Key]:
        for fleet, pack, boot, first, last, why in found:
            if known := self._boots.get((fleet, pack, boot)):
                known.reasons.setdefault(reason_class(why), Numbers()).add(first, last)
                yield fleet, pack, boot

    def _drop_old(self, before: dt.datetime) -> None:
        for key in [key for key, boot in self._boots.items() if boot.touched < before]:
            del self._boots[key]

    def _account(self, behind_s: float) -> Account:
        account = Account(boots=len(self._boots), behind_s=behind_s)
        for key, boot in self._boots.items():
            account.delivered += len(boot.received)
            account.duplicate += boot.duplicate
            account.late += boot.late
            account.explained.update(boot.explained)
            if boot.missing:
                account.missing[key] = boot.missing
        return account

    def present(self, asked: Sequence[tuple[Key, Range]]) -> list[tuple[Key, int]]:
        """Which of the missing numbers are rows after all, because their transaction began very long before its end;
        they are taken in. Looks at device times of twice the window."""
        if not asked or self._seen_until is None:
            return []
        ranges = [[r.first for _, r in asked], [r.last for _, r in asked]]
        values = [*_columns([key for key, _ in asked]), *ranges, self._seen_until - 2 * self._window]
        found = [((fleet, pack, boot), seq) for fleet, pack, boot, seq in self._query(_PRESENT, values)]
        for key, seq in found:
            if key in self._boots:
                self._boots[key].received.add(seq, seq)
                self._boots[key].settle()
        return found

    def gateways(self, keys: Iterable[Key]) -> dict[tuple[str, str], str]:
        """By fleet and pack, the gateway of its newest row; packs without a row have none."""
        packs = sorted({(fleet, pack) for fleet, pack, _ in keys})
        found = self._query(_GATEWAYS, [[p[0] for p in packs], [p[1] for p in packs]]) if packs else []
        return {(fleet, pack): gateway for fleet, pack, gateway in found}

    def abort(self) -> None:
        """From another thread: end the query that is under way."""
        if self._conn is not None:
            with contextlib.suppress(psycopg2.Error):
                self._conn.cancel()

    def close(self) -> None:
        """Give the lock back; the next look begins anew."""
        conn, self._conn = self._conn, None
        if conn is not None:
            conn.close()


def _columns(keys: Iterable[Key]) -> list[list[Any]]:
    listed = list(keys)
    return [[key[i] for key in listed] for i in range(3)]
