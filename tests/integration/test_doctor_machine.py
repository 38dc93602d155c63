"""`voltflow doctor agent` where the machine, its files or its settings are not as they should be."""

from __future__ import annotations

import json
import shutil
import socket
import stat
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests import servers
from tests.conftest import do_without
from tests.doctors import Authority, doctor
from tests.programs import Agent
from tests.servers import REPOSITORY, wait_until
from voltflow.state.file import CLEAN_FILE

Own = Callable[[AbstractContextManager[servers.Server]], servers.Server]

NOBODY = {"broker_port": 1}
"""Tests of the machine need no broker: nobody listens there."""


def test_settings_that_are_wrong_are_named_with_where_they_come_from(tmp_path: Path) -> None:
    (tmp_path / "voltflow.toml").write_text("[agent]\napi_port = 0\n")
    report = doctor("agent", tmp_path, {})
    assert (
        "api_port = 0 is not allowed, it must be a whole number 1 … 65535 (from voltflow.toml"
        in report.texts("settings", "problem")
    )
    assert list(report.by_check) == ["settings"]
    told = doctor("agent", tmp_path, {"brokr_port": "hunter2"}).texts("settings", "problem")
    assert "the agent has no setting brokr_port (from --set): did you mean broker_port?" in told
    assert "hunter2" not in told


def test_a_configuration_file_that_cannot_be_read_has_a_remedy_that_works(tmp_path: Path) -> None:
    """`edge-agent config` would end with the same complaint."""
    (tmp_path / "voltflow.toml").write_text("[agent\n")
    for more, said in (([], "cannot be read"), (["--config", "none.toml"], "'none.toml' is not there")):
        told = doctor("agent", tmp_path, {}, more=more).texts("settings", "problem")
        assert said in told
        assert "--config FILE or VOLTFLOW_CONFIG" in told
        assert "edge-agent config" not in told


def test_settings_come_from_the_unit_of_the_service(tmp_path: Path) -> None:
    """Its options, its EnvironmentFile; the real unit with the paths of this test."""
    unit = (REPOSITORY / "packaging" / "edge-agent.service").read_text()
    (tmp_path / "secrets.env").write_text('# secrets\nVOLTFLOW_AGENT_API_TOKEN="0123456789abcdef-x"\n')
    (tmp_path / "voltflow.toml").write_text('[agent]\ngateway = "of-the-file"\nbroker_port = 1\n')
    for old, new in (("/etc/voltflow/", f"{tmp_path}/"), ("/var/lib/voltflow", f"{tmp_path}/lib")):
        assert old in unit
        unit = unit.replace(old, new)
    (tmp_path / "edge-agent.service").write_text(unit)
    report = doctor("agent", tmp_path, {}, more=["--unit", str(tmp_path / "edge-agent.service")])
    said = report.texts("settings", "ok")
    assert all(
        text in said for text in ("--state-dir", "VOLTFLOW_AGENT_API_TOKEN", f"{tmp_path}/voltflow.toml")
    )
    assert f"state_dir = '{tmp_path}/lib'" in report.texts("folders", "ok")


# -- clock, versions ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("day", "told"),
    [("2001-02-03", "before this software was released"), ("2025-02-03", "but Voltflow was installed on")],
)
def test_a_clock_that_cannot_be_right(tmp_path: Path, day: str, told: str) -> None:
    if shutil.which("faketime") is None:
        do_without("faketime is not installed: sudo apt-get install faketime")
    variables = ["env", "FAKETIME_DONT_FAKE_MONOTONIC=1", "NO_FAKE_STAT=1", "PYTHONDONTWRITEBYTECODE=1"]
    report = doctor("agent", tmp_path, NOBODY, before=[*variables, "faketime", "-f", f"@{day} 04:05:06"])
    assert day in report.texts("clock", "problem")
    assert told in report.texts("clock", "problem")


# -- folders and disk ---------------------------------------------------------------------------------------------

IN_TMPFS = ["unshare", "-m", "sh", "-c"]


def in_disk(folder: Path, options: str, then: str = "true") -> list[str]:
    """What to put before a command so that it sees `folder` on a disk of its own."""
    folder.mkdir()
    return [*IN_TMPFS, f'mount -t tmpfs {options} none "{folder}" && {{ {then}; }} && exec "$@"', "sh"]


@pytest.mark.parametrize(
    ("options", "then", "told"),
    [
        ("-o size=64k", 'dd if=/dev/zero of="$0-fill" bs=1k 2>/dev/null; true', "the disk is full"),
        ("-o ro", "true", "the disk is read-only; an SD card goes so when it fails"),
        ("-o size=20m", "true", " MB are free → df -h"),
        ("-o size=100m,nr_inodes=40", "true", "more files fit (inodes)"),
    ],
)
def test_a_disk_that_takes_nothing(tmp_path: Path, options: str, then: str, told: str) -> None:
    folder = tmp_path / "disk"
    before = in_disk(folder, options, then.replace("$0-fill", f"{folder}/fill"))
    found = doctor("agent", tmp_path, NOBODY | {"state_dir": folder}, before=before).texts(
        "folders", "problem"
    )
    assert told in found
    assert f"state_dir = '{folder}'" in found


def test_room_for_less_than_the_spool_may_take(tmp_path: Path) -> None:
    folder = tmp_path / "disk"
    before = in_disk(folder, "-o size=200m")
    report = doctor("agent", tmp_path, NOBODY | {"state_dir": folder}, before=before)
    assert "it may need 1,100 MB (spool_max_mb, spool_protected_mb)" in report.texts("folders", "warning")


def test_a_folder_without_the_right_to_write(tmp_path: Path) -> None:
    folder = tmp_path / "theirs"
    folder.mkdir(mode=0o755)
    before = []
    if folder.stat().st_uid == 0:  # root may write anywhere, as long as it has this capability
        shutil.chown(folder, 65534)
        before = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
    else:
        folder.chmod(0o500)
    report = doctor("agent", tmp_path, NOBODY | {"state_dir": folder}, before=before)
    assert f"may not write in '{folder}' → sudo chown" in report.texts("folders", "problem")


def test_files_that_are_not_the_owners(tmp_path: Path) -> None:
    """As `sudo voltflow …` leaves them, and then the service cannot write them."""
    folder = tmp_path / "state"
    folder.mkdir()
    (folder / "users.json").touch(mode=0o600)
    if folder.stat().st_uid != 0:
        do_without("only root can give a file away")
    (folder / "mine").touch()
    shutil.chown(folder, 65534)
    shutil.chown(folder / "mine", 65534)
    told = doctor("agent", tmp_path, NOBODY | {"state_dir": folder}).texts("folders", "warning")
    assert "users.json in it to somebody else: the service may not write there → sudo chown -R" in told
    assert "mine" not in told


def test_a_file_in_the_place_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    report = doctor("agent", tmp_path, NOBODY | {"state_dir": tmp_path / "file"})
    assert "is no folder" in report.texts("folders", "problem")


def test_files_with_secrets_that_everybody_may_read(tmp_path: Path) -> None:
    for name, mode in (("credential_secret", 0o644), ("users.json", 0o660), ("tokens.json", 0o600)):
        (tmp_path / name).write_text("what nobody may read")
        (tmp_path / name).chmod(mode)
    report = doctor("agent", tmp_path, NOBODY | {"state_dir": tmp_path})
    assert (
        f"everybody on this machine may read '{tmp_path}/credential_secret' of credential_secret (mode 0644)"
        in report.texts("secrets", "problem")
    )
    assert "its group may change" in report.texts("secrets", "warning")
    assert "tokens.json" not in report.texts("secrets", "problem")


def test_what_is_looked_at_is_not_changed(tmp_path: Path) -> None:
    state = tmp_path / "state"
    doctor("agent", tmp_path, NOBODY | {"state_dir": state})
    assert not state.exists()
    state.mkdir()
    (state / "flows.json").write_text((REPOSITORY / "edge" / "flows.json").read_text())
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    doctor("agent", tmp_path, NOBODY | {"state_dir": state})
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()} == before


# -- certificates -------------------------------------------------------------------------------------------------


def test_certificate_files_that_cannot_serve(tmp_path: Path) -> None:
    ca = Authority(tmp_path, "ca")
    (old, old_key), (soon, _), (_, other_key) = (
        ca.issue("old", days=-3), ca.issue("soon", days=12.5), ca.issue("other"),
    )  # fmt: skip
    other_key.chmod(0o644)
    base = NOBODY | {"broker_tls": "true", "uplink_host": "127.0.0.1", "uplink_tls": "true", "uplink_port": 1}

    def said(status: str, **settings: object) -> str:
        return doctor("agent", tmp_path, base | settings).texts("certificates", status)

    told = said("problem", broker_cert=old, broker_key=old_key, uplink_cert=soon, uplink_key=other_key)
    assert "broker_cert has expired on" in told
    assert f"the key in {other_key} is not that of the certificate in {soon}" in told
    assert f"everybody on this machine may read '{other_key}' of uplink_key" in told
    told = said("warning", broker_cert=soon)
    assert "broker_cert expires in 12 days" in told
    (tmp_path / "empty.pem").touch()
    told = said(
        "problem", broker_ca=tmp_path / "empty.pem", uplink_ca=tmp_path / "none.pem", uplink_key=old_key
    )
    assert "holds no certificate" in told
    assert "none.pem' cannot be read: No such file" in told
    assert "uplink_key is set, uplink_cert is not" in told
    ahead = doctor("agent", tmp_path, base | {"broker_ca": ca.ca}).texts("certificates", "ok")
    assert "broker_ca is valid until" in ahead


# -- flow and models ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("garbage", "not JSON"),
        (
            '[{"id": "a", "type": "tab"}, {"id": "b", "type": "no such node", "z": "a", "wires": [[]]}]',
            "no such node",
        ),
    ],
)
def test_a_flow_that_cannot_run(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "flow.json").write_text(text)
    report = doctor("agent", tmp_path, NOBODY | {"flow": tmp_path / "flow.json"})
    assert told in report.texts("flow", "problem")
    assert report.exit_code == 2


def test_a_flow_file_that_is_not_there(tmp_path: Path) -> None:
    report = doctor("agent", tmp_path, NOBODY | {"flow": tmp_path / "none.json"})
    assert "none.json' cannot be read: No such file" in report.texts("flow", "problem")
    assert report.status("brokers") == "skipped"


def test_models_that_are_not_what_was_released(tmp_path: Path) -> None:
    models = tmp_path / "models"
    shutil.copytree(REPOSITORY / "models", models)
    (models / "soh" / "model.onnx").write_bytes(b"broken")
    for name in ("card.json", "golden.json"):
        shutil.copy(REPOSITORY / "models" / "rul" / name, tmp_path / name)
    card = json.loads((models / "rul" / "card.json").read_text()) | {"sha256": "0" * 64}
    (models / "rul" / "card.json").write_text(json.dumps(card))
    golden = json.loads((models / "failure" / "golden.json").read_text())
    golden["outputs"]["value"][0] += 5
    (models / "failure" / "golden.json").write_text(json.dumps(golden))
    (models / "temperature" / "golden.json").unlink()
    report = doctor("agent", tmp_path, NOBODY | {"models_dir": models})
    told = report.texts("models", "problem")
    assert "model soh" in told
    assert "is not a model this gateway can run" in told
    assert "model rul: the file is" in told
    assert "its card says 000000000000…" in told
    assert "model failure: value is off by" in told
    assert "has no golden.json" in report.texts("models", "warning")


# -- ports, the program itself ------------------------------------------------------------------------------------


def test_a_port_that_another_program_has(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        report = doctor("agent", tmp_path, NOBODY | {"api_port": port})
    told = report.texts("ports", "problem")
    assert f"api_port = {port} is taken by process" in told
    assert "stop that one, or set api_port to another" in told


def test_a_port_for_everybody_needs_a_token(tmp_path: Path) -> None:
    ports = {"api_port": servers.free_port(), "metrics_port": servers.free_port()}
    report = doctor(
        "agent", tmp_path, NOBODY | ports | {"api_host": "0.0.0.0", "metrics_host": "no-such-host.invalid"}
    )
    told = report.texts("ports", "problem")
    assert "reachable from other machines and api_token is not set" in told
    assert "metrics_host = 'no-such-host.invalid' is no address of this machine" in told


def test_the_running_agent_is_asked_and_known_as_itself(own: Own, tmp_path: Path) -> None:
    broker = servers.Mosquitto()
    own(broker)
    agent = Agent(broker, tmp_path / "state")
    own(agent)
    settings = {
        "gateway": "test", "state_dir": tmp_path / "state", "broker_port": broker.port, "api_port": agent.port,
        "metrics_port": agent.metrics_port,
    }  # fmt: skip
    report = doctor("agent", tmp_path, settings)
    assert report.status("ports") == "ok"
    assert "is that of the program, which runs" in report.texts("ports", "ok")
    assert report.status("broker local") == "ok", "another client id: the agent keeps its connection"
    other = doctor("agent", tmp_path, settings | {"gateway": "another"})
    assert "is the gateway 'test', the settings say 'another'" in other.texts("running", "warning")
    broker.stop()
    wait_until(lambda: any(r["code"] == "broker_not_connected" for r in agent.get("/api/health")["reasons"]),
               "the agent's word of it", 60)  # fmt: skip
    assert "broker_not_connected: local at 127.0.0.1" in doctor("agent", tmp_path, settings).texts(
        "running", "warning"
    ).replace("local broker", "local")


def test_an_agent_that_wants_another_token(own: Own, tmp_path: Path) -> None:
    broker = servers.Mosquitto()
    own(broker)

    class WithToken(Agent):
        def is_ready(self) -> bool:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return True

    agent = WithToken(broker, tmp_path / "state")
    agent.environment = {"VOLTFLOW_AGENT_API_TOKEN": "0123456789abcdef-x"}
    own(agent)
    report = doctor("agent", tmp_path, {"broker_port": broker.port, "api_port": agent.port})
    assert "it wants another token" in report.texts("running", "warning")


def test_something_else_at_the_port_of_the_api(own: Own, tmp_path: Path) -> None:
    store = servers.ObjectStore()
    own(store)
    report = doctor("agent", tmp_path, NOBODY | {"api_port": store.port})
    assert report.status("running") in ("problem", "warning")


# -- spool, state, service ----------------------------------------------------------------------------------------


def test_a_spool_that_is_damaged_or_nearly_full(tmp_path: Path) -> None:
    golden = REPOSITORY / "tests" / "golden" / "spool_1" / "telemetry"
    folder = tmp_path / "spool" / "out" / "telemetry"
    shutil.copytree(golden, folder)
    report = doctor("agent", tmp_path, NOBODY | {"state_dir": tmp_path})
    files = len(list(folder.iterdir()))
    assert f"wait in {files} files" in report.texts("spool", "ok") + report.texts("spool", "warning")
    for path in folder.iterdir():
        path.write_bytes(b"nonsense" * 20)
    report = doctor("agent", tmp_path, NOBODY | {"state_dir": tmp_path})
    assert f"{files} of {files} files are damaged" in report.texts("spool", "warning")
    next(folder.iterdir()).write_bytes(b"\0" * 950_000)
    report = doctor("agent", tmp_path, NOBODY | {"state_dir": tmp_path, "spool_max_mb": 1})
    assert "of spool_max_mb; beyond it telemetry is thinned" in report.texts("spool", "warning")


def test_a_state_too_large_for_the_budget(tmp_path: Path) -> None:
    (tmp_path / CLEAN_FILE).write_bytes(b"\0" * 200_000)
    settings = NOBODY | {"state_dir": tmp_path, "disk_write_budget_mb_per_day": 1}
    told = doctor("agent", tmp_path, settings).texts("writes", "warning")
    assert "a crash forgets what is newer → raise disk_write_budget_mb_per_day" in told


@pytest.mark.parametrize(
    ("lines", "status", "told"),
    [
        (
            "LoadState=loaded\nActiveState=failed\nSubState=failed\nNRestarts=5\nResult=exit-code",
            "problem",
            "edge-agent is failed",
        ),
        (
            "LoadState=loaded\nActiveState=inactive\nSubState=dead\nNRestarts=0\nResult=success",
            "warning",
            "enable --now edge-agent",
        ),
        (
            "LoadState=loaded\nActiveState=active\nSubState=running\nNRestarts=3\nResult=success",
            "warning",
            "restarted 3 times",
        ),
        (
            "LoadState=not-found\nActiveState=inactive\nSubState=dead\nNRestarts=0",
            "skipped",
            "there is no unit edge-agent",
        ),
    ],
)
def test_a_service_as_systemd_sees_it(tmp_path: Path, lines: str, status: str, told: str) -> None:
    """systemd does not run in the test environment: a program answers in its words."""
    systemctl = tmp_path / "bin" / "systemctl"
    systemctl.parent.mkdir()
    systemctl.write_text(f"#!/bin/sh\ncat <<'END'\n{lines}\nEND\n")
    systemctl.chmod(systemctl.stat().st_mode | stat.S_IXUSR)
    report = doctor(
        "agent", tmp_path, NOBODY, before=["sh", "-c", f'PATH="{systemctl.parent}:$PATH" exec "$@"', "sh"]
    )
    assert told in report.texts("service", status)
