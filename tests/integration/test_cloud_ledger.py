"""The ledger against histories with known holes, duplicates and explanations."""

import contextlib
import datetime as dt
import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import psycopg2
import pytest

from cloud.migrate import migrate, migrations
from cloud.nodes.timescale_out import TimescaleOut
from tests import cloud_samples as samples
from tests import servers
from tests.cloud_samples import BOOT, TS_MS, query, run_sink, twin
from tests.programs import Agent, Bridge
from tests.servers import wait_until
from voltflow import topics
from voltflow.cli import main
from voltflow.ledger.ledger import Expected, LedgerError, Report, load_expected, verify
from voltflow.ledger.sql import PACKS, Filter, Reader, Scope
from voltflow.message import Msg


def store(dsn: str, msgs: list[Msg]) -> None:
    async def use(sink: TimescaleOut) -> None:
        for start in range(0, len(msgs), 30):
            await sink.write(msgs[start : start + 30])

    run_sink(TimescaleOut(database=dsn), use)


def history() -> list[Msg]:
    """SIM000001: 0–99 without 10–14 and 40, 20 twice, 60–62 three times; its second boot starts at 2; SIM000002 whole."""
    first = [twin(seq) for seq in range(100) if seq not in {10, 11, 12, 13, 14, 40}]
    doubled = [
        twin(20, ts_ms=TS_MS + 1),
        *(twin(seq, ts_ms=TS_MS + n) for seq in (60, 61, 62) for n in (1, 2)),
    ]
    return [
        *first,
        *doubled,
        *(twin(seq, boot=BOOT + 1) for seq in range(2, 5)),
        *(twin(seq, "SIM000002") for seq in range(50)),
    ]


def holes(report: Report, pack: str, boot: int = BOOT) -> list[tuple[int, int]]:
    entry = next(e for e in report.entries if (e.pack, e.boot) == (pack, boot))
    return [(item.first, item.last) for item in entry.missing]


@pytest.mark.parametrize("kind", ["postgres", "timescale"])
def test_verify_names_every_hole_and_duplicate(kind: str, request: pytest.FixtureRequest) -> None:
    dsn = (
        request.getfixturevalue("database")
        if kind == "postgres"
        else request.getfixturevalue("timescale").dsn
    )
    store(dsn, history())
    report = verify(dsn)
    assert (report.missing, report.duplicates, report.ok) == (6 + 2, 1 + 6, False)
    assert report.rows == 94 + 7 + 3 + 50
    assert holes(report, "SIM000001") == [(10, 14), (40, 40)]
    assert holes(report, "SIM000001", BOOT + 1) == [(0, 1)]
    assert holes(report, "SIM000002") == []
    doubled = next(e for e in report.entries if e.duplicates)
    assert [(d.first, d.last, d.why) for d in doubled.duplicates] == [
        (20, 20, "2 rows each"),
        (60, 62, "3 rows each"),
    ]


def test_verify_dead_letters_and_losses_explain_holes(database: str) -> None:
    store(
        database,
        [
            *history(),
            samples.dead(seq=40),
            samples.dead(seq=40, node="twin"),
            samples.loss(11, 12),
            samples.dead(),
        ],
    )
    report = verify(database)
    assert holes(report, "SIM000001") == [(10, 10), (13, 14)]
    entry = report.entries[0]
    assert [(e.first, e.last, e.why) for e in entry.explained] == [
        (11, 12, "dropped: quota"),
        (40, 40, "dead letter: not JSON"),
    ]
    assert (report.explained, report.dead_letters) == (3, 3)


def test_verify_expected_shows_lost_tails_and_lost_packs(database: str) -> None:
    store(database, [twin(seq) for seq in range(10)])
    assert verify(database).ok
    report = verify(database, {"SIM000001": Expected(BOOT, 12), "SIM000009": Expected(BOOT, 3)})
    assert holes(report, "SIM000001") == [(10, 11)]
    assert holes(report, "SIM000009") == [(0, 2)]


def test_verify_farewell_shows_a_lost_tail(database: str) -> None:
    """A device says at its end how many messages it published."""
    farewell = samples.state(online=False, boot=BOOT, published=12)
    store(database, [*(twin(seq) for seq in range(10)), farewell])
    assert holes(verify(database), "SIM000001") == [(10, 11)]


def test_verify_many_packs_says_how_far_it_is_and_reads_side_by_side(database: str) -> None:
    seen: list[tuple[int, int]] = []
    store(database, [twin(seq, f"SIM{pack:06d}") for pack in range(120) for seq in (0, 1)])
    report = verify(database, progress=lambda done, total: seen.append((done, total)))
    assert (report.ok, len(report.entries)) == (True, 120)
    assert seen == [(240, 240)]
    assert verify(database, jobs=3) == report


def test_verify_empty_database_says_how_to_make_the_tables(database: str) -> None:
    with pytest.raises(
        LedgerError, match=r"the database holds no history .* `cloud-bridge migrate` makes the tables"
    ):
        verify(database)


def test_main_json_and_exit_status(database: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    store(database, [twin(seq) for seq in range(10)])
    sent = tmp_path / "sent.json"
    sent.write_text(json.dumps({"packs": {"SIM000001": {"boot": BOOT, "published": 10, "confirmed": 10}}}))
    command = ["ledger", "verify", "--database", database, "--expected", str(sent)]
    assert main([*command, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["ok"], result["received"]) == (True, 10)
    assert result["classes"] == {
        "delivered": 10,
        "lost_explained": 0,
        "lost_unexplained": 0,
        "duplicate": 0,
        "late": 0,
        "expired": 0,
    }
    sent.write_text(json.dumps({"packs": {"SIM000001": {"boot": BOOT, "published": 11}}}))
    assert main(command) == 1
    assert "demo/SIM000001 boot 1764000000: missing seq 10" in capsys.readouterr().out


def test_main_a_name_that_the_history_does_not_have_is_no_good_ledger(
    database: str, capsys: pytest.CaptureFixture[str]
) -> None:
    store(database, [])
    command = ["ledger", "verify", "--database", database]
    assert main(command) == 0
    assert "nothing to verify: no message is known here" in capsys.readouterr().out
    store(database, [twin(0)])
    assert main([*command, "--pack", "SIM000001", "--fleet", "demo"]) == 0
    assert main([*command, "--pack", "SIM000001", "--pack", "SIM1"]) == 2
    assert "the history has nothing of pack 'SIM1': check --pack" in capsys.readouterr().err
    assert main([*command, "--fleet", "demon"]) == 2
    assert "the history has nothing of fleet 'demon': check --fleet" in capsys.readouterr().err


def test_verify_reading_refused_by_the_gateway_is_explained_by_its_dead_letter(
    database: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Through agent, broker, bridge and database: what validation refused left a letter with the reading's key."""
    good = {"schema": "bms.telemetry/1", "pack": "p1", "boot": 3, "ts_ms": TS_MS, "soc_pct": 50.0}
    bad = [{"soc_pct": "50"}, {"soc_pct": float("nan")}, {"dtc": ["a\0b"]}, {"alarm_level": 9}]
    changes: list[dict[str, object]] = [{}, *bad, {}, {"ts_ms": -1}]
    messages = [json.dumps({**good, "seq": seq, **change}) for seq, change in enumerate(changes)]
    sent = tmp_path / "sent.json"
    sent.write_text(json.dumps({"packs": {"p1": {"boot": 3, "published": len(messages)}}}))
    with (
        servers.Mosquitto() as broker,
        Bridge(broker, database, tmp_path / "bridge"),
        Agent(broker, tmp_path / "agent"),
    ):
        client = paho.Client(paho.CallbackAPIVersion.VERSION2)
        client.connect("127.0.0.1", broker.port)
        client.loop_start()
        for text in [*messages, messages[1]]:
            client.publish(topics.TELEMETRY.of("f", "p1"), text, qos=1).wait_for_publish(30)
        client.disconnect()
        client.loop_stop()
        servers.wait_until(lambda: verify(database, load_expected(sent)).ok, "an explanation of each", 30)
    assert main(["ledger", "verify", "--database", database, "--expected", str(sent)]) == 0
    report = verify(database, load_expected(sent))
    assert (report.received, report.explained, report.dead_letters) == (2, 5, 5)
    listed = capsys.readouterr().out
    assert (
        "f/p1 boot 3: lost, explained: seq 1  dead letter: ValidationError: Expected `float | null`, got `str`"
        in listed
    )


def test_packs_query_jumps_through_the_index(postgres: servers.Postgres, database: str) -> None:
    """Reading every row to find the packs would make the ledger of a year's history take hours."""
    store(database, [twin(0)])
    plan = query(database, "SET enable_seqscan = off; EXPLAIN " + PACKS)
    assert any(
        "Index Only Scan using telemetry_pack_ts_boot_seq_fleet_key" in row["QUERY PLAN"] for row in plan
    )


def test_pages_are_read_from_the_index_alone_and_not_sorted(database: str) -> None:
    """The statement as it is sent, over a table with statistics."""
    store(database, [twin(seq, f"SIM{pack:06d}") for pack in range(20) for seq in range(50)])
    with contextlib.closing(psycopg2.connect(database)) as conn:
        conn.autocommit = True
        conn.cursor().execute("VACUUM ANALYZE telemetry")
        conn.autocommit = False
        with conn.cursor() as cursor:
            reader = Reader(conn, Filter())
            reader.plan_for_order()
            sent: list[str] = []
            reader.query = lambda sql, values: sent.append(cursor.mogrify(sql, values).decode()) or []  # type: ignore[method-assign,assignment,func-returns-value]
            list(reader.runs(Scope()))
            cursor.execute("EXPLAIN " + sent[0])
            plan = "\n".join(row[0] for row in cursor.fetchall())
    assert "Index Only Scan using telemetry_pack_ts_boot_seq_fleet_key" in plan
    assert "Sort" not in plan


Rows = list[tuple[str, str, int, int, int]]
"""Fleet, pack, boot, seq, device time in seconds."""


def awkward_rows(source: random.Random) -> Rows:
    """Packs with holes, doubled numbers, clocks that step, boots and fleets that are mixed in time."""
    rows: set[tuple[str, str, int, int, int]] = set()
    for pack in range(source.randint(1, 4)):
        for fleet in source.choice([["f"], ["f", "g"]]):
            for boot in range(source.randint(1, 3)):
                step = source.choice([0, 0, 5, 1000])
                for seq in range(source.randint(1, 60)):
                    copies = source.choice([1] * 15 + [0, 0, 2, 3])
                    time = seq + boot * step - source.choice([0] * 20 + [7])
                    rows |= {(fleet, f"P{pack}", boot, seq, time + copy) for copy in range(copies)}
    return sorted(rows)


def insert(dsn: str, rows: Rows) -> None:
    execute(
        dsn,
        "DELETE FROM telemetry; INSERT INTO telemetry (fleet, pack, boot, seq, ts, gateway, flow_rev, late, replay) "
        "SELECT f, p, b, s, to_timestamp(1764000000 + t), 'gw', '', false, false "
        "FROM unnest(%s::text[], %s::text[], %s::bigint[], %s::bigint[], %s::bigint[]) AS u(f, p, b, s, t)",
        tuple(map(list, zip(*rows, strict=True))),
    )


def execute(dsn: str, sql: str, parameters: object = None) -> None:
    with contextlib.closing(psycopg2.connect(dsn)) as conn, conn, conn.cursor() as cursor:
        cursor.execute(sql, parameters)


def test_verify_agrees_with_counting_whatever_the_order(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hole and a duplicate may cancel out in counts, and in the order of the index; small pages make every end of a
    page fall somewhere."""
    seed = random.SystemRandom().randrange(2**32)
    source = random.Random(seed)
    store(database, [twin(0)])
    for _ in range(30):
        rows = awkward_rows(source)
        insert(database, rows)
        monkeypatch.setattr("voltflow.ledger.sql.PAGE_ROWS", source.randint(1, 40))
        monkeypatch.setattr("voltflow.ledger.sql.RUNS_OF_A_PAGE", source.choice([1, 5, 100]))
        report = verify(database)
        counted = Counter(row[:4] for row in rows)
        for entry in report.entries:
            mine = {
                seq: n
                for (f, p, b, seq), n in counted.items()
                if (f, p, b) == (entry.fleet, entry.pack, entry.boot)
            }
            missing = {n for r in entry.missing for n in range(r.first, r.last + 1)}
            doubled = {n for r in entry.duplicates for n in range(r.first, r.last + 1)}
            assert (entry.rows, entry.received) == (sum(mine.values()), len(mine)), seed
            assert missing == set(range(max(mine))) - set(mine), seed
            assert doubled == {seq for seq, n in mine.items() if n > 1}, seed
        assert sum(entry.rows for entry in report.entries) == len(rows), seed


def test_verify_part_of_the_history(database: str) -> None:
    """Since a time: what was before is not asked for, and a hole over that time is seen; --pack and --fleet."""
    rows: Rows = [("f", "P1", 1, seq, seq) for seq in range(100) if seq not in {10, 48, 49, 50, 51, 90}]
    rows += [("f", "P1", 2, seq, 60 + seq) for seq in range(2, 4)]
    rows += [("f", "P2", 1, seq, seq) for seq in range(10)] + [
        ("g", "P1", 1, seq, seq) for seq in range(1, 20)
    ]
    store(database, [twin(0)])
    insert(database, rows)
    since = dt.datetime.fromtimestamp(1764000000 + 50, dt.UTC)
    report = verify(database, since=since, fleet="f")
    assert [(e.pack, e.boot, [(m.first, m.last) for m in e.missing]) for e in report.entries] == [
        ("P1", 1, [(48, 51), (90, 90)]),
        ("P1", 2, [(0, 1)]),
    ]
    assert {(e.fleet, e.pack) for e in verify(database, packs=["P1"]).entries} == {("f", "P1"), ("g", "P1")}
    assert verify(database, fleet="g").missing == 1


def test_verify_counts_what_came_late(database: str, capsys: pytest.CaptureFixture[str]) -> None:
    late = [samples.changed(twin(seq), late=True) for seq in range(3)]
    store(database, [*late, *(twin(seq) for seq in range(3, 10)), samples.loss(10, 11)])
    report = verify(database)
    assert (report.late, report.reasons, report.ok) == (3, {"dropped: quota": 2}, True)
    assert main(["ledger", "verify", "--database", database]) == 0
    assert capsys.readouterr().out.splitlines()[:5] == [
        "delivered                         10",
        "lost (explained)                   2   dropped: quota: 2",
        "lost (unexplained)                 0",
        "duplicate                          0",
        "late                               3",
    ]
    execute(database, "DROP INDEX telemetry_late")
    assert verify(database).late is None


@pytest.mark.parametrize("kind", ["postgres", "timescale"])
def test_schema_keeps_unknown_times_and_skew(kind: str, request: pytest.FixtureRequest) -> None:
    dsn = (
        request.getfixturevalue("database")
        if kind == "postgres"
        else request.getfixturevalue("timescale").dsn
    )
    unknown = samples.changed(twin(0), received_ms=None, replay=True, skew_ms=-1_764_000_000_000)
    store(dsn, [unknown, samples.dead(received_ms=None), twin(1)])
    row = query(dsn, "SELECT received, replay, skew_ms FROM telemetry WHERE seq = 0")[0]
    assert dict(row) == {"received": None, "replay": True, "skew_ms": -1_764_000_000_000}
    assert dict(query(dsn, "SELECT received, replayed, dropped FROM dead_letter")[0]) == {
        "received": None, "replayed": None, "dropped": None,
    }  # fmt: skip


def connected(dsn: str) -> Any:
    """A connection; the TimescaleDB of the tests takes the next one only when it has noticed the end of the last."""

    def attempt() -> Any:
        with contextlib.suppress(psycopg2.OperationalError):
            return psycopg2.connect(dsn)
        return None

    return wait_until(attempt, "a connection")


@pytest.mark.parametrize("kind", ["postgres", "timescale"])
def test_migration_of_a_history_with_rows(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """Rows of the version before stay; a big table gets its indexes when the operator wants them, not now."""
    dsn = (
        request.getfixturevalue("database")
        if kind == "postgres"
        else request.getfixturevalue("timescale").dsn
    )
    for item in migrations()[:2]:
        (tmp_path / f"{item.version:04d}_{item.name}.sql").write_text(item.sql)
    with contextlib.closing(connected(dsn)) as conn:
        migrate(conn, tmp_path)
        with conn, conn.cursor() as cursor:
            cursor.execute(
                "INSERT INTO telemetry (fleet, pack, boot, seq, ts, received, gateway, flow_rev, late, replay) "
                "SELECT 'f', 'p', 1, q, '2026-01-01'::timestamptz + q * interval '1 hour', now(), 'gw', '', false, false "
                "FROM generate_series(0, 99) q WHERE q <> 50"
            )
            if kind == "postgres":
                cursor.execute("UPDATE pg_class SET reltuples = 3e7 WHERE relname = 'telemetry'")
        migrate(conn)
        indexes = (
            "SELECT to_regclass('telemetry_late') IS NOT NULL, to_regclass('telemetry_stored') IS NOT NULL"
        )
        with conn, conn.cursor() as cursor:
            cursor.execute(indexes)
            assert cursor.fetchone() == ((False, False) if kind == "postgres" else (True, True))
    connected(dsn).close()
    report = verify(dsn)
    assert (report.rows, report.missing, report.late) == (99, 1, None if kind == "postgres" else 0)
