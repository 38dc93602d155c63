"""The ledger against histories with known holes, duplicates and explanations."""

import argparse
import json
from pathlib import Path

import paho.mqtt.client as paho
import pytest

from cloud.nodes.timescale_out import TimescaleOut
from tests import cloud_samples as samples
from tests import servers
from tests.cloud_samples import BOOT, TS_MS, run_sink, twin
from tests.programs import Agent, Bridge
from voltflow import topics
from voltflow.ledger import Expected, LedgerError, Report, load_expected, main, verify
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


def test_verify_many_packs_in_several_queries(database: str) -> None:
    seen: list[tuple[int, int]] = []
    store(database, [twin(seq, f"SIM{pack:06d}") for pack in range(120) for seq in (0, 1)])
    report = verify(database, progress=lambda done, total: seen.append((done, total)))
    assert (report.ok, len(report.entries)) == (True, 120)
    assert seen == [(50, 120), (100, 120), (120, 120)]


def test_verify_empty_database_says_how_to_make_the_tables(database: str) -> None:
    with pytest.raises(
        LedgerError, match=r"the database holds no history .* `cloud-bridge migrate` makes the tables"
    ):
        verify(database)


def test_main_json_and_exit_status(database: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    store(database, [twin(seq) for seq in range(10)])
    sent = tmp_path / "sent.json"
    sent.write_text(json.dumps({"packs": {"SIM000001": {"boot": BOOT, "published": 10, "confirmed": 10}}}))
    args = argparse.Namespace(database=database, config=None, expected=sent, json=True)
    assert main(args) == 0
    assert json.loads(capsys.readouterr().out)["received"] == 10
    sent.write_text(json.dumps({"packs": {"SIM000001": {"boot": BOOT, "published": 11}}}))
    args.json = False
    assert main(args) == 1
    assert "demo/SIM000001 boot 1764000000: missing 10" in capsys.readouterr().out


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
    args = argparse.Namespace(database=database, config=None, expected=sent, json=False)
    assert main(args) == 0
    report = verify(database, load_expected(sent))
    assert (report.received, report.explained, report.dead_letters) == (2, 5, 5)
    listed = capsys.readouterr().out
    assert (
        "f/p1 boot 3: explained 1  dead letter: ValidationError: Expected `float | null`, got `str`" in listed
    )


def test_packs_query_jumps_through_the_index(postgres: servers.Postgres, database: str) -> None:
    """Reading every row to find the packs would make the ledger of a year's history take hours."""
    from tests.cloud_samples import query
    from voltflow.ledger import _PACKS

    store(database, [twin(0)])
    plan = query(database, "SET enable_seqscan = off; EXPLAIN " + _PACKS)
    assert any(
        "Index Only Scan using telemetry_pack_ts_boot_seq_fleet_key" in row["QUERY PLAN"] for row in plan
    )
