"""One setting of a program as its struct declares it: its type and range, the check of a value, and its help."""

from __future__ import annotations

import functools
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import msgspec.inspect as ms


class SettingsError(ValueError):
    """A setting is unknown, of the wrong type or out of range; the message names it, its value and its source."""


class RawValue(NamedTuple):
    """A value as a source has it; `key` is the setting's name in that source's spelling."""

    key: str
    value: Any
    origin: str
    is_text: bool = True


@dataclass(frozen=True)
class Setting:
    """One setting as its struct declares it; `kind` is its type without metadata."""

    name: str
    type: Any
    kind: ms.Type
    description: str
    secret: bool
    default: Any

    @property
    def required(self) -> bool:
        return self.default is msgspec.NODEFAULT

    @property
    def is_bool(self) -> bool:
        return _is_kind(self.kind, ms.BoolType)

    def convert(self, raw: RawValue) -> Any:
        """The value in the setting's type: a text (environment, options) is parsed, a file's value is not."""
        value = self._split(raw.value) if raw.is_text else raw.value
        try:
            value = msgspec.convert(value, self.type, strict=not raw.is_text, dec_hook=_path)
            if not (isinstance(value, float) and math.isnan(value)):  # NaN passes every range
                return value
        except msgspec.ValidationError:
            pass
        shown = "***" if self.secret else repr(raw.value)
        allowed = f"is not allowed, it must be {_allowed(self.kind)}"
        raise SettingsError(f"{self.name} = {shown} {allowed} (from {raw.origin})")

    def _split(self, value: Any) -> Any:
        if value == "" and _is_kind(self.kind, ms.NoneType):
            return None
        if isinstance(value, str) and _is_kind(self.kind, (ms.ListType, ms.VarTupleType)):
            return [part.strip() for part in value.split(",") if part.strip()]
        return value

    def help_text(self) -> str:
        """What it is, what is allowed, the default."""
        default = (
            ""
            if self.required or self.default in (None, "", [], ())
            else f"; default {toml_value(self.default)}"
        )
        allowed = _allowed(self.kind)
        rule = "" if allowed in ("a text", "a path", "true or false") else f"; {allowed}"
        return f"{self.description or self.name}{rule}{default}"

    def metavar(self) -> str:
        kinds = (
            (ms.ListType, "A,B"),
            (ms.VarTupleType, "A,B"),
            (ms.IntType, "N"),
            (ms.FloatType, "X"),
        )
        return next((text for kind, text in kinds if _is_kind(self.kind, kind)), "TEXT")


@functools.cache
def settings_of(cls: type[msgspec.Struct]) -> tuple[Setting, ...]:
    """The settings of a struct; raises TypeError where the declaration itself is wrong."""
    info = ms.type_info(cls)
    assert isinstance(info, ms.StructType)
    types = {field.name: field.type for field in msgspec.structs.fields(cls)}
    return tuple(_item(field, types[field.name]) for field in info.fields)


def _item(field: ms.Field, type_: Any) -> Setting:
    kind, meta = _bare(field.type)
    default = field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
    item = Setting(
        field.name,
        type_,
        kind,
        meta.get("description", ""),
        meta.get("secret", False),
        default,
    )
    _allowed(kind)
    if not item.required:
        try:
            item.convert(RawValue(field.name, default, "its default", is_text=False))
        except SettingsError as error:
            raise TypeError(str(error)) from None
    return item


def _bare(kind: ms.Type) -> tuple[ms.Type, dict[str, Any]]:
    """The type without metadata, and the metadata found on it and, for `Secret | None`, inside the union."""
    meta: dict[str, Any] = {}
    if isinstance(kind, ms.Metadata):
        meta = {**(kind.extra_json_schema or {}), **(kind.extra or {})}
        kind = kind.type
    if isinstance(kind, ms.UnionType):
        parts = [_bare(part) for part in kind.types]
        kind = ms.UnionType(tuple(part for part, _ in parts))
        meta = functools.reduce(lambda known, part: {**part[1], **known}, parts, meta)
    return kind, meta


def _is_kind(kind: ms.Type, wanted: type[Any] | tuple[type[Any], ...]) -> bool:
    """Whether the type is of that kind, or a union with one."""
    return any(
        isinstance(part, wanted) for part in (kind.types if isinstance(kind, ms.UnionType) else (kind,))
    )


def _path(type_: type, value: Any) -> Any:
    if type_ is Path and isinstance(value, (str, Path)):
        return Path(value)
    raise TypeError(f"expected {type_.__name__}")


def _allowed(kind: ms.Type) -> str:
    """What a value may be, for people."""
    match kind:
        case ms.IntType():
            return f"a whole number{_range(kind)}"
        case ms.FloatType():
            return f"a number{_range(kind)}"
        case ms.BoolType():
            return "true or false"
        case ms.NoneType():
            return "empty"
        case ms.LiteralType():
            return "one of " + ", ".join(map(str, kind.values))
        case ms.StrType():
            return _text_rule(kind)
        case ms.CustomType() if kind.cls is Path:
            return "a path"
        case ms.ListType() | ms.VarTupleType():
            return f"a list, each {_allowed(_bare(kind.item_type)[0])}"
        case ms.UnionType():
            return " or ".join(_allowed(part) for part in kind.types)
    raise TypeError(f"a setting cannot be of type {kind}")


def _range(kind: ms.IntType | ms.FloatType) -> str:
    """` 1 … 65535`, ` ≥ 0`, ` > 0` or nothing."""
    if kind.ge is not None and kind.le is not None:
        return f" {kind.ge} … {kind.le}"
    limits = (("≥", kind.ge), (">", kind.gt), ("≤", kind.le), ("<", kind.lt))
    return "".join(f" {sign} {limit}" for sign, limit in limits if limit is not None)


def _text_rule(kind: ms.StrType) -> str:
    """`a text that matches ^[a-z]+$ of 1 to 64 characters`, as far as there are such limits."""
    pattern = f" that matches {kind.pattern}" if kind.pattern else ""
    least, most = kind.min_length or 0, kind.max_length
    length = f" of {least} to {most} characters" if most is not None else f" of {least} characters or more"
    return f"a text{pattern}{length if least or most is not None else ''}"


def toml_value(value: Any) -> str:
    """A value in TOML's notation, or `empty` for None, which TOML does not have."""
    if value is None:
        return "empty"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(toml_value, value))}]"
    if isinstance(value, (str, Path)):  # a JSON string is a TOML string but for DEL
        return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value).lower()  # True -> true; numbers, inf and nan are spelled alike
