"""A thousand bad messages mixed into good ones, through the real agent: each is a dead letter, every good one arrives."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from tests import servers
from tests.flows import until
from tests.mqtt import Inbox, linked
from tests.programs import Agent
from voltflow.telemetry import Dead, TwinPrediction

Own = Callable[[AbstractContextManager[Any]], Any]
Item = tuple[str, bytes]
PACKS, GOOD, BAD = 10, 4000, 1000
START_MS = 1_700_000_000_000


def topic(pack: int) -> str:
    return f"ev/v1/f/p{pack}/telemetry"


def telemetry(pack: int, seq: int, **changes: Any) -> dict[str, Any]:
    return {
        "schema": "bms.telemetry/1", "pack": f"p{pack}", "boot": 1, "seq": seq, "ts_ms": START_MS + seq * 500,
        "charging_state": "not_charging", "pack_voltage_v": 355.5, "pack_current_a": -20.0, "soc_pct": 61.5,
        "cell_voltage_min_v": 3.69, "cell_voltage_max_v": 3.71, "cell_temp_max_c": 25.0, **changes,
    }  # fmt: skip


def encoded(of: int, /, **changes: Any) -> bytes:
    return json.dumps({**telemetry(of, 10**6), **changes}).encode()


def with_raw(pack: int, text: bytes) -> bytes:
    """A message with something in it that `json.dumps` would not write."""
    return encoded(pack)[:-1] + b',"more":' + text + b"}"


KINDS: dict[str, Callable[[int, random.Random], Item]] = {
    "not JSON": lambda p, rng: (topic(p), b"hello %d" % rng.getrandbits(60)),
    "cut off": lambda p, rng: (topic(p), encoded(p)[: rng.randrange(1, 100)]),
    "empty": lambda p, rng: (topic(p), b""),
    "random bytes": lambda p, rng: (topic(p), rng.randbytes(rng.randrange(1, 2000))),
    "invalid UTF-8": lambda p, rng: (topic(p), encoded(p).replace(b"not_charging", b"not_\xff\xfeging")),
    "lone surrogate": lambda p, rng: (topic(p), with_raw(p, b'"\\ud800"')),
    "no object": lambda p, rng: (topic(p), rng.choice([b"[]", b"null", b"5", b'"text"', b"[{}]"])),
    "wrong type": lambda p, rng: (topic(p), encoded(p, soc_pct="61")),
    "wrong type of the key": lambda p, rng: (topic(p), encoded(p, seq=rng.choice(["1", 1.5, None, True, []]))),
    "field missing": lambda p, rng: (topic(p), b'{"schema":"bms.telemetry/1","pack":"p%d"}' % p),
    "NaN": lambda p, rng: (topic(p), encoded(p, soc_pct=float("nan"))),
    "Infinity": lambda p, rng: (topic(p), encoded(p, soc_pct=float("-inf"))),
    "1e400": lambda p, rng: (topic(p), encoded(p)[:-1] + b',"speed_kmh":1e400}'),
    "huge number": lambda p, rng: (topic(p), encoded(p)[:-1] + b',"speed_kmh":' + b"9" * 5000 + b"}"),
    "huge counter": lambda p, rng: (topic(p), encoded(p, seq=2**63)),
    "negative counter": lambda p, rng: (topic(p), encoded(p, seq=-1)),
    "time out of range": lambda p, rng: (topic(p), encoded(p, ts_ms=10**17)),
    "deep lists": lambda p, rng: (topic(p), b"[" * 100_000),
    "deep lists in a field": lambda p, rng: (topic(p), with_raw(p, b"[" * 100_000 + b"]" * 100_000)),
    "deep objects in a field": lambda p, rng: (topic(p), with_raw(p, b'{"a":' * 20_000 + b"1" + b"}" * 20_000)),
    "unknown schema": lambda p, rng: (topic(p), encoded(p, schema="bms.telemetry/2")),
    "another pack's": lambda p, rng: (topic(p), encoded(p + 1)),
    "name of no pack": lambda p, rng: ("ev/v1/f/a b/telemetry", encoded(p, pack="a b")),
    "name too long": lambda p, rng: (f"ev/v1/f/{'x' * 65}/telemetry", encoded(p, pack="x" * 65)),
    "line break in the name": lambda p, rng: (topic(p), encoded(p, pack=f"p{p}\n")),
    "state that is none": lambda p, rng: (f"ev/v1/f/p{p}/state", b'{"online":true}'),
}  # fmt: skip
LARGE = 10_000_000


def bad_messages(rng: random.Random) -> list[Item]:
    kinds = [*KINDS.values()]
    items = [kinds[i % len(kinds)](rng.randrange(PACKS), rng) for i in range(BAD - 3)]
    unfinished = with_raw(3, b'"' + b"y" * LARGE + b'"')[:-1]
    return [
        *items,
        (topic(1), b" " * LARGE),
        (topic(2), b'{"schema":"' + b"x" * LARGE),
        (topic(3), unfinished),
    ]


def good_messages() -> list[Item]:
    return [(topic(i % PACKS), json.dumps(telemetry(i % PACKS, i // PACKS)).encode()) for i in range(GOOD)]


def mixed(good: list[Item], bad: list[Item], rng: random.Random) -> list[Item]:
    """The good ones in their order, the bad ones anywhere."""
    places = sorted(rng.randrange(len(good) + 1) for _ in bad)
    result, taken = [], 0
    for place, item in zip(places, bad, strict=True):
        result += [*good[taken:place], item]
        taken = place
    return result + good[taken:]


def fingerprint(item: Item) -> tuple[str, str]:
    return item[0], hashlib.sha256(item[1]).hexdigest()


def test_each_bad_message_is_a_dead_letter_and_every_good_one_arrives(own: Own, tmp_path: Path) -> None:
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    broker = own(servers.Mosquitto(max_packet_size="20000000"))
    agent = own(Agent(broker, tmp_path))
    good, bad = good_messages(), bad_messages(rng)
    rng.shuffle(bad)
    before_mb = agent.rss_mb

    async def scenario() -> None:
        async with linked(broker.port) as watcher, linked(broker.port) as sender:
            twins, dead = Inbox(watcher, "ev/v1/+/+/twin"), Inbox(watcher, "ev/v1/+/+/dead")
            await until(lambda: all(s.acknowledged for s in watcher._client.subscriptions), "the watcher")
            await sender.publish_batch(mixed(good, bad, rng))
            await dead.have(BAD, 60)
            await twins.have(GOOD, 60)
            letters = [msgspec.json.decode(payload, type=Dead) for payload in dead.payloads]
            assert Counter((letter.topic, letter.sha256) for letter in letters) == Counter(
                map(fingerprint, bad)
            )
            assert {letter.node for letter in letters} == {"validate"}
            assert all(letter.error for letter in letters)
            assert_originals_are_there(letters, bad)
            predictions = [msgspec.json.decode(payload, type=TwinPrediction) for payload in twins.payloads]
            for pack in range(PACKS):
                seqs = [item.seq for item in predictions if item.pack == f"p{pack}"]
                assert seqs == list(range(GOOD // PACKS)), "each once and in order"
            assert not any(item.late for item in predictions)

    asyncio.run(scenario())
    # three originals of 10 MB may be in flight at once, as read, as message and as what is sent
    assert agent.rss_mb - before_mb < 150
    assert "Traceback" not in agent.log
    assert not [
        n for n in agent.get("/api/flow")["nodes"] if n["type"] == "mqtt-broker" and n["status"]["reconnects"]
    ]
    assert agent.get("/api/flow")["dropped"] == {}
    process = psutil.Process(agent.pid)
    process.terminate()
    assert agent.process is not None
    assert agent.process.wait(15) == 0


def assert_originals_are_there(letters: list[Dead], bad: list[Item]) -> None:
    by_fingerprint = {fingerprint(item): item[1] for item in bad}
    for letter in letters:
        original = by_fingerprint[letter.topic, letter.sha256]
        assert letter.size_bytes == len(original)
        assert original.startswith(letter.payload)
        assert letter.truncated == (len(letter.payload) < len(original))
        assert len(letter.payload) == min(len(original), 262144)


def test_what_goes_backwards_or_comes_twice_is_passed_on_marked_and_counted(own: Own, tmp_path: Path) -> None:
    """It is a valid message with a key of its own: the history tells whether it has it already."""
    broker = own(servers.Mosquitto())
    agent = own(Agent(broker, tmp_path))
    rows = [(1, 5), (1, 6), (1, 4), (1, 6), (1, 7), (0, 9), (1, 8)]  # boot, seq

    async def scenario() -> None:
        async with linked(broker.port) as watcher, linked(broker.port) as sender:
            twins = Inbox(watcher, "ev/v1/+/+/twin")
            await until(lambda: watcher._client.subscriptions[0].acknowledged, "the watcher")
            items = [(topic(1), json.dumps(telemetry(1, seq, boot=boot, ts_ms=START_MS + boot * 10**6 + seq * 500)).encode())
                     for boot, seq in rows]  # fmt: skip
            await sender.publish_batch(items)
            await twins.have(len(rows))
            got = [msgspec.json.decode(payload, type=TwinPrediction) for payload in twins.payloads]
            assert [(item.boot, item.seq) for item in got] == rows
            assert [item.late for item in got] == [False, False, True, True, False, True, False]
        node = next(item for item in agent.get("/api/flow")["nodes"] if item["id"] == "twin")
        assert node["status"]["late"] == 3

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "name", ["duplicate names", "unknown fields", "unknown field out of range", "numbers as exponents"]
)
def test_odd_but_valid_json_is_telemetry(own: Own, tmp_path: Path, name: str) -> None:
    """Of two equal names the last counts, as with most readers (RFC 8259, 4)."""
    data = {
        "duplicate names": b'{"soc_pct":1,' + encoded(1)[1:],
        "unknown fields": encoded(1, cabin_c=20, more={"deep": [[[]]]}),
        "unknown field out of range": with_raw(1, b"1e400"),
        "numbers as exponents": encoded(1).replace(b"61.5", b"6.15E+1"),
    }[name]
    broker = own(servers.Mosquitto())
    own(Agent(broker, tmp_path))

    async def scenario() -> None:
        async with linked(broker.port) as watcher, linked(broker.port) as sender:
            twins = Inbox(watcher, "ev/v1/+/+/twin")
            await until(lambda: watcher._client.subscriptions[0].acknowledged, "the watcher")
            await sender.publish(topic(1), data)
            await twins.have(1)
            assert msgspec.json.decode(twins.payloads[0], type=TwinPrediction).telemetry.soc_pct == 61.5

    asyncio.run(scenario())
