"""Node, flow and global context, as Node-RED has them: small values a node remembers between messages, by key.

A key of flow context that begins with `$parent.` is one of what the flow is in: of a subflow instance the flow that has it,
of a tab the global context.

>>> contexts = Contexts()
>>> count = contexts.scope("node", "n1")
>>> count.set("seen", {"P1": 3})
>>> count.get("seen"), count.get("missing", 0), count.keys()
({'P1': 3}, 0, ['seen'])

Values are kept as JSON: what `get` gives is a copy, and changing it changes nothing. Where the program has a state store
they outlive it, with all that follows from `voltflow.state.state`: after a crash they may be a period old.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from typing import Any, Final, Literal

import msgspec

CONTEXT_LIMIT_BYTES: Final = 1_000_000
"""Of all scopes together, keys and values as JSON: every copy of the state holds them, so they are part of what a day
may write. What needs more is a history and belongs into a database."""

PARENT: Final = "$parent."

Kind = Literal["node", "flow", "global"]
Scope = tuple[str, str]
"""Kind and id: of the node, of the tab, or empty for global."""


class ContextError(ValueError):
    """A value cannot be kept; the message names scope, key and what is allowed."""


class Memory:
    """The values of one scope."""

    def __init__(self, contexts: Contexts, scope: Scope, parent: Memory | None = None) -> None:
        self._contexts = contexts
        self._scope = scope
        self._parent = parent

    def at(self, key: str) -> tuple[Memory, str]:
        """Where a key is, and what it is called there."""
        memory = self
        while key.startswith(PARENT) and memory._parent is not None:
            memory, key = memory._parent, key.removeprefix(PARENT)
        return memory, key

    def get(self, key: str, default: Any = None) -> Any:
        """The value, or `default` where there is none."""
        memory, key = self.at(key)
        data = self._contexts.values.get(memory._scope, {}).get(key)
        return default if data is None else msgspec.json.decode(data)

    def set(self, key: str, value: Any) -> None:
        """Keep a value that JSON can say; raises ContextError, and then the old one stays."""
        try:
            data = json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise ContextError(f"{self._label} context: {key!r} cannot be kept as JSON: {error}") from None
        memory, key = self.at(key)
        self._contexts.put(memory._scope, key, data)

    def delete(self, key: str) -> None:
        """Forget a value; none is fine."""
        memory, key = self.at(key)
        self._contexts.drop(memory._scope, key)

    def keys(self) -> list[str]:
        return list(self._contexts.values.get(self._scope, {}))

    @property
    def _label(self) -> str:
        return " ".join(filter(None, self._scope))


class Contexts:
    """All scopes of a program. `values` holds JSON by scope and key."""

    def __init__(self, limit_bytes: int = CONTEXT_LIMIT_BYTES) -> None:
        self.limit_bytes = limit_bytes
        self.size_bytes = 0
        self.values: dict[Scope, dict[str, bytes]] = {}

    def scope(self, kind: Kind, id: str = "", parent: Memory | None = None) -> Memory:
        return Memory(self, (kind, id), parent)

    def put(self, scope: Scope, key: str, data: bytes) -> None:
        values = self.values.get(scope, {})
        size_bytes = self.size_bytes + _size(key, data) - _size(key, values.get(key))
        if size_bytes > self.limit_bytes:
            raise ContextError(
                f"{' '.join(filter(None, scope))} context: {key!r} of {len(data)} bytes would make {size_bytes} bytes of "
                f"all contexts, allowed are {self.limit_bytes}: delete what is not needed, or keep it in a database"
            )
        self.values.setdefault(scope, {})[key] = data
        self.size_bytes = size_bytes

    def drop(self, scope: Scope, key: str) -> None:
        values = self.values.get(scope, {})
        self.size_bytes -= _size(key, values.pop(key, None))
        if not values:
            self.values.pop(scope, None)

    def keep_only(self, nodes: Collection[str], tabs: Collection[str]) -> None:
        """Forget the scopes of nodes and tabs that the flow no longer has."""
        known = {"node": nodes, "flow": tabs}
        for kind, id in list(self.values):
            if kind in known and id not in known[kind]:
                for key in list(self.values[kind, id]):
                    self.drop((kind, id), key)

    def copy(self) -> Callable[[], list[bytes]]:
        """For a state store: the values as they are now."""
        now = [(scope, dict(values)) for scope, values in self.values.items()]
        return lambda: [msgspec.msgpack.encode(now)]

    def restore(self, data: bytes) -> None:
        """What `copy` gave; values that are there already stay."""
        for scope, values in msgspec.msgpack.decode(data, type=list[tuple[Scope, dict[str, bytes]]]):
            for key, value in values.items():
                self.put(scope, key, value)


def _size(key: str, data: bytes | None) -> int:
    return 0 if data is None else len(key) + len(data)
