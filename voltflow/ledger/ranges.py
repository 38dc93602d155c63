"""Arithmetic of sequence numbers as ranges: holes, doubled numbers, what explains a hole.

>>> numbers = Numbers()
>>> numbers.add(0, 4), numbers.add(3, 9), numbers.add(20, 20)
(5, 5, 1)
>>> list(numbers.holes(0, 25)), len(numbers)
([Range(first=10, last=19, why=''), Range(first=21, last=24, why='')], 11)
"""

from __future__ import annotations

import heapq
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate

import msgspec

Run = tuple[int, int, int]
"""Numbers `first` … `last`, each there so many times."""


class Range(msgspec.Struct, frozen=True):
    """Sequence numbers `first` … `last`, both included; `why` is empty where nothing explains them."""

    first: int
    last: int
    why: str = ""

    @property
    def count(self) -> int:
        return self.last - self.first + 1


class Numbers:
    """A set of numbers, kept as disjoint ranges that do not touch."""

    def __init__(self) -> None:
        self._firsts = array("q")
        self._lasts = array("q")
        self._count = 0

    def __len__(self) -> int:
        """How many numbers are in it."""
        return self._count

    def __contains__(self, number: int) -> bool:
        at = bisect_left(self._lasts, number)
        return at < len(self._firsts) and self._firsts[at] <= number

    @property
    def last(self) -> int:
        """The greatest; −1 when there is none."""
        return self._lasts[-1] if self._lasts else -1

    @property
    def first(self) -> int | None:
        return self._firsts[0] if self._firsts else None

    def add(self, first: int, last: int) -> int:
        """Put `first` … `last` in and return how many of them are new."""
        start = bisect_left(self._lasts, first - 1)
        end = bisect_right(self._firsts, last + 1)
        had = sum(self._lasts[i] - self._firsts[i] + 1 for i in range(start, end))
        if start < end:
            first, last = min(first, self._firsts[start]), max(last, self._lasts[end - 1])
        self._firsts[start:end] = array("q", [first])
        self._lasts[start:end] = array("q", [last])
        new = last - first + 1 - had
        self._count += new
        return new

    def ranges(self) -> Iterator[tuple[int, int]]:
        return zip(self._firsts, self._lasts, strict=True)

    def holes(self, start: int, end: int) -> Iterator[Range]:
        """What of `start` … `end` − 1 is not in it, in order."""
        return holes(self.ranges(), end, start)


def holes(ranges: Iterable[tuple[int, int]], end: int, start: int = 0) -> Iterator[Range]:
    """What is left of `start` … `end` − 1 without the ranges, which are in order.

    >>> [(r.first, r.last) for r in holes([(2, 4), (7, 7)], 10)]
    [(0, 1), (5, 6), (8, 9)]
    """
    following = start
    for first, last in ranges:
        if following >= end:
            return
        if first > following:
            yield Range(following, min(first, end) - 1)
        following = max(following, last + 1)
    if end > following:
        yield Range(following, end - 1)


def flattened(runs: Sequence[Run]) -> list[Run]:
    """The same numbers as disjoint runs in order, each with how many times its numbers are there altogether.

    >>> flattened([(0, 9, 1), (10, 12, 1), (5, 6, 1)])
    [(0, 4, 1), (5, 6, 2), (7, 12, 1)]
    """
    if len(runs) == 1:
        return list(runs)
    starts = sorted((first, copies) for first, _, copies in runs)
    ends = sorted((last + 1, -copies) for _, last, copies in runs)
    flat: list[Run] = []
    depth, since = 0, 0
    for place, change in heapq.merge(starts, ends):
        if depth and place > since:
            if flat and flat[-1][1] == since - 1 and flat[-1][2] == depth:
                flat[-1] = (flat[-1][0], place - 1, depth)
            else:
                flat.append((since, place - 1, depth))
        depth, since = depth + change, place
    return flat


def explain(holes: Sequence[Range], reasons: Sequence[Range]) -> tuple[list[Range], list[Range]]:
    """Split holes into what nothing explains and what a reason covers; of two reasons the one that starts first.

    >>> missing, explained = explain([Range(5, 9)], [Range(6, 7, "quota")])
    >>> [(r.first, r.last) for r in missing], [(r.first, r.last, r.why) for r in explained]
    ([(5, 5), (8, 9)], [(6, 7, 'quota')])
    """
    reasons = sorted(reasons, key=lambda reason: (reason.first, reason.last))
    reach = list(accumulate((reason.last for reason in reasons), max))  # for a search: it never falls
    missing: list[Range] = []
    explained: list[Range] = []
    for hole in holes:
        following = hole.first
        for index in range(bisect_left(reach, hole.first), len(reasons)):
            reason = reasons[index]
            if reason.first > hole.last:
                break
            first, last = max(reason.first, following), min(reason.last, hole.last)
            if first > last:
                continue
            if first > following:
                missing.append(Range(following, first - 1))
            explained.append(Range(first, last, reason.why))
            following = last + 1
        if following <= hole.last:
            missing.append(Range(following, hole.last))
    return missing, explained
