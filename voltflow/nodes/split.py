"""The `split` node: makes a sequence of messages of the parts of one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from voltflow.engine.holding import Entry
from voltflow.flow.properties import get, plain, put
from voltflow.flow.typed import check
from voltflow.message import Msg
from voltflow.node import ConfigError, Context, Holder, config, node
from voltflow.nodelib.parts import parts_of
from voltflow.nodelib.sequences import new_sequence, separator, with_parts

Text = str | bytes


@node("split", category="sequence", color="#E2D96E", icon="split.svg")
class Split(Holder):
    """Split a text, bytes, a list or an object into a sequence of messages.

    Each gets `msg.parts`: the sequence's id, its place, how many there are, and what a join node needs to put them together
    again; what the message was part of itself stands in `parts.parts`. Numbers, true, false and null are passed over.

    As a stream the messages are pieces of one text: what follows the last separator waits for the next message. It
    survives a crash, after which the piece at that place may be wrong.
    """

    splt: Any = config("\\n", help="between the pieces of a text or bytes, or how long they are", types=("str", "bin", "len"),
                       type_property="spltType")  # fmt: skip
    spltType: str = config(
        "str", help="str: a text, with \\n and the like; bin: a JSON list of bytes; len: a length",
        choices=("str", "bin", "len"),
    )  # fmt: skip
    arraySplt: int = config(1, help="elements of a list in each message", low=1, high=1_000_000)
    arraySpltType: str = config("len", help="lists are split by length", choices=("len",), advanced=True)
    stream: bool = config(False, help="the messages are a stream of one text")
    addname: str = config("", help="the property in which to put the key of an object's value")
    property: str = config("payload", help="the property that is split")

    # state
    index: int = 0
    """Of the next piece of a stream."""

    def __post_init__(self) -> None:
        self._separator()
        for name in ("property", "addname"):
            try:
                check(getattr(self, name) or "payload", "msg")
            except ConfigError as error:
                raise ConfigError(f'property "{name}": {error}') from None

    def _separator(self) -> Text | int:
        try:
            if self.spltType != "len":
                found = separator(self.splt if self.splt != "" else "\\n", self.spltType)
                if not found:
                    raise ConfigError("it is empty")
                return found
            length = int(self.splt)
            if length < 1:
                raise ConfigError(f"{length} is out of range, allowed is ≥ 1")
        except ValueError as error:  # a ConfigError is one
            raise ConfigError(f'property "splt": {error}') from None
        return length

    async def start(self, ctx: Context) -> None:
        self._by = self._separator()

    def process(self, msgs: list[Msg]) -> list[Msg]:
        return [found for msg in msgs for found in self._take(msg)]

    def _take(self, msg: Msg) -> list[Msg]:
        value = plain(get(msg, self.property))
        parts: dict[str, Any] = {"parts": parts_of(msg)} if parts_of(msg) else {}
        parts["id"] = new_sequence()
        if self.property != "payload":
            parts["property"] = self.property
        if isinstance(value, str | bytes):
            return self._text(msg, value, parts)
        if isinstance(value, list | tuple):
            return list(self._list(msg, list(value), parts))
        return list(self._object(msg, value, parts)) if isinstance(value, dict) else []

    def _text(self, msg: Msg, value: Text, parts: dict[str, Any]) -> list[Msg]:
        parts |= self._kind(value)
        if not self.stream:
            pieces = self._pieces(value)
            return [
                self._part(msg, piece, {**parts, "index": index, "count": len(pieces)})
                for index, piece in enumerate(pieces)
            ]
        group = type(value).__name__
        before = self.held.messages(group)
        if before:
            value = get(before[-1], self.property) + value
        *pieces, rest = self._pieces(value)
        if isinstance(self._by, int) and len(rest) == self._by:
            pieces, rest = [*pieces, rest], rest[:0]
        out = [self._part(msg, piece, {**parts, "index": self.index + i}) for i, piece in enumerate(pieces)]
        self._keep(self._part(msg, rest, {**parts, "index": self.index + len(out)}) if rest else None, group)
        self.index += len(out)
        return out

    def _keep(self, rest: Msg | None, group: str) -> None:
        self.held.release(group)
        if rest is not None:
            self.held.keep(rest, group)

    def _kind(self, value: Text) -> dict[str, Any]:
        """What a join node has to know of a text."""
        kind: dict[str, Any] = {"type": "string" if isinstance(value, str) else "buffer"}
        if isinstance(self._by, int):
            return {**kind, "len": self._by, **({"ch": ""} if isinstance(value, str) else {})}
        return {**kind, "ch": list(self._by) if isinstance(self._by, bytes) else self._by}

    def _pieces(self, value: Text) -> list[Any]:
        """At least one."""
        by = self._by
        if isinstance(by, int):
            return [value[at : at + by] for at in range(0, len(value), by)] or [value]
        if isinstance(value, str):
            return list(value.split(by if isinstance(by, str) else by.decode(errors="replace")))
        return list(value.split(by.encode() if isinstance(by, str) else by))

    def _list(self, msg: Msg, items: list[Any], parts: Mapping[str, Any]) -> Iterator[Msg]:
        size = self.arraySplt
        parts = {**parts, "type": "array", "count": -(-len(items) // size), "len": size}
        for index in range(parts["count"]):
            piece = items[index * size : (index + 1) * size]
            yield self._part(msg, piece[0] if size == 1 else piece, {**parts, "index": index})

    def _object(self, msg: Msg, items: dict[Any, Any], parts: Mapping[str, Any]) -> Iterator[Msg]:
        for index, (key, value) in enumerate(items.items()):
            mine = {**parts, "type": "object", "key": str(key), "index": index, "count": len(items)}
            part = self._part(msg, value, mine)
            yield put(part, self.addname, str(key)) if self.addname else part

    def _part(self, msg: Msg, piece: Any, parts: Mapping[str, Any]) -> Msg:
        if self.property == "payload":
            return with_parts(msg, parts, payload=piece)
        return with_parts(put(msg, self.property, piece), parts)

    def restore(self, entry: Entry) -> list[Msg]:
        """What waits for the next piece does so again; one that a deploy brings is split."""
        value = get(entry.msg, self.property)
        if not self.stream or not isinstance(value, str | bytes):
            return self.process([entry.msg])
        self._keep(entry.msg, type(value).__name__)
        index = parts_of(entry.msg).get("index")
        self.index = max(self.index, index if isinstance(index, int) else 0)
        return []
