"""Sequences that are gathered until they are complete: how many messages of them are held, and for how long."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from voltflow.engine.holding import Holding
from voltflow.engine.why import Why
from voltflow.message import Msg
from voltflow.node import Context, Holder, Ports, config
from voltflow.nodelib.parts import parts_of

T = TypeVar("T")


@dataclass(kw_only=True, eq=False)
class GatherLimits:
    """What every node has that gathers sequences: what does not get complete is given up, it becomes dead letters."""

    mostHeld: int = config(
        50_000, help="messages held of what is not complete; beyond it the sequence that waits the longest for its next one is "
        "given up", low=1, high=100_000, advanced=True,
    )  # fmt: skip
    giveUpAfter: float = config(
        86_400.0, help="give up a sequence (msg.parts) of which nothing comes for so long; 0: never", unit="s", low=0,
        high=31_622_400, advanced=True,
    )  # fmt: skip

    def check_count(self, count: Any) -> None:
        """Raises ValueError for a sequence that can never be complete here, before any of it is held."""
        if isinstance(count, int) and count > self.mostHeld:
            raise ValueError(
                f"its sequence has {count} messages, held are {self.mostHeld} at most (mostHeld)"
            )

    @property
    def too_many(self) -> str:
        """Why a sequence is given up."""
        return f"its sequence is given up: it is not complete, and more than {self.mostHeld} messages are held (mostHeld)"

    @property
    def too_long(self) -> str:
        """Why a sequence is given up."""
        return f"its sequence is given up: it is not complete, and nothing came for {self.giveUpAfter:g} s (giveUpAfter)"


class Patience(dict[Any, float]):
    """When the last message of a group came, by key, the longest ago first.

    >>> patience = Patience(10.0)
    >>> patience.came("a", 0.0), patience.came("b", 1.0), patience.came("a", 2.0)
    (None, None, None)
    >>> patience.due_s(), patience.overdue(11.0), patience.longest_but("b"), patience.longest_but("a")
    (11.0, ['b'], 'a', 'b')
    """

    def __init__(self, give_up_s: float) -> None:
        super().__init__()
        self._give_up_s = give_up_s

    def came(self, key: Any, now_s: float) -> None:
        self.pop(key, None)
        self[key] = now_s

    def due_s(self) -> float | None:
        """When the first one is overdue."""
        first_s = next(iter(self.values()), None) if self._give_up_s else None
        return None if first_s is None else first_s + self._give_up_s

    def overdue(self, now_s: float) -> list[Any]:
        return (
            [key for key, at_s in self.items() if at_s + self._give_up_s <= now_s] if self._give_up_s else []
        )

    def longest_but(self, key: Any) -> Any:
        """Who waits the longest, apart from this one if there are others."""
        return next((other for other in self if other != key), key)


class Gathered:
    """Sequences that are not complete yet, by any key; what a node holds of them.

    A message that comes twice, as after a crash, counts once. `on_given_up` is told keys.
    """

    def __init__(
        self, held: Holding, limits: GatherLimits, on_given_up: Callable[[Any], None] = lambda _: None
    ) -> None:
        self._held, self._limits, self._on_given_up = held, limits, on_given_up
        self._sequences: dict[Any, _Sequence] = {}
        self._patience = Patience(limits.giveUpAfter)

    def add(self, key: Any, msg: Msg) -> None:
        """Hold a message of a sequence."""
        parts = parts_of(msg)
        self._limits.check_count(parts.get("count"))
        sequence = self._sequences.setdefault(key, _Sequence())
        group, index = self._held.new_group(), parts.get("index")
        if not isinstance(index, int | float | str):
            index = group
        if index in sequence.groups:
            self._held.release(sequence.groups[index])
        sequence.groups[index] = group
        if parts.get("count") is not None:
            sequence.count = parts["count"]
        self._held.keep(msg, group)
        self._patience.came(key, self._held.now_s)
        while self._held.size > self._limits.mostHeld and not self.is_complete(key):
            self._give_up(self._patience.longest_but(key), self._limits.too_many)

    def made_of(self, key: Any, msg: Msg, make: Callable[[list[Msg]], T]) -> T | None:
        """Hold a message; what is made of its sequence, if that is complete now and something can be made of it."""
        self.add(key, msg)
        if not self.is_complete(key):
            return None
        try:
            made = make(self.messages(key))
        except Exception as error:  # noqa: BLE001 - it may be at odds with any of the messages
            for group in self._pop(key):
                self._held.fail(group, Why.of(error))
            return None
        self.release(key)
        return made

    def is_complete(self, key: Any) -> bool:
        sequence = self._sequences.get(key)
        return sequence is not None and sequence.count == len(sequence.groups)

    def messages(self, key: Any) -> list[Msg]:
        """In the order in which they came."""
        return [msg for group in self._sequences[key].groups.values() for msg in self._held.messages(group)]

    def release(self, key: Any) -> None:
        for group in self._pop(key):
            self._held.release(group)

    def clear(self) -> None:
        for key in list(self._sequences):
            self.release(key)

    def due_s(self) -> float | None:
        """When something is to be given up."""
        return self._patience.due_s()

    def give_up(self, now_s: float) -> None:
        """Those of which nothing came for too long."""
        for key in self._patience.overdue(now_s):
            self._give_up(key, self._limits.too_long)

    def _give_up(self, key: Any, why: str) -> None:
        for group in self._pop(key):
            self._held.fail(group, why)
        self._on_given_up(key)

    def _pop(self, key: Any) -> list[str]:
        self._patience.pop(key, None)
        return list(self._sequences.pop(key).groups.values())


class _Sequence:
    def __init__(self) -> None:
        self.groups: dict[Any, str] = {}
        """By the message's place."""
        self.count: Any = None


class Gathers(GatherLimits, Holder):
    """A node that holds nothing but sequences that are not complete: `gathered`."""

    async def start(self, ctx: Context) -> None:
        await super().start(ctx)
        self.gathered = Gathered(self.held, self)

    def due_s(self) -> float | None:
        return self.gathered.due_s()

    def tick(self) -> list[Msg] | Ports:
        self.gathered.give_up(self.held.now_s)
        return []
