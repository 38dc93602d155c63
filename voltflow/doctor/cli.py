"""`voltflow doctor`: what is wrong here, in words, and what mends it."""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from voltflow import __version__
from voltflow.doctor.checks import Check, Result, exit_code
from voltflow.doctor.examine import Asked, as_unit, patient, read_env_file, wanted
from voltflow.doctor.program import secret_settings
from voltflow.options import SECRETS_ARE_NO_OPTIONS

SIGNS = {"ok": "ok", "warning": "WARNING", "problem": "PROBLEM", "skipped": "skipped"}
WIDTH = 110
EPILOG = """\
It looks with the settings of the program: defaults, file, environment, options. A service has more of them than a shell:
  voltflow doctor agent --unit edge-agent                    its options, variables and secrets (needs root to read those)
  voltflow doctor agent --set state_dir=/var/lib/voltflow    one setting as an option of the program
Nothing is changed, and no running program hears of it. Exit status: 0 all well, 1 warnings, 2 problems.
"""


def add_parser(commands: Any) -> None:
    parser = commands.add_parser("doctor", help="say what is wrong on this machine, and how to mend it", epilog=EPILOG,
                                 description="Say what is wrong with the gateway's agent or the cloud's bridge on this machine.",
                                 formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    add_arguments(parser)
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.add_argument(
        "--all-findings", action="store_true", help="say also what is well within a check that is not"
    )
    parser.set_defaults(run=_run)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What program, and where its settings come from."""
    parser.add_argument("program", nargs="?", metavar="PROGRAM",
                        help="agent, bridge or all; else those that something is set of")  # fmt: skip
    parser.add_argument("--set", metavar="NAME=VALUE", action="append", default=[], dest="options", type=_option,
                        help="a setting, as if it were an option of the program")  # fmt: skip
    parser.add_argument(
        "--config", metavar="FILE", help="TOML file with the settings (default: ./voltflow.toml)"
    )
    parser.add_argument(
        "--env-file", metavar="FILE", type=Path, help="variables beside those of this shell, as of a service"
    )
    parser.add_argument(
        "--unit", metavar="UNIT", help="take options and variables of this systemd unit (a name or a file)"
    )


def _option(text: str) -> str:
    """`state_dir=/x` as `--state-dir=/x`; true and false as the program's options have them. Values are not repeated: what is
    wrong may be a secret."""
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise argparse.ArgumentTypeError("it must be NAME=VALUE, for instance state_dir=/var/lib/voltflow")
    if name in secret_settings():
        raise argparse.ArgumentTypeError(
            f"{name}: {SECRETS_ARE_NO_OPTIONS}: use --set {name}_file=FILE, the configuration file or the environment (--env-file)"
        )
    option = name.replace("_", "-")
    return {"true": f"--{option}", "false": f"--no-{option}"}.get(value, f"--{option}={value}")


def asked_of(args: argparse.Namespace) -> Asked:
    """Where settings come from; raises OSError or ValueError."""
    asked = Asked(args.config, args.options)
    if args.unit:
        asked = as_unit(args.unit, asked)
    if args.env_file:
        asked = replace(asked, environ={**asked.environ, **read_env_file(args.env_file)})
    return asked


def _run(args: argparse.Namespace) -> int:
    asked, results = asked_of(args), []
    progress = _Progress(shown=not args.json and sys.stderr.isatty())
    for name in wanted(args.program, asked):
        if not args.json:
            print(f"{name}:")
        for result in patient(name, asked).examine(progress.about_to):
            results.append(result)
            progress.over()
            if not args.json:
                print(in_words(result, everything=args.all_findings), flush=True)
    if args.json:
        print(json.dumps(as_document(results), indent=2, ensure_ascii=False))
    else:
        print(summary(results))
    return exit_code(results)


class _Progress:
    """Says what is being looked at, on a terminal only, in a line that the result replaces."""

    def __init__(self, *, shown: bool) -> None:
        self._shown = shown

    def about_to(self, check: Check) -> None:
        if self._shown:
            print(f"  … {check.title}", end="", file=sys.stderr, flush=True)

    def over(self) -> None:
        if self._shown:
            print("\r\033[K", end="", file=sys.stderr, flush=True)


def in_words(result: Result, *, everything: bool = False) -> str:
    """A result for people: what is well only where all is, or `everything` is asked for."""
    worse = [finding for finding in result.findings if finding.status in ("warning", "problem")]
    lines = []
    for finding in result.findings if everything or not worse else worse:
        head = f"  {SIGNS[finding.status]:8}{result.title}: "
        lines.append(
            textwrap.fill(head + finding.text, WIDTH, subsequent_indent=" " * 10, break_on_hyphens=False)
        )
        if finding.fix:
            lines.append(textwrap.fill(f"          → {finding.fix}", WIDTH, subsequent_indent=" " * 12,
                                       break_on_hyphens=False))  # fmt: skip
    return "\n".join(lines)


def summary(results: list[Result]) -> str:
    counts = {status: sum(result.status == status for result in results) for status in SIGNS}
    if not counts["problem"] and not counts["warning"]:
        return f"All is well ({counts['ok']} checks, {counts['skipped']} skipped)."
    return (f"{_counted(counts['problem'], 'problem')}, {_counted(counts['warning'], 'warning')} in {len(results)} checks. "
            "To send this to somebody: voltflow support-bundle")  # fmt: skip


def _counted(count: int, what: str) -> str:
    return f"{count or 'no'} {what}{'' if count == 1 else 's'}"


def as_document(results: list[Result]) -> dict[str, Any]:
    """The report for programs, schema `voltflow.doctor/1`."""
    return {
        "schema": "voltflow.doctor/1", "version": __version__, "exit_code": exit_code(results),
        "results": [{**asdict(result), "status": result.status} for result in results],
    }  # fmt: skip
