"""Which messages of one pack were seen, by `(boot, seq)`: what came twice, what is missing. Bounded, whatever comes.

>>> sequence = Sequence()
>>> sequence.see(7, 40).what, sequence.see(7, 41).what, sequence.see(7, 41).what
('new', 'new', 'duplicate')
>>> sequence.see(7, 45).gap
(42, 44)
>>> sequence.see(7, 43).what, [(hole.first, hole.last) for hole in sequence.boots[0].holes]
('filled', [(42, 42), (44, 44)])
>>> sequence.see(8, 1)
Seen(what='new', new_boot=True, older_boot=False, gap=(0, 0), asked=False)

The first message of all is a baseline: what was before it is nobody's loss here. So is the first one after a crash, because
what came between the last snapshot and the crash was acknowledged and is missing from the snapshot only.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Literal, NamedTuple

import msgspec
from msgspec.structs import replace

DUPLICATE: Final = "duplicate"
"""The property of a message that was seen before."""
BOOTS: Final = 4
"""Boots remembered of a pack, the current one included."""
HOLES: Final = 64
"""Holes remembered of a boot; with one more the oldest is given up."""

What = Literal["new", "filled", "duplicate", "back", "unknown"]
"""`filled`: it was missing. `back`: a number that was there already, from later than anything seen. `unknown`: from before
the baseline, or a replay of a boot that is not remembered."""


class Seen(NamedTuple):
    """What a message is to its pack's sequence. `gap`: numbers that are missing since now, both ends included. `asked`: the
    hole it filled had been asked for. `older_boot`: a later boot has been seen before."""

    what: What
    new_boot: bool = False
    older_boot: bool = False
    gap: tuple[int, int] | None = None
    asked: bool = False


NEW: Final = Seen("new")
"""The next message of the current boot, as nearly all are: always this very object."""


class Hole(msgspec.Struct, array_like=True, gc=False):
    """Numbers `first` … `last` that are missing, and what was done about it: how often they were asked for, whether that is
    over, and when to look again (monotonic, seconds; 0: not known yet)."""

    first: int
    last: int
    tries: int = 0
    given_up: bool = False
    due_s: float = 0.0

    @property
    def size(self) -> int:
        return self.last - self.first + 1


class Boot(msgspec.Struct, array_like=True, gc=False):
    """What was seen of one boot: from `first` (the baseline) up to `next`, without the holes, which are in ascending order.
    `newest_ms` is the latest device time."""

    boot: int
    first: int
    next: int
    newest_ms: int = 0
    holes: list[Hole] = []

    def hole_of(self, seq: int) -> int | None:
        """The place of the hole that has the number."""
        return next((i for i, hole in enumerate(self.holes) if hole.first <= seq <= hole.last), None)

    def fill(self, place: int, seq: int) -> None:
        """Take a number out of a hole. What is left of it is looked at anew: more of it may be on the way."""
        hole = self.holes[place]
        hole.due_s, hole.tries = 0.0, min(hole.tries, 1)
        if hole.first == hole.last:
            del self.holes[place]
        elif seq == hole.first:
            hole.first += 1
        elif seq == hole.last:
            hole.last -= 1
        else:
            self.split(place, seq + 1)
            hole.last = seq - 1

    def split(self, place: int, at: int) -> None:
        """Make two of a hole; the second begins with `at`."""
        hole = self.holes[place]
        self.holes.insert(place + 1, Hole(at, hole.last, hole.tries, hole.given_up, hole.due_s))
        hole.last = at - 1


class Sequence(msgspec.Struct, array_like=True, gc=False):
    """What was seen of one pack. `boots`: the current one first, then those before it; `fresh`: the next message is a
    baseline; `forgotten`: missing numbers that were given up because there were too many holes."""

    boots: list[Boot] = []
    fresh: bool = True
    forgotten: int = 0

    def see(self, boot: int, seq: int, ts_ms: int = 0, replay: bool = False) -> Seen:
        """Take note of a message. `ts_ms` is device time; `replay`: the device says that it sends it again."""
        if self.boots and not self.fresh:
            current = self.boots[0]
            if seq == current.next and boot == current.boot:
                current.next = seq + 1
                if ts_ms > current.newest_ms:  # noqa: PLR1730 - max() doubles the cost of a message
                    current.newest_ms = ts_ms
                return NEW
        known = self._boot(boot)
        if known is not None:
            return self._of_known(known, seq, ts_ms, replay)
        return Seen("unknown") if replay else self._of_new(boot, seq, ts_ms)

    def expect(self, boot: int, published: int) -> tuple[int, int] | None:
        """The device says how many messages of a boot there were so far; what is missing at the end since now, if anything.

        Nothing is where the boot is not known yet or the next message is a baseline.
        """
        known = self._boot(boot)
        if known is None or self.fresh or published <= known.next:
            return None
        gap = (known.next, published - 1)
        known.next = published
        self._open(known, gap)
        return gap

    def excuse(self, boot: int, seq: int) -> None:
        """A number that is missing is not to be looked for; what is not missing stays as it is."""
        known = self._boot(boot)
        if known is not None and (place := known.hole_of(seq)) is not None:
            known.fill(place, seq)
            self._bound(known)

    def after_crash(self) -> None:
        """To be called where this comes from a snapshot that is older than what was acknowledged."""
        self.fresh = True

    def copy(self) -> Sequence:
        """As it is now, for whoever encodes it later."""
        boots = [replace(boot, holes=[replace(hole) for hole in boot.holes]) for boot in self.boots]
        return Sequence(boots, self.fresh, self.forgotten)

    def open_holes(self) -> Iterator[Hole]:
        """The holes that are not given up."""
        for boot in list(self.boots):
            yield from (hole for hole in list(boot.holes) if not hole.given_up)

    def _boot(self, number: int) -> Boot | None:
        return next((boot for boot in self.boots if boot.boot == number), None)

    def _of_new(self, number: int, seq: int, ts_ms: int) -> Seen:
        is_restart = bool(self.boots)
        boot = Boot(number, seq if self.fresh else 0, seq + 1, ts_ms)
        gap = None if self.fresh or not seq else (0, seq - 1)
        for gone in self.boots[BOOTS - 1 :]:
            self.forgotten += sum(hole.size for hole in gone.holes if not hole.given_up)
        self.boots = [boot, *self.boots[: BOOTS - 1]]
        self.fresh = False
        if gap:
            self._open(boot, gap)
        return Seen("new", new_boot=is_restart, gap=gap)

    def _of_known(self, boot: Boot, seq: int, ts_ms: int, replay: bool) -> Seen:
        older, gap, asked = boot is not self.boots[0], None, False
        what: What
        if seq >= boot.next:
            if replay and self.fresh:
                return Seen("unknown", older_boot=older)
            what, gap = "new", self._advance(boot, seq)
            self.fresh = self.fresh and older
        elif (place := boot.hole_of(seq)) is not None:
            what, asked = "filled", boot.holes[place].tries > 0
            boot.fill(place, seq)
            self._bound(boot)
        elif ts_ms > boot.newest_ms and not replay:
            what = "back"
        else:
            what = "unknown" if seq < boot.first else "duplicate"
        boot.newest_ms = max(boot.newest_ms, ts_ms)
        return Seen(what, older_boot=older, gap=gap, asked=asked)

    def _advance(self, boot: Boot, seq: int) -> tuple[int, int] | None:
        gap = (boot.next, seq - 1) if seq > boot.next else None
        boot.next = seq + 1
        if gap and self.fresh:
            boot.first, gap = seq, None
        if gap:
            self._open(boot, gap)
        return gap

    def _open(self, boot: Boot, gap: tuple[int, int]) -> None:
        boot.holes.append(Hole(*gap))
        self._bound(boot)

    def _bound(self, boot: Boot) -> None:
        while len(boot.holes) > HOLES:
            hole = boot.holes.pop(0)
            self.forgotten += 0 if hole.given_up else hole.size
