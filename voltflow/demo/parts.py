"""A part of the demo: a program of its own with a log, which ends when the demo ends, however that ends."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import re
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

TAIL_LINES = 15
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None

ERROR_LINE = re.compile(
    r'\b(ERROR|CRITICAL|PANIC)\b|^\{.*?"level":"(error|critical)"|^Traceback \(most recent call last\)|panicked at'
)
"""What a log line must not contain: "no error in the logs"."""


class PartFailedError(Exception):
    """A part ended by itself or did not start; the message shows its last lines."""


class Part:
    """One program. `start` it, `stop` it; `ended` is done when it has ended, whoever ended it.

    `clean` are the exit codes of a good end after SIGTERM; what the program prints goes to `log`, its standard output
    to `output` where it is wanted for itself.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        log: Path,
        *,
        env: Mapping[str, str],
        output: Path | None = None,
        clean: Sequence[int] = (0,),
    ) -> None:
        self.name = name
        self.command = list(command)
        self.log = log
        self.output = output
        self._env = dict(env)
        self._clean = clean
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = False

    async def start(self, *, again: bool = False) -> None:
        """Start the program in a session of its own: a Ctrl-C at the terminal is for the demo alone. `again`: after it has
        ended, with the log that it has."""
        self._stopping = False
        with (
            self.log.open("ab" if again else "wb") as log,
            (self.output or self.log).open("wb" if self.output else "ab") as out,
        ):
            self._process = await asyncio.create_subprocess_exec(
                *self.command, stdin=asyncio.subprocess.DEVNULL, stdout=out, stderr=log, env=self._env,
                start_new_session=True, preexec_fn=_end_with_parent if _LIBC else None,
            )  # fmt: skip

    @property
    def pid(self) -> int:
        assert self._process is not None, "not started"
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def ended(self) -> None:
        """Wait until the program ends; raises PartFailedError when nobody told it to."""
        assert self._process is not None, "not started"
        code = await self._process.wait()
        if not self._stopping:
            raise PartFailedError(self._story(f"ended by itself with exit code {code}"))

    async def stop(self, timeout_s: float = 20.0) -> str:
        """Tell the program to end and wait; empty when it ended well, else what was wrong."""
        if self._process is None or (not self.running and self._stopping):
            return ""
        self._stopping = True
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(timeout_s):
                code = await self._process.wait()
        except TimeoutError:
            self.kill()
            await self._process.wait()
            return f"{self.name} did not end within {timeout_s:g} s and was killed"
        return "" if code in self._clean else self._story(f"ended with exit code {code}")

    def kill(self) -> None:
        """End the program and what it started at once."""
        self._stopping = True
        if self.running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)

    def rss_mb(self) -> float | None:
        """Memory in use now (resident set), in MB of 10⁶ bytes."""
        try:
            pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        except (OSError, AssertionError):
            return None
        return round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, 1)

    def errors(self) -> Iterator[str]:
        """The lines of its log that report an error."""
        yield from error_lines(self.log)

    def _story(self, what: str) -> str:
        lines = _text(self.log).splitlines()[-TAIL_LINES:]
        last = "\n  ".join(lines) if lines else "(nothing)"
        return f"{self.name} {what}; its last lines, from {self.log}:\n  {last}"


def error_lines(log: Path, start_byte: int = 0) -> Iterator[str]:
    """The lines of a log from `start_byte` that report an error."""
    for line in _text(log, start_byte).splitlines():
        if ERROR_LINE.search(line):
            yield line


def _text(path: Path, start_byte: int = 0) -> str:
    try:
        with path.open("rb") as file:
            file.seek(start_byte)
            return file.read().decode(errors="replace")
    except OSError:
        return ""


def _end_with_parent() -> None:
    """In the child before exec: the kernel sends it SIGTERM when the demo is gone, by `kill -9` too."""
    assert _LIBC is not None
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
