"""What a running flow tells whoever looks at it: debug messages, badges, notes. Nobody has to listen.

>>> events = Events()
>>> heard = []
>>> with events.listening(lambda topic, data: heard.append((topic, data))):
...     events.tell("debug", {"msg": "1"})
>>> events.tell("debug", {"msg": "2"}), heard
(None, [('debug', {'msg': '1'})])
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypedDict

Listener = Callable[[str, Mapping[str, Any]], None]
"""Gets a topic (`debug`, `status/ID`, `notification/…`) and its data; quick, and never fails."""


class Badge(TypedDict, total=False):
    """What stands below a node in the editor; empty: nothing. `fill`: red, green, yellow, blue or grey; `shape`: dot or ring."""

    fill: str
    shape: str
    text: str


class Events:
    """Hands what it is told to all who listen, at once."""

    def __init__(self) -> None:
        self._listeners: list[Listener] = []

    @property
    def heard(self) -> bool:
        """Whether anybody listens: what only people look at need not be made otherwise."""
        return bool(self._listeners)

    def tell(self, topic: str, data: Mapping[str, Any]) -> None:
        for listener in list(self._listeners):
            listener(topic, data)

    @contextlib.contextmanager
    def listening(self, listener: Listener) -> Iterator[None]:
        self._listeners.append(listener)
        try:
            yield
        finally:
            self._listeners.remove(listener)
