"""What real programs log, and changing that while they run: API, SIGHUP, SIGUSR1."""

import json
import os
import re
import signal
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from paho.mqtt import publish

from tests import servers
from tests.programs import Agent, Bridge, Program
from tests.servers import wait_until

WAIT_S = 60.0


class Simulator(Program):
    module = "sim_device.cli"

    def is_ready(self) -> bool:
        return "connected to" in self.log


def put(agent: Agent, change: dict[str, Any]) -> Any:
    request = urllib.request.Request(
        f"http://127.0.0.1:{agent.port}/api/log", json.dumps(change).encode(),
        {"Content-Type": "application/json", "X-Request-ID": "change-1"}, method="PUT",
    )  # fmt: skip
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert answer.headers["X-Request-ID"] == "change-1"
        return json.load(answer)


def lines(program: Program) -> list[dict[str, Any]]:
    """Every line must be JSON, also what libraries log."""
    return [json.loads(line) for line in program.log.splitlines()]


def logged(program: Program, text: str) -> dict[str, Any]:
    def find() -> dict[str, Any] | None:
        return next((line for line in reversed(lines(program)) if text in line["message"]), None)

    found: dict[str, Any] = wait_until(find, f"the log line {text!r}", WAIT_S)
    return found


def test_agent_logs_json_and_the_message_a_node_failed_on_by_request(
    tmp_path: Path, mosquitto: servers.Mosquitto
) -> None:
    options = ["--log-format", "json", "--log-levels", "voltflow.mqtt=warning"]
    topic, message = (
        "ev/v1/demo/SIM000001/telemetry",
        {"schema": "bms.telemetry/1", "pack": "SIM000001", "boot": 1, "seq": 7},
    )
    with Agent(mosquitto, tmp_path, *options) as agent:
        assert agent.get("/api/log") == {
            "level": "info", "levels": {"voltflow.mqtt": "warning"},
            "configured": {"": "info", "voltflow.mqtt": "warning"}, "back_in_s": None,
        }  # fmt: skip
        answer = put(agent, {"levels": {"voltflow.engine": "debug"}, "for_s": 3600})
        assert 3590 < answer["back_in_s"] <= 3600
        assert logged(agent, "log level is info, voltflow.engine=debug")["request_id"] == "change-1"
        publish.single(topic, json.dumps(message), qos=1, port=mosquitto.port)
        line = logged(agent, "dead letter")
        assert (line["level"], line["topic"]) == ("debug", topic)
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["ts"])
        assert put(agent, {})["levels"] == {"voltflow.mqtt": "warning"}
        assert any("gateway test" in line["message"] for line in lines(agent))


def test_agent_goes_back_by_itself(tmp_path: Path, mosquitto: servers.Mosquitto) -> None:
    with Agent(mosquitto, tmp_path) as agent:
        for wrong in ({"level": "verbose"}, {"levels": {"voltflow": "verbose"}}):
            with pytest.raises(urllib.error.HTTPError, match="400") as caught:
                put(agent, wrong)
            assert "allowed are debug, error, info, warning" in caught.value.read().decode()
        put(agent, {"level": "debug", "for_s": 1})
        wait_until(lambda: agent.get("/api/log")["level"] == "info", "the level to go back", WAIT_S)
        assert "log level is info again" in agent.log


def test_log_cannot_be_changed_without_the_token(tmp_path: Path, mosquitto: servers.Mosquitto) -> None:
    token = "0123456789abcdef-token"

    class Closed(Agent):
        def is_ready(self) -> bool:
            return "metrics on http" in self.log

    closed = Closed(mosquitto, tmp_path)
    closed.environment = {"VOLTFLOW_AGENT_API_TOKEN": token}
    with closed as agent:
        with pytest.raises(urllib.error.HTTPError, match="401"):
            put(agent, {"level": "debug"})
        assert "log level is debug" not in agent.log


@pytest.mark.parametrize("name", ["agent", "bridge", "simulator"])
def test_signals_change_levels_of_a_running_program(
    name: str, tmp_path: Path, mosquitto: servers.Mosquitto, database: str
) -> None:
    """The settings file is read again, one that is wrong changes nothing, and everything is logged for a while."""
    config, table = (
        tmp_path / "voltflow.toml",
        {"agent": "agent", "bridge": "bridge", "simulator": "sim"}[name],
    )
    common = ["--config", str(config), "--log-format", "json"]
    config.write_text(f'[{table}]\nlog_level = "info"\n')
    program: Program
    if name == "agent":
        program = Agent(mosquitto, tmp_path / "state", *common)
    elif name == "bridge":
        program = Bridge(mosquitto, database, tmp_path / "state", *common)
    else:
        program = Simulator("--port", str(mosquitto.port), "--packs", "1", *common)
    with program:
        config.write_text(f'[{table}]\nlog_level = "warning"\nlog_levels = ["voltflow.mqtt=debug"]\n')
        os.kill(program.pid, signal.SIGHUP)
        logged(program, "log level is warning, voltflow.mqtt=debug again")
        config.write_text(f'[{table}]\nlog_levels = ["voltflow.mqtt=loud"]\n')
        os.kill(program.pid, signal.SIGHUP)
        assert logged(program, "stay as they are")["level"] == "error"
        os.kill(program.pid, signal.SIGUSR1)
        logged(program, "log level is debug for 600 s")


class WithoutInput(Simulator):
    """Started as some supervisors do, with standard input closed."""

    def command(self) -> Sequence[str]:
        return ["sh", "-c", 'exec "$@" <&-', "sh", *super().command()]


def test_program_without_standard_input_runs_and_takes_signals(
    tmp_path: Path, mosquitto: servers.Mosquitto
) -> None:
    config = tmp_path / "voltflow.toml"
    config.write_text('[sim]\nlog_level = "info"\n')
    options = ["--port", str(mosquitto.port), "--packs", "1", "--config", str(config), "--log-format", "json"]
    with WithoutInput(*options) as program:
        config.write_text('[sim]\nlog_level = "warning"\n')
        os.kill(program.pid, signal.SIGHUP)
        logged(program, "log level is warning again")
