"""The spool's store on a real folder: what is kept, what damage costs, what a start finds."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import msgspec
import pytest

from tests.spools import MB, NOW_MS, alert, damage, drained, kept, losses, segments, store_of, twin
from voltflow.spool.format import Record
from voltflow.spool.store import SpoolFull
from voltflow.telemetry import Loss

# Order and the cursor


def test_protected_messages_come_first_and_telemetry_in_order(tmp_path: Path) -> None:
    store = store_of(tmp_path)
    for seq in range(0, 50, 5):
        kept(store, [twin(seq + i, "pq"[i % 2]) for i in range(5)] + [alert(seq)])
    found = drained(store, 7)
    assert [record.topic[-5:] for record in found[:10]] == ["alert"] * 10
    assert [record.seq for record in found[10:]] == list(range(50))
    assert found[10] == twin(0)
    assert store.backlog().messages == 0


def test_a_chunk_comes_again_until_it_is_delivered(tmp_path: Path) -> None:
    store = store_of(tmp_path)
    kept(store, [twin(seq) for seq in range(10)])
    first = store.read(4, MB)
    again = store.read(6, MB)
    assert first is not None
    assert again is not None
    assert [record.seq for record in again.records] == list(range(6))
    with pytest.raises(ValueError, match="not under way"):
        store.delivered(first)
    store.delivered(again)
    with pytest.raises(ValueError, match="not under way"):
        store.delivered(again)
    assert [record.seq for record in drained(store)] == [6, 7, 8, 9]


def test_a_chunk_has_at_most_so_many_bytes_but_at_least_one_message(tmp_path: Path) -> None:
    store = store_of(tmp_path)
    kept(store, [twin(seq, size=1000) for seq in range(5)] + [twin(5, size=50_000)])
    sizes = []
    while (chunk := store.read(100, 2500)) is not None:
        sizes.append(len(chunk.records))
        store.delivered(chunk)
    assert sizes == [2, 2, 1, 1]


def test_backlog_counts_what_waits(tmp_path: Path) -> None:
    store = store_of(tmp_path)
    kept(store, [twin(seq) for seq in range(10)] + [alert(1)])
    backlog = store.backlog()
    assert (backlog.messages, backlog.by_class) == (11, {"protected": 1, "telemetry": 10})
    assert backlog.oldest_ms == NOW_MS
    assert backlog.bytes == sum(path.stat().st_size for path in tmp_path.rglob("*.seg"))
    store.close()
    store = store_of(tmp_path)
    assert store.backlog().by_class == backlog.by_class
    chunk = store.read(4, MB)
    while chunk is not None and chunk.kind != "telemetry":
        store.delivered(chunk)
        chunk = store.read(4, MB)
    assert chunk is not None
    store.delivered(chunk)
    assert store.backlog().oldest_ms == NOW_MS + 3  # about: that of the last one delivered
    drained(store)
    assert store.backlog().oldest_ms is None


def test_after_a_clean_stop_nothing_comes_twice(tmp_path: Path) -> None:
    store = store_of(tmp_path)
    kept(store, [twin(seq) for seq in range(100)])
    chunk = store.read(30, MB)
    assert chunk is not None
    store.delivered(chunk)
    store.close()
    assert [record.seq for record in drained(store_of(tmp_path))] == list(range(30, 100))


@pytest.mark.parametrize("contents", [None, b"", b"00000000 {}\n", b"junk", b"\xff\xfe 1"])
def test_without_a_cursor_what_is_left_comes_again(tmp_path: Path, contents: bytes | None) -> None:
    store = store_of(tmp_path)
    kept(store, [twin(seq) for seq in range(10)])
    chunk = store.read(3, MB)
    assert chunk is not None
    store.delivered(chunk)
    store.close()
    (tmp_path / "cursor").unlink()
    if contents is not None:
        (tmp_path / "cursor").write_bytes(contents)
    assert [record.seq for record in drained(store_of(tmp_path))] == list(range(10))


def test_what_is_delivered_is_deleted(tmp_path: Path) -> None:
    store = store_of(tmp_path, segment_bytes=20_000)
    for seq in range(0, 100, 10):
        kept(store, [twin(seq + i) for i in range(10)])
    assert len(segments(tmp_path)) == 10
    drained(store)
    assert len(segments(tmp_path)) <= 1
    store.close()
    assert segments(tmp_path) == []


def test_messages_without_a_key_or_a_pack_are_kept_as_they_are(tmp_path: Path) -> None:
    odd = [
        Record("plant/7/door", b"\x00\xff", 5),
        Record("ev/v1/f/p/twin", b""),
        Record("x" * 60_000, b"y" * 300_000, 7, "other", "pack", 2**53, 2**53, 2**50),
    ]
    store = store_of(tmp_path)
    kept(store, odd)
    store.close()
    found = drained(store_of(tmp_path))
    assert sorted(found, key=lambda record: record.payload) == sorted(odd, key=lambda record: record.payload)


# Crashes and damage


def test_a_write_that_was_cut_off_costs_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    store = store_of(tmp_path / "a")
    kept(store, [twin(seq) for seq in range(3)])
    safe = segments(tmp_path / "a")[0].stat().st_size
    kept(store, [twin(seq) for seq in range(3, 6)])
    size = segments(tmp_path / "a")[0].stat().st_size
    for cut in [*range(safe, size, 97), size - 1]:
        shutil.copytree(tmp_path / "a", tmp_path / "b")
        os.truncate(segments(tmp_path / "b")[0], cut)
        found = store_of(tmp_path / "b")
        assert found.counters.torn == (cut > safe)
        seqs = [record.seq for record in drained(found)]
        assert seqs == list(range(len(seqs)))
        assert len(seqs) >= 3
        assert found.counters.damaged == 0
        shutil.rmtree(tmp_path / "b")


def test_after_a_crash_the_next_start_is_quick_again(tmp_path: Path) -> None:
    store = store_of(tmp_path)
    kept(store, [twin(seq) for seq in range(3)])
    before = segments(tmp_path)[0].stat().st_size
    store._lock.release()  # as the end of a program does
    store_of(tmp_path)._lock.release()
    assert segments(tmp_path)[0].stat().st_size > before  # the footer
    assert store_of(tmp_path).backlog().messages == 3


def test_no_single_wrong_bit_costs_a_message(tmp_path: Path) -> None:
    store = store_of(tmp_path)
    kept(store, [twin(seq, size=10) for seq in range(2)])
    kept(store, [twin(2, size=10)])
    store.close()
    path = segments(tmp_path)[0]
    whole = path.read_bytes()
    for bit in range(0, len(whole) * 8, 7):
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        store = store_of(tmp_path)
        assert store.backlog().messages == 3
        chunk = store.read(10, MB)
        assert chunk is not None
        assert chunk.records == [twin(0, size=10), twin(1, size=10), twin(2, size=10)], bit
        assert store.counters.damaged == store.counters.torn == 0
        store._lock.release()


@pytest.mark.parametrize(
    ("at", "count"),
    [(-700, 600), (-1400, 40), (-1500, 1500)],
    ids=["the middle", "the beginning", "all of it"],
)
def test_damage_costs_the_record_it_hits_and_names_it(tmp_path: Path, at: int, count: int) -> None:
    store = store_of(tmp_path)
    kept(store, [twin(seq) for seq in range(5)])
    store.close()
    path = segments(tmp_path)[0]
    fourth = path.read_bytes().index(twin(3).payload)
    damage(path, fourth + 1500 + at, count)
    store = store_of(tmp_path)
    found = drained(store)
    assert [record.seq for record in found] == [0, 1, 2, 3, 4]
    assert losses(found) == [("p", 3, 3, "spool_damaged")]
    assert msgspec.json.decode(found[3].payload, type=Loss).gateway == "gw1"
    assert (store.counters.damaged, store.counters.lost_by_reason) == (1, {"spool_damaged": 1})


def test_a_record_whose_head_is_damaged_is_delivered_from_the_end_mark(tmp_path: Path) -> None:
    store = store_of(tmp_path)
    kept(store, [twin(seq) for seq in range(3)])
    store.close()
    path = segments(tmp_path)[0]
    damage(path, path.read_bytes().index(b"ev/v1/f/p/twin"), 10)
    assert drained(store_of(tmp_path)) == [twin(seq) for seq in range(3)]


def test_whatever_lies_in_the_folder_the_store_starts(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = store_of(tmp_path)
    kept(store, [twin(seq) for seq in range(3)])
    store.close()
    folder = tmp_path / "telemetry"
    (folder / "0000000002.seg").write_bytes(b"")
    (folder / "0000000003.seg").write_bytes(os.urandom(5000))
    (folder / "0000000004.seg").mkdir()
    (folder / "0000000005.seg").symlink_to("nowhere")
    (folder / "notes.seg").write_text("mine")
    (folder / "0000000006.tmp").write_bytes(b"half")
    store = store_of(tmp_path)
    assert [record.seq for record in drained(store)] == [0, 1, 2]
    assert "0000000004.seg cannot be read and is left alone" in caplog.text
    assert not (folder / "0000000006.tmp").exists()
    kept(store, [twin(9)])
    assert [record.seq for record in drained(store)] == [9]


def test_a_file_of_a_newer_version_is_set_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from zlib import crc32

    from voltflow.spool.format import HEADER, MAGIC, SUM

    store = store_of(tmp_path)
    kept(store, [twin(1)])
    store.close()
    path = segments(tmp_path)[0]
    start = HEADER.pack(MAGIC, 9, 0, 1, 0)[: -SUM.size]
    path.write_bytes(start + SUM.pack(crc32(start)) + b"what comes in the future")
    store = store_of(tmp_path)
    assert store.counters.set_aside == 1
    assert store.backlog().messages == 0
    assert (tmp_path / "telemetry" / "0000000001.seg.version-9").exists()
    assert "format version 9, this program reads up to 1" in caplog.text


# The disk fails


def test_after_a_failed_fsync_the_file_is_given_up_and_the_next_group_begins_a_new_one(
    tmp_path: Path,
) -> None:
    """In the place of the file comes /dev/null, which takes writes and refuses fsync."""
    store = store_of(tmp_path)
    kept(store, [twin(0)])
    null = os.open(os.devnull, os.O_RDWR)
    fd = store.logs["telemetry"]._fd
    assert fd is not None
    os.dup2(null, fd)
    os.close(null)
    with pytest.raises(SpoolFull, match="telemetry cannot be written: Invalid argument"):
        kept(store, [twin(1)])
    assert store.backlog().messages == 1
    kept(store, [twin(1)])
    assert len(segments(tmp_path)) == 2
    assert [record.seq for record in drained(store)] == [0, 1]
