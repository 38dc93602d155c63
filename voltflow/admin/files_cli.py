"""The commands `voltflow editor` and `voltflow page`, which install files of npm packages."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from voltflow.admin import editor_files, page_files


def add_parser(commands: Any) -> None:
    """Add them to the commands of `voltflow`."""
    for name, of, about in (
        ("editor", editor_files, "the flow editor's files"),
        ("page", page_files, "what the gateway's page draws charts and packs with"),
    ):
        actions = commands.add_parser(name, help=about).add_subparsers(required=True, metavar="ACTION")
        packages = " and ".join(package.name for package in of.PACKAGES)
        parser = actions.add_parser("install", help=f"fetch {packages}, check and unpack them for the agent")
        parser.add_argument(
            "--from", dest="given", type=Path, nargs="+", action="extend", default=[], metavar="TGZ",
            help="archives that `npm pack` made elsewhere, for a machine without npm or network",
        )  # fmt: skip
        parser.set_defaults(run=_install, of=of)


def _install(args: argparse.Namespace) -> int:
    args.of.install(args.given, say=lambda text: print(text, flush=True))
    return 0
