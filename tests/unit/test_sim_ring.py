"""The ring of what a device published: what is in it is exact, what is too old or never was is not there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sim_device.ring import SLOT_BYTES, Ring


def payload(pack: int, seq: int, size: int = 850) -> bytes:
    return f'{{"pack":{pack},"seq":{seq},'.encode().ljust(size, b"x")


def test_last_messages_of_each_pack_are_there_and_older_ones_not() -> None:
    ring = Ring(packs=3, messages=10, max_mb=1.0)
    for seq in range(25):
        for pack in range(3):
            ring.keep(pack, seq, payload(pack, seq))
    for pack in range(3):
        kept = {seq: ring.get(pack, seq) for seq in range(30)}
        assert kept == {seq: payload(pack, seq) if 15 <= seq < 25 else None for seq in range(30)}
    ring.close()


def test_empty_slot_is_no_message() -> None:
    """Seq 0 and a slot of zeros look alike but for the length."""
    ring = Ring(packs=2, messages=5, max_mb=1.0)
    ring.keep(1, 0, payload(1, 0))
    assert [ring.get(0, 0), ring.get(1, 0), ring.get(1, 3)] == [None, payload(1, 0), None]
    ring.close()


def test_long_message_is_compressed_and_an_incompressible_one_is_counted() -> None:
    ring = Ring(packs=1, messages=5, max_mb=1.0)
    noise = os.urandom(2 * SLOT_BYTES)
    ring.keep(0, 0, payload(0, 0, size=3000))
    ring.keep(0, 1, noise)
    assert ring.get(0, 0) == payload(0, 0, size=3000)
    assert ring.get(0, 1) is None
    assert ring.too_long == 1
    ring.close()


@pytest.mark.parametrize(
    ("messages", "max_mb", "kept"),
    [(86_400, 512.0, 50_000), (100, 512.0, 100), (0, 512.0, 0), (100, 0.0, 0)],
    ids=["disk is short", "disk is enough", "off by messages", "off by disk"],
)
def test_packs_share_the_disk(messages: int, max_mb: float, kept: int) -> None:
    ring = Ring(packs=10, messages=messages, max_mb=max_mb)
    ring.keep(0, 0, payload(0, 0))
    assert ring.messages == kept
    assert (ring.get(0, 0) is not None) == bool(kept)
    ring.close()


def test_failing_disk_ends_the_ring_and_not_the_device(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """/dev/full answers every write as a full disk does."""
    ring = Ring(packs=1, messages=5, max_mb=1.0)
    ring.keep(0, 0, payload(0, 0))
    assert ring._file is not None
    full = os.open("/dev/full", os.O_RDWR)
    os.dup2(full, ring._file.fileno())
    os.close(full)
    ring.keep(0, 1, payload(0, 1))
    ring.keep(0, 2, payload(0, 2))
    assert [record.message for record in caplog.records] == [
        "nothing is kept for replay any more: [Errno 28] No space left on device (settings ring_messages, ring_max_mb)"
    ]
    assert ring.get(0, 1) is None


def test_folder_that_is_not_there_ends_the_ring(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(Path("/nowhere")))
    ring = Ring(packs=1, messages=5, max_mb=1.0)
    ring.keep(0, 0, payload(0, 0))
    assert "nothing is kept for replay any more: [Errno 2]" in caplog.text
