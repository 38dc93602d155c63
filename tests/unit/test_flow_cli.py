"""`voltflow flow pull|push|diff` with a real gateway, and `voltflow users`."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from tests.editors import PASSWORD, TAB, editing, inject_to_debug
from voltflow.admin.client import AdminClient, AdminError
from voltflow.admin.users import is_password, read_users
from voltflow.cli import main


class Cli:
    """Runs `voltflow`; what it said is in `out` and `err`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch, self._capsys = monkeypatch, capsys
        self.out = self.err = ""

    def __call__(self, *arguments: object, typed: str = "") -> int:
        self._monkeypatch.setattr("sys.stdin", io.StringIO(typed))
        code = main([str(argument) for argument in arguments])
        self.out, self.err = self._capsys.readouterr()
        return code


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    return Cli(monkeypatch, capsys)


def write(path: Path, nodes: list[dict[str, Any]]) -> Path:
    path.write_text(json.dumps(nodes))
    return path


# -- flows --------------------------------------------------------------------------------------------------------


def test_a_flow_is_pulled_compared_and_pushed(tmp_path: Path, cli: Cli) -> None:
    local = tmp_path / "local.json"
    with editing(tmp_path, inject_to_debug()) as gateway:
        url = gateway.server.url  # without /editor
        assert cli("flow", "pull", local, "--url", url) == 0
        rev = gateway.in_loop(gateway.store.read)[1]
        assert cli.out == f"{local}: 3 nodes, revision {rev[:12]}\n"
        assert json.loads(local.read_text()) == inject_to_debug()
        assert cli("flow", "diff", local, "--url", gateway.url) == 0
        assert cli.out == "no difference\n"
        assert cli("flow", "push", local, "--url", url) == 0
        assert cli.out == "no difference\n"

        write(local, [*inject_to_debug("other"), {"id": "c", "type": "comment", "z": "tab", "name": "note"}])
        said = 'changed: inject "press": payload "hello" → "other"\nadded: comment "note": on tab "Flow 1"\n'
        assert cli("flow", "diff", local, "--url", url) == 1
        assert cli.out == said
        assert cli("flow", "push", local, "--url", url, "--kind", "full") == 0
        new = gateway.in_loop(gateway.store.read)[1]
        assert cli.out == f"{said}deployed, revision {new[:12]}\n"
        assert cli("flow", "pull", "-", "--url", url) == 0
        assert json.loads(cli.out) == json.loads(local.read_text())


def test_a_push_that_is_refused_says_why(tmp_path: Path, cli: Cli) -> None:
    wrong = write(
        tmp_path / "wrong.json", [TAB, {"id": "x", "type": "no such type", "z": "tab", "wires": []}]
    )
    with editing(tmp_path, inject_to_debug()) as gateway:
        assert cli("flow", "push", wrong, "--url", gateway.url) == 1
        assert cli.err.startswith("voltflow: not deployed: ")
        assert 'no such type \'x\' on "Flow 1": unknown type "no such type"' in cli.err
        assert gateway.get("/flows") == inject_to_debug()


def test_users_log_in_with_a_password_from_a_file_or_the_input(tmp_path: Path, cli: Cli) -> None:
    local, password = tmp_path / "local.json", tmp_path / "password"
    password.write_text(f"{PASSWORD}\n")
    with editing(tmp_path, inject_to_debug(), users={"ann": "*", "bob": "read"}) as gateway:
        at = ("--url", gateway.url)
        assert cli("flow", "pull", local, *at) == 2
        assert cli.err == "voltflow: a login is needed: give --user, or another one (401)\n"
        assert cli("flow", "pull", local, *at, "--user", "bob", typed=f"{PASSWORD}\n") == 0
        assert cli("flow", "pull", local, *at, "--user", "bob", typed="wrong\n") == 2
        assert cli.err == "voltflow: wrong user name or password (403)\n"
        write(local, inject_to_debug("other"))
        assert cli("flow", "push", local, *at, "--user", "bob", "--password-file", password) == 1
        assert cli.err == "voltflow: not deployed: a login is needed: give --user, or another one (401)\n"
        assert cli("flow", "push", local, *at, "--user", "ann", "--password-file", password) == 0
        kept = json.loads((tmp_path / "tokens.json").read_text())
        assert kept["tokens"] == [], "every login was ended"


def test_another_deploy_in_between_is_told(tmp_path: Path) -> None:
    with editing(tmp_path, inject_to_debug()) as gateway:
        client = AdminClient(gateway.url)
        nodes, rev = client.flows()
        client.deploy(inject_to_debug("first"), rev, "nodes")
        with pytest.raises(AdminError, match="deployed by somebody else meanwhile") as refused:
            client.deploy(nodes, rev, "nodes")
        assert refused.value.status == 409
        client.deploy(nodes, None, "nodes")
        assert client.flows()[0] == nodes


@pytest.mark.parametrize("url", ["gateway:5002", "ftp://gateway/", "file:///etc/passwd", ""])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(AdminError, match=r"it must be an address such as http://127\.0\.0\.1:5002/editor"):
        AdminClient(url)


def test_a_gateway_that_is_not_there_is_said_so(tmp_path: Path, cli: Cli) -> None:
    assert cli("flow", "pull", tmp_path / "x", "--url", "http://127.0.0.1:1/editor") == 2
    assert cli.err.startswith("voltflow: http://127.0.0.1:1/editor does not answer: [Errno 111]")


@pytest.mark.parametrize(("token", "status"), [("", 404), ("0123456789abcdef", 401)])
def test_the_address_of_a_gateways_page_is_told_from_its_editors(
    tmp_path: Path, cli: Cli, token: str, status: int
) -> None:
    with editing(tmp_path, users={"ann": "*"}, token=token) as gateway:
        url = gateway.server.url
        assert cli("flow", "pull", tmp_path / "x", "--url", f"{url}/") == 2
        hint = f"its flow is below /editor: --url {url}/editor ({status})"
        assert cli.err == f"voltflow: {url} is a gateway's page and API; {hint}\n"
        assert (
            cli(
                "flow",
                "pull",
                tmp_path / "x",
                "--url",
                f"{url}/editor",
                "--user",
                "ann",
                typed=f"{PASSWORD}\n",
            )
            == 0
        )


def test_two_files_are_compared(tmp_path: Path, cli: Cli) -> None:
    old = write(tmp_path / "old.json", inject_to_debug())
    new = write(tmp_path / "new.json", inject_to_debug(debug_name="look"))
    assert cli("flow", "diff", old, new) == 1
    assert cli.out == 'renamed: debug "look": it was "show"\n'
    assert cli("flow", "diff", old, old) == 0
    assert cli("flow", "diff", old) == 2
    assert cli.err == "voltflow: give two flow files, or one and --url\n"


# -- users --------------------------------------------------------------------------------------------------------


def test_users_are_added_changed_and_removed(tmp_path: Path, cli: Cli) -> None:
    path = tmp_path / "users.json"
    at = ("--file", path)
    assert cli("users", "add", "ann", "--permissions", "*", *at, typed="correct horse\n") == 0
    assert cli.out == f"{path}: added ann (*)\n"
    assert cli("users", "add", "bob", *at, typed="battery staple\n") == 0
    assert cli("users", "add", "bob", *at, typed="x\n") == 2
    assert cli.err == "voltflow: there is a user bob already; `voltflow users passwd` changes the password\n"
    assert cli("users", "list", *at) == 0
    assert cli.out == "ann                  *\nbob                  read, write  (no Python code)\n"
    assert cli("users", "passwd", "bob", *at, "--permissions", "read", typed="another one\n") == 0
    bob = read_users(path)["bob"]
    assert (bob.permissions, is_password("another one", bob.password)) == (("read",), True)
    assert cli.err == ""
    blind = "voltflow: bob may not read, and so cannot open the editor: --permissions read,write lets them read and deploy\n"
    for permissions in ("write", "flows.read,write"):
        assert cli("users", "passwd", "bob", *at, "--permissions", permissions, typed="another one\n") == 0
        assert cli.err == blind
    assert cli("users", "remove", "bob", *at) == 0
    assert cli.out == f"{path}: removed bob\n"
    assert cli("users", "remove", "bob", *at) == 2
    assert cli.err == f"voltflow: '{path}' has no user bob; there are: ann\n"
    assert cli("users", "add", "bob", *at, "--permissions", "write", typed="battery staple\n") == 0
    assert cli.err == blind
    assert cli("users", "remove", "bob", *at) == 0
    assert cli("users", "remove", "ann", *at) == 0
    assert "there is no user left" in cli.out


@pytest.mark.parametrize(
    ("arguments", "typed", "complaint"),
    [
        (("ann",), "short\n", "the password has 5 characters, at least 8 are needed"),
        (("a b",), "", "a user's name has 1 to 64 characters without blanks, but it is 'a b'"),
        (("ann", "--permissions", "admin"), "", "user ann: permission 'admin' is not one of"),
        (("ann", "--permissions", ""), "", "user ann: no permissions; give at least read"),
    ],
)
def test_what_is_no_user_is_refused(
    tmp_path: Path, cli: Cli, arguments: tuple[str, ...], typed: str, complaint: str
) -> None:
    path = tmp_path / "users.json"
    assert cli("users", "add", *arguments, "--file", path, typed=typed) == 2
    assert cli.err.startswith(f"voltflow: {complaint}")
    assert not path.exists()


def test_the_users_file_is_that_of_the_gateways_settings(
    tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VOLTFLOW_AGENT_STATE_DIR", str(tmp_path / "state"))
    assert cli("users", "add", "ann", typed="correct horse\n") == 0
    assert set(read_users(tmp_path / "state/users.json")) == {"ann"}
    config = tmp_path / "voltflow.toml"
    config.write_text(f'[agent]\nusers_file = "{tmp_path}/other.json"\nbroker_host = "x"\n')
    assert cli("users", "add", "bob", "--config", config, typed="correct horse\n") == 0
    assert set(read_users(tmp_path / "other.json")) == {"bob"}
