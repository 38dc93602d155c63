"""The command line of sim-device: help that teaches, errors that name what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from sim_device.cli import main
from tests.servers import free_port


@pytest.mark.parametrize("command", ["run", "replay", "dataset", "config"])
def test_help_has_examples(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([command, "--help"])
    assert end.value.code == 0
    assert "examples:\n  sim-device " in capsys.readouterr().out


def test_dataset_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    size = ["--packs", "3", "--visits", "1", "--days", "1", "--step-s", "60"]
    assert main(["dataset", *size, "--out", str(tmp_path)]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"packs.json", "visit00_day00.npz"}
    assert capsys.readouterr().out.startswith("2 files, ")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["run", "--hz", "0"], "hz = '0' is not allowed, it must be a number > 0 ≤ 100 (from --hz)"),
        (
            ["run", "--speedup", "0"],
            "speedup = 0 is not allowed for run, it must be above 0; 0 is for replay",
        ),
        (["run", "--fleet", "a/b"], "fleet = 'a/b' is not allowed"),
    ],
)
def test_wrong_setting_is_named(argv: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("argv", [["--packs", "0"], ["--packs", "2", "--step-s", "0.1"], ["--packs", "x"]])
def test_wrong_size_is_named(argv: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as end:
        main(["dataset", *argv, "--out", str(tmp_path)])
    assert end.value.code == 2
    assert "is not allowed, it must be a" in capsys.readouterr().err


def test_missing_file_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", "/nowhere/V01.csv"]) == 1
    assert capsys.readouterr().err == "sim-device: /nowhere/V01.csv: No such file or directory\n"


def test_wrong_nameplate_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["replay", "x.csv", "--nameplate", "V1=LTO"])
    assert (
        "'V1=LTO' is not PACK=CHEMISTRY[:CELLS[:AH]]; chemistries are NMC, LFP, NCA"
        in capsys.readouterr().err
    )


def test_broker_that_is_not_there_names_the_settings(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sim_device.publish.CONNECT_TIMEOUT_S", 0.5)
    port = free_port()
    assert main(["run", "--port", str(port)]) == 1
    assert f"no broker at 127.0.0.1:{port} (settings host, port): Connection" in capsys.readouterr().err


def test_config_shows_values_and_origins(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VOLTFLOW_SIM_FLEET", "north")
    assert main(["config", "--packs", "7"]) == 0
    shown = capsys.readouterr().out
    assert 'fleet = "north"  # from: VOLTFLOW_SIM_FLEET' in shown
    assert "packs = 7  # from: --packs" in shown
