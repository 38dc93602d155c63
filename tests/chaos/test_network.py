"""The chaos network does to packets what it was told, by its own counters and by what arrives."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.chaos.network import FOLDER, PREFIX, Link, Namespace, Network, why_not
from tests.conftest import do_without
from tests.servers import wait_until

PORT = 5000
SENT = 600


class Pair:
    """Two namespaces, a link, a UDP socket at each end."""

    def __init__(self, network: Network) -> None:
        self.near, self.far = network.namespace("near"), network.namespace("far")
        self.link: Link = network.link("pair", self.near, self.far)
        network.start()
        self.sender = _udp(self.near, self.link.first)
        self.receiver = _udp(self.far, self.link.second)

    def send(self, count: int) -> list[int]:
        """Send numbered packets; the numbers in the order of arrival, when no more arrive."""
        before = self.link.counters
        for number in range(count):
            self.sender.sendto(number.to_bytes(4), (self.link.second, PORT))
        wait_until(lambda: self._gone(before.passed + before.lost + before.cut) >= count, "the packets' fate")
        arrived = []
        self.receiver.settimeout(0.5)
        try:
            while True:
                arrived.append(int.from_bytes(self.receiver.recv(100)))
        except TimeoutError:
            return arrived

    def _gone(self, before: int) -> int:
        now = self.link.counters
        return now.passed - now.duplicated + now.lost + now.cut - before

    def close(self) -> None:
        self.sender.close()
        self.receiver.close()


def _udp(namespace: Namespace, address: str) -> socket.socket:
    with namespace.inside():
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    made.bind((address, PORT))
    return made


@pytest.fixture
def pair() -> Iterator[Pair]:
    if reason := why_not():
        do_without(reason)
    with Network(seed=1) as network:
        made = Pair(network)
        try:
            yield made
        finally:
            made.close()


def test_a_link_that_is_whole_passes_everything_in_order(pair: Pair) -> None:
    assert pair.send(SENT) == list(range(SENT))


def test_loss_loses_its_share(pair: Pair) -> None:
    pair.link.impair(loss=0.1)
    arrived = pair.send(SENT)
    assert arrived == sorted(set(arrived))
    assert len(arrived) == SENT - pair.link.counters.lost
    assert 0.03 * SENT < pair.link.counters.lost < 0.2 * SENT


def test_duplicates_and_packets_out_of_order_arrive_as_such(pair: Pair) -> None:
    pair.link.impair(duplicate=0.1, reorder=0.2)
    arrived = pair.send(SENT)
    counters = pair.link.counters
    assert set(arrived) == set(range(SENT))
    assert sum(copies - 1 for copies in Counter(arrived).values()) == counters.duplicated > 0
    assert counters.reordered > 0
    assert arrived != sorted(arrived)


def test_delay_counts_in_each_direction(pair: Pair) -> None:
    with pair.far.inside():
        listener = socket.create_server((pair.link.second, 5001))
    pair.link.impair(delay_ms=200)
    started = time.monotonic()
    with pair.near.inside():
        connection = socket.create_connection((pair.link.second, 5001), timeout=10)
    assert time.monotonic() - started >= 0.4, "a TCP handshake needs a way there and a way back"
    connection.close()
    listener.close()


def test_a_cut_link_passes_nothing_until_it_is_healed(pair: Pair) -> None:
    pair.link.cut()
    assert pair.send(5) == []
    assert pair.link.counters.cut == 5
    pair.link.heal()
    assert pair.send(5) == [0, 1, 2, 3, 4]


def test_a_slow_link_drops_what_would_wait_too_long(pair: Pair) -> None:
    pair.link.impair(rate_kbps=80)
    for number in range(SENT):
        pair.sender.sendto(number.to_bytes(4), (pair.link.second, PORT))
    wait_until(lambda: pair.link.counters.overflowed > 0, "an overflow")


def test_namespaces_go_with_their_run_and_those_of_killed_runs_with_the_next(pair: Pair) -> None:
    nobody = subprocess.Popen(["true"])
    nobody.wait()
    stale = f"{PREFIX}-{nobody.pid}-stale"
    subprocess.run(["ip", "netns", "add", stale], check=True)
    with Network() as network:
        assert not (FOLDER / stale).exists()
        network.namespace("one")
        assert (FOLDER / f"{PREFIX}-{os.getpid()}-one").exists()
    assert not (FOLDER / f"{PREFIX}-{os.getpid()}-one").exists()
    assert pair.send(1) == [0], "the other network is still there"
