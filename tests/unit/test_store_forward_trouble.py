"""A network sink with a spool when something is odd: order, bytes that are no text, errors nobody foresaw, memory."""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path
from typing import Any

import pytest

from tests.flows import raw, running, until
from tests.unit.test_store_forward import KINDS, Far, fast, lab_of, queue_of, run, twin
from voltflow.message import Msg
from voltflow.node import Rejected
from voltflow.spool.spool import SpoolFull


@pytest.mark.parametrize("kind", KINDS)
def test_the_backlog_keeps_the_order_of_what_was_under_way_when_the_outage_began(
    kind: str, tmp_path: Path
) -> None:
    """Batches under way wait for their own deadlines; what comes meanwhile must not go to disk before them."""

    async def scenario() -> None:
        async with lab_of(kind, tmp_path, spoolAfter=0.3) as lab:
            far = Far("silent")
            fast(lab, far)
            fed = []
            for i in range(20):
                fed.append(lab["s"].feed([twin(i)]))
                await asyncio.sleep(0.02)
            await asyncio.gather(*fed)
            far.become("up")
            await until(lambda: not queue_of(lab).spool.backlog.messages, "an empty spool")
            assert far.seqs(replayed=True) == sorted(far.seqs(replayed=True))
            assert sorted(far.seqs()) == list(range(20))

    run(scenario)


def test_a_far_side_that_is_back_between_two_deadlines_gets_them_in_order_although_the_disk_takes_nothing(
    tmp_path: Path,
) -> None:
    """The first batch is given up and cannot go to disk; the second, sent before that, must not arrive meanwhile."""

    async def scenario() -> None:
        async with lab_of("pipelined network sink", tmp_path, spoolAfter=0.3, spoolMaxMb=0.1) as lab:
            far = Far("silent")
            fast(lab, far)
            spool, failures = queue_of(lab).spool, 0

            async def full(*_: Any) -> None:
                nonlocal failures
                failures += 1
                raise SpoolFull("read-only")

            spool.append = full  # type: ignore[method-assign]
            fed = [lab["s"].feed([twin(0)])]
            await asyncio.sleep(0.1)
            fed += [lab["s"].feed([twin(i)]) for i in range(1, 4)]
            await until(lambda: failures, "the first is given up")
            far.become("up")
            await asyncio.gather(*fed)
            assert far.seqs() == [0, 1, 2, 3]

    run(scenario)


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(b'{"schema":"x","text":"\xff"}', id="no UTF-8"),
        pytest.param(b"[" * 100_000, id="nested too deep"),
    ],
)
@pytest.mark.parametrize("topic", ["plant/7/door", "ev/v1/f/p/telemetry"])
def test_bytes_that_are_no_json_come_out_as_they_went_in(payload: bytes, topic: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with lab_of("network sink", tmp_path) as lab:
            far = Far("away")
            fast(lab, far)
            await lab["s"].feed([Msg(topic, payload)])
            far.become("up")
            await until(lambda: not queue_of(lab).spool.backlog.messages, "an empty spool")
            assert [msg.payload for msg in far.taken] == [payload]

    run(scenario)


def test_the_backlog_goes_on_after_an_error_nobody_foresaw(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        async with lab_of("network sink", tmp_path) as lab:
            far = Far("away")
            fast(lab, far)
            spool = queue_of(lab).spool
            read, failures = spool.read, iter([RuntimeError("odd"), OSError(5, "Input/output error")])

            async def odd(*args: Any) -> Any:
                if error := next(failures, None):
                    raise error
                return await read(*args)

            monkeypatch.setattr(spool, "read", odd)
            await lab["s"].feed([twin(i) for i in range(3)])
            await until(lambda: "Input/output error" in queue_of(lab).disk_error, "the error is said")
            far.become("up")
            await until(lambda: not spool.backlog.messages, "an empty spool")
            assert far.seqs() == [0, 1, 2]
            assert queue_of(lab).disk_error == ""
        assert "the spool cannot be read" in caplog.text

    with caplog.at_level(logging.ERROR):
        run(scenario)


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_that_the_spool_fails_on_holds_the_flow_until_the_far_side_takes_it(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error that is no full disk: the queue goes on all the same, and says what is the matter."""

    async def scenario() -> None:
        async with lab_of(kind, tmp_path) as lab:
            far = Far("away")
            fast(lab, far)

            async def odd(*args: Any) -> None:
                raise RuntimeError("odd")

            monkeypatch.setattr(queue_of(lab).spool, "append", odd)
            fed = lab["s"].feed([twin(0)])
            await until(lambda: "odd" in queue_of(lab).disk_error, "the error is said")
            assert not fed.done()
            far.become("up")
            await fed
            await lab["s"].feed([twin(1)])
            assert far.seqs() == [0, 1]

    run(scenario)


@pytest.mark.parametrize("kind", ["sink", "pipelined sink"])
def test_a_queue_that_fails_fails_its_batch_and_goes_on(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch that nothing waits for any more would never be sent again, and a queue whose task is gone takes none."""

    async def scenario() -> None:
        async with running(raw("s", "source", ["k"]), raw("k", kind)) as lab:

            async def odd(*args: Any) -> None:
                raise RuntimeError("odd")

            async def refuses(msgs: list[Msg]) -> None:
                raise ValueError("bad")

            queue = lab.engine.wiring.lines["k"]
            lab["k"].write_ = refuses
            monkeypatch.setattr(queue, "_refuse_messages", odd)
            with pytest.raises(RuntimeError, match="odd"):
                await asyncio.wait_for(lab.feed("s", 1), 2)
            lab["k"].write_ = None
            await asyncio.wait_for(lab.feed("s", 2), 2)
            assert lab["k"].payloads() == [2]
            assert not lab.engine.transactions

    run(scenario)


def test_a_spool_without_its_sink_is_named_at_each_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The flow was changed during an outage: nobody would deliver what waits, and nobody would know."""

    async def scenario() -> None:
        async with lab_of("network sink", tmp_path) as lab:
            fast(lab, Far("away"))
            await lab["s"].feed([twin(i) for i in range(3)])
        plain = raw("s", "source", ["k"]), raw("k", "network sink")
        async with running(*plain, state_dir=tmp_path) as lab:
            assert list(lab.engine.spools.orphans) == ["k"]
            assert lab.engine.spools.orphans["k"] > 0
        assert "are not delivered. To deliver them give a sink the id 'k' and the option spool" in caplog.text
        async with lab_of("network sink", tmp_path) as lab:
            assert lab.engine.spools.orphans == {}
            await until(lambda: len(lab["k"].safe()) == 3, "what waited")

    run(scenario)


def test_the_wall_clock_that_jumps_ages_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A day behind a wrong time server must not empty the spool of a gateway."""

    async def scenario() -> None:
        async with lab_of("network sink", tmp_path, spoolMaxAgeH=1) as lab:
            far = Far("away")
            fast(lab, far)
            await lab["s"].feed([twin(0)])
            later_ns = time.time_ns() + 86_400 * 10**9
            monkeypatch.setattr(time, "time_ns", lambda: later_ns)
            await lab["s"].feed([twin(1)])
            await lab["s"].feed([twin(2)])
            far.become("up")
            await until(lambda: not queue_of(lab).spool.backlog.messages, "an empty spool")
            assert far.seqs() == [0, 1, 2]

    run(scenario)


def test_what_waits_on_disk_is_for_the_eyes_of_its_user_only(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with lab_of("network sink", tmp_path) as lab:
            fast(lab, Far("away"))
            await lab["s"].feed([twin(0), twin(0, kind="alert")])
        folder = tmp_path / "spool" / "k"
        modes = {str(path.relative_to(folder)): path.stat().st_mode & 0o777 for path in folder.rglob("*")}
        assert {mode for name, mode in modes.items() if (folder / name).is_file()} == {0o600}, modes
        assert {mode for name, mode in modes.items() if (folder / name).is_dir()} == {0o700}, modes
        assert folder.stat().st_mode & 0o777 == 0o700

    run(scenario)


def test_a_batch_of_which_the_far_side_refuses_a_part_is_written_once(tmp_path: Path) -> None:
    """Its turn comes when those before it are done; what was taken of it must not be sent again then."""

    async def scenario() -> None:
        async with running(
            raw("s", "source", ["k"]), raw("k", "pipelined sink"), raw("d", "dead letters")
        ) as lab:
            taken: list[int] = []
            first = asyncio.Event()

            async def picky(msgs: list[Msg]) -> None:
                if msgs[0].payload == 0:
                    await first.wait()
                taken.extend(msg.payload for msg in msgs if msg.payload != 2)
                if bad := [(msg, "bad") for msg in msgs if msg.payload == 2]:
                    raise Rejected(bad)

            lab["k"].write_ = picky
            fed = [lab.feed("s", 0), lab.feed("s", 1, 2, 3)]
            await until(lambda: 3 in taken, "the second is there before the first")
            first.set()
            await asyncio.gather(*fed)
            assert taken == [1, 3, 0]
            assert [msg.payload.error for msg in lab["d"].safe()] == ["bad"]

    run(scenario)
