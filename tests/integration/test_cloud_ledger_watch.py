"""The continuous ledger: what it sees of a real database while rows come, and what the bridge asks gateways for."""

import base64
import contextlib
import json
import queue
import random
import re
from collections.abc import Iterator
from pathlib import Path

import paho.mqtt.client as paho
import psycopg2
import pytest

from cloud.ledger_watch import LOCK_KEY, Account, Watch
from cloud.nodes.timescale_out import TimescaleOut
from tests import cloud_samples as samples
from tests import servers
from tests.cloud_samples import BOOT, query, run_sink, twin
from tests.programs import Bridge
from tests.servers import wait_until
from voltflow import topics
from voltflow.ledger.ledger import verify
from voltflow.message import Msg

KEY = (samples.FLEET, "SIM000001", BOOT)


def store(dsn: str, msgs: list[Msg]) -> None:
    async def use(sink: TimescaleOut) -> None:
        if msgs:
            await sink.write(msgs)

    run_sink(TimescaleOut(database=dsn), use)


@pytest.fixture
def watch(database: str) -> Iterator[Watch]:
    store(database, [])
    with contextlib.closing(Watch(database, window_s=3600)) as found:
        yield found


def holes(watch: Watch) -> dict[tuple[str, str, int], list[tuple[int, int]]]:
    """What is missing, once everything that is committed is old enough to be looked at."""
    account = settled(watch)
    return {key: [(r.first, r.last) for r in ranges] for key, ranges in account.missing.items()}


def settled(watch: Watch) -> Account:
    def look() -> Account | None:
        account = watch.look()
        assert account is not None
        newest = query(watch._dsn, """SELECT max(stored) AS at FROM (SELECT max(stored) AS stored FROM telemetry
            UNION ALL SELECT max(stored) FROM loss UNION ALL SELECT max(stored) FROM dead_letter
            UNION ALL SELECT max(stored) FROM pack_boot) AS t""")[0]["at"]  # fmt: skip
        return account if watch._seen_until is not None and watch._seen_until > newest else None

    account: Account = wait_until(look, "a look at all that is committed")
    return account


def test_look_agrees_with_the_whole_ledger_while_rows_come(database: str, watch: Watch) -> None:
    """Holes that are filled later, in any order, rows that come twice, losses, letters and what devices published."""
    seed = random.SystemRandom().randrange(2**32)
    source = random.Random(seed)
    todo = [twin(seq, f"SIM{pack:06d}") for pack in range(3) for seq in range(60)]
    todo += [twin(seq, ts_ms=samples.TS_MS + 250 + 500 * seq) for seq in (4, 5, 20)]
    todo += [samples.loss(10, 12), samples.dead(seq=13), samples.loss(58, 61)]
    todo += [samples.state(boot=BOOT, published=70), samples.changed(twin(0, "SIM000009"), late=True)]
    source.shuffle(todo)
    for start in range(0, len(todo), 50):
        store(database, todo[start : start + 50])
        account = settled(watch)
        report = verify(database)
        assert {
            (e.fleet, e.pack, e.boot): e.missing for e in report.entries if e.missing
        } == account.missing, seed
        assert (account.delivered, account.duplicate, account.late, account.explained.total()) == (
            report.received, report.duplicates, report.late, report.explained,
        ), seed  # fmt: skip


def test_look_a_boot_that_began_before_the_window_is_not_missing_its_start(database: str) -> None:
    """But a hole over the edge of the window is one, and so is what a silent device says it has published."""
    store(database, [twin(seq) for seq in range(50)] + [twin(seq, "SIM000002") for seq in range(50)])
    old = "UPDATE telemetry SET stored = stored - interval '3 hours'"
    with contextlib.closing(psycopg2.connect(database)) as conn, conn, conn.cursor() as cursor:
        cursor.execute(old)
    store(database, [twin(seq) for seq in range(52, 60)] + [twin(3, "SIM000003")])
    store(database, [samples.state("SIM000002", boot=BOOT, published=51)])
    with contextlib.closing(Watch(database, window_s=3600)) as watch:
        assert holes(watch) == {
            KEY: [(50, 51)],
            ("demo", "SIM000002", BOOT): [(50, 50)],
            ("demo", "SIM000003", BOOT): [(0, 2)],
        }


def test_look_what_came_days_late_stands_alone_in_the_window(database: str) -> None:
    """Between it and the newest messages are rows that were stored before the window."""
    store(database, [twin(seq) for seq in range(100) if seq not in {40, 60}])
    query(database, "UPDATE telemetry SET stored = stored - interval '3 hours' RETURNING seq")
    store(database, [twin(seq) for seq in (40, 60, 100, 101, 104)])
    with contextlib.closing(Watch(database, window_s=3600)) as watch:
        assert holes(watch) == {KEY: [(102, 103)]}


def test_look_what_came_days_late_and_then_what_is_new_have_no_hole_between_them(database: str) -> None:
    """They come in looks of their own, and what lies between them was never looked at."""
    store(database, [twin(seq) for seq in range(100) if seq != 40])
    query(database, "UPDATE telemetry SET stored = stored - interval '3 hours' RETURNING seq")
    with contextlib.closing(Watch(database, window_s=3600)) as watch:
        for seqs in [(40,), (100, 101)]:
            store(database, [twin(seq) for seq in seqs])
            assert holes(watch) == {}
        store(database, [twin(104)])
        assert holes(watch) == {KEY: [(102, 103)]}


def test_look_rows_of_a_transaction_that_is_not_over_are_not_passed_over(database: str, watch: Watch) -> None:
    """A row's time of storing is the start of its transaction: newer ones may be there before it."""
    store(database, [twin(0)])
    copied = ", ".join(
        row["column_name"]
        for row in query(
            database, "SELECT column_name FROM information_schema.columns WHERE table_name = 'telemetry'"
        )
        if row["column_name"] not in {"seq", "stored"}
    )
    with contextlib.closing(psycopg2.connect(database)) as conn, conn.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO telemetry (seq, {copied}) SELECT 1, {copied} FROM telemetry WHERE seq = 0"
        )
        store(database, [twin(2)])
        for _ in range(3):
            account = watch.look()
            assert account is not None
            assert not account.missing
        conn.commit()
    assert holes(watch) == {}
    assert settled(watch).delivered == 3


def test_look_says_how_far_behind_a_long_transaction_keeps_it(database: str, watch: Watch) -> None:
    with contextlib.closing(psycopg2.connect(database)) as other, other.cursor() as cursor:
        cursor.execute("INSERT INTO loss VALUES ('f', 'p', 1, 0, 0, 'quota', 'gw')")
        store(database, [twin(0)])

        def look() -> bool:
            account = watch.look()
            assert account is not None
            assert account.delivered == 0
            return account.behind_s > 0.5

        wait_until(look, "the look to say that it is behind")
    assert settled(watch).delivered == 1


def test_look_numbers_in_order_change_no_hole_and_cost_no_look_at_them(database: str, watch: Watch) -> None:
    store(database, [twin(seq) for seq in (0, 1, 5)])
    assert holes(watch) == {KEY: [(2, 4)]}
    kept = watch._boots[KEY].missing
    store(database, [twin(6), twin(7), samples.state(online=True, boot=BOOT, published=7)])
    assert settled(watch).delivered == 5
    assert watch._boots[KEY].missing is kept
    store(database, [samples.state(online=True, boot=BOOT, published=10)])
    assert holes(watch) == {KEY: [(2, 4), (8, 9)]}
    store(database, [twin(8)])
    assert holes(watch) == {KEY: [(2, 4), (9, 9)]}


def test_look_only_one_watch_at_a_time(database: str, watch: Watch) -> None:
    store(database, [twin(0)])
    assert settled(watch).delivered == 1
    with contextlib.closing(Watch(database, window_s=3600)) as other:
        assert other.look() is None
        watch.close()
        assert settled(other).delivered == 1
        assert watch.look() is None
    assert settled(watch).delivered == 1
    assert query(database, "SELECT objid FROM pg_locks WHERE locktype = 'advisory'") == [
        {"objid": LOCK_KEY & 0xFFFFFFFF}
    ]


def test_look_on_timescale(timescale: servers.Timescale) -> None:
    store(timescale.dsn, [twin(seq) for seq in range(20) if seq != 7])
    with contextlib.closing(Watch(timescale.dsn, window_s=3600)) as watch:
        account = wait_until(lambda: (a := watch.look()) and a.delivered and a, "the rows")
        assert {key: [(r.first, r.last) for r in found] for key, found in account.missing.items()} == {
            KEY: [(7, 7)]
        }
        assert watch.gateways([KEY]) == {("demo", "SIM000001"): "gw-1"}


def test_queries_of_a_look_read_what_is_new_by_an_index(database: str, watch: Watch) -> None:
    from cloud.ledger_watch import _NEW

    store(database, [twin(0)])
    times = {"since": "2026-01-01", "until": "2026-01-02"}
    plan = query(database, "SET enable_seqscan = off; EXPLAIN " + _NEW, times)
    assert any("telemetry_stored" in row["QUERY PLAN"] for row in plan)


# -- the bridge -----------------------------------------------------------------------------------------------------


class Gateway:
    """What a gateway named as in `cloud_samples` is asked for."""

    def __init__(self, broker: servers.Mosquitto) -> None:
        self.asked: queue.Queue[dict[str, object]] = queue.Queue()
        self._client = paho.Client(paho.CallbackAPIVersion.VERSION2)
        self._client.on_message = self._on_message
        self._client.connect("127.0.0.1", broker.port)
        subscribed: queue.Queue[int] = queue.Queue()
        self._client.on_subscribe = lambda *_: subscribed.put(1)
        self._client.loop_start()
        self._client.subscribe(topics.gateway_down("gw-1"), qos=1)
        subscribed.get(timeout=10)

    def _on_message(self, client: object, userdata: object, message: paho.MQTTMessage) -> None:
        down = json.loads(message.payload)
        self.asked.put({"topic": down["topic"], **json.loads(base64.b64decode(down["payload"]))})

    def publish(self, msgs: list[Msg]) -> None:
        for msg in msgs:
            self._client.publish(msg.topic, msg.payload, qos=1).wait_for_publish(30)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


QUICK = ("--ledger-period-s", "0.2", "--repair-after-s", "1", "--repair-attempts", "3")


def value(bridge: Bridge, name: str) -> float | None:
    """A metric with its labels as they are written."""
    found = re.search(rf"^{re.escape(name)} (\S+)$", bridge.metrics(), re.MULTILINE)
    return float(found[1]) if found else None


def test_bridge_asks_the_gateway_for_what_stays_missing(database: str, tmp_path: Path) -> None:
    with (
        servers.Mosquitto() as broker,
        contextlib.closing(Gateway(broker)) as gateway,
        Bridge(broker, database, tmp_path, *QUICK) as bridge,
    ):
        gateway.publish([twin(seq) for seq in range(20) if seq not in {3, 4, 15}])
        gateway.publish([samples.state(boot=BOOT, published=25), samples.loss(24, 24)])
        assert gateway.asked.get(timeout=30) == {
            "topic": "ev/v1/demo/SIM000001/cmd", "cmd": "replay", "boot": BOOT, "from": 3, "to": 23,
        }  # fmt: skip
        assert value(bridge, 'voltflow_ledger_messages{class="unexplained"}') == 7.0
        assert servers.promtool_check_metrics(bridge.metrics()) == ""
        gateway.publish([twin(seq) for seq in (3, 4, 15, 20, 21, 22)])
        wait_until(lambda: value(bridge, 'voltflow_repair_total{event="filled"}') == 6, "the messages", 20)
        wait_until(
            lambda: value(bridge, 'voltflow_repair_total{event="given_up"}') == 1, "the end of asking", 40
        )
        assert value(bridge, 'voltflow_ledger_messages{class="unexplained"}') == 1.0
        assert value(bridge, 'voltflow_ledger_messages{class="delivered"}') == 23.0
        assert value(bridge, 'voltflow_ledger_explained_messages{reason="dropped: quota"}') == 1.0
        assert [(r.first, r.last) for r in verify(database).entries[0].missing] == [(23, 23)]


def test_bridge_counts_errors_while_the_database_is_away_and_goes_on(tmp_path: Path) -> None:
    with servers.Mosquitto() as broker, servers.Postgres() as postgres:
        dsn = postgres.dsn
        with (
            contextlib.closing(Gateway(broker)) as gateway,
            Bridge(broker, dsn, tmp_path, *QUICK, "--repair-after-s", "0") as bridge,
        ):
            gateway.publish([twin(0)])
            delivered = 'voltflow_ledger_messages{class="delivered"}'
            wait_until(lambda: value(bridge, delivered) == 1, "the first look", 30)
            postgres.stop()
            wait_until(lambda: (value(bridge, "voltflow_ledger_errors_total") or 0) >= 2, "errors", 30)
            gateway.publish([twin(1), twin(3)])
            postgres.start()
            wait_until(lambda: value(bridge, delivered) == 3, "a look after that", 60)
            assert value(bridge, "voltflow_ledger_holes") == 1
            assert gateway.asked.empty()
            assert "ledger: works again" in bridge.log
