"""Where the chaos' programs run, and what can be done to each: start, kill, freeze, look at."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, TypeVar

import psutil

from tests import programs, servers

Place = Callable[[], AbstractContextManager[None]]
"""Puts the calling thread into a network namespace, or leaves it where it is (`contextlib.nullcontext`)."""

T = TypeVar("T")


class Member:
    """A program of the house, by the name the report uses; `server` is of `tests.servers` or `tests.programs`."""

    def __init__(self, name: str, server: servers.Server, place: Place) -> None:
        self.name, self.server, self.place = name, server, place
        self.starts = 0

    def launch(self) -> None:
        """Start it where it belongs, and do not wait."""
        with self.place():
            self.server.launch()
        self.starts += 1

    def kill(self) -> int:
        """End it as a crash would; the exit code, -9 where the kill is what ended it."""
        self.server.kill()
        assert self.server.exit_code is not None
        return self.server.exit_code

    def stop(self) -> None:
        self.server.stop()

    def freeze(self) -> str:
        """Stop it without its knowledge; what the kernel says of it then."""
        self.server.pause()
        return servers.wait_until(lambda: _stopped(self.server.pid), f"{self.name} to be stopped")  # type: ignore[no-any-return]

    def thaw(self) -> None:
        self.server.resume()

    def ready(self) -> bool:
        """Whether it runs and is connected; raises when it ended by itself."""
        self.check_alive()
        try:
            return bool(self.here(self.server.is_ready))
        except (OSError, ValueError):
            return False

    def check_alive(self) -> None:
        process = self.server.process
        if process is None:
            raise AssertionError(f"{self.name} is not running")
        if process.poll() is not None:
            raise AssertionError(f"{self.name} ended by itself with {process.returncode}")

    def here(self, ask: Callable[[], T]) -> T:
        """Call something from where the program is."""
        with self.place():
            return ask()

    @property
    def rss_mb(self) -> float:
        return float(psutil.Process(self.server.pid).memory_info().rss) / 1e6

    @property
    def log(self) -> str:
        return self.server.log

    def close(self) -> None:
        with contextlib.suppress(AssertionError):
            self.server.kill()

    def log_file(self) -> Path:
        return self.server.folder / "log"


def _stopped(pid: int) -> str:
    state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    return f"state {state}" if state == "T" else ""


class Database(Member):
    """PostgreSQL, which is several processes and reached through a Unix socket, the same from every place."""

    def __init__(self, server: servers.Postgres) -> None:
        super().__init__("database", server, contextlib.nullcontext)  # type: ignore[arg-type]
        self.postgres = server

    def launch(self) -> None:
        self.postgres.start()
        self.starts += 1

    def kill(self) -> int:
        self.postgres.kill()
        return -signal.SIGKILL

    def stop(self) -> None:
        self.postgres.stop()

    def freeze(self) -> str:
        for process in self._family():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.suspend()
        return str(servers.wait_until(lambda: _stopped(self.postgres.pid), "the database to be stopped"))

    def thaw(self) -> None:
        for process in self._family():
            with contextlib.suppress(psutil.NoSuchProcess):  # a backend whose client has gone
                process.resume()

    def ready(self) -> bool:
        import psycopg2

        try:
            with contextlib.closing(psycopg2.connect(self.postgres.dsn, connect_timeout=2)):
                return True
        except psycopg2.OperationalError:
            return False

    def check_alive(self) -> None:
        assert psutil.pid_exists(self.postgres.pid), "the database ended by itself"

    def dsn(self, name: str) -> str:
        return str(self.postgres._server.get_uri(database=name))

    def _family(self) -> list[psutil.Process]:
        head = psutil.Process(self.postgres.pid)
        return [head, *head.children(recursive=True)]

    @property
    def log(self) -> str:
        return self.log_file().read_text(errors="replace")

    def log_file(self) -> Path:
        return self.postgres.folder / "data" / "log"

    def close(self) -> None:
        self.thaw()
        self.postgres.stop()


class Device(programs.Program):
    """The fleet, with its witness (`tests.chaos.device`)."""

    module = "tests.chaos.device"

    def __init__(self, host: str, port: int, *arguments: str) -> None:
        super().__init__("--host", host, "--port", str(port), *arguments)
        self.witness = self.folder / "published"
        self.witness.mkdir()

    def command(self) -> list[str]:
        env, *rest = super().command()
        before, after = rest[: rest.index("run")], rest[rest.index("run") :]
        return [env, f"PYTHONPATH={servers.REPOSITORY}", *before, str(self.witness), *after]

    def is_ready(self) -> bool:
        return any(path.stat().st_size for path in self.witness.iterdir())


class Agent(programs.Agent):
    """An agent whose clock can be moved (libfaketime); ready when it is connected to both brokers."""

    def __init__(self, *arguments: Any, clock: Path | None = None) -> None:
        super().__init__(*arguments)
        self.clock = clock
        if clock is not None:
            self.environment |= fake_clock(clock)


def fake_clock(offset_file: Path) -> dict[str, str]:
    """The environment in which a program's wall clock is off by what the file says (`+3600`); its timers are not."""
    found = list(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    if not found:
        raise servers.Missing("libfaketime is not installed: sudo apt-get install faketime")
    return {
        "LD_PRELOAD": str(found[0]), "FAKETIME_TIMESTAMP_FILE": str(offset_file), "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1", "FAKETIME_DONT_RESET": "1", "FAKETIME_FORCE_MONOTONIC_FIX": "0",
    }  # fmt: skip


def terminate(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
