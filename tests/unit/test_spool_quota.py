"""The spool's quotas: what is thinned and dropped, in which order, and that every loss is named once."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.spools import MB, NOW_MS, alert, drained, kept, losses, segments, store_of, twin
from voltflow.spool.format import Record
from voltflow.spool.store import SpoolFull

IN_MEMORY = Path("/dev/shm")


@pytest.fixture
def tmp_path(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """In memory where that is possible: thousands of fsyncs, whose duration is not what is tested here."""
    if not IN_MEMORY.is_dir():
        yield tmp_path_factory.mktemp("spool")
        return
    with tempfile.TemporaryDirectory(prefix="voltflow-spool-", dir=IN_MEMORY) as folder:
        yield Path(folder)


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
