"""Each server of tests/servers.py is the real thing and does what the other tests rely on."""

from __future__ import annotations

import threading
import time
import urllib.request

import psycopg2
import pytest
from paho.mqtt import client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from tests import servers
from tests.conftest import Use

TIMEOUT_S = 20.0


class Client:
    """A paho client that remembers what it was told and waits for the broker's answers."""

    def __init__(self, port: int, name: str, clean: bool = True) -> None:
        self.received: list[bytes] = []
        self.connack: dict[str, object] = {}
        self.subscribed = threading.Event()
        self.paho = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=name, protocol=mqtt.MQTTv5)
        self.paho.on_message = lambda _c, _u, message: self.received.append(message.payload)
        self.paho.on_subscribe = lambda *_: self.subscribed.set()
        self.paho.on_connect = lambda *args: self.connack.update(args[4].json())
        properties = Properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = 0 if clean else 3600
        self.paho.connect("127.0.0.1", port, clean_start=clean, properties=properties)
        self.paho.loop_start()

    def subscribe(self, topic: str) -> None:
        self.paho.subscribe(topic, qos=1)
        assert self.subscribed.wait(TIMEOUT_S)

    def publish(self, topic: str, payload: bytes) -> None:
        info = self.paho.publish(topic, payload, qos=1)
        info.wait_for_publish(TIMEOUT_S)
        assert info.is_published()

    def close(self) -> None:
        self.paho.disconnect()
        self.paho.loop_stop()


def test_mosquitto_delivers_qos_1(mosquitto: servers.Mosquitto, unique: str) -> None:
    client = Client(mosquitto.port, unique)
    client.subscribe(f"{unique}/a")
    client.publish(f"{unique}/a", b"hello")
    servers.wait_until(lambda: client.received == [b"hello"], "the message")
    client.close()


def test_mosquitto_announces_the_configured_limits(mosquitto: servers.Mosquitto, unique: str) -> None:
    """The default Receive Maximum of 20 would throttle a simulated fleet to a round trip per 20 messages."""
    client = Client(mosquitto.port, unique)
    servers.wait_until(lambda: client.connack, "the CONNACK")
    assert (client.connack["ReceiveMaximum"], client.connack["MaximumPacketSize"]) == (10000, 262144)
    client.close()


def test_mosquitto_takes_every_option_of_our_configuration(mosquitto: servers.Mosquitto) -> None:
    assert "Error" not in mosquitto.log
    assert "Unknown" not in mosquitto.log


def test_mosquitto_keeps_more_than_1000_messages_over_a_restart(
    own: Use[servers.Mosquitto], unique: str
) -> None:
    """The broker's default is to drop what exceeds 1,000 messages for a client that is away."""
    broker = own(servers.Mosquitto())
    away = Client(broker.port, unique, clean=False)
    away.subscribe(unique)
    away.close()
    sender = Client(broker.port, f"{unique}-sender")
    infos = [sender.paho.publish(unique, b"%d" % number, qos=1) for number in range(3000)]
    for info in infos:
        info.wait_for_publish(TIMEOUT_S)
    sender.close()
    broker.restart()
    back = Client(broker.port, unique, clean=False)
    servers.wait_until(lambda: len(back.received) >= 3000, "3,000 messages", TIMEOUT_S)
    back.close()
    assert back.received == [b"%d" % number for number in range(3000)]


def test_mosquitto_paused_does_not_answer(own: Use[servers.Mosquitto], unique: str) -> None:
    broker = own(servers.Mosquitto())
    client = Client(broker.port, unique)
    servers.wait_until(lambda: client.connack, "the CONNACK")
    broker.pause()
    info = client.paho.publish(unique, b"into the void", qos=1)
    info.wait_for_publish(0.2)
    assert not info.is_published()
    broker.resume()
    info.wait_for_publish(TIMEOUT_S)
    assert info.is_published()
    client.close()


def test_postgres_keeps_committed_rows_over_a_crash(own: Use[servers.Postgres]) -> None:
    server = own(servers.Postgres())
    with psycopg2.connect(server.dsn) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE rows (id bigint PRIMARY KEY)")
        cursor.execute("INSERT INTO rows SELECT unnest(%s::bigint[])", ([1, 2, 3],))
    connection.close()
    server.kill()
    server.start()
    connection = psycopg2.connect(server.dsn)
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*), current_setting('server_version_num')::int / 10000 FROM rows")
        assert cursor.fetchone() == (3, 18)
    connection.close()


def test_database_is_empty_and_the_tests_own(database: str) -> None:
    connection = psycopg2.connect(database)
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_database(), count(*) FROM pg_tables WHERE schemaname = 'public'")
        row = cursor.fetchone()
    connection.close()
    assert row is not None
    assert row[0].startswith("test_")
    assert row[1] == 0


def test_timescale_has_hypertables(timescale: servers.Timescale) -> None:
    connection = psycopg2.connect(timescale.dsn)
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute(
            "CREATE TABLE rows (at timestamptz NOT NULL, pack text, seq bigint, UNIQUE (pack, seq, at))"
        )
        cursor.execute("SELECT create_hypertable('rows', 'at')")
        insert = (
            "INSERT INTO rows SELECT to_timestamp(n * 86400), 'p', n FROM unnest(%s::bigint[]) AS n "
            "ON CONFLICT DO NOTHING"
        )
        for _ in range(2):
            cursor.execute(insert, (list(range(30)),))
        cursor.execute("SELECT count(*), count(DISTINCT time_bucket('7 days', at)) FROM rows")
        assert cursor.fetchone() == (30, 5)
        cursor.execute(
            "SELECT count(*) > 1 FROM timescaledb_information.chunks WHERE hypertable_name = 'rows'"
        )
        assert cursor.fetchone() == (True,)
    connection.close()


def test_kafka_returns_what_all_replicas_acknowledged(kafka: servers.Kafka, unique: str) -> None:
    from kafka import KafkaConsumer, KafkaProducer

    producer = KafkaProducer(bootstrap_servers=kafka.bootstrap, acks="all")
    sent = [
        producer.send(unique, key=b"SIM1", value=b"%d" % number, headers=[("seq", b"%d" % number)])
        for number in range(100)
    ]
    assert [future.get(TIMEOUT_S).offset for future in sent] == list(range(100))
    producer.close()
    consumer = KafkaConsumer(
        unique, bootstrap_servers=kafka.bootstrap, auto_offset_reset="earliest", consumer_timeout_ms=20000
    )
    records = [record for _, record in zip(range(100), consumer, strict=False)]
    consumer.close()
    assert [record.value for record in records] == [b"%d" % number for number in range(100)]
    assert (records[7].key, records[7].headers) == (b"SIM1", [("seq", b"7")])


def test_victoria_takes_line_protocol(victoria: servers.Victoria, unique: str) -> None:
    now_ms = int(time.time() * 1000)
    line = f"{unique},pack=SIM1 soc_pct=81.5 {now_ms}000000\n".encode()
    request = urllib.request.Request(f"{victoria.url}/api/v2/write?bucket=b&org=o&precision=ns", line)
    with urllib.request.urlopen(request, timeout=5) as answer:
        assert answer.status == 204
    found = servers.wait_until(lambda: victoria.export(f'{{__name__="{unique}_soc_pct"}}'), "the series")
    assert found[0]["metric"]["pack"] == "SIM1"
    assert (found[0]["values"], found[0]["timestamps"]) == ([81.5], [now_ms])


def test_prometheus_scrapes_its_targets(own: Use[servers.Server]) -> None:
    victoria = own(servers.Victoria())
    prometheus = own(servers.Prometheus(f"127.0.0.1:{victoria.port}"))
    assert isinstance(prometheus, servers.Prometheus)
    servers.wait_until(
        lambda: [row["value"][1] for row in prometheus.query("up")] == ["1"], "a first scrape", TIMEOUT_S
    )


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        pytest.param("# HELP a_total x\n# TYPE a_total counter\na_total 1\n", "", id="fine"),
        pytest.param("# HELP a x\n# TYPE a counter\na 1\n", "_total", id="counter without its suffix"),
    ],
)
def test_promtool_judges_an_exposition(text: str, problem: str) -> None:
    said = servers.promtool_check_metrics(text)
    assert problem in said
    assert bool(said) == bool(problem)


def test_server_that_ends_at_once_says_what_it_printed(own: Use[servers.Mosquitto]) -> None:
    with pytest.raises(
        AssertionError, match=r"(?s)Mosquitto has ended; it printed: .*Unknown configuration variable"
    ):
        own(servers.Mosquitto(no_such_option="1"))


def test_missing_program_says_how_to_get_it() -> None:
    with pytest.raises(servers.Missing, match="nowhere is not installed: sudo apt-get install some-package"):
        servers.program("nowhere", "some-package")


@pytest.mark.parametrize(
    ("ci", "outcome"),
    [("true", pytest.fail.Exception), ("", pytest.skip.Exception)],
    ids=["on CI", "elsewhere"],
)
def test_missing_server_skips_but_fails_on_ci(
    monkeypatch: pytest.MonkeyPatch, own: Use[servers.Mosquitto], ci: str, outcome: type[BaseException]
) -> None:
    """A skip on CI would hide that nothing was tested."""
    monkeypatch.setenv("CI", ci)
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(servers, "SYSTEM_FOLDERS", "/nowhere")
    with pytest.raises(outcome, match="mosquitto is not installed: sudo apt-get install mosquitto"):
        own(servers.Mosquitto())
