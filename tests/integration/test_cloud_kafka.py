"""`kafka out` to a real broker."""

import asyncio
import gc
import logging
from typing import Any

import pytest

from cloud.nodes.kafka_out import KafkaOut
from tests import cloud_samples as samples
from tests import servers
from tests.cloud_samples import run_sink, twin
from voltflow.message import Msg
from voltflow.node import Rejected, SinkUnavailable


def key_of(record: Any) -> tuple[str, int]:
    headers = {name: value.decode() for name, value in record.headers}
    return headers["pack"], int(headers["seq"])


def consume(bootstrap: str, topic: str, count: int, *, distinct: bool = False) -> list[Any]:
    """The records of the topic, at least so many (with different keys)."""
    from kafka import KafkaConsumer

    consumer = KafkaConsumer(topic, bootstrap_servers=bootstrap, auto_offset_reset="earliest", group_id=None)
    records: list[Any] = []
    try:
        servers.wait_until(
            lambda: (
                records.extend(r for part in consumer.poll(200).values() for r in part)
                or (len(records) >= count and (not distinct or len(set(map(key_of, records))) >= count))
            ),
            f"{count} records",
            60,  # after a kill tansu shows what it has stored only bit by bit
        )
    finally:
        consumer.close()
    return records


def test_write_key_headers_and_bytes(kafka: servers.Kafka, unique: str) -> None:
    msgs = [twin(seq, f"SIM{seq % 3:06d}") for seq in range(30)]

    async def use(sink: KafkaOut) -> None:
        await sink.write(msgs)
        assert sink.status() == {"confirmed": 30, "refused": 0, "error": ""}

    run_sink(KafkaOut(bootstrap=kafka.bootstrap, topic_twin=unique), use)
    records = consume(kafka.bootstrap, unique, 30)
    assert sorted(r.value for r in records) == sorted(m.payload for m in msgs)
    for record in records:
        headers = {name: value.decode() for name, value in record.headers}
        sent = next(m for m in msgs if m.payload == record.value)
        assert record.key.decode() == headers["pack"] == sent.topic.split("/")[3]
        assert (headers["fleet"], headers["boot"], headers["seq"]) == (
            "demo",
            str(samples.BOOT),
            str(msgs.index(sent)),
        )
    of_one = [dict(r.headers)["seq"] for r in records if r.key == b"SIM000000"]
    assert of_one == [str(seq).encode() for seq in range(0, 30, 3)]


def test_write_each_kind_has_its_topic(kafka: servers.Kafka, unique: str) -> None:
    kinds = {
        "twin": twin(0),
        "alert": samples.alert(0),
        "dead": samples.dead(),
        "loss": samples.loss(1, 2),
        "state": samples.state(),
    }
    sink = KafkaOut(bootstrap=kafka.bootstrap, **{f"topic_{kind}": f"{unique}-{kind}" for kind in kinds})

    async def use(sink: KafkaOut) -> None:
        await sink.write(list(kinds.values()))

    run_sink(sink, use)
    for kind, msg in kinds.items():
        assert consume(kafka.bootstrap, f"{unique}-{kind}", 1)[0].value == msg.payload


def test_write_too_large_is_refused_and_the_others_arrive(kafka: servers.Kafka, unique: str) -> None:
    large = Msg(twin(0).topic, b"x" * 5000)
    letter = samples.dead(payload=b"y" * 5000, size_bytes=5000)

    async def use(sink: KafkaOut) -> None:
        with pytest.raises(Rejected) as rejected:
            await sink.write([twin(0), large, letter, twin(1)])
        assert rejected.value.refused == [(large, "5000 bytes, Kafka takes 4000 (max_message_bytes)")]

    names = {"topic_twin": unique, "topic_dead": f"{unique}-dead"}
    run_sink(KafkaOut(bootstrap=kafka.bootstrap, max_message_bytes=4000, **names), use)
    assert len(consume(kafka.bootstrap, unique, 2)) == 2
    assert b'"truncated":true' in consume(kafka.bootstrap, f"{unique}-dead", 1)[0].value


def test_write_that_fails_in_the_middle_sends_nothing_twice(kafka: servers.Kafka, unique: str) -> None:
    """The client gives up on the third message (no metadata in time, for instance) when two are on their way."""
    from kafka.errors import KafkaTimeoutError

    class Interrupted(KafkaOut):
        failures = 1

        def _record(self, msg: Msg, refused: list[tuple[Msg, str]]) -> Any:
            if msg is batch[2] and self.failures:
                self.failures -= 1
                raise KafkaTimeoutError("no metadata")
            return super()._record(msg, refused)

    batch = [twin(seq) for seq in range(5)]

    async def use(sink: KafkaOut) -> None:
        with pytest.raises(SinkUnavailable, match="no metadata"):
            await sink.write(batch)
        assert sink.status()["confirmed"] == 2
        await sink.write(batch)
        await sink.write([twin(99)])

    run_sink(Interrupted(bootstrap=kafka.bootstrap, topic_twin=unique), use)
    seqs = [dict(r.headers)["seq"] for r in consume(kafka.bootstrap, unique, 6)]
    assert seqs == [b"0", b"1", b"2", b"3", b"4", b"99"]


# kafka-python 3.0 leaves the socket of a refused connection to the garbage collector (kafka/net/inet.py).
@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
def test_write_broker_away_is_unavailable_then_succeeds(
    own: Any, unique: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "kafka")  # captured records would keep the sockets
    broker = own(servers.Kafka())

    async def use(sink: KafkaOut) -> None:
        await sink.write([twin(0)])
        broker.kill()
        batch = [twin(seq) for seq in (1, 2)]
        with pytest.raises(SinkUnavailable, match="kafka 127"):
            await sink.write(batch)
        assert sink.status()["error"]
        broker.start()  # not in another thread: a server ends with the thread that started it
        for _ in range(10):
            try:
                await sink.write(batch)
                break
            except SinkUnavailable:
                continue
        assert sink.status()["error"] == ""

    run_sink(KafkaOut(bootstrap=broker.bootstrap, topic_twin=unique, timeout_s=2.0), use)
    # tansu keeps topics in memory, so only what came after the kill is there
    assert [dict(r.headers)["seq"] for r in consume(broker.bootstrap, unique, 2)] == [b"1", b"2"]
    gc.collect()


# As above; the broker is killed with connections open.
@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
def test_write_over_kills_of_the_broker_loses_nothing_and_keeps_the_order(
    own: Any, unique: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The broker keeps its topics in an object store and is killed while batches are under way. What came twice is told
    by its headers; of each pack the first copies stand in the order in which they were written."""
    caplog.set_level(logging.CRITICAL, "kafka")
    broker = own(servers.Kafka(own(servers.ObjectStore())))
    packs = [f"SIM{number:06d}" for number in range(5)]
    batches = [[twin(seq, pack) for seq in range(at, at + 20) for pack in packs] for at in range(0, 400, 20)]

    async def use(sink: KafkaOut) -> None:
        for number, batch in enumerate(batches):
            writing = asyncio.create_task(sink.write(batch))
            if number in (3, 9, 15):
                await asyncio.sleep(0)  # under way
                broker.kill()
                broker.start()
            while True:
                try:
                    await writing
                    break
                except SinkUnavailable:
                    writing = asyncio.create_task(sink.write(batch))
        assert sink.status()["confirmed"] == 2000

    run_sink(KafkaOut(bootstrap=broker.bootstrap, topic_twin=unique, timeout_s=5.0), use)
    records = consume(broker.bootstrap, unique, 2000, distinct=True)
    first_copies = list(dict.fromkeys(map(key_of, records)))
    assert {pack: [seq for p, seq in first_copies if p == pack] for pack in packs} == {
        pack: list(range(400)) for pack in packs
    }
    assert len(records) <= 2000 + 3 * 100, "at most the batches under way at the kills came twice"
    gc.collect()
