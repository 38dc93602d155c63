"""The palette: which node sets there are, and the html of each, made of the registry.

A type that Node-RED's core has too is shown with its genuine form, unchanged, and a script after it adds the fields
that are ours. Every other type gets a form of its declaration. The editor drops what a type does not declare, so every
field is declared.

    >>> Palette(Files()).sets["voltflow/twin"].types
    ('twin',)
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from edge.editor import forms
from edge.editor.not_run import INSTEAD, KEPT, Kept
from edge.editor.static import Files
from voltflow import __version__
from voltflow.admin.editor_files import VERSION
from voltflow.node import REGISTRY, NodeSpec

__all__ = ["CORE", "OWN", "NodeSet", "Palette"]

CORE: Final = "node-red"
OWN: Final = "voltflow"
ALWAYS: Final = frozenset({"comment", "unknown", "junction", "global-config"})
"""Sets without which the editor cannot show every flow; they run nothing."""
NOT_RUN: Final = "not-run"
"""The set of the types that are kept, and not run."""
_CORE_FOLDER: Final = "nodes/core/"
_REGISTERS: Final = re.compile(r"""RED\.nodes\.registerType\(\s*['"]([^'"]+)['"]""")
_SAFER: Final = frozenset({"mqtt-broker", "mqtt in", "mqtt out"})
"""Core types whose defaults here are others on purpose, because with Node-RED's own a message can be lost."""


@dataclass(frozen=True)
class NodeSet:
    """A set: what one html file registers. `path` is the genuine file, None for one of ours."""

    module: str
    name: str
    types: tuple[str, ...]
    path: str | None = None

    @property
    def id(self) -> str:
        return f"{self.module}/{self.name}"

    def facts(self, *, enabled: bool = True) -> dict[str, Any]:
        """As `/nodes` tells it."""
        return {
            "id": self.id,
            "name": self.name,
            "types": list(self.types),
            "enabled": enabled,
            "local": False,
            "user": False,
            "module": self.module,
            "version": VERSION if self.module == CORE else __version__,
        }


class Palette:
    """All sets of the registry; `files` are the editor's."""

    def __init__(self, files: Files, registry: Mapping[str, NodeSpec] = REGISTRY) -> None:
        self._files = files
        self._registry = registry
        self._html: dict[str, str] = {}

    @cached_property
    def sets(self) -> dict[str, NodeSet]:
        """By id; Node-RED's first, as its own list has them."""
        found = list(self._core_sets())
        theirs = {type for item in found for type in item.types}
        ours = sorted(type for type, spec in self._registry.items() if spec.category and type not in theirs)
        found += [NodeSet(OWN, set_name(type), (type,)) for type in ours]
        found.append(NodeSet(OWN, NOT_RUN, tuple(KEPT)))
        return {item.id: item for item in found}

    def _core_sets(self) -> Iterator[NodeSet]:
        """The genuine sets that register a type we run."""
        for path in self._files.under(_CORE_FOLDER):
            if not path.endswith(".html") or "/lib/" in path:
                continue
            name = re.sub(r"^\d+-", "", path.rpartition("/")[2].removesuffix(".html"))
            types = tuple(dict.fromkeys(_REGISTERS.findall(self._files.text(path))))
            if name in ALWAYS or any(type in self._registry for type in types):
                yield NodeSet(CORE, name, types or (name,), path)

    def html(self, set_id: str) -> str:
        """What the editor loads for a set."""
        if set_id not in self._html:
            item = self.sets[set_id]
            body = self._body(item)
            self._html[set_id] = f"<!-- --- [red-module:{item.id}] --- -->\n{body}"
        return self._html[set_id]

    def page(self, disabled: Collection[str] = ()) -> str:
        """What it loads for all that are enabled."""
        return "\n".join(self.html(set_id) for set_id in self.sets if set_id not in disabled)

    @cached_property
    def icons(self) -> dict[str, list[str]]:
        """Icon files by module, for the editor's icon picker."""
        names = [path.rpartition("/")[2] for path in self._files.under("nodes/icons/")]
        return {CORE: names, OWN: []}

    @cached_property
    def defaults(self) -> dict[str, dict[str, Any]]:
        """By core type, the defaults that a new node gets in place of the genuine form's."""
        return {
            type: {
                field.name: field.default
                for field in self._registry[type].fields
                if not field.required and not field.secret and field.reference is None
            }
            for type in _SAFER & set(self._registry)
        }

    # -- html ---------------------------------------------------------------------------------------------------------

    def _body(self, item: NodeSet) -> str:
        if item.path:
            return self._genuine(item)
        if item.name == NOT_RUN:
            return "\n".join(_kept(KEPT[type]) for type in item.types)
        return self._generated(self._registry[item.types[0]])

    def _genuine(self, item: NodeSet) -> str:
        assert item.path is not None
        below = item.path.removeprefix(_CORE_FOLDER)
        parts = [self._files.text(item.path), self._files.text(f"nodes/locales/en-US/{below}")]
        parts += [_extension(self._registry[type]) for type in item.types if type in self._registry]
        not_run = [type for type in item.types if type not in self._registry and item.name not in ALWAYS]
        if not_run:
            parts.append(_script("hide", not_run))
        return "\n".join(parts)

    def _generated(self, spec: NodeSpec) -> str:
        name = html.escape(spec.type, quote=True)
        return "\n".join(
            (
                f'<script type="text/html" data-template-name="{name}">\n{forms.rows(spec)}</script>',
                f'<script type="text/markdown" data-help-name="{name}">\n{_in_script(help_of(spec))}\n</script>',
                _script("register", forms.describe(spec)),
            )
        )


def _kept(kept: Kept) -> str:
    return (
        f'<script type="text/html" data-template-name="{kept.type}">\n{kept.rows()}</script>\n'
        f'<script type="text/markdown" data-help-name="{kept.type}">\n{INSTEAD}\n</script>\n'
        f"{_script('keep', kept.describe())}"
    )


def set_name(type: str) -> str:
    """The name of the set that has a type: without blanks, which an address may not have.

    >>> set_name("dead letter")
    'dead-letter'
    """
    return re.sub(r"[^\w.-]+", "-", type)


def _extension(spec: NodeSpec) -> str:
    """Adds to a genuine type what it does not have: our fields, with their rows, and our help."""
    prefix = "node-config-input" if forms.describe(spec)["category"] == "config" else "node-input"
    rows = {field.name: forms.row(field, spec.fields, prefix) for field in spec.fields}
    return _script("extend", {**forms.describe(spec), "rows": rows, "help": _paragraphs(spec.help)})


def _script(call: str, value: Any) -> str:
    # `<` as an escape: neither the end of a script nor a comment can be in it
    text = json.dumps(value, ensure_ascii=False, default=str).replace("<", "\\u003c")
    return f"<script>Voltflow.{call}({text})</script>"


def _in_script(text: str) -> str:
    """Text for a script element of another type, in which only its end means something."""
    return text.replace("</", "<\\/").replace("<!--", "<\\!--")


def help_of(spec: NodeSpec) -> str:
    """The docstring, and a list of the properties, in Markdown."""
    lines = [_escaped(spec.help), ""]
    visible = [field for field in spec.fields if forms.kind_of(field, spec.fields) != "type"]
    if visible:
        lines += ["### Properties", ""]
        lines += [
            f"- **{forms.label_of(field)}** (`{field.name}`): {_escaped(forms.hint_of(field))}"
            for field in visible
        ]
    return "\n".join(lines)


def _escaped(markdown: str) -> str:
    """Markdown in which `<` outside of code is no tag."""
    parts = re.split(r"(`[^`]*`)", markdown)
    return "".join(part if part.startswith("`") else part.replace("<", "&lt;") for part in parts)


def _paragraphs(text: str) -> str:
    """A docstring as html."""
    found = (
        re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(part)) for part in re.split(r"\n\s*\n", text)
    )
    return "".join(f"<p>{part}</p>" for part in found)
