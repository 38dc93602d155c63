"""The `switch` node."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self, cast

from voltflow.flow.properties import plain
from voltflow.flow.typed import check, compile_value
from voltflow.message import Msg
from voltflow.node import ConfigError, Context, Ports, Transform, config, node
from voltflow.nodelib.gathering import GatherLimits, Gathers
from voltflow.nodelib.parts import parts_of, with_parts
from voltflow.nodelib.switch_rules import check_rule, match_of


@node("switch", category="function", color="#e2d96e", icon="switch.svg")
class Switch(GatherLimits, Transform):
    """Send each message to the outputs whose rules hold for one of its properties.

    Values are compared as in Node-RED: "5" equals 5, texts are ordered by their letters. `prev` is the property's value in the
    message before; it is forgotten at a restart. The rules head, tail and index look at `msg.parts` and fail for a message that
    is not part of a sequence.

    With the rule tail or with `repair` a sequence is held until it is complete, on disk when that takes longer than a moment;
    one that does not get complete becomes dead letters in time, and one in which a rule fails for a message does so at once.
    After a crash a sequence may leave twice.
    """

    property: str = config(
        "payload",
        help="what the rules look at",
        types=("msg", "flow", "global", "jsonata", "env"),
        type_property="propertyType",
    )
    propertyType: str = config(
        "msg", help="type of the property", choices=("msg", "flow", "global", "jsonata", "env")
    )
    rules: list[dict[str, Any]] = config(
        [{"t": "eq", "v": "", "vt": "str"}], help="one rule for each output: t, v, vt, v2, v2t, case"
    )
    checkall: str = config(
        "true",
        help="true: all rules are looked at; false: only up to the first that holds",
        choices=("true", "false"),
    )
    repair: bool = config(False, help="make a sequence of its own of what leaves each output")
    outputs: int = config(1, help="how many outputs there are, one for each rule", low=0, high=1000)

    # state
    previous: Any = None

    def __new__(cls, **values: Any) -> Self:
        rules = values.get("rules") or []
        gathers = values.get("repair") or any(
            isinstance(rule, dict) and rule.get("t") == "tail" for rule in rules
        )
        return cast("Self", object.__new__(_GatheringSwitch if gathers and cls is Switch else cls))

    @classmethod
    def outputs_of(cls, properties: Mapping[str, Any]) -> int:
        rules = properties.get("rules")
        return max(super().outputs_of(properties), len(rules) if isinstance(rules, list) else 0)

    def __post_init__(self) -> None:
        try:
            check(self.property, self.propertyType)
        except ConfigError as error:
            raise ConfigError(f'property "property": {error}') from None
        for number, rule in enumerate(self.rules, 1):
            try:
                check_rule(rule)
            except ValueError as error:
                raise ConfigError(f'property "rules": rule {number} ({rule.get("t")}): {error}') from None

    async def start(self, ctx: Context) -> None:
        self._property = compile_value(self.property, self.propertyType, ctx, self)
        self._matches = [match_of(rule, number, ctx, self) for number, rule in enumerate(self.rules, 1)]

    def process(self, msgs: list[Msg]) -> Ports:
        ports: tuple[list[Msg], ...] = tuple([] for _ in self.rules)
        previous = self.previous
        for msg in msgs:
            taken, previous = self.route(msg, previous)
            for port in taken:
                ports[port].append(msg)
        self.previous = previous
        return ports

    def route(self, msg: Msg, previous: Any) -> tuple[list[int], Any]:
        """The outputs a message goes to, and the property's value."""
        value = plain(self._property(msg))
        taken: list[int] = []
        none_yet = True
        for port, match in enumerate(self._matches):
            holds = match(value, msg, previous, none_yet)
            none_yet = not holds if self.rules[port]["t"] == "else" else none_yet and not holds
            if holds:
                taken.append(port)
                if self.checkall == "false":
                    break
        return taken, (value if self.rules else previous)


class _GatheringSwitch(Gathers, Switch):
    """A switch that needs all of a sequence before it knows where its messages go."""

    def process(self, msgs: list[Msg]) -> Ports:
        ports: tuple[list[Msg], ...] = tuple([] for _ in self.rules)
        for msg in msgs:
            found = (
                self.gathered.made_of(str(parts_of(msg)["id"]), msg, self._whole)
                if _is_part(msg)
                else self._routed([msg])
            )
            for port, taken in zip(ports, found or (), strict=False):
                port += taken
        return ports

    def _whole(self, msgs: list[Msg]) -> Ports:
        return self._routed([with_parts(part, count=len(msgs)) for part in msgs])

    def _routed(self, msgs: list[Msg]) -> Ports:
        taken: tuple[list[Msg], ...] = tuple([] for _ in self.rules)
        previous = self.previous
        for msg in msgs:
            outputs, previous = self.route(msg, previous)
            for port in outputs:
                taken[port].append(msg)
        self.previous = previous
        return tuple(_repaired(part, port) for port, part in enumerate(taken)) if self.repair else taken


def _is_part(msg: Msg) -> bool:
    return {"id", "index"} <= parts_of(msg).keys()


def _repaired(msgs: list[Msg], port: int) -> list[Msg]:
    """As a sequence of its own; the id is made of the old one, so that a sequence which leaves twice is known."""
    return [
        with_parts(msg, id=f"{parts_of(msg)['id']}.{port}", index=index, count=len(msgs))
        if _is_part(msg)
        else msg
        for index, msg in enumerate(msgs)
    ]
