"""`voltflow flow record` at a real broker, and a replay of what it wrote."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests import servers
from tests.mqtt import linked
from voltflow.cli import main
from voltflow.lab.record import files_in, read


def command(broker: servers.Mosquitto, *options: str) -> list[str]:
    return [
        sys.executable,
        "-m",
        "voltflow.cli",
        "flow",
        "record",
        "--broker",
        f"127.0.0.1:{broker.port}",
        *options,
    ]


async def published_until(broker: servers.Mosquitto, topic: str, seen: object) -> None:
    """Publish until the recorder has written something; it tells nobody when its subscription stands."""
    async with linked(broker.port, client_id=f"{topic}-feed".replace("/", "-"), clean_start=True) as link:
        numbers = iter(range(10_000))
        async with asyncio.timeout(30):
            while not seen():  # type: ignore[operator]
                await link.publish(topic, json.dumps({"n": next(numbers)}).encode())
                await asyncio.sleep(0.02)


def test_record_and_replay(mosquitto: servers.Mosquitto, unique: str, tmp_path: Path) -> None:
    flow = [
        {"id": "b", "type": "mqtt-broker"},
        {
            "id": "in",
            "type": "mqtt in",
            "topic": f"{unique}/+",
            "broker": "b",
            "datatype": "json",
            "wires": [["out"]],
        },
        {"id": "out", "type": "mqtt out", "broker": "b", "wires": []},
    ]
    path, file = tmp_path / "flows.json", tmp_path / "traffic.jsonl.gz"
    path.write_text(json.dumps(flow))
    with subprocess.Popen(command(mosquitto, "--flow", str(path), "--seconds", "60", str(file))) as recorder:
        asyncio.run(published_until(mosquitto, f"{unique}/a", lambda: file.exists() and list(read(file))))
        recorder.send_signal(signal.SIGINT)
        assert recorder.wait(20) == 0
    recorded = list(read(file))
    assert [json.loads(item.payload)["n"] for item in recorded] == list(
        range(json.loads(recorded[0].payload)["n"], json.loads(recorded[-1].payload)["n"] + 1)
    )
    assert {item.topic for item in recorded} == {f"{unique}/a"}
    assert main(["flow", "diff", str(path), str(path), "--replay", str(file)]) == 0


def test_record_follows_into_a_folder(mosquitto: servers.Mosquitto, unique: str, tmp_path: Path) -> None:
    folder = tmp_path / "recordings"
    with subprocess.Popen(
        command(mosquitto, "--topic", f"{unique}/#", "--follow", "--keep-h", "1", str(folder))
    ) as recorder:
        asyncio.run(
            published_until(
                mosquitto, f"{unique}/a", lambda: [item for f in files_in(folder) for item in read(f)]
            )
        )
        recorder.kill()  # what was flushed is there
    assert [item for file in files_in(folder) for item in read(file)]


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (["--seconds", "1", "x"], "say what to record: --flow FILE (the topics of its mqtt in nodes), or --topic FILTER"),
        (["--topic", "a/#/b", "x"], "not a topic filter: 'a/#/b': # stands alone in the last level only"),
        (["--topic", "a", "--follow", "--seconds", "1", "x"], "--follow goes on for ever: leave out --seconds"),
        (["--topic", "a", "--broker", "h:x", "--seconds", "1", "x"], "--broker h:x: expected is HOST or HOST:PORT"),
    ],
)  # fmt: skip
def test_record_says_what_is_wrong(
    options: list[str], error: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["flow", "record", *options]) == 2
    assert capsys.readouterr().err == f"voltflow: {error}\n"


def test_record_writes_over_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x").write_text("")
    assert main(["flow", "record", "--topic", "a", "--seconds", "1", str(tmp_path / "x")]) == 2
    assert "is there already: give another name, or remove it" in capsys.readouterr().err


def test_record_that_finds_no_broker_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("voltflow.lab.record_cli.CONNECT_S", 0.2)
    broker = f"127.0.0.1:{servers.free_port()}"
    file = tmp_path / "x"
    for _ in range(2):
        assert main(["flow", "record", "--topic", "a", "--broker", broker, "--seconds", "1", str(file)]) == 2
        assert f"no connection to {broker} in 0.2 s: " in capsys.readouterr().err
        assert not file.exists()
