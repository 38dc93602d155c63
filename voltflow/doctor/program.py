"""What a program tells the doctor of itself; the entry points `voltflow.doctor` name its module, which has `PROGRAM`."""

from __future__ import annotations

import importlib.metadata
import json
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec

from voltflow.doctor.blank import Blanker, is_secret_name
from voltflow.doctor.checks import Check, Finding, ok, problem, warning
from voltflow.flow.environment import Hidden, hide_secrets
from voltflow.flow.flow import Flow, FlowError
from voltflow.setting import Setting, settings_of

S = TypeVar("S", bound=msgspec.Struct)
GROUP = "voltflow.doctor"
ANSWER_LIMIT = 16 * 1024 * 1024
LEAST_OF_VARIABLE = 6
"""Characters of a variable that is taken for a secret by its name; to blank each `1` or `true` would blank everything."""


class Address(NamedTuple):
    """What a running program tells over HTTP, and the token for it."""

    url: str
    token: str = ""


@dataclass(frozen=True)
class Program(Generic[S]):
    """A long-running program as the doctor knows it. `settings` are loaded as the program loads them."""

    name: str
    """Also the table of its settings."""
    unit: str
    settings: type[S]
    checks: Callable[[S], Iterable[Check]]
    flow: Callable[[S], tuple[Flow, Mapping[str, str]]]
    """Its flow and the variables for it; raises OSError or ValueError."""
    answers: Callable[[S], Mapping[str, Address]]
    """By a file's name in the support bundle: what to ask of the running program."""
    folders: Callable[[S], Sequence[Path]]
    """What it keeps: the bundle lists the files, and has none of them."""
    secrets: Callable[[S], Iterable[str]] = lambda _: ()
    """Secrets beside those of the settings."""

    @property
    def items(self) -> tuple[Setting, ...]:
        return settings_of(self.settings)


def installed() -> dict[str, Program[Any] | str]:
    """The programs that are installed here by name; where one's libraries are missing, what is missing."""
    found: dict[str, Program[Any] | str] = {}
    for entry in importlib.metadata.entry_points(group=GROUP):
        try:
            found[entry.name] = entry.load().PROGRAM
        except ImportError as error:
            found[entry.name] = str(error)
    return found


def secret_settings() -> set[str]:
    """The settings of the programs of this machine that are secrets, by name."""
    programs = [program for program in installed().values() if not isinstance(program, str)]
    return {item.name for program in programs for item in program.items if item.secret}


def secrets_of(program: Program[S], settings: S, environ: Mapping[str, str]) -> set[str]:
    """All that is known to be secret about a program: settings, credentials of its flow, variables."""
    values = msgspec.structs.asdict(settings)
    found = {str(values[item.name]) for item in program.items if item.secret}
    found |= set(program.secrets(settings)) | secrets_in(environ)
    return {text for text in found if text}


def secrets_in(environ: Mapping[str, str]) -> set[str]:
    """The variables that are secret, by what programs say of them or by their names."""
    return {
        value
        for name, value in hide_secrets(environ).items()
        if isinstance(value, Hidden) or _is_likely_secret(name, value)
    }


def _is_likely_secret(name: str, value: str) -> bool:
    """Whether a variable of any program holds a secret; `PWD` and what ends in `_FILE` name places."""
    names_a_place = name in ("PWD", "OLDPWD") or name.endswith(("_FILE", "_PATH", "_DIR"))
    return len(value) >= LEAST_OF_VARIABLE and is_secret_name(name) and not names_a_place


def flow_check(load: Callable[[], tuple[Flow, Mapping[str, str]]], setting: str) -> Check:
    """The flow file as `voltflow flow check` sees it, with the variables of the program."""

    def look() -> Iterator[Finding]:
        fix = f"voltflow flow check FILE tells the lines; an earlier one is beside it (.backup); setting {setting}"
        try:
            flow, env = load()
            problems = flow.check(env)
        except FlowError as error:
            yield from (problem(str(item), fix) for item in error.problems)
            return
        except (OSError, ValueError) as error:  # it says itself what to do
            yield problem(str(error), f"the setting {setting} and what it names")
            return
        for item in problems:
            yield (problem if item.severity == "error" else warning)(str(item), fix)
        if not any(item.severity == "error" for item in problems):
            yield ok(f"flow {flow.revision} can run, {sum(1 for _ in flow.active())} nodes")

    return Check("flow", "the flow", look, limit_s=60.0)


def ask(address: Address, timeout_s: float = 10.0) -> tuple[int, bytes]:
    """Status and body of an answer, also of one that says no; raises OSError where there is none."""
    headers = {"Authorization": f"Bearer {address.token}"} if address.token else {}
    request = urllib.request.Request(address.url, headers=headers)  # noqa: S310 - an address of the settings
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as answer:  # noqa: S310
            return answer.status, answer.read(ANSWER_LIMIT)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read(ANSWER_LIMIT)


def ask_json(address: Address) -> tuple[int, Any]:
    """As `ask`, for JSON; raises ValueError where it is none."""
    status, body = ask(address)
    return status, json.loads(body)


def local_url(host: str, port: int, path: str) -> str:
    """The address at which a program of this machine answers that listens at `host`.

    >>> local_url("0.0.0.0", 5002, "/api/health"), local_url("::", 80, "/")
    ('http://127.0.0.1:5002/api/health', 'http://[::1]:80/')
    """
    reached = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - not listening
    return f"http://{f'[{reached}]' if ':' in reached else reached}:{port}{path}"


def blanked(result: Finding, blanker: Blanker) -> Finding:
    return Finding(result.status, blanker.text(result.text), blanker.text(result.fix))
