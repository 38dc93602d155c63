"""Who may use the editor: passwords, permissions, tokens over a restart, tries, and when it stays shut."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import bcrypt
import pytest

from edge.editor.auth import TOKEN_LIFE_S, TRY_WINDOW_S, Auth, LoginRefused
from voltflow.admin.users import (
    User,
    UserError,
    has_permission,
    hash_password,
    is_password,
    make_user,
    read_users,
    write_users,
)

CHEAP = {
    name: bcrypt.hashpw(f"{name}'s secret".encode(), bcrypt.gensalt(4)).decode()
    for name in ("ann", "bob", "eve")
}


class Clock:
    now_s = 1_000_000.0

    def __call__(self) -> float:
        return self.now_s


class House:
    """A folder with users: ann may everything, bob may read, eve may write but for Python."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.clock = folder, Clock()
        self.users_file = folder / "users.json"
        self.write(ann="*", bob="read", eve=["read", "write"])

    def write(self, **permissions: str | list[str]) -> None:
        write_users(self.users_file, [make_user(name, CHEAP[name], may) for name, may in permissions.items()])

    def auth(self, **options: object) -> Auth:
        return Auth(self.users_file, self.folder / "tokens.json", now_s=self.clock, **options)  # type: ignore[arg-type]


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


def login(auth: Auth, name: str, ip: str = "192.0.2.7", scope: str = "") -> str:
    return auth.login(name, f"{name}'s secret", ip, scope).token


@pytest.mark.parametrize(
    ("granted", "wanted", "allowed"),
    [
        ("*", "flows.write", True), ("*", "python", True), ("read", "flows.read", True), ("read", "read", True),
        ("read", "flows.write", False), ("write", "flows.write", True), ("write", "flows.read", False),
        ("write", "python", False), ("*.read", "context.read", True), ("flows.write", "flows.write", True),
        ("flows.write", "nodes.write", False), (["read", "python"], "python", True), ([], "flows.read", False),
        ("read", ["flows.read", "nodes.read"], True), ("read", ["flows.read", "nodes.write"], False),
        ("read", "", True), ("read", "spread", False), ("read", "*", False), ("write", "*", False),
    ],
)  # fmt: skip
def test_permissions_mean_what_they_mean_in_node_red(
    granted: str | list[str], wanted: str | list[str], allowed: bool
) -> None:
    assert has_permission(granted, wanted) is allowed


def test_a_login_gives_a_token_of_the_user(house: House) -> None:
    auth = house.auth()
    given = auth.login("bob", "bob's secret", "192.0.2.7")
    user = auth.user_of(given.token)
    assert given.expires_in_s == TOKEN_LIFE_S == 604_800
    assert user == User("bob", CHEAP["bob"], ("read",))
    assert (auth.allows(user, "flows.read"), auth.allows(user, "flows.write")) == (True, False)
    assert (auth.allows(None, "flows.read"), auth.required, auth.closed) == (False, True, "")
    assert CHEAP["bob"] not in repr(user)


@pytest.mark.parametrize(("name", "password"), [("bob", "wrong"), ("nobody", "bob's secret"), ("bob", "")])
def test_a_wrong_name_or_password_is_refused_alike(house: House, name: str, password: str) -> None:
    with pytest.raises(LoginRefused, match=r"^wrong user name or password$"):
        house.auth().login(name, password, "192.0.2.7")


def test_the_sixth_try_within_ten_minutes_is_refused_even_with_the_right_password(house: House) -> None:
    auth = house.auth()
    for _ in range(5):
        with pytest.raises(LoginRefused, match="wrong user name"):
            auth.login("ann", "wrong", "192.0.2.7")
    with pytest.raises(LoginRefused, match="too many login attempts") as refused:
        login(auth, "ann")
    assert refused.value.too_many
    assert login(auth, "ann", ip="192.0.2.8"), "who guesses does not shut out the user elsewhere"
    house.clock.now_s += TRY_WINDOW_S + 1
    assert login(auth, "ann")


def test_an_address_cannot_try_many_names(house: House) -> None:
    auth = house.auth()
    for number in range(20):
        with pytest.raises(LoginRefused, match="wrong user name"):
            auth.login(f"user{number}", "x", "192.0.2.7")
    with pytest.raises(LoginRefused, match="too many login attempts"):
        login(auth, "ann")


def test_a_right_password_forgets_the_wrong_ones(house: House) -> None:
    auth = house.auth()
    for _ in range(3):
        for _ in range(4):
            with pytest.raises(LoginRefused):
                auth.login("ann", "wrong", "192.0.2.7")
        login(auth, "ann")


def test_a_scope_wider_than_the_permissions_is_refused(house: House) -> None:
    auth = house.auth()
    with pytest.raises(LoginRefused, match="wider than the user's permissions"):
        login(auth, "bob", scope="*")
    narrow = auth.user_of(login(auth, "ann", scope="read"))
    assert (auth.allows(narrow, "flows.read"), auth.allows(narrow, "flows.write")) == (True, False)


def test_tokens_outlive_a_restart_and_are_kept_as_hashes(house: House) -> None:
    token = login(house.auth(), "ann")
    kept = house.folder / "tokens.json"
    assert token not in kept.read_text()
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    again = house.auth()
    found = again.user_of(token)
    assert found is not None
    assert found.username == "ann"
    again.revoke(token)
    again.revoke("never given")
    assert again.user_of(token) is None
    assert house.auth().user_of(token) is None


def test_a_token_ends_after_a_week(house: House) -> None:
    auth = house.auth()
    token = login(auth, "ann")
    house.clock.now_s += TOKEN_LIFE_S - 1
    assert auth.user_of(token)
    house.clock.now_s += 2
    assert auth.user_of(token) is None


def test_a_token_ends_with_its_user_and_with_the_password(house: House) -> None:
    auth = house.auth()
    tokens = {name: login(auth, name) for name in ("ann", "bob", "eve")}
    changed = bcrypt.hashpw(b"another", bcrypt.gensalt(4)).decode()
    write_users(house.users_file, [make_user("ann", CHEAP["ann"], "read"), make_user("bob", changed, "read")])
    ann = auth.user_of(tokens["ann"])
    assert ann is not None
    assert ann.permissions == ("read",), "permissions are those of now"
    assert auth.user_of(tokens["bob"]) is None
    assert auth.user_of(tokens["eve"]) is None


def test_a_token_file_that_is_damaged_only_ends_the_logins(house: House) -> None:
    token = login(house.auth(), "ann")
    (house.folder / "tokens.json").write_text('{"version": 1, "tokens": [{"hash": 1}]}')
    auth = house.auth()
    assert auth.user_of(token) is None
    assert auth.user_of(login(auth, "ann"))


def test_without_users_nobody_is_asked_and_other_machines_find_it_shut(tmp_path: Path) -> None:
    def auth(**options: object) -> Auth:
        return Auth(tmp_path / "users.json", tmp_path / "tokens.json", **options)  # type: ignore[arg-type]

    here = auth()
    assert (here.required, here.closed, here.allows(None, "flows.write")) == (False, "", True)
    there = auth(exposed=True, host="0.0.0.0")
    assert there.closed == (
        "api_host = '0.0.0.0' is reachable from other machines and the editor has no users: add one with "
        "`voltflow users add NAME`, or set api_host to 127.0.0.1"
    )
    guarded = auth(api_token=True)
    assert (
        guarded.closed
        == "api_token is set and the editor has no users: add one with `voltflow users add NAME`"
    )
    assert auth(enabled=False).closed == "the editor is switched off: set editor = true"
    write_users(tmp_path / "users.json", [make_user("ann", CHEAP["ann"], "*")])
    for found in (there, guarded):
        assert (found.required, found.closed, found.allows(None, "flows.read")) == (True, "", False)


def test_a_users_file_that_is_damaged_lets_nobody_new_in(house: House) -> None:
    house.users_file.write_text("{")
    auth = house.auth(exposed=True)
    assert (auth.required, auth.closed, auth.allows(None, "flows.read")) == (True, "", False)
    assert auth.error.startswith(
        f"users file '{house.users_file}' cannot be used: '{house.users_file}' is not JSON"
    )
    with pytest.raises(LoginRefused, match="wrong user name"):
        login(auth, "ann")
    house.write(ann="*")
    assert login(auth, "ann")
    assert auth.error == ""


def test_the_list_of_node_reds_settings_becomes_a_users_file_with_a_backup(tmp_path: Path) -> None:
    path = tmp_path / "users.json"
    entries = [{"username": "ann", "password": CHEAP["ann"], "permissions": "*"}]
    path.write_text(json.dumps(entries))
    assert read_users(path) == {"ann": User("ann", CHEAP["ann"], ("*",))}
    assert json.loads((tmp_path / "users.json.v1").read_text()) == entries
    assert json.loads(path.read_text())["version"] == 2
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_users(path) == {"ann": User("ann", CHEAP["ann"], ("*",))}


@pytest.mark.parametrize(
    ("document", "complaint"),
    [
        ({"version": 3, "users": []}, "was written by a newer version of Voltflow (version 3, known is 2)"),
        ({"version": "2"}, "\"version\" is '2', it must be a whole number from 1"),
        ({"version": 2}, "Object missing required field `users`"),
        ([{"username": "ann"}], "Object missing required field `password` - at `$.users[0]`"),
        ([{"username": "ann", "password": "plain"}], 'user ann: "password" is no bcrypt hash'),
        ([{"username": "a b", "password": "$2b$"}], "1 to 64 characters without blanks, but it is 'a b'"),
        ([{"username": "ann", "password": "$2b$", "permissions": "admin"}], "user ann: permission 'admin' is not one of"),
        ([{"username": "ann", "password": "$2b$", "permissions": []}], "user ann: no permissions; give at least read"),
    ],
)  # fmt: skip
def test_a_users_file_that_says_something_else_is_refused(
    tmp_path: Path, document: object, complaint: str
) -> None:
    path = tmp_path / "users.json"
    path.write_text(json.dumps(document))
    with pytest.raises(UserError) as refused:
        read_users(path)
    assert complaint in str(refused.value)


def test_passwords_are_hashed_with_bcrypt_and_bounded() -> None:
    hashed = hash_password("correct horse")
    assert hashed.startswith("$2b$11$")
    assert (is_password("correct horse", hashed), is_password("correct house", hashed)) == (True, False)
    assert is_password("x", "no hash") is False
    with pytest.raises(UserError, match=r"^the password has 5 characters, at least 8 are needed$"):
        hash_password("short")
    with pytest.raises(UserError, match=r"^the password has 73 bytes, at most 72 are possible$"):
        hash_password("x" * 73)


def test_a_hash_of_node_reds_own_tool_is_understood() -> None:
    """The bcrypt library of Node-RED 5.0.7, which `node-red-admin hash-pw` uses, made this one of `password`."""
    assert is_password("password", "$2y$08$ej.wxjOzlBVTQFlJol8peuF15BL/1Zf4vHHBDrtFiTCq2dpdXSzYe")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_a_file_that_root_changes_stays_its_owners(house: House) -> None:
    os.chown(house.users_file, 65534, 65534)
    house.write(ann="*")
    assert house.users_file.stat().st_uid == 65534
