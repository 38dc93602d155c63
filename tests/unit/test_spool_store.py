"""The spool's store on a real folder: what is kept, what is given up, what damage costs, what a start finds."""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from voltflow.spool_format import Record
from voltflow.spool_store import Chunk, SpoolFull, SpoolOptions, SpoolStore
from voltflow.telemetry import Loss

NOW_MS = 1_764_000_000_000
MB = 1024 * 1024
IN_MEMORY = Path("/dev/shm")


@pytest.fixture
def tmp_path(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """In memory where that is possible: thousands of fsyncs, whose duration is not what is tested here."""
    if not IN_MEMORY.is_dir():
        yield tmp_path_factory.mktemp("spool")
        return
    with tempfile.TemporaryDirectory(prefix="voltflow-spool-", dir=IN_MEMORY) as folder:
        yield Path(folder)


def store_of(folder: Path, now_ms: Any = lambda: NOW_MS, **options: Any) -> SpoolStore:
    values = {
        "telemetry_bytes": 100 * MB,
        "telemetry_age_s": 7 * 86400.0,
        "protected_bytes": 10 * MB,
        **options,
    }
    store = SpoolStore(SpoolOptions(folder, **values, gateway="gw1"), now_ms)
    store.open()
    return store


def twin(seq: int, pack: str = "p", size: int = 1500, boot: int = 1) -> Record:
    telemetry = {"seq": seq, "telemetry": {"pack_current_a": 0.0}, "pad": "x" * size}
    payload = msgspec.json.encode(telemetry)
    return Record(f"ev/v1/f/{pack}/twin", payload, NOW_MS + seq, "f", pack, boot, seq, NOW_MS + seq * 500)


def alert(seq: int, pack: str = "p") -> Record:
    return Record(f"ev/v1/f/{pack}/alert", b'{"code":"x"}', NOW_MS, "f", pack, 1, seq)


def kept(store: SpoolStore, records: list[Record]) -> None:
    for error in store.append([records]):
        if error is not None:
            raise error


def chunks(store: SpoolStore, limit: int = 100) -> list[Chunk]:
    """All that is left, delivered."""
    found = []
    while (chunk := store.read(limit, MB)) is not None:
        found.append(chunk)
        store.delivered(chunk)
    return found


def drained(store: SpoolStore, limit: int = 100) -> list[Record]:
    return [record for chunk in chunks(store, limit) for record in chunk.records]


def losses(records: list[Record]) -> list[tuple[str, int, int, str]]:
    found = [msgspec.json.decode(r.payload, type=Loss) for r in records if r.topic.endswith("/loss")]
    return [(loss.pack, loss.seq_from, loss.seq_to, loss.reason) for loss in found]


def segments(folder: Path, name: str = "telemetry") -> list[Path]:
    return sorted((folder / name).glob("*.seg"))


def damage(path: Path, at: int, count: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(bytes(count))


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
    store_of(tmp_path)
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

    from voltflow.spool_format import HEADER, MAGIC, SUM

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


# Quotas


def test_beyond_its_quota_telemetry_is_thinned_then_dropped_and_every_loss_is_named_once(
    tmp_path: Path,
) -> None:
    store = store_of(tmp_path, telemetry_bytes=MB // 4)
    reasons = set()
    for seq in range(0, 12_000, 20):
        kept(store, [twin(seq + i) for i in range(20)])
        reasons |= set(store.counters.lost_by_reason)
        assert sum(path.stat().st_size for path in (tmp_path / "telemetry").iterdir()) <= MB // 4
    assert reasons == {"thinned_10s", "thinned_60s", "quota_bytes"}
    store.close()
    store = store_of(tmp_path, telemetry_bytes=MB // 4)
    found = drained(store)
    explained = [seq for _, first, last, _ in losses(found) for seq in range(first, last + 1)]
    delivered = [record.seq for record in found if not record.topic.endswith("/loss")]
    assert sorted(explained + delivered) == list(range(12_000))
    assert delivered == sorted(delivered)
    assert {reason for *_, reason in losses(found)} == {"thinned_10s", "thinned_60s", "quota_bytes"}
    gaps = [after - before for before, after in itertools.pairwise(delivered)]
    assert max(gaps) == 120  # one a minute, and more where what was thinned together began
    assert sum(gaps[:50]) > 50 * 40
    assert gaps[-20:] == [1] * 20  # the newest are whole


def test_losses_of_many_packs_stay_small(tmp_path: Path) -> None:
    """What was dropped of a pack in a row is one range, however many messages."""
    store = store_of(tmp_path, telemetry_bytes=MB // 2)
    for seq in range(300):
        kept(store, [twin(seq, f"p{pack}") for pack in range(20)])
    drained_losses = losses(drained(store))
    assert sum(last - first + 1 for _, first, last, _ in drained_losses) > 5000
    assert len(drained_losses) < 600


def test_what_waits_too_long_is_dropped_and_named(tmp_path: Path) -> None:
    now = [NOW_MS]
    store = store_of(tmp_path, lambda: now[0], telemetry_age_s=3600.0)
    kept(store, [twin(seq) for seq in range(10)] + [alert(1)])
    now[0] += 3_500_000
    kept(store, [twin(10)])
    assert store.counters.lost_by_reason == {}
    now[0] += 200_000
    kept(store, [twin(11)])
    assert store.counters.lost_by_reason == {"quota_age": 10}
    found = drained(store)
    assert losses(found) == [("p", 0, 9, "quota_age")]
    assert [record.seq for record in found] == [1, 0, 10, 11]


def test_a_clock_that_was_not_set_makes_nothing_old(tmp_path: Path) -> None:
    now = [5000]
    store = store_of(tmp_path, lambda: now[0], telemetry_age_s=3600.0)
    kept(store, [twin(0)])
    now[0] = NOW_MS
    kept(store, [twin(1)])
    assert [record.seq for record in drained(store)] == [0, 1]


def test_what_is_on_its_way_to_the_far_side_is_not_thinned(tmp_path: Path) -> None:
    store = store_of(tmp_path, telemetry_bytes=MB // 2)
    kept(store, [twin(seq) for seq in range(10)])
    chunk = store.read(5, MB)
    assert chunk is not None
    for seq in range(10, 3000, 20):
        kept(store, [twin(seq + i) for i in range(20)])
    store.delivered(chunk)
    found = drained(store)
    assert losses(found)[0][1] > 4
    explained = {seq for _, first, last, _ in losses(found) for seq in range(first, last + 1)}
    delivered = [record.seq for record in found if not record.topic.endswith("/loss")]
    assert sorted([*explained, *delivered]) == list(range(5, 3010))


def test_protected_messages_beyond_their_quota_are_refused_and_the_others_taken(tmp_path: Path) -> None:
    store = store_of(tmp_path, protected_bytes=20_000)
    big = Record("ev/v1/f/p/dead", b"x" * 12_000, NOW_MS, "f", "p", 1, 1)
    kept(store, [big])
    with pytest.raises(SpoolFull, match=r"protected: alerts and dead letters .* raise spool_protected_mb"):
        kept(store, [twin(1), big])
    assert store.backlog().messages == 1
    failures = store.append([[twin(2)], [big], [alert(3)]])
    assert [error is None for error in failures] == [True, False, True]
    assert [record.seq for record in drained(store)] == [1, 3, 2]
    kept(store, [big])


def test_one_batch_that_is_larger_than_the_quota_is_refused(tmp_path: Path) -> None:
    store = store_of(tmp_path, telemetry_bytes=100_000)
    with pytest.raises(SpoolFull, match="raise spool_max_mb"):
        kept(store, [twin(seq) for seq in range(100)])


def test_a_crash_between_thinning_and_deleting_gives_nothing_twice(tmp_path: Path) -> None:
    """The new segment covers the old ones; where these are still there the next start deletes them."""
    store = store_of(tmp_path / "a", telemetry_bytes=MB // 2)
    before: dict[str, bytes] = {}
    seq = 0
    while not store.counters.thinned:
        before = {path.name: path.read_bytes() for path in segments(tmp_path / "a")}
        kept(store, [twin(seq + i) for i in range(20)])
        seq += 20
    store.close()
    gone = set(before) - {path.name for path in segments(tmp_path / "a")}
    assert gone
    for name in gone:
        (tmp_path / "a" / "telemetry" / name).write_bytes(before[name])
    found = drained(store_of(tmp_path / "a", telemetry_bytes=MB // 2))
    explained = [seq for _, first, last, _ in losses(found) for seq in range(first, last + 1)]
    delivered = [record.seq for record in found if not record.topic.endswith("/loss")]
    assert sorted(explained + delivered) == list(range(seq))


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
