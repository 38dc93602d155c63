"""The spool without asyncio: two logs, their quotas, and the cursor. Everything runs in one thread."""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zlib import crc32

import msgspec

from voltflow import topics
from voltflow.folder_lock import FolderLock
from voltflow.message import now_ms
from voltflow.spool.disk import Disk, SpoolCounters
from voltflow.spool.drain import Drain, Position
from voltflow.spool.format import DAMAGED, Entry, Footer, Lost, Range, Record
from voltflow.spool.log import Log
from voltflow.spool.quota import Quota
from voltflow.telemetry import Loss

log = logging.getLogger(__name__)

PROTECTED, TELEMETRY = "protected", "telemetry"
CLASSES = (PROTECTED, TELEMETRY)
"""In the order in which they are read."""
_QUOTA_SHARE = 32
"""A segment is at most this share of its quota: deleting or thinning one is a small step."""
_CURSOR_PERIOD_S = 1.0
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_REMEDY = {
    errno.ENOSPC: "free space on this disk, or lower spool_max_mb",
    errno.EDQUOT: "raise the user's disk quota, or lower spool_max_mb",
    errno.EFBIG: "raise the file size limit (ulimit -f) of the service",
    errno.EROFS: "the file system is mounted read-only: look for disk errors (dmesg), then remount it",
    errno.EIO: "the disk fails (dmesg): replace it",
}


@dataclass(frozen=True)
class SpoolOptions:
    """What a spool may use. `gateway` is named in loss records."""

    folder: Path
    telemetry_bytes: int
    telemetry_age_s: float
    protected_bytes: int
    segment_bytes: int = 4 * 1024 * 1024
    gateway: str = ""


class SpoolFull(Exception):
    """Nothing of the call was kept; the message says where, why, and what to do."""


@dataclass(eq=False)
class Chunk:
    """Messages to deliver; give it back to `delivered` when the far side has them."""

    records: list[Record]
    kind: str
    position: Position
    damaged: int = 0
    last_ms: int = 0


@dataclass(frozen=True)
class Backlog:
    """What waits; `by_class` are messages. `oldest_ms` is None where nothing waits or the time is not known."""

    messages: int = 0
    bytes: int = 0
    oldest_ms: int | None = None
    by_class: dict[str, int] = field(default_factory=dict)


class SpoolStore:
    """See `voltflow.spool.spool.Spool`, which calls this in its thread."""

    def __init__(self, options: SpoolOptions, now_ms: Callable[[], int] = now_ms) -> None:
        self.options, self.counters, self._now_ms = options, SpoolCounters(), now_ms
        self._disk = Disk(self.counters)
        quotas = {PROTECTED: options.protected_bytes, TELEMETRY: options.telemetry_bytes}
        self.logs = {
            name: Log(options.folder / name, min(options.segment_bytes, quota // _QUOTA_SHARE), self._disk)
            for name, quota in quotas.items()
        }
        self.drains = {name: Drain(self.logs[name], self.counters) for name in CLASSES}
        self._quota = Quota(
            self.drains[TELEMETRY], options.telemetry_bytes, options.telemetry_age_s, self.counters
        )
        self._under_way: Chunk | None = None
        self._lock = FolderLock(options.folder, "state_dir")
        self._cursor_file = options.folder / "cursor"
        self._cursor_written, self._cursor_at_s = b"", 0.0

    # Start and end

    def open(self) -> None:
        """Reads what is there; raises OSError only where a folder cannot be made or listed, or another program has it."""
        self.options.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock.take()
        positions = _read_cursor(self._cursor_file)
        for name in CLASSES:
            the_log, position = self.logs[name], positions.get(name, Position())
            the_log.next_number = max(the_log.next_number, position.segment + 1)
            the_log.open()
            the_log.remove([segment for segment in the_log.segments if segment.number < position.segment])
            self.drains[name].position = position
        backlog = self.backlog()
        if backlog.messages:
            log.info("spool %s: %d messages wait", self.options.folder, backlog.messages)

    def close(self) -> None:
        """Makes the next start quick; what waits stays."""
        self._reclaim()
        for the_log in self.logs.values():
            the_log.seal()
        self._write_cursor()
        self._lock.release()

    def backlog(self) -> Backlog:
        """What waits; costs the same however much that is."""
        by_class = {name: drain.messages for name, drain in self.drains.items()}
        times = [drain.oldest_ms for drain in self.drains.values()]
        return Backlog(
            sum(by_class.values()),
            sum(the_log.bytes for the_log in self.logs.values()),
            min((oldest_ms for oldest_ms in times if oldest_ms), default=None),
            by_class,
        )

    # Writing

    def append(self, calls: Sequence[Sequence[Record]]) -> list[SpoolFull | None]:
        """Makes the records of all calls safe with one fsync a class, and says which calls failed.

        Where not all fit, each call is tried alone: the small one with the alert may find room.
        """
        records = [record for call in calls for record in call]
        try:
            self._commit_with_reclaim(records)
        except _NoRoom as error:
            if len(calls) > 1:
                return [self.append([call])[0] for call in calls]
            return [error]
        except SpoolFull as error:
            return [error] * len(calls)
        self.counters.appended += sum(map(len, calls))
        return [None] * len(calls)

    def _commit_with_reclaim(self, records: list[Record]) -> None:
        try:
            self._commit(records)
        except _NoRoom:
            if not self._reclaim():
                raise
            self._commit(records)

    def _commit(self, records: list[Record]) -> None:
        parts: dict[str, list[Record]] = {name: [] for name in CLASSES}
        for record in records:
            parts[class_of(record.topic)].append(record)
        self._check_protected(parts[PROTECTED])
        try:
            self._make_room(parts[TELEMETRY])
        except OSError as error:
            raise self._full(self.logs[TELEMETRY].folder, error) from error
        done: list[tuple[Log, tuple[int, Footer]]] = []
        try:
            for name in CLASSES:
                the_log = self.logs[name]
                if parts[name]:
                    done.append((the_log, the_log.append(parts[name], self._now_ms())))
        except Exception as error:
            for written, before in done:
                written.retract(before)
            if isinstance(error, OSError):
                raise self._full(the_log.folder, error) from error
            raise

    def _reclaim(self) -> bool:
        """Deletes the file being written where all of it was delivered; whether one was."""
        done = [
            name for name in CLASSES if self.logs[name].active is not None and not self.drains[name].messages
        ]
        for name in done:
            self.logs[name].remove(self.logs[name].segments[-1:])
        return bool(done)

    def _check_protected(self, records: list[Record]) -> None:
        allowed = self.options.protected_bytes
        if records and self.logs[PROTECTED].bytes + _size(records) > allowed:
            raise _NoRoom(
                f"spool {self.logs[PROTECTED].folder}: alerts and dead letters have filled their {allowed} bytes, which"
                " are never dropped: bring the uplink back, or raise spool_protected_mb"
            )

    def _make_room(self, records: list[Record]) -> None:
        if not records:
            return
        chunk = self._under_way
        in_use = chunk.position.segment if chunk is not None and chunk.kind == TELEMETRY else None
        self._quota.expire(self._now_ms(), in_use)
        if not self._quota.make_room(_size(records), in_use):
            raise _NoRoom(
                f"spool {self.logs[TELEMETRY].folder}: {_size(records)} bytes more do not fit into the"
                f" {self.options.telemetry_bytes} allowed: raise spool_max_mb"
            )

    def _full(self, folder: Path, error: OSError) -> SpoolFull:
        code = error.errno or 0
        remedy = _REMEDY.get(code, "see the system's log (dmesg)")
        message = f"spool {folder} cannot be written: {error.strerror}: {remedy}"
        return _NoRoom(message) if code in _FULL else SpoolFull(message)

    # Reading

    def read(self, limit: int, max_bytes: int) -> Chunk | None:
        """The oldest messages that were not delivered; the same again until `delivered` is called."""
        self._under_way = None
        for name in CLASSES:
            while (chunk := self._chunk(name, limit, max_bytes)) is not None:
                if chunk.records:
                    self._under_way = chunk
                    return chunk
                self._settle(chunk)
        return None

    def _chunk(self, name: str, limit: int, max_bytes: int) -> Chunk | None:
        entries, position = self.drains[name].take(limit, max_bytes)
        if not entries:
            return None
        damaged = sum(isinstance(entry, Lost) for entry in entries)
        records = [record for entry in entries if (record := self._message(entry)) is not None]
        last_ms = max((entry.received_ms for entry in entries if isinstance(entry, Record)), default=0)
        return Chunk(records, name, position, damaged, last_ms)

    def _message(self, entry: Entry) -> Record | None:
        """What is sent for an entry: for a lost one its loss record, where it is known what was lost."""
        if isinstance(entry, Record):
            return entry
        lost = entry.range if isinstance(entry, Lost) else entry
        return None if lost is None else self._loss_record(lost)

    def _loss_record(self, lost: Range) -> Record:
        loss = Loss(
            schema_="loss/1", fleet=lost.fleet, pack=lost.pack, boot=lost.boot,
            seq_from=lost.seq_from, seq_to=lost.seq_to, reason=lost.reason, gateway=self.options.gateway,
        )  # fmt: skip
        topic = topics.LOSS.of(lost.fleet, lost.pack)
        return Record(
            topic, msgspec.json.encode(loss), self._now_ms(), lost.fleet, lost.pack, lost.boot, lost.seq_from
        )

    def delivered(self, chunk: Chunk) -> None:
        """Moves on behind a chunk, which must be the one that was read last."""
        if chunk is not self._under_way:
            raise ValueError(
                "this chunk is not under way: only the one that was read last can be delivered, once"
            )
        self._under_way = None
        self.counters.delivered += len(chunk.records)
        self._settle(chunk)

    def _settle(self, chunk: Chunk) -> None:
        drain, the_log = self.drains[chunk.kind], self.logs[chunk.kind]
        if chunk.damaged:
            self.counters.damaged += chunk.damaged
            self.counters.count_lost(DAMAGED, chunk.damaged)
            log.error("spool %s: %d messages were damaged on the disk", the_log.folder, chunk.damaged)
        drain.last_ms = chunk.last_ms or drain.last_ms
        finished = drain.settle(chunk.position)
        now_s = time.monotonic()
        if finished or now_s - self._cursor_at_s >= _CURSOR_PERIOD_S:
            self._reclaim()
            self._write_cursor()

    def _write_cursor(self) -> None:
        """Where this fails, a restart delivers some messages again."""
        self._cursor_at_s = time.monotonic()
        text = msgspec.json.encode({name: drain.position for name, drain in self.drains.items()})
        if text == self._cursor_written:
            return
        try:
            self._disk.replace(self._cursor_file, b"%08x %s\n" % (crc32(text), text), sync=False)
            self._cursor_written = text
        except OSError as error:
            log.warning("spool: %s cannot be written: %s", self._cursor_file, error.strerror)


class _NoRoom(SpoolFull):
    """A smaller call may still fit."""


def class_of(topic: str) -> str:
    """`telemetry` is what is thinned and dropped; all other messages are protected.

    >>> class_of("ev/v1/f/p/twin"), class_of("ev/v1/f/p/alert"), class_of("plant/7/door")
    ('telemetry', 'protected', 'protected')
    """
    place = topics.parse(topic)
    kinds = (topics.TWIN.kind, topics.TELEMETRY.kind)
    return TELEMETRY if place is not None and place.kind in kinds else PROTECTED


def _size(records: Sequence[Record]) -> int:
    """An upper bound of what the records take on the disk, headers of a new file included."""
    return (
        sum(
            len(record.payload)
            + 2 * (len(record.topic.encode()) + len(record.fleet) + len(record.pack))
            + 120
            for record in records
        )
        + 256
    )


def _read_cursor(path: Path) -> dict[str, Position]:
    """Positions by class; none where the file is missing or damaged: then what is left is delivered again."""
    try:
        checksum, text = path.read_bytes().rstrip(b"\n").split(b" ", 1)
        if int(checksum, 16) == crc32(text):
            found: dict[str, list[Any]] = msgspec.json.decode(text)
            return {name: Position(*position) for name, position in found.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError) as error:
        log.warning("spool: %s cannot be read: %s", path, error)
        return {}
    log.warning("spool: %s is damaged: what is left is delivered again", path)
    return {}
