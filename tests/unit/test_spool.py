"""The spool as a sink uses it: shared fsyncs, cancellation, a process that dies."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from voltflow.spool.spool import Record, Spool, SpoolFull, SpoolOptions


@asynccontextmanager
async def opened(folder: Path, **options: Any) -> AsyncIterator[Spool]:
    values = {"telemetry_bytes": 10**8, "telemetry_age_s": 7 * 86400.0, "protected_bytes": 10**7, **options}
    spool = Spool(SpoolOptions(folder, **values, gateway="gw1"))
    await spool.open()
    try:
        yield spool
    finally:
        await spool.close()


def run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(scenario())


def twin(seq: int, payload: bytes = b"{}") -> Record:
    return Record("ev/v1/f/p/twin", payload, 1_764_000_000_000 + seq, "f", "p", 1, seq, seq)


async def drained(spool: Spool) -> list[int]:
    seqs = []
    while (chunk := await spool.read()) is not None:
        seqs += [record.seq for record in chunk.records]
        await spool.delivered(chunk)
    return seqs


def test_what_was_appended_is_read_in_order_by_the_next_run(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path) as spool:
            await spool.append([twin(seq) for seq in range(5)])
            await spool.append([])
            await spool.append([twin(5)])
            assert spool.backlog.messages == 6
            assert spool.counters.appended == 6
        async with opened(tmp_path) as spool:
            assert spool.backlog.messages == 6
            assert await drained(spool) == [0, 1, 2, 3, 4, 5]
            assert spool.counters.delivered == 6

    run(scenario)


def test_appends_that_wait_share_an_fsync(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path) as spool:
            await spool.append([twin(0)])
            before = spool.counters.fsyncs
            await asyncio.gather(*(spool.append([twin(seq)]) for seq in range(1, 201)))
            assert spool.counters.fsyncs - before < 20
            assert await drained(spool) == list(range(201))

    run(scenario)


def test_of_appends_that_share_an_fsync_only_the_one_without_room_fails(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path, protected_bytes=5000) as spool:
            large = Record("ev/v1/f/p/dead", b"x" * 9000)
            calls = [[twin(0)], [large, twin(99)], [twin(1)]]
            results = await asyncio.gather(*map(spool.append, calls), return_exceptions=True)
            assert [type(result) for result in results] == [
                type(None),
                SpoolFull.__subclasses__()[0],
                type(None),
            ]
            assert isinstance(results[1], SpoolFull)
            assert await drained(spool) == [0, 1]

    run(scenario)


def test_a_record_that_cannot_be_written_at_all_fails_only_its_own_call(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path) as spool:
            broken = Record("ev/v1/f/p/twin", b"{}", 1, "f", "p", 2**70, 1)
            calls = [[twin(0)], [Record("a/b", b""), broken], [twin(1)]]
            results = await asyncio.gather(*map(spool.append, calls), return_exceptions=True)
            assert [type(result) for result in results] == [type(None), OverflowError, type(None)]
            assert await drained(spool) == [0, 1]

    run(scenario)


def test_a_spool_that_is_not_open_says_so(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path) as spool:
            await spool.append([twin(0)])
        await spool.close()
        with pytest.raises(RuntimeError, match="not open"):
            await spool.append([twin(1)])

    run(scenario)


def test_a_cancelled_append_is_kept_whole_or_not_at_all(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path) as spool:
            tasks = [asyncio.create_task(spool.append([twin(2 * i), twin(2 * i + 1)])) for i in range(100)]
            for turn, task in enumerate(tasks):
                await asyncio.sleep(0)
                if turn % 3 == 0:
                    task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            seqs = await drained(spool)
            assert seqs == sorted(seqs)
            for i, task in enumerate(tasks):
                assert (2 * i in seqs) == (2 * i + 1 in seqs)
                assert task.cancelled() or 2 * i in seqs

    run(scenario)


def test_a_read_that_is_cancelled_loses_nothing(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path) as spool:
            await spool.append([twin(0)])
            task = asyncio.create_task(spool.read())
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert await drained(spool) == [0]

    run(scenario)


def test_appends_and_deliveries_at_the_same_time_lose_nothing(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path, segment_bytes=20_000) as spool:

            async def write() -> None:
                for seq in range(0, 2000, 10):
                    await spool.append([twin(seq + i, b"x" * 300) for i in range(10)])

            writer = asyncio.create_task(write())
            seqs: list[int] = []
            while not writer.done() or spool.backlog.messages:
                seqs += await drained(spool)
                await asyncio.sleep(0)
            assert seqs == list(range(2000))

    run(scenario)


def test_a_folder_that_cannot_be_made_fails_the_start_and_names_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        (tmp_path / "file").write_text("in the way")
        with pytest.raises(OSError, match="file"):
            async with opened(tmp_path / "file" / "spool"):
                pass

    run(scenario)


DIES = """
import asyncio, os, sys
from pathlib import Path
from voltflow.spool.spool import Record, Spool, SpoolOptions

async def main():
    spool = Spool(SpoolOptions(Path(sys.argv[1]), 10**8, 1e6, 10**7))
    await spool.open()
    seq = 0
    while True:
        await spool.append([Record("ev/v1/f/p/twin", b"x" * 1500, 1, "f", "p", 1, seq + i, 1) for i in range(10)])
        seq += 10
        print(seq, flush=True)

asyncio.run(main())
"""


def test_what_append_confirmed_outlives_a_kill(tmp_path: Path) -> None:
    command = [sys.executable, "-c", DIES, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=dict(os.environ)) as child:
        assert child.stdout is not None
        for _ in range(20):
            child.stdout.readline()
        child.kill()
        confirmed = int(("0\n" + child.stdout.read()).split()[-1])

    async def scenario() -> None:
        async with opened(tmp_path) as spool:
            seqs = await drained(spool)
            assert seqs == list(range(len(seqs)))
            assert len(seqs) >= max(confirmed, 200)

    run(scenario)
