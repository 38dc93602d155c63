"""The demo's parts as processes: how they end, by themselves, when told to, and when the demo is killed."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from cloud.bridge import BridgeSettings
from edge.settings import AgentSettings
from sim_device.options import Settings as PacksSettings
from tests.servers import wait_until
from voltflow.demo.layout import Layout
from voltflow.demo.parts import Part, PartFailedError, error_lines
from voltflow.demo.settings import DemoSettings
from voltflow.settings import load


def part(tmp_path: Path, code: str) -> Part:
    command = [sys.executable, "-u", "-c", textwrap.dedent(code)]
    return Part("tester", command, tmp_path / "tester.log", env=dict(os.environ))


def test_a_part_that_ends_by_itself_shows_its_last_lines(tmp_path: Path) -> None:
    dying = part(tmp_path, "print('the cause'); raise SystemExit(3)")
    with pytest.raises(
        PartFailedError, match=r"tester ended by itself with exit code 3; [^\n]*\n  the cause"
    ):
        asyncio.run(_run(dying))


async def _run(it: Part) -> None:
    await it.start()
    await it.ended()


def test_a_part_that_was_told_to_end_ended_well(tmp_path: Path) -> None:
    obeying = part(
        tmp_path,
        """
        import signal
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        print("ready")
        signal.sigwait({signal.SIGTERM})
        """,
    )

    async def scenario() -> str:
        await obeying.start()
        await asyncio.to_thread(wait_until, lambda: "ready" in obeying.log.read_text(), "the part")
        assert obeying.rss_mb() or sys.platform != "linux"
        ended = asyncio.create_task(obeying.ended())
        said = await obeying.stop()
        await ended
        return said

    assert asyncio.run(scenario()) == ""


def test_a_part_that_does_not_end_is_killed_and_named(tmp_path: Path) -> None:
    stubborn = part(
        tmp_path,
        """
        import signal, time
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print("ready")
        time.sleep(60)
        """,
    )

    async def scenario() -> str:
        await stubborn.start()
        await asyncio.to_thread(wait_until, lambda: "ready" in stubborn.log.read_text(), "the part")
        return await stubborn.stop(timeout_s=0.2)

    assert asyncio.run(scenario()) == "tester did not end within 0.2 s and was killed"


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
def test_parts_end_when_the_demo_is_killed(tmp_path: Path) -> None:
    script = f"""
        import asyncio, os, sys
        from pathlib import Path
        from voltflow.demo.parts import Part
        async def main():
            part = Part("sleeper", ["sleep", "60"], Path({str(tmp_path / "log")!r}), env=dict(os.environ))
            await part.start()
            print(part.pid, flush=True)
            await asyncio.sleep(60)
        asyncio.run(main())
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, text=True
    ) as demo:
        assert demo.stdout is not None
        pid = int(demo.stdout.readline())
        assert _is_alive(pid)
        demo.send_signal(signal.SIGKILL)
    wait_until(lambda: not _is_alive(pid), "the part to end")


def _is_alive(pid: int) -> bool:
    """Whether the process runs; one that ended and that nobody waits for is not alive."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_error_lines_are_those_that_report_an_error(tmp_path: Path) -> None:
    log = tmp_path / "log"
    earlier = "ERROR of an earlier run\n"
    log.write_text(
        f"{earlier}INFO all is well, 0 errors\n2026 ERROR    a: broken\nCRITICAL b\n"
        "Traceback (most recent call last):\nthread 'router-0' panicked at routing.rs\n"
        '{"ts":"2026","level":"info","logger":"a","message":"\\"level\\":\\"error\\""}\n'
        '{"ts":"2026","level":"error","logger":"a","message":"broken"}\n'
    )
    found = list(error_lines(log, len(earlier)))
    assert [line.split()[0] for line in found] == [
        "2026", "CRITICAL", "Traceback", "thread", '{"ts":"2026","level":"error","logger":"a","message":"broken"}',
    ]  # fmt: skip
    assert list(error_lines(tmp_path / "missing")) == []


def test_the_written_settings_are_those_of_the_programs(tmp_path: Path) -> None:
    """A setting that was renamed in a program must fail here and not in front of a user."""
    levels = ["voltflow.mqtt=debug"]
    settings = DemoSettings(
        state_dir=tmp_path, fleet="f" * 64, packs=7, api_port=5999,
        log_level="warning", log_levels=levels, log_format="json",
    )  # fmt: skip
    layout = Layout(settings, embedded=True)
    layout.make()
    layout.write_config("postgresql://x")
    environ = {"VOLTFLOW_CONFIG": str(layout.config)}
    agent = load(AgentSettings, "agent", environ=environ).values
    bridge = load(BridgeSettings, "bridge", environ=environ).values
    packs = load(PacksSettings, "sim", environ=environ).values
    assert (agent.api_port, agent.broker_port, agent.gateway) == (5999, 1884, "f" * 64)
    assert (bridge.database, bridge.mqtt_port, bridge.shared) == ("postgresql://x", 1884, False)
    assert (packs.packs, packs.port, packs.fleet) == (7, 1884, "f" * 64)
    assert (packs.log_format, packs.log_levels) == ("json", levels)
    assert (agent.log_level, bridge.log_level, bridge.log_format) == ("warning", "warning", "json")


def test_twins_of_an_earlier_run_are_forgotten_and_what_waits_in_its_spool_is_not(tmp_path: Path) -> None:
    agent = tmp_path / "agent"
    for name in ("state.bin", "mqtt-local.json", "spool/out/1.log", "other/file"):
        (agent / name).parent.mkdir(parents=True, exist_ok=True)
        (agent / name).write_text("of an earlier run")
    Layout(DemoSettings(state_dir=tmp_path), embedded=True).make()
    assert [path.relative_to(agent).as_posix() for path in agent.rglob("*")] == [
        "spool",
        "spool/out",
        "spool/out/1.log",
    ]


def test_a_user_s_own_settings_do_not_reach_the_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VOLTFLOW_BRIDGE_KAFKA_BOOTSTRAP", "production:9092")
    monkeypatch.setenv("HOME_OF_TEST", "kept")
    settings = DemoSettings(state_dir=tmp_path, broker_user="me", broker_password="secret")
    layout = Layout(settings, embedded=False)
    environment = layout.agent_part()._env
    assert "VOLTFLOW_BRIDGE_KAFKA_BOOTSTRAP" not in environment
    assert environment["HOME_OF_TEST"] == "kept"
    assert environment["VOLTFLOW_SIM_PASSWORD"] == "secret"
    layout.make()
    layout.write_config("postgresql://x")
    assert "secret" not in layout.config.read_text()
