"""The account: of every message sent, whether, how often, when and in which order it came."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np

from bench.loss_log import DEAD, LOST, REPLAYED, read

GRACE_S = 0.1
"""What comes so soon after the end of a fault was under way already."""


class Fault(msgspec.Struct, frozen=True):
    """One thing that was done, from when to when (CLOCK_MONOTONIC), and what proves that it happened."""

    what: str
    begin_s: float
    end_s: float
    proof: str


class Recovery(msgspec.Struct, frozen=True):
    """After the end of a fault: when messages came again, and when the last of those sent until then had come."""

    again_s: float
    all_there_s: float


class Account:
    """Both logs of a run. Messages have a place: `seq * packs + pack`."""

    def __init__(self, packs: int, sent: Path, came: Path) -> None:
        sends, arrivals = read(sent), read(came)
        messages = arrivals[arrivals["what"] <= REPLAYED]
        self.packs, self.published = packs, len(sends)
        self.sent_s = np.full(len(sends), np.nan)
        self.sent_s[self.place(sends)] = sends["at_s"]
        place = self.place(messages)
        assert (place < self.published).all(), "something came that was never sent"
        self.copies = np.bincount(place, minlength=self.published)
        _, first = np.unique(place, return_index=True)
        self.firsts = messages[np.sort(first)]
        """The first arrival of each message, in the order they came."""
        self.first_s = np.full(self.published, np.nan)
        self.first_s[self.place(self.firsts)] = self.firsts["at_s"]
        self.all_s = messages["at_s"]
        self._explained = self.place(arrivals[(arrivals["what"] == DEAD) | (arrivals["what"] == LOST)])

    def place(self, records: np.ndarray) -> np.ndarray:
        """Where the messages of records stand in the account."""
        places: np.ndarray = records["seq"].astype(np.int64) * self.packs + records["pack"]
        return places

    @property
    def lost(self) -> int:
        """Sent and never come."""
        return int((self.copies == 0).sum())

    @property
    def explained(self) -> int:
        """Of the lost ones those that a dead letter or a loss record names."""
        return int((self.copies[np.unique(self._explained)] == 0).sum())

    @property
    def doubled(self) -> int:
        """Copies too many."""
        return int(self.copies.sum() - (self.copies > 0).sum())

    @property
    def replayed(self) -> int:
        """Messages whose first copy was marked as replayed."""
        return int((self.firsts["what"] == REPLAYED).sum())

    def disordered(self, what: int | None = None) -> int:
        """Messages that came after a later one of the same pack; with `what` only among those of that kind."""
        chosen = self.firsts if what is None else self.firsts[self.firsts["what"] == what]
        by_pack = chosen[np.argsort(chosen["pack"], kind="stable")]
        edges = np.flatnonzero(np.diff(by_pack["pack"])) + 1
        return sum(_behind(part["seq"]) for part in np.split(by_pack, edges))

    def during(self, begin_s: float, end_s: float) -> int:
        """How much came between two times."""
        return int(((self.all_s >= begin_s) & (self.all_s < end_s)).sum())

    def recovery(self, end_s: float) -> Recovery | None:
        """What followed the end of a fault; None: nothing came any more."""
        after = self.all_s[self.all_s >= end_s + GRACE_S]
        if not len(after):
            return None
        again_s = float(after.min())
        waiting = self.first_s[(self.sent_s < again_s) & (self.first_s >= end_s)]
        last_s = float(waiting.max()) if len(waiting) else again_s
        return Recovery(again_s - end_s, max(again_s, last_s) - end_s)

    def live_ms(self, begin_s: float, end_s: float) -> np.ndarray:
        """How long messages sent between two times took that came live."""
        live = self.firsts[self.firsts["what"] != REPLAYED]
        sent_s = self.sent_s[self.place(live)]
        chosen = (sent_s >= begin_s) & (sent_s < end_s)
        return np.asarray((live["at_s"][chosen] - sent_s[chosen]) * 1000.0)


def _behind(seqs: np.ndarray) -> int:
    """
    >>> _behind(np.array([0, 1, 4, 2, 3, 5]))
    2
    """
    return int((np.maximum.accumulate(seqs) > seqs).sum()) if len(seqs) else 0
