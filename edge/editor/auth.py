"""Who may use the editor: users from a file, tokens that outlive a restart, guessing slowed down.

    auth = Auth(Path("users.json"), Path("tokens.json"))
    token = auth.login("ann", "…", "192.0.2.7").token
    auth.allows(auth.user_of(token), "flows.write")

Every method may be called from any thread. Without users nobody is asked (`required` is false); then the editor answers
only on this machine: `closed` says why it does not.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from voltflow import kept_file
from voltflow.admin.users import (
    Permissions,
    User,
    UserError,
    has_permission,
    hash_password,
    is_password,
    read_users,
)

log = logging.getLogger(__name__)

TOKEN_LIFE_S: Final = 7 * 86400
TRIES: Final = 5
"""Wrong passwords for a name from one address; the next one is refused unseen for a while."""
TRIES_OF_ADDRESS: Final = 20
TRIES_OF_NAME: Final = 50
"""From all addresses. More than `TRIES`, so that a stranger does not shut out who knows the password."""
TRY_WINDOW_S: Final = 600.0
_TRIES_KEPT: Final = 10_000
_TOKENS_KEPT: Final = 1000
_VERSION: Final = 1


class LoginRefused(Exception):
    """A login that is not let in; the text is for who tried. `too_many`: it was not even looked at."""

    def __init__(self, text: str, *, too_many: bool = False) -> None:
        super().__init__(text)
        self.too_many = too_many


@dataclass(frozen=True)
class Login:
    """A login that is let in."""

    token: str
    expires_in_s: int


@dataclass(frozen=True)
class _Token:
    """What is kept of a token, by its hash. `mark` changes with the user's password, which ends their tokens."""

    username: str
    mark: str
    scope: tuple[str, ...]
    expires_s: float


class Auth:
    """Users, logins and tokens. `exposed`: other machines can reach the server, so it must not go without users;
    `api_token`: the API asks for one, so the editor, which can do more, must not go without users either."""

    def __init__(
        self,
        users_file: Path,
        tokens_file: Path,
        *,
        enabled: bool = True,
        exposed: bool = False,
        api_token: bool = False,
        host: str = "",
        now_s: Callable[[], float] = time.time,
    ) -> None:
        self.users_file = users_file
        self.error = ""
        """Why the users file cannot be used; nobody is let in then who was not before."""
        self._enabled, self._exposed, self._api_token = enabled, exposed, api_token
        self._host, self._now_s = host, now_s
        self._lock = threading.RLock()
        self._users: dict[str, User] = {}
        self._seen: object = None
        self._tries: list[tuple[float, str, str]] = []
        self._tokens_file = tokens_file
        self._tokens = self._load_tokens()

    @property
    def required(self) -> bool:
        """Whether who uses the editor must log in."""
        return bool(self._current()) or bool(self.error)

    @property
    def closed(self) -> str:
        """Why the editor answers nobody, and what to do; empty: it does answer."""
        if not self._enabled:
            return "the editor is switched off: set editor = true"
        if self.required:
            return ""
        if self._exposed:
            return (
                f"api_host = '{self._host}' is reachable from other machines and the editor has no users: add one with "
                "`voltflow users add NAME`, or set api_host to 127.0.0.1"
            )
        if self._api_token:
            return "api_token is set and the editor has no users: add one with `voltflow users add NAME`"
        return ""

    # -- logins ---------------------------------------------------------------------------------------------------

    def login(self, username: str, password: str, ip: str, scope: Permissions = "") -> Login:
        """A token for who has the right password; raises LoginRefused. An empty scope is all that the user may."""
        self._count_try(username, ip)
        user = self._current().get(username)
        right = is_password(password, user.password if user else _somebody())
        if user is None or not right:
            log.warning("login of %.64r from %s refused: wrong name or password", username, ip)
            raise LoginRefused("wrong user name or password")
        if scope and not has_permission(user.permissions, scope):
            log.warning("login of %s from %s refused: it asked for more than its permissions", username, ip)
            raise LoginRefused("the scope is wider than the user's permissions")
        self._forget_tries(username, ip)
        log.info("%s logged in from %s", username, ip)
        return Login(self._new_token(user, scope), TOKEN_LIFE_S)

    def revoke(self, token: str) -> None:
        """End a token; one that is not there is no error."""
        with self._lock:
            if self._tokens.pop(_hash(token), None) is not None:
                self._save_tokens()

    def user_of(self, token: str) -> User | None:
        """Who has logged in with that token, with the permissions of the user now and no more than the token's scope."""
        known = self._tokens.get(_hash(token))
        user = self._current().get(known.username) if known else None
        if known is None or user is None or known.expires_s < self._now_s() or known.mark != _mark(user):
            return None
        if not known.scope:
            return user
        kept = tuple(one for one in known.scope if has_permission(user.permissions, one))
        return replace(user, permissions=kept) if kept else None

    def allows(self, user: User | None, permission: str) -> bool:
        """Whether a user may do something, such as `flows.write`; without users everybody may."""
        if user is None:
            return not self.required
        return has_permission(user.permissions, permission)

    # -- users ----------------------------------------------------------------------------------------------------

    def _current(self) -> dict[str, User]:
        """The users, read again when the file has changed."""
        try:
            found = self.users_file.stat()
            seen: object = (found.st_mtime_ns, found.st_size, found.st_ino)
        except OSError as error:
            seen = error.errno
        with self._lock:
            if seen != self._seen:
                self._seen = seen
                self._read_users()
            return self._users

    def _read_users(self) -> None:
        try:
            self._users, self.error = read_users(self.users_file), ""
        except UserError as error:
            self.error = str(error)
            log.error("%s; nobody new is let in before it is repaired", error)  # noqa: TRY400 - the message says it all

    # -- tries ----------------------------------------------------------------------------------------------------

    def _count_try(self, username: str, ip: str) -> None:
        now_s = self._now_s()
        with self._lock:
            self._tries = [item for item in self._tries if item[0] > now_s - TRY_WINDOW_S][-_TRIES_KEPT:]
            of_name = [item for item in self._tries if item[1] == username]
            counts = (
                (sum(item[2] == ip for item in of_name), TRIES),
                (sum(item[2] == ip for item in self._tries), TRIES_OF_ADDRESS),
                (len(of_name), TRIES_OF_NAME),
            )
            if any(count >= limit for count, limit in counts):
                log.warning("login of %.64r from %s refused: too many tries", username, ip)
                raise LoginRefused("too many login attempts: wait 10 minutes and try again", too_many=True)
            self._tries.append((now_s, username, ip))

    def _forget_tries(self, username: str, ip: str) -> None:
        with self._lock:
            self._tries = [item for item in self._tries if item[1:] != (username, ip)]

    # -- tokens ---------------------------------------------------------------------------------------------------

    def _new_token(self, user: User, scope: Permissions) -> str:
        token = secrets.token_urlsafe(32)
        listed = (scope,) if isinstance(scope, str) else tuple(scope)
        expires_s = self._now_s() + TOKEN_LIFE_S
        known = _Token(user.username, _mark(user), tuple(filter(None, listed)), expires_s)
        with self._lock:
            alive = {key: item for key, item in self._tokens.items() if item.expires_s > self._now_s()}
            newest = sorted(alive.items(), key=lambda item: item[1].expires_s)[-(_TOKENS_KEPT - 1) :]
            self._tokens = {**dict(newest), _hash(token): known}
            self._save_tokens()
        return token

    def _load_tokens(self) -> dict[str, _Token]:
        try:
            entries = kept_file.read_versioned(self._tokens_file, ())["tokens"]
            return {str(entry.pop("hash")): _token(entry) for entry in entries}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            log.warning("'%s' cannot be used (%s): everybody has to log in again", self._tokens_file, error)
            return {}

    def _save_tokens(self) -> None:
        entries = [{"hash": key, **vars(token)} for key, token in self._tokens.items()]
        try:
            kept_file.write_versioned(self._tokens_file, {"tokens": entries}, _VERSION)
        except OSError as error:
            log.warning("'%s' cannot be written: %s; logins end with this run", self._tokens_file, error)


def _token(entry: dict[str, Any]) -> _Token:
    scope = tuple(str(one) for one in entry["scope"])
    return _Token(str(entry["username"]), str(entry["mark"]), scope, float(entry["expires_s"]))


def _hash(token: str) -> str:
    """What is kept of a token. It has 256 random bits, so a quick hash is enough."""
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()


def _mark(user: User) -> str:
    return hashlib.sha256(user.password.encode()).hexdigest()[:16]


@functools.cache
def _somebody() -> str:
    """A hash that no password has: a name that is not there takes as long as a wrong password."""
    return hash_password(secrets.token_urlsafe(16))
