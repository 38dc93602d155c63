"""A folder that only one program may write to: what the second one is told."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from voltflow.folder_lock import FolderInUse, FolderLock
from voltflow.spool.spool import Spool, SpoolOptions
from voltflow.state.state import StateStore

HOLD = """
import sys
from pathlib import Path
from voltflow.folder_lock import FolderLock
FolderLock(Path(sys.argv[1]), "state_dir").take()
print("held", flush=True)
sys.stdin.read()
"""


def holder(folder: Path) -> subprocess.Popen[bytes]:
    """Another program that has the folder, until it is killed."""
    folder.mkdir(parents=True)
    held = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert held.stdout is not None
    assert held.stdout.readline() == b"held\n"
    return held


@pytest.mark.parametrize("what", ["spool", "state"])
def test_a_second_program_is_told_who_has_the_folder(what: str, tmp_path: Path) -> None:
    """Two of them would deliver, thin and delete each other's messages."""
    folder = tmp_path / what
    first = holder(folder)

    async def start() -> None:
        if what == "state":
            state = StateStore(folder)
            await state.open()
            await state.close()
        else:
            spool = Spool(SpoolOptions(folder, 10**6, 3600.0, 10**6))
            await spool.open()
            await spool.close()

    with first:
        with pytest.raises(FolderInUse) as error:
            asyncio.run(start())
        assert str(error.value) == (
            f"'{folder}' is in use by another program (process {first.pid}): stop that one, or give each a state_dir"
            " of its own"
        )
        first.kill()
    asyncio.run(start())  # whoever was killed holds nothing


def test_a_folder_that_takes_no_file_is_used_without_a_lock(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    FolderLock(tmp_path / "missing", "state_dir").take()
    assert "a second program would not be kept out" in caplog.text


def test_a_state_file_is_for_the_eyes_of_its_user_only(tmp_path: Path) -> None:
    async def scenario() -> None:
        state = StateStore(tmp_path / "state")
        state.register("part", lambda: lambda: [b"data"], lambda data: None)
        await state.open()
        await state.close()

    asyncio.run(scenario())
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "state").iterdir()} == {0o600}
