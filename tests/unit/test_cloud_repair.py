"""Which missing messages are asked for again, when and how often."""

import base64
import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from cloud.repair import (
    PARTS_OF_A_BOOT,
    REQUEST_MESSAGES,
    REQUESTS_AT_ONCE,
    REQUESTS_OF_A_BOOT,
    Repairs,
    Request,
)
from voltflow.ledger.ranges import Range
from voltflow.ledger.sql import Key

KEY: Key = ("demo", "SIM000001", 7)


def update(repairs: Repairs, now_s: float, *ranges: tuple[int, int], key: Key = KEY) -> None:
    missing = {key: [Range(first, last) for first, last in ranges]} if ranges else {}
    repairs.update(missing, {key}, now_s)


def ask(repairs: Repairs, now_s: float) -> list[tuple[int, int]]:
    """Ask for all that is due and return it."""
    requests = repairs.due(now_s)
    for request in requests:
        repairs.asked(request, now_s)
    return [(request.first, request.last) for request in requests]


def test_due_waits_and_waits_twice_as_long_each_time() -> None:
    repairs = Repairs(after_s=60, attempts=3)
    update(repairs, 0, (5, 9))
    asked_at = [now_s for now_s in range(0, 2000, 10) if ask(repairs, now_s)]
    assert asked_at == [60, 60 + 120, 180 + 240]
    assert repairs.events == {"asked": 15, "filled": 0, "given_up": 5}


def test_update_what_came_is_filled_and_the_rest_keeps_its_age() -> None:
    repairs = Repairs(after_s=60, attempts=3)
    update(repairs, 0, (5, 9))
    assert ask(repairs, 60) == [(5, 9)]
    update(repairs, 70, (8, 12))
    assert repairs.events["filled"] == 3
    assert repairs.counts(70) == (2, 3)
    assert ask(repairs, 130) == [(10, 12)]
    assert ask(repairs, 180) == [(8, 9)]


def test_update_boots_that_are_no_longer_looked_at_are_not_filled() -> None:
    repairs = Repairs(after_s=60, attempts=3)
    update(repairs, 0, (5, 9))
    ask(repairs, 60)
    repairs.update({}, set(), 70)
    assert repairs.events["filled"] == 0


def test_due_long_holes_in_parts_and_no_more_than_a_round_may_ask() -> None:
    repairs = Repairs(after_s=60, attempts=3)
    update(repairs, 0, (0, 10**15))
    first = ask(repairs, 60)
    assert first[:2] == [(0, 999), (1000, 1999)]
    assert len(first) == REQUESTS_OF_A_BOOT
    assert ask(repairs, 70)[0] == (
        REQUESTS_OF_A_BOOT * REQUEST_MESSAGES,
        REQUESTS_OF_A_BOOT * REQUEST_MESSAGES + 999,
    )


def test_due_a_boot_that_was_never_so_long_keeps_no_other_waiting_and_comes_to_an_end() -> None:
    repairs = Repairs(after_s=60, attempts=2)
    packs = [("demo", f"SIM{number:06d}", 7) for number in range(120)]
    missing = {key: [Range(5, 9)] for key in packs} | {KEY: [Range(0, 10**15)]}
    repairs.update(missing, set(missing), 0)
    asked = [
        request.key
        for now_s in (60, 61)
        for request in repairs.due(now_s)
        if repairs.asked(request, now_s) is None
    ]
    assert len(asked) > REQUESTS_AT_ONCE
    assert set(packs) <= set(asked)
    spans = [span for now_s in range(100, 40_000, 100) for span in ask(repairs, now_s)]
    assert max(last for _, last in spans) < PARTS_OF_A_BOOT * REQUEST_MESSAGES
    assert ask(repairs, 100_000) == []


def test_due_holes_close_to_each_other_share_a_request() -> None:
    repairs = Repairs(after_s=60, attempts=3)
    update(repairs, 0, (1, 1), (5, 6), (20, 20), (200, 200), (205, 1205), (1207, 1207))
    assert ask(repairs, 60) == [(1, 20), (200, 200), (205, 1204), (1205, 1207)]
    assert repairs.events["asked"] == 1 + 2 + 1 + 1 + 1001 + 1


def test_due_nothing_is_asked_for_when_it_is_off() -> None:
    repairs = Repairs(after_s=0, attempts=3)
    update(repairs, 0, (5, 9))
    assert ask(repairs, 10**6) == []
    assert (repairs.counts(10), repairs.counts(60)) == ((0, 5), (5, 0))


@given(st.lists(st.sets(st.integers(0, 40)), min_size=1, max_size=6))
def test_update_keeps_track_of_exactly_what_is_missing(rounds: list[set[int]]) -> None:
    repairs = Repairs(after_s=1, attempts=100)
    for now_s, missing in enumerate(rounds):
        update(repairs, now_s, *((n, n) for n in sorted(missing)))
        assert sum(repairs.counts(now_s)) == len(missing)
        requests = repairs.due(now_s + 0.5)
        old = missing & (rounds[now_s - 1] if now_s else set())
        wanted = {
            n for request in requests for hole in request.holes for n in range(hole.first, hole.last + 1)
        }
        assert wanted == old


def test_publication_is_a_command_for_the_device_by_way_of_its_gateway() -> None:
    repairs = Repairs(after_s=1, attempts=1)
    update(repairs, 0, (5, 9))
    (request,) = repairs.due(1)
    topic, payload = request.publication("gw-1")
    down: dict[str, Any] = json.loads(payload)
    assert isinstance(request, Request)
    assert topic == "gw/v1/gw-1/down"
    assert (down["schema"], down["topic"]) == ("gw.down/1", "ev/v1/demo/SIM000001/cmd")
    assert json.loads(base64.b64decode(down["payload"])) == {"cmd": "replay", "boot": 7, "from": 5, "to": 9}
