"""`bench.loss` and `bench.soak` count what they say they count; how fast anything recovers is not asserted here."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bench import loss, loss_sink, loss_source
from bench.loss_account import Account
from bench.loss_log import DEAD, LIVE, LOST, REPLAYED, Log, count
from bench.loss_run import SCENARIOS, Plan, run_trial
from bench.loss_systems import NodeRed, Voltflow, VoltflowForward
from bench.names import telemetry_topic
from bench.systems import Process
from bench.traces import traces
from tests import servers
from tests.conftest import do_without

REPOSITORY = Path(__file__).resolve().parents[2]
PLAN = Plan(messages=2000, rate=500.0, packs=10, quiet_s=3.0)


def _account(
    tmp_path: Path, sent: list[tuple[int, int, float]], came: list[tuple[int, int, float, int]]
) -> Account:
    for name, records in (("sent", [(*record, LIVE) for record in sent]), ("came", came)):
        log = Log(tmp_path / name)
        for record in records:
            log.add(*record)
        log.flush()
    return Account(2, tmp_path / "sent", tmp_path / "came")


def test_account_tells_lost_named_doubled_disordered_and_replayed_apart(tmp_path: Path) -> None:
    sent = [(pack, seq, seq + pack / 10) for seq in range(4) for pack in range(2)]
    came = [
        (0, 0, 1.0, LIVE), (0, 2, 2.0, LIVE), (0, 1, 3.0, REPLAYED), (0, 1, 4.0, LIVE),
        (1, 1, 2.0, LIVE), (1, 0, 5.0, LIVE), (1, 2, 6.0, LOST), (0, 3, 7.0, DEAD), (0, 0, 8.0, LOST),
    ]  # fmt: skip
    account = _account(tmp_path, sent, came)
    assert (account.published, account.lost, account.explained, account.doubled) == (8, 3, 2, 1)
    assert account.replayed == 1
    assert (account.disordered(), account.disordered(LIVE), account.disordered(REPLAYED)) == (2, 1, 0)


def test_recovery_ends_with_the_last_message_sent_before_the_flow_ran_again(tmp_path: Path) -> None:
    sent = [(0, 0, 0.0), (1, 0, 1.0), (0, 1, 2.0), (1, 1, 3.0), (0, 2, 20.0)]
    came = [(0, 0, 0.5, LIVE), (1, 1, 11.0, LIVE), (1, 0, 14.0, REPLAYED), (0, 2, 20.5, LIVE)]
    recovery = _account(tmp_path, sent, came).recovery(10.0)
    assert recovery is not None
    assert (recovery.again_s, recovery.all_there_s) == (1.0, 4.0)


@pytest.mark.parametrize("qos", [1, 2])
def test_source_and_sink_find_every_message_also_over_a_restart_of_their_broker(
    tmp_path: Path, qos: int
) -> None:
    """What the rig itself lost or doubled would be put down to the systems."""
    path, _ = traces(10, "full", brief=True)
    sent, came = tmp_path / "sent", tmp_path / "came"
    with servers.mosquitto() as broker:
        topics = (telemetry_topic(0).replace("B00000", "+"),)
        order = loss_sink.Order(port=broker.port, log=str(came), filters=topics, qos=qos)
        sink = Process(_module("sink", order), tmp_path, "sink")
        try:
            servers.wait_until(lambda: "subscribed" in sink.log, "the sink")
            sink.popen.send_signal(signal.SIGSTOP)
            load = loss_source.Order(port=broker.port, traces=str(path), log=str(sent), packs=10, rate=2000, messages=500,
                                     qos=qos)  # fmt: skip
            source = Process(_module("source", load), tmp_path, "source")
            assert source.popen.wait(60) == 0, source.log
            broker.restart()
            sink.popen.send_signal(signal.SIGCONT)
            servers.wait_until(lambda: count(came) >= 500, "all messages", 30)
        finally:
            sink.stop()
    assert "ended 500" in source.log
    account = Account(10, sent, came)
    assert (account.published, account.lost, account.disordered()) == (500, 0, 0)
    assert account.doubled == 0 or qos == 1


def _module(name: str, order: object) -> list[str]:
    import msgspec

    return [sys.executable, "-m", f"bench.loss_{name}", msgspec.json.encode(order).decode()]


@pytest.mark.parametrize(("scenario", "qos"), [("A", 1), ("A", 2), ("C", 1), ("D", 1)])
def test_voltflow_loses_nothing_when_the_uplink_fails(scenario: str, qos: int) -> None:
    trial = run_trial(SCENARIOS[scenario], VoltflowForward, qos, PLAN)
    assert (trial.lost, len(trial.faults)) == (0, 1), trial
    assert trial.faults[0].proof
    assert trial.recoveries[0] is not None
    assert trial.published == PLAN.messages * SCENARIOS[scenario].length


def test_voltflow_loses_nothing_when_it_is_killed() -> None:
    trial = run_trial(SCENARIOS["B"], VoltflowForward, 1, PLAN)
    assert (trial.lost, len(trial.faults)) == (0, 3), trial
    assert all("-9" in fault.proof for fault in trial.faults)


def test_spool_of_the_default_flow_is_in_the_result() -> None:
    """Its uplink is away for longer than `spool_after_s`."""
    if not (REPOSITORY / "models" / "temperature" / "model.onnx").exists():
        pytest.skip("the released models are not there: cloud-train makes them")

    class Impatient(Voltflow):
        options = ("--spool-after-s", "0.5")

    trial = run_trial(SCENARIOS["A"], Impatient, 1, Plan(messages=4000, rate=500.0, packs=10, quiet_s=3.0))
    assert trial.lost == 0, trial
    assert trial.spool["appended"] > 0
    assert trial.spool["fsyncs"] > 0
    assert trial.spool["left_messages"] == 0
    assert trial.replayed > 0


def test_node_red_loses_what_comes_while_its_uplink_is_away() -> None:
    """A rig that finds no loss here would not find one anywhere."""
    if reason := NodeRed.missing():
        do_without(f"Node-RED is {reason}")
    trial = run_trial(SCENARIOS["A"], NodeRed, 1, PLAN)
    assert 0 < trial.lost < trial.published, trial
    assert trial.explained == 0


def test_command_writes_report_and_page(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "before\n<!-- figures: python -m bench.loss --write -->\n<!-- end of figures -->\nafter\n"
    )
    arguments = ["--only", "voltflow-forward", "--scenarios", "d", "--qos", "1", "--messages", "1000", "--rate", "500",
                 "--quiet", "2", "--report", str(tmp_path / "report"), "--write", "--page", str(page)]  # fmt: skip
    assert loss.main(arguments) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert [trial["lost"] for trial in report["trials"]] == [0]
    assert "| Voltflow, mqtt in → mqtt out | 1" in page.read_text()
    assert page.read_text().startswith("before")
    assert page.read_text().endswith("after\n")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_soak_drains_and_draws(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- figures: python -m bench.soak --write -->\n<!-- end of soak -->\n")
    command = [sys.executable, "-m", "bench.soak", "--minutes", "0.5", "--outage-minutes", "0.15", "--rate", "200",
               "--packs", "50", "--write", "--page", str(page), "--report", str(tmp_path / "soak")]  # fmt: skip
    done = subprocess.run(command, check=False, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "soak.json").read_text())
    assert (report["lost"], report["spool"]["left_messages"]) == (0, 0)
    assert report["spool"]["appended"] == report["spool"]["delivered"] > 0
    assert sum(sample["live"] + sample["replayed"] for sample in report["samples"]) > 0
    assert (tmp_path / "img" / "soak.svg").stat().st_size > 1000
    assert "img/soak.svg" in page.read_text()
