"""What a `join` node gathers for one message, and makes of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from voltflow.engine.holding import Holding
from voltflow.flow.properties import UNDEFINED, as_object, put
from voltflow.flow.typed import Value
from voltflow.message import Msg
from voltflow.nodelib.due import DueTimes
from voltflow.nodelib.gathering import GatherLimits, Patience
from voltflow.nodelib.loose import as_number, as_text
from voltflow.nodelib.parts import parts_of
from voltflow.nodelib.sequences import as_bytes, with_parts

ALL = "_"
"""The one group of messages that are told apart by nothing."""
Expression = Callable[[Any, Mapping[str, Any] | None], Any]
"""What a JSONata expression gives for a value and variables."""


@dataclass
class Group:
    """Parts of one message."""

    kind: str
    """`object`, `merged`, `array`, `string` or `buffer`; something else is an array."""
    path: str
    """Where what is made of them goes."""
    by: Any = None
    """What stands between the parts of a text or of bytes."""
    size: Any = None
    """How many elements of a list each part has."""
    target: int = 0
    """How many make it complete; 0: that is not known."""
    msg: Msg | None = None
    """With what all messages said, the last one first."""
    values: dict[Any, Any] = field(default_factory=dict)
    """The parts by key, or by place."""
    holders: dict[str, None] = field(default_factory=dict)
    """The held messages they came with, in order."""
    _owners: dict[Any, str] = field(default_factory=dict)
    _owned: Counter[str] = field(default_factory=Counter)

    def add(self, msg: Msg, holder: str, values: Mapping[Any, Any]) -> list[str]:
        """Add what came with a message; the held messages of which nothing is left."""
        self.values.update(values)
        self.msg = (
            msg
            if self.msg is None
            else msg.derive(props={**(self.msg.props or {}), **(msg.props or {})} or None)
        )
        self.holders[holder] = None
        replaced = [self._owners[key] for key in values if key in self._owners]
        self._owners.update(dict.fromkeys(values, holder))
        self._owned[holder] += len(values)
        self._owned.subtract(replaced)
        left = [owner for owner in dict.fromkeys(replaced) if not self._owned[owner]]
        for owner in left:
            del self.holders[owner], self._owned[owner]
        return left

    @property
    def is_complete(self) -> bool:
        return 0 < self.target <= len(self.values)

    def joined(self) -> Msg:
        """The one message; raises an exception where the parts do not fit together."""
        assert self.msg is not None
        msg = put(self.msg, self.path, self._value())
        props = {name: value for name, value in (msg.props or {}).items() if name != "complete"}
        return with_parts(msg.derive(props=props), parts_of(msg).get("parts"))

    def _value(self) -> Any:
        if self.kind in ("object", "merged"):
            return dict(self.values)
        items = [self.values[place] for place in sorted(self.values)]
        if self.kind == "string":
            between = as_text(bytes(self.by)) if isinstance(self.by, list) else as_text(self.by)
            return between.join("" if item is None else as_text(item) for item in items)
        if self.kind == "buffer":
            return as_bytes("" if self.by is None else self.by).join(map(as_bytes, items))
        if isinstance(self.size, int) and self.size > 1:
            return [part for item in items for part in (item if isinstance(item, list | tuple) else [item])]
        return items


class Groups(dict[str, Group]):
    """Groups that go on, by name, with what is held of them."""

    def __init__(self, held: Holding, limits: GatherLimits) -> None:
        super().__init__()
        self.due = DueTimes()
        """When what there is of a group is to be sent."""
        self.sent: set[str] = set()
        """Held messages that have come out already, and are part of what is sent next."""
        self._held, self._limits = held, limits
        self._patience = Patience(limits.giveUpAfter)
        """Which sequences wait for another part."""

    def add(self, name: str, msg: Msg, original: Msg, values: Mapping[Any, Any]) -> None:
        """Hold a message, and add its values to a group that is there."""
        holder = self._held.new_group()
        self._held.keep(original, holder)
        for old in self[name].add(msg, holder, values):
            self._held.release(old)
            self.sent.discard(old)
        if name != ALL:
            self._patience.came(name, self._held.now_s)

    def heed_limit(self, name: str) -> None:
        """Give up others, and in the end this one, where too much is held."""
        while self._held.size > self._limits.mostHeld and name in self:
            self.give_up(self._patience.longest_but(name), self._limits.too_many)

    def has_sent(self, name: str) -> None:
        """What a group has was sent, and it goes on."""
        self.sent.update(self[name].holders)

    def forget(self, name: str) -> None:
        for holder in self._taken(name):
            self._held.release(holder)

    def give_up(self, name: str, why: str) -> None:
        """What has not come out of a group becomes dead letters."""
        for holder in self._taken(name):
            if holder in self.sent:
                self._held.release(holder)
            else:
                self._held.fail(holder, why)

    def give_up_overdue(self, now_s: float) -> None:
        for name in self._patience.overdue(now_s):
            self.give_up(name, self._limits.too_long)

    def due_s(self) -> float | None:
        """When something is to be done."""
        times = (self.due.next_s(), self._patience.due_s())
        return min((time_s for time_s in times if time_s is not None), default=None)

    def _taken(self, name: str) -> Iterator[str]:
        """The held messages of a group, which is no longer there."""
        self.due.pop(name, None)
        self._patience.pop(name, None)
        group = self.pop(name, None)
        for holder in group.holders if group is not None else ():
            yield holder
            self.sent.discard(holder)


def values_of(kind: str, value: Any, key: Any, place: Any, next_place: int) -> dict[Any, Any]:
    """What a message adds to a group: the value by key, or by place; raises TypeError where it cannot."""
    if kind == "merged":
        if not isinstance(value, Mapping):
            raise TypeError(f"only objects can be merged, this is {value!r:.80}")
        return {name: item for name, item in value.items() if name != "_msgid"}
    if value is UNDEFINED and kind != "object":
        return {}
    if kind == "buffer":
        as_bytes(value)
    if kind == "object":
        return {as_text(key): None if value is UNDEFINED else value}
    return {place if isinstance(place, int) and not isinstance(place, bool) else next_place: value}


@dataclass(frozen=True)
class Reduction:
    """Expressions that make one message of a sequence."""

    first: Value
    step: Expression
    fixup: Expression
    from_the_end: bool

    def of(self, msgs: list[Msg]) -> Msg:
        """The last message, its payload the result; raises what the expressions raise."""
        ordered = sorted(
            msgs, key=lambda msg: as_number(parts_of(msg).get("index")), reverse=self.from_the_end
        )
        result = _defined(self.first(Msg("", None)))
        for msg in ordered:
            variables = {"I": parts_of(msg).get("index"), "N": len(msgs), "A": result}
            result = _defined(self.step(as_object(msg), variables))
        return ordered[-1].derive(payload=_defined(self.fixup({}, {"N": len(msgs), "A": result})))


def _defined(value: Any) -> Any:
    return None if value is UNDEFINED else value
