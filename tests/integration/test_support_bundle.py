"""`voltflow support-bundle` of a gateway that runs: what is in it, and that no secret is, in any spelling."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import secrets
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
import pytest

from cloud.bridge import BridgeSettings
from edge.settings import AgentSettings
from tests import servers
from tests.doctors import Authority
from tests.integration.test_doctor_broker import passwords
from tests.programs import Agent
from voltflow.admin.credentials import encrypt
from voltflow.doctor.program import Address, ask
from voltflow.setting import settings_of

Own = Callable[[AbstractContextManager[servers.Server]], servers.Server]


class Planted:
    """Secrets that are found wherever they are; each has characters that addresses, JSON and base64 spell differently."""

    def __init__(self) -> None:
        self.by_place: dict[str, str] = {}

    def __call__(self, place: str) -> str:
        return self.by_place.setdefault(place, f'zq/{secrets.token_hex(8)}+"é')

    def plain(self, place: str) -> str:
        """For the places in which only letters are allowed."""
        return self.by_place.setdefault(place, f"zq{secrets.token_hex(8)}")

    def found_in(self, data: bytes) -> list[str]:
        """Where a secret was planted that is in there."""
        return [
            place for place, text in self.by_place.items() if any(form in data for form in spellings(text))
        ]


def spellings(text: str) -> Iterator[bytes]:
    data = text.encode()
    yield data
    core = text.strip('"é+').split("/")[-1]
    yield core.encode()
    yield data.hex().encode()
    yield quote(text, safe="").encode()
    yield json.dumps(text)[1:-1].encode()
    for before in range(3):
        yield base64.b64encode(b"\0" * before + core.encode())[4:20]


FLOW = [
    {"id": "tab", "type": "tab", "label": "Depot"},
    {"id": "local", "type": "mqtt-broker", "name": "local", "broker": "127.0.0.1", "port": "${VOLTFLOW_AGENT_BROKER_PORT}"},
    {"id": "in", "type": "mqtt in", "z": "tab", "topic": "ev/v1/+/+/telemetry", "qos": "1", "datatype": "buffer",
     "broker": "local", "wires": [["ask"]]},
]  # fmt: skip


def flow_with(planted: Planted) -> list[dict[str, Any]]:
    tab = FLOW[0] | {
        "info": f"the password is {planted('tab info')}",
        "env": [{"name": "API", "type": "str", "value": planted("tab variable")}],
    }
    ask = {
        "id": "ask", "type": "http request", "z": "tab", "name": "ask", "method": "GET", "ret": "txt",
        "url": f"http://ann:{planted.plain('url property')}@127.0.0.1:1/{planted.plain('path')}?t={planted.plain('query property')}",
        "headers": [{"keyType": "other", "keyValue": "X-Api-Key", "valueType": "other", "valueValue": planted("header")}],
        "wires": [["note"]],
    }  # fmt: skip
    note = {
        "id": "note",
        "type": "template",
        "z": "tab",
        "field": "payload",
        "template": planted("template"),
        "wires": [[]],
    }
    return [tab, *FLOW[1:], ask, note]


def log_with(planted: Planted, settings: dict[str, str]) -> str:
    basic = base64.b64encode(f"ann:{planted.plain('basic login')}".encode()).decode()
    lines = [
        f"Authorization: Bearer {planted.plain('bearer')}", f"Authorization: Basic {basic}",
        f"GET http://ann:{planted.plain('address')}@host/x?access_token={planted.plain('query')}&a=1",
        f"connecting with password={planted.plain('assignment')}", f'{{"apiToken": "{planted.plain("json")}"}}',
        f"Cookie: session={planted.plain('cookie')}",
        "-----BEGIN PRIVATE KEY-----", planted.plain("key block"), "-----END PRIVATE KEY-----",
        *(f"odd: {value!r} {quote(value, safe='')} {base64.b64encode(b'x' + value.encode()).decode()}"
          for value in settings.values()),
        "what happened last",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


class Started(Agent):
    """Ready when its API answers; its uplink is away."""

    def is_ready(self) -> bool:
        token = self.environment["VOLTFLOW_AGENT_API_TOKEN"]
        return ask(Address(f"http://127.0.0.1:{self.port}/api/health", token))[0] == 200


def secret_settings(section: str, cls: type[msgspec.Struct], planted: Planted) -> dict[str, str]:
    names = [item.name for item in settings_of(cls) if item.secret]
    assert len(names) >= 3
    return {
        f"VOLTFLOW_{section}_{name.upper()}": (planted.plain if "token" in name else planted)(
            f"{section} {name}"
        )
        for name in names
    }


@pytest.fixture
def planted() -> Planted:
    return Planted()


def test_no_secret_is_in_it_however_it_is_spelled(own: Own, planted: Planted, tmp_path: Path) -> None:
    environment = secret_settings("AGENT", AgentSettings, planted) | secret_settings(
        "BRIDGE", BridgeSettings, planted
    )
    word = planted.plain("database")
    environment["VOLTFLOW_BRIDGE_DATABASE"] = f"postgresql://ann:{word}@127.0.0.1:1/db"
    del planted.by_place["BRIDGE database"]
    environment["VOLTFLOW_BRIDGE_INFLUX_URL"] = f"http://ann:{planted.plain('influx url')}@127.0.0.1:1/"
    environment["DEPOT_API_TOKEN"] = planted("variable")
    environment["VOLTFLOW_AGENT_BROKER_USER"] = "gw1"
    allowed = passwords(tmp_path, gw1=environment["VOLTFLOW_AGENT_BROKER_PASSWORD"])
    broker = own(servers.Mosquitto(allow_anonymous="false", password_file=str(allowed)))
    state = tmp_path / "state"
    state.mkdir()
    (state / "flows.json").write_text(json.dumps(flow_with(planted)))
    credentials = {
        "local": {"user": "gw1", "password": planted("credential")},
        "ask": {"user": "ann", "password": planted("login")},
    }
    encrypted = encrypt(credentials, environment["VOLTFLOW_AGENT_CREDENTIAL_SECRET"])
    (state / "flows_cred.json").write_text(json.dumps(encrypted))
    (state / "credential_secret").write_text(planted("kept secret"))
    cert, key = Authority(tmp_path, "ca").issue("client")
    planted.by_place["private key"] = key.read_text().splitlines()[1][:40]
    assert isinstance(broker, servers.Mosquitto)
    agent = Started(broker, state, "--uplink-host", "127.0.0.1", "--uplink-port", "1")
    agent.environment = environment
    own(agent)
    log = tmp_path / "agent.log"
    known = {
        name: value for name, value in environment.items() if "URL" not in name and "DATABASE" not in name
    }
    log.write_text(log_with(planted, known) + agent.log)
    out = tmp_path / "bundle.tar.gz"
    variables = environment | {
        "VOLTFLOW_AGENT_STATE_DIR": str(state), "VOLTFLOW_AGENT_BROKER_PORT": str(broker.port),
        "VOLTFLOW_AGENT_API_PORT": str(agent.port), "VOLTFLOW_AGENT_METRICS_PORT": str(agent.metrics_port),
        "VOLTFLOW_AGENT_GATEWAY": "test", "VOLTFLOW_AGENT_UPLINK_HOST": "127.0.0.1", "VOLTFLOW_AGENT_UPLINK_PORT": "1",
        "VOLTFLOW_AGENT_UPLINK_CERT": str(cert), "VOLTFLOW_AGENT_UPLINK_KEY": str(key),
        "VOLTFLOW_BRIDGE_STATE_DIR": str(tmp_path / "bridge"),
    }  # fmt: skip
    done = subprocess.run(
        ["env", *(f"{name}={value}" for name, value in variables.items()), sys.executable, "-m", "voltflow.cli",
         "support-bundle", "all", "--out", str(out), "--log", str(log)],
        cwd=tmp_path, check=False, capture_output=True, text=True, timeout=250,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert planted.found_in((log.read_text() + json.dumps(flow_with(planted))).encode()), "they can be found"
    files = unpacked(out)
    leaks = {name: found for name, data in files.items() if (found := planted.found_in(data))}
    assert leaks == {}
    assert planted.found_in(done.stdout.encode()) == []
    assert out.stat().st_mode & 0o077 == 0
    check_contents(files, done.stdout)


def unpacked(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as archive:
        return {
            member.name.removeprefix("voltflow-support/"): file.read()
            for member in archive
            if (file := archive.extractfile(member)) is not None
        }


def check_contents(files: dict[str, bytes], said: str) -> None:
    """What is to be in it is, the manifest is right, and what is printed names all of it."""
    manifest = json.loads(files["manifest.json"])
    assert {item["name"] for item in manifest["files"]} == files.keys() - {"manifest.json"}
    for item in manifest["files"]:
        assert item["sha256"] == hashlib.sha256(files[item["name"]]).hexdigest()
        assert item["name"] in said
    assert {
        "agent/health.json",
        "agent/flow-status.json",
        "agent/spool.json",
        "agent/metrics.txt",
        "log-1.txt",
    } <= files.keys()
    settings = json.loads(files["agent/settings.json"])
    assert settings["broker_password"] == {"value": "***", "from": "VOLTFLOW_AGENT_BROKER_PASSWORD"}
    assert settings["gateway"] == {"value": "test", "from": "VOLTFLOW_AGENT_GATEWAY"}
    nodes = {node["id"]: node for node in json.loads(files["agent/flow.json"])}
    assert nodes["in"]["topic"] == "ev/v1/+/+/telemetry"
    assert nodes["ask"]["url"] == "http://***@127.0.0.1:1/…"
    assert nodes["note"]["template"].endswith(" characters)")
    assert b"flows_cred.json" in files["agent/files.txt"]
    assert files["log-1.txt"].count(b"***") > 10
    assert b"what happened last" in files["log-1.txt"]
    assert json.loads(files["agent/health.json"])["gateway"] == "test"
    assert b"voltflow_" in files["agent/metrics.txt"]
    assert json.loads(files["agent/doctor.json"])["schema"] == "voltflow.doctor/1"


def test_a_long_log_is_cut_at_its_beginning(tmp_path: Path) -> None:
    log = tmp_path / "long.log"
    log.write_text("".join(f"{number} {'x' * 900}\n" for number in range(6000)) + "the end\n")
    out = tmp_path / "bundle.tar.gz"
    command = [
        sys.executable,
        "-m",
        "voltflow.cli",
        "support-bundle",
        "agent",
        "--out",
        str(out),
        "--log",
        str(log),
    ]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=250)
    kept = unpacked(out)["log-1.txt"]
    assert kept.endswith(b"the end\n")
    assert kept.startswith(b"(the beginning is left out)\n")
    assert len(kept) < 2_200_000
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_secrets_of_settings_that_cannot_be_loaded_are_in_it_nowhere(tmp_path: Path) -> None:
    """What a `_file` names may be the secret itself, and what variables say is known although nothing could be loaded."""
    (tmp_path / "own.log").write_text("it said zq-hunter-three at noon\n")
    environment = {
        "VOLTFLOW_BRIDGE_DATABASE_FILE": "postgresql://u:zq-hunter-one@h/d", "VOLTFLOW_BRIDGE_INFLUX_TOKEN_FILE": "zq-hunter-two",
        "VOLTFLOW_AGENT_API_TOKEN": "zq-hunter-three",
    }  # fmt: skip
    command = [
        sys.executable,
        "-m",
        "voltflow.cli",
        "support-bundle",
        "bridge",
        "--out",
        "b.tar.gz",
        "--log",
        "own.log",
    ]
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, **environment}, check=True, capture_output=True, timeout=250
    )
    files = unpacked(tmp_path / "b.tar.gz")
    assert b"must name a file that holds the secret" in files["bridge/doctor.txt"]
    assert b"it said *** at noon" in files["log-1.txt"]
    assert not [name for name, data in {**files, "printed": done.stdout}.items() if b"zq-hunter" in data]
