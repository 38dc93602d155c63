"""Users of the flow editor: their file, their passwords, what they may do.

`users.json` holds names, bcrypt hashes as `node-red-admin hash-pw` makes them, and permissions as Node-RED has them:
"*", "read", "write", exact ones such as "flows.write", or a list. Beyond Node-RED's there is "python": to deploy nodes
that run Python code.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from voltflow import kept_file

Permissions = str | Sequence[str]

PYTHON: Final = "python"
MIN_PASSWORD_LENGTH: Final = 8
_MAX_PASSWORD_BYTES: Final = 72
"""What bcrypt looks at."""
_COST: Final = 11
"""Doubles a hash's time with each step: 11 takes 0.1 s of a desktop's core and half a second of a Raspberry Pi's."""
_NAME: Final = re.compile(r"[^\s\x00-\x1f\x7f]{1,64}")
_PERMISSION: Final = re.compile(r"\*|python|(?:[a-z][a-z-]*\.|\*\.)?(?:read|write)")


@dataclass(frozen=True)
class User:
    """One who may use the editor. `password` is the hash; `permissions` is never empty."""

    username: str
    password: str
    permissions: tuple[str, ...]

    def __repr__(self) -> str:
        return f"User({self.username!r}, {', '.join(self.permissions)})"


class _Entry(msgspec.Struct):
    username: str
    password: str
    permissions: str | list[str] = "read"


class _File(msgspec.Struct):
    users: list[_Entry]


class UserError(ValueError):
    """A user, password or permission that is not allowed, or a users file that cannot be used."""


def has_permission(granted: Permissions, wanted: Permissions) -> bool:
    """Whether who has `granted` may do `wanted` (all of them).

    >>> [
    ...     has_permission("read", "flows.read"),
    ...     has_permission("read", "flows.write"),
    ...     has_permission("write", "python"),
    ... ]
    [True, False, False]
    >>> has_permission(["read", "flows.write"], ["flows.read", "flows.write"]), has_permission("*", "python")
    (True, True)
    """
    if wanted == "":
        return True
    if not isinstance(wanted, str):
        return all(has_permission(granted, one) for one in wanted)
    if not isinstance(granted, str):
        return any(has_permission(one, wanted) for one in granted)
    if granted in ("*", wanted):
        return True
    kind = granted.removeprefix("*.")
    return kind in ("read", "write") and (wanted == kind or wanted.endswith(f".{kind}"))


def hash_password(password: str) -> str:
    """Its bcrypt hash; raises UserError where it is too short or longer than bcrypt looks at."""
    try:
        import bcrypt
    except ImportError:
        raise UserError("passwords need the package bcrypt: pip install 'voltflow[edge]'") from None

    if len(password) < MIN_PASSWORD_LENGTH:
        raise UserError(
            f"the password has {len(password)} characters, at least {MIN_PASSWORD_LENGTH} are needed"
        )
    data = password.encode()
    if len(data) > _MAX_PASSWORD_BYTES:
        raise UserError(f"the password has {len(data)} bytes, at most {_MAX_PASSWORD_BYTES} are possible")
    return bcrypt.hashpw(data, bcrypt.gensalt(_COST)).decode()


def is_password(password: str, hashed: str) -> bool:
    """Whether a hash is that of the password; takes a while, on purpose."""
    import bcrypt

    try:
        # the hashes of other programs look at no more than this either; bcrypt 5 raises for what is longer
        return bcrypt.checkpw(password.encode("utf-8", "replace")[:_MAX_PASSWORD_BYTES], hashed.encode())
    except ValueError:
        return False


def read_users(path: Path) -> dict[str, User]:
    """All users by name; empty where there is no file. Raises UserError where it cannot be used."""
    try:
        found = msgspec.convert(kept_file.read_versioned(path, _STEPS), _File)
        users = [_user(entry) for entry in found.users]
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise UserError(f"users file '{path}' cannot be read: {error.strerror or error}") from None
    except (ValueError, msgspec.ValidationError) as error:
        raise UserError(f"users file '{path}' cannot be used: {error}") from None
    return {user.username: user for user in users}


def write_users(path: Path, users: Iterable[User]) -> None:
    """Replace the file, readable by its owner only; raises OSError."""
    entries = [
        {"username": user.username, "password": user.password, "permissions": list(user.permissions)}
        for user in users
    ]
    kept_file.write_versioned(path, {"users": entries}, len(_STEPS) + 1)


def make_user(username: str, hashed: str, permissions: Permissions) -> User:
    """A checked user; raises UserError."""
    if not _NAME.fullmatch(username):
        raise UserError(f"a user's name has 1 to 64 characters without blanks, but it is {username!r}")
    listed = [permissions] if isinstance(permissions, str) else list(permissions)
    if not listed:
        raise UserError(f"user {username}: no permissions; give at least read")
    for one in listed:
        if not _PERMISSION.fullmatch(one):
            allowed = '"*", "read", "write", "python", or one such as "flows.write"'
            raise UserError(f"user {username}: permission {one!r} is not one of {allowed}")
    return User(username, hashed, tuple(dict.fromkeys(listed)))


def _user(entry: _Entry) -> User:
    if not entry.password.startswith("$2"):
        raise UserError(
            f'user {entry.username}: "password" is no bcrypt hash; `voltflow users passwd` sets one'
        )
    return make_user(entry.username, entry.password, entry.permissions)


_STEPS: Final = (lambda old: old if isinstance(old, dict) else {"users": old},)
"""Version 1 is the list that Node-RED's settings have as `adminAuth.users`."""
