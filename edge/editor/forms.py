"""A node's edit form, made of what its declaration says of each field: html rows, and what the page's script needs.

The script (`assets/editor.js`) makes typed inputs, text editors, defaults and validators of `describe`'s answer.
"""

from __future__ import annotations

import html
import json
import re
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Final, Literal

from voltflow.flow.field import Field
from voltflow.node import ConfigNode, NodeSpec, Sink

Kind = Literal[
    "text", "number", "bool", "choice", "typed", "type", "property", "reference", "code", "secret", "json"
]

_UNIT_ENDINGS = frozenset(
    {"s", "ms", "h", "v", "mv", "c", "a", "ah", "pct", "mb", "bytes", "min", "ohm", "per"}
)
_SHORT = {
    word.lower(): word
    for word in ("BMS", "ID", "MQTT", "QoS", "RUL", "SoC", "SoH", "TLS", "URL", "CA", "SASL")
}
ENDLESS: Final = 1e9
"""Limits from here on are there to refuse what is no number, and nobody reads them."""


def describe(spec: NodeSpec) -> dict[str, Any]:
    """What the page's script registers the type with."""
    return {
        "type": spec.type,
        "label": spec.label,
        "category": "config" if issubclass(spec.cls, ConfigNode) else spec.category,
        "color": spec.color,
        "icon": spec.icon if "/" in spec.icon else f"node-red/{spec.icon}",
        "inputs": spec.inputs,
        "outputs": spec.outputs,
        "align": "right" if issubclass(spec.cls, Sink) else "left",
        "fields": [_describe(field, spec.fields) for field in spec.fields],
    }


def kind_of(field: Field, fields: Iterable[Field]) -> Kind:
    """How a field is edited."""
    if field.secret:
        return "secret"
    if field.reference is not None:
        return "reference"
    if field.code is not None:
        return "code"
    if any(other.type_property == field.name for other in fields):
        return "type"
    if field.types is not None:
        return "typed" if field.type_property else "property"
    if choices_of(field):
        return "choice"
    return _KINDS.get(plain_type(field.type), "json")


_KINDS: Mapping[Any, Kind] = {str: "text", int: "number", float: "number", bool: "bool"}


def plain_type(declared: Any) -> Any:
    """The type without `| None`.

    >>> plain_type(float | None)
    <class 'float'>
    """
    if typing.get_origin(declared) in (typing.Union, types.UnionType):
        plain = [item for item in typing.get_args(declared) if item is not type(None)]
        return plain[0] if len(plain) == 1 else declared
    return declared


def choices_of(field: Field) -> tuple[Any, ...]:
    """What may be chosen; empty where it is no choice."""
    plain = plain_type(field.type)
    if field.choices is None and typing.get_origin(plain) is Literal:
        return typing.get_args(plain)
    return field.choices or ()


def _describe(field: Field, fields: tuple[Field, ...]) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "name": field.name,
        "kind": kind_of(field, fields),
        "default": "" if field.required else field.default,
        "required": field.required,
        "low": field.low,
        "high": field.high,
        "range": field.range_text(),
        "integer": plain_type(field.type) is int,
        "choices": list(choices_of(field)),
        "types": list(field.types or ()),
        "typeProperty": field.type_property,
        "reference": field.reference,
        "language": field.code,
        "shownIf": {"name": field.shown_if[0], "values": field.shown_if[1]} if field.shown_if else None,
        "credential": field.credential,
    }
    if field.type_property:
        partner = next((other for other in fields if other.name == field.type_property), None)
        facts["typeDefault"] = (
            partner.default if partner and not partner.required else (field.types or ("",))[0]
        )
    keep = ("name", "kind", "default")
    return {
        name: value for name, value in facts.items() if name in keep or value not in (None, "", [], False)
    }


# -- html -------------------------------------------------------------------------------------------------------------


def rows(spec: NodeSpec) -> str:
    """The form: the name first, the advanced fields folded away."""
    prefix = "node-config-input" if issubclass(spec.cls, ConfigNode) else "node-input"
    plain = [row(field, spec.fields, prefix) for field in spec.fields if not field.advanced]
    more = [row(field, spec.fields, prefix) for field in spec.fields if field.advanced]
    folded = (
        f'<details class="voltflow-more"><summary>More</summary>{"".join(more)}</details>' if more else ""
    )
    return f"{_name_row(prefix)}{''.join(plain)}{folded}"


def _name_row(prefix: str) -> str:
    return (
        f'<div class="form-row"><label for="{prefix}-name"><i class="fa fa-tag"></i> Name</label> '
        f'<input type="text" id="{prefix}-name" placeholder="Name"></div>\n'
    )


def row(field: Field, fields: tuple[Field, ...], prefix: str) -> str:
    """One field's row of the form; `data-field` names it, so that it can be found where it is added to another form."""
    kind, id = kind_of(field, fields), f"{prefix}-{field.name}"
    if kind == "type":
        return f'<input type="hidden" id="{id}" data-field="{html.escape(field.name)}">\n'
    unit = f' <span class="voltflow-unit">{html.escape(field.unit)}</span>' if field.unit else ""
    return (
        f'<div class="form-row voltflow-row" data-field="{html.escape(field.name)}">'
        f'<label for="{id}">{html.escape(label_of(field))}</label> {_input(field, kind, id)}{unit}'
        f'<div class="voltflow-help">{html.escape(hint_of(field))}</div></div>\n'
    )


def _input(field: Field, kind: Kind, id: str) -> str:
    id = html.escape(id, quote=True)
    if kind == "bool":
        return f'<input type="checkbox" id="{id}" class="voltflow-check">'
    if kind == "choice":
        options = "".join(
            f'<option value="{html.escape(str(choice), quote=True)}">{html.escape(str(choice))}</option>'
            for choice in choices_of(field)
        )
        return f'<select id="{id}">{options}</select>'
    if kind == "secret":
        return f'<input type="{field.credential}" id="{id}">'
    if kind == "code":
        return f'<input type="hidden" id="{id}"><div class="node-text-editor voltflow-code" id="{id}-editor"></div>'
    if kind == "json":
        # not the id that the editor would save as text: its script parses it
        return f'<input type="text" id="{id}-json">'
    example = html.escape(str(field.example), quote=True) if field.example is not None else ""
    return f'<input type="text" id="{id}" placeholder="{example}">'


def label_of(field: Field) -> str:
    """What people call it: the property's name in words, without the unit that it ends in, unless its declaration says it."""
    if field.label:
        return field.label
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", field.name).replace("_", " ").lower().split()
    while field.unit and len(words) > 1 and words[-1] in _UNIT_ENDINGS:
        words.pop()
    text = " ".join(_SHORT.get(word, word) for word in words)
    return text[:1].upper() + text[1:]


def _shown(default: Any) -> str:
    """A default as people would write it."""
    if isinstance(default, float):
        return f"{default:.10g}"
    return default if isinstance(default, str) else json.dumps(default, ensure_ascii=False)


def _range_of(field: Field) -> str:
    """The allowed range, where it tells people anything."""
    low = None if field.low is None or field.low <= -ENDLESS else field.low
    high = None if field.high is None or field.high >= ENDLESS else field.high
    return replace(field, low=low, high=high).range_text()


def hint_of(field: Field) -> str:
    """What a person has to know of it: help, range, default."""
    facts = [field.help]
    if range_text := _range_of(field):
        facts.append(range_text)
    if (
        not field.required
        and field.code is None
        and field.default not in ("", None, [], {})
        and not isinstance(field.default, bool)
    ):
        facts.append(f"default {_shown(field.default)}")
    return "; ".join(facts)
