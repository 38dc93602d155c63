"""JSON Schema (draft-07, or what a schema's `$schema` names) for values of messages, by the package jsonschema-rs.

It is loaded when the first schema comes: most gateways never have one, so it is an extra of its own (`schema`).
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from typing import Any, Final, NoReturn

import msgspec

MOST_SCHEMAS: Final = 32
"""Compiled schemas that a node keeps."""
MOST_ERRORS: Final = 5
LONGEST: Final = 200
"""Characters of what is said of one error."""
PACKAGE: Final = "jsonschema-rs"


class Schemas:
    """The schemas of a node, compiled once each."""

    def __init__(self) -> None:
        self._validators: OrderedDict[bytes, Any] = OrderedDict()

    def check(self, value: Any, schema: Any, what: str) -> None:
        """Raises ValueError naming what of the value does not fit, or what is wrong with the schema; RuntimeError where
        the package is not installed."""
        validator = self._validator(schema)
        try:
            errors = list(itertools.islice(validator.iter_errors(value), MOST_ERRORS + 1))
        except ValueError as error:
            raise ValueError(f"{what} cannot be checked against msg.schema: {error}") from None
        if errors:
            more = "; …" if len(errors) > MOST_ERRORS else ""
            raise ValueError(
                f"{what} does not fit msg.schema: {'; '.join(map(_said, errors[:MOST_ERRORS]))}{more}"
            )

    def _validator(self, schema: Any) -> Any:
        key = msgspec.json.encode(schema)
        validator = self._validators.get(key)
        if validator is None:
            validator = self._validators[key] = _compiled(schema)
            if len(self._validators) > MOST_SCHEMAS:
                self._validators.popitem(last=False)
        else:
            self._validators.move_to_end(key)
        return validator


def _compiled(schema: Any) -> Any:
    try:
        import jsonschema_rs
    except ImportError:
        text = f"msg.schema needs the package {PACKAGE}: pip install 'voltflow[edge,schema]'"
        raise RuntimeError(text) from None
    if not isinstance(schema, dict | bool):
        raise ValueError(f"msg.schema is no JSON schema: it is {schema!r:.80}, not an object")  # noqa: TRY004
    named = isinstance(schema, dict) and "$schema" in schema
    compile_ = jsonschema_rs.validator_for if named else jsonschema_rs.Draft7Validator
    try:
        return compile_(schema, retriever=_nothing_from_elsewhere)
    except ValueError as error:  # its own errors are ones too
        raise ValueError(f"msg.schema is no JSON schema: {_said(error)}") from None


def _nothing_from_elsewhere(address: str) -> NoReturn:
    raise ValueError(f"{address} is not fetched: put what it refers to into the schema")


def _said(error: Any) -> str:
    path = "".join(f"/{part}" for part in getattr(error, "instance_path", ()))
    text = str(getattr(error, "message", error))
    short = text if len(text) <= LONGEST else f"{text[:LONGEST]}…"
    return f"{path}: {short}" if path else short
