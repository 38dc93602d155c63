"""Which bridge is to be taken over, and by whom."""

import asyncio

from cloud.presence import OFFLINE, ONLINE, Presence


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def presence(name: str, clock: Clock) -> Presence:
    return Presence(name, 10.0, clock=clock)


def heard(of: Presence, bridge: str, state: str | bytes) -> None:
    of.heard(f"br/v1/{bridge}/state", state.encode() if isinstance(state, str) else state)


def test_bridge_that_is_gone_is_due_after_the_time_and_not_at_once() -> None:
    clock = Clock()
    mine = presence("a", clock)
    heard(mine, "b", ONLINE)
    assert mine.absent() == {}
    heard(mine, "b", OFFLINE)
    assert 110.0 <= mine.absent()["b"] <= 115.0
    clock.now_s = 116.0
    assert asyncio.run(mine.next_absent()) == "b"
    heard(mine, "b", ONLINE)
    assert mine.absent() == {}
    assert not mine.is_mine("b")


def test_bridge_with_an_heir_that_is_there_is_left_alone_until_that_one_is_gone() -> None:
    clock = Clock()
    mine, other = presence("a", clock), presence("c", clock)
    for state in (OFFLINE, other.claim()):
        heard(mine, "b", state)
    heard(mine, "c", ONLINE)
    assert mine.absent() == {}
    assert mine.describe() == {"b": "gone, taken over by c", "c": "there"}
    heard(mine, "c", OFFLINE)
    assert set(mine.absent()) == {"b", "c"}


def test_own_claim_makes_it_mine_and_an_empty_state_ends_it() -> None:
    mine = presence("a", Clock())
    heard(mine, "b", OFFLINE)
    heard(mine, "b", mine.claim())
    assert mine.is_mine("b")
    heard(mine, "b", b"")
    assert mine.describe() == {}
    heard(mine, "a", OFFLINE)
    heard(mine, "b", b"nonsense")
    assert mine.describe() == {}, "neither about this one nor anything that cannot be read"


def test_waiting_ends_when_something_is_heard() -> None:
    async def main() -> str:
        mine = Presence("a", 0.01)
        waiting = asyncio.create_task(mine.next_absent())
        await asyncio.sleep(0)
        heard(mine, "b", OFFLINE)
        async with asyncio.timeout(10):
            return await waiting

    assert asyncio.run(main()) == "b"
