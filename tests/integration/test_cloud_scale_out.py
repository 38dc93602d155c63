"""Several bridges share the messages of one broker: what one is killed with goes to the others, one row each."""

from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest

from tests import servers
from tests.cloud_samples import alert, query, twin
from tests.programs import Bridge
from tests.servers import wait_until
from voltflow.message import Msg

PACKS = [f"SIM{number:06d}" for number in range(10)]


def member(name: str, broker: servers.Mosquitto, dsn: str, folder: Path) -> Bridge:
    """A bridge that shares; small windows, so that a killed one leaves messages in its queue at the broker too."""
    return Bridge(
        broker, dsn, folder / name, "--name", name, "--shared", "--takeover-s", "1", "--ledger-period-s", "0",
        "--receive-maximum", "100",
    )  # fmt: skip


class Publisher:
    """Publishes twin messages of ten packs, an alert among them now and then, and waits for the broker."""

    def __init__(self, port: int) -> None:
        self.client = paho.Client(paho.CallbackAPIVersion.VERSION2)
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()

    def send(self, first: int, last: int) -> None:
        msgs = [twin(seq, pack) for seq in range(first, last) for pack in PACKS]
        msgs += [alert(seq, pack) for seq in range(first, last, 50) for pack in PACKS]
        for info in [self._publish(msg) for msg in msgs]:
            info.wait_for_publish(30)

    def _publish(self, msg: Msg) -> paho.MQTTMessageInfo:
        return self.client.publish(msg.topic, msg.payload, qos=1)

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


@pytest.fixture
def broker(own: Any) -> servers.Mosquitto:
    return own(servers.Mosquitto())  # type: ignore[no-any-return]


@pytest.fixture
def publisher(broker: servers.Mosquitto) -> Any:
    publisher = Publisher(broker.port)
    yield publisher
    publisher.close()


def count(dsn: str) -> int:
    return int(query(dsn, "SELECT count(*) AS n FROM telemetry")[0]["n"])


def check(dsn: str, seqs: int) -> None:
    """One row of each message: no more, no less; the alerts too."""
    rows = query(
        dsn, "SELECT pack, count(*) AS n, count(DISTINCT seq) AS d FROM telemetry GROUP BY pack ORDER BY pack"
    )
    assert [(row["pack"], row["n"], row["d"]) for row in rows] == [(pack, seqs, seqs) for pack in PACKS]
    alerts = query(dsn, "SELECT count(*) AS n FROM alert")[0]["n"]
    assert alerts == len(range(0, seqs, 50)) * len(PACKS)


def all_subscribed(bridges: list[Bridge]) -> None:
    """Each is connected (it was waited for) and has a database to write to."""
    for bridge in bridges:
        wait_until(lambda bridge=bridge: "the schema is up to date" in bridge.log, "the bridge", 30)


@pytest.mark.slow
@pytest.mark.parametrize("bridges", [2, 4])
def test_bridge_killed_under_load_its_messages_go_to_the_others(
    broker: servers.Mosquitto, publisher: Publisher, own: Any, database: str, tmp_path: Path, bridges: int
) -> None:
    """It never comes back. What was under way to it and what waits for it at the broker is taken over."""
    members = [own(member(f"bridge-{number}", broker, database, tmp_path)) for number in range(bridges)]
    all_subscribed(members)
    publisher.send(0, 100)
    members[0].pause()  # so that it holds something unacknowledged, and the broker more
    publisher.send(100, 300)
    members[0].kill()
    publisher.send(300, 400)  # its part of these is queued for it, too
    wait_until(lambda: count(database) == 4000, "all rows", 60, 0.2)
    check(database, 400)
    wait_until(lambda: any("took over" in each.log for each in members[1:]), "the end of the takeover", 30)
    publisher.send(400, 500)  # nothing of these is queued for it any more
    wait_until(lambda: count(database) == 5000, "the rows after that", 30, 0.2)
    for each in members[1:]:
        each.stop()
        assert each.exit_code == 0


@pytest.mark.slow
def test_bridge_that_comes_back_takes_its_session_back(
    broker: servers.Mosquitto, publisher: Publisher, own: Any, database: str, tmp_path: Path
) -> None:
    """Killed again and again and started at once, or only after the other one took over; nothing is lost between them."""
    one, two = (own(member(name, broker, database, tmp_path)) for name in ("one", "two"))
    all_subscribed([one, two])
    for round_ in range(4):
        publisher.send(round_ * 100, round_ * 100 + 50)
        one.kill()
        publisher.send(round_ * 100 + 50, round_ * 100 + 100)
        if round_ % 2:
            wait_until(lambda n=round_ // 2 + 1: two.log.count("took over") >= n, "the other one", 60)
        one.start()
    wait_until(lambda: count(database) == 4000, "all rows", 60, 0.2)
    check(database, 400)


@pytest.mark.slow
def test_heir_killed_while_it_takes_over_another_one_does(
    broker: servers.Mosquitto, publisher: Publisher, own: Any, database: str, tmp_path: Path
) -> None:
    members = [own(member(f"bridge-{number}", broker, database, tmp_path)) for number in range(3)]
    all_subscribed(members)
    members[0].pause()
    publisher.send(0, 300)
    members[0].kill()
    heir = wait_until(
        lambda: next((each for each in members[1:] if "is gone, takes over" in each.log), None), "an heir", 60
    )
    heir.kill()
    wait_until(lambda: count(database) == 3000, "all rows", 90, 0.2)
    check(database, 300)
