"""What the demo asks the database: how far this run has come, and what it came to."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from voltflow.ledger.ledger import Expected, verify

if TYPE_CHECKING:
    from psycopg2.extensions import connection

PREDICTION_COLUMNS = {
    "soh": "soh_predicted_pct",
    "temperature": "temperature_predicted_c",
    "rul": "rul_predicted_efc",
    "failure": "failure_predicted_pct",
}
"""By model, the column of `telemetry` that is not null where the model answered."""

_DEAD_LETTERS = (
    "SELECT count(*) FROM dead_letter WHERE fleet = %(fleet)s AND stored >= to_timestamp(%(since)s)"
)
_OF_RUN = "fleet = %(fleet)s AND boot = ANY(%(boots)s)"


class Counts(msgspec.Struct):
    """One run in the database. `missing` and `duplicates` are the ledger's, against what the devices published."""

    rows: int
    missing: int
    duplicates: int
    dead_letters: int
    alerts: int
    predictions: dict[str, int]


class History:
    """The database of the demo, and one run in it: the messages of a fleet with a boot from `since_ms` on."""

    def __init__(self, dsn: str, fleet: str, since_ms: int) -> None:
        self.dsn = dsn
        self.fleet = fleet
        self.since_ms = since_ms

    def ready(self) -> bool:
        """Whether the bridge has made the tables."""
        return bool(
            self._value("SELECT to_regclass('telemetry') IS NOT NULL AND to_regclass('alert') IS NOT NULL")
        )

    def predicted(self) -> bool:
        """Whether a row of this run has a prediction."""
        some = " OR ".join(f"{column} IS NOT NULL" for column in PREDICTION_COLUMNS.values())
        sql = f"SELECT EXISTS (SELECT FROM telemetry WHERE fleet = %(fleet)s AND boot >= %(since)s AND ({some}))"  # noqa: S608
        return bool(self._value(sql, {"fleet": self.fleet, "since": self.since_ms}))

    def rows(self, boots: list[int]) -> int:
        """How many messages of these boots are rows."""
        sql = f"SELECT count(*) FROM telemetry WHERE {_OF_RUN}"  # noqa: S608
        return int(self._value(sql, {"fleet": self.fleet, "boots": boots}))

    def counts(self, published: Mapping[str, Expected]) -> Counts:
        """The run's result; `published` is what the devices say, by pack. Raises voltflow.ledger.ledger.LedgerError."""
        report = verify(self.dsn, published)
        boots = {(pack, item.boot) for pack, item in published.items()}
        entries = [e for e in report.entries if (e.pack, e.boot) in boots and e.fleet in (self.fleet, "?")]
        run = {"fleet": self.fleet, "boots": sorted({item.boot for item in published.values()})}
        made = ", ".join(f"count({column})" for column in PREDICTION_COLUMNS.values())
        predictions = self._row(f"SELECT {made} FROM telemetry WHERE {_OF_RUN}", run)  # noqa: S608
        since = {"since": self.since_ms / 1000, "fleet": self.fleet}
        return Counts(
            rows=sum(entry.rows for entry in entries),
            missing=sum(entry.missing_count for entry in entries),
            duplicates=sum(entry.duplicate_count for entry in entries),
            dead_letters=self._value(_DEAD_LETTERS, since),
            alerts=self._value(f"SELECT count(*) FROM alert WHERE {_OF_RUN} AND state = 'raised'", run),  # noqa: S608
            predictions=dict(zip(PREDICTION_COLUMNS, predictions, strict=True)),
        )

    def _value(self, sql: str, parameters: Mapping[str, Any] | None = None) -> Any:
        return self._row(sql, parameters)[0]

    def _row(self, sql: str, parameters: Mapping[str, Any] | None = None) -> tuple[Any, ...]:
        with self._connection() as conn, conn.cursor() as cursor:
            cursor.execute(sql, parameters)
            row = cursor.fetchone()
        assert row is not None
        return row

    @contextlib.contextmanager
    def _connection(self) -> Iterator[connection]:
        import psycopg2

        conn = psycopg2.connect(self.dsn, connect_timeout=10, application_name="voltflow-demo")
        try:
            conn.set_session(readonly=True, autocommit=True)
            yield conn
        finally:
            conn.close()
