"""A session of Node-RED's own command line client, `node-red-admin`, with a running agent that has users."""

from __future__ import annotations

import json
import re
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bench.systems import node_red_missing
from tests import servers
from tests.conftest import do_without, require
from tests.editors import PASSWORD
from tests.node_red import Said, node_red_admin
from tests.programs import Agent
from voltflow.admin.users import make_user, write_users

WRONG = "another password"
REFUSED = "Not logged in. Use 'login' to log in."


@dataclass
class Shell:
    """Where somebody types; the client keeps what it knows in a folder."""

    folder: Path
    agent: Agent

    def admin(self, *arguments: str) -> Said:
        return node_red_admin(self.folder, *arguments)

    def log_in(self, name: str, password: str = PASSWORD) -> Said:
        return node_red_admin(self.folder, "login", answers=[("Username:", name), ("Password:", password)])

    def take_token_of(self, name: str) -> None:
        """What the client would have after a login with less than all rights, which it does not ask for."""
        body = {
            "client_id": "node-red-admin",
            "grant_type": "password",
            "scope": "",
            "username": name,
            "password": PASSWORD,
        }
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.agent.port}/editor/auth/token", json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )  # fmt: skip
        with urllib.request.urlopen(request, timeout=30) as answer:
            tokens = json.load(answer)
        config = self.folder / ".cli-config.json"
        config.write_text(json.dumps({**json.loads(config.read_text()), "tokens": tokens}))


def hash_of(folder: Path, password: str) -> str:
    """What `node-red-admin hash-pw` makes of a password."""
    said = node_red_admin(folder, "hash-pw", answers=[("Password:", password)])
    found = re.fullmatch(r"Password: (\$2[aby]\$\S+)", said.text)
    assert found, said
    return found[1]


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    """One whose users have passwords that the client hashed: ann may do everything, ben may look."""
    if reason := node_red_missing():
        do_without(f"Node-RED is {reason}")
    folder = tmp_path_factory.mktemp("agent")
    password = hash_of(folder, PASSWORD)
    users = [make_user("ann", password, "*"), make_user("ben", password, "read")]
    (folder / "state").mkdir()
    write_users(folder / "state" / "users.json", users)
    with ExitStack() as stack:
        broker = require(stack, servers.Mosquitto())
        yield require(stack, Agent(broker, folder / "state"))


@pytest.fixture
def shell(agent: Agent, tmp_path: Path) -> Shell:
    """One that knows the agent and has not logged in."""
    address = f"http://127.0.0.1:{agent.port}/editor"
    assert node_red_admin(tmp_path, "target", f"{address}/") == Said(f"Target: {address}", 0)
    return Shell(tmp_path, agent)


def states(said: Said) -> dict[str, str]:
    """Whether node sets are enabled, as a table shows it."""
    rows = [re.split(r" {2,}", line.strip()) for line in said.text.splitlines()]
    return {row[0]: row[-1] for row in rows if len(row) == 3 and "/" in row[0]}


def test_nothing_is_said_and_done_without_a_login(shell: Shell) -> None:
    for arguments in (("list",), ("info", "voltflow/dtc"), ("disable", "voltflow/dtc")):
        assert shell.admin(*arguments) == Said(REFUSED, 1)
    assert shell.log_in("ann", WRONG) == Said("Username: ann\nPassword: Error: Login failed", 1)
    assert shell.admin("list") == Said(REFUSED, 1)


def test_who_logged_in_lists_looks_and_switches(shell: Shell) -> None:
    assert shell.log_in("ann") == Said("Username: ann\nPassword: Logged in", 0)

    listed = states(shell.admin("list"))
    assert (
        listed.items()
        >= {"node-red/inject": "enabled", "voltflow/dtc": "enabled", "voltflow/onnx": "enabled"}.items()
    )
    assert "Module:    node-red" in shell.admin("info", "node-red").text
    facts: dict[str, Any] = shell.admin("info", "voltflow/dtc", "--json").json()
    assert (facts["id"], facts["types"], facts["enabled"]) == ("voltflow/dtc", ["dtc"], True)

    assert states(shell.admin("disable", "voltflow/dtc")) == {"voltflow/dtc": "disabled"}
    assert states(shell.admin("list")) == {**listed, "voltflow/dtc": "disabled"}
    assert states(shell.admin("enable", "voltflow/dtc")) == {"voltflow/dtc": "enabled"}
    assert states(shell.admin("list")) == listed

    refused = {
        ("disable", "voltflow/onnx"): "400: the flow uses onnx: take those nodes out first",
        ("disable", "voltflow/none"): "404: there is no set voltflow/none",
        ("install", "node-red-dashboard"): "400: node types come with Voltflow and its Python packages; nothing is installed "
        "or removed from the editor",
    }  # fmt: skip
    for arguments, text in refused.items():
        assert shell.admin(*arguments) == Said(text, 1)


def test_who_may_only_look_switches_nothing(shell: Shell) -> None:
    assert shell.log_in("ben").code == 1  # the client asks for all rights, which Node-RED refuses him too
    shell.take_token_of("ben")
    assert states(shell.admin("info", "voltflow"))["voltflow/dtc"] == "enabled"
    assert shell.admin("disable", "voltflow/dtc") == Said(REFUSED, 1)
    assert states(shell.admin("info", "voltflow"))["voltflow/dtc"] == "enabled"
