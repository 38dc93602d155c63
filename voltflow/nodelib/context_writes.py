"""Properties of node, flow and global context by their path, set so that it can be taken back.

>>> from voltflow.engine.context import Contexts
>>> memory, msg, writes = Contexts().scope("flow", "t"), Msg("P1", None), Writes()
>>> writes.put(memory, "seen[msg.topic].count", 3, msg)
>>> memory.get("seen")
{'P1': {'count': 3}}
>>> writes.undo()
>>> memory.keys()
[]
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from voltflow.engine.context import Memory
from voltflow.flow.properties import UNDEFINED, get_part, parse, plain, put_parts
from voltflow.flow.typed import context_key
from voltflow.message import Msg


class Writes:
    """What a batch has set. A batch that fails is done again in parts: what it had set must not count twice."""

    def __init__(self) -> None:
        self._before: list[tuple[Memory, str, Any]] = []

    def put(self, memory: Memory, path: str, value: Any, msg: Msg) -> None:
        """Set a property, or delete it where the value is UNDEFINED. Raises PathError and ContextError."""
        memory, key = memory.at(context_key(path))
        parts = [get_part(msg, part) for part in parse(key)]
        name = str(parts[0])
        before = memory.get(name, UNDEFINED)
        value = put_parts(before, parts[1:], plain(value), path)
        if value is UNDEFINED:
            memory.delete(name)
        else:
            memory.set(name, value)
        self._before.append((memory, name, before))

    def mark(self) -> int:
        return len(self._before)

    def undo(self, mark: int = 0) -> None:
        """Everything as it was, or as it was at a mark."""
        while len(self._before) > mark:
            memory, name, before = self._before.pop()
            if before is UNDEFINED:
                memory.delete(name)
            else:
                memory.set(name, before)


@contextlib.contextmanager
def writes() -> Iterator[Writes]:
    """Writes that are taken back when the block raises."""
    done = Writes()
    try:
        yield done
    except BaseException:
        done.undo()
        raise
