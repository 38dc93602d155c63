"""The way out of one class of the spool: where reading stands, and what comes next."""

from __future__ import annotations

import logging
from typing import NamedTuple

from voltflow.spool.disk import SpoolCounters, read_all
from voltflow.spool.format import HEADER_BYTES, Entry, Group
from voltflow.spool.log import Log, Segment
from voltflow.spool.read import READERS

log = logging.getLogger(__name__)


class Position(NamedTuple):
    """A place in a log. `level` tells a rewritten segment from the one before of the same number; `offset` is where
    a group begins, `number` its first record's, `skip` how many of its entries are done; `done` counts the segment's."""

    segment: int = 0
    level: int = 0
    offset: int = HEADER_BYTES
    number: int = 0
    skip: int = 0
    done: int = 0


class Drain:
    """Reads a log from a position on; nothing moves until `settle`."""

    def __init__(self, the_log: Log, counters: SpoolCounters) -> None:
        self.log, self._counters = the_log, counters
        self.position = Position()
        self.last_ms = 0
        self._data, self._base, self._of = b"", 0, (0, 0)
        self._groups: dict[int, Group | None] = {}

    @property
    def messages(self) -> int:
        """How many are still to come."""
        return self.log.messages - self._here().done

    @property
    def oldest_ms(self) -> int | None:
        """When the oldest of them was received, about."""
        segment = self.log.at(self._here().segment)
        return (
            (max(segment.footer.oldest_ms, self.last_ms) or None) if segment and self.messages > 0 else None
        )

    def forget(self) -> None:
        """Read from the disk again what is kept in memory."""
        self._of, self._data, self._groups = (0, 0), b"", {}

    def _here(self) -> Position:
        """The position, moved on where its segment is gone or was rewritten."""
        position = self.position
        segment = self.log.at(position.segment)
        if segment is not None and (segment.number, segment.level) != position[:2]:
            self.position = position = Position(segment.number, segment.level)
        elif segment is None and position.done:
            self.position = position = Position(position.segment + 1)
        return position

    def take(self, limit: int, max_bytes: int) -> tuple[list[Entry], Position]:
        """The next entries, all of one segment, and the position behind them; nothing where nothing is left."""
        while (segment := self.log.at(self._here().segment)) is not None:
            entries, position = self._take(segment, limit, max_bytes)
            if entries:
                return entries, position
            if not self._finished(segment, position):
                break
            self.log.remove([segment])
        self.forget()
        return [], self.position

    def _take(self, segment: Segment, limit: int, max_bytes: int) -> tuple[list[Entry], Position]:
        entries: list[Entry] = []
        position, size = self.position, 0
        while len(entries) < limit and size < max_bytes:
            group = self._group(segment, position)
            if group is None:
                break
            if position.skip >= len(group.entries):
                position = position._replace(offset=group.end, number=group.number, skip=0)
                continue
            entry = group.entries[position.skip]
            size += len(getattr(entry, "payload", b""))
            if entries and size > max_bytes:
                break
            entries.append(entry)
            position = position._replace(skip=position.skip + 1, done=position.done + 1)
        return entries, position

    def rest(self, segment: Segment) -> list[Entry]:
        """Everything of a segment that was not delivered."""
        here = self._here()
        position = here if here.segment == segment.number else Position(segment.number, segment.level)
        found: list[Entry] = []
        while (group := self._group(segment, position)) is not None:
            found += group.entries[position.skip :]
            position = position._replace(offset=group.end, number=group.number, skip=0)
        return found

    def settle(self, position: Position) -> bool:
        """Moves on; a segment that is done is deleted. Whether one was."""
        self.position = position
        for offset in [offset for offset in self._groups if offset < position.offset]:
            del self._groups[offset]
        segment = self.log.at(position.segment)
        if segment is None or not self._finished(segment, position):
            return False
        self.log.remove([segment])
        return True

    def _finished(self, segment: Segment, position: Position) -> bool:
        if segment is self.log.active or position.segment != segment.number:
            return False
        while (group := self._group(segment, position)) is not None and position.skip >= len(group.entries):
            position = position._replace(offset=group.end, number=group.number, skip=0)
        return group is None

    def _group(self, segment: Segment, position: Position) -> Group | None:
        """The group at a position; kept, for a chunk often ends within one."""
        if self._of != (segment.number, segment.level):
            self._groups, self._data, self._base, self._of = {}, b"", 0, (segment.number, segment.level)
        if position.offset not in self._groups:
            group = self._read(segment, position)
            if group is None:
                return None
            self._groups[position.offset] = group
        return self._groups[position.offset]

    def _read(self, segment: Segment, position: Position) -> Group | None:
        reader = READERS[segment.version]
        self._load(segment, position.offset)
        if segment.level and position.offset == HEADER_BYTES:
            group: Group | None = reader.read_losses(self._data, segment.footer)
        else:
            group = reader.read_group(
                self._data, position.offset - self._base, position.number, segment.footer
            )
        if group is None:
            return None
        if group.repaired:
            self._counters.repaired += group.repaired
            log.warning("spool: %s: %d wrong bits turned back", segment.path, group.repaired)
        end = group.end + self._base
        # Always on, whatever is damaged: who reads group after group must come to an end.
        return group._replace(end=end if end > position.offset else max(segment.end, position.offset) + 1)

    def _load(self, segment: Segment, offset: int) -> None:
        """A segment is read in one go; of the one that still grows, what is new."""
        loaded = self._base + len(self._data)
        if self._data and self._base <= offset < loaded:
            return
        self._base = 0 if segment.level else offset
        try:
            self._data = read_all(segment.path, self._base, segment.end)
        except OSError as error:
            log.warning("spool: %s cannot be read: %s; its messages are lost", segment.path, error.strerror)
            self._data = b""
