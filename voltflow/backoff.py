"""Waiting between attempts: exponential with jitter, so that a fleet does not come back in step."""

from __future__ import annotations

import random
from dataclasses import dataclass, field


@dataclass
class Backoff:
    """Delays of `first_s`, doubled after each failure up to `limit_s`, each shortened by up to half at random.

    >>> backoff = Backoff(first_s=1.0, limit_s=4.0, rng=random.Random(1))
    >>> [0.5 <= backoff.next_s() <= 1.0, 1.0 <= backoff.next_s() <= 2.0, 2.0 <= backoff.next_s() <= 4.0]
    [True, True, True]
    >>> 2.0 <= backoff.next_s() <= 4.0
    True
    """

    first_s: float = 0.2
    limit_s: float = 15.0
    rng: random.Random = field(default_factory=random.Random)
    failures: int = 0

    def next_s(self) -> float:
        """The next delay in seconds."""
        ceiling: float = min(self.limit_s, self.first_s * 2.0 ** min(self.failures, 30))
        self.failures += 1
        return ceiling * self.rng.uniform(0.5, 1.0)

    def reset(self) -> None:
        """After a success: start small again."""
        self.failures = 0
