"""One configuration property of a node: its type, what is allowed, and how people are told."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec


class ConfigError(ValueError):
    """A node's configuration is wrong; the message names node, property, value and what is allowed."""


class VariableMissing(ConfigError):
    """A property names an environment variable that is not set here; on the machine that runs the flow it may be."""


@dataclass(frozen=True)
class Field:
    """One configuration property of a node, as its declaration says it. `name` is the property in flows.json."""

    name: str
    attribute: str
    type: Any
    default: Any
    help: str
    unit: str | None
    low: float | None
    high: float | None
    choices: tuple[Any, ...] | None
    reference: str | None
    secret: bool | Literal["text"]
    advanced: bool
    example: Any
    types: tuple[str, ...] | None = None
    """What a typed input may be (`voltflow.flow.typed`); `type_property` is the property that says which it is."""
    type_property: str | None = None
    code: str | None = None
    """The language of a text that is code (`python`, `json`, `html`, `jsonata`, `mustache`)."""
    label: str = ""
    """What its form calls it; empty: made of the name."""
    shown_if: tuple[str, tuple[Any, ...]] | None = None
    """The property and its values with which this one is of use; forms hide it otherwise."""
    of: str | None = None
    """The property that names the payload field in whose unit this is, or whose unit this text is (`voltflow.flow.units`)."""

    @property
    def required(self) -> bool:
        return self.default is dataclasses.MISSING

    @property
    def credential(self) -> Literal["password", "text"] | None:
        """How a field that is a credential is kept from people: a password never comes back to the editor, a text does."""
        if not self.secret:
            return None
        return self.secret if isinstance(self.secret, str) else "password"

    def coerce(self, value: Any) -> Any:
        """The value in the field's type (editors save numbers as text); raises ConfigError naming what is allowed."""
        if self.reference is not None and not value and not self.required:
            return ""
        if not self.required and (value is None or (value == "" and self.type is not str)):
            return (
                self.default
            )  # how an editor saves an empty field of a number or a choice, and one that is not there
        try:
            converted = msgspec.convert(value, self.type, strict=False)
        except msgspec.ValidationError as error:
            shown = "a secret" if self.secret else repr(value)
            raise ConfigError(f'property "{self.name}": {error}, but it is {shown}') from None
        if self.choices is not None and converted not in self.choices:
            allowed = ", ".join(repr(choice) for choice in self.choices)
            raise ConfigError(f'property "{self.name}": {converted!r} is not one of {allowed}')
        # asked this way round a NaN, for which every comparison is false, is out of range
        if (self.low is not None and not converted >= self.low) or (
            self.high is not None and not converted <= self.high
        ):
            raise ConfigError(
                f'property "{self.name}": {converted!r} is out of range, allowed is {self.range_text()}'
            )
        return converted

    def range_text(self) -> str:
        """The allowed range for people, with the unit: `1 … 65535 s`."""
        low = "" if self.low is None else f"{self.low:.10g}"
        high = "" if self.high is None else f"{self.high:.10g}"
        text = f"{low} … {high}" if low and high else f"≥ {low}" if low else f"≤ {high}" if high else ""
        return f"{text} {self.unit}" if text and self.unit else text


def config(
    default: Any = dataclasses.MISSING,
    *,
    help: str,
    unit: str | None = None,
    low: float | None = None,
    high: float | None = None,
    choices: Sequence[Any] | None = None,
    reference: str | None = None,
    secret: bool | Literal["text"] = False,
    advanced: bool = False,
    example: Any = None,
    name: str | None = None,
    types: Sequence[str] | None = None,
    type_property: str | None = None,
    code: str | None = None,
    of: str | None = None,
    label: str = "",
    shown_if: tuple[str, Sequence[Any]] | None = None,
) -> Any:
    """Declare a configuration field of a node.

    `reference` is the type of the config node it points to (its id is the value); `name` is the property's name in
    flows.json where that is not a Python name (`from`, `global`). A typed input has `types` and a field of its own for
    its type, which `type_property` names. `code` is the language of a text that is code. A `secret` is a credential:
    kept encrypted beside the flow, not in it; "text": one that the editor shows, such as a user name. A value that is to
    be in the unit of a payload field says by `of` which property names that field. Forms call it `label`, and show it only while
    the property that `shown_if` names has one of those values.
    """
    metadata = dict(
        help=help, unit=unit, low=low, high=high, choices=tuple(choices) if choices else None,
        reference=reference, secret=secret, advanced=advanced, example=example, name=name,
        types=tuple(types) if types else None, type_property=type_property, code=code, of=of,
        label=label, shown_if=(shown_if[0], tuple(shown_if[1])) if shown_if else None,
    )  # fmt: skip
    if isinstance(default, (list, dict)):
        return dataclasses.field(default_factory=lambda: type(default)(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata, repr=not secret)
