"""A disk that is full or read-only: nothing is kept by half, the reason is named, and it goes on when there is room.

Real file systems of 1 MB are mounted where that is allowed (root); a limit on the size of files, which any user may set,
stands in for a full disk elsewhere.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from voltflow.spool.format import Record
from voltflow.spool.store import SpoolFull, SpoolOptions, SpoolStore

MB = 1024 * 1024


def mount(*arguments: str) -> bool:
    return subprocess.run(["mount", *arguments], capture_output=True, check=False).returncode == 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if not mount("-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)):
        pytest.skip("mounting a file system needs root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def store_of(folder: Path, telemetry_bytes: int = 100 * MB) -> SpoolStore:
    store = SpoolStore(SpoolOptions(folder, telemetry_bytes, 7 * 86400.0, 10 * MB, gateway="gw1"))
    store.open()
    return store


def twin(seq: int) -> Record:
    return Record("ev/v1/f/p/twin", b"x" * 1500, 1, "f", "p", 1, seq, seq)


def drained(store: SpoolStore) -> list[int]:
    seqs = []
    while (chunk := store.read(50, MB)) is not None:
        seqs += [record.seq for record in chunk.records]
        store.delivered(chunk)
    return seqs


def filled(store: SpoolStore) -> tuple[int, SpoolFull]:
    """How many messages fit, ten at a time, and what was then said."""
    seq = 0
    while True:
        error = store.append([[twin(seq + i) for i in range(10)]])[0]
        if error is not None:
            return seq, error
        seq += 10


def test_a_full_disk_refuses_the_batch_keeps_the_others_and_takes_again_when_there_is_room(
    small_disk: Path,
) -> None:
    store = store_of(small_disk / "spool")
    seq, error = filled(store)
    folder = small_disk / "spool" / "telemetry"
    assert str(error) == (
        f"spool {folder} cannot be written: No space left on device:"
        " free space on this disk, or lower spool_max_mb"
    )
    assert seq > 300
    assert store.backlog().messages == seq
    assert sum(path.stat().st_size for path in folder.iterdir()) == store.logs["telemetry"].bytes
    alert = Record("ev/v1/f/p/alert", b"{}", 1, "f", "p", 1, 7)
    results = store.append([[twin(seq + i) for i in range(10)], [alert]])
    assert isinstance(results[0], SpoolFull)
    chunk = store.read(500, MB)
    assert chunk is not None
    store.delivered(chunk)
    seqs = [record.seq for record in chunk.records if record.topic.endswith("twin")]
    seqs += drained(store)
    assert seqs == list(range(seq))
    assert store.append([[twin(seq)]]) == [None]
    assert drained(store) == [seq]


def test_a_full_disk_is_no_obstacle_to_a_start(small_disk: Path) -> None:
    store = store_of(small_disk / "spool")
    seq, _ = filled(store)
    with pytest.raises(OSError, match="No space left"):
        (small_disk / "rest").write_bytes(bytes(MB))
    store._lock.release()
    store = store_of(small_disk / "spool")  # as after a crash: nothing was closed
    assert store.backlog().messages == seq
    assert drained(store) == list(range(seq))


def test_a_disk_that_becomes_read_only_is_named_and_what_is_there_can_be_delivered(small_disk: Path) -> None:
    store = store_of(small_disk / "spool")
    assert store.append([[twin(0), twin(1)]]) == [None]
    store.close()
    store = store_of(small_disk / "spool")
    assert mount("-o", "remount,ro", str(small_disk))
    try:
        error = store.append([[twin(2)]])[0]
        assert "Read-only file system: the file system is mounted read-only: look for disk errors" in str(
            error
        )
        store._lock.release()
        again = store_of(small_disk / "spool")
        assert drained(again) == [0, 1]
        assert again.backlog().messages == 0
        again.close()
    finally:
        assert mount("-o", "remount,rw", str(small_disk))
    assert store.append([[twin(2)]]) == [None]
    assert drained(store) == [0, 1, 2]


LIMITED = """
import resource, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from tests.unit import test_spool_disk_full as here

resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
store = here.store_of(Path(sys.argv[1]))
seq, error = here.filled(store)
print(seq, error)
assert store.backlog().messages == seq, store.backlog()
store.close()
"""


def test_a_file_that_must_not_grow_refuses_the_batch_and_the_next_run_finds_the_others(
    tmp_path: Path,
) -> None:
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", LIMITED, str(tmp_path / "spool"), str(root)]
    output = subprocess.run(command, capture_output=True, text=True, check=True, env=dict(os.environ)).stdout
    seq, _, message = output.strip().partition(" ")
    assert message.endswith("File too large: raise the file size limit (ulimit -f) of the service")
    assert int(seq) >= 50
    assert drained(store_of(tmp_path / "spool")) == list(range(int(seq)))
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
