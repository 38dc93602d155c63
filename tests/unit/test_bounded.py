"""Expressions and regular expressions that some message makes endless: they are ended, and the flow goes on."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from typing import Any

import pytest

from tests.flows import raw, running
from voltflow.message import Msg
from voltflow.node import load_nodes
from voltflow.nodelib import bounded
from voltflow.nodelib.bounded import Bounded, TooLongError
from voltflow.nodelib.time_limit import STRIKES, TimeLimit

load_nodes("voltflow.nodes")

ENDLESS = "($f := function($n) { $f($n + 1) }; {0} ? $f(1) : 'fine')"
"""For messages of which the condition holds."""
SLOW, TEXT = "^(a+)+$", "a" * 60 + "b"
"""A pattern that tries 2^60 ways to match that text."""


@pytest.fixture(autouse=True)
def _short_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded, "LIMIT_S", 0.2)
    monkeypatch.setattr(bounded._LIMIT, "limit_s", 0.2)


def node(kind: str, **properties: Any) -> dict[str, Any]:
    return {"id": "n", "type": kind, "wires": [["k"]], **properties}


def rule(**rule: Any) -> list[dict[str, Any]]:
    return [rule]


ENDLESS_IF_BAD = ENDLESS.replace("{0}", "payload = 'bad'")


@pytest.mark.parametrize(
    ("endless", "bad"),
    [
        (node("change", rules=rule(t="set", p="x", pt="msg", to=ENDLESS_IF_BAD, tot="jsonata")), "bad"),
        (node("change", rules=rule(t="change", p="payload", pt="msg", **{"from": SLOW}, fromt="re", to="x", tot="str")), TEXT),
        (node("change", rules=rule(t="set", p="x", pt="msg", to=f"$contains(payload, /{SLOW}/)", tot="jsonata")), TEXT),
        (node("change", rules=rule(t="set", p="x", pt="msg", to="payload = 'bad' ? $sum([1..9999999]) : 1", tot="jsonata")), "bad"),
        (node("switch", rules=rule(t="jsonata_exp", v=f"{ENDLESS_IF_BAD} = 'fine'")), "bad"),
        (node("switch", property=f"({ENDLESS_IF_BAD})", propertyType="jsonata", rules=rule(t="nnull")), "bad"),
        (node("switch", rules=[{"t": "regex", "v": f"{SLOW}|good", "vt": "str"}]), TEXT),
        (node("sort", target="list", targetType="msg", msgKey=ENDLESS.replace("{0}", "$ = 'bad'"), msgKeyType="jsonata"), "bad"),
    ],
    ids=["change", "change by a pattern", "pattern in an expression", "great sum", "switch rule", "switch property",
         "switch by a pattern", "sort"],
)  # fmt: skip
def test_what_a_message_makes_endless_is_ended_and_the_message_caught(
    endless: dict[str, Any], bad: str
) -> None:
    async def scenario() -> None:
        nodes = (
            raw("s", "source", ["n"]),
            endless,
            raw("k", "sink"),
            node("catch", id="c", wires=[["e"]]),
            raw("e", "sink"),
        )
        async with running(*nodes) as lab:
            await lab["s"].emit(
                [Msg("t", text, props={"list": [text, "z"]}) for text in ("good", bad, "good", "good")]
            )
            assert lab["k"].payloads() == ["good", "good", "good"]
            (caught,) = lab["e"].safe()
            assert caught.payload == bad
            error = (caught.props or {})["error"]
            assert "took longer than 0.2 s" in error["message"]
            assert error["name"] == "TooLongError"
            await lab["s"].emit([Msg("t", "good", props={"list": ["z"]})])
            assert len(lab["k"].payloads()) == 4, "it works on"

    asyncio.run(scenario())  # fmt: skip


def wait_for_ever(value: Any) -> Any:
    while value == "bad":
        pass
    return value


def test_it_is_not_tried_again_for_the_same_message() -> None:
    calls: list[object] = []

    def work(value: Any) -> Any:
        calls.append(value)
        return wait_for_ever(value)

    limited = Bounded("it", work)
    for value in ("bad", "good", "bad", "bad"):
        if value == "good":
            assert limited(value) == value
        else:
            with pytest.raises(TooLongError, match="it took longer than"):
                limited(value)
    assert calls == ["bad", "good"]


def test_what_takes_too_long_again_and_again_rests_and_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    limited = Bounded("it", lambda value, _: wait_for_ever(value))
    for number in range(STRIKES):
        with pytest.raises(TooLongError, match="was ended"):
            limited("bad", [number])
    with pytest.raises(TooLongError, match="it rests"):
        limited("good", [])
    monkeypatch.setattr(bounded, "REST", 0)
    assert limited("good", []) == "good"


def test_signal_and_timer_of_somebody_else_go_on_after_it() -> None:
    heard = threading.Event()

    def theirs(*_: Any) -> None:
        heard.set()

    before = signal.signal(signal.SIGALRM, theirs)
    others = signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
    try:
        with pytest.raises(TooLongError):
            Bounded("it", wait_for_ever)("bad")
        heard.clear()
        deadline = time.monotonic() + 10
        while not heard.is_set() and time.monotonic() < deadline:
            time.sleep(0.001)
        assert heard.is_set(), "their timer goes on"
        assert signal.getsignal(signal.SIGALRM) is theirs
        assert TimeLimit._armed is None
    finally:
        signal.setitimer(signal.ITIMER_REAL, *others)
        signal.signal(signal.SIGALRM, before)


def test_errors_and_other_threads_are_let_alone() -> None:
    def fails(_: Any) -> None:
        raise LookupError("as it is")

    with pytest.raises(LookupError, match="as it is"):
        Bounded("it", fails)(1)
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(Bounded("it", abs)(-1)))
    thread.start()
    thread.join()
    assert found == [1]
