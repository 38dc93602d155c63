"""Recordings: what is written is read, also from a file that was cut off; folders keep what they are told to."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voltflow.lab.record import (
    FILE_S,
    FolderWriter,
    Recorded,
    RecordingError,
    Writer,
    files_in,
    read,
    read_last,
    select,
)

NOW_MS = 1_767_225_600_000  # 2026-01-01
HOUR_MS = 3_600_000

items = st.builds(
    Recorded, st.integers(0, 2**45), st.text(st.characters(exclude_categories=["Cs"]), max_size=30), st.binary(max_size=50), st.booleans()
)  # fmt: skip


@given(st.lists(items, max_size=20))
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, recorded: list[Recorded]) -> None:
    path = tmp_path_factory.mktemp("recording") / "r.jsonl.gz"
    with Writer(path, ["#"]) as file:
        for item in recorded:
            file.add(item)
    assert list(read(path)) == recorded


def test_file_that_is_being_written_or_was_cut_off_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl.gz"
    file = Writer(path, ["#"])
    first, second = Recorded(1, "t", b"1"), Recorded(2, "t", b"2")
    file.add(first)
    file.flush()
    assert list(read(path)) == [first]
    file.add(second)
    file.close()
    data = path.read_bytes()
    (tmp_path / "cut").write_bytes(data[:-12])
    assert list(read(tmp_path / "cut"))[:1] == [first]
    plain = gzip.decompress(data)
    (tmp_path / "plain").write_bytes(plain)
    assert list(read(tmp_path / "plain")) == [first, second]
    (tmp_path / "plain").write_bytes(plain[:-5])
    assert list(read(tmp_path / "plain")) == [first]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("{}\n", "line 1 is no recorded message: 'payload'"), ("no\n", "line 1 is no recorded message: Expecting value"),
        ('{"schema":"flow.recording/2"}\n', "it is a 'flow.recording/2', expected is 'flow.recording/1'"),
        ('{"at_ms":1,"topic":"t","payload":"1"}\n[]\n', "line 2 is no recorded message"),
    ],
)  # fmt: skip
def test_file_that_is_no_recording(tmp_path: Path, text: str, error: str) -> None:
    (tmp_path / "f").write_text(text)
    with pytest.raises(RecordingError, match=error):
        list(read(tmp_path / "f"))


# -- folders ------------------------------------------------------------------------------------------------------


def fill(folder: FolderWriter, start_ms: int, hours: float, every_s: float = 60.0) -> None:
    for number in range(int(hours * 3600 / every_s)):
        folder.add(Recorded(start_ms + int(number * every_s * 1000), "t", str(number).encode()))
    folder.close()


def test_folder_has_a_new_file_every_ten_minutes_and_drops_the_oldest(tmp_path: Path) -> None:
    folder = FolderWriter(tmp_path, ["#"], keep_s=3600, keep_bytes=1e9)
    fill(folder, NOW_MS, hours=3)
    files = files_in(tmp_path)
    assert len(files) == 3600 / FILE_S + 2
    kept = [item for file in files for item in read(file)]
    assert kept[-1].at_ms - kept[0].at_ms >= HOUR_MS
    assert json.loads(gzip.decompress(files[0].read_bytes()).splitlines()[0]) == {
        "schema": "flow.recording/1",
        "topics": ["#"],
    }


def test_folder_takes_no_more_than_it_may(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = FolderWriter(tmp_path, ["#"], keep_s=1e9, keep_bytes=500)
    fill(folder, NOW_MS, hours=3)
    assert sum(file.stat().st_size for file in files_in(tmp_path)[:-1]) <= 500
    assert folder.dropped_files > 0
    assert "is dropped: the recordings would be more than 0 MB" in caplog.text


def test_start_within_the_same_second_gets_a_file_of_its_own(tmp_path: Path) -> None:
    for number in range(3):
        folder = FolderWriter(tmp_path, ["#"], 3600, 1e9)
        folder.add(Recorded(NOW_MS, "t", str(number).encode()))
        folder.close()
    assert sorted(item.payload for file in files_in(tmp_path) for item in read(file)) == [b"0", b"1", b"2"]


@pytest.mark.parametrize(
    ("what", "count"),
    [("last 1h", 61), ("last 90 min", 91), ("last 30s", 1), ("last 1d", 180), ("last 0.5h", 31)],
)
def test_last_hour_counts_from_the_newest_message(tmp_path: Path, what: str, count: int) -> None:
    fill(FolderWriter(tmp_path, ["#"], 1e9, 1e9), NOW_MS, hours=3)
    recorded, found = select(what, tmp_path, limit=1000)
    assert (len(recorded), found) == (count, count)
    assert recorded[-1].payload == b"179"


def test_more_than_the_limit_gives_the_newest(tmp_path: Path) -> None:
    fill(FolderWriter(tmp_path, ["#"], 1e9, 1e9), NOW_MS, hours=3)
    recorded, found = select("last 3h", tmp_path, limit=10)
    assert ([int(item.payload) for item in recorded], found) == (list(range(170, 180)), 180)


def test_what_cannot_be_selected_says_why(tmp_path: Path) -> None:
    with pytest.raises(
        RecordingError,
        match=f"{tmp_path} has no recording: voltflow flow record --follow {tmp_path} makes one",
    ):
        list(read_last(tmp_path, 60))
    with pytest.raises(
        RecordingError, match=r"'last hour' is no recording, and not written as 'last 1h' \(s, min, h, d\)"
    ):
        select("last hour", tmp_path, 10)
    Writer(tmp_path / "empty", []).close()
    with pytest.raises(RecordingError, match="no message was recorded"):
        select(str(tmp_path / "empty"), tmp_path, 10)
