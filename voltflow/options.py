"""The command line of the house's programs: options are written out in full, and no answer repeats what may be a secret."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from typing import Any, Never

SECRETS_ARE_NO_OPTIONS = "secrets cannot be options, where every user of this machine can read them"


class SecretFile(argparse.Action):
    """The option `--<name>-file` of a secret: it names the file that holds it."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option: str | None = None,
    ) -> None:
        setattr(namespace, self.dest, values)


class Parser(argparse.ArgumentParser):
    """An ArgumentParser without abbreviations, by which `--broker-password X` would be `--broker-password-file X`: a password
    taken for a file's name, and shown in the complaint that there is no such file. The parsers of its commands are the same.

    >>> parser = Parser(prog="agent", add_help=False, exit_on_error=False)
    >>> _ = parser.add_argument("--token-file", action=SecretFile)
    >>> parser.parse_known_args(["--token", "hunter2"])
    Traceback (most recent call last):
        ...
    argparse.ArgumentError: --token: secrets cannot be options, where every user of this machine can read them: use --token-file, \
token_file in the configuration file, or the environment (VOLTFLOW_…_TOKEN, VOLTFLOW_…_TOKEN_FILE)
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """As ever, but what is not known is told without what was given for it."""
        found, rest = self.parse_known_args(args, namespace)
        if rest:
            self.error(f"unrecognized arguments: {' '.join(without_values(rest))}")
        return found

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """As ever; a secret that is given as an option ends it first, whatever else is wrong."""
        args = sys.argv[1:] if args is None else args
        secrets = set(_secret_options(self))
        for word in _options_in(args):
            option = word.partition("=")[0].replace("_", "-")
            if option in secrets:
                self._refuse(option)
        return super().parse_known_args(args, namespace)

    def _refuse(self, option: str) -> Never:
        name = option.removeprefix("--").replace("-", "_")
        text = (
            f"{option}: {SECRETS_ARE_NO_OPTIONS}: use {option}-file, {name}_file in the configuration file, "
            f"or the environment (VOLTFLOW_…_{name.upper()}, VOLTFLOW_…_{name.upper()}_FILE)"
        )
        if self.exit_on_error:
            self.error(text)
        raise argparse.ArgumentError(None, text)


def without_values(words: Sequence[str]) -> Iterator[str]:
    """Command line words that nobody knows, as far as they can be shown: an option's value may be a secret.

    >>> list(without_values(["extra", "--pasword=hunter2", "--tokn", "hunter2"]))
    ['extra', '--pasword', '--tokn']
    """
    behind_option = False
    for word in words:
        if word.startswith("-"):
            behind_option = True
            yield word.partition("=")[0]
        elif not behind_option:
            yield word


def _options_in(words: Sequence[str]) -> Iterator[str]:
    for word in words:
        if word == "--":
            return
        if word.startswith("--"):
            yield word


def _secret_options(parser: argparse.ArgumentParser) -> Iterator[str]:
    """The options that a parser and those of its commands would have, were secrets taken as options."""
    for action in parser._actions:
        if isinstance(action, SecretFile):
            yield from (option.removesuffix("-file") for option in action.option_strings)
        elif isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _secret_options(command)
