"""`voltflow flow pull|push|diff`: the flow of a running gateway (or Node-RED), for scripts."""

from __future__ import annotations

import argparse
import contextlib
import getpass
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from voltflow import kept_file
from voltflow.admin.client import DEFAULT_URL, AdminClient, AdminError
from voltflow.admin.flow_diff import differences, in_words
from voltflow.flow.expand import RawNode
from voltflow.flow.flow import Flow
from voltflow.lab import record_cli as flow_record_cli
from voltflow.node import load_installed_nodes

KINDS: Final = ("nodes", "flows", "full")


def add_parsers(flow: Any) -> None:
    """Add the actions to those of `voltflow flow`."""
    pull = flow.add_parser("pull", help="write the flow of a running gateway to a file")
    pull.add_argument("file", type=Path, help="where to; - writes it to the output")
    _add_login(pull, required=False)
    pull.set_defaults(run=_pull)

    push = flow.add_parser("push", help="deploy a flow to a running gateway, and say what it changes")
    push.add_argument("file", type=Path)
    push.add_argument(
        "--kind", choices=KINDS, default="nodes", help="what starts anew; default: what changed"
    )
    push.add_argument(
        "--force", action="store_true", help="also where somebody else deploys at the same time"
    )
    _add_login(push, required=False)
    push.set_defaults(run=_push)

    diff = flow.add_parser(
        "diff", help="say in words what is different between two flows; exit 1 when something is"
    )
    diff.add_argument("old", type=Path, help="flow file; with --url what a push of it would change")
    diff.add_argument("new", type=Path, nargs="?", help="flow file")
    flow_record_cli.add_replay(diff)
    _add_login(diff, required=True)
    diff.set_defaults(run=_diff)


def _add_login(parser: argparse.ArgumentParser, *, required: bool) -> None:
    default = None if required else DEFAULT_URL
    parser.add_argument("--url", default=default, help=f"the editor's address, such as {DEFAULT_URL}")
    parser.add_argument(
        "--user", metavar="NAME", help="log in as; the password is asked for, or read from the input"
    )
    parser.add_argument("--password-file", type=Path, metavar="FILE", help="file that holds the password")


def _pull(args: argparse.Namespace) -> int:
    with _client(args) as client:
        nodes, rev = client.flows()
    text = f"{Flow(nodes).dumps()}\n"
    if str(args.file) == "-":
        print(text, end="")
    else:
        kept_file.write(args.file, text.encode(), mode=0o644)
        print(f"{args.file}: {len(nodes)} nodes, revision {rev[:12]}")
    return 0


def _push(args: argparse.Namespace) -> int:
    new = Flow.load(args.file).nodes
    load_installed_nodes()
    with _client(args) as client:
        old, rev = client.flows()
        found = differences(old, new)
        print("\n".join(in_words(found)))
        if not found:
            return 0
        try:
            rev = client.deploy(new, None if args.force else rev, args.kind)
        except AdminError as error:
            print(f"voltflow: not deployed: {error}", file=sys.stderr)
            return 1
    print(f"deployed, revision {rev[:12]}")
    return 0


def _diff(args: argparse.Namespace) -> int:
    if (args.new is None) == (args.url is None):
        raise ValueError("give two flow files, or one and --url")
    load_installed_nodes()
    old, new = _both(args)
    found = differences(old, new)
    print("\n".join(in_words(found)))
    differs = False
    if args.replay is not None:
        lines, differs = flow_record_cli.replayed(old, new, args.replay, args.recordings)
        print("", *lines, sep="\n")
    return int(bool(found) or differs)


def _both(args: argparse.Namespace) -> tuple[list[RawNode], list[RawNode]]:
    file = Flow.load(args.old).nodes
    if args.new is not None:
        return file, Flow.load(args.new).nodes
    with _client(args) as client:
        return client.flows()[0], file


@contextlib.contextmanager
def _client(args: argparse.Namespace) -> Iterator[AdminClient]:
    """Logged in while the block runs, where a user is named."""
    client = AdminClient(args.url)
    if args.user:
        client.login(args.user, _password(args))
    try:
        yield client
    finally:
        with contextlib.suppress(AdminError):
            client.logout()


def _password(args: argparse.Namespace) -> str:
    if args.password_file is not None:
        return str(args.password_file.read_text("utf-8")).rstrip("\r\n")
    if sys.stdin.isatty():
        return getpass.getpass(f"password of {args.user}: ")
    return sys.stdin.readline().rstrip("\r\n")
