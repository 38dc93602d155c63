"""The command `voltflow editor`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from voltflow.admin.editor_files import PACKAGES, install


def add_parser(commands: Any) -> None:
    """Add it to the commands of `voltflow`."""
    editor = commands.add_parser("editor", help="the flow editor's files").add_subparsers(
        required=True, metavar="ACTION"
    )
    packages = " and ".join(package.name for package in PACKAGES)
    parser = editor.add_parser("install", help=f"fetch {packages}, check and unpack them for the agent")
    parser.add_argument(
        "--from", dest="given", type=Path, nargs="+", action="extend", default=[], metavar="TGZ",
        help="archives that `npm pack` made elsewhere, for a machine without npm or network",
    )  # fmt: skip
    parser.set_defaults(run=_install)


def _install(args: argparse.Namespace) -> int:
    install(args.given, say=lambda text: print(text, flush=True))
    return 0
