"""The machine below a program: folders and disk, clock, versions, ports, its service."""

from __future__ import annotations

import contextlib
import errno
import importlib.metadata
import os
import platform
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from voltflow import __version__, release
from voltflow.access import address_of
from voltflow.clock import RELEASED_MS, kernel_synchronised
from voltflow.doctor.checks import Check, Finding, ok, problem, skipped, warning

LEAST_FREE_MB = 50.0
_SAY = "date -u; timedatectl; at a gateway without network time a clock module"


# -- folders ------------------------------------------------------------------------------------------------------


def folder(setting: str, path: Path, needs_mb: float = 0.0) -> Iterator[Finding]:
    """Whether a folder can be written to, really, and has room for `needs_mb` more."""
    there = next((place for place in (path, *path.absolute().parents) if place.exists()), Path("/"))
    name = f"{setting} = '{path}'"
    if not there.is_dir():
        yield problem(f"{name}: '{there}' is no folder", f"set {setting} to a folder")
        return
    try:
        with tempfile.NamedTemporaryFile(prefix=".voltflow-doctor-", dir=there) as probe:
            probe.write(b"\0" * 4096)
            probe.flush()
            os.fsync(probe.fileno())
    except OSError as error:
        yield _unwritable(name, setting, there, error)
        return
    free_mb, inodes = shutil.disk_usage(there).free / 1e6, os.statvfs(there)
    will = "" if there == path else " (it will be made)"
    if free_mb < LEAST_FREE_MB:
        yield problem(f"{name}: only {free_mb:.0f} MB are free", f"df -h '{there}'; delete something there")
    elif inodes.f_files and inodes.f_favail < 1000:
        yield problem(f"{name}: only {inodes.f_favail} more files fit (inodes)", f"df -i '{there}'")
    elif free_mb < needs_mb:
        yield warning(f"{name}: {free_mb:,.0f} MB are free, it may need {needs_mb:,.0f} MB (spool_max_mb, "
                      "spool_protected_mb)", f"df -h '{there}'; or a smaller spool_max_mb")  # fmt: skip
    else:
        yield ok(f"{name} can be written{will}, {free_mb:,.0f} MB are free")
    if there == path:
        yield from _of_others(name, path)


def _of_others(name: str, folder_: Path) -> Iterator[Finding]:
    """Files in a folder that are not its owner's: of a command that was run as root, for instance."""
    owner, found = folder_.stat().st_uid, []
    for path in sorted(folder_.iterdir()):
        with contextlib.suppress(OSError):  # it may be gone by now
            if path.lstat().st_uid != owner:
                found.append(path.name)
    if found:
        user = _user_name(owner)
        yield warning(
            f"{name} belongs to {user!r}, {', '.join(found[:3])} in it to somebody else: the service may not write there",
            f"sudo chown -R {user} '{folder_}'; run commands that write there as that user",
        )


def _unwritable(name: str, setting: str, there: Path, error: OSError) -> Finding:
    if error.errno == errno.EROFS:
        return problem(f"{name}: the disk is read-only; an SD card goes so when it fails",
                       f"dmesg | tail; findmnt -T '{there}'; mount -o remount,rw, or a new card")  # fmt: skip
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return problem(f"{name}: the disk is full", f"df -h '{there}'; delete something there")
    if error.errno in (errno.EACCES, errno.EPERM):
        user = _user_name(os.geteuid())
        return problem(f"{name}: the user {user!r} may not write in '{there}'",
                       f"sudo chown -R {user} '{there}', or run the doctor as the user of the service")  # fmt: skip
    return problem(f"{name}: cannot be written: {error.strerror}", f"dmesg | tail; another {setting}")


def _user_name(uid: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


# -- clock --------------------------------------------------------------------------------------------------------


def clock() -> Check:
    def look() -> Iterator[Finding]:
        now_s = time.time()
        shown = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now_s))
        if now_s * 1000 < RELEASED_MS:
            yield problem(
                f"it says {shown}, before this software was released; receive times are null",
                f"set it: {_SAY}",
            )
            return
        if (built_s := _newest_file_s()) > now_s + 86400:
            built = time.strftime("%Y-%m-%d", time.gmtime(built_s))
            yield problem(f"it says {shown}, but Voltflow was installed on {built}", f"set it: {_SAY}")
        match kernel_synchronised():
            case True:
                yield ok(f"it says {shown} and is synchronised")
            case False:
                yield warning(f"it says {shown} and is not synchronised", f"network time: {_SAY}")
            case None:
                yield ok(f"it says {shown}; whether it is synchronised the kernel does not tell")

    return Check("clock", "this machine's clock", look)


def _newest_file_s() -> float:
    return max((path.stat().st_mtime for path in Path(__file__).parent.glob("*.py")), default=0.0)


# -- versions -----------------------------------------------------------------------------------------------------


def versions(extra: str, more: Callable[[], Iterable[Finding]] = tuple) -> Check:
    """Python and the packages of an extra of setup.cfg (`edge`, `cloud`) against their ranges."""

    def look() -> Iterator[Finding]:
        yield ok(f"voltflow {__version__}, Python {platform.python_version()}, {platform.platform()}")
        wrong = list(_wrong_packages(extra))
        yield from wrong
        if not wrong:
            yield ok(f"the packages of voltflow[{extra}] are installed in versions that fit")
        yield from more()

    return Check("versions", "versions and files", look)


_REQUIREMENT = re.compile(r"([A-Za-z0-9_.-]+)(?:\[[^\]]*\])?\s*\(?([^;)]*)\)?\s*(?:;\s*(.*))?")


def _wrong_packages(extra: str) -> Iterator[Finding]:
    mend = f"pip install 'voltflow[{extra}]'"
    try:
        requirements = importlib.metadata.requires("voltflow") or []
    except importlib.metadata.PackageNotFoundError:
        yield problem("voltflow is not installed here as a package", mend)
        return
    for text in requirements:
        match = _REQUIREMENT.match(text)
        if match is None or (
            "extra ==" in (match[3] or "") and f"'{extra}'" not in match[3].replace('"', "'")
        ):
            continue
        try:
            found = importlib.metadata.version(match[1])
        except importlib.metadata.PackageNotFoundError:
            yield problem(f"{match[1]} is not installed", mend)
            continue
        if not fits(found, match[2]):
            yield problem(f"{match[1]} is {found}, needed is {match[2].strip()}", mend)


def fits(version: str, wanted: str) -> bool:
    """Whether a version is within a range such as setup.cfg has.

    >>> [
    ...     fits("0.8.1", ">=0.7,<0.9"),
    ...     fits("0.9", ">=0.7,<0.9"),
    ...     fits("5", "==5.0"),
    ...     fits("1.2", ""),
    ...     fits("2.1rc1", ">=2.1"),
    ... ]
    [True, False, True, True, True]
    """
    compare: dict[str, Callable[[int], bool]] = {
        ">=": lambda order: order >= 0, "<=": lambda order: order <= 0, "==": lambda order: order == 0,
        "!=": lambda order: order != 0, ">": lambda order: order > 0, "<": lambda order: order < 0,
    }  # fmt: skip
    for sign, limit in re.findall(r"(>=|<=|==|!=|>|<)\s*([0-9][^,\s]*)", wanted):
        one, other = release.numbers(version), release.numbers(limit)
        width = max(len(one), len(other))
        padded = [numbers + (0,) * (width - len(numbers)) for numbers in (one, other)]
        if not compare[sign]((padded[0] > padded[1]) - (padded[0] < padded[1])):
            return False
    return True


# -- ports --------------------------------------------------------------------------------------------------------


def port(setting: str, host: str, number: int, own: Sequence[str]) -> Iterator[Finding]:
    """Whether a port is free, or taken by the program itself (`own`: words in the command line of its process)."""
    name = f"{setting} = {number}"
    prefix = setting.rpartition("_")[0]
    try:
        family, address = address_of(host, number)
    except OSError as error:
        yield problem(
            f"{prefix}_host = '{host}' is no address of this machine: {error.strerror}", f"set {prefix}_host"
        )
        return
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, number))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                yield _taken(name, setting, number, own)
            elif error.errno == errno.EACCES:
                yield problem(f"{name}: ports below 1024 are root's", f"set {setting} to a larger one")
            else:
                yield problem(
                    f"{name} at {host}: {error.strerror}", f"set {prefix}_host to an address of this machine"
                )
            return
    yield ok(f"{name} is free")


def _taken(name: str, setting: str, number: int, own: Sequence[str]) -> Finding:
    holder = next(_holders(number), None)
    if holder is None:
        return warning(
            f"{name} is taken, by whom is not to be seen", f"sudo ss -ltnp 'sport = :{number}' tells"
        )
    pid, command = holder
    if any(word in command for word in own):
        return ok(f"{name} is that of the program, which runs (process {pid})")
    return problem(
        f"{name} is taken by process {pid}: {command[:80]}", f"stop that one, or set {setting} to another"
    )


def _holders(number: int) -> Iterator[tuple[int, str]]:
    """Process and command line of whoever listens on a TCP port, as far as this user may see."""
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == number:
                    inodes.add(f"socket:[{fields[9]}]")
    for folder_ in Path("/proc").glob("[0-9]*") if inodes else ():
        with contextlib.suppress(OSError):
            if any(os.readlink(fd) in inodes for fd in (folder_ / "fd").iterdir()):  # noqa: PTH115 - no path, a socket
                command = (
                    (folder_ / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                )
                yield int(folder_.name), command


# -- its service --------------------------------------------------------------------------------------------------


def unit(name: str) -> Check:
    """How systemd sees the program."""

    def look() -> Iterator[Finding]:
        found = _systemctl(name)
        if found is None:
            yield skipped("there is no systemd here")
            return
        if found.get("LoadState") == "not-found":
            yield skipped(f"there is no unit {name}", "docs/raspberry-pi.md says how to install it")
            return
        state, restarts = (
            f"{found.get('ActiveState')} ({found.get('SubState')})",
            int(found.get("NRestarts") or 0),
        )
        if found.get("ActiveState") == "failed" or found.get("SubState") == "auto-restart":
            yield problem(f"{name} is {state}: {found.get('Result')}", f"journalctl -u {name} -n 50")
        elif found.get("ActiveState") != "active":
            yield warning(f"{name} is {state}", f"sudo systemctl enable --now {name}")
        elif restarts:
            yield warning(
                f"{name} is {state} and was restarted {restarts} times",
                f"journalctl -u {name} | grep -i error",
            )
        else:
            yield ok(f"{name} is {state}")

    return Check("service", "its service", look)


def _systemctl(name: str) -> dict[str, str] | None:
    shown = "LoadState,ActiveState,SubState,NRestarts,Result"
    try:
        done = subprocess.run(["systemctl", "show", name, "-p", shown], check=False, capture_output=True, text=True,
                              timeout=10)  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = dict(line.partition("=")[::2] for line in done.stdout.splitlines())
    return lines if done.returncode == 0 and "LoadState" in lines else None
