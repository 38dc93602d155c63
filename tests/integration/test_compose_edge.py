"""The profile edge by itself: a gateway without a cloud, as docs/containers.md tells, and what is done in its container."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests import containers
from tests.conftest import require
from voltflow.cli import main

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("edge") / "secrets"
    assert main(["secrets", "--folder", str(folder), "--gateway", "depot-3"]) == 0
    return folder


@pytest.fixture(scope="module")
def house(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[containers.House]:
    with ExitStack() as stack:
        variables = {
            "SECRETS": str(folder),
            "GATEWAY": "depot-3",
            "UPLINK_HOST": "mosquitto",
            "SIM_PACKS": "2",
        }
        yield require(stack, containers.project(tmp_path_factory.mktemp("house"), "edge", variables))


def test_what_the_agent_finds_is_published_at_its_own_broker(house: containers.House, folder: Path) -> None:
    password = (folder / "agent_broker_password").read_text().strip()
    said = house["agent"].run(
        "mosquitto_sub", "-h", "mosquitto", "-p", "8883", "--cafile", "/run/secrets/ca.crt", "-u", "agent", "-P", password,
        "-t", "ev/v1/+/+/twin", "-C", "1", "-W", "120", timeout_s=180,
    )  # fmt: skip
    assert json.loads(said)["gateway"] == "depot-3"


def test_a_user_of_the_editor_is_made_in_the_container(house: containers.House) -> None:
    users = ("--file", "/var/lib/voltflow/users.json")
    house["agent"].run("voltflow", "users", "add", "ann", *users, text="a-password-of-ann\n")
    assert house["agent"].run("voltflow", "users", "list", *users).startswith("ann")


def test_a_backup_is_made_in_the_container(house: containers.House) -> None:
    house["agent"].run("voltflow", "backup", "--live", "--out", "/var/lib/voltflow/gateway.backup")
    assert int(house["agent"].run("stat", "-c", "%s", "/var/lib/voltflow/gateway.backup")) > 0


def test_its_own_files_are_all_that_the_agent_can_write(house: containers.House) -> None:
    for place in ("/opt/voltflow/x", "/run/secrets/x", "/etc/x"):
        assert "Read-only file system" in house["agent"].run("sh", "-c", f"echo > {place}", check=False)
