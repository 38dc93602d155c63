"""The benchmark counts what it says it counts; how fast anything is, is not asserted here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench.measure import Load, Plan, Result, measure
from bench.systems import SYSTEMS
from tests import servers
from tests.conftest import do_without

REPOSITORY = Path(__file__).resolve().parents[2]
PLAN = Plan(seconds=1.0, warm_up_s=0.5, latency_s=1.0, window=500)


def _measured(system: str, packs: int = 10, payload: str = "full") -> Result:
    try:
        return measure(SYSTEMS[system], Load(packs=packs, payload=payload), PLAN)
    except servers.Missing as reason:
        do_without(reason)


def _sound(result: Result) -> bool:
    return (result.missing, result.again, result.dead, result.strange, result.latency_missing) == (
        0,
        0,
        0,
        0,
        0,
    )


@pytest.mark.parametrize(("system", "payload"), [("bare", "short"), ("trivial", "full")])
def test_every_published_message_is_found_at_the_sink_exactly_once(system: str, payload: str) -> None:
    result = _measured(system, payload=payload)
    assert _sound(result), result
    assert result.published > 100
    assert result.messages_s > 0
    assert result.cpu_us > 0
    assert len(result.latency_ms) == 3
    assert result.latency_ms == sorted(result.latency_ms)


def test_a_system_that_loses_messages_is_found_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Otherwise "nothing lost" would only say that nobody looked."""
    source = (REPOSITORY / "bench" / "bare_gmqtt.py").read_text()
    lossy = source.replace(
        "        outgoing.publish(", "        b'7,\"ts_ms' in payload or outgoing.publish("
    )
    assert lossy != source
    script = tmp_path / "lossy.py"
    script.write_text(lossy)
    system = SYSTEMS["bare"]
    whole = system.command(0, tmp_path)
    monkeypatch.setattr(
        system, "command", lambda port, _: [whole[0], str(script), str(port), *whole[3:]], raising=True
    )
    monkeypatch.setattr("bench.measure.DRAIN_TIMEOUT_S", 1.0)
    result = _measured("bare")
    assert result.missing > 0
    assert result.missing < result.published


def test_quick_run_measures_agent_and_gmqtt_and_its_result_renders_into_a_page(tmp_path: Path) -> None:
    if not (REPOSITORY / "models" / "temperature" / "model.onnx").exists():
        pytest.skip("the released models are not there: cloud-train makes them")
    result, page = tmp_path / "result.json", tmp_path / "page.md"
    command = [sys.executable, "-m", "bench"]
    done = subprocess.run(
        [*command, "--quick", "--json", str(result)],
        check=False,
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert {r["system"] for r in json.loads(result.read_text())["results"]} == {"agent", "bare"}
    page.write_text(
        "before\n<!-- figures: python -m bench --render FILE -->\n<!-- end of figures -->\nafter\n"
    )
    subprocess.run([*command, "--render", str(result), "--page", str(page)], check=True, cwd=REPOSITORY)
    assert "| bare gmqtt" in page.read_text()
    assert page.read_text().startswith("before")
    assert page.read_text().endswith("after\n")
