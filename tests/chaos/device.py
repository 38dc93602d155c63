"""`sim-device` that writes down what it publishes, before it publishes it: `python -m tests.chaos.device FOLDER run …`.

That is the witness of the chaos: what the programs under test say and store is compared with it. The files
`published-000000` and so on have a message (JSON) in each line; a reader may remove a file once the next one is there.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from sim_device import cli, options, publish, run

FILE_BYTES = 8 << 20
KEEPALIVE_S = 2


class Recorder:
    """Appends lines to numbered files."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._number, self._written = folder, 0, 0
        self._fd = self._open()

    def _open(self) -> int:
        path = self._folder / f"published-{self._number:06d}"
        return os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND)

    def write(self, line: bytes) -> None:
        self._written += os.write(self._fd, line + b"\n")
        if self._written > FILE_BYTES:
            os.close(self._fd)
            self._number, self._written = self._number + 1, 0
            self._fd = self._open()


def main(arguments: list[str]) -> int:
    recorder = Recorder(Path(arguments[0]))
    plain: Callable[..., None] = publish.Outbox.publish

    def recorded(outbox: publish.Outbox, pack: int, payload: bytes) -> None:
        recorder.write(payload)
        plain(outbox, pack, payload)

    publish.Outbox.publish = recorded  # type: ignore[method-assign,assignment]
    run.broker = lambda settings: replace(options.broker(settings), keepalive_s=KEEPALIVE_S)  # type: ignore[attr-defined]
    return cli.main(arguments[1:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
