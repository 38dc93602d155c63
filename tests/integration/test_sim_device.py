"""sim-device against a real broker: what it says it published is what a subscriber gets."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import paho.mqtt.client as paho
import pytest

from tests import servers
from tests.servers import wait_until
from voltflow.telemetry import Cells, decode_telemetry

FIELD_MONTH = Path(__file__).parents[3] / "shared" / "data" / "field_month"
Own = Callable[[AbstractContextManager[servers.Mosquitto]], servers.Mosquitto]


class Listener:
    """A subscriber that keeps what it gets, by topic; subscribed when made, so nothing of what follows is missed."""

    def __init__(self, port: int, topic_filter: str) -> None:
        self.by_topic: dict[str, list[bytes]] = defaultdict(list)
        self.retained: dict[str, Any] = {}
        self.ready = False
        self.client = paho.Client(paho.CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
        self.client.on_message = self._keep
        self.client.on_subscribe = lambda *_: setattr(self, "ready", True)
        self.client.connect("127.0.0.1", port)
        self.client.subscribe(topic_filter, qos=1)
        self.client.loop_start()
        wait_until(lambda: self.ready, "the subscription")

    def _keep(self, client: paho.Client, userdata: object, message: paho.MQTTMessage) -> None:
        self.by_topic[message.topic].append(message.payload)
        if message.topic.endswith("/state"):
            self.retained[message.topic.split("/")[3]] = json.loads(message.payload)

    def keys(self) -> Counter[tuple[str, int, int]]:
        """How often each (pack, boot, seq) came."""
        messages = [
            decode_telemetry(p) for t, ps in self.by_topic.items() if t.endswith("/telemetry") for p in ps
        ]
        return Counter((m.pack, m.boot, m.seq) for m in messages)


@contextmanager
def listening(port: int, topic_filter: str) -> Iterator[Listener]:
    listener = Listener(port, topic_filter)
    try:
        yield listener
    finally:
        listener.client.disconnect()
        listener.client.loop_stop()


def start(*args: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "sim_device.cli", *map(str, args)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> dict[str, Any]:
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    summary: dict[str, Any] = json.loads(out)
    return summary


def expected_keys(summary: dict[str, Any]) -> Counter[tuple[str, int, int]]:
    return Counter(
        (pack, count["boot"], seq)
        for pack, count in summary["packs"].items()
        for seq in range(count["published"])
    )


@pytest.mark.parametrize("connections", ["per-pack", "shared"])
def test_subscriber_gets_exactly_what_the_summary_says(
    mosquitto: servers.Mosquitto, unique: str, connections: str
) -> None:
    with listening(mosquitto.port, f"ev/v1/{unique}/#") as got:
        summary = finish(
            start("run", "--packs", 5, "--hz", 10, "--speedup", 300, "--seconds", 3, "--fleet", unique,
                  "--port", mosquitto.port, "--connections", connections, "--json")
        )  # fmt: skip
        assert summary["published"] == summary["confirmed"] > 50
        wait_until(lambda: got.keys() == expected_keys(summary), "every published message, once")
        wait_until(lambda: len(got.retained) == 5, "the states")
        offline = [state for state in got.retained.values() if not state["online"]]
    assert len(offline) == 5
    for pack, state in got.retained.items():
        assert state["published"] == summary["packs"][pack]["published"]
        assert state["chemistry"] in {"NMC", "LFP", "NCA"}
    births = [json.loads(p[0]) for t, p in got.by_topic.items() if t.endswith("/state")]
    assert all(birth["online"] for birth in births)


def test_simulated_time_runs_ahead_by_the_speed_up(mosquitto: servers.Mosquitto, unique: str) -> None:
    with listening(mosquitto.port, f"ev/v1/{unique}/+/telemetry") as got:
        args = ("--packs", 2, "--hz", 10, "--speedup", 300, "--seconds", 2, "--no-gaps", "--fleet", unique)
        summary = finish(start("run", *args, "--port", mosquitto.port, "--json"))
        wait_until(lambda: got.keys() == expected_keys(summary), "every message")
    for payloads in got.by_topic.values():
        times = [decode_telemetry(p).ts_ms for p in payloads]
        assert {b - a for a, b in itertools.pairwise(times)} == {30_000}


def test_truth_is_on_its_own_topic_only(mosquitto: servers.Mosquitto, unique: str) -> None:
    with listening(mosquitto.port, f"sim/v1/{unique}/+/truth") as got:
        finish(
            start("run", "--packs", 2, "--seconds", 2, "--fleet", unique, "--port", mosquitto.port, "--json")
        )
        wait_until(lambda: len(got.by_topic) == 2, "the hidden state of both packs")
    hidden = json.loads(got.by_topic[f"sim/v1/{unique}/SIM000000/truth"][0])
    assert hidden["schema"] == "sim.truth/1"
    assert 0 < hidden["soc_pct"] <= 100


def test_cells_are_said_every_now_and_then_by_each_pack(mosquitto: servers.Mosquitto, unique: str) -> None:
    with listening(mosquitto.port, f"ev/v1/{unique}/#") as got:
        args = ("--packs", 2, "--seconds", 3, "--cells-s", 0.5, "--fleet", unique, "--port", mosquitto.port)
        summary = finish(start("run", *args, "--json"))
        wait_until(
            lambda: got.keys() == expected_keys(summary), "every message: cells are not counted as one"
        )
        topic = f"ev/v1/{unique}/SIM000001/cells"
        wait_until(lambda: len(got.by_topic[topic]) > 1, "cells more than once")
    cells = msgspec.json.decode(got.by_topic[topic][0], type=Cells)
    birth = json.loads(got.by_topic[f"ev/v1/{unique}/SIM000001/state"][0])
    assert (cells.pack, cells.boot, len(cells.voltages_mv)) == (
        "SIM000001",
        birth["boot"],
        birth["cells_series"],
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_cleanly_with_the_summary(
    mosquitto: servers.Mosquitto, unique: str, number: signal.Signals
) -> None:
    with listening(mosquitto.port, f"ev/v1/{unique}/#") as got:
        process = start(
            "run", "--packs", 3, "--hz", 20, "--fleet", unique, "--port", mosquitto.port, "--json"
        )
        wait_until(lambda: sum(map(len, got.by_topic.values())) > 30, "telemetry")
        process.send_signal(number)
        summary = finish(process)
        wait_until(lambda: got.keys() == expected_keys(summary), "every published message, once")
        wait_until(lambda: all(not s["online"] for s in got.retained.values()), "the packs to go offline")


def test_last_will_says_offline_when_killed(mosquitto: servers.Mosquitto, unique: str) -> None:
    with listening(mosquitto.port, f"ev/v1/{unique}/+/state") as got:
        process = start("run", "--packs", 3, "--fleet", unique, "--port", mosquitto.port)
        wait_until(lambda: len(got.retained) == 3, "the births")
        assert all(state["online"] for state in got.retained.values())
        process.kill()
        process.communicate()
        wait_until(lambda: not any(state["online"] for state in got.retained.values()), "the last wills")
        assert all(state["chemistry"] for state in got.retained.values())


def test_broker_that_stops_answering_stops_the_fleet_and_loses_nothing(own: Own, unique: str) -> None:
    """Back-pressure: with the broker frozen, memory stays flat; when it goes on every message is there once."""
    broker = own(servers.Mosquitto())
    with listening(broker.port, f"ev/v1/{unique}/#") as got:
        process = start("run", "--packs", 20, "--hz", 50, "--window", 20, "--fleet", unique, "--port", broker.port,
                        "--no-gaps", "--json")  # fmt: skip
        wait_until(lambda: sum(map(len, got.by_topic.values())) > 200, "telemetry")
        broker.pause()
        before = received = 0
        try:
            wait_until(lambda: _is_idle(process.pid), "the fleet to wait for the broker", 20)
            before = _rss_kb(process.pid)
        finally:
            broker.resume()
        received = sum(map(len, got.by_topic.values()))
        wait_until(lambda: sum(map(len, got.by_topic.values())) > received + 500, "the fleet to go on")
        assert _rss_kb(process.pid) < before + 20_000
        process.send_signal(signal.SIGTERM)
        summary = finish(process)
        assert summary["published"] == summary["confirmed"]
        wait_until(lambda: got.keys() == expected_keys(summary), "every published message, once")


def _rss_kb(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") // 1024


def _is_idle(pid: int) -> bool:
    """Whether a process used less than a tenth of a core in the last second."""

    def ticks() -> int:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        return int(fields[11]) + int(fields[12])

    first = ticks()
    with pytest.raises(AssertionError):
        wait_until(lambda: False, "a second to pass", 1.0)
    return ticks() - first < 10


def test_replay_publishes_every_row_of_the_field_month_once(
    mosquitto: servers.Mosquitto, unique: str, tmp_path: Path
) -> None:
    if not FIELD_MONTH.is_dir():
        pytest.skip(f"{FIELD_MONTH} is not there: the public field month is not part of the project")
    files = []
    for vehicle in ("V01", "V08", "V09"):
        with (FIELD_MONTH / f"{vehicle}.csv").open() as source:
            files.append(tmp_path / f"{vehicle}.csv")
            files[-1].write_text("".join(line for line, _ in zip(source, range(3001), strict=False)))
    with listening(mosquitto.port, f"ev/v1/{unique}/#") as got:
        common = ("--speedup", 0, "--fleet", unique, "--port", mosquitto.port, "--json")
        process = start("replay", *files, *common)
        summary = finish(process)
        assert {pack: c["confirmed"] for pack, c in summary["packs"].items()} == dict.fromkeys(
            ("V01", "V08", "V09"), 3000
        )
        wait_until(lambda: got.keys() == expected_keys(summary), "every row, once", 30)
    assert got.retained["V01"]["cells_series"] == 91
    assert not got.retained["V01"]["online"]


def test_replay_of_two_files_of_a_vehicle_counts_on(
    mosquitto: servers.Mosquitto, unique: str, tmp_path: Path
) -> None:
    header = "vehicle_id,timestamp,charging_state,soc_pct"
    for name, day in (("a", 1), ("b", 2)):
        rows = [f"X,2024-05-0{day} 10:00:{s:02d},3,50" for s in range(5)]
        (tmp_path / f"{name}.csv").write_text("\n".join([header, *rows]))
    with listening(mosquitto.port, f"ev/v1/{unique}/+/telemetry") as got:
        files = [tmp_path / "a.csv", tmp_path / "b.csv"]
        args = (
            "--speedup",
            0,
            "--fleet",
            unique,
            "--port",
            mosquitto.port,
            "--nameplate",
            "X=NMC:96:150",
            "--json",
        )
        summary = finish(start("replay", *files, *args))
        wait_until(lambda: got.keys() == expected_keys(summary), "ten messages")
    assert summary["packs"]["X"]["published"] == 10


def wait_for_lingering(process: subprocess.Popen[str]) -> None:
    assert process.stderr is not None
    assert any("published everything, lingering" in line for line in process.stderr), "it ended before"


def replayed(got: Listener, topic: str) -> list[bytes]:
    return [payload for payload in got.by_topic[topic] if b'"replay":true' in payload]


def ask_again(got: Listener, fleet: str, pack: str, boot: int, first: int, last: int) -> None:
    command = json.dumps({"cmd": "replay", "boot": boot, "from": first, "to": last})
    got.client.publish(f"ev/v1/{fleet}/{pack}/cmd", command, qos=1).wait_for_publish(10)


@pytest.mark.parametrize("connections", ["per-pack", "shared"])
def test_range_asked_for_again_comes_as_it_was_marked_replay(
    mosquitto: servers.Mosquitto, unique: str, connections: str
) -> None:
    with listening(mosquitto.port, f"ev/v1/{unique}/#") as got:
        process = start("run", "--packs", 3, "--hz", 20, "--seconds", 3, "--linger-s", 120, "--fleet", unique,
                        "--port", mosquitto.port, "--connections", connections, "--json", "--no-gaps")  # fmt: skip
        wait_for_lingering(process)
        topic = f"ev/v1/{unique}/SIM000001/telemetry"
        wait_until(lambda: got.retained["SIM000001"]["published"], "the final state")
        state = got.retained["SIM000001"]
        assert state["online"]
        wait_until(lambda: len(got.by_topic[topic]) == state["published"] > 30, "what the state says")
        live = list(got.by_topic[topic])
        ask_again(got, unique, "SIM000001", state["boot"], 10, 29)
        ask_again(got, unique, "SIM000001", state["boot"] - 1, 0, 4)
        ask_again(got, unique, "OTHER", state["boot"], 0, 4)
        got.client.publish(f"ev/v1/{unique}/SIM000002/cmd", "nonsense", qos=1).wait_for_publish(10)
        wait_until(lambda: len(replayed(got, topic)) == 20, "the range")
        expected = [payload.replace(b'"replay":false', b'"replay":true') for payload in live[10:30]]
        assert replayed(got, topic) == expected
        process.send_signal(signal.SIGTERM)
        summary = finish(process)
    assert summary["packs"]["SIM000001"]["published"] == state["published"]
    assert summary["published"] == summary["confirmed"] == sum(
        count["published"] for count in summary["packs"].values()
    )  # fmt: skip
    assert {name: summary[name] for name in ("replayed", "not_kept", "commands", "bad_commands")} == {
        "replayed": 20, "not_kept": 5, "commands": 3, "bad_commands": 1,
    }  # fmt: skip


def test_recording_answers_requests_for_what_its_ring_holds(
    mosquitto: servers.Mosquitto, unique: str, tmp_path: Path
) -> None:
    rows = [f"X,2024-05-01 10:{m:02d}:{s:02d},3,50" for m in range(5) for s in range(60)]
    path = tmp_path / "x.csv"
    path.write_text("\n".join(["vehicle_id,timestamp,charging_state,soc_pct", *rows]))
    with listening(mosquitto.port, f"ev/v1/{unique}/#") as got:
        process = start("replay", path, "--speedup", 0, "--fleet", unique, "--port", mosquitto.port, "--linger-s", 120,
                        "--ring-messages", 100, "--json")  # fmt: skip
        wait_for_lingering(process)
        topic = f"ev/v1/{unique}/X/telemetry"
        wait_until(lambda: len(got.by_topic[topic]) == 300, "every row")
        ask_again(got, unique, "X", decode_telemetry(got.by_topic[topic][0]).boot, 190, 209)
        wait_until(lambda: len(got.by_topic[topic]) == 310, "what is kept")
        assert [decode_telemetry(p).seq for p in replayed(got, topic)] == list(range(200, 210))
        process.send_signal(signal.SIGTERM)
        summary = finish(process)
    assert (summary["published"], summary["replayed"], summary["not_kept"]) == (300, 10, 10)


def test_lingering_ends_by_itself(mosquitto: servers.Mosquitto, unique: str) -> None:
    summary = finish(start("run", "--packs", 1, "--hz", 20, "--seconds", 1, "--linger-s", 0.5, "--fleet", unique,
                           "--port", mosquitto.port, "--json"))  # fmt: skip
    assert summary["published"] == summary["confirmed"] > 0


def test_rate_asked_for_is_taken_and_simulated_time_goes_on(
    mosquitto: servers.Mosquitto, unique: str
) -> None:
    """At another rate a message stands for another time, so that time passes as fast as before."""
    with listening(mosquitto.port, f"ev/v1/{unique}/+/telemetry") as got:
        process = start("run", "--packs", 1, "--hz", 2, "--speedup", 10, "--no-gaps", "--fleet", unique,
                        "--port", mosquitto.port, "--json")  # fmt: skip
        topic = f"ev/v1/{unique}/SIM000000/telemetry"
        wait_until(lambda: got.by_topic[topic], "telemetry")
        got.client.publish(f"ev/v1/{unique}/SIM000000/cmd", '{"cmd":"rate","hz":50}', qos=1)
        wait_until(lambda: len(got.by_topic[topic]) > 60, "telemetry at the new rate")
        process.send_signal(signal.SIGTERM)
        finish(process)
    times = [decode_telemetry(p).ts_ms for p in got.by_topic[topic]]
    assert {b - a for a, b in itertools.pairwise(times)} == {5_000, 200}


def test_state_counts_what_was_published(mosquitto: servers.Mosquitto, unique: str) -> None:
    """Its count is never ahead of the telemetry the broker got before it."""
    with listening(mosquitto.port, f"ev/v1/{unique}/#") as got:
        process = start(
            "run", "--packs", 2, "--hz", 20, "--state-s", 0.3, "--fleet", unique, "--port", mosquitto.port
        )
        wait_until(lambda: len(got.by_topic[f"ev/v1/{unique}/SIM000000/state"]) > 4, "states")
        process.kill()
        process.communicate()
        wait_until(lambda: not got.retained["SIM000000"]["online"], "the last will")
    states = [json.loads(p) for p in got.by_topic[f"ev/v1/{unique}/SIM000000/state"]]
    counts = [state["published"] for state in states[1:-1]]
    assert states[0]["published"] is states[-1]["published"] is None
    assert counts == sorted(counts)
    assert 0 < counts[-1] <= len(got.by_topic[f"ev/v1/{unique}/SIM000000/telemetry"])


def test_killed_broker_loses_nothing_that_was_not_confirmed(own: Own, unique: str) -> None:
    """What was under way is sent again, in order; the state is said anew at once, not after `state_s`."""
    broker = own(servers.Mosquitto())
    process = start("run", "--packs", 5, "--hz", 50, "--state-s", 3600, "--fleet", unique, "--port", broker.port,
                    "--json")  # fmt: skip
    with listening(broker.port, f"ev/v1/{unique}/#") as got:
        wait_until(lambda: sum(map(len, got.by_topic.values())) > 100, "telemetry")
        broker.kill()
    broker.start()
    with listening(broker.port, f"ev/v1/{unique}/#") as got:
        wait_until(
            lambda: len(got.retained) == 5 and all(state["published"] for state in got.retained.values()),
            "the states",
            30,
        )
        process.send_signal(signal.SIGTERM)
        summary = finish(process)
        wait_until(lambda: not any(state["online"] for state in got.retained.values()), "the farewells")
        assert summary["published"] == summary["confirmed"]
        by_pack = defaultdict(list)
        for pack, _, seq in iter(got.keys()):
            by_pack[pack].append(seq)
    assert all(
        seqs == list(range(seqs[0], summary["packs"][pack]["published"])) for pack, seqs in by_pack.items()
    )
