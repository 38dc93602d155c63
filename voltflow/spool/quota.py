"""Keeps the telemetry of a spool within its bytes and age: thins the oldest, thins it again, drops it.

A run of closed segments is rewritten into one, which holds what stays and, in the same file, the ranges of sequence
numbers of what went. One rename puts both in place, so there is no moment at which a message is gone and
nothing says so. When such a segment is read, its ranges come first, as loss records.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from voltflow.spool import thinning
from voltflow.spool.disk import SpoolCounters
from voltflow.spool.drain import Drain
from voltflow.spool.format import (
    DAMAGED,
    Entry,
    Footer,
    Lost,
    Range,
    Record,
    encode_footer,
    encode_group,
    encode_header,
    encode_losses,
)
from voltflow.spool.log import Segment, counted

log = logging.getLogger(__name__)

RUN = 4
"""Segments that are thinned together: a period of many packs spans more than one."""
DROPPED = 3
"""The level of a segment that holds nothing but ranges of what was dropped."""
QUOTA_BYTES, QUOTA_AGE = "quota_bytes", "quota_age"
SAY_EVERY_S = 60.0
"""How often the log says that messages are given up, for each reason; the counters know each one."""
KNOWN_MS = 1_577_836_800_000
"""2020: an earlier time is that of a clock which was not yet set, and says nothing of a message's age."""
_GROUP = 256


class Step(NamedTuple):
    """One rewriting: to which level, why, and how far apart messages are to be (None: none stays)."""

    level: int
    reason: str
    period_ms: int | None


THIN = (Step(1, "thinned_10s", 10_000), Step(2, "thinned_60s", 60_000))
_SEVERITY = [step.reason for step in THIN] + [QUOTA_BYTES, QUOTA_AGE]


class Quota:
    """The quota of one log; `size` of what is to be added must be an upper bound."""

    def __init__(self, drain: Drain, allowed_bytes: int, age_s: float, counters: SpoolCounters) -> None:
        self._log, self._drain, self._counters = drain.log, drain, counters
        self._age_ms = round(age_s * 1000)
        self._say_again_s: dict[str, float] = {}
        self._allowed_bytes = (
            allowed_bytes - RUN * drain.log.segment_bytes
        )  # what a rewriting needs meanwhile

    def make_room(self, size: int, in_use: int | None) -> bool:
        """Thin and drop until so many bytes fit; `in_use` is the segment that is being delivered. Whether they do."""
        while self._log.bytes + size > self._allowed_bytes:
            if size > self._allowed_bytes or not self._shrink(in_use):
                return False
        return True

    def expire(self, now_ms: int, in_use: int | None) -> None:
        """Drop what has waited too long, a run at most."""
        active, too_old_ms = self._log.active, now_ms - self._age_ms
        if self._age_ms <= 0:
            return
        if active is not None and KNOWN_MS < active.begun_ms < now_ms - self._age_ms // 8:
            self._log.seal()
        old: list[Segment] = []
        for segment in self._free(in_use):
            if segment.level < DROPPED:
                if not KNOWN_MS < segment.footer.newest_ms < too_old_ms or len(old) == RUN:
                    break
                old.append(segment)
        if old:
            self._drop(old[:1] + self._following(old[0], old[1:]), QUOTA_AGE, in_use)

    def _following(self, first: Segment, others: list[Segment]) -> list[Segment]:
        """Those of the others that stand directly behind the first."""
        place = self._log.segments.index(first) + 1
        count = 0
        while count < len(others) and self._log.segments[place + count] is others[count]:
            count += 1
        return others[:count]

    def _free(self, in_use: int | None) -> Iterator[Segment]:
        """What may be rewritten: neither written to nor under way to the far side."""
        active = self._log.active
        return (s for s in self._log.segments if s is not active and s.number != in_use)

    def _shrink(self, in_use: int | None) -> bool:
        """One step: thin where a whole run can be thinned, else drop the oldest that was, else thin what there is."""
        free = list(self._free(in_use))
        runs = [self._run([segment for segment in free if segment.level == level], RUN) for level in (0, 1)]
        for run, step in zip(runs, THIN, strict=True):
            if len(run) == RUN:
                return self._rewrite(run, step)
        thinned = [segment for segment in free if segment.level == len(THIN)]
        if thinned:
            return self._drop(thinned[:1], QUOTA_BYTES, in_use)
        for run, step in zip(runs, THIN, strict=True):
            if run:
                return self._rewrite(run, step)
        return False

    def _run(self, segments: list[Segment], limit: int) -> list[Segment]:
        """The first of the segments and those behind it that are neighbours."""
        return segments[:1] + self._following(segments[0], segments[1:limit]) if segments else []

    def _drop(self, run: list[Segment], reason: str, in_use: int | None) -> bool:
        """The ranges of what was dropped before are taken along, so that their files do not add up."""
        for before in reversed(self._log.segments[: self._log.segments.index(run[0])]):
            if before.level != DROPPED or before.number == in_use:
                break
            run = [before, *run]
        return self._rewrite(run, Step(DROPPED, reason, None))

    def _rewrite(self, run: list[Segment], step: Step) -> bool:
        reader = Drain(self._log, self._counters)
        reader.position = self._drain.position
        entries = [entry for segment in run for entry in reader.rest(segment)]
        records = [entry for entry in entries if isinstance(entry, Record)]
        stays = [False] * len(records) if step.period_ms is None else thinning.keep(records, step.period_ms)
        kept = [record for record, stay in zip(records, stays, strict=True) if stay]
        gone = [record for record, stay in zip(records, stays, strict=True) if not stay]
        ranges = merge([*_known(entries), *_ranges(gone, kept, step.reason)])
        if kept or ranges:
            last = run[-1]
            kept_ms = max(segment.footer.newest_ms for segment in run)
            footer, data = _encode(step.level, run[0].covers, kept, ranges, kept_ms)
            new = Segment(last.path, last.number, step.level, run[0].covers, footer, len(data))
            self._log.replace(run, new, data)
        else:
            self._log.remove(run)
        self._count(entries, len(gone), step)
        return True

    def _count(self, entries: Sequence[Entry], gone: int, step: Step) -> None:
        counters = self._counters
        damaged = [entry for entry in entries if isinstance(entry, Lost)]
        counters.damaged += len(damaged)
        counters.count_lost(DAMAGED, len(damaged))
        counters.count_lost(step.reason, gone)
        if step.period_ms is not None:
            counters.thinned += gone
        now_s = time.monotonic()
        if gone and now_s >= self._say_again_s.get(step.reason, 0.0):
            self._say_again_s[step.reason] = now_s + SAY_EVERY_S
            log.warning(
                "spool %s: messages are given up: %s, %d in all since the start",
                self._log.folder, step.reason, counters.lost_by_reason[step.reason],
            )  # fmt: skip


def _encode(
    level: int, covers: int, kept: list[Record], ranges: list[Range], kept_ms: int
) -> tuple[Footer, bytes]:
    losses = encode_losses(ranges)
    parts = [encode_header(level, covers), losses]
    parts += [encode_group(kept[at : at + _GROUP], at, kept_ms) for at in range(0, len(kept), _GROUP)]
    footer = counted(Footer(ranges=len(ranges), losses_at=sum(map(len, parts))), kept, kept_ms)
    return footer, b"".join([*parts, losses, encode_footer(footer)])


def _known(entries: Iterable[Entry]) -> list[Range]:
    """What was lost before."""
    known = (entry.range if isinstance(entry, Lost) else entry for entry in entries)
    return [entry for entry in known if isinstance(entry, Range)]


def _ranges(gone: Iterable[Record], kept: Iterable[Record], reason: str) -> list[Range]:
    """The losses of records with a key; of one that is there twice (it was delivered again) one may stay."""
    there = {_key(record) for record in kept}
    keys = {_key(record) for record in gone if record.has_key}
    return [Range(*key, key[-1], reason) for key in keys - there]


def _key(record: Record) -> tuple[str, str, int, int]:
    return record.fleet, record.pack, record.boot, record.seq


def merge(ranges: Iterable[Range]) -> list[Range]:
    """The ranges in order, those that touch made one; that which was lost in more than one way has the later reason.

    >>> merge([Range("f", "p", 1, 5, 5, "thinned_60s"), Range("f", "p", 1, 1, 4, "thinned_10s")])
    [Range(fleet='f', pack='p', boot=1, seq_from=1, seq_to=5, reason='thinned_60s')]
    """
    merged: list[Range] = []
    order: Callable[[Range], tuple[str, str, int, int]] = lambda r: (r.fleet, r.pack, r.boot, r.seq_from)  # noqa: E731
    for item in sorted(ranges, key=order):
        joined = _joined(merged[-1], item) if merged else None
        if joined is None:
            merged.append(item)
        else:
            merged[-1] = joined
    return merged


def _joined(one: Range, other: Range) -> Range | None:
    same = (one.fleet, one.pack, one.boot) == (other.fleet, other.pack, other.boot)
    if not same or other.seq_from > one.seq_to + 1:
        return None
    if one.reason != other.reason and DAMAGED in {one.reason, other.reason}:
        return None
    reason = max(one.reason, other.reason, key=_severity)
    seq_to = max(one.seq_to, other.seq_to)
    return Range(one.fleet, one.pack, one.boot, one.seq_from, seq_to, reason)


def _severity(reason: str) -> int:
    return _SEVERITY.index(reason) if reason in _SEVERITY else len(_SEVERITY)
