"""Mustache templates as mustache.js renders them: JavaScript's texts, `payload.0.x` and `.length`, `{}` is true.

>>> render(
...     parse("{{payload.cells.0}} of {{payload.cells.length}}: {{{payload.note}}} {{payload.note}}{{none}}"),
...     lambda name: UNDEFINED,
...     {"payload": {"cells": [4.0, 3.5], "note": "a<b"}},
... )
'4 of 2: a<b a&lt;b'
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache, lru_cache
from typing import Any

from voltflow.flow.properties import UNDEFINED, plain
from voltflow.nodelib.loose import as_text

Elsewhere = Callable[[str], Any]
"""What a name stands for that the message does not have; UNDEFINED: nothing."""

_ESCAPES = str.maketrans({
    "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;", "/": "&#x2F;", "`": "&#x60;", "=": "&#x3D;",
})  # fmt: skip
_IN_JSON = str.maketrans({"\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r", "\f": "\\f", "\b": "\\b"})


class _EmptyObject(dict[str, Any]):
    """True, as in JavaScript."""

    def __bool__(self) -> bool:
        return True


class TemplateError(ValueError):
    """A template cannot be read; the message says why."""


@lru_cache(maxsize=256)
def parse(template: str) -> Any:
    """A template ready to be rendered; raises TemplateError."""
    import pystache
    from pystache.parser import ParsingError

    try:
        return pystache.parse(template, raise_on_mismatch=True)
    except (ParsingError, IndexError, AttributeError) as error:
        raise TemplateError(f"the template cannot be read: {' '.join(str(error).split())[:200]}") from None


def render(parsed: Any, elsewhere: Elsewhere, view: Mapping[str, Any], *, for_json: bool = False) -> str:
    """The text of a template; with `for_json` a text that stands in quotes becomes part of a JSON text."""
    from pystache.context import ContextStack

    return str(parsed.render(_engine_class()(elsewhere, for_json), ContextStack(view)))


@cache
def _engine_class() -> Any:
    from pystache.renderengine import RenderEngine

    class Engine(RenderEngine):  # type: ignore[misc]
        def __init__(self, elsewhere: Elsewhere, for_json: bool) -> None:
            super().__init__(
                literal=str, escape=lambda text: text.translate(_ESCAPES), to_str=_shown,
                resolve_partial=lambda name: "", resolve_context=self._look_up,
            )  # fmt: skip
            self._elsewhere, self._for_json = elsewhere, for_json

        def _look_up(self, stack: Any, name: str) -> Any:
            value = _in_stack(stack._stack, name)
            if value is UNDEFINED:
                value = self._elsewhere(name)
            if isinstance(value, Mapping) and not value:
                return _EmptyObject()
            return value.translate(_IN_JSON) if self._for_json and isinstance(value, str) else value

        def fetch_section_data(self, context: Any, name: str) -> list[Any]:
            data = self.resolve_context(context, name)
            if isinstance(data, list | tuple):
                return list(data)
            return [data] if data else []

    return Engine


def _shown(value: Any) -> str:
    return "" if value is None or value is UNDEFINED else as_text(value)


def _in_stack(stack: list[Any], name: str) -> Any:
    """The innermost value that has the name; one with dots as a whole."""
    if name == ".":
        return stack[-1]
    parts = name.split(".") if not name.startswith(".") else [name]
    for value in reversed(stack):
        for part in parts:
            value = _child(plain(value), part)
            if value is UNDEFINED:
                break
        else:
            return plain(value)
    return UNDEFINED


def _child(value: Any, name: str) -> Any:
    if isinstance(value, Mapping):
        return value.get(name, UNDEFINED)
    if isinstance(value, list | tuple | str | bytes):
        if name == "length":
            return len(value)
        return value[int(name)] if name.isdecimal() and int(name) < len(value) else UNDEFINED
    return UNDEFINED
