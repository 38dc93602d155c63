"""Commands to a device: what is published again, what is not kept, what is refused."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, ParamSpec

import msgspec
import pytest

from sim_device.commands import UNCONFIRMED, CommandCounts, Commands
from sim_device.ring import Ring
from tests.flows import until
from voltflow.telemetry import ReplayCommand

P = ParamSpec("P")
BOOT = 7
Scenario = Callable[P, Coroutine[Any, Any, None]]


def in_loop(scenario: Scenario[P]) -> Callable[P, None]:
    """A test that needs an event loop."""

    @functools.wraps(scenario)
    def test(*args: P.args, **kwargs: P.kwargs) -> None:
        asyncio.run(scenario(*args, **kwargs))

    return test


def ask(first: int, last: int, boot: int = BOOT) -> bytes:
    return msgspec.json.encode(ReplayCommand(boot, first, last))


def message(pack: int, seq: int, *, replay: bool = False) -> bytes:
    return f'{{"pack":"P{pack}","seq":{seq},"replay":{str(replay).lower()},"dtc":[]}}'.encode()


class Bench:
    """Two packs that have published 100 messages each, of which 50 are kept; what goes out is confirmed by the test."""

    def __init__(self) -> None:
        self.ring = Ring(packs=2, messages=50, max_mb=1.0)
        for seq in range(100):
            for pack in range(2):
                self.ring.keep(pack, seq, message(pack, seq))
        self.commands = Commands(self.ring, BOOT, lambda pack: 100, self.again)
        self.sent: list[tuple[int, bytes]] = []
        self.unconfirmed: list[asyncio.Future[None]] = []
        self.online = self.confirms = True

    def again(self, pack: int, payload: bytes) -> asyncio.Future[None] | None:
        if not self.online:
            return None
        self.sent.append((pack, payload))
        self.unconfirmed.append(asyncio.get_running_loop().create_future())
        if self.confirms:
            self.confirm()
        return self.unconfirmed[-1] if not self.confirms else self.confirmed

    def confirm(self) -> None:
        for future in self.unconfirmed:
            future.set_result(None)
        self.confirmed = self.unconfirmed[-1]
        self.unconfirmed.clear()


@contextlib.asynccontextmanager
async def bench() -> AsyncIterator[Bench]:
    made = Bench()
    task = asyncio.create_task(made.commands.run())
    try:
        yield made
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        made.ring.close()


@in_loop
async def test_same_bytes_are_published_again_marked_replay() -> None:
    async with bench() as b:
        b.commands.take(1, ask(60, 89))
        await until(lambda: b.commands.counts.replayed == 30, "the replay")
        assert b.sent == [(1, message(1, seq, replay=True)) for seq in range(60, 90)]
        assert b.commands.counts == CommandCounts(commands=1, replayed=30)


@in_loop
async def test_what_is_there_is_published_and_the_rest_counted() -> None:
    """0 … 49 are overwritten, 100 … 119 were never published, and another boot is nobody's."""
    async with bench() as b:
        b.commands.take(0, ask(45, 52))
        b.commands.take(0, ask(98, 119))
        b.commands.take(0, ask(0, 9))
        b.commands.take(0, ask(90, 99, boot=BOOT - 1))
        b.commands.take(0, ask(9, 5))
        await until(lambda: b.commands.counts.replayed == 5, "the replay")
        assert [payload for _, payload in b.sent] == [
            message(0, s, replay=True) for s in (50, 51, 52, 98, 99)
        ]
        assert b.commands.counts == CommandCounts(commands=5, replayed=5, not_kept=5 + 20 + 10 + 10)


@in_loop
async def test_repeat_of_what_is_under_way_is_ignored() -> None:
    async with bench() as b:
        b.online = False
        for first, last in ((60, 79), (60, 79), (65, 70)):
            b.commands.take(0, ask(first, last))
        b.commands.take(1, ask(60, 79))
        b.online = True
        await until(lambda: b.commands.counts.replayed == 40, "the replay of both packs")
        assert len(b.sent) == 40
        b.commands.take(0, ask(60, 79))  # not under way any more: who asks again has not got it
        await until(lambda: b.commands.counts.replayed == 60, "the second replay")


@in_loop
async def test_unconfirmed_messages_of_a_pack_are_bounded_and_do_not_hold_up_another() -> None:
    async with bench() as b:
        b.confirms = False
        b.commands.take(0, ask(50, 99))
        b.commands.take(1, ask(50, 51))
        await until(lambda: len(b.sent) == UNCONFIRMED + 2, "the window of the first and all of the second")
        assert sum(pack for pack, _ in b.sent) == 2
        b.confirms = True
        b.confirm()
        await until(lambda: b.commands.counts.replayed == 52, "the rest")


@pytest.mark.parametrize(
    "payload",
    [b"", b"{", b"[]", b'{"cmd":"reboot"}', b'{"cmd":"replay","boot":7,"from":-1,"to":2}', b'{"cmd":"rate","hz":0}',
     b'{"cmd":"rate","hz":1e9}', b"\xff\xfe", b'{"cmd":"replay","boot":7,"from":1}'],
)  # fmt: skip
@in_loop
async def test_bad_command_is_counted_and_logged(payload: bytes, caplog: pytest.LogCaptureFixture) -> None:
    async with bench() as b:
        b.commands.take(0, payload)
        b.commands.take(0, ask(99, 99))
        await until(lambda: b.commands.counts.replayed == 1, "the good one after it")
        assert b.commands.counts == CommandCounts(commands=2, bad=1, replayed=1)
    assert "a command is not understood: " in caplog.text


@in_loop
async def test_rate_is_remembered_within_bounds() -> None:
    async with bench() as b:
        rates = [b.commands.asked_hz]
        for command in (b'{"cmd":"rate","hz":5}', b'{"cmd":"rate","hz":0.000001}'):
            b.commands.take(0, command)
            rates.append(b.commands.asked_hz)
        assert rates == [None, 5.0, 0.1]
