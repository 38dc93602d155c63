"""`python -m bench.page`: what the page asks of a gateway with many packs: bytes, time, and what it takes from the agent.

The agent as it is installed, its packs simulated, each with a message in ten seconds. First the list, in pages as a browser
asks for them; then streams in turns: nobody looks, one phone or ten with the rows of a screen, one or ten clients that name no
packs. docs/benchmarks.md says how to read the figures.
"""

from __future__ import annotations

import argparse
import gzip
import http.client
import json
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import psutil

from bench.loss_report import put_into, shared
from bench.measure import cpu_s, say
from bench.report import _table as table
from bench.report import machine
from tests import servers
from tests.programs import Agent, device

PAGE: Final = servers.REPOSITORY / "docs" / "benchmarks.md"
BEGIN, END = "<!-- figures: python -m bench.page --write -->", "<!-- end of page -->"
PACKS, HZ = 10_000, 0.1
SCREEN: Final = 40
"""Rows that a list shows, with those just above and below."""
LOOKERS: Final = {
    "nobody": (0, False), "one, the rows of a screen": (1, True), "ten, the rows of a screen": (10, True),
    "one that names no packs": (1, False), "ten that name no packs": (10, False),
}  # fmt: skip
"""How many clients, and whether they name the packs on their screen."""
REQUESTS: Final = {
    "the first 100 by worry": "/api/packs?limit=100",
    "1,000 by name": "/api/packs?sort=name&limit=1000",
    "1,000 by temperature": "/api/packs?sort=temperature&limit=1000",
    "a search that finds ten": "/api/packs?q=SIM00012&limit=100",
}
TRIES: Final = 10


class Asked(msgspec.Struct, kw_only=True, frozen=True):
    """A request: bytes as they are sent and as they are read, and how long it took."""

    rows: int
    sent: int
    read: int
    took_s: list[float]


class Looked(msgspec.Struct, kw_only=True, frozen=True):
    """A while with streams: what each client got, the flow's messages, and the share of a core that the agent used."""

    bytes_s: float
    messages_s: float
    share: float


class Figures(msgspec.Struct, kw_only=True):
    """A whole run."""

    packs: int
    asked: dict[str, Asked]
    all_pages_s: float
    looked: dict[str, list[Looked]]
    rss_mb: float


class _Client(threading.Thread):
    """A stream that is read as fast as it comes; `bytes` counts what came."""

    def __init__(self, port: int, path: str) -> None:
        super().__init__(daemon=True)
        self.bytes = 0
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self._socket.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())

    def run(self) -> None:
        while data := self._socket.recv(65_536):
            self.bytes += len(data)

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self.join()
        self._socket.close()


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, and put the table into the page where asked to."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False, prog="python -m bench.page", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--packs", type=int, default=PACKS, help="simulated (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=15, help="of each turn (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=2, help="turns of each kind (default: %(default)s)")
    parser.add_argument("--write", action="store_true", help=f"put the table into {PAGE.name}")
    parser.add_argument("--page", type=Path, default=PAGE, help="into another page")
    args = parser.parse_args(argv)
    here = machine()
    text = render(measure(args.packs, args.seconds, args.rounds), here)
    print(text)
    if args.write:
        put_into(args.page, BEGIN, END, text)
    return 0


def measure(packs: int, seconds: float, rounds: int) -> Figures:
    """An agent of its own, fed all the while."""
    fleet = (
        "--packs",
        str(packs),
        "--hz",
        str(HZ),
        "--connections",
        "shared",
        "--ring-messages",
        "0",
        "--no-gaps",
    )
    with (
        tempfile.TemporaryDirectory() as folder,
        servers.mosquitto() as broker,
        Agent(broker, Path(folder), "--window", "1000") as agent,
        device(broker, "run", *fleet),
    ):
        say(f"waiting for {packs:,} packs")
        servers.wait_until(lambda: _fed(agent, packs), "three messages of each pack", 300, 1.0)
        asked = {name: _ask(agent, path) for name, path in REQUESTS.items()}
        all_pages_s = _whole_list(agent, packs)
        names = [row["name"] for row in agent.get(f"/api/packs?limit={SCREEN}")["packs"]]
        process, looked = psutil.Process(agent.pid), {who: list[Looked]() for who in LOOKERS}
        for number in range(rounds):
            for who, (clients, named) in LOOKERS.items():
                say(f"round {number + 1}: {who}")
                path = f"/api/stream?packs={','.join(names)}" if named else "/api/stream"
                looked[who].append(_look(agent, process, path, clients, seconds))
        return Figures(packs=packs, asked=asked, all_pages_s=all_pages_s, looked=looked, rss_mb=agent.rss_mb)


def _fed(agent: Agent, packs: int) -> bool:
    health: dict[str, Any] = agent.get("/api/health")
    return bool(health["packs"] == packs and health["messages"] >= 3 * packs)


def _get(agent: Agent, path: str) -> tuple[bytes, int, float]:
    """The answer as it is read, its bytes as they are sent, and the time for it; as a browser asks."""
    connection = http.client.HTTPConnection("127.0.0.1", agent.port, timeout=60)
    started_s = time.perf_counter()
    connection.request("GET", path, headers={"Accept-Encoding": "gzip"})
    answer = connection.getresponse()
    sent = answer.read()
    took_s = time.perf_counter() - started_s
    connection.close()
    packed = answer.headers.get("Content-Encoding") == "gzip"
    return gzip.decompress(sent) if packed else sent, len(sent), took_s


def _ask(agent: Agent, path: str) -> Asked:
    answers = [_get(agent, path) for _ in range(TRIES)]
    read, sent, _ = answers[-1]
    rows = len(json.loads(read)["packs"])
    return Asked(rows=rows, sent=sent, read=len(read), took_s=[took_s for *_, took_s in answers])


def _whole_list(agent: Agent, packs: int) -> float:
    """Every pack, by pages that follow each other; how long that took."""
    started_s, seen, after = time.perf_counter(), 0, ""
    while seen < packs:
        rows = json.loads(_get(agent, f"/api/packs?sort=name&limit=1000{after}")[0])["packs"]
        seen += len(rows)
        after = f"&after={rows[-1]['name']}"
    return time.perf_counter() - started_s


def _look(agent: Agent, process: psutil.Process, path: str, clients: int, seconds: float) -> Looked:
    streams = [_Client(agent.port, path) for _ in range(clients)]
    for stream in streams:
        stream.start()
    time.sleep(3.0)  # the first event, which has all rows
    messages = agent.get("/api/health")["messages"]
    before, before_s, started_s = sum(stream.bytes for stream in streams), cpu_s(process), time.monotonic()
    time.sleep(seconds)
    took_s = time.monotonic() - started_s
    got, used_s = sum(stream.bytes for stream in streams) - before, cpu_s(process) - before_s
    messages = agent.get("/api/health")["messages"] - messages
    for stream in streams:
        stream.close()
    return Looked(bytes_s=got / took_s / max(1, clients), messages_s=messages / took_s, share=used_s / took_s)


def render(found: Figures, here: dict[str, str]) -> str:
    """The tables as they stand in the page."""
    asked = [
        [name, f"{each.rows:,}", f"{each.sent / 1000:,.1f}", f"{each.read / 1000:,.1f}",
         f"{statistics.median(each.took_s) * 1000:.0f} ({max(each.took_s) * 1000:.0f})"]
        for name, each in found.asked.items()
    ]  # fmt: skip
    looked = [
        [who, f"{statistics.median(each.bytes_s for each in turns) / 1000:.1f}" if LOOKERS[who][0] else "–",
         f"{statistics.median(each.messages_s for each in turns):,.0f}", _percent([each.share for each in turns])]
        for who, turns in found.looked.items()
    ]  # fmt: skip
    head = (
        f"`python -m bench.page --packs {found.packs} --write`, {here['date']}: {here['cpu']}, {here['cores']} cores (load average "
        f"before: {here['load_before']}), Python {here['python']}; agent {found.rss_mb:.0f} MB.{shared(here)}"
    )
    return "\n".join([
        head, "",
        table(("request", "rows", "kB sent", "kB read", "ms, median (longest)"), asked), "",
        f"All {found.packs:,} packs in pages of 1,000, one after the other: {found.all_pages_s:.1f} s.", "",
        table(("clients of the stream", "kB/s to each", "flow, messages/s", "agent, % of a core"), looked),
    ]) + "\n"  # fmt: skip


def _percent(shares: list[float]) -> str:
    """The median, and the least and the most."""
    middle, low, high = (100 * value for value in (statistics.median(shares), min(shares), max(shares)))
    return f"{middle:.1f} ({low:.1f}–{high:.1f})"


if __name__ == "__main__":
    sys.exit(main())
