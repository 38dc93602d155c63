"""What docs/upgrade.md promises: programs of now on what programs of before left, and none on what later ones left."""

import contextlib
import shutil
import threading
from pathlib import Path

import msgspec
import paho.mqtt.client as paho
import psycopg2
import pytest

from cloud.migrate import SCHEMA_DIR, current_version, migrate, migrations
from tests import servers
from tests.cloud_samples import BOOT, FLEET, query, twin
from tests.programs import Agent, Bridge
from tests.servers import wait_until
from voltflow.ledger.ledger import verify

GOLDEN = Path(__file__).parents[1] / "golden"
WAIT_S = 120.0


class Heard:
    """Everything that comes on a broker's topics of one pack, and those outside `ev/`."""

    def __init__(self, port: int, *topics: str) -> None:
        self.messages: list[tuple[str, bytes]] = []
        subscribed = threading.Event()
        self._client = paho.Client(paho.CallbackAPIVersion.VERSION2)
        self._client.on_message = lambda _, __, msg: self.messages.append((msg.topic, bytes(msg.payload)))
        self._client.on_subscribe = lambda *_: subscribed.set()
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        self._client.subscribe([(topic, 1) for topic in topics])
        assert subscribed.wait(WAIT_S)

    def numbers(self) -> set[int]:
        """Of the pack's messages, and of those that a loss record names."""
        found: set[int] = set()
        for topic, payload in list(self.messages):
            if topic.endswith("/twin"):
                found.add(msgspec.json.decode(payload)["seq"])
            elif topic.endswith("/loss"):
                loss = msgspec.json.decode(payload)
                found.update(range(loss["seq_from"], loss["seq_to"] + 1))
        return found

    def close(self) -> None:
        self._client.loop_stop()
        self._client.disconnect()


def test_gateway_delivers_what_an_older_version_left_in_its_spool(tmp_path: Path) -> None:
    shutil.copytree(GOLDEN / "spool_1", tmp_path / "spool" / "out")
    with (
        servers.mosquitto() as broker,
        contextlib.closing(Heard(broker.port, "ev/v1/demo/SIM000001/#", "plant/#")) as heard,
    ):
        options = ["--spool-max-age-h", "100000"]  # they were written long ago
        with Agent(broker, tmp_path, *options) as agent:
            wait_until(lambda: heard.numbers() >= {0, *range(2, 147)}, "what was in the spool", WAIT_S)
            wait_until(
                lambda: ("plant/door", b"\0open") in heard.messages, "the message without a key", WAIT_S
            )
            wait_until(
                lambda: 'voltflow_spool_messages{class="telemetry",node="out"} 0.0' in agent.metrics(),
                "an empty spool",
                WAIT_S,
            )


def test_gateway_starts_beside_what_a_newer_version_left(
    tmp_path: Path, mosquitto: servers.Mosquitto
) -> None:
    """And leaves it for that version: nothing is misread, nothing deleted."""
    (tmp_path / "state.bin").write_bytes(b"voltflow.state/2\nwhatever is in it")
    with Agent(mosquitto, tmp_path) as agent:
        assert "written by a newer version" in agent.log
    assert (tmp_path / "state.bin.damaged").read_bytes() == b"voltflow.state/2\nwhatever is in it"


@pytest.mark.parametrize("version", range(2, len(migrations())))
def test_bridge_takes_over_an_older_schema_with_its_rows(
    version: int, database: str, lone_mosquitto: servers.Mosquitto, tmp_path: Path
) -> None:
    """A message that is a row there already stays one."""
    for path in sorted(SCHEMA_DIR.glob("*.sql"))[:version]:
        shutil.copy(path, tmp_path)
    with contextlib.closing(psycopg2.connect(database)) as conn:
        migrate(conn, tmp_path)
        assert current_version(conn) == version
        with conn, conn.cursor() as cursor:
            cursor.execute(
                """INSERT INTO telemetry (fleet, pack, boot, seq, ts, received, gateway, flow_rev, late, replay)
                SELECT %s, 'SIM000001', %s, n, to_timestamp(1764000000 + n * 0.5), now(), 'gw', 'r', false, false
                FROM generate_series(0, 49) AS n""",
                (FLEET, BOOT),
            )
    with Bridge(
        lone_mosquitto, database, tmp_path / "state", "--name", f"upgrade-{version}", "--repair-after-s", "0"
    ):
        client = paho.Client(paho.CallbackAPIVersion.VERSION2)
        client.connect("127.0.0.1", lone_mosquitto.port)
        client.loop_start()
        for msg in [twin(seq) for seq in range(40, 60)]:
            client.publish(msg.topic, msg.payload, qos=1).wait_for_publish(WAIT_S)
        client.loop_stop()
        wait_until(
            lambda: query(database, "SELECT count(*) AS n FROM telemetry")[0]["n"] == 60, "all rows", WAIT_S
        )
    report = verify(database)
    assert (report.ok, report.received, report.rows) == (True, 60, 60)
    with contextlib.closing(psycopg2.connect(database)) as conn:
        assert current_version(conn) == len(migrations())
