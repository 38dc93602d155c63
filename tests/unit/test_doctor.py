"""What `voltflow doctor` stands on: checks within their time, ranges of versions, blanking; a failing case of each check."""

from __future__ import annotations

import base64
import importlib.metadata
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloud.bridge import BridgeSettings
from cloud.doctor import PROGRAM as BRIDGE
from edge.doctor import PROGRAM as AGENT
from edge.settings import AgentSettings
from tests.servers import REPOSITORY
from voltflow.cli import main
from voltflow.doctor import machine
from voltflow.doctor.blank import Blanker
from voltflow.doctor.bundle import flow_without_texts
from voltflow.doctor.checks import Check, Finding, exit_code, ok, problem, run, skipped, warning
from voltflow.doctor.examine import read_env_file
from voltflow.doctor.program import GROUP, secrets_of

FAILING = {
    "settings": "test_settings_that_are_wrong_are_named_with_where_they_come_from",
    "clock": "test_a_clock_that_cannot_be_right",
    "versions": "test_a_package_out_of_its_range_or_missing_is_named",
    "folders": "test_a_disk_that_takes_nothing",
    "secrets": "test_files_with_secrets_that_everybody_may_read",
    "certificates": "test_certificate_files_that_cannot_serve",
    "flow": "test_a_flow_that_cannot_run",
    "models": "test_models_that_are_not_what_was_released",
    "ports": "test_a_port_that_another_program_has",
    "spool": "test_a_spool_that_is_damaged_or_nearly_full",
    "writes": "test_a_state_too_large_for_the_budget",
    "broker": "test_nobody_there",
    "database": "test_a_role_without_rights",
    "kafka": "test_kafka_away_and_there",
    "influx": "test_influx_that_refuses",
    "running": "test_the_running_agent_is_asked_and_known_as_itself",
    "service": "test_a_service_as_systemd_sees_it",
}
"""By check: the test that shows it saying that something is wrong."""


def test_every_check_has_a_failing_case(tmp_path: Path) -> None:
    agent = AGENT.checks(AgentSettings(state_dir=tmp_path))
    bridge = BRIDGE.checks(BridgeSettings(state_dir=tmp_path, database="postgresql:///x"))
    names = {check.name.partition(" ")[0] for check in (*agent, *bridge)} | {"settings"}
    assert names == set(FAILING)
    written = "".join(path.read_text() for path in (REPOSITORY / "tests").rglob("test_doctor*.py"))
    for name, test in FAILING.items():
        body = re.search(rf"\ndef {test}\(.*?(?=\n(?:def|class|@|# --)|\Z)", written, re.DOTALL)
        assert body is not None, f"{name}: there is no {test}"
        assert re.search(r'"problem"|"warning"|status', body[0]), f"{name}: {test} looks for nothing wrong"


def test_both_programs_are_found_where_voltflow_is_installed() -> None:
    assert {entry.name for entry in importlib.metadata.entry_points(group=GROUP)} >= {"agent", "bridge"}


# -- checks -------------------------------------------------------------------------------------------------------


def test_a_check_that_takes_too_long_is_left_and_what_it_found_is_kept() -> None:
    never = threading.Event()

    def look() -> Iterator[Finding]:
        yield ok("this much is known")
        never.wait()

    (result,) = run([Check("slow", "what is slow", look, limit_s=0.2)])
    never.set()
    assert [finding.status for finding in result.findings] == ["ok", "problem"]
    assert "no answer within 0.2 s" in result.findings[1].text


def test_a_check_that_fails_is_a_problem_and_the_next_is_done() -> None:
    def look() -> Iterator[Finding]:
        raise RuntimeError("odd")

    first, second = run([Check("bad", "", look), Check("good", "", lambda: [ok("fine")])])
    assert "RuntimeError: odd" in first.findings[0].text
    assert second.status == "ok"


def test_the_exit_code_is_that_of_the_worst() -> None:
    def code(*findings: Finding) -> int:
        return exit_code(run(Check("x", "", lambda finding=finding: [finding]) for finding in findings))  # type: ignore[misc]

    assert code(ok("a"), skipped("b")) == 0
    assert code(ok("a"), warning("b", "mend it")) == 1
    assert code(problem("a", "mend it"), warning("b", "mend it")) == 2


def test_a_program_that_is_none_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "nothing"]) == 2
    assert "there is no program 'nothing' here; there are: agent, bridge" in capsys.readouterr().err


def test_an_environment_file_as_systemd_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "secrets.env"
    path.write_text("# a comment\n; another\n\nA=1\nB=\"two words\"\nC='x=y'\n")
    assert read_env_file(path) == {"A": "1", "B": "two words", "C": "x=y"}
    assert read_env_file(tmp_path / "none", may_be_missing=True) == {}
    with pytest.raises(FileNotFoundError):
        read_env_file(tmp_path / "none")


# -- versions -----------------------------------------------------------------------------------------------------


def test_a_package_out_of_its_range_or_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.metadata.version

    def version(name: str) -> str:
        if name == "bottle":
            raise importlib.metadata.PackageNotFoundError(name)
        return "0.9.1" if name == "gmqtt" else real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    findings = [finding for result in run([machine.versions("edge")]) for finding in result.findings]
    texts = [finding.text for finding in findings if finding.status == "problem"]
    assert "bottle is not installed" in texts
    assert any(text.startswith("gmqtt is 0.9.1, needed is") for text in texts)
    assert len(texts) == 2
    assert all(f.fix == "pip install 'voltflow[edge]'" for f in findings if f.status == "problem")


# -- blanking -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("before", ["", "a", "ab", "abc"])
def test_a_known_secret_is_found_in_base64_wherever_it_begins(before: str) -> None:
    secret = "correct horse battery"
    encoded = base64.b64encode(f"{before}{secret}:more".encode()).decode()
    shown = Blanker([secret]).text(f"x {encoded} y")
    assert "***" in shown
    assert base64.b64encode(secret.encode()).decode()[4:16] not in shown
    assert len(shown) < len(encoded)


def test_short_secrets_are_blanked_as_words_only() -> None:
    assert Blanker(["abc"]).text("abc abcdef abc") == "*** abcdef ***"


@pytest.mark.parametrize(
    "text",
    [
        "connected as u with p@GEHEIM", "sim-device run --password GEHEIM --packs 3", "--api-token 'GEHEIM a'", "psk=GEHEIM",
        "wifi_psk: GEHEIM", "passcode = GEHEIM", "simPin=GEHEIM", "tokens: ['GEHEIM', 'GEHEIM']", '{\\"apiToken\\": \\"GEHEIM\\"}',
        "POST https://hooks.example.org/services/T0/B0/GEHEIM0a1b2c3d4e5f6a7b8c 403",
        "https://api.example.org/bot123:GEHEIM0a1b2c3d4e5f6a7b8c/send", "https://fn.example.org/api/x?code=GEHEIM&a=1",
        '{"message":"{\\"password\\": \\"a GEHEIM, \\\\\\"GEHEIM\\"}"}', 'Authorization: Basic dXNlcjpw {"password": "GEHEIM"}',
        "Authorization: Basic abc {'password': 'GEHEIM x'}", 'Authorization: Digest username="bob", response="GEHEIM"',
        'Cookie: a="GEHEIM"; b=GEHEIM', "passwd GEHEIM", 'passwd "GEHEIM b"', "the password GEHEIM9x is wrong",
        "GET /hook?a=1&sig=GEHEIM 200", "http://ann:a/GEHEIM@h/x",
    ],
)  # fmt: skip
def test_what_looks_like_a_secret_is_blanked(text: str) -> None:
    shown = Blanker(["postgresql://u:p%40GEHEIM@h/db"]).text(text)
    assert "GEHEIM" not in shown
    assert "***" in shown


@pytest.mark.parametrize(
    "text",
    [
        "GET http://127.0.0.1:5002/api/packs/SIM000001 200", "spinning: 3", "voltflow doctor --verbose agent",
        "the password is wrong", "mosquitto_passwd -c /etc/mosquitto/passwd ann", "a token of the API",
        "topic ev/v1/north/WVWZZZ1KZAW0000010001/telemetry", "docs: https://example.org/some-words-that-are-long-enough",
    ],
)  # fmt: skip
def test_what_helps_is_not_blanked(text: str) -> None:
    assert Blanker([]).text(text) == text


def test_secret_names_in_documents_hide_lists_and_numbers() -> None:
    document = {
        "pin": 1234,
        "tokens": ["a", 5],
        "password": {"from": "file", "value": ""},
        "use_token": True,
        "n": [1],
    }
    assert Blanker([]).tree(document) == document | {"pin": "***", "tokens": ["***", "***"]}


def test_addresses_in_a_flow_are_shown_as_far_as_their_host() -> None:
    urls = {
        "https://hooks.example.org/services/T/B/geheim": "https://hooks.example.org/…", "https://h?code=geheim": "https://h/…",
        "http://ann:geheim@h:8": "http://***@h:8", "http://ann:gehe/im@h/x": "http://***", "/orders": "/orders",
        "${HOOK}": "${HOOK}", "{{{hook}}}": "(10 characters)", "": "", "ws://${HOST}:1/x": "ws://${HOST}:1/…",
    }  # fmt: skip
    nodes = [{"id": "a", "type": "http request", "url": url} for url in urls]
    assert [node["url"] for node in flow_without_texts(nodes)] == list(urls.values())


@pytest.mark.parametrize("part", ["a-", "token-", "://a:", "http://a1/", "--a ", "Cookie: \n", "token='\\"])
def test_blanking_a_line_of_any_length_ends(part: str) -> None:
    """In a program of its own: a pattern that tries everything with everything cannot be stopped in this one."""
    code = "import sys; from voltflow.doctor.blank import *; t = sys.argv[1] * 60_000; Blanker(['x' * 9]).text(t); is_secret_name(t)"
    subprocess.run([sys.executable, "-c", code, part], check=True, timeout=200)


def test_names_of_variables_that_are_places_are_no_secrets(tmp_path: Path) -> None:
    settings = AgentSettings(state_dir=tmp_path, broker_password="of-the-settings")
    environ = {
        "PWD": "/home/ann", "API_TOKEN_FILE": "/run/secrets/token", "USE_TOKEN": "true",
        "AWS_SECRET_ACCESS_KEY": "of-a-variable", "VOLTFLOW_BRIDGE_DATABASE": "postgresql://x:of-another@h/db",
    }  # fmt: skip
    found = secrets_of(AGENT, settings, environ)
    assert found == {"of-the-settings", "of-a-variable", "postgresql://x:of-another@h/db"}
    assert Blanker(found).text("of-another and /home/ann") == "*** and /home/ann"
