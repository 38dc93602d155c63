"""`bench.deploys` counts what it says it counts; how long anything takes is not asserted here."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from bench import deploys
from bench.deploys_flow import CHANGES, changed, flow
from bench.deploys_report import Done, Storm
from bench.loss_account import Account
from bench.loss_log import LIVE, Log


def _account(folder: Path, sent: list[tuple[int, int, float]], came: list[tuple[int, int, float]]) -> Account:
    for name, records in (("sent", sent), ("came", came)):
        log = Log(folder / name)
        for record in records:
            log.add(*record, LIVE)
        log.flush()
    return Account(10, folder / "sent", folder / "came")


def _storm(*done: Done) -> Storm:
    return Storm(command="", minutes=1, rate=1, period_s=1, machine={}, deploys=list(done))


def test_silence_and_latency_are_put_down_to_the_deploy_they_are_of(tmp_path: Path) -> None:
    """Pack 0 goes through the node that holds messages: it says nothing of pauses."""
    every_s = [0.0, 1.0, 2.0, 3.0, 4.0]
    sent = [(pack, seq, at_s) for seq, at_s in enumerate(every_s) for pack in range(10)]
    took_s = [0.01, 0.02, 0.40, 0.03, 0.01]
    came = [(pack, seq, at_s + (took_s[seq] if pack else 0.9)) for pack, seq, at_s in sent if pack != 1]
    came += [(1, seq, at_s + 0.9) for seq, at_s in enumerate(every_s)]
    storm = _storm(Done(what="a", kind="full", begin_s=2.1, end_s=2.2))
    storm.account_for(_account(tmp_path, sent, sorted(came, key=lambda record: record[2])))
    assert (storm.published, storm.lost, storm.doubled, storm.disordered) == (50, 0, 0, 0)
    [done] = storm.deploys
    assert (round(done.latency_ms), round(done.silence_ms)) == (400, 1380)
    assert (round(storm.quiet.longest_ms), round(storm.all.longest_ms)) == (30, 400)
    assert round(storm.quiet_silence_ms) == 1010
    assert storm.sound


@pytest.mark.parametrize("spoilt", ["lost", "doubled", "disordered", "deploy", "refusal"])
def test_storm_is_sound_only_where_nothing_went_wrong(tmp_path: Path, spoilt: str) -> None:
    sent = [(2, seq, float(seq)) for seq in range(4)]
    sent += [(pack, seq, float(seq)) for pack in (0, 1, *range(3, 10)) for seq in range(4)]
    came = [(pack, seq, at_s + 0.1) for pack, seq, at_s in sent]
    if spoilt == "lost":
        del came[0]
    if spoilt == "doubled":
        came.append(came[0])
    if spoilt == "disordered":
        came[0], came[1] = came[1], came[0]
    storm = _storm(
        Done(what="a", kind="full", begin_s=0, end_s=1, refused="no" if spoilt == "deploy" else ""),
        Done(
            what="b", kind="full", begin_s=1, end_s=2, refused="" if spoilt == "refusal" else "no", wrong=True
        ),
    )
    storm.account_for(_account(tmp_path, sent, came))
    assert not storm.sound
    assert (storm.lost, storm.doubled, storm.disordered) == tuple(
        int(spoilt == what) for what in ("lost", "doubled", "disordered")
    )


def test_changes_change_something_and_come_round() -> None:
    nodes = flow()
    for number, change in enumerate((*CHANGES, *CHANGES), 1):
        before, after = nodes, changed(nodes, change, number)
        assert after != before, change.what
        nodes = before if change.wrong else after
    assert {node["id"] for node in nodes} == {node["id"] for node in flow()}


def test_command_deploys_and_finds_every_message(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "before\n<!-- figures: python -m bench.deploys --write -->\n<!-- end of deploys -->\nafter\n"
    )
    arguments = ["--minutes", "0.1", "--period", "0.4", "--rate", "200", "--packs", "20", "--report", str(tmp_path / "report"),
                 "--write", "--page", str(page)]  # fmt: skip
    assert deploys.main(arguments) == 0
    storm = msgspec.json.decode((tmp_path / "report.json").read_bytes(), type=Storm)
    assert storm.published > 500
    assert [done.what for done in storm.deploys][: len(CHANGES)] == [change.what for change in CHANGES]
    assert storm.engine_deploys == sum(not done.refused for done in storm.deploys) == len(storm.deploys) - 1
    assert storm.complaints == []
    assert "| both connections" in page.read_text()
    assert page.read_text().startswith("before")
    assert page.read_text().endswith("after\n")
