"""Settings of a program: defaults < TOML file < environment < command line; typed, checked, explained.

A program declares its settings once, as a frozen struct; type, range and description give the check, the options of
the command line, the names in the environment and the explanation:

>>> from typing import Annotated
>>> import msgspec
>>> from msgspec import Meta
>>> class Settings(msgspec.Struct, frozen=True, kw_only=True):
...     api_port: Annotated[int, Meta(ge=1, le=65535, description="port of the REST API")] = 5002
...     password: Annotated[Secret, Meta(description="password at the broker")] = ""
>>> loaded = load(Settings, "agent", environ={"VOLTFLOW_AGENT_API_PORT": "8080"})
>>> loaded.values.api_port, loaded.origins["api_port"]
(8080, 'VOLTFLOW_AGENT_API_PORT')
>>> load(Settings, "agent", environ={"VOLTFLOW_AGENT_API_PORT": "0"})
Traceback (most recent call last):
    ...
voltflow.setting.SettingsError: api_port = '0' is not allowed, it must be a whole number 1 … 65535 (from VOLTFLOW_AGENT_API_PORT)

A field may be an int, float, bool, str, Path, Literal, a list or tuple[x, ...] of them, or any of these or None. In the environment and
on the command line a list is separated by commas, and an empty text is None where None is allowed. A `Secret` is never
taken from the command line, where every user of the machine can read it, but `<name>_file` may name a file with it.
"""

from __future__ import annotations

import argparse
import difflib
import os
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

import msgspec
from msgspec import Meta

from voltflow.options import SecretFile
from voltflow.setting import RawValue, Setting, SettingsError, settings_of, toml_value

__all__ = ["ConfigFileError", "Loaded", "Secret", "SettingsError", "add_arguments", "explain", "load", "peek"]

SECTIONS = ("agent", "bridge", "sim", "train", "demo")
"""The tables that a configuration file may have, one for each program; a file serves all of them."""
DEFAULT_FILES = (Path("voltflow.toml"), Path("/etc/voltflow/voltflow.toml"))
"""The first of these that is there is read when neither --config nor VOLTFLOW_CONFIG names a file."""

Secret = Annotated[str, Meta(extra={"secret": True})]
"""A text that is never shown and not accepted on the command line."""

S = TypeVar("S", bound=msgspec.Struct)


class ConfigFileError(SettingsError):
    """The configuration file is not there, or cannot be read at all."""


def _nothing_to_read() -> Any:
    raise SettingsError("these settings were not read from anywhere")


@dataclass(frozen=True)
class Loaded(Generic[S]):
    """The effective settings, and for each one where it comes from: `default`, a file, a variable or an option. `again` reads
    them once more; it raises SettingsError."""

    values: S
    origins: Mapping[str, str]
    section: str
    again: Callable[[], S] = _nothing_to_read


def add_arguments(parser: argparse.ArgumentParser, cls: type[S]) -> None:
    """Give the parser `--config` and one option for each setting; `load` reads what argparse makes of them."""
    group = parser.add_argument_group("settings", "also in the configuration file and the environment")
    group.add_argument(
        "--config",
        metavar="FILE",
        help="TOML file with the settings (default: ./voltflow.toml)",
    )
    for item in settings_of(cls):
        option = _option(item.name)
        text = item.help_text().replace("%", "%%")
        if item.secret:
            option, text = f"{option}-file", f"file that holds: {text}"
            group.add_argument(
                option, action=SecretFile, metavar="FILE", default=argparse.SUPPRESS, help=text
            )
        elif item.is_bool:
            action = argparse.BooleanOptionalAction
            group.add_argument(option, action=action, default=argparse.SUPPRESS, help=text)
        else:
            group.add_argument(option, metavar=item.metavar(), default=argparse.SUPPRESS, help=text)


def load(
    cls: type[S],
    section: str,
    args: argparse.Namespace | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Loaded[S]:
    """The settings of a program from all layers; raises SettingsError."""
    items = {item.name: item for item in settings_of(cls)}
    values: dict[str, Any] = {}
    origins = dict.fromkeys(items, "default")
    for layer in _layers(items, section, args, environ):
        for name, raw in layer.items():
            values[name] = items[name].convert(raw)
            origins[name] = raw.origin
    for name, item in items.items():
        if item.required and name not in values:
            where = f"set it as {_variable(section, name)} or in the table [{section}]"
            raise SettingsError(f"{name} is not set: {item.help_text()}; {where}")
    try:
        return Loaded(cls(**values), origins, section, lambda: load(cls, section, args, environ).values)
    except ValueError as error:  # from __post_init__: what fits alone may not fit together
        raise SettingsError(f"[{section}] {error}") from None


def peek(
    section: str, names: Iterable[str], config: str | None = None, environ: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """What file and environment say of some settings of another program, as text and unchecked; raises SettingsError.

    >>> peek(
    ...     "agent",
    ...     ["state_dir"],
    ...     environ={"VOLTFLOW_AGENT_STATE_DIR": "/var/lib/voltflow", "VOLTFLOW_CONFIG": ""},
    ... )
    {'state_dir': '/var/lib/voltflow'}
    """
    file = _config_file(config, environ)
    table = _table(file, section) if file else {}
    values = {name: table.get(name, "") for name in names}
    values |= {name: environ[key] for name in values if (key := _variable(section, name)) in environ}
    return {name: str(value) for name, value in values.items() if value != ""}


def explain(loaded: Loaded[S]) -> str:
    """The effective settings as a TOML table that `load` reads back, each with its origin and help; no secrets."""
    lines = [f"[{loaded.section}]"]
    for item in settings_of(type(loaded.values)):
        value = getattr(loaded.values, item.name)
        shown = "***" if item.secret and value else toml_value(value)
        comment = "# " if item.secret or value is None else ""  # neither can be read back
        lines += ["", f"# {item.help_text()}"]
        lines += [f"{comment}{item.name} = {shown}  # from: {loaded.origins[item.name]}"]
    return "\n".join(lines)


def _layers(
    items: Mapping[str, Setting],
    section: str,
    args: argparse.Namespace | None,
    environ: Mapping[str, str],
) -> Iterator[dict[str, RawValue]]:
    """What each source says by setting, the weakest source first."""
    given = {} if args is None else vars(args)
    file = _config_file(given.get("config"), environ)
    if file:
        table, origin = _table(file, section), f"{file} [{section}]"
        raws = {name: RawValue(name, value, origin, is_text=False) for name, value in table.items()}
        yield _resolve(items, raws)
    prefix = _variable(section, "")
    variables = {key[len(prefix) :].lower(): key for key in environ if key.startswith(prefix)}
    yield _resolve(
        items,
        {name: RawValue(key, environ[key], key) for name, key in variables.items()},
    )
    options = {name: _option(name) for name in _names(items) if name in given}
    yield _resolve(items, {name: RawValue(key, given[name], key) for name, key in options.items()})


def _resolve(items: Mapping[str, Setting], raws: dict[str, RawValue]) -> dict[str, RawValue]:
    """One source's values by setting: unknown names are refused, `<secret>_file` is read."""
    layer: dict[str, RawValue] = {}
    for name, raw in raws.items():
        secret = name.removesuffix("_file")
        if name in items:
            layer[name] = raw
        elif name not in _names(items):
            raise _unknown(
                "setting",
                raw,
                [_spelled_like(raw.key, known) for known in _names(items)],
            )
        elif secret in raws:
            raise SettingsError(f"{secret} and {name} are both set (from {raw.origin}): leave one out")
        else:
            layer[secret] = _read_secret(raw)
    return layer


def _names(items: Mapping[str, Setting]) -> list[str]:
    return [*items, *(f"{item.name}_file" for item in items.values() if item.secret)]


def _variable(section: str, name: str) -> str:
    return f"VOLTFLOW_{section}_{name}".upper()


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def _spelled_like(key: str, name: str) -> str:
    """A known name in the spelling of the unknown one: `api_port`, or `VOLTFLOW_AGENT_API_PORT`."""
    return _variable(key.split("_")[1], name) if key.startswith("VOLTFLOW_") else name


def _unknown(what: str, raw: RawValue, known: list[str]) -> SettingsError:
    close = difflib.get_close_matches(raw.key, known, n=1)
    hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(known)}"
    return SettingsError(f"unknown {what} {raw.key} (from {raw.origin}): {hint}")


def _read_secret(raw: RawValue) -> RawValue:
    """The content of the file that `raw` names; where that fails its name is not told, it may be the secret itself."""
    path = Path(str(raw.value))
    try:
        text = path.read_text("utf-8").rstrip("\r\n")
    except (OSError, ValueError) as error:
        reason = _reason(error) if isinstance(error, OSError) else "it is not a file of text in UTF-8"
        raise SettingsError(
            f"{raw.key} must name a file that holds the secret, and what it names cannot be read: {reason} (from {raw.origin})"
        ) from None
    return RawValue(raw.key, text, f"{path}, named by {raw.key} from {raw.origin}")


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def _config_file(option: str | None, environ: Mapping[str, str]) -> Path | None:
    """The file to read: the one that is named must be there, the default ones need not."""
    named, origin = (option, "--config") if option else (environ.get("VOLTFLOW_CONFIG"), "VOLTFLOW_CONFIG")
    if not named:
        return next((path for path in DEFAULT_FILES if path.is_file()), None)
    if not Path(named).is_file():
        raise ConfigFileError(f"configuration file '{named}' is not there (from {origin})")
    return Path(named)


def _table(file: Path, section: str) -> dict[str, Any]:
    """The program's table in the file; every table must be one that some program reads."""
    try:
        content = tomllib.loads(file.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigFileError(f"configuration file '{file}' cannot be read: {_reason(error)}") from None
    for name, table in content.items():
        if not isinstance(table, dict):
            raise SettingsError(f"{name} stands outside a table (from {file}): put it below [{section}]")
        if name not in (*SECTIONS, section):
            raise _unknown("table", RawValue(name, table, str(file)), [*SECTIONS])
    return dict(content.get(section, {}))
