"""Examines the programs of this machine under the settings that their services have."""

from __future__ import annotations

import argparse
import difflib
import os
import shlex
import subprocess
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from voltflow.doctor.blank import Blanker
from voltflow.doctor.checks import Check, Result, ok, problem, run, skipped
from voltflow.doctor.program import GROUP, Program, blanked, installed, secrets_of
from voltflow.options import Parser, without_values
from voltflow.settings import DEFAULT_FILES, ConfigFileError, Loaded, SettingsError, add_arguments, load


class NoSuchProgram(ValueError):
    """The program that is asked for is not one."""


@dataclass(frozen=True)
class Asked:
    """How settings are to be found: as the program finds them, with these options and this environment."""

    config: str | None = None
    options: Sequence[str] = ()
    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    given_by: str = "--set"
    """Where the options come from."""


def as_unit(unit: str, asked: Asked) -> Asked:
    """With what a systemd unit (its name, or a file) gives its program: options, variables, secrets.

    Raises ValueError where there is no such unit, OSError where a file of it cannot be read.
    """
    options, environ = list(asked.options), dict(asked.environ)
    for key, value in _service_lines(unit):
        if key == "ExecStart":
            words = shlex.split(value)
            options = [*words[2:], *options]  # behind `edge-agent run`
        elif key == "Environment":
            environ |= dict(word.partition("=")[::2] for word in shlex.split(value))
        elif key == "EnvironmentFile":
            environ |= read_env_file(Path(value.removeprefix("-")), may_be_missing=value.startswith("-"))
    return replace(asked, options=options, environ=environ, given_by=f"{unit} or --set")


def _service_lines(unit: str) -> Iterator[tuple[str, str]]:
    if Path(unit).is_file():
        text = Path(unit).read_text("utf-8")
    else:
        try:
            done = subprocess.run(
                ["systemctl", "cat", unit], check=False, capture_output=True, text=True, timeout=10
            )
        except OSError as error:
            raise ValueError(
                f"--unit {unit}: there is no such file, and no systemd ({error.strerror})"
            ) from None
        if done.returncode:
            raise ValueError(f"--unit {unit}: {done.stderr.strip()}")
        text = done.stdout
    for line in text.replace("\\\n", " ").splitlines():
        key, equals, value = line.partition("=")
        if equals and not line.startswith(("#", ";")):
            yield key.strip(), value.strip()


def read_env_file(path: Path, *, may_be_missing: bool = False) -> dict[str, str]:
    """The variables of a systemd EnvironmentFile; raises OSError, with a word on rights where they are the cause."""
    try:
        lines = path.read_text("utf-8").splitlines()
    except FileNotFoundError:
        if may_be_missing:
            return {}
        raise
    except PermissionError as error:
        raise PermissionError(
            error.errno, "only root may read it, run the doctor with sudo", str(path)
        ) from None
    pairs = (line.partition("=") for line in map(str.strip, lines) if line and line[0] not in "#;")
    return {name.strip(): " ".join(shlex.split(value)) for name, equals, value in pairs if equals}


def wanted(name: str | None, asked: Asked) -> list[str]:
    """The programs to look at: the one that is named, `all`, or those that somebody has set something of."""
    known = sorted(installed())
    if not known:
        raise NoSuchProgram(f"the installation names no programs ({GROUP!r}): install Voltflow again")
    if name == "all":
        return known
    if name is not None:
        if name not in known:
            raise NoSuchProgram(f"there is no program {name!r} here; there are: {', '.join(known)}")
        return [name]
    return [program for program in known if _is_set(program, asked)] or known[:1]


def _is_set(program: str, asked: Asked) -> bool:
    if any(key.startswith(f"VOLTFLOW_{program.upper()}_") for key in asked.environ):
        return True
    named = asked.config or asked.environ.get("VOLTFLOW_CONFIG")
    file = Path(named) if named else next((path for path in DEFAULT_FILES if path.is_file()), None)
    try:
        return file is not None and program in tomllib.loads(file.read_text("utf-8"))
    except (OSError, ValueError):  # what is wrong with it is said where it is loaded
        return True


def loaded(program: Program[Any], asked: Asked) -> Loaded[Any]:
    """The settings that the program would run with; raises SettingsError."""
    parser = Parser(prog=f"voltflow doctor {program.name} --", add_help=False, exit_on_error=False)
    add_arguments(parser, program.settings)
    try:
        args, rest = parser.parse_known_args(list(asked.options))
    except argparse.ArgumentError as error:
        raise SettingsError(str(error)) from None
    if rest:
        raise SettingsError(_unknown(program, rest[0], asked.given_by))
    if asked.config:
        args.config = asked.config
    return load(program.settings, program.name, args, asked.environ)


def _unknown(program: Program[Any], option: str, given_by: str) -> str:
    """What to say of an option that is no setting; of its value nothing, it may be a secret."""
    name = "".join(without_values([option])).removeprefix("--").removeprefix("no-").replace("-", "_")
    known = [item.name for item in program.items]
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]}?" if close else f"`{program.unit} run --help` lists those that there are"
    return f"the {program.name} has no setting {name} (from {given_by}): {hint}"


@dataclass
class Patient:
    """A program with its settings, or why there are none."""

    name: str
    program: Program[Any] | None = None
    settings: Loaded[Any] | None = None
    why_not: Check | None = None
    blanker: Blanker = field(default_factory=lambda: Blanker(()))

    def checks(self) -> list[Check]:
        if self.why_not is not None or self.program is None or self.settings is None:
            return [self.why_not] if self.why_not is not None else []
        where = ", ".join(
            sorted({origin for origin in self.settings.origins.values() if origin != "default"})
        )
        fine = ok(f"all have values that are allowed; set by: {where or 'defaults only'}")
        return [Check("settings", "settings", lambda: [fine]), *self.program.checks(self.settings.values)]

    def examine(self, about_to: Callable[[Check], None] = lambda _: None) -> Iterator[Result]:
        """Each check's result, without secrets; `about_to` hears of each before it begins."""
        for check in self.checks():
            about_to(check)
            for result in run([check], self.name):
                yield replace(
                    result, findings=[blanked(finding, self.blanker) for finding in result.findings]
                )


def patient(name: str, asked: Asked) -> Patient:
    """A program ready to be examined."""
    program = installed()[name]
    if isinstance(program, str):
        text, fix = (
            f"its libraries are not installed here: {program}",
            f"pip install 'voltflow[{_extra(name)}]'",
        )
        return Patient(name, why_not=Check("settings", "settings", lambda: [skipped(text, fix)]))
    try:
        found = loaded(program, asked)
    except SettingsError as error:
        said = problem(str(error), _remedy(program, error))
        return Patient(name, program, why_not=Check("settings", "settings", lambda: [said]))
    return Patient(name, program, found, blanker=Blanker(secrets_of(program, found.values, asked.environ)))


def _remedy(program: Program[Any], error: SettingsError) -> str:
    """`config` of the program shows nothing while its settings cannot be loaded, so it is no help here."""
    if isinstance(error, ConfigFileError):
        return "correct the file, or name another: --config FILE or VOLTFLOW_CONFIG; without one the defaults hold"
    return (
        f"correct it where it comes from; `{program.unit} run --help` lists all settings with what is allowed"
    )


def _extra(name: str) -> str:
    return {"agent": "edge", "bridge": "cloud"}.get(name, name)
