"""What a link remembers of its subscriptions."""

from __future__ import annotations

from pathlib import Path

import pytest

from voltflow.mqtt.session import SessionMemory


def test_a_disk_that_takes_nothing_is_said_and_keeps_nobody_from_the_broker(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    memory = SessionMemory(tmp_path / "file" / "mqtt-b.json")
    memory.remember({"a/#"})
    assert "cannot write" in caplog.text
