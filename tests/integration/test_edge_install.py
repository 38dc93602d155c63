"""A gateway installs `.[edge]` and nothing more: what the agent imports stays inside that list, and it runs."""

from __future__ import annotations

import re
import subprocess
import sys
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests import servers
from tests.editors import need_files
from tests.programs import Agent

HEAVY = ("pandas", "sklearn", "mlflow", "kafka", "psycopg2", "influxdb_client", "matplotlib", "onnx", "rich")
"""What belongs to the cloud, to training or to the demo."""


@pytest.fixture(scope="module")
def gateway_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment with `.[edge]` alone, installed from a built wheel as on a gateway."""
    need_files()
    folder = tmp_path_factory.mktemp("gateway")
    venv.create(folder / "venv", with_pip=True)
    python = folder / "venv" / "bin" / "python"
    subprocess.run(
        [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", f"{servers.REPOSITORY}[edge]"],
        check=True, cwd=folder, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    return python


def run(python: Path, *arguments: str, cwd: Path) -> str:
    return subprocess.run(
        [python, *arguments], check=True, cwd=cwd, capture_output=True, text=True, stdin=subprocess.DEVNULL
    ).stdout


@pytest.mark.timeout(600)
def test_edge_alone_checks_its_flow_and_imports_nothing_heavy(gateway_python: Path, tmp_path: Path) -> None:
    checked = run(gateway_python, "-m", "edge.cli", "check", cwd=tmp_path)
    assert "ready to run" in checked
    program = (
        "import sys, edge.cli, edge.agent\n"
        "from voltflow.node import load_nodes\n"
        "from edge.model import load_model, released_models\n"
        "load_nodes('voltflow.nodes', 'edge.nodes')\n"
        "[load_model(released_models(), name) for name in ('soh', 'temperature', 'rul', 'failure')]\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}))\n"
    )
    imported = set(run(gateway_python, "-c", program, cwd=tmp_path).split())
    assert "onnxruntime" in imported
    assert not imported & set(HEAVY)
    assert not imported & {"cloud", "sim_device"}


@pytest.mark.timeout(600)
def test_edge_alone_installs_only_what_its_list_needs(gateway_python: Path, tmp_path: Path) -> None:
    listed = run(
        gateway_python, "-m", "pip", "list", "--format", "freeze", "--disable-pip-version-check", cwd=tmp_path
    )
    installed = {line.partition("==")[0].lower().replace("_", "-") for line in listed.splitlines()}
    assert not installed & {
        "pandas",
        "scikit-learn",
        "mlflow",
        "kafka-python",
        "psycopg2-binary",
        "onnx",
        "rich",
    }
    size = sum(file.lstat().st_size for file in gateway_python.parents[1].rglob("*") if not file.is_dir())
    print(f"\n.[edge]: {len(installed)} packages, {size / 1e6:.0f} MB with pip")


@contextmanager
def _agent(python: Path, broker: servers.Mosquitto, state_dir: Path) -> Iterator[Agent]:
    class Installed(Agent):
        def command(self) -> list[str]:
            return [str(python) if part == sys.executable else part for part in super().command()]

    with Installed(broker, state_dir) as agent:
        yield agent


@pytest.mark.timeout(600)
def test_edge_alone_runs_beside_a_broker(
    gateway_python: Path, mosquitto: servers.Mosquitto, tmp_path: Path
) -> None:
    with _agent(gateway_python, mosquitto, tmp_path / "state") as agent:
        assert {model["name"] for model in agent.get("/api/models")["models"]} == {
            "soh",
            "temperature",
            "rul",
            "failure",
        }
        print(f"\nagent without packs: {agent.rss_mb:.0f} MB resident")
        agent.stop()
        assert agent.exit_code == 0


@pytest.mark.timeout(600)
def test_wheel_brings_editor_and_page_along(gateway_python: Path, tmp_path: Path) -> None:
    """A gateway that gets a wheel from a machine with npm needs neither npm nor a network."""
    program = (
        "from voltflow.admin import editor_files as editor, page_files as page; from edge.page_files import PageFiles; "
        "print(editor.folder(), editor.installed(), page.installed(), PageFiles().find('/pack/chart.js') is not None)"
    )
    folder, *whole = run(gateway_python, "-c", program, cwd=tmp_path).split()
    assert Path(folder).is_relative_to(gateway_python.parents[1])
    assert whole == ["True"] * 3


def test_the_list_of_the_gateway_stays_short() -> None:
    """Whoever adds a library for the gateway says so here."""
    text = (servers.REPOSITORY / "setup.cfg").read_text()
    listed = re.search(r"^edge =\n((?:    .*\n)+)", text, re.MULTILINE)
    assert listed is not None
    names = {re.split(r"[<>=\[]", line.strip())[0] for line in listed[1].splitlines()}
    server = {"a2wsgi", "bottle", "uvicorn", "websockets", "prometheus_client"}
    editor = {"bcrypt", "cryptography"}
    nodes = {"onnxruntime", "httpx", "jsonata-python", "pystache", "PyYAML", "cronsim"}
    assert names == server | editor | nodes
