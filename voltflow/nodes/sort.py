"""The `sort` node: puts a list, or the messages of a sequence, in order."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from voltflow.flow.properties import get, plain, put
from voltflow.flow.typed import check, compile_value, evaluation_of
from voltflow.message import Msg
from voltflow.node import ConfigError, Context, config, node
from voltflow.nodelib.gathering import Gathers
from voltflow.nodelib.loose import as_number, less
from voltflow.nodelib.parts import parts_of
from voltflow.nodelib.sequences import with_parts


@node("sort", category="sequence", color="#E2D96E", icon="sort.svg")
class Sort(Gathers):
    """Sort a list in a message, or the messages of a sequence.

    A sequence goes on when it is complete (`msg.parts`). What is equal keeps its order. A message with no list, or that is
    part of no sequence, fails.

    What is gathered of a sequence survives a crash; a sequence that was just sent may come twice then. One that does not get
    complete, such as a message that comes again after its sequence, becomes dead letters in time.
    """

    order: str = config("ascending", help="small first, or large first", choices=("ascending", "descending"))
    as_num: bool = config(False, help="compare as numbers, also what is a text")
    target: str = config("payload", help="the list", types=("msg", "seq"), type_property="targetType")
    targetType: str = config(
        "msg", help="msg: a list in the message; seq: the messages of a sequence", choices=("msg", "seq")
    )
    msgKey: str = config(
        "payload", help="by what elements of a list are compared", types=("elem", "jsonata"), type_property="msgKeyType"
    )  # fmt: skip
    msgKeyType: str = config(
        "elem", help="elem: the element; jsonata: what it gives", choices=("elem", "jsonata")
    )
    seqKey: str = config(
        "payload", help="by what messages are compared", types=("msg", "jsonata"), type_property="seqKeyType"
    )  # fmt: skip
    seqKeyType: str = config(
        "msg", help="msg: a property; jsonata: what it gives", choices=("msg", "jsonata")
    )

    def __post_init__(self) -> None:
        for name, value, kind in (
            ("target", self.target, self.targetType), ("msgKey", self.msgKey, self.msgKeyType),
            ("seqKey", self.seqKey, self.seqKeyType),
        ):  # fmt: skip
            used = (name == "seqKey") == (self.targetType == "seq")
            if used and kind in ("msg", "jsonata"):
                try:
                    check(value, kind)
                except ConfigError as error:
                    raise ConfigError(f'property "{name}": {error}') from None

    async def start(self, ctx: Context) -> None:
        await super().start(ctx)
        self._key = self._compile(ctx)

    def _compile(self, ctx: Context) -> Callable[[Any], Any]:
        """What gives the key of an element, or of a message."""
        sequence = self.targetType == "seq"
        text, kind = (self.seqKey, self.seqKeyType) if sequence else (self.msgKey, self.msgKeyType)
        if sequence:
            return compile_value(text, kind, ctx, self)
        if kind == "elem":
            return lambda element: element
        evaluate = evaluation_of(text, ctx, self)
        return lambda element: evaluate(element, None)

    def process(self, msgs: list[Msg]) -> list[Msg]:
        take = self._list if self.targetType == "msg" else self._gather
        return [found for msg in msgs for found in take(msg)]

    def _list(self, msg: Msg) -> list[Msg]:
        items = plain(get(msg, self.target))
        if not isinstance(items, list | tuple):
            raise TypeError(f"msg.{self.target} is no list, but {items!r:.80}")
        return [put(msg, self.target, self._sorted(list(items)))]

    def _gather(self, msg: Msg) -> list[Msg]:
        parts = parts_of(msg)
        if "id" not in parts or "index" not in parts:
            raise ValueError("msg.parts with id and index is missing: it is part of no sequence")
        ordered = self.gathered.made_of(str(parts["id"]), msg, self._sorted) or []
        return [with_parts(part, {**parts_of(part), "index": index}) for index, part in enumerate(ordered)]

    def _sorted(self, items: Sequence[Any]) -> list[Any]:
        keyed = [(self._comparable(self._key(item)), item) for item in items]
        keyed.sort(key=functools.cmp_to_key(_compare), reverse=self.order == "descending")
        return [item for _, item in keyed]

    def _comparable(self, key: Any) -> Any:
        return as_number(key) if self.as_num else key


def _compare(first: tuple[Any, Any], second: tuple[Any, Any]) -> int:
    return less(second[0], first[0]) - less(first[0], second[0])
