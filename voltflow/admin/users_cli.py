"""`voltflow users`: who may use the flow editor of a gateway. A running gateway sees the change at once."""

from __future__ import annotations

import argparse
import getpass
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from voltflow.admin.users import (
    PYTHON,
    User,
    has_permission,
    hash_password,
    make_user,
    read_users,
    write_users,
)
from voltflow.settings import peek

DEFAULT_PERMISSIONS: Final = "read,write"
_EDITOR: Final = ("settings.read", "flows.read", "nodes.read")
"""What the editor's page needs before it shows anything."""
_STATE_DIR: Final = ".voltflow/agent"
EXAMPLES: Final = """\
examples:
  voltflow users add ann                                    asks for the password
  voltflow users add bob --permissions read < password.txt  takes it from the first line of the input
  voltflow users list

Permissions: read, write (without read: for scripts, the editor needs both), python (deploy Python code), exact ones such
as flows.write, or "*" for all.
A change of the password, and the removal, end the user's logins.
"""


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "users", help="who may use the flow editor", epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    for name, run, text in (
        ("add", _add, "add a user"),
        ("passwd", _passwd, "set a user's password, and the permissions with --permissions"),
        ("remove", _remove, "remove a user"),
        ("list", _list, "list the users"),
    ):
        action = actions.add_parser(name, help=text, description=text)
        if run is not _list:
            action.add_argument("name", metavar="NAME")
        if run is _add or run is _passwd:
            default = DEFAULT_PERMISSIONS if run is _add else None
            action.add_argument("--permissions", default=default, metavar="A,B", help="what the user may do")
        where = action.add_mutually_exclusive_group()
        where.add_argument("--file", type=Path, help="users file; default: the one of the gateway's settings")
        where.add_argument("--config", metavar="FILE", help="TOML file with those (default: ./voltflow.toml)")
        action.set_defaults(run=run)


def _add(args: argparse.Namespace) -> int:
    path = _path(args)
    users = read_users(path)
    if args.name in users:
        raise ValueError(f"there is a user {args.name} already; `voltflow users passwd` changes the password")
    user = make_user(args.name, "", _permissions(args))  # checked before a password is asked for
    _write(path, users, make_user(user.username, hash_password(_password(args.name)), user.permissions))
    print(f"{path}: added {args.name} ({', '.join(user.permissions)})")
    _warn_of_blind(user.username, user.permissions)
    return 0


def _passwd(args: argparse.Namespace) -> int:
    path = _path(args)
    users = read_users(path)
    known = _known(users, args.name, path)
    permissions = known.permissions if args.permissions is None else _permissions(args)
    make_user(args.name, "", permissions)
    _write(path, users, make_user(args.name, hash_password(_password(args.name)), permissions))
    print(f"{path}: {args.name} has a new password ({', '.join(permissions)})")
    _warn_of_blind(args.name, permissions)
    return 0


def _remove(args: argparse.Namespace) -> int:
    path = _path(args)
    users = read_users(path)
    _known(users, args.name, path)
    del users[args.name]
    write_users(path, users.values())
    print(f"{path}: removed {args.name}")
    if not users:
        print("there is no user left: the editor asks nobody on this machine, and is off for other machines")
    return 0


def _list(args: argparse.Namespace) -> int:
    path = _path(args)
    users = read_users(path)
    for user in sorted(users.values(), key=lambda user: user.username):
        code = "" if has_permission(user.permissions, PYTHON) else "  (no Python code)"
        print(f"{user.username:20} {', '.join(user.permissions)}{code}")
    if not users:
        print(f"{path}: no users; `voltflow users add NAME` makes one", file=sys.stderr)
    return 0


def _warn_of_blind(name: str, permissions: Sequence[str]) -> None:
    """As in Node-RED, `write` does not include `read`, and the editor asks who cannot read for another login."""
    if not has_permission(permissions, _EDITOR):
        text = (
            "may not read, and so cannot open the editor: --permissions read,write lets them read and deploy"
        )
        print(f"voltflow: {name} {text}", file=sys.stderr)


def _write(path: Path, users: dict[str, User], user: User) -> None:
    write_users(path, {**users, user.username: user}.values())


def _known(users: dict[str, User], name: str, path: Path) -> User:
    if name not in users:
        raise ValueError(f"'{path}' has no user {name}; there are: {', '.join(sorted(users)) or 'none'}")
    return users[name]


def _permissions(args: argparse.Namespace) -> list[str]:
    return [part.strip() for part in args.permissions.split(",") if part.strip()]


def _path(args: argparse.Namespace) -> Path:
    """The users file of the gateway whose settings are found from here."""
    if args.file is not None:
        return Path(args.file)
    said = peek("agent", ("users_file", "state_dir"), args.config)
    return Path(said.get("users_file") or Path(said.get("state_dir", _STATE_DIR)) / "users.json")


def _password(name: str) -> str:
    """From a person, who types it twice, or the first line of the input; never from the command line."""
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\r\n")
    password = getpass.getpass(f"password of {name}: ")
    if getpass.getpass("again: ") != password:
        raise ValueError("the two are not the same; nothing was changed")
    return password
