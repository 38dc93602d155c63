"""`voltflow demo`: what it refuses, and that it names the setting; the state folder's lock and `--reset`."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import servers
from tests.conftest import Use
from voltflow.cli import main
from voltflow.demo import broker
from voltflow.demo.cli import LOCK, locked
from voltflow.demo.layout import check_port
from voltflow.demo.settings import DemoSettings
from voltflow.settings import SettingsError


@pytest.fixture
def taken() -> Iterator[int]:
    """A port where something listens that never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_a_taken_port_is_refused_with_the_setting_s_name(taken: int) -> None:
    with pytest.raises(
        SettingsError, match=rf"^api_port = {taken} cannot be opened \(another program listens"
    ) as caught:
        check_port("api_port", taken)
    assert "--api-port" in str(caught.value)


def test_a_port_just_left_is_free() -> None:
    check_port("api_port", servers.free_port())


@pytest.mark.parametrize("name", DemoSettings.port_settings())
def test_each_port_is_a_setting_with_an_option(
    name: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    option = f"--{name.replace('_', '-')}"
    assert main(["demo", option, "70000", "--state-dir", str(tmp_path)]) == 2
    assert f"{name} = '70000' is not allowed, it must be a whole number 1 … 65535" in capsys.readouterr().err


def test_two_settings_with_one_port_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--api-port", "5005", "--agent-metrics-port", "5005"]) == 2
    assert "api_port and agent_metrics_port are both 5005" in capsys.readouterr().err


def test_what_is_no_broker_on_the_broker_s_port_is_refused(
    taken: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broker, "PROBE_TIMEOUT_S", 0.2)
    with pytest.raises(SettingsError, match=rf"^broker_port = {taken}: .* no MQTT broker"):
        broker.use_running(DemoSettings(broker_port=taken))


def test_a_running_broker_that_is_not_there_is_an_error() -> None:
    with pytest.raises(SettingsError, match=r"^broker = running, but no MQTT broker answers at 127\.0\.0\.1"):
        broker.use_running(DemoSettings(broker="running", broker_port=servers.free_port()))


def test_a_broker_that_refuses_the_user_is_an_error_that_names_the_settings(
    tmp_path: Path, own: Use[servers.Mosquitto]
) -> None:
    tool = servers.program("mosquitto_passwd", "mosquitto")
    passwords = tmp_path / "passwords"
    subprocess.run([tool, "-b", "-c", str(passwords), "me", "right"], check=True, capture_output=True)
    port = own(servers.Mosquitto(allow_anonymous="false", password_file=_readable(passwords))).port
    assert broker.use_running(DemoSettings(broker_port=port, broker_user="me", broker_password="right"))
    for user, password in (("", ""), ("me", "wrong"), ("m" * 120, "x" * 120)):
        with pytest.raises(SettingsError, match=rf"^broker_port = {port}: .* refuses broker_user = '{user}'"):
            broker.use_running(DemoSettings(broker_port=port, broker_user=user, broker_password=password))


def _readable(path: Path) -> str:
    path.chmod(0o644)
    return str(path)


def test_without_a_broker_on_the_port_the_embedded_one_is_used() -> None:
    assert not broker.use_running(DemoSettings(broker_port=servers.free_port()))


def test_a_second_demo_in_the_same_folder_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with locked(tmp_path):
        assert main(["demo", "--state-dir", str(tmp_path)]) == 2
        assert "is in use by another demo (process " in capsys.readouterr().err
        assert main(["demo", "--reset", "--state-dir", str(tmp_path)]) == 2
    assert tmp_path.exists()


def test_reset_forgets_the_folder_and_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "state"
    with locked(folder):
        (folder / "logs").mkdir()
    assert main(["demo", "--reset", "--state-dir", str(folder)]) == 0
    assert not folder.exists()
    assert tmp_path.exists()
    assert main(["demo", "--reset", "--state-dir", str(folder)]) == 0
    assert "nothing to forget" in capsys.readouterr().out


def test_reset_leaves_a_folder_that_is_not_the_demo_s(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis.tex").touch()
    assert main(["demo", "--reset", "--state-dir", str(tmp_path)]) == 2
    assert f"{LOCK} is missing" in capsys.readouterr().err
    assert (tmp_path / "thesis.tex").exists()
