"""The state store: what is kept and when, the barrier, the budget, and files that cannot be read."""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import os
import resource
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest

from tests import servers
from tests.flows import raw, running, until
from voltflow.message import now_ms
from voltflow.state import file as state_file
from voltflow.state.file import CLEAN_FILE, FILE, StateFile, StateFileError, dump
from voltflow.state.metrics import StateCollector, disk_written_bytes
from voltflow.state.state import DAY_S, Restored, StateStore

PERIOD_S = 0.02


@dataclass
class Value:
    """A part of one program."""

    data: bytes = b""
    changes: int = 0

    def copy(self) -> Callable[[], list[bytes]]:
        data = self.data
        return lambda: [data[:3], data[3:]]

    def restore(self, data: bytes) -> None:
        self.data = data


def _store(folder: Path, value: Value, **options: float) -> StateStore:
    store = StateStore(folder, **options)
    store.register("value", value.copy, value.restore, lambda: value.changes)
    return store


async def _always() -> bool:
    return True


@asynccontextmanager
async def _kept(store: StateStore, settled: Callable[[], object] = _always) -> AsyncIterator[None]:
    task = asyncio.create_task(store.run(settled))  # type: ignore[arg-type]
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def _on_disk(folder: Path) -> bytes:
    found = state_file.read(folder)
    return found[0].parts["value"] if found else b""


def _write(store: StateStore) -> None:
    copy = store._take()
    assert copy is not None
    store._keep(copy, clean=False)


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != "lock")


# -- the file -------------------------------------------------------------------------------------------------------


@given(
    st.dictionaries(st.text(max_size=20), st.lists(st.binary(max_size=2000), max_size=4)),
    st.integers(0, 2**62),
)
def test_parts_come_back_as_they_were(parts: dict[str, list[bytes]], number: int) -> None:
    state = StateFile.load(dump(number, 5, parts).data)
    assert state == StateFile(number, 5, {name: b"".join(pieces) for name, pieces in parts.items()})


@given(st.data())
def test_no_damage_goes_unnoticed(data: st.DataObject) -> None:
    good = dump(1, 5, {"value": [b"some state" * 20]}).data
    place = data.draw(st.integers(0, len(good) - 1))
    flipped = bytes([*good[:place], good[place] ^ data.draw(st.integers(1, 255)), *good[place + 1 :]])
    for bad in (flipped, good[:place]):
        with pytest.raises(StateFileError):
            StateFile.load(bad)


async def _start_with(folder: Path, content: bytes) -> tuple[Restored | None, Value]:
    (folder / FILE).write_bytes(content)
    value = Value(b"as made")
    return await _store(folder, value).open(), value


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (dump(1, 5, {"value": [b"x" * 99]}).data[:-30], "its checksum is wrong"),
        (b"voltflow.state/2\n{}\n", "written by a newer version of Voltflow"),
        (b"\0" * 4096, "not a state file"),
        (b"", "not a state file"),
    ],
    ids=["truncated", "newer", "zeros", "empty"],
)
def test_a_file_that_cannot_be_used_is_set_aside_and_the_start_goes_on(
    content: bytes, why: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    restored, value = asyncio.run(_start_with(tmp_path, content))
    assert (restored, value.data) == (None, b"as made")
    assert (tmp_path / f"{FILE}.damaged").read_bytes() == content
    assert not (tmp_path / FILE).exists()
    assert f"'{tmp_path / FILE}' cannot be used" in caplog.text
    assert why in caplog.text


def test_of_two_files_the_later_one_counts_and_a_damaged_one_not_at_all(tmp_path: Path) -> None:
    """Both are there when a program is killed in the last step of its end."""
    (tmp_path / FILE).write_bytes(dump(6, 5, {"value": [b"older"]}).data)
    (tmp_path / CLEAN_FILE).write_bytes(dump(7, 5, {"value": [b"newer"]}).data)
    found = state_file.read(tmp_path)
    assert found == (StateFile(7, 5, {"value": b"newer"}), True)
    (tmp_path / CLEAN_FILE).write_bytes(b"voltflow.state/1\n")
    found = state_file.read(tmp_path)
    assert found == (StateFile(6, 5, {"value": b"older"}), False)


# -- what is kept ---------------------------------------------------------------------------------------------------


def test_a_clean_end_is_told_from_a_crash(tmp_path: Path) -> None:
    async def life(data: bytes, *, ends: bool) -> Restored | None:
        value = Value()
        store = _store(tmp_path, value)
        restored = await store.open()
        value.data = data
        if ends:
            await store.close()
        elif store._lock is not None:
            store._lock.release()  # as the end of a program does
        return restored

    assert asyncio.run(life(b"one", ends=True)) is None
    assert _names(tmp_path) == [CLEAN_FILE]
    after_end = asyncio.run(life(b"two", ends=False))
    assert after_end is not None
    assert after_end.clean
    assert _names(tmp_path) == [FILE], "the mark is gone before the first message"
    after_crash = asyncio.run(life(b"three", ends=False))
    assert after_crash is not None
    assert not after_crash.clean
    assert _on_disk(tmp_path) == b"one"
    assert str(after_crash).endswith("s ago, after a crash")


def test_a_part_that_cannot_be_restored_starts_empty_and_the_others_are_there(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(_: bytes) -> None:
        raise ValueError("not what it was")

    async def scenario() -> tuple[Restored | None, Value]:
        value, other = Value(b"kept"), Value(b"kept too")
        for restoring in (False, True):
            store = _store(tmp_path, value)
            store.register("other", other.copy, refuse if restoring else other.restore)
            restored = await store.open()
            await store.close()
        return restored, value

    restored, value = asyncio.run(scenario())
    assert restored is not None
    assert value.data == b"kept"
    assert restored.failed == ("other",)
    assert (
        f"'{tmp_path / CLEAN_FILE}' cannot be used: its part other is not understood; set aside as"
        in caplog.text
    )
    assert (tmp_path / f"{CLEAN_FILE}.damaged").exists()


def test_a_part_that_cannot_be_copied_or_encoded_stops_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        value = Value(b"one")
        store = _store(tmp_path, value, period_s=PERIOD_S)
        calls = 0

        def copy() -> Callable[[], list[bytes]]:
            nonlocal calls
            calls += 1
            if calls == 1:
                raise RuntimeError("a node's mistake")
            return value.copy() if calls > 2 else lambda: ["no bytes"]  # type: ignore[list-item]

        store.register("broken", copy, value.restore)
        await store.open()
        async with _kept(store):
            await until(lambda: store.counters.writes, "a write")
        assert store.counters.failures == 2

    asyncio.run(scenario())
    assert "a node's mistake" in caplog.text


@pytest.mark.parametrize("written_ms", [0, now_ms() + 3_600_000], ids=["then", "now"])
def test_where_the_time_is_not_known_there_is_no_age(written_ms: int, tmp_path: Path) -> None:
    """The clock that wrote the file knew no time, or this one is before it."""
    state_file.write(tmp_path, dump(1, written_ms, {"value": [b"x"]}).data, clean=True)
    store = _store(tmp_path, Value())
    restored = asyncio.run(store.open())
    assert restored is not None
    assert (restored.age_s, store.age_s) == (None, None)
    assert str(restored) == "of unknown age, clean"


def test_copies_are_written_at_the_period_and_not_when_nothing_changed(tmp_path: Path) -> None:
    async def scenario() -> None:
        value = Value(b"one")
        store = _store(tmp_path, value, period_s=PERIOD_S)
        await store.open()
        async with _kept(store):
            await until(lambda: store.counters.unchanged >= 3, "three periods without a change")
            assert (store.counters.writes, _on_disk(tmp_path)) == (1, b"one")
            value.data = b"two"
            await until(lambda: store.counters.writes == 2, "the second write")
        assert _on_disk(tmp_path) == b"two"
        assert store.counters.bytes_written > store.counters.last_bytes > 0
        age_s = store.age_s
        assert age_s is not None
        assert age_s >= 0
        await store.close()
        assert store.counters.writes == 2, "a clean end without a change renames the file"
        assert _names(tmp_path) == [CLEAN_FILE]

    asyncio.run(scenario())


# -- the barrier ----------------------------------------------------------------------------------------------------


def test_an_unsettled_batch_keeps_the_copy_from_being_written(tmp_path: Path) -> None:
    """Its message may come again, so what it did must not be on disk; what comes after the copy does not matter."""

    async def scenario() -> None:
        value, released, seen = Value(b"start"), asyncio.Event(), asyncio.Event()

        async def hold(_: object) -> None:
            await released.wait()

        async with running(raw("s", "source", ["k"]), raw("k", "sink")) as lab:
            lab["k"].write_ = hold
            store = _store(tmp_path, value, period_s=PERIOD_S)
            await store.open()

            async def settled() -> bool:
                seen.set()
                return await lab.engine.settled()

            open_batch = lab.feed("s", b"raises an alert")
            await until(lambda: lab.engine.transactions, "the batch under way")
            value.data = b"with the effect of the batch"
            async with _kept(store, settled):
                await seen.wait()
                value.data = b"with a later one's too"
                for _ in range(200):
                    await asyncio.sleep(0)
                assert not _names(tmp_path), "nothing is written while the batch is under way"
                released.set()
                await open_batch
                await until(lambda: store.counters.writes, "the write")
                assert _on_disk(tmp_path) in (b"with the effect of the batch", b"with a later one's too")

    asyncio.run(scenario())


def test_a_copy_with_a_batch_that_was_given_up_is_thrown_away(tmp_path: Path) -> None:
    async def scenario() -> None:
        value = Value(b"with the effect of a batch that comes again")
        store = _store(tmp_path, value, period_s=PERIOD_S)
        await store.open()
        answers = iter([False])

        async def settled() -> bool:
            return next(answers, True)

        async with _kept(store, settled):
            await until(lambda: store.counters.discarded == 1, "the copy")
            assert store.counters.writes == 0
            value.data = b"fine again"
            await until(lambda: store.counters.writes, "the write")
        assert _on_disk(tmp_path) == b"fine again"

    asyncio.run(scenario())


def test_an_older_copy_never_replaces_a_newer_one(tmp_path: Path) -> None:
    value = Value(b"older")
    store = _store(tmp_path, value)
    older = store._take()
    assert older is not None
    value.data = b"newer"
    asyncio.run(store.close())
    store._keep(older, clean=False)
    assert _on_disk(tmp_path) == b"newer"
    assert _names(tmp_path) == [CLEAN_FILE]


# -- the budget and the disk ------------------------------------------------------------------------------------------


def test_the_budget_stretches_the_period_and_says_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    value = Value()
    store = _store(tmp_path, value, period_s=60, write_budget_mb_per_day=100)
    assert store.effective_period_s == 60
    for _ in range(2):
        value.data = os.urandom(999_500)
        _write(store)
    assert store.effective_period_s == pytest.approx(864, rel=0.01)
    assert store.effective_period_s * 100e6 / DAY_S == pytest.approx(store.counters.last_bytes)
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(said) == 1
    assert said[0].startswith(
        "state of 1.0 MB every 60 s would be 1440 MB a day: it is written every 864 s, as"
    )


def test_what_is_urgent_is_written_before_its_time_as_far_as_the_budget_goes(tmp_path: Path) -> None:
    async def scenario() -> None:
        value = Value(b"no alert")
        store = _store(tmp_path, value, period_s=3600)
        await store.open()
        async with _kept(store):
            value.data, value.changes = b"an alert", 1
            await until(lambda: store.counters.writes, "the write")
        assert _on_disk(tmp_path) == b"an alert"

    asyncio.run(scenario())


def test_a_disk_that_refuses_is_said_once_and_the_old_state_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A full disk is made by the limit of a file's size: the same errors from the same calls."""
    value = Value(b"small")
    store = _store(tmp_path, value)
    _write(store)
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    monkeypatch.setattr("voltflow.state.file._LEVEL", 0)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, most))
    try:
        value.data = os.urandom(50_000)
        for _ in range(2):
            _write(store)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    assert store.error == os.strerror(errno.EFBIG)
    assert (store.counters.failures, _on_disk(tmp_path)) == (2, b"small")
    assert _names(tmp_path) == [FILE], "no temporary file holds the room of the next try"
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 1
    assert f"state_dir = '{tmp_path}': File too large" in errors[0].getMessage()
    _write(store)
    assert (store.error, _on_disk(tmp_path)) == ("", value.data)


def test_metrics_tell_age_period_cost_and_what_the_kernel_counts(tmp_path: Path) -> None:
    value = Value(os.urandom(100_000))
    store = _store(tmp_path, value, period_s=60, write_budget_mb_per_day=500)
    registry = CollectorRegistry()
    registry.register(StateCollector(store))
    assert "voltflow_state_age_seconds" not in generate_latest(registry).decode()
    before = disk_written_bytes()
    _write(store)
    text = generate_latest(registry).decode()
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    size_bytes = (tmp_path / FILE).stat().st_size
    assert float(values["voltflow_state_bytes_total"]) == size_bytes
    assert float(values["voltflow_state_bytes_per_day"]) == pytest.approx(size_bytes * 1440)
    assert float(values["voltflow_state_period_seconds"]) == 60
    assert float(values["voltflow_state_age_seconds"]) >= 0
    if before is not None:  # where the kernel does not say there is no series
        assert float(values["voltflow_disk_written_bytes_total"]) >= before
    assert json.loads((tmp_path / FILE).read_bytes().split(b"\n")[1])["number"] == 1
    assert servers.promtool_check_metrics(text) == ""


def test_an_error_nobody_foresaw_is_said_and_the_next_copy_is_written(tmp_path: Path) -> None:
    """The task that writes must not end unseen."""

    async def scenario() -> None:
        value = Value(b"one")
        store = _store(tmp_path, value, period_s=0.01)
        await store.open()
        answers = iter([RuntimeError("odd")])

        async def settled() -> bool:
            if error := next(answers, None):
                raise error
            return True

        async with _kept(store, settled):
            await until(lambda: store.counters.writes, "a write")
            assert store.counters.failures == 1
            assert store.error == ""

    asyncio.run(scenario())
