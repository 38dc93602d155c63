"""The variables of a flow: what tabs, groups and subflows declare, one within the other, before those of the process.

`${NAME}` is looked up from the inside out; `${$parent.NAME}` begins one level further out.

>>> tab = declare({}, [{"name": "LIMIT", "value": "45"}])
>>> group = declare(
...     tab, [{"name": "LIMIT", "value": "60"}, {"name": "OLD", "type": "env", "value": "$parent.LIMIT"}]
... )
>>> env = Environment(group, {"HOME": "/root"})
>>> env["LIMIT"], env["OLD"], env["$parent.LIMIT"], env["HOME"], env.get("NONE")
('60', '45', '45', '/root', None)
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

PARENT = "$parent."
NAMES = "NR_"
"""What the variables begin with that say what a node, and all it is in, is called; nobody else can set them."""
Declared = Mapping[str, str]
"""Values by name; of further out by `$parent.NAME`. One that a variable of the process is part of has `${NAME}` in it."""

_PLACE = re.compile(r"\$\{((?:\$parent\.)*[^}$]+)\}")


def declare(outer: Declared, *levels: Iterable[Any], names: Declared | None = None) -> Declared:
    """What holds inside of a tab, group or subflow with these `env` lists; the later list wins, and `names` before all."""
    entries = {
        str(item["name"]): item
        for items in levels
        for item in items
        if isinstance(item, Mapping) and item.get("name")
    }
    found = {name: value for name, value in outer.items() if not name.startswith(PARENT)}
    found |= {PARENT + name: value for name, value in outer.items()}
    own = {name: _text(item.get("value", "")) for name, item in entries.items() if item.get("type") != "env"}
    found |= {**own, **(names or {})}
    for name, item in entries.items():
        if item.get("type") == "env" and name not in (names or {}):  # last, because they may name the others
            found[name] = _of_variable(_text(item.get("value", "")), name, found)
    return found


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _of_variable(text: str, name: str, known: Declared) -> str:
    """The value of a variable that is made from others; one named as itself is that of further out."""
    text = _PLACE.sub(lambda match: f"${{{PARENT}{name}}}" if match[1] == name else match[0], text)
    if "${" not in text:
        text = f"${{{PARENT + name if text == name else text}}}"
    return _PLACE.sub(lambda match: known.get(match[1], match[0]), text)


class Hidden(str):
    """A password or the like of the program, or a text with one in it: for a node's own secret fields, and for nothing that a
    flow could show or send."""

    __slots__ = ()


_HIDDEN = re.compile(r"VOLTFLOW_\w+_(PASSWORD|TOKEN|SECRET|DATABASE)")


def hide_secrets(process: Mapping[str, str]) -> dict[str, str]:
    """The variables of a process; those that are secret settings of any of the programs are `Hidden`.

    >>> [type(value).__name__ for value in hide_secrets({"VOLTFLOW_SIM_PASSWORD": "x", "HOME": "/"}).values()]
    ['Hidden', 'str']
    """
    return {name: Hidden(value) if _HIDDEN.fullmatch(name) else value for name, value in process.items()}


class Environment(Mapping[str, str]):
    """What is declared, before the variables of the process; what has a `Hidden` one in it is hidden, too."""

    def __init__(self, declared: Declared, process: Mapping[str, str]) -> None:
        self._declared, self._process = declared, process

    def __getitem__(self, name: str) -> str:
        text = self._declared.get(name)
        if text is None:
            return self._process[name.replace(PARENT, "")]
        if "${" not in text:
            return text
        parts = [self._process.get(match[1].replace(PARENT, ""), "") for match in _PLACE.finditer(text)]
        values = iter(parts)
        text = _PLACE.sub(lambda _: next(values), text)
        return Hidden(text) if any(isinstance(part, Hidden) for part in parts) else text

    def __iter__(self) -> Iterator[str]:
        yield from self._declared
        yield from (name for name in self._process if name not in self._declared)

    def __len__(self) -> int:
        return sum(1 for _ in self)


class Shown(Mapping[str, str]):
    """What code, expressions and templates of a flow may read of an environment: nothing that is hidden."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self._env = env

    def __getitem__(self, name: str) -> str:
        value = self._env[name]
        if isinstance(value, Hidden):
            raise KeyError(name)
        return value

    def __iter__(self) -> Iterator[str]:
        return (name for name, value in self._env.items() if not isinstance(value, Hidden))

    def __len__(self) -> int:
        return sum(1 for _ in self)
