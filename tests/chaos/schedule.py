"""Which faults happen when: decided by seed and number of the round alone, so that a round can be run again."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tests.chaos.faults import Fault

MOST_AT_ONCE = 3
START_WITHIN_S = 1.0


@dataclass(frozen=True)
class Act:
    """One fault of a round; times in seconds after the round's start."""

    fault: Fault
    at_s: float
    until_s: float
    seed: str

    def __str__(self) -> str:
        return f"{self.fault.name} {self.at_s:.1f}–{self.until_s:.1f} s"


def rounds(seed: int, faults: Sequence[Fault]) -> Iterator[list[Act]]:
    """The acts of round 1, 2, 3 …; every fault happens once before one happens again."""
    deck: list[Fault] = []
    number = 0
    while True:
        number += 1
        rng = random.Random(f"{seed}/{number}")
        count = rng.choice((1, 2, 2, MOST_AT_ONCE))
        chosen: list[Fault] = []
        if not deck:
            deck = _shuffled(rng, faults)
        while deck and len(chosen) < count:
            following = next(
                (f for f in deck if not any(f.targets & other.targets for other in chosen)), None
            )
            if following is None:
                break
            deck.remove(following)
            chosen.append(following)
        yield [_act(fault, rng, f"{seed}/{number}/{fault.name}") for fault in chosen]


def _shuffled(rng: random.Random, faults: Sequence[Fault]) -> list[Fault]:
    deck = sorted(faults, key=lambda fault: fault.name)
    rng.shuffle(deck)
    return deck


def _act(fault: Fault, rng: random.Random, seed: str) -> Act:
    start_s = rng.uniform(0.0, START_WITHIN_S)
    return Act(fault, start_s, start_s + rng.uniform(*fault.lasts_s), seed)
