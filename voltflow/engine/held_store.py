"""Held messages on disk: what a node keeps for later and its source must not have to send again.

One SQLite file for a flow. A call returns when what it says is safe (`synchronous=FULL`); all of them run in one thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec

from voltflow.flow.properties import plain
from voltflow.message import Key, Msg

log = logging.getLogger(__name__)

T = TypeVar("T")
FILE = "held.sqlite"
_VERSION = 1
_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS held (
    id INTEGER PRIMARY KEY, node TEXT NOT NULL, grp TEXT NOT NULL, at_s REAL NOT NULL, msg BLOB NOT NULL
);
PRAGMA user_version = {_VERSION};
"""
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


class Row(NamedTuple):
    """One message that `node` holds in a group since `at_s` (seconds since 1970)."""

    id: int
    node: str
    group: str
    at_s: float
    msg: Msg


class HeldStore:
    """Use: `open`, `add`, `remove`, `close`. Without a file until the first `add`."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        self._thread: ThreadPoolExecutor | None = None
        self._database: sqlite3.Connection | None = None
        self._next_id = 1

    async def open(self) -> list[Row]:
        """What an earlier run left, in the order in which it came; a damaged file is set aside.

        Raises OSError or sqlite3.Error where it cannot be read.
        """
        return await self.read() if self.path.exists() else []

    async def read(self) -> list[Row]:
        """Everything that is kept, without what cannot be read."""
        return await self._in_thread(self._read)

    async def add(self, rows: Sequence[tuple[str, str, float, bytes]]) -> list[int]:
        """Keep (node, group, at_s, encoded message); their ids. Raises sqlite3.Error, and then nothing is kept."""
        return await self._in_thread(lambda: self._add(rows))

    async def remove(self, ids: Iterable[int]) -> None:
        """Forget them."""
        gone = [(id,) for id in ids]
        await self._in_thread(lambda: self._remove(gone))

    async def close(self) -> None:
        if self._thread is not None:
            thread, self._thread = self._thread, None
            try:
                await asyncio.get_running_loop().run_in_executor(thread, self._close)
            finally:
                thread.shutdown(wait=False)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="held")
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    # -- in the thread ----------------------------------------------------------------------------------------------

    def _open(self) -> sqlite3.Connection:
        if self._database is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._database = self._mended(self._connect)
        return self._database

    def _connect(self) -> sqlite3.Connection:
        database = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
        try:
            _prepare(database)
            self._next_id = (database.execute("SELECT max(id) FROM held").fetchone()[0] or 0) + 1
        except BaseException:
            database.close()
            raise
        return database

    def _mended(self, work: Callable[[], T]) -> T:
        """What it gives; a file that it finds damaged is set aside for people to look at, and it gets a new one."""
        try:
            return work()
        except sqlite3.DatabaseError as error:
            if getattr(error, "sqlite_errorcode", None) not in _DAMAGED:
                raise
            self._close()
            aside = self.path.with_name(f"{FILE}.damaged-{time.time_ns() // 1_000_000}")
            for suffix in ("-shm", "-wal", ""):
                with contextlib.suppress(FileNotFoundError):
                    self.path.with_name(FILE + suffix).rename(aside.with_name(aside.name + suffix))
            text = "%s is damaged (%s): it is kept as %s; what nodes held is not taken up again"
            log.error(text, self.path, error, aside.name)  # noqa: TRY400 - the reason is all there is to it
            return work()

    def _read(self) -> list[Row]:
        found = self._mended(lambda: self._open().execute("SELECT * FROM held ORDER BY id").fetchall())
        rows, error = [], None
        for id, node, group, at_s, data in found:
            try:
                rows.append(Row(id, node, group, at_s, decode(data)))
            except (msgspec.MsgspecError, ValueError) as reason:
                error = reason
        if error is not None:
            log.error(
                "%d held messages in %s cannot be read, they stay there: %s",
                len(found) - len(rows),
                self.path,
                error,
            )
        return rows

    def _add(self, rows: Sequence[tuple[str, str, float, bytes]]) -> list[int]:
        database = self._open()
        ids = list(range(self._next_id, self._next_id + len(rows)))
        with _transaction(database):
            database.executemany(
                "INSERT INTO held VALUES (?, ?, ?, ?, ?)",
                [(id, *row) for id, row in zip(ids, rows, strict=True)],
            )
        self._next_id += len(rows)
        return ids

    def _remove(self, ids: list[tuple[int]]) -> None:
        database = self._open()
        with _transaction(database):
            database.executemany("DELETE FROM held WHERE id = ?", ids)

    def _close(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None


def _prepare(database: sqlite3.Connection) -> None:
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("PRAGMA synchronous=FULL")
    version = database.execute("PRAGMA user_version").fetchone()[0]
    if version > _VERSION:
        raise sqlite3.NotSupportedError(
            f"it is of a newer version ({version}) than this program knows ({_VERSION})"
        )
    if version < _VERSION:
        database.executescript(_SCHEMA)


@contextlib.contextmanager
def _transaction(database: sqlite3.Connection) -> Any:
    database.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            database.execute("ROLLBACK")
        raise
    database.execute("COMMIT")


class _Stored(msgspec.Struct, array_like=True):
    """A message as bytes; the original as far as a dead letter needs it."""

    topic: str
    payload: Any
    key: Key | None
    received_ms: int
    props: dict[str, Any] | None
    origin_topic: str | None = None
    origin_payload: bytes | None = None


def encode(msg: Msg) -> bytes:
    """Raises an exception where a property is nothing that can be kept."""
    origin = msg.origin
    keeps_origin = origin is not None and isinstance(origin.payload, bytes)
    stored = _Stored(
        msg.topic, plain(msg.payload), msg.key, msg.received_ms, dict(msg.props) if msg.props else None,
        origin.topic if origin is not None and keeps_origin else None,
        origin.payload if origin is not None and keeps_origin else None,
    )  # fmt: skip
    return msgspec.msgpack.encode(stored)


def decode(data: bytes) -> Msg:
    """What `encode` was given, with a payload of plain values."""
    stored = msgspec.msgpack.decode(data, type=_Stored)
    origin = None
    if stored.origin_topic is not None:
        origin = Msg(stored.origin_topic, stored.origin_payload, stored.key, stored.received_ms)
    return Msg(stored.topic, stored.payload, stored.key, stored.received_ms, stored.props, origin)
