"""The history's sink with a spool: what the database does not take waits on the bridge's disk and becomes one row."""

from __future__ import annotations

import asyncio
from contextlib import closing
from pathlib import Path

import psycopg2

from tests import servers
from tests.cloud_samples import twin
from tests.conftest import Use
from tests.flows import raw, running, until
from voltflow.node import load_nodes

load_nodes("cloud.nodes")


def test_what_a_killed_database_did_not_take_waits_on_disk_and_becomes_one_row_each(
    own: Use[servers.Postgres], tmp_path: Path
) -> None:
    database = own(servers.Postgres())

    async def scenario() -> None:
        history = {
            "id": "k",
            "type": "timescale out",
            "database": database.dsn,
            "spool": True,
            "spoolAfter": 0.5,
            "wires": [],
        }
        async with running(
            raw("s", "source", ["k"]), history, raw("d", "dead letters"), state_dir=tmp_path
        ) as lab:
            await lab["s"].feed([twin(seq) for seq in range(100)])
            await asyncio.to_thread(database.kill)
            await lab["s"].feed([twin(seq) for seq in range(100, 300)])  # returns: safe on disk
            queue = lab.engine.spools.queues[0]
            assert queue.spool.backlog.messages >= 200
            await asyncio.to_thread(database.start)
            await until(lambda: not queue.spool.backlog.messages, "an empty spool", 60)
            await lab["s"].feed([twin(seq) for seq in range(300, 400)])
            assert lab["d"].safe() == []

    asyncio.run(scenario())
    with closing(psycopg2.connect(database.dsn)) as connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*), count(DISTINCT seq), min(seq), max(seq), count(*) FILTER (WHERE replay) FROM telemetry"
        )
        rows, distinct, first, last, replayed = cursor.fetchone() or ()
    assert (rows, distinct, first, last) == (400, 400, 0, 399)
    assert (
        replayed >= 200 - 100
    )  # the batch that was under way may have been stored before the kill was noticed
