"""A network sink with a spool: what goes to disk and when, what comes back, what is never acknowledged too early."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.flows import Lab, raw, running, until
from voltflow.engine.network_sink import REPLAYED
from voltflow.engine.store_forward import SpoolingQueue, _Pace
from voltflow.message import Key, Msg, now_ms
from voltflow.node import Rejected, SinkUnavailable

KINDS = ["network sink", "pipelined network sink"]


def run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(scenario())


def twin(seq: int, *, pack: str = "p", kind: str = "twin") -> Msg:
    payload = {"schema": "twin.prediction/1", "pack": pack, "boot": 1, "seq": seq, "ts_ms": seq * 1000}
    return Msg(f"ev/v1/f/{pack}/{kind}", msgspec.json.encode(payload), Key(pack, 1, seq), now_ms())


class Far:
    """A far side: `mode` is up, away (refuses), silent (never answers) or deaf (takes a batch and never confirms)."""

    def __init__(self, mode: str = "up") -> None:
        self.taken: list[Msg] = []
        self.writes = 0
        self.mode = mode
        self.changed = asyncio.Event()

    def become(self, mode: str) -> None:
        self.mode = mode
        self.changed.set()
        self.changed = asyncio.Event()

    async def __call__(self, msgs: list[Msg]) -> None:
        self.writes += 1
        while self.mode != "up":
            if self.mode == "away":
                raise SinkUnavailable("connection refused")
            if self.mode == "deaf":
                self.taken += msgs
                await asyncio.Event().wait()
            await self.changed.wait()
        self.taken += msgs

    def seqs(self, *, replayed: bool | None = None) -> list[int]:
        wanted = [
            m for m in self.taken if replayed is None or bool((m.props or {}).get(REPLAYED)) == replayed
        ]
        return [msgspec.json.decode(msg.payload)["seq"] for msg in wanted]


def lab_of(kind: str, folder: Path, **options: Any) -> AbstractAsyncContextManager[Lab]:
    sink = raw("k", kind, spool=True, **{"spoolAfter": 0.1, **options})
    return running(raw("s", "source", ["k"]), sink, raw("d", "dead letters"), state_dir=folder)


def queue_of(lab: Lab) -> SpoolingQueue:
    return lab.engine.spools.queues[0]


def fast(lab: Lab, far: Far) -> None:
    """The far side, and an outage that is noticed and ends at once."""
    lab["k"].write_ = far
    queue_of(lab).circuit.backoff.limit_s = 0.02


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_written_to_disk_while_the_far_side_confirms(kind: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with lab_of(kind, tmp_path) as lab:
            lab["k"].write_ = far = Far()
            await lab["s"].feed([twin(i) for i in range(10)])
            assert far.seqs() == list(range(10))
            assert queue_of(lab).spool.counters.appended == 0
            assert queue_of(lab).spool.counters.fsyncs == 0

    run(scenario)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", ["away", "silent"])
def test_what_the_far_side_does_not_take_is_safe_on_disk_and_sent_when_it_is_back(
    kind: str, mode: str, tmp_path: Path
) -> None:
    async def scenario() -> None:
        async with lab_of(kind, tmp_path) as lab:
            far = Far(mode)
            fast(lab, far)
            for i in range(5):
                await lab["s"].feed([twin(2 * i), twin(2 * i + 1)])  # returns: it is safe
            assert far.taken == []
            assert queue_of(lab).spool.backlog.messages == 10
            assert lab.engine.circuit("k").state != "closed"
            far.become("up")
            await until(lambda: not queue_of(lab).spool.backlog.messages, "an empty spool")
            assert far.seqs(replayed=True) == list(range(10))
            assert all(msgspec.json.decode(msg.payload)["replay"] for msg in far.taken)
            assert far.taken[3].key == Key("p", 1, 3)
            assert lab.engine.circuit("k").closed
            await lab["s"].feed([twin(10)])
            assert far.seqs(replayed=False) == [10]

    run(scenario)


@pytest.mark.parametrize("kind", KINDS)
def test_a_spool_outlives_the_program(kind: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with lab_of(kind, tmp_path) as lab:
            fast(lab, Far("away"))
            await lab["s"].feed([twin(i) for i in range(300)])
        async with lab_of(kind, tmp_path) as lab:
            await until(lambda: len(lab["k"].safe()) >= 300, "what the last run left")
            assert [msg.key.seq for msg in lab["k"].safe()] == list(range(300))

    run(scenario)


def test_what_is_new_goes_before_the_backlog(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with lab_of("pipelined network sink", tmp_path, drainShare=0.01) as lab:
            far = Far("away")
            fast(lab, far)
            await lab["s"].feed([twin(i) for i in range(500)])
            far.become("up")
            await until(lambda: lab.engine.circuit("k").closed, "the far side is back")
            await lab["s"].feed([twin(500)])
            assert queue_of(lab).spool.backlog.messages > 0
            assert far.seqs(replayed=False) == [500]

    run(scenario)


def test_a_bad_message_in_the_spool_becomes_a_dead_letter_and_the_others_go_on(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with lab_of("network sink", tmp_path) as lab:
            far = Far("away")
            fast(lab, far)
            await lab["s"].feed([twin(i) for i in range(10)])

            async def picky(msgs: list[Msg]) -> None:
                bad = [(msg, "it is bad") for msg in msgs if msg.key == Key("p", 1, 4)]
                await far([msg for msg in msgs if msg.key != Key("p", 1, 4)])
                if bad:
                    raise Rejected(bad)

            lab["k"].write_ = picky
            far.become("up")
            await until(lambda: not queue_of(lab).spool.backlog.messages, "an empty spool")
            assert far.seqs() == [0, 1, 2, 3, 5, 6, 7, 8, 9]
            assert [msg.payload.error for msg in lab["d"].safe()] == ["it is bad"]

    run(scenario)


def test_a_disk_that_takes_nothing_holds_the_flow_and_says_so(tmp_path: Path) -> None:
    """Alerts beyond their quota: nothing is dropped, nothing acknowledged; it goes on when the far side is back."""

    async def scenario() -> None:
        async with lab_of("network sink", tmp_path, spoolProtectedMb=0.1) as lab:
            far = Far("away")
            fast(lab, far)
            big = Msg("ev/v1/f/p/alert", b'{"schema":"alert/1","seq":0,"text":"' + b"x" * 200_000 + b'"}')
            fed = lab["s"].feed([big])
            await until(lambda: queue_of(lab).disk_error, "the spool refuses it")
            assert not fed.done()
            assert "spool_protected_mb" in queue_of(lab).disk_error
            far.become("up")
            await fed
            assert len(far.taken) == 1

    run(scenario)


@pytest.mark.parametrize(
    ("new_s", "piece_s", "size"),
    [(0.2, 0.21, 500), (0.05, 0.09, 500), (0.002, 0.006, 100), (0.002, 0.01, 25), (None, 1.0, 500)],
    ids=["far network", "busy far side", "as it should be", "they hold up what is new", "nothing is new"],
)
def test_pieces_of_the_backlog_are_as_large_as_what_is_new_does_not_feel(
    new_s: float | None, piece_s: float, size: int
) -> None:
    pace = _Pace(share=0.25, size=100)
    if new_s is not None:
        pace.new_took(new_s, calm=True)
    for _ in range(6):
        assert pace.pause_s(pace.size, piece_s) == pytest.approx(min(3 * piece_s, 1.0))
    assert pace.size == size
    pace.pause_s(pace.size - 1, 0.0)  # the last piece of a file says nothing of larger ones
    assert pace.size == size


def test_drain_slows_down_to_a_third_while_new_batches_feel_it_and_recovers() -> None:
    pace = _Pace(share=0.5)
    pace.new_took(0.002, calm=True)
    for _ in range(30):
        pace.new_took(0.02, calm=False)
        pause_s = pace.pause_s(25, 0.01)
    assert pause_s == pytest.approx(0.05), "a sixth of the time instead of half of it"
    for _ in range(100):
        pace.new_took(0.002, calm=False)
        pause_s = pace.pause_s(25, 0.01)
    assert pause_s == pytest.approx(0.01)
    assert pace.calm_s == 0.002, "what new batches take beside a backlog is not what they usually take"
