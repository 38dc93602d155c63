"""The engine's promises: what acknowledged means, order, isolation, dead letters, the stop, the watchdog."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.flows import Lab, messages, raw, running, until
from voltflow.engine.sink_queue import MAX_WRITE
from voltflow.flow.flow import Flow, FlowError
from voltflow.message import Msg
from voltflow.node import Failure, Rejected, SinkUnavailable

LINE = (raw("s", "source", ["k"]), raw("k", "sink"))
"""A source wired to a sink."""

WITH_DEAD = (*LINE, raw("d", "dead letters"))


def run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(scenario())


class Gate:
    """A sink's `write_` that waits until the test opens it; `arrived` are the batches that stand before it."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.arrived: list[list[Any]] = []

    async def __call__(self, msgs: list[Msg]) -> None:
        self.arrived.append([msg.payload for msg in msgs])
        await self.open.wait()


def failing_on(*bad: Any) -> Callable[[list[Msg]], list[Msg]]:
    def process(msgs: list[Msg]) -> list[Msg]:
        for msg in msgs:
            if msg.payload in bad:
                raise ValueError(f"cannot bear {msg.payload}")
        return msgs

    return process


# -- what acknowledged means --------------------------------------------------------------------------------------


def test_emit_returns_only_when_every_sink_has_confirmed() -> None:
    async def scenario() -> None:
        async with running(raw("s", "source", ["a", "b"]), raw("a", "sink"), raw("b", "sink")) as lab:
            gates = lab["a"].write_, lab["b"].write_ = Gate(), Gate()
            emitted = lab.feed("s", 1)
            await until(lambda: gates[0].arrived and gates[1].arrived, "both sinks at work side by side")
            gates[0].open.set()
            await until(lambda: lab["a"].payloads() == [1], "the first sink's confirmation")
            assert not emitted.done()
            gates[1].open.set()
            await emitted
            assert lab["b"].payloads() == [1]

    run(scenario)


def test_settled_waits_for_what_is_under_way_and_not_for_what_comes_later() -> None:
    async def scenario() -> None:
        async with running(*LINE) as lab:
            first = lab["k"].write_ = Gate()
            lab.feed("s", 1)
            await until(lambda: first.arrived, "the first batch at the sink")
            settled = asyncio.create_task(lab.engine.settled())
            await asyncio.sleep(0)
            second = lab["k"].write_ = Gate()
            lab.feed("s", 2)
            assert not settled.done()
            first.open.set()
            assert await settled is True
            await until(lambda: second.arrived, "the second batch at the sink")
            second.open.set()

    run(scenario)


def test_settled_is_false_where_a_batch_was_given_up() -> None:
    async def scenario() -> None:
        async with running(*LINE, grace_s=0.1) as lab:
            lab["k"].write_ = gate = Gate()
            lab.feed("s", 1)
            await until(lambda: gate.arrived, "the batch at the sink")
            settled = asyncio.create_task(lab.engine.settled())
            await asyncio.sleep(0)
            assert await lab.end() is False
            assert await settled is False

    run(scenario)


def test_source_that_emits_one_batch_after_the_other_never_stalls() -> None:
    """A batch put in the very turn in which the last one was settled once stayed in the queue for ever."""

    async def scenario() -> None:
        async with running(*LINE) as lab:
            async with asyncio.timeout(5):
                for i in range(100):
                    await lab["s"].emit(messages(i))
            assert lab["k"].payloads() == list(range(100))

    run(scenario)


def test_batch_without_messages_or_without_a_sink_is_acknowledged_at_once() -> None:
    async def scenario() -> None:
        async with running(raw("s", "source", ["t"]), raw("t", "transform", [])) as lab:
            await lab.feed("s")
            await lab.feed("s", 1)
            assert lab.engine.describe()["batches"] == 1

    run(scenario)


def test_batches_that_wait_for_a_sink_are_merged_into_one_write() -> None:
    async def scenario() -> None:
        async with running(*LINE) as lab:
            gate = lab["k"].write_ = Gate()
            first = lab.feed("s", 1)
            await until(lambda: gate.arrived, "the first write")
            others = [lab.feed("s", i, -i) for i in (2, 3, 4)]
            await until(lambda: lab.engine.batches == 4, "all batches in flight")
            gate.open.set()
            await asyncio.gather(first, *others)
            assert gate.arrived == [[1], [2, -2, 3, -3, 4, -4]]

    run(scenario)


def test_merged_write_is_bounded_but_a_batch_is_never_torn() -> None:
    async def scenario() -> None:
        async with running(*LINE) as lab:
            gate = lab["k"].write_ = Gate()
            tasks = [lab.feed("s", 0)]
            await until(lambda: gate.arrived, "the first write")
            tasks += [lab.feed("s", *range(size)) for size in (MAX_WRITE, 1, MAX_WRITE - 1, 1, MAX_WRITE + 1)]
            await until(lambda: lab.engine.batches == 6, "all batches in flight")
            gate.open.set()
            await asyncio.gather(*tasks)
            assert list(map(len, gate.arrived)) == [1, MAX_WRITE, MAX_WRITE, 1, MAX_WRITE + 1]

    run(scenario)


# -- order --------------------------------------------------------------------------------------------------------


async def latencies(rng: random.Random, trouble: float) -> Callable[[list[Msg]], Awaitable[None]]:
    async def write(msgs: list[Msg]) -> None:
        for _ in range(rng.randrange(4)):
            await asyncio.sleep(0)
        if rng.random() < trouble:
            raise rng.choice([SinkUnavailable("away"), ValueError("bad")])

    return write


@settings(max_examples=60)
@given(
    batches=st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=6), min_size=1, max_size=12),
    seed=st.integers(0, 2**32),
    split=st.booleans(),
)
def test_order_of_each_pack_is_kept_into_every_sink(batches: list[list[int]], seed: int, split: bool) -> None:
    """Random batches of four packs in flight together, sinks of random latency, a fan-out and a join."""

    def by_parity(msgs: list[Msg]) -> tuple[list[Msg], list[Msg]]:
        return [m for m in msgs if m.payload[1] % 2], [m for m in msgs if not m.payload[1] % 2]

    async def scenario() -> None:
        rng = random.Random(seed)
        nodes = (
            raw("s", "source", ["t", "b"]), raw("t", "transform", ["x"], ["y"]), raw("x", "transform", ["a"]),
            raw("y", "transform", ["a"]), raw("a", "sink"), raw("b", "sink"),
        )  # fmt: skip
        async with running(*nodes) as lab:
            lab["t"].process_ = by_parity if split else lambda msgs: (msgs, [])
            for sink in ("a", "b"):
                lab[sink].write_ = await latencies(rng, 0.0)
            count = iter(range(1000))
            await asyncio.gather(*(lab.feed("s", *((pack, next(count)) for pack in b)) for b in batches))
            for sink in ("a", "b"):
                assert_ordered(lab[sink].payloads(), sum(map(len, batches)))

    run(scenario)


def assert_ordered(payloads: list[tuple[int, int]], count: int) -> None:
    by_pack = defaultdict(list)
    for pack, seq in payloads:
        by_pack[pack].append(seq)
    assert sum(map(len, by_pack.values())) == count
    assert all(seqs == sorted(seqs) for seqs in by_pack.values())


def test_pipelined_sink_is_called_again_before_it_has_returned() -> None:
    async def scenario() -> None:
        async with running(raw("s", "source", ["k"]), raw("k", "pipelined sink")) as lab:
            gate = lab["k"].write_ = Gate()
            tasks = [lab.feed("s", i) for i in range(3)]
            await until(lambda: len(gate.arrived) == 3, "three writes side by side")
            assert gate.arrived == [[0], [1], [2]]
            gate.open.set()
            await asyncio.gather(*tasks)

    run(scenario)


def test_pipelined_sink_in_trouble_gets_nothing_new_and_the_batches_again_in_their_order() -> None:
    """Each batch once waited its own random back-off, and a later one could come first."""

    async def scenario() -> None:
        calls: list[int] = []
        away = True

        async def write(msgs: list[Msg]) -> None:
            calls.append(msgs[0].payload)
            await asyncio.sleep(0)
            if away:
                raise SinkUnavailable("away")

        async with running(raw("s", "source", ["k"]), raw("k", "pipelined sink")) as lab:
            lab["k"].write_ = write
            tasks = [lab.feed("s", i) for i in range(3)]
            await until(lambda: len(calls) >= 3, "three failures")
            tasks += [lab.feed("s", i) for i in (3, 4)]
            await until(lambda: lab.engine.stats["k"].retries >= 2, "a second attempt")
            assert 3 not in calls
            away = False
            await asyncio.gather(*tasks)
            assert lab["k"].payloads() == [0, 1, 2, 3, 4]

    run(scenario)


def test_pipelined_sink_that_raises_keeps_the_next_batch_behind() -> None:
    async def scenario() -> None:
        async def write(msgs: list[Msg]) -> None:
            if any(msg.payload == "bad" for msg in msgs):
                raise ValueError("bad")
            await asyncio.sleep(0)

        async with running(
            raw("s", "source", ["k"]), raw("k", "pipelined sink"), raw("d", "dead letters")
        ) as lab:
            lab["k"].write_ = write
            await asyncio.gather(lab.feed("s", 0, "bad", 1, 2), lab.feed("s", 3, 4))
            assert lab["k"].payloads() == [0, 1, 2, 3, 4]

    run(scenario)


def test_joined_wires_keep_the_source_order_and_copies_stay_beside_their_original() -> None:
    async def scenario() -> None:
        nodes = (raw("s", "source", ["t"]), raw("t", "transform", ["k"], ["k"], ["k"]), raw("k", "sink"))
        async with running(*nodes) as lab:
            lab["t"].process_ = lambda msgs: (
                [m for m in msgs if m.payload != 2], [m for m in msgs if m.payload == 2],
                [m.derive(payload=f"copy of {m.payload}") for m in msgs],
            )  # fmt: skip
            await lab.feed("s", 1, 2, 3)
            assert lab["k"].payloads() == [1, "copy of 1", 2, "copy of 2", 3, "copy of 3"]

    run(scenario)


# -- isolation ----------------------------------------------------------------------------------------------------


def test_message_a_transform_fails_on_becomes_a_dead_letter_and_the_others_go_on_in_order() -> None:
    async def scenario() -> None:
        async with running(raw("s", "source", ["t"]), raw("t", "transform", ["k"]), *WITH_DEAD[1:]) as lab:
            lab["t"].process_ = failing_on(3, 7)
            lab["s"].process = lambda msgs: [
                msg.derive(topic="changed", payload=msg.payload[0]) for msg in msgs
            ]
            await lab["s"].emit([Msg(f"topic/{i}", bytes([i])) for i in range(10)])
            assert lab["k"].payloads() == [0, 1, 2, 4, 5, 6, 8, 9]
            dead = lab["d"].safe()
            assert [msg.payload for msg in dead] == [
                Failure("t", "ValueError: cannot bear 3"), Failure("t", "ValueError: cannot bear 7"),
            ]  # fmt: skip
            assert [(msg.origin.topic, msg.origin.payload) for msg in dead] == [
                ("topic/3", b"\x03"), ("topic/7", b"\x07"),
            ]  # fmt: skip
            assert lab.engine.stats["t"].failures == 2
            (told,) = [node for node in lab.engine.describe()["nodes"] if node["id"] == "t"]
            assert told["last_error"] == "ValueError: cannot bear 7"
            assert abs(told["last_error_ms"] - time.time() * 1000) < 600_000

    run(scenario)


@pytest.mark.parametrize(
    "what",
    [None, "text", ([], None), {"a": 1}, iter([]), [{"payload": 1}], ([Msg("t", 1)], [Msg("t", 1), None])],
    ids=lambda what: type(what).__name__,
)
def test_process_that_returns_no_list_fails_like_one_that_raises(what: Any) -> None:
    """A forgotten `return` once ended the batch in the engine: never acknowledged, never a dead letter."""

    async def scenario() -> None:
        async with running(raw("s", "source", ["t"]), raw("t", "transform", ["k"]), *WITH_DEAD[1:]) as lab:
            lab["t"].process_ = lambda msgs: what
            async with asyncio.timeout(5):
                await lab.feed("s", 1, 2)
            assert [msg.payload.node for msg in lab["d"].safe()] == ["t", "t"]
            assert "expected a list of messages" in lab["d"].payloads()[0].error

    run(scenario)


def test_output_that_is_not_declared_is_a_failure_and_one_without_a_wire_is_none() -> None:
    """What a node put out there once vanished, acknowledged."""

    async def scenario() -> None:
        async with running(raw("s", "source", ["t"]), raw("t", "transform", ["k"]), *WITH_DEAD[1:]) as lab:
            lab["t"].process_ = lambda msgs: ([], msgs, msgs)
            await lab.feed("s", 1)
            assert lab["d"].safe() == []
            lab["t"].process_ = lambda msgs: (msgs, [], [], msgs)
            await lab.feed("s", 2)
            assert [msg.origin.payload for msg in lab["d"].safe()] == [2]
            assert lab["d"].payloads()[0].error == (
                "TypeError: process returned lists for 4 outputs, declared are 3"
            )

    run(scenario)


def test_outputs_of_the_halves_of_a_failed_batch_are_joined_by_port() -> None:
    async def scenario() -> None:
        nodes = (
            raw("s", "source", ["t"]),
            raw("t", "transform", ["a"], ["b"]),
            raw("a", "sink"),
            raw("b", "sink"),
        )
        async with running(*nodes) as lab:

            def process(msgs: list[Msg]) -> Any:
                if any(msg.payload == 2 for msg in msgs):
                    raise KeyError("two")
                return msgs if msgs[0].payload == 0 else (msgs[:1], msgs[1:])

            lab["t"].process_ = process
            await lab.feed("s", 0, 1, 2, 3, 4)
            assert (lab["a"].payloads(), lab["b"].payloads()) == ([0, 1, 3], [4])

    run(scenario)


def test_source_whose_decoding_fails_gives_a_dead_letter_too() -> None:
    async def scenario() -> None:
        async with running(*WITH_DEAD) as lab:
            lab["s"].process = failing_on(2)
            await lab.feed("s", 1, 2, 3)
            assert lab["k"].payloads() == [1, 3]
            assert lab["d"].payloads() == [Failure("s", "ValueError: cannot bear 2")]

    run(scenario)


# -- sinks that refuse, fail, or are away -------------------------------------------------------------------------


def test_rejected_message_is_a_safe_dead_letter_before_any_batch_of_the_write_is_acknowledged() -> None:
    async def scenario() -> None:
        async with running(*WITH_DEAD) as lab:
            first, dead_gate = Gate(), Gate()
            lab["k"].write_ = first
            blocker = lab.feed("s", 0)
            await until(lambda: first.arrived, "the sink at work")
            tasks = [lab.feed("s", 1, "bad"), lab.feed("s", 2)]
            await until(lambda: lab.engine.batches == 3, "both batches in flight")

            async def refuse(msgs: list[Msg]) -> None:
                raise Rejected([(msg, "not this one") for msg in msgs if msg.payload == "bad"])

            lab["k"].write_, lab["d"].write_ = refuse, dead_gate
            first.open.set()
            await blocker
            await until(lambda: dead_gate.arrived, "the dead letter on its way")
            assert dead_gate.arrived == [[Failure("k", "not this one")]]
            assert not any(task.done() for task in tasks)
            dead_gate.open.set()
            await asyncio.gather(*tasks)
            assert lab["d"].safe()[0].origin.payload == "bad"

    run(scenario)


def test_sink_that_raises_is_asked_message_by_message_and_the_one_at_fault_is_a_dead_letter() -> None:
    async def scenario() -> None:
        async with running(*WITH_DEAD) as lab:

            async def write(msgs: list[Msg]) -> None:
                if any(msg.payload == 3 for msg in msgs):
                    raise ValueError("no threes")

            lab["k"].write_ = write
            await lab.feed("s", *range(6))
            assert lab["k"].payloads() == [0, 1, 2, 4, 5]
            assert lab["d"].payloads() == [Failure("k", "ValueError: no threes")]

    run(scenario)


@pytest.mark.parametrize("kind", ["sink", "pipelined sink"])
def test_sink_that_is_away_is_tried_again_and_nothing_is_lost(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        async with running(raw("s", "source", ["k"]), raw("k", kind), raw("d", "dead letters")) as lab:
            attempts = iter(range(100))

            async def write(msgs: list[Msg]) -> None:
                if next(attempts) < 3:
                    raise SinkUnavailable("connection refused")

            lab["k"].write_ = write
            await asyncio.gather(lab.feed("s", 1, 2), lab.feed("s", 3))
            assert lab["k"].payloads() == [1, 2, 3]
            assert lab["d"].safe() == []
            assert lab.engine.stats["k"].retries == 3
            assert lab.engine.circuit("k").closed

    with caplog.at_level(logging.INFO):
        run(scenario)
    assert caplog.text.count("is not available: connection refused") == 1
    assert "is available again" in caplog.text


def test_write_that_is_cancelled_from_within_is_tried_again() -> None:
    """A sink that waits for a future somebody cancels must not take its batch into oblivion."""

    async def scenario() -> None:
        async with running(*LINE) as lab:
            cancelled: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            cancelled.cancel()
            waits = iter([cancelled])

            async def write(msgs: list[Msg]) -> None:
                for future in waits:
                    await future

            lab["k"].write_ = write
            async with asyncio.timeout(5):
                await lab.feed("s", 1)
            assert lab["k"].payloads() == [1]

    run(scenario)


def test_dead_letter_that_fails_is_a_counted_drop(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        async with running(*WITH_DEAD) as lab:

            async def refuse(msgs: list[Msg]) -> None:
                raise ValueError("full")

            lab["s"].process, lab["d"].write_ = failing_on(2), refuse
            async with asyncio.timeout(5):
                await lab.feed("s", 1, 2, 3)
            assert lab["k"].payloads() == [1, 3]
            assert lab.engine.describe()["dropped"] == {"dead_letter_failed": 1}

    run(scenario)
    assert "dropped (dead_letter_failed): t: ValueError: full: 2" in caplog.text


def test_failed_message_without_a_dead_letter_node_is_counted_and_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scenario() -> None:
        async with running(*LINE) as lab:
            lab["s"].process = failing_on(2)
            await lab.feed("s", 1, 2, 3)
            assert lab["k"].payloads() == [1, 3]
            assert lab.engine.describe()["dropped"] == {"no_dead_letter_node": 1}

    run(scenario)
    assert (
        "test source:s failed, dropped (no_dead_letter_node): t: ValueError: cannot bear 2: 2" in caplog.text
    )


# -- the stop -----------------------------------------------------------------------------------------------------


def test_stop_waits_for_what_is_under_way() -> None:
    async def scenario() -> None:
        async with running(*LINE) as lab:
            gate = lab["k"].write_ = Gate()
            emitted = lab.feed("s", 1)
            await until(lambda: gate.arrived, "the batch in the sink")
            lab.stop.set()
            asyncio.get_running_loop().call_later(0.05, gate.open.set)
            assert await lab.run
            assert emitted.done()
            assert not emitted.exception()

    run(scenario)


def test_stop_with_a_hanging_sink_ends_in_time_and_leaves_the_batch_unacknowledged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scenario() -> None:
        async with running(*LINE, grace_s=0.2) as lab:
            gate = lab["k"].write_ = Gate()
            emitted = lab.feed("s", 1)
            await until(lambda: gate.arrived, "the batch in the sink")
            started = time.monotonic()
            assert await lab.end() is False
            assert 0.2 <= time.monotonic() - started < 2.0
            await asyncio.wait({emitted})
            assert emitted.cancelled()

    run(scenario)
    assert "stopped with 1 batch(es) not yet safe; their sources will send them again" in caplog.text


def test_source_that_fails_ends_the_run_with_its_error_after_the_others_are_drained() -> None:
    async def scenario() -> None:
        async with running(*LINE, raw("s2", "source", ["k"])) as lab:
            gate = lab["k"].write_ = Gate()
            emitted = lab.feed("s2", 1)
            await until(lambda: gate.arrived, "a batch of the other source")
            lab["s"].fail.set_exception(OSError("the cable is out"))
            asyncio.get_running_loop().call_later(0.05, gate.open.set)
            with pytest.raises(OSError, match="the cable is out"):
                await lab.run
            assert emitted.done()
            assert lab["k"].payloads() == [1]

    run(scenario)


def test_start_that_fails_stops_what_was_started_and_says_so() -> None:
    stopped = []

    async def scenario() -> None:
        lab = None
        async with running(*LINE) as ready:
            engine = ready.engine
            await ready.end()

        async def start(ctx: object) -> None:
            raise OSError("port taken")

        async def stop() -> None:
            stopped.append("s")

        engine.nodes["k"].node.start = start  # type: ignore[method-assign]
        engine.nodes["s"].node.stop = stop  # type: ignore[method-assign]
        lab = Lab(engine)
        with pytest.raises(OSError, match="port taken"):
            await lab.run

    run(scenario)
    assert stopped == ["s"]


# -- the watchdog -------------------------------------------------------------------------------------------------


def test_watchdog_names_the_transform_that_blocks_and_its_message(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        async with running(
            raw("s", "source", ["t"]), raw("t", "transform", ["k"]), LINE[1], watchdog_s=0.05
        ) as lab:

            def block(msgs: list[Msg]) -> list[Msg]:
                deadline = time.monotonic() + 10
                while not lab.engine.stalls and time.monotonic() < deadline:
                    pass
                return msgs

            lab["t"].process_ = block
            await lab["s"].emit([Msg("the/topic", b"")])
            assert lab.engine.stalls >= 1

    run(scenario)
    assert (
        "stall: node test transform:t has not returned for 0 s; first message: topic the/topic" in caplog.text
    )


def test_watchdog_names_the_sink_that_hangs_once_for_a_batch(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        async with running(raw("s", "source", ["a", "b"]), raw("a", "sink"), raw("b", "sink", name="slow one"),
                           watchdog_s=0.05) as lab:  # fmt: skip
            gate = lab["b"].write_ = Gate()
            emitted = lab["s"].feed([Msg("the/topic", b""), Msg("another", b"")])
            await until(lambda: lab.engine.stalls, "the watchdog")
            gate.open.set()
            await emitted
            assert lab.engine.stalls == 1

    run(scenario)
    assert (
        "stall: slow one has not confirmed a batch of 2 for 0 s; first message: topic the/topic"
        in caplog.text
    )


# -- what people see ----------------------------------------------------------------------------------------------


def test_describe_counts_what_passed_each_node() -> None:
    async def scenario() -> None:
        async with running(raw("s", "source", ["t"]), raw("t", "transform", ["k"]), LINE[1]) as lab:
            lab["t"].process_ = lambda msgs: msgs[:1]
            await lab.feed("s", 1, 2, 3)
            nodes = {item["id"]: item for item in lab.engine.describe()["nodes"]}
            assert [(nodes[i]["messages_in"], nodes[i]["messages_out"]) for i in "stk"] == [
                (3, 3),
                (3, 1),
                (1, 0),
            ]
            assert nodes["k"]["waiting"] == 0
            assert lab.engine.describe()["in_flight_batches"] == 0

    run(scenario)


def test_describe_can_be_asked_before_the_start_and_after_the_stop() -> None:
    """The API answers before the nodes have started; a node's status may need what `start` makes."""

    async def scenario() -> None:
        async with running(*LINE) as lab:
            lab["k"].status = lambda: {"up": True}
            assert lab.engine.describe()["nodes"][1]["status"] == {"up": True}
            await lab.end()
            assert lab.engine.describe()["nodes"][1]["status"] == {}

    run(scenario)


def test_flow_that_is_wrong_never_becomes_an_engine() -> None:
    with pytest.raises(FlowError, match='property "limit": 10 is out of range, allowed is 0 … 9'):
        Flow([raw("k", "sink", limit=10)]).build({})
