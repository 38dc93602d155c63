"""Networks of our own for the chaos: namespaces joined by links that delay, lose, double, reorder, limit and cut.

A `Namespace` has a loopback of its own and is left by nothing but its links, so the addresses cannot meet those of the
machine. `with namespace.inside():` puts the calling thread there: what it starts and what it connects belongs to it.
A link is a pair of TUN devices and a router in user space between them (`router.py`).
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import re
import struct
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

from tests import servers
from tests.chaos.router import Counters, Rules

PREFIX = "voltflow-chaos"
FOLDER = Path("/run/netns")
MTU_BYTES = 1400
_CLONE_NEWNET = 0x40000000
_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
_libc = ctypes.CDLL(None, use_errno=True)


def why_not() -> str:
    """Why no network of our own can be made here; empty when it can."""
    if os.geteuid() != 0:
        return "network faults need root (network namespaces)"
    if not Path("/dev/net/tun").exists():
        return "network faults need /dev/net/tun: modprobe tun"
    try:
        servers.program("ip", "iproute2")
    except servers.Missing as reason:
        return f"network faults are not possible: {reason}"
    trial = subprocess.run(["ip", "netns", "add", f"{PREFIX}-{os.getpid()}-trial"], check=False,
                           capture_output=True, text=True)  # fmt: skip
    if trial.returncode:
        return f"network namespaces cannot be made here: {trial.stderr.strip()}"
    subprocess.run(["ip", "netns", "del", f"{PREFIX}-{os.getpid()}-trial"], check=True)
    return ""


class Namespace:
    """A network namespace; gone at `close`."""

    def __init__(self, name: str) -> None:
        self.name = f"{PREFIX}-{os.getpid()}-{name}"
        subprocess.run(["ip", "netns", "add", self.name], check=True)
        self._fd = os.open(FOLDER / self.name, os.O_RDONLY)
        self.run("ip", "link", "set", "lo", "up")

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """The calling thread is in this namespace while the block runs."""
        with Path("/proc/thread-self/ns/net").open("rb") as home:
            _enter(self._fd)
            try:
                yield
            finally:
                _enter(home.fileno())

    def run(self, *command: str) -> None:
        with self.inside():
            subprocess.run(command, check=True)

    def tun(self, device: str, address: str, peer: str) -> int:
        """Make a TUN device with an address for the other end's; returns what packets are read from and written to."""
        with self.inside():
            fd = os.open("/dev/net/tun", os.O_RDWR)
            fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", device.encode(), _IFF_TUN | _IFF_NO_PI))
        self.run("ip", "address", "add", address, "peer", peer, "dev", device)
        # A router that gets no CPU for a while is to lose nothing by itself, so the queue to it is long.
        self.run(
            "ip",
            "link",
            "set",
            device,
            "mtu",
            str(MTU_BYTES),
            "txqueuelen",
            "20000",
            "addrgenmode",
            "none",
            "up",
        )
        return fd

    def close(self) -> None:
        os.close(self._fd)
        subprocess.run(["ip", "netns", "del", self.name], check=False, capture_output=True)


def _enter(fd: int) -> None:
    if _libc.setns(fd, _CLONE_NEWNET):
        error = ctypes.get_errno()
        raise OSError(error, f"cannot enter the network namespace: {os.strerror(error)}")


class Link:
    """A connection of two namespaces: `first` and `second` are the addresses of its ends."""

    def __init__(self, name: str, first: str, second: str, network: Network) -> None:
        self.name, self.first, self.second = name, first, second
        self._network = network

    def impair(self, **rules: float) -> None:
        """From now on packets are treated so (`router.Rules`): delay_ms, loss, duplicate, reorder, rate_kbps."""
        self._network.ask(self.name, asdict(Rules(**rules)))  # type: ignore[arg-type]

    def cut(self) -> None:
        """Nothing passes any more; nobody is told."""
        self._network.ask(self.name, asdict(Rules(cut=True)))

    def heal(self) -> None:
        self._network.ask(self.name, asdict(Rules()))

    @property
    def counters(self) -> Counters:
        return self._network.ask(self.name, {})


class Network:
    """Namespaces and links of one run: `with Network(seed=1) as net: a = net.namespace("a"); net.link("l", a, b)`."""

    def __init__(self, seed: int = 1) -> None:
        self._seed = seed
        self._namespaces: list[Namespace] = []
        self._ends: dict[str, tuple[int, int]] = {}
        self._router: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        remove_stale()
        return self

    def __exit__(self, *_: object) -> None:
        if self._router is not None:
            self._router.communicate()  # its standard input ends, and with it the router
        for end in (end for pair in self._ends.values() for end in pair):
            os.close(end)
        for namespace in self._namespaces:
            namespace.close()

    def namespace(self, name: str) -> Namespace:
        self._namespaces.append(Namespace(name))
        return self._namespaces[-1]

    def link(self, name: str, first: Namespace, second: Namespace) -> Link:
        """Join two namespaces; before `start`."""
        net = f"10.231.{len(self._ends) + 1}"
        a, b = f"{net}.1", f"{net}.2"
        self._ends[name] = (first.tun(f"to-{name}"[:15], a, b), second.tun(f"to-{name}"[:15], b, a))
        return Link(name, a, b, self)

    def start(self) -> None:
        """Start the router: from here on packets pass."""
        pairs = [f"{name}:{first}:{second}" for name, (first, second) in self._ends.items()]
        # A program of its own, not a thread: it is to answer in time while the checks compute.
        command = [sys.executable, "-m", "tests.chaos.router", str(self._seed), *pairs]
        self._router = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "--", *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            text=True, cwd=servers.REPOSITORY, pass_fds=[end for pair in self._ends.values() for end in pair],
        )  # fmt: skip
        for name in self._ends:
            self.ask(name, {})

    def ask(self, name: str, rules: dict[str, Any]) -> Counters:
        """Give a link new rules (none: leave them) and return its counters; what was sent before was obeyed."""
        router = self._router
        assert router is not None, "the network was not started"
        assert router.stdin is not None
        assert router.stdout is not None
        router.stdin.write(json.dumps({"name": name, **rules}) + "\n")
        router.stdin.flush()
        answer = router.stdout.readline()
        if not answer:
            raise RuntimeError("the router of the chaos network has ended")
        return Counters(**json.loads(answer))


def remove_stale() -> None:
    """Remove the namespaces of runs that were killed."""
    for path in FOLDER.glob(f"{PREFIX}-*") if FOLDER.is_dir() else ():
        found = re.fullmatch(rf"{PREFIX}-(\d+)-.*", path.name)
        if found and not Path(f"/proc/{found[1]}").exists():
            subprocess.run(["ip", "netns", "del", path.name], check=False, capture_output=True)
