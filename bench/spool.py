"""`python -m bench.spool`: what keeping messages on disk costs in three ways, and what damage to the disk costs then.

The store of Voltflow (segments with CRCs), SQLite (WAL, synchronous=FULL) and LMDB keep the same messages of 1,500 bytes,
each batch safe before the next one begins. Then the end of the newest file is torn off as by a power cut, and then one bit
is turned over in each of many copies. LMDB is measured where `pip install lmdb` was run. Give a folder on the disk in
question; a file system in memory makes all three look alike.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import logging
import os
import random
import shutil
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol

import msgspec

from bench.report import machine
from voltflow.spool.format import Record
from voltflow.spool.store import SpoolOptions, SpoolStore

PAGE = Path(__file__).resolve().parent.parent / "docs" / "spool.md"
BEGIN, END = "<!-- figures: python -m bench.spool -->", "<!-- end of figures -->"
PAYLOAD_BYTES = 1500
BATCHES = (1, 10, 100)
WRITES, ROUNDS = 60, 5
"""Batches of each size in one round; the best round counts, for others use the disk, too."""
FLIPS, FLIP_MESSAGES = 300, 1000
TORN_BYTES = 700
GB = 1024**3


class Costs(msgspec.Struct):
    """One way of keeping messages; the first figures by the size of the batch."""

    name: str
    batches_per_s: dict[int, float] = {}
    messages_per_s: dict[int, float] = {}
    device_bytes: dict[int, float] = {}
    torn_kept: int = 0
    torn_open_s: float = 0.0
    flips_lost: list[int] = []
    flips_wrong: list[int] = []


class Store(Protocol):
    """What is compared: `append` returns when the batch is safe."""

    def append(self, first: int, payloads: Sequence[bytes]) -> None: ...

    def read(self) -> Iterator[tuple[int, bytes]]: ...

    def close(self) -> None: ...


class Segments:
    """The store of `voltflow.spool.spool`."""

    def __init__(self, folder: Path) -> None:
        self.store = SpoolStore(SpoolOptions(folder, 100 * GB, 1e9, GB))
        self.store.open()

    def append(self, first: int, payloads: Sequence[bytes]) -> None:
        records = [
            Record("ev/v1/demo/SIM000001/twin", payload, 1_764_000_000_000, "demo", "SIM000001", 1, first + i, 1_764_000_000_000)
            for i, payload in enumerate(payloads)
        ]  # fmt: skip
        if self.store.append([records]) != [None]:
            raise OSError("the spool is full")

    def read(self) -> Iterator[tuple[int, bytes]]:
        while (chunk := self.store.read(1000, GB)) is not None:
            yield from (
                (record.seq, record.payload) for record in chunk.records if record.topic.endswith("twin")
            )
            self.store.delivered(chunk)

    def close(self) -> None:
        self.store.close()


class Sqlite:
    """One table; a commit is durable."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.db = sqlite3.connect(folder / "spool.db", isolation_level=None)
        self.db.execute("PRAGMA journal_mode=WAL")
        self.db.execute("PRAGMA synchronous=FULL")
        self.db.execute(
            "CREATE TABLE IF NOT EXISTS message (seq INTEGER PRIMARY KEY, topic TEXT, pack TEXT, boot INT, payload BLOB)"
        )

    def append(self, first: int, payloads: Sequence[bytes]) -> None:
        rows = [
            (first + i, "ev/v1/demo/SIM000001/twin", "SIM000001", 1, payload)
            for i, payload in enumerate(payloads)
        ]
        self.db.execute("BEGIN")
        self.db.executemany("INSERT INTO message VALUES (?, ?, ?, ?, ?)", rows)
        self.db.execute("COMMIT")

    def read(self) -> Iterator[tuple[int, bytes]]:
        yield from self.db.execute("SELECT seq, payload FROM message ORDER BY seq")

    def close(self) -> None:
        self.db.close()


class Lmdb:
    """Keys in order, written with `append`; a commit is durable."""

    def __init__(self, folder: Path) -> None:
        lmdb = importlib.import_module("lmdb")
        self.env: Any = lmdb.open(str(folder), map_size=8 * GB)

    def append(self, first: int, payloads: Sequence[bytes]) -> None:
        with self.env.begin(write=True) as transaction:
            for i, payload in enumerate(payloads):
                transaction.put(
                    (first + i).to_bytes(8, "big"), b"ev/v1/demo/SIM000001/twin" + payload, append=True
                )

    def read(self) -> Iterator[tuple[int, bytes]]:
        with self.env.begin() as transaction:
            for key, value in transaction.cursor():
                yield int.from_bytes(key, "big"), bytes(value[25:])

    def close(self) -> None:
        self.env.close()


SYSTEMS: dict[str, Callable[[Path], Store]] = {
    "segments (voltflow)": Segments,
    "SQLite, WAL, FULL": Sqlite,
    "LMDB": Lmdb,
}


def main() -> int:
    """Measure, print, and put the table into docs/spool.md."""
    parser = argparse.ArgumentParser(allow_abbrev=False, prog="python -m bench.spool", description=__doc__)
    parser.add_argument(
        "--messages", type=int, default=200_000, help="messages that wait when the power goes"
    )
    parser.add_argument("--batch", default=",".join(map(str, BATCHES)), help="batch sizes, by commas")
    parser.add_argument("--folder", type=Path, default=Path(), help="a folder on the disk to measure")
    parser.add_argument("--keep", action="store_true", help=f"put the table into {PAGE.name}")
    args = parser.parse_args()
    logging.disable()
    batches = [int(size) for size in args.batch.split(",")]
    there = importlib.util.find_spec("lmdb") is not None
    found = [Costs(name) for name in SYSTEMS if there or name != "LMDB"]
    for size in batches * ROUNDS:
        for costs in found:
            _measure(_write, costs, args.folder, size)
    for costs in found:
        _measure(_tear, costs, args.folder, args.messages)
        _measure(_flip, costs, args.folder, FLIPS)
    if len(found) < len(SYSTEMS):
        print("LMDB is not installed and was left out: pip install lmdb", file=sys.stderr)
    text = table(found, batches, args.messages)
    print(text)
    if args.keep:
        page = PAGE.read_text()
        before, after = page.partition(BEGIN)[0], page.partition(END)[2]
        PAGE.write_text(f"{before}{BEGIN}\n\n{text}\n{END}{after}")
    return 0


def _measure(what: Callable[[Costs, Path, int], None], costs: Costs, folder: Path, count: int) -> None:
    with tempfile.TemporaryDirectory(dir=folder) as place:
        what(costs, Path(place) / "store", count)
    print(f"{costs.name}: {what.__name__[1:]} {count:,} done", file=sys.stderr)


def payload(seq: int) -> bytes:
    """Bytes that do not repeat, so that nothing is gained by compression underneath."""
    return random.Random(seq).randbytes(PAYLOAD_BYTES)


def _fill(store: Store, messages: int, batch: int) -> None:
    for first in range(0, messages, batch):
        store.append(first, [payload(seq) for seq in range(first, min(first + batch, messages))])


def _write(costs: Costs, folder: Path, batch: int) -> None:
    payloads = [payload(seq) for seq in range(batch)]
    with closing(SYSTEMS[costs.name](folder)) as store:
        before, start_s = _device_bytes(), time.perf_counter()
        for index in range(WRITES):
            store.append(index * batch, payloads)
        took_s = time.perf_counter() - start_s
        costs.device_bytes[batch] = (_device_bytes() - before) / (WRITES * batch)
    costs.batches_per_s[batch] = max(costs.batches_per_s.get(batch, 0.0), WRITES / took_s)
    costs.messages_per_s[batch] = costs.batches_per_s[batch] * batch


def _device_bytes() -> int:
    """What this process had the kernel write; without the journal of the file system."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("write_bytes"))


def _tear(costs: Costs, folder: Path, messages: int) -> None:
    """The process is killed while it writes ten messages more, and the last bytes of these never arrive."""
    _in_child(lambda: _fill(SYSTEMS[costs.name](folder), messages + 10, 100))
    for path in sorted(folder.rglob("*.seg"))[-1:] or folder.glob("*-wal"):
        os.truncate(path, path.stat().st_size - TORN_BYTES)
    start_s = time.perf_counter()
    with closing(SYSTEMS[costs.name](folder)) as store:
        next(store.read())
        costs.torn_open_s = time.perf_counter() - start_s
        costs.torn_kept = min(messages, sum(1 for _ in store.read()))


def _flip(costs: Costs, folder: Path, times: int) -> None:
    """One bit of all that is on disk, many times; each in a process of its own, for a library may crash."""
    whole, copy = folder / "whole", folder / "copy"
    folder.mkdir()
    _in_child(lambda: _close_filled(costs.name, whole))
    dice = random.Random(1)
    for _ in range(times):
        shutil.copytree(whole, copy)
        files = [
            path
            for path in copy.rglob("*")
            if path.is_file() and path.stat().st_size and path.name != "lock.mdb"
        ]
        path = dice.choices(files, weights=[path.stat().st_size for path in files])[0]
        at = dice.randrange(path.stat().st_size)
        with path.open("r+b") as file:
            file.seek(at)
            byte = file.read(1)[0] ^ 1 << dice.randrange(8)
            file.seek(at)
            file.write(bytes([byte]))
        answer = _in_child(lambda: _read_back(costs.name, copy))
        intact, wrong = msgspec.json.decode(answer or b"[0,0]", type=tuple[int, int])
        costs.flips_lost.append(FLIP_MESSAGES - intact - wrong)
        costs.flips_wrong.append(wrong)
        shutil.rmtree(copy)


def _close_filled(name: str, folder: Path) -> None:
    with closing(SYSTEMS[name](folder)) as store:
        _fill(store, FLIP_MESSAGES, 10)


def _read_back(name: str, folder: Path) -> bytes:
    """How many messages are as they were, and how many came with other bytes."""
    intact: set[int] = set()
    wrong: set[int] = set()
    try:
        with closing(SYSTEMS[name](folder)) as store:
            for seq, found in store.read():
                (intact if found == payload(seq) else wrong).add(seq)
    except Exception as error:  # noqa: BLE001 - whatever a library says of a damaged file: the rest cannot be read
        print(f"{name}: {error}", file=sys.stderr)
    return msgspec.json.encode((len(intact), len(wrong - intact)))


def _in_child(function: Callable[[], bytes | None]) -> bytes:
    """What a function returns in a process that then ends at once, closing nothing; empty where it crashes."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, function() or b"")
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        answer = file.read()
    os.waitpid(child, 0)
    return answer


def table(found: list[Costs], batches: list[int], messages: int) -> str:
    """The Markdown table."""
    sizes = " / ".join(map(str, batches))
    rows: list[tuple[str, Callable[[Costs], str]]] = [
        (f"batches/s, each safe on disk (of {sizes} messages)", lambda c: _figures(c.batches_per_s)),
        (f"messages/s (in batches of {sizes})", lambda c: _figures(c.messages_per_s)),
        (f"bytes written per message of {PAYLOAD_BYTES:,} bytes ({sizes})", lambda c: _figures(c.device_bytes)),
        (f"killed while writing behind {messages:,} messages: of these kept", lambda c: f"{c.torn_kept:,}"),
        ("… time until the first of them is read again", lambda c: f"{c.torn_open_s:.2f} s"),
        (f"one wrong bit, {FLIPS} times: all messages came as they were", lambda c: str(_intact(c))),
        ("… a message came with the wrong bit, unnoticed", lambda c: str(sum(map(bool, c.flips_wrong)))),
        ("… messages were lost", lambda c: str(sum(map(bool, c.flips_lost)))),
        (f"… so many at worst, of {FLIP_MESSAGES:,}", lambda c: f"{max(c.flips_lost):,}"),
    ]  # fmt: skip
    lines = ["| | " + " | ".join(costs.name for costs in found) + " |", "|---" * (len(found) + 1) + "|"]
    lines += [f"| {title} | " + " | ".join(map(figure, found)) + " |" for title, figure in rows]
    about = machine()
    return "\n".join(
        [*lines, "", f"{about['date']}; {about['cpu']}, {about['cores']} cores; {about['system']}."]
    )


def _figures(values: dict[int, float]) -> str:
    return " / ".join(f"{value:,.0f}" for value in values.values())


def _intact(costs: Costs) -> int:
    return list(zip(costs.flips_lost, costs.flips_wrong, strict=True)).count((0, 0))


if __name__ == "__main__":
    sys.exit(main())
