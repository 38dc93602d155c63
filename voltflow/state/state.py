"""Durable state: parts of a program's memory, kept in one file at a set period and at a clean end.

A copy of all parts is taken between two batches, in the event loop, and written only when every batch that was under way
at that moment is safe: so the file never holds the effect of a message whose source may still have to send it again.
What was acknowledged after the last copy is missing from it after a crash, and only then: the program is told that it
did not end cleanly, and says so where it matters, instead of taking the old state for the present.

    state = StateStore(folder, period_s=60.0)
    state.register("twins", copy, restore)
    restored = await state.open()           # before the first message
    task = asyncio.create_task(state.run(engine.settled))
    ...
    await state.close()                     # after a clean end
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from voltflow.clock import receive_clock
from voltflow.folder_lock import FolderLock
from voltflow.state import file as state_file
from voltflow.state.file import StateFile

__all__ = ["Restored", "StateCounters", "StateStore"]

log = logging.getLogger(__name__)

DAY_S = 86_400.0
URGENT_LOOK_S = 1.0

Encode = Callable[[], Iterable[bytes]]
"""The second half of a copy, called in another thread: what the first half gathered, as bytes in pieces."""


@dataclass(frozen=True)
class _Part:
    """`copy` is called between two batches and must be quick; what it gathers must not change afterwards."""

    copy: Callable[[], Encode]
    restore: Callable[[bytes], None]
    urgent: Callable[[], int]


@dataclass(frozen=True)
class _Copy:
    """All parts as they were between two batches. Later ones have larger numbers."""

    number: int
    written_ms: int
    taken_s: float
    parts: dict[str, Encode]


@dataclass(frozen=True)
class Restored:
    """What was found at the start. `age_s` is None where the clock cannot tell; `failed` names parts that start empty."""

    clean: bool
    age_s: float | None
    failed: tuple[str, ...] = ()

    def __str__(self) -> str:
        age = "of unknown age" if self.age_s is None else f"from {self.age_s:.0f} s ago"
        return f"{age}, {'clean' if self.clean else 'after a crash'}"


@dataclass
class StateCounters:
    """What was done since the start; the metrics read it."""

    writes: int = 0
    bytes_written: int = 0
    write_s: float = 0.0
    copy_s: float = 0.0
    unchanged: int = 0
    discarded: int = 0
    failures: int = 0
    last_bytes: int = 0


@dataclass
class StateStore:
    """Keeps registered parts in `folder`.

    What one copy costs bounds how often there is one: where `period_s` would write more than `write_budget_mb_per_day`
    (MB of 10^6 bytes) in a day, the period is longer.
    """

    folder: Path
    period_s: float = 60.0
    write_budget_mb_per_day: float = 500.0
    counters: StateCounters = field(default_factory=StateCounters, init=False)
    error: str = field(default="", init=False)
    """Why the last write failed; empty when it did not."""

    # state
    _parts: dict[str, _Part] = field(default_factory=dict, init=False)
    _number: int = field(default=0, init=False)
    _kept_number: int = field(default=0, init=False)
    _kept_digest: bytes = field(default=b"", init=False)
    _as_of_s: float | None = field(default=None, init=False)
    _taken_s: float = field(default=0.0, init=False)
    _urgency: list[int] = field(default_factory=list, init=False)
    _stretch_said: bool = field(default=False, init=False)
    _writing: threading.Lock = field(default_factory=threading.Lock, init=False)
    _lock: FolderLock | None = field(default=None, init=False)

    def register(
        self,
        name: str,
        copy: Callable[[], Encode],
        restore: Callable[[bytes], None],
        urgent: Callable[[], int] = int,
    ) -> None:
        """Add a part before `open`. A number from `urgent` that has changed asks for a copy before its time."""
        self._parts[name] = _Part(copy, restore, urgent)

    @property
    def budget_bytes_per_day(self) -> float:
        return self.write_budget_mb_per_day * 1e6

    @property
    def least_period_s(self) -> float:
        """From copy to copy by the budget alone."""
        return self.counters.last_bytes * DAY_S / self.budget_bytes_per_day

    @property
    def effective_period_s(self) -> float:
        """From copy to copy: the set period, or longer where the budget asks for it."""
        return max(self.period_s, self.least_period_s)

    @property
    def age_s(self) -> float | None:
        """How old the state on disk is; None where there is none, or nobody knows."""
        as_of_s = self._as_of_s
        return None if as_of_s is None else time.monotonic() - as_of_s

    # -- life -------------------------------------------------------------------------------------------------------

    async def open(self) -> Restored | None:
        """Give the parts what is kept and clear the mark of a clean end, durably; None where nothing is kept. Raises
        FolderInUse where another program keeps its state there."""
        self._take_folder()
        found = await asyncio.to_thread(state_file.read, self.folder)
        self._taken_s, self._urgency = time.monotonic(), self._ask_urgency()
        if found is None:
            return None
        state, clean = found
        self._number = self._kept_number = state.number
        age_s = _age_s(state.written_ms)
        self._as_of_s = None if age_s is None else time.monotonic() - age_s
        failed = self._restore(state)
        await asyncio.to_thread(self._leave_start, clean, failed)
        return Restored(clean, age_s, failed)

    def _take_folder(self) -> None:
        """Until the end, of this or of the process."""
        with contextlib.suppress(OSError):  # where it cannot be made the first write says so
            self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = FolderLock(self.folder, "state_dir")
        self._lock.take()

    def _restore(self, state: StateFile) -> tuple[str, ...]:
        failed = []
        for name, part in self._parts.items():
            if name not in state.parts:
                continue
            try:
                part.restore(state.parts[name])
            except Exception:
                log.exception("state of '%s' cannot be restored", name)
                failed.append(name)
        return tuple(failed)

    def _leave_start(self, clean: bool, failed: tuple[str, ...]) -> None:
        """From here on the program changes what it has restored."""
        if failed:
            file = state_file.CLEAN_FILE if clean else state_file.FILE
            state_file.set_aside(self.folder / file, f"its part {' and '.join(failed)} is not understood")
            return
        try:
            state_file.mark(self.folder, clean=False)
        except OSError as error:
            log.error(  # noqa: TRY400 - the message says it all
                "state_dir = '%s' cannot be written: %s; should the program crash before it can, the next start takes it "
                "for a clean end", self.folder, error.strerror or error,
            )  # fmt: skip

    async def run(self, settled: Callable[[], Awaitable[bool]]) -> None:
        """Take and write copies until cancelled. `settled` returns when nothing that is under way at its call is any
        more, and whether all of it is safe. Copies follow one another, so an older one never replaces a newer one."""
        while True:
            try:
                await self._wait_until_due()
                copy = self._take()
                if copy is None:
                    continue
                if await settled():
                    await asyncio.to_thread(self._keep, copy, clean=False)
                else:  # its messages come again, so the copy is worth nothing
                    self.counters.discarded += 1
            except Exception as error:  # noqa: BLE001 - without this task no state would be written any more, unseen
                self._failed(error)
                await asyncio.sleep(URGENT_LOOK_S)

    async def close(self) -> None:
        """Write the last copy and mark it as that of a clean end: nothing may be under way any more."""
        if (copy := self._take()) is not None:
            await asyncio.to_thread(self._keep, copy, clean=True)
        if self._lock is not None:
            self._lock.release()

    async def _wait_until_due(self) -> None:
        while (waited_s := time.monotonic() - self._taken_s) < self.effective_period_s:
            if self._ask_urgency() != self._urgency and waited_s >= self.least_period_s:
                return
            await asyncio.sleep(min(self.effective_period_s - waited_s, URGENT_LOOK_S))

    def _ask_urgency(self) -> list[int]:
        return [part.urgent() for part in self._parts.values()]

    # -- a copy -----------------------------------------------------------------------------------------------------

    def _take(self) -> _Copy | None:
        self._number += 1
        self._taken_s = taken_s = time.monotonic()
        self._urgency = self._ask_urgency()
        try:
            parts = {name: part.copy() for name, part in self._parts.items()}
        except Exception as error:  # noqa: BLE001 - the flow goes on, and the next copy may be one
            self._failed(error)
            return None
        self.counters.copy_s += time.monotonic() - taken_s
        return _Copy(self._number, receive_clock.now_ms(), taken_s, parts)

    def _keep(self, copy: _Copy, *, clean: bool) -> None:
        """In a thread. The lock and the number are for the end, which does not wait for a write under way."""
        with self._writing:
            if copy.number <= self._kept_number:
                return
            started_s = time.monotonic()
            try:
                self._write(copy, clean)
            except Exception as error:  # noqa: BLE001 - whatever goes wrong, the flow goes on and the next copy may be kept
                self._failed(error)
            else:
                self._kept_number, self._as_of_s = copy.number, copy.taken_s
                if self.error:
                    log.info("state is written again to '%s'", self.folder)
                self.error = ""
            self.counters.write_s += time.monotonic() - started_s
        self._say_stretched()

    def _write(self, copy: _Copy, clean: bool) -> None:
        parts = {name: encode() for name, encode in copy.parts.items()}
        data, digest = state_file.dump(copy.number, copy.written_ms, parts)
        if digest == self._kept_digest:
            self.counters.unchanged += 1
            state_file.mark(self.folder, clean=clean)
            return
        self.counters.last_bytes = len(data)
        state_file.write(self.folder, data, clean=clean)
        self.counters.writes += 1
        self.counters.bytes_written += len(data)
        self._kept_digest = digest

    def _failed(self, error: Exception) -> None:
        self.counters.failures += 1
        reason = getattr(error, "strerror", None) or repr(error)
        if reason != self.error:
            log.error("state cannot be written to state_dir = '%s': %s; it is tried again every %.0f s, a crash would "
                      "lose what is newer than the last one", self.folder, reason, self.effective_period_s,
                      exc_info=None if isinstance(error, OSError) else error)  # fmt: skip
        self.error = reason

    def _say_stretched(self) -> None:
        if self._stretch_said or self.least_period_s <= self.period_s:
            return
        self._stretch_said = True
        megabytes = self.counters.last_bytes / 1e6
        log.warning(
            "state of %.1f MB every %g s would be %.0f MB a day: it is written every %.0f s, as "
            "disk_write_budget_mb_per_day = %g allows; raise that where the disk can take it",
            megabytes, self.period_s, megabytes * DAY_S / self.period_s, self.effective_period_s,
            self.write_budget_mb_per_day,
        )  # fmt: skip


def _age_s(written_ms: int) -> float | None:
    """None where the time was not known then or is not now."""
    now_ms = receive_clock.now_ms()
    return (now_ms - written_ms) / 1000 if 0 < written_ms <= now_ms else None
