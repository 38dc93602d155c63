"""Held messages: unacknowledged for a moment, then on disk; forgotten when what was made of them is safe; never lost."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.flows import raw, running, until
from tests.holders import START_S, Held, flow_of, holding, msg, run, turns
from voltflow.engine import holder_line, keeper
from voltflow.engine.held_store import FILE, HeldStore, decode, encode
from voltflow.engine.timer import VirtualTimer
from voltflow.message import Key, Msg
from voltflow.node import Failure, Holder, node

HOUR_S = 3600.0
Process = Callable[[Any, Msg], list[Msg]]


@node("test holder", category="test")
class Hold(Holder):
    """Holds each message by its topic; a payload of "go" lets its topic go. Or what the test says."""

    process_: Process | None = None
    tick_: Callable[[Any], list[Msg]] | None = None
    at_s: float | None = None

    def process(self, msgs: list[Msg]) -> list[Msg]:
        return [found for msg in msgs for found in self._take(msg)]

    def _take(self, msg: Msg) -> list[Msg]:
        if self.process_ is not None:
            return self.process_(self, msg)
        if msg.payload == "go":
            return self.held.release(msg.topic)
        self.held.keep(msg, msg.topic)
        return []

    def owed(self, group: str) -> bool:
        return group != "shown"

    def due_s(self) -> float | None:
        return self.at_s

    def tick(self) -> list[Msg]:
        assert self.tick_ is not None
        return self.tick_(self)


def rows(folder: Path) -> list[tuple[str, str]]:
    """Node and group of what is on disk."""
    if not (folder / FILE).exists():
        return []
    with contextlib.closing(sqlite3.connect(folder / FILE)) as database:
        return list(database.execute("SELECT node, grp FROM held ORDER BY id"))


def written(folder: Path) -> int:
    return len(rows(folder))


# -- the way to disk ------------------------------------------------------------------------------------------------


def test_held_message_is_unacknowledged_for_a_moment_then_on_disk_and_acknowledged(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with holding("test holder", state_dir=tmp_path) as held:
            task = await held.give(msg(1, "a"))
            await held.pass_s(0.9)
            assert (task.done(), held.engine.held.unsafe, written(tmp_path)) == (False, 1, 0)
            await held.pass_s(0.2)
            await asyncio.wait_for(task, 5)
            assert (held.engine.held.unsafe, rows(tmp_path)) == (0, [("n", "a")])

    run(scenario)


def test_message_that_leaves_within_the_moment_is_never_written(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with holding("test holder", state_dir=tmp_path) as held:
            task = await held.give(msg(1, "a"))
            await held.pass_s(0.5)
            last = await held.give(msg("go", "a"))
            assert (task.done(), last.done()) == (True, True)
            assert held.payloads() == [1]
            await held.pass_s(5)
            assert not (tmp_path / FILE).exists()

    run(scenario)


def test_batch_waits_for_all_that_is_held_of_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with holding("test holder", state_dir=tmp_path) as held:
            task = held.feed(msg(1, "a"), msg(2, "b"))
            await turns()
            await held.give(msg("go", "a"))
            assert not task.done()
            await held.give(msg("go", "b"))
            assert task.done()

    run(scenario)


def test_release_forgets_the_row_only_when_what_was_given_out_is_safe(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with holding("test holder", state_dir=tmp_path) as held:
            gate = asyncio.Event()
            held.lab["k1"].write_ = lambda msgs: gate.wait()
            task = await held.give(msg(1, "a"))
            await held.pass_s(1.1)
            await asyncio.wait_for(task, 5)
            last = await held.give(msg("go", "a"))
            await held.pass_s(10)
            assert (written(tmp_path), last.done()) == (1, False)
            gate.set()
            await asyncio.wait_for(last, 5)
            await held.pass_s(1)
            await until(lambda: not written(tmp_path), "the row forgotten")
            assert held.payloads() == [1]

    run(scenario)


def test_what_leaves_while_its_sink_is_away_is_written_and_acknowledged(tmp_path: Path) -> None:
    """Otherwise a short delay before a sink that hangs would hold up the source."""

    async def scenario() -> None:
        async with holding("test holder", state_dir=tmp_path) as held:
            gate = asyncio.Event()
            held.lab["k1"].write_ = lambda msgs: gate.wait()
            held.lab["n"].at_s, held.lab["n"].tick_ = START_S + 0.5, let_all_go
            task = await held.give(msg(1, "a"))
            await held.pass_s(1.5)
            assert (task.done(), held.engine.held.unsafe) == (False, 1)
            await held.pass_s(1)
            await asyncio.wait_for(task, 5)
            assert written(tmp_path) == 1
            gate.set()
            await until(lambda: held.payloads() == [1], "the sink")

    run(scenario)


def let_all_go(hold: Hold) -> list[Msg]:
    hold.at_s = None
    return hold.drop_held()


def test_messages_that_replace_each_other_are_not_all_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A message that takes the place of another every 10 ms once meant a hundred rows a second on a flash card."""
    added: list[int] = []
    add = HeldStore.add

    async def counting(store: HeldStore, new: Any) -> list[int]:
        added.append(len(new))
        return await add(store, new)

    monkeypatch.setattr(HeldStore, "add", counting)

    def replace(hold: Hold, msg: Msg) -> list[Msg]:
        hold.held.release("state")
        hold.held.keep(msg, "state")
        return []

    async def scenario() -> None:
        async with holding("test holder", state_dir=tmp_path) as held:
            held.lab["n"].process_ = replace
            tasks = []
            for i in range(500):
                tasks.append(held.feed(msg(i)))
                await held.pass_s(0.01)
                await held.engine.held.flush(
                    0.0
                )  # a disk has no time of its own here: what it does now is over
            await held.pass_s(1)
            await asyncio.wait_for(asyncio.gather(*tasks), 5)
            assert sum(added) < 25
            await held.pass_s(1)
            await until(lambda: written(tmp_path) == 1, "only the last one on disk")

    run(scenario)


def test_what_is_kept_in_place_of_others_is_safe_before_they_are_forgotten(tmp_path: Path) -> None:
    """The new one may be all that is left of the old one, which its source will not send again."""

    async def scenario() -> None:
        async with holding("test holder", state_dir=tmp_path) as held:
            task = await held.give(msg(1, "a"))
            await held.pass_s(1.1)
            await asyncio.wait_for(task, 5)
            held.lab["n"].process_ = lambda hold, msg: (
                hold.held.keep(msg.derive(payload=hold.held.release("a")[0].payload + msg.payload), "a") or []
            )
            last = await held.give(msg(10, "a"))
            await held.pass_s(0.5)
            assert (rows(tmp_path), last.done()) == ([("n", "a")], False)
            await held.pass_s(1.1)
            await asyncio.wait_for(last, 5)
            await held.pass_s(1)
            await until(lambda: written(tmp_path) == 1, "the old row forgotten")
            assert held.lab["n"].held.messages("a")[0].payload == 11

    run(scenario)


def test_delay_of_an_hour_does_not_stall_the_source_beyond_its_share(tmp_path: Path) -> None:
    """Time stands still here: nothing is written because it is old, only because there is much of it."""

    async def scenario() -> None:
        async with holding("delay", state_dir=tmp_path, timeout=1, timeoutUnits="hours") as held:
            tasks = [held.feed(*(msg(100 * i + j) for j in range(100))) for i in range(30)]
            await until(lambda: sum(task.done() for task in tasks) >= 27, "all but its share acknowledged")
            assert held.engine.held.unsafe <= keeper.HOLD_MESSAGES
            await held.pass_s(HOUR_S)
            await until(lambda: len(held.sent()) == 3000, "all of them out")
            assert held.payloads() == list(range(3000))

    run(scenario)


def test_more_than_may_be_on_disk_stays_unacknowledged_until_some_have_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(keeper, "MOST_ON_DISK", 5)

    async def scenario() -> None:
        async with holding("test holder", state_dir=tmp_path) as held:
            tasks = [held.feed(msg(i, str(i))) for i in range(8)]
            await held.pass_s(3)
            await until(lambda: sum(task.done() for task in tasks) == 5, "as many as may be")
            await held.pass_s(10)
            assert (written(tmp_path), held.engine.held.unsafe) == (5, 3)
            for i in range(3):
                held.feed(msg("go", str(i)))
            await held.pass_s(3)
            await until(lambda: all(task.done() for task in tasks), "the others")

    run(scenario)
    assert caplog.text.count("5 messages are held on disk, more are not") == 1


# -- calls that fail ------------------------------------------------------------------------------------------------


def test_failing_call_is_undone_and_the_others_of_its_batch_are_not(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with holding("test holder", state_dir=tmp_path) as held:

            def process(hold: Hold, msg: Msg) -> list[Msg]:
                if msg.payload == "bad":
                    hold.held.keep(msg, "x")
                    hold.held.release("a")
                    hold.held.keep(msg, "a")
                    hold.held.fail("b", "never mind")
                    raise ValueError("cannot bear it")
                hold.held.keep(msg, msg.topic)
                return []

            held.lab["n"].process_ = process
            task = held.feed(msg(1, "a"), msg(2, "b"), msg("bad"), msg(3, "a"))
            await turns()
            holding_ = held.lab["n"].held
            assert {name: [e.msg.payload for e in group] for name, group in holding_.groups.items()} == {
                "a": [1, 3], "b": [2],
            }  # fmt: skip
            assert holding_.size == 3
            assert held.failures() == [Failure("n", "ValueError: cannot bear it")]
            assert held.engine.stats["n"].failures == 1
            assert not task.done()

    run(scenario)


def test_group_that_nothing_can_be_made_of_becomes_dead_letters(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with holding("test holder", state_dir=tmp_path) as held:
            first = await held.give(msg(1, "a"))

            def fail(hold: Hold, msg: Msg) -> list[Msg]:
                hold.held.keep(msg, "a")
                hold.held.fail("a", "they do not fit")
                return []

            held.lab["n"].process_ = fail
            last = await held.give(msg(2, "a"))
            assert [letter.origin.payload for letter in held.lab["d"].safe()] == [1, 2]
            assert held.failures() == [Failure("n", "they do not fit")] * 2
            assert (first.done(), last.done()) == (True, True)

    run(scenario)


def test_tick_that_fails_is_undone_said_once_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(holder_line, "AGAIN_S", 0.01)

    async def scenario() -> None:
        async with holding("test holder", state_dir=tmp_path) as held:
            calls = 0

            def tick(hold: Hold) -> list[Msg]:
                nonlocal calls
                calls += 1
                msgs = let_all_go(hold) if calls == 3 else hold.drop_held()
                if calls < 3:
                    raise RuntimeError("not yet")
                return msgs

            held.lab["n"].at_s, held.lab["n"].tick_ = START_S, tick
            held.feed(msg(1, "a"))
            await until(lambda: held.payloads() == [1], "the third attempt")

    run(scenario)
    assert caplog.text.count("what is due cannot be given out, tried again") == 1


def test_what_was_given_out_and_failed_comes_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A sink's queue that breaks must not leave for the next start what only the disk has."""
    monkeypatch.setattr(holder_line, "AGAIN_S", 0.01)

    async def scenario() -> None:
        async with holding("test holder", state_dir=tmp_path) as held:
            task = await held.give(msg(1, "a"))
            await held.pass_s(1.1)
            await asyncio.wait_for(task, 5)
            queue: Any = held.engine.wiring.lines["k1"]
            attempt = queue._attempt

            async def broken(msgs: list[Msg]) -> Exception | None:
                queue._attempt = attempt
                raise RuntimeError("unforeseen")

            queue._attempt = broken
            last = held.feed(msg("go", "a"))
            with pytest.raises(RuntimeError):
                await last
            await until(lambda: held.lab["n"].held.messages("a"), "the message held again")
            assert (written(tmp_path), held.payloads()) == (1, [])
            await held.give(msg("go", "a"))
            assert held.payloads() == [1]

    run(scenario)
    assert "what it gave out failed (unforeseen), it is tried again" in caplog.text


def test_complete_node_hears_of_a_message_when_it_has_left(tmp_path: Path) -> None:
    async def scenario() -> None:
        nodes = [
            *flow_of("test holder"),
            {"id": "c", "type": "complete", "scope": ["n"], "wires": [["k3"]]},
            raw("k3", "sink"),
        ]
        timer = VirtualTimer(START_S)
        async with running(*nodes, timer=timer, state_dir=tmp_path) as lab:
            held = Held(lab, timer)
            await held.give(msg(1, "a"))
            assert held.payloads(3) == []
            await held.give(msg("go", "a"))
            assert sorted(map(str, held.payloads(3))) == ["1", "go"]

    run(scenario)


# -- the disk -------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a file system needs root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_full_disk_keeps_what_is_held_unacknowledged_says_so_once_and_goes_on(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(keeper, "AGAIN_S", 0.01)
    caplog.set_level(logging.INFO)

    async def scenario() -> None:
        async with holding("test holder", state_dir=small_disk) as held:
            filler = small_disk / "filler"
            with contextlib.suppress(OSError):
                filler.write_bytes(b"x" * 2_000_000)
            tasks = [held.feed(msg("x" * 2000, str(i))) for i in range(10)]
            await held.pass_s(1.1)
            await until(lambda: held.engine.held.error, "the error")
            attempts = 0
            while attempts < 5:
                await asyncio.sleep(0.01)
                attempts += 1
                assert not any(task.done() for task in tasks)
            await held.give(msg("go", "3"))
            assert tasks[3].done(), "what leaves needs no disk"
            filler.unlink()
            await asyncio.wait_for(asyncio.gather(*tasks), 5)
            assert (held.engine.held.error, written(small_disk)) == ("", 9)

    run(scenario)
    assert caplog.text.count("held messages cannot be kept in") == 1
    assert caplog.text.count("held messages are written to disk again") == 1


def test_file_that_cannot_be_read_at_the_start_is_read_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(keeper, "AGAIN_S", 0.01)

    async def scenario() -> None:
        async with holding("test holder", state_dir=tmp_path) as held:
            await held.give(msg(1, "a"))
        (tmp_path / FILE).rename(tmp_path / "away")
        (tmp_path / FILE).mkdir()
        async with holding("test holder", state_dir=tmp_path) as held:
            task = await held.give(msg(2, "b"))
            await held.pass_s(5)
            assert (held.engine.held.error != "", task.done()) == (True, False)
            (tmp_path / FILE).rmdir()
            (tmp_path / "away").rename(tmp_path / FILE)
            await until(lambda: held.lab["n"].held.messages("a"), "what was held before")
            await asyncio.wait_for(task, 5)
            await held.give(msg("go", "a"), msg("go", "b"))
            assert held.payloads() == [1, 2]

    run(scenario)
    assert caplog.text.count("held messages cannot be kept in") == 1


def test_damaged_file_is_set_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / FILE).write_bytes(b"no database" * 1000)

    async def scenario() -> None:
        async with holding("test holder", state_dir=tmp_path) as held:
            task = await held.give(msg(1, "a"))
            await held.pass_s(1.1)
            await asyncio.wait_for(task, 5)

    run(scenario)
    assert rows(tmp_path) == [("n", "a")]
    aside = [file for file in tmp_path.iterdir() if ".damaged-" in file.name]
    assert [file.read_bytes()[:11] for file in aside] == [b"no database"]
    assert "is damaged (file is not a database)" in caplog.text


def test_row_that_cannot_be_read_stays_and_the_others_are_taken(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        async with holding("test holder", state_dir=tmp_path) as held:
            await held.give(msg(1, "a"), msg(2, "b"))
        with contextlib.closing(sqlite3.connect(tmp_path / FILE)) as database, database:
            database.execute("UPDATE held SET msg = x'c1' WHERE grp = 'a'")
        async with holding("test holder", state_dir=tmp_path) as held:
            assert list(held.lab["n"].held.groups) == ["b"]

    run(scenario)
    assert sorted(rows(tmp_path)) == [("n", "a"), ("n", "b")]
    assert "1 held messages in" in caplog.text


def test_file_of_a_newer_version_is_left_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / FILE)) as database:
        database.execute("PRAGMA user_version = 99")

    async def scenario() -> None:
        async with holding("test holder", state_dir=tmp_path) as held:
            task = await held.give(msg(1, "a"))
            await held.pass_s(5)
            assert not task.done()
            await held.give(msg("go", "a"))
            assert task.done()

    run(scenario)
    assert "it is of a newer version (99) than this program knows (1)" in caplog.text


def test_message_that_cannot_be_written_stays_unacknowledged_until_it_leaves(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """An integer of more than 64 bits once ended the task that makes held messages safe, unseen."""

    async def scenario() -> None:
        async with holding("test holder", state_dir=tmp_path) as held:
            bad = [held.feed(msg(2**70 + i, "big")) for i in range(3)]
            good = await held.give(msg(1, "a"))
            await held.pass_s(3)
            await asyncio.wait_for(good, 5)
            assert not any(task.done() for task in bad)
            await held.give(msg("go", "big"))
            assert all(task.done() for task in bad)

    run(scenario)
    assert caplog.text.count("holds a message that cannot be written to disk (OverflowError") == 1


# -- restart, deploy, stop ------------------------------------------------------------------------------------------


def test_restart_takes_up_what_was_held_at_the_time_it_came(tmp_path: Path) -> None:
    times: list[float] = []

    async def scenario() -> None:
        async with holding("test holder", state_dir=tmp_path) as held:
            await held.give(msg(1, "a"))
            await held.pass_s(0.3)
            await held.give(msg(2, "b"))
        async with holding("test holder", state_dir=tmp_path, at_s=START_S + 100) as held:
            times.extend(entry.at_s for entry in held.lab["n"].held.entries())
            assert held.engine.held.on_disk == 2
            await held.give(msg("go", "b"), msg("go", "a"))
            assert held.payloads() == [2, 1]
            await held.pass_s(1)
            await until(lambda: not written(tmp_path), "both forgotten")

    run(scenario)
    assert times == [START_S, START_S + 0.3]


def test_message_of_the_future_counts_from_now(tmp_path: Path) -> None:
    """A gateway without a clock of its own may have held it in a year to come."""

    async def scenario() -> None:
        async with holding("delay", state_dir=tmp_path, at_s=START_S + 1e8, timeout=10) as held:
            await held.give(msg(1))
        async with holding("delay", state_dir=tmp_path, timeout=10) as held:
            await held.pass_s(9)
            assert held.payloads() == []
            await held.pass_s(2)
            assert held.payloads() == [1]

    run(scenario)


def test_message_the_node_fails_on_after_a_restart_becomes_a_dead_letter(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with holding("test holder", state_dir=tmp_path) as held:
            await held.give(msg(2**40, "a"))
        async with holding("sort", state_dir=tmp_path, targetType="seq") as held:
            await turns()
            assert [failure.error[:10] for failure in held.failures()] == ["ValueError"]
            await held.pass_s(1)
            await until(lambda: not written(tmp_path), "the row forgotten")

    run(scenario)


def test_stop_with_held_messages_ends_at_once_and_leaves_nothing_lost(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with holding("test holder", state_dir=tmp_path) as held:
            tasks = [held.feed(msg(i, str(i))) for i in range(100)]
            tasks.append(held.feed(msg(2**70)))
            await turns()
            started = time.monotonic()
            await held.lab.end()
            assert time.monotonic() - started < 0.9
            assert [task.cancelled() for task in tasks] == [False] * 100 + [True]

    run(scenario)
    assert [group for _, group in rows(tmp_path)] == [str(i) for i in range(100)]


def test_stop_while_what_was_given_out_is_not_safe_leaves_it_on_disk(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with holding("test holder", state_dir=tmp_path) as held:
            held.lab["k1"].write_ = lambda msgs: asyncio.Event().wait()
            first = await held.give(msg(1, "a"))
            last = await held.give(msg("go", "a"))
            await held.lab.end()
            assert not first.cancelled(), "it is on disk, so it need not come again"
            assert last.cancelled()

    run(scenario)
    assert rows(tmp_path) == [("n", "a")]


def test_node_removed_by_a_deploy_leaves_dead_letters_of_what_has_not_come_out(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with holding("test holder", state_dir=tmp_path) as held:
            tasks = [held.feed(msg(1, "a")), held.feed(msg(2, "shown"))]
            await held.pass_s(1.1)
            await asyncio.gather(*tasks)
            tasks.append(await held.give(msg(3, "b")))
            await held.deploy(raw("s", "source", ["k1"]), raw("k1", "sink"), raw("d", "dead letters"))
            assert held.failures() == [Failure("n", "the node that held it was removed by a deploy")] * 2
            assert [letter.origin.payload for letter in held.lab["d"].safe()] == [1, 3]
            assert tasks[-1].done()
            await held.pass_s(1)
            await until(lambda: not written(tmp_path), "all forgotten")

    run(scenario)


def test_deploy_hands_what_is_held_to_the_changed_node_in_the_order_in_which_it_came(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with holding("delay", state_dir=tmp_path, timeout=1, timeoutUnits="hours") as held:
            tasks = [held.feed(msg(1))]
            await held.pass_s(2)
            await asyncio.gather(*tasks)
            tasks.append(await held.give(msg(2)))
            await held.deploy(*flow_of("delay", timeout=5))
            assert (held.payloads(), tasks[-1].done()) == ([], False)
            await held.pass_s(3.1)
            assert held.payloads() == [1]
            await held.pass_s(2)
            assert (held.payloads(), tasks[-1].done()) == ([1, 2], True)

    run(scenario)


def test_deploy_brings_what_waits_on_disk_for_a_node_the_flow_did_not_have(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        async with holding("test holder", state_dir=tmp_path) as held:
            await held.give(msg(1, "a"))
        timer = VirtualTimer(START_S)
        without = [raw("s", "source", ["k1"]), raw("k1", "sink"), raw("d", "dead letters")]
        async with running(*without, timer=timer, state_dir=tmp_path) as lab:
            held = Held(lab, timer)
            assert held.engine.held.orphans == {"n": 1}
            await held.deploy(*flow_of("test holder"))
            assert held.engine.held.orphans == {}
            await held.give(msg("go", "a"))
            assert held.payloads() == [1]

    run(scenario)
    assert "1 messages are held on disk for the node 'n', which the flow does not have" in caplog.text


# -- what is on disk ------------------------------------------------------------------------------------------------

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text()
    | st.binary(),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(), children, max_size=3),
    max_leaves=10,
)  # fmt: skip


@given(st.text(), values, st.dictionaries(st.text(), values, max_size=3), st.integers(0, 2**62))
def test_message_is_on_disk_as_it_was(
    topic: str, payload: Any, props: dict[str, Any], received_ms: int
) -> None:
    origin = Msg("raw", b"bytes", Key("p", 1, 2), received_ms)
    there = decode(encode(origin.derive(topic=topic, payload=payload, props=props or None)))
    assert (there.topic, there.payload, there.props, there.key, there.received_ms) == (
        topic, payload, props or None, Key("p", 1, 2), received_ms,
    )  # fmt: skip
    assert there.origin is not None
    assert (there.origin.topic, there.origin.payload) == ("raw", b"bytes")
