"""A check and what it finds; `run` does several, each within its time, and none of them ends the others.

>>> check = Check("answer", "the answer", lambda: [ok("it is 42"), warning("nobody asked", "ask")])
>>> [(result.status, result.findings[1].text) for result in run([check])]
[('warning', 'nobody asked')]
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

Status = Literal["ok", "warning", "problem", "skipped"]
WORST_LAST: tuple[Status, ...] = ("skipped", "ok", "warning", "problem")
LIMIT_S = 20.0


@dataclass(frozen=True)
class Finding:
    """One thing that a check says; `fix` is what mends it: the setting, the command."""

    status: Status
    text: str
    fix: str = ""


def ok(text: str) -> Finding:
    return Finding("ok", text)


def warning(text: str, fix: str) -> Finding:
    return Finding("warning", text, fix)


def problem(text: str, fix: str) -> Finding:
    return Finding("problem", text, fix)


def skipped(text: str, fix: str = "") -> Finding:
    return Finding("skipped", text, fix)


@dataclass(frozen=True)
class Check:
    """`look` finds out, in a thread of its own, in `limit_s` seconds at most; what it raises is a problem, too."""

    name: str
    title: str
    look: Callable[[], Iterable[Finding]]
    limit_s: float = LIMIT_S


@dataclass(frozen=True)
class Result:
    """What a check found; its status is that of the worst."""

    check: str
    title: str
    findings: Sequence[Finding]
    took_s: float
    program: str = ""

    @property
    def status(self) -> Status:
        return max((finding.status for finding in self.findings), key=WORST_LAST.index, default="skipped")


@dataclass
class _Look:
    """A check under way; what it has found so far is kept when its time is over."""

    check: Check
    findings: list[Finding] = field(default_factory=list)
    done: threading.Event = field(default_factory=threading.Event)

    def __call__(self) -> None:
        try:
            for finding in self.check.look():
                self.findings.append(finding)
        except Exception as error:  # noqa: BLE001 - a doctor that falls ill tells of it and goes on
            self.findings.append(
                problem(
                    f"this could not be found out: {type(error).__name__}: {error}",
                    "if the text does not say why, send the support bundle to whoever looks after Voltflow",
                )
            )
        finally:
            self.done.set()


def run(checks: Iterable[Check], program: str = "") -> Iterator[Result]:
    """Each check's result as it is known, in their order.

    A check that takes too long is a problem; its thread is left behind and ends with the process.
    """
    for check in checks:
        look, started = _Look(check), time.monotonic()
        threading.Thread(target=look, name=f"doctor: {check.name}", daemon=True).start()
        in_time = look.done.wait(check.limit_s)
        findings = list(look.findings)
        if not in_time:
            late = f"no answer within {check.limit_s:g} s"
            findings.append(
                problem(late, "what it asks is overloaded or cut off: look at the network, the disk, its log")
            )
        yield Result(check.name, check.title, findings or [skipped("nothing to look at")],
                     round(time.monotonic() - started, 3), program)  # fmt: skip


def exit_code(results: Iterable[Result]) -> int:
    """0 when nothing is wrong, 1 for warnings, 2 for problems."""
    statuses = {result.status for result in results}
    return 2 if "problem" in statuses else 1 if "warning" in statuses else 0
