"""`cloud-bridge dead`: through a real gateway, broker, bridge and database."""

import base64
import contextlib
import json
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import psycopg2
import pytest

from cloud.cli import main
from cloud.nodes.timescale_out import TimescaleOut
from tests import cloud_samples as samples
from tests import servers
from tests.cloud_samples import TS_MS, query, run_sink, twin
from tests.programs import Agent, Bridge
from tests.servers import wait_until
from voltflow import topics
from voltflow.ledger.ledger import verify
from voltflow.message import Msg


def store(dsn: str, msgs: list[Msg]) -> None:
    async def use(sink: TimescaleOut) -> None:
        await sink.write(msgs)

    run_sink(TimescaleOut(database=dsn), use)


def publish(broker: servers.Mosquitto, topic: str, *payloads: bytes | str) -> None:
    client = paho.Client(paho.CallbackAPIVersion.VERSION2)
    client.connect("127.0.0.1", broker.port)
    client.loop_start()
    for payload in payloads:
        client.publish(topic, payload, qos=1).wait_for_publish(30)
    client.disconnect()
    client.loop_stop()


class Command:
    """`cloud-bridge dead …` against a database, and what it printed."""

    def __init__(self, dsn: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("VOLTFLOW_BRIDGE_DATABASE", dsn)
        self._capsys = capsys
        self.options: list[str] = []

    def __call__(self, *arguments: str, status: int = 0) -> str:
        assert main(["dead", *arguments, *self.options]) == status
        captured = self._capsys.readouterr()
        return captured.err if status == 2 else captured.out

    def json(self, *arguments: str, status: int = 0) -> Any:
        return json.loads(self(*arguments, "--json", status=status))


@pytest.fixture
def dead(
    database: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Command:
    monkeypatch.chdir(tmp_path)
    return Command(database, capsys, monkeypatch)


LETTERS = [
    samples.dead(seq=1, id="aa01", error="soc_pct: Expected float", received_ms=TS_MS),
    samples.dead(seq=2, id="aa02", node="history", error="integer out of RANGE", received_ms=TS_MS + 60_000),
    samples.dead("SIM000002", id="bb03", received_ms=None, payload="{\n ä}".encode(), size_bytes=7),
]


@pytest.mark.parametrize(
    ("filters", "ids"),
    [
        ([], ["bb03", "aa02", "aa01"]),
        (["--node", "history"], ["aa02"]),
        (["--error", "out of range"], ["aa02"]),
        (["--error", "100%"], []),
        (["--pack", "SIM000001"], ["aa02", "aa01"]),
        (["--id", "aa"], ["aa02", "aa01"]),
        (["--until", "2025-11-24T16:00:30"], ["aa01"]),
        (["--since", "2025-11-24T16:00:30", "--until", "2025-11-25"], ["aa02"]),
        (["--since", "1h"], ["bb03"]),
        (["--limit", "1"], ["bb03"]),
    ],
    ids=lambda value: " ".join(value) if value else "none",
)
def test_list_takes_filters(database: str, dead: Command, filters: list[str], ids: list[str]) -> None:
    store(database, LETTERS)
    assert [letter["id"] for letter in dead.json("list", *filters)] == ids


def test_list_and_show_for_people(database: str, dead: Command) -> None:
    store(database, [*LETTERS, twin(2)])
    assert dead("list", "--limit", "2").splitlines()[1:] == [
        "2025-11-24 16:01:00  aa02          demo/SIM000001 1764000000:2  gw-1/history: integer out of RANGE",
        "2 letter(s); 1 more (--limit)",
    ]
    text = dead("show", "--id", "bb03")
    assert "error     not JSON" in text
    assert text.endswith("{\n ä}\n")
    assert dead("show", "bb03") == text
    text = dead("show", "--id", "aa02")
    assert "is a row  yes" in text
    assert text.endswith("00 ff 27 5c\n")
    assert base64.b64decode(dead.json("show", "--id", "aa01")[0]["payload"]) == b"\x00\xff'\\"
    assert "there is no such letter" in dead("show", "--id", "zz", status=2)


def test_drop_marks_once_and_the_ledger_still_explains(database: str, dead: Command) -> None:
    store(database, [*LETTERS, twin(0), twin(3)])
    assert "2 letters fit: name one with --id, or say --yes" in dead("drop", "--pack", "SIM000001", status=2)
    assert dead.json("drop", "--pack", "SIM000001", "--yes") == {"dropped": 2}
    assert dead.json("drop", "--pack", "SIM000001", "--yes") == {"dropped": 0}
    assert [letter["state"] for letter in dead.json("list", "--all")] == ["open", "dropped", "dropped"]
    report = verify(database)
    assert (report.ok, report.explained, report.reasons) == (True, 2, {"dead letter": 2})


def test_replay_refuses_what_cannot_be_sent_again(
    database: str, dead: Command, mosquitto: servers.Mosquitto
) -> None:
    store(
        database,
        [
            samples.dead(seq=1, id="1", truncated=True, size_bytes=300_000),
            samples.dead(seq=2, id="2", topic="ev/v1/demo/SIM000001/state"),
            samples.dead(seq=3, id="3", gateway="a/b"),
            samples.dead(seq=4, id="4", gateway="nobody-is-this-gateway"),
        ],
    )
    dead.options = ["--mqtt-port", str(mosquitto.port)]
    answer = dead.json("replay", "--yes", status=1)
    assert answer["replayed"] == 0
    assert {item["id"]: item["reason"] for item in answer["refused"]} == {
        "1": "only 4 of its 300000 bytes were kept (max_bytes of the node `dead letter`)",
        "2": "its topic 'ev/v1/demo/SIM000001/state' is not one that is sent again (alert, loss, telemetry, twin)",
        "3": "its gateway 'a/b' is not known",
        "4": "nobody listens to gw/v1/nobody-is-this-gateway/down: is the gateway or bridge connected to this broker?",
    }
    assert len(dead.json("list")) == 4


def test_replay_broker_away_and_database_away_say_so(
    database: str, dead: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    store(database, LETTERS)
    monkeypatch.setattr("cloud.dead_cli.PUBLISH_TIMEOUT_S", 0.5)
    dead.options = ["--mqtt-port", "1"]
    assert "the broker mqtt_host = '127.0.0.1', mqtt_port = 1 does not answer" in dead(
        "replay", "--id", "aa01", status=2
    )
    monkeypatch.setenv("VOLTFLOW_BRIDGE_DATABASE", "postgresql://u@127.0.0.1:1/x")
    assert "the database cannot be used" in dead("list", status=2)


def test_replay_of_a_bridges_letter_becomes_one_row(database: str, dead: Command, tmp_path: Path) -> None:
    """The database refuses rows for a while; afterwards the letters become rows, also when they are sent twice."""
    with (
        servers.Mosquitto() as broker,
        Bridge(broker, database, tmp_path / "bridge", "--ledger-period-s", "0"),
    ):
        wait_until(lambda: query(database, "SELECT to_regclass('pack_boot') AS t")[0]["t"], "the tables", 20)
        change(database, "ALTER TABLE telemetry ADD CONSTRAINT for_a_while CHECK (seq <> 2)")
        publish(broker, topics.TWIN.of("demo", "SIM000001"), *(twin(seq).payload for seq in range(4)))
        wait_until(lambda: query(database, "SELECT 1 FROM dead_letter"), "the letter", 20)
        assert verify(database).explained == 1
        change(database, "ALTER TABLE telemetry DROP CONSTRAINT for_a_while")
        dead.options = ["--mqtt-port", str(broker.port)]
        assert dead("replay") == "1 letter(s) sent again, 0 refused\n"
        wait_until(lambda: verify(database).received == 4, "the row", 20)
        assert dead("replay") == "0 letter(s) sent again, 0 refused\n"
        change(database, "UPDATE dead_letter SET replayed = NULL")
        assert dead.json("replay") == {"replayed": 1, "refused": []}
        publish(broker, topics.TWIN.of("demo", "SIM000001"), twin(4).payload)
        wait_until(lambda: verify(database).received == 5, "a row after that", 20)
    report = verify(database)
    assert (report.rows, report.explained, report.ok, report.dead_letters) == (5, 0, True, 1)


def test_replay_of_a_gateways_letter_goes_through_its_flow_again(
    database: str, dead: Command, tmp_path: Path
) -> None:
    good = {"schema": "bms.telemetry/1", "pack": "p1", "boot": 3, "ts_ms": TS_MS, "soc_pct": 50.0}
    messages = [json.dumps({**good, "seq": seq, "ts_ms": TS_MS + seq}) for seq in range(4)]
    with (
        servers.Mosquitto() as broker,
        Bridge(broker, database, tmp_path / "bridge", "--ledger-period-s", "0"),
        Agent(broker, tmp_path / "agent"),
    ):
        publish(broker, topics.TELEMETRY.of("f", "p1"), *messages[:2], messages[3])
        wait_until(lambda: query(database, "SELECT to_regclass('pack_boot') AS t")[0]["t"], "the tables", 20)
        wait_until(lambda: verify(database).received == 3, "the rows", 30)
        letter = samples.dead("p1", 2, id="cc", boot=3, gateway="test", payload=messages[2].encode(),
                              topic=topics.TELEMETRY.of("f", "p1"))  # fmt: skip
        publish(broker, topics.DEAD.of("f", "p1"), letter.payload)
        wait_until(lambda: verify(database).explained == 1, "the letter", 20)
        dead.options = ["--mqtt-port", str(broker.port)]
        assert dead("replay", "--id", "cc") == "1 letter(s) sent again, 0 refused\n"
        wait_until(lambda: verify(database).received == 4, "the row", 30)
    report = verify(database)
    assert (report.rows, report.explained, report.ok) == (4, 0, True)


def change(dsn: str, sql: str) -> None:
    with contextlib.closing(psycopg2.connect(dsn)) as conn, conn, conn.cursor() as cursor:
        cursor.execute(sql)
