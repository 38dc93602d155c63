"""The views of the fleet as it is now: what they say, and that a long history does not make them slow."""

import contextlib
import itertools
import json
from collections.abc import Iterator
from typing import Any

import msgspec
import psycopg2
import pytest

from cloud.migrate import SCHEMA_DIR, migrate
from cloud.nodes.timescale_out import TimescaleOut
from edge.bands import SILENT_POINTS, points
from edge.settings import AgentSettings
from tests import cloud_samples as samples
from tests import servers
from tests.cloud_samples import query, run_sink, twin
from voltflow.message import Msg
from voltflow.telemetry import Alert

VIEWS = SCHEMA_DIR / "0004_fleet_now.sql"


def store(dsn: str, *batches: list[Msg]) -> None:
    async def use(sink: TimescaleOut) -> None:
        for batch in batches:
            await sink.write(batch)

    run_sink(TimescaleOut(database=dsn), use)


def execute(dsn: str, sql: str) -> None:
    """A statement that stays."""
    with contextlib.closing(psycopg2.connect(dsn)) as conn, conn, conn.cursor() as cursor:
        cursor.execute(sql)


def standing(dsn: str) -> list[tuple[str, int]]:
    rows = query(dsn, "SELECT pack, seq FROM alert_now WHERE state = 'raised' ORDER BY pack")
    return [(row["pack"], row["seq"]) for row in rows]


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for part in plan.get("Plans", []):
        yield from nodes(part)


def explained(dsn: str, sql: str) -> list[dict[str, Any]]:
    """The steps that the database took."""
    (row,) = query(dsn, f"EXPLAIN (ANALYZE, FORMAT JSON) {sql}")
    content = row["QUERY PLAN"]
    (found,) = json.loads(content) if isinstance(content, str) else content
    return list(nodes(found["Plan"]))


MESSAGES = [samples.alert(1), samples.alert(2, state="cleared"), samples.alert(3)]


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_an_alert_stands_when_its_newest_message_raised_it_whichever_came_last(
    database: str, order: tuple[int, ...]
) -> None:
    store(database, *([MESSAGES[place]] for place in order))
    assert standing(database) == [("SIM000001", 3)]
    store(database, MESSAGES, [samples.alert(4, state="cleared"), samples.alert(5, "SIM000002")])
    assert standing(database) == [("SIM000002", 5)]
    store(database, [samples.alert(1), samples.alert(3)])
    assert standing(database) == [("SIM000002", 5)], "what comes again changes nothing"
    (row,) = query(database, "SELECT fleet, pack, code, severity, limit_value, unit, text FROM alert_open")
    assert row == {"fleet": "demo", "pack": "SIM000002", "code": "over_temperature", "severity": "critical",
                   "limit_value": 60.0, "unit": "°C", "text": "hot"}  # fmt: skip


def test_alerts_stand_in_timescale_too(timescale: servers.Timescale) -> None:
    store(timescale.dsn, [*MESSAGES, samples.alert(4, "SIM000002")])
    assert standing(timescale.dsn) == [("SIM000001", 3), ("SIM000002", 4)]


def test_the_file_of_the_views_may_be_run_again_and_finds_what_stands(database: str) -> None:
    store(database, MESSAGES)
    execute(database, "DELETE FROM alert_now")
    execute(database, VIEWS.read_text())
    execute(database, VIEWS.read_text())
    assert standing(database) == [("SIM000001", 3)]


def test_an_alert_that_somebody_has_seen_to_counts_in_full_here_and_a_tenth_at_the_gateway(
    database: str,
) -> None:
    """What docs/grafana.md says of the two orders."""
    store(database, [samples.state(), twin(1), samples.alert(1)])
    (row,) = query(database, "SELECT worry, soc_pct, cell_temp_max_c, failure_predicted_pct FROM pack_now")
    alert = msgspec.json.decode(samples.alert(1).payload, type=Alert)
    values = {"soc": row["soc_pct"], **dict.fromkeys(("temperature", "soh", "rul", "failure"))}
    assert row["worry"] == points(values, [alert], {}, is_silent=False) == 1000
    assert points(values, [alert], {alert.code: alert.since_ms}, is_silent=False) == 100


def test_a_pack_is_silent_when_it_is_at_a_gateway_and_nothing_known_of_it_is_a_worry(database: str) -> None:
    packs = {"SIM000001": None, "SIM000002": -60, "SIM000003": 60}
    store(
        database,
        [*(samples.state(pack) for pack in [*packs, "SIM000004"]), *(twin(1, pack) for pack in packs)],
    )
    for pack, more_s in packs.items():
        if more_s is not None:
            ago_s = AgentSettings().silent_after_s + more_s
            execute(
                database, f"UPDATE telemetry SET stored = now() - interval '{ago_s} s' WHERE pack = '{pack}'"
            )
    rows = query(database, "SELECT pack, silent, worry FROM pack_now ORDER BY pack")
    unknown = points(dict.fromkeys(("soc", "temperature", "soh", "rul", "failure")), [], {}, is_silent=True)
    assert [(row["silent"], row["worry"]) for row in rows] == [
        (False, 0), (False, 0), (True, SILENT_POINTS), (True, unknown),
    ]  # fmt: skip


def test_looks_do_not_read_the_history_of_alerts(database: str) -> None:
    store(database, [samples.state(), *MESSAGES])
    for view in ("alert_open", "pack_now"):
        read = {step.get("Relation Name") for step in explained(database, f"SELECT * FROM {view}")}
        assert "alert" not in read, view
        assert "alert_now" in read, view


def test_a_look_passes_no_rows_over_where_there_is_no_model(database: str) -> None:
    """An hour of a pack is thousands of rows; none of these has a prediction of health, life or failure."""
    with contextlib.closing(psycopg2.connect(database)) as conn:
        migrate(conn)
    store(database, [samples.state(), *(twin(seq) for seq in range(1000))])
    execute(database, "ANALYZE telemetry")
    steps = explained(database, "SELECT * FROM pack_now")
    passed = {step["Node Type"]: step.get("Rows Removed by Filter", 0) for step in steps}
    assert max(passed.values()) < 100, passed
