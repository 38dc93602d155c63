"""The `batch` node: makes sequences of single messages."""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Sequence
from typing import Any

from voltflow.engine.holding import Entry
from voltflow.message import Msg
from voltflow.node import ConfigError, Context, Holder, config, node
from voltflow.nodelib.gathering import Gathered, GatherLimits
from voltflow.nodelib.parts import parts_of
from voltflow.nodelib.sequences import new_sequence, with_parts
from voltflow.signals import says


@node("batch", category="sequence", color="#E2D96E", icon="batch.svg")
class Batch(GatherLimits, Holder):
    """Make sequences of messages: of so many, of those of an interval, or of other sequences by their topics.

    Each message gets `msg.parts` with the sequence's id, its place and how many there are; a join node can make one message of
    them. `msg.reset` clears what was gathered.

    What is gathered survives a crash; what was just sent may come again then, and an overlap with it. A sequence for `concat`
    that does not get complete becomes dead letters in time.
    """

    mode: str = config(
        "count",
        help="count: so many messages; interval: those of so many seconds; concat: sequences of several topics, one after "
        "the other",
        choices=("count", "interval", "concat"),
    )
    count: int = config(10, help="messages of a sequence", low=1, high=100_000)
    overlap: int = config(0, help="messages at its end with which the next one begins", low=0, high=99_999)
    interval: float = config(10.0, help="time of a sequence; 0: never", unit="s", low=0, high=1e9)
    allowEmptySequence: bool = config(False, help="send a message with an empty payload where none came")
    honourParts: bool = config(False, help="the last message of another sequence ends this one too")
    topics: list[dict[str, Any]] = config(
        [{"topic": ""}], help="topics whose sequences are put together, in their order"
    )

    def __post_init__(self) -> None:
        if self.mode == "count" and self.overlap >= self.count:
            raise ConfigError(
                f'property "overlap": {self.overlap} is not less than count, which is {self.count}'
            )
        if not all(isinstance(item.get("topic"), str) for item in self.topics):
            raise ConfigError('property "topics": each is {"topic": "…"}')

    async def start(self, ctx: Context) -> None:
        self._gathered: deque[str] = deque()
        """Groups of one message each."""
        self._sent = 0
        """How many of them, from the first on, were in the sequence before."""
        self._next_s = ctx.timer.now_s() + self.interval if self.interval else math.inf
        self._order = list(dict.fromkeys(item["topic"] for item in self.topics))
        self._sequences: dict[str, dict[str, None]] = {topic: {} for topic in self._order}
        """Of each topic the ids of its sequences, in order."""
        self._parts = Gathered(self.held, self, self._forget_sequence)

    def process(self, msgs: list[Msg]) -> list[Msg]:
        return [found for msg in msgs for found in self._take(msg)]

    def _take(self, msg: Msg) -> list[Msg]:
        if says(msg, "reset"):
            return self._reset()
        if self.mode == "concat":
            return self._concat(msg)
        if self.mode == "interval" and self.interval and not self._gathered:
            self._advance()
        group = self.held.new_group()
        self.held.keep(msg, group)
        self._gathered.append(group)
        complete = len(self._gathered) >= self.count or (self.honourParts and _is_last(msg))
        return self._sequence() if self.mode == "count" and complete else []

    def _reset(self) -> list[Msg]:
        self.drop_held()
        self._parts.clear()
        self._gathered.clear()
        self._sent = 0
        for sequences in self._sequences.values():
            sequences.clear()
        if self.interval:
            self._next_s = self.held.keeper.now_s() + self.interval
        return []

    def _sequence(self) -> list[Msg]:
        """What was gathered, as a sequence; the end of it stays for the next one."""
        msgs = [msg for group in self._gathered for msg in self.held.messages(group)]
        stay = self.overlap if self.mode == "count" else 0
        while len(self._gathered) > stay:
            self.held.release(self._gathered.popleft())
        self._sent = len(self._gathered)
        return _numbered(msgs)

    # -- sequences one after the other --------------------------------------------------------------------------------

    def _concat(self, msg: Msg) -> list[Msg]:
        if msg.topic not in self._sequences:
            return []
        parts = parts_of(msg)
        if not {"id", "index", "count"} <= parts.keys():
            raise ValueError("msg.parts with id, index and count is missing: its sequence is not known")
        name = str(parts["id"])
        self.check_count(parts["count"])
        self._sequences[msg.topic][name] = None
        self._parts.add((msg.topic, name), msg)
        first = [(topic, next(iter(self._sequences[topic]), "")) for topic in self._order]
        if not all(self._parts.is_complete(key) for key in first):
            return []
        msgs = [found for key in first for found in self._parts.messages(key)]
        for key in first:
            self._parts.release(key)
            self._forget_sequence(key)
        return _numbered(msgs)

    def _forget_sequence(self, key: tuple[str, str]) -> None:
        topic, name = key
        del self._sequences[topic][name]

    # -- time ---------------------------------------------------------------------------------------------------------

    def restore(self, entry: Entry) -> list[Msg]:
        """It is gathered again; one that a deploy brings and that belongs to no topic goes on."""
        if self.mode == "concat" and entry.msg.topic not in self._sequences:
            return [entry.msg]
        return self.process([entry.msg])

    def owed(self, group: str) -> bool:
        return group not in itertools.islice(self._gathered, self._sent)

    def due_s(self) -> float | None:
        if self.mode == "concat":
            return self._parts.due_s()
        wanted = self.mode == "interval" and self.interval and (self._gathered or self.allowEmptySequence)
        return self._next_s if wanted else None

    def tick(self) -> list[Msg]:
        if self.mode == "concat":
            self._parts.give_up(self.held.now_s)
            return []
        self._advance()
        if self._gathered:
            return self._sequence()
        return _numbered([Msg("", None, received_ms=round(self.held.now_s * 1000))])

    def _advance(self) -> None:
        """To the end of the interval that goes on now."""
        late_s = self.held.keeper.now_s() - self._next_s
        if late_s >= 0:
            self._next_s += (math.floor(late_s / self.interval) + 1) * self.interval


def _is_last(msg: Msg) -> bool:
    parts = parts_of(msg)
    return isinstance(parts.get("index"), int) and parts["index"] + 1 == parts.get("count")


def _numbered(msgs: Sequence[Msg]) -> list[Msg]:
    """The messages as one sequence."""
    name, count = new_sequence(), len(msgs)
    return [
        with_parts(msg, {**parts_of(msg), "id": name, "index": index, "count": count})
        for index, msg in enumerate(msgs)
    ]
