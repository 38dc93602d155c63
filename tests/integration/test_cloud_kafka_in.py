"""`kafka in`: what one bridge sent to Kafka reaches the history through others, each message once."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from cloud.nodes.kafka_in import KafkaIn
from cloud.nodes.kafka_out import KafkaOut
from tests import cloud_samples as samples
from tests import servers
from tests.cloud_samples import query, run_sink, twin
from tests.programs import Program
from tests.servers import wait_until
from voltflow.message import Key, Msg
from voltflow.node import Emit

# kafka-python 3.0 leaves the socket of a refused connection to the garbage collector (kafka/net/inet.py).
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "kafka")  # captured records would keep the sockets


def topics(unique: str) -> dict[str, str]:
    return {f"topic_{kind}": f"{unique}.{kind}" for kind in ("twin", "alert", "dead", "loss", "state")}


def send(bootstrap: str, unique: str, msgs: list[Msg]) -> None:
    async def use(sink: KafkaOut) -> None:
        await sink.write(msgs)

    run_sink(KafkaOut(bootstrap=bootstrap, **topics(unique)), use)


def read(node: KafkaIn, emit: Emit, until: Callable[[], Any]) -> None:
    """Run the source with an `emit` of the test's own until something is true, then stop it as the engine does."""

    async def main() -> None:
        node.id = "in"
        await node.start(samples.context())
        running = asyncio.create_task(node.run(emit))
        try:
            await asyncio.to_thread(wait_until, until, "what the flow should get", 90)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            await node.stop()

    asyncio.run(main())


def source(bootstrap: str, unique: str, **more: Any) -> KafkaIn:
    return KafkaIn(bootstrap=bootstrap, group=unique, **{**topics(unique), **more})


def test_read_topic_key_and_bytes_of_every_kind(kafka: servers.Kafka, unique: str) -> None:
    sent = [
        twin(0),
        twin(1, "SIM000002"),
        samples.alert(1),
        samples.dead(),
        samples.loss(2, 3),
        samples.state(),
    ]
    send(kafka.bootstrap, unique, sent)
    got: list[Msg] = []

    async def emit(msgs: list[Msg]) -> None:
        got.extend(msgs)

    read(source(kafka.bootstrap, unique), emit, lambda: len(got) >= len(sent))
    assert {(m.topic, m.payload) for m in got} == {(m.topic, m.payload) for m in sent}
    assert next(m for m in got if m.topic == sent[1].topic).key == Key("SIM000002", samples.BOOT, 1)
    assert next(m for m in got if m.topic == samples.loss(2, 3).topic).key is None


def test_stop_commits_what_was_safe_and_nothing_else(kafka: servers.Kafka, unique: str) -> None:
    """The second reader gets what the first had under way when it was stopped, and what it never got."""
    send(kafka.bootstrap, unique, [twin(seq) for seq in range(100)])
    first: list[Msg] = []
    second: list[Msg] = []

    async def stuck(msgs: list[Msg]) -> None:
        first.extend(msgs)
        await asyncio.Event().wait()

    async def emit(msgs: list[Msg]) -> None:
        second.extend(msgs)

    async def main() -> None:
        node = source(kafka.bootstrap, unique)
        await node.start(samples.context())
        running = asyncio.create_task(node.run(stuck))
        await asyncio.to_thread(wait_until, lambda: first, "a batch", 40)
        running.cancel()
        await asyncio.sleep(0)
        running.cancel()  # the grace period is over
        await asyncio.gather(running, return_exceptions=True)
        await node.stop()

    asyncio.run(main())
    read(source(kafka.bootstrap, unique), emit, lambda: len(second) >= 100)
    assert sorted(m.key.seq for m in second if m.key) == list(range(100))
    third: list[Msg] = []

    async def nothing(msgs: list[Msg]) -> None:
        third.extend(msgs)

    send(kafka.bootstrap, unique, [twin(100)])
    read(source(kafka.bootstrap, unique), nothing, lambda: third)
    assert [m.key.seq for m in third if m.key] == [100], "the second reader's were committed"


def test_batch_that_fails_is_read_again_with_what_follows(kafka: servers.Kafka, unique: str) -> None:
    send(kafka.bootstrap, unique, [twin(seq) for seq in range(50)])
    safe: list[int] = []
    failures = 1

    async def emit(msgs: list[Msg]) -> None:
        nonlocal failures
        if failures:
            failures -= 1
            raise RuntimeError("a sink that is broken")
        safe.extend(m.key.seq for m in msgs if m.key)

    node = source(kafka.bootstrap, unique)
    read(node, emit, lambda: len(safe) >= 50)
    assert safe == list(range(50))
    assert node.status()["failed_batches"] == 1
    assert node.status()["read_again"] >= 1


def test_slow_flow_bounds_what_is_under_way(
    kafka: servers.Kafka, unique: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cloud.kafka_reader.LIMIT", 200)
    monkeypatch.setattr("cloud.kafka_reader.BATCH", 100)
    send(kafka.bootstrap, unique, [twin(seq) for seq in range(1000)])
    got: list[int] = []
    largest = 0
    node = source(kafka.bootstrap, unique)

    async def emit(msgs: list[Msg]) -> None:
        nonlocal largest
        largest = max(largest, node.status()["under_way"])
        await asyncio.sleep(0.01)
        got.extend(m.key.seq for m in msgs if m.key)

    read(node, emit, lambda: len(got) >= 1000)
    assert got == list(range(1000))
    assert largest <= 300


def test_record_that_says_not_whose_it_is_becomes_a_failure_of_its_own(
    kafka: servers.Kafka, unique: str
) -> None:
    from kafka import KafkaProducer

    producer = KafkaProducer(bootstrap_servers=kafka.bootstrap)
    producer.send(f"{unique}.twin", value=b"{}").get(10)
    producer.close()
    got: list[Msg] = []

    async def emit(msgs: list[Msg]) -> None:
        got.extend(msgs)

    node = source(kafka.bootstrap, unique)
    read(node, emit, lambda: got)
    with pytest.raises(ValueError, match="does not say whose it is"):
        node.process(got)


def test_broker_killed_under_load_nothing_is_lost(own: Any, unique: str) -> None:
    """The broker keeps topics and offsets in an object store; it is killed while the reader is in the middle."""
    broker = own(servers.Kafka(own(servers.ObjectStore())))
    send(broker.bootstrap, unique, [twin(seq) for seq in range(2000)])
    got: list[int] = []
    kills = 0

    async def emit(msgs: list[Msg]) -> None:
        nonlocal kills
        await asyncio.sleep(0.01)
        got.extend(m.key.seq for m in msgs if m.key)
        if kills == 0 and len(got) >= 500:
            kills = 1
            broker.kill()
            broker.start()

    node = source(broker.bootstrap, unique, session_timeout_s=6.0)
    read(node, emit, lambda: set(got) == set(range(2000)))
    assert kills == 1
    assert list(dict.fromkeys(got)) == list(range(2000)), "the first copies are in order"


def test_stop_while_the_broker_does_not_answer_ends(own: Any, unique: str) -> None:
    broker = own(servers.Kafka())
    send(broker.bootstrap, unique, [twin(0)])
    got: list[Msg] = []

    async def emit(msgs: list[Msg]) -> None:
        got.extend(msgs)
        broker.pause()

    try:
        read(source(broker.bootstrap, unique), emit, lambda: got)
    finally:
        broker.resume()


class Reader(Program):
    """A bridge with the flow `from-kafka`; ready when it has partitions or waits for some."""

    module = "cloud.cli"

    def __init__(self, name: str, folder: Path, kafka: servers.Kafka, dsn: str, mqtt_port: int) -> None:
        super().__init__(
            "--flow", "from-kafka", "--name", name, "--state-dir", str(folder / name), "--mqtt-port", str(mqtt_port),
            "--kafka-bootstrap", kafka.bootstrap, "--ledger-period-s", "0",
            environment={"VOLTFLOW_BRIDGE_DATABASE": dsn},
        )  # fmt: skip

    def command(self) -> Any:
        return [*super().command(), "--metrics-port", str(self.port)]

    def is_ready(self) -> bool:
        return "connected, reads" in self.log


def rows(dsn: str) -> list[int]:
    return [row["seq"] for row in query(dsn, "SELECT seq FROM telemetry ORDER BY pack, seq")]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("count", "trouble"), [(1, "kill"), (4, "kill"), (2, "pause")], ids=["one", "four", "one_of_two_frozen"]
)
def test_bridges_of_a_group_one_gone_under_load_one_row_each(
    own: Any, database: str, mosquitto: servers.Mosquitto, tmp_path: Path, count: int, trouble: str
) -> None:
    """Bridges read what `kafka out` sends; one is killed or frozen under load, and the others (or itself, started
    again) take over: one row of each message. The frozen one wakes up when its part is another's."""
    broker = own(servers.Kafka())
    packs = [f"SIM{number:06d}" for number in range(10)]

    async def produce(sink: KafkaOut) -> None:
        for at in range(0, 600, 50):
            await sink.write([twin(seq, pack) for seq in range(at, at + 50) for pack in packs])
            if at == 200:
                await asyncio.to_thread(wait_until, lambda: len(rows(database)) > 500, "some rows", 60)
                getattr(readers[0], trouble)()
                if count == 1:
                    readers[0].launch()

    run_sink(KafkaOut(bootstrap=broker.bootstrap), first_batch(twin(0, "SIM000000")))  # the topics are there
    readers = [
        own(Reader(f"bridge-{number}", tmp_path, broker, database, mosquitto.port)) for number in range(count)
    ]
    run_sink(KafkaOut(bootstrap=broker.bootstrap), produce)
    wait_until(lambda: len(rows(database)) >= 6000, "all rows", 90, 0.5)
    assert rows(database) == [*range(600)] * 10
    if trouble == "pause":
        readers[0].resume()
        run_sink(KafkaOut(bootstrap=broker.bootstrap), first_batch(*(twin(600, pack) for pack in packs)))
        wait_until(lambda: len(rows(database)) >= 6010, "the rows after that", 60, 0.5)
        assert rows(database) == [*range(601)] * 10
        readers[0].stop()
    for reader in readers[1:]:
        reader.stop()
        assert reader.exit_code == 0


def first_batch(*msgs: Msg) -> Callable[[KafkaOut], Awaitable[None]]:
    async def use(sink: KafkaOut) -> None:
        await sink.write(list(msgs))

    return use
