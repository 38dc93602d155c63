"""YAML text to values and back, by the rules of YAML 1.2: `yes` is a text, 2026-01-31 too, and 1e3 a number.

>>> load("cells: [3.7, 3e0]\\nok: yes\\nday: 2026-01-31")
{'cells': [3.7, 3.0], 'ok': 'yes', 'day': '2026-01-31'}
>>> print(dump({"pack": "P1", "cells": [1, 2]}), end="")
pack: P1
cells:
  - 1
  - 2
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from voltflow.nodelib.loose import as_text

MOST_NODES = 1_000_000
"""Values in a document at most, those that aliases stand for counted each time: a few lines can stand for more than the
memory holds."""


class YamlError(ValueError):
    """A text is not YAML; the message says where and why."""


_SCALARS: dict[str, tuple[str, str]] = {
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "null": (r"~|null|Null|NULL|", "~nN"),
    "int": (r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    "float": (
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+.0123456789",
    ),
    "merge": ("<<", "<"),
}
"""What a text without quotes may be besides a text, and the letters it begins with: YAML 1.2, section 10.3.2."""


@cache
def _classes() -> tuple[Any, Any]:
    """Loader and dumper; libyaml's where PyYAML was built with it. Not every flow needs them."""
    import yaml

    class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
        yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - PyYAML's own way

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[str, Any]:
            return {as_text(key): value for key, value in super().construct_mapping(node, deep).items()}

    Loader.add_constructor("tag:yaml.org,2002:int", _int)
    Loader.add_constructor("tag:yaml.org,2002:timestamp", Loader.construct_yaml_str)
    Loader.add_constructor("tag:yaml.org,2002:set", Loader.construct_yaml_map)

    class Dumper(yaml.SafeDumper):
        def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
            super().increase_indent(flow, False)

        def ignore_aliases(self, data: Any) -> bool:
            return True

    for tag, (pattern, first) in _SCALARS.items():
        for class_ in (
            Loader,
            Dumper,
        ):  # the dumper quotes what either YAML 1.1 or 1.2 takes for something else
            class_.add_implicit_resolver(
                f"tag:yaml.org,2002:{tag}",
                re.compile(rf"(?:{pattern})\Z"),
                [*first, *([""] if tag == "null" else [])],
            )
    Dumper.add_representer(str, _represent_text)
    return Loader, Dumper


def _represent_text(dumper: Any, text: str) -> Any:
    """Lines as lines; quoted where a line break is none that YAML keeps."""
    style = (
        '"'
        if re.search("[\\x00-\\x09\\x0b-\\x1f\\x7f-\\x9f\\u2028\\u2029\\ufeff]", text)
        else "|"
        if "\n" in text
        else None
    )
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


def _int(loader: Any, node: Any) -> int:
    text = loader.construct_scalar(node)
    return int(text, 0 if text[:2] in ("0o", "0x") else 10)


def load(text: str) -> Any:
    """The value of the first document; raises YamlError."""
    import yaml

    loader = _classes()[0](text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _count(node, {})
        return loader.construct_document(node)
    except yaml.YAMLError as error:
        raise YamlError(" ".join(str(error).split())) from None
    except YamlError:
        raise
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise YamlError(f"a value is not what its tag says: {error}") from None
    finally:
        loader.dispose()


def _count(node: Any, counted: dict[int, int | None]) -> int:
    """How many values a node stands for; raises YamlError where they are too many."""
    known = counted.get(id(node), 0)
    if known is None:
        raise YamlError("a value contains itself")
    if known:
        return known
    counted[id(node)] = None
    total = 1
    if isinstance(node.value, list):
        for child in node.value:
            total += sum(_count(part, counted) for part in (child if isinstance(child, tuple) else (child,)))
            if total > MOST_NODES:
                raise YamlError(f"with its aliases it stands for more than {MOST_NODES} values")
    counted[id(node)] = total
    return total


def dump(value: Any) -> str:
    """The YAML of a value that JSON can say; raises YamlError."""
    import yaml

    options: dict[str, Any] = dict(sort_keys=False, allow_unicode=True, default_flow_style=False, width=10**6)
    try:
        text = str(yaml.dump(value, Dumper=_classes()[1], **options))
    except yaml.YAMLError as error:
        raise YamlError(" ".join(str(error).split())) from None
    return text if isinstance(value, dict | list) else text.removesuffix("...\n")
