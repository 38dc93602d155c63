"""When missing messages of a pack are asked for again: after a grace, paced, with growing pauses, and not for ever."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import inf

from voltflow.sequence import Boot, Hole, Sequence
from voltflow.telemetry import ReplayCommand

EVENTS = (
    "asked", "request", "filled", "given_up", "duplicate", "seq_back", "identity_conflict", "new_boot",
)  # fmt: skip
"""What is counted of packs' sequences: messages, except requests, conflicts raised and boots."""
LATER_MESSAGES = 50
"""What so many later messages have overtaken does not come by itself any more, however short the grace was."""
FIRST_PAUSE_S = 2.0
LONGEST_PAUSE_S = 300.0
RING_MESSAGES = 100_000
"""What is further back than this is not asked for: a device keeps a day at 1 Hz."""


@dataclass
class Gaps:
    """The rules, and what was done by them. `ask_after_s`: the grace; `max_ask`: messages of a pack under way at once;
    `attempts`: requests for the same ones at most; `fleet_ask`: messages of all packs asked for in a second, so that the
    answers of a whole fleet that was cut off come beside what is new, not instead of it. `events` counts messages, but
    `request` counts requests."""

    ask_after_s: float = 2.0
    max_ask: int = 1000
    attempts: int = 8
    fleet_ask: int = 2000
    events: Counter[str] = field(default_factory=Counter)

    # state
    _left: float = inf
    """Messages that may be asked for now."""
    _left_at_s: float = 0.0

    def begin(self, sequence: Sequence, now_s: float) -> None:
        """Begin the grace of holes that are new, or of which a part has just come. `now_s` is monotonic."""
        for boot in sequence.boots:
            for hole in boot.holes:
                if not hole.due_s:
                    hole.due_s = now_s + self.ask_after_s

    def due(self, sequence: Sequence, now_s: float) -> list[ReplayCommand]:
        """What to ask the device for now."""
        for boot in sequence.boots:
            self._clean(boot, now_s)
        under_way = sum(hole.size for hole in sequence.open_holes() if hole.tries and hole.due_s > now_s)
        room = min(self.max_ask - under_way, self._fleet_room(now_s))
        commands: list[ReplayCommand] = []
        for boot in sequence.boots:
            for hole in self._waiting(boot, now_s):
                if room <= 0:
                    return commands
                self._cut(boot, hole, room)
                room -= hole.size
                self._left -= hole.size
                commands.append(self._ask(boot, hole, now_s))
        return commands

    def _fleet_room(self, now_s: float) -> int:
        most = max(self.fleet_ask, self.max_ask)
        self._left = min(most, self._left + (now_s - self._left_at_s) * self.fleet_ask)
        self._left_at_s = now_s
        return int(self._left)

    def next_s(self, sequence: Sequence, now_s: float) -> float | None:
        """When to look again; None when nothing is missing that could be asked for."""
        later_s = now_s + self.ask_after_s
        return min(
            (hole.due_s if hole.due_s > now_s else later_s for hole in sequence.open_holes()), default=None
        )

    def _clean(self, boot: Boot, now_s: float) -> None:
        """Give up what was asked for often enough or is too far back."""
        horizon = boot.next - RING_MESSAGES
        place = next((i for i, hole in enumerate(boot.holes) if hole.first < horizon <= hole.last), None)
        if place is not None:
            boot.split(place, horizon)
        for hole in boot.holes:
            if hole.given_up:
                continue
            if hole.last < horizon or (hole.tries >= self.attempts and hole.due_s <= now_s):
                hole.given_up = True
                self.events["given_up"] += hole.size

    def _waiting(self, boot: Boot, now_s: float) -> Iterator[Hole]:
        """The holes to be asked for, those that were asked for least often first, then the oldest."""
        holes = [hole for hole in boot.holes if not hole.given_up and self._is_due(boot, hole, now_s)]
        yield from sorted(holes, key=lambda hole: (hole.tries, hole.first))

    @staticmethod
    def _is_due(boot: Boot, hole: Hole, now_s: float) -> bool:
        return hole.due_s <= now_s or (not hole.tries and boot.next - hole.last > LATER_MESSAGES)

    @staticmethod
    def _cut(boot: Boot, hole: Hole, room: int) -> None:
        if hole.size > room:
            boot.split(boot.holes.index(hole), hole.first + room)

    def _ask(self, boot: Boot, hole: Hole, now_s: float) -> ReplayCommand:
        self.events["asked"] += 0 if hole.tries else hole.size
        self.events["request"] += 1
        hole.due_s = now_s + min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2**hole.tries)
        hole.tries += 1
        return ReplayCommand(boot.boot, hole.first, hole.last)
