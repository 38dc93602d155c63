"""The `dtc` node: trouble codes that appear and are gone."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from edge.nodes.dtc import Dtc
from tests.readings import START_MS, reading
from voltflow.engine.context import Contexts
from voltflow.engine.turn import isolate
from voltflow.message import Msg
from voltflow.node import Context


def dtc(contexts: Contexts | None = None, **properties: Any) -> Dtc:
    node = Dtc.spec.build("n", properties, {})
    assert isinstance(node, Dtc)
    asyncio.run(node.start(Context({}, {Contexts: contexts or Contexts()}, "gw", "rev", Path())))
    return node


def codes(*lists: str, **others: Any) -> list[Msg]:
    """A message for each text, its words the codes."""
    return [reading(seq, dtc=text.split(), **others) for seq, text in enumerate(lists)]


def told(node: Dtc, *msgs: Msg) -> list[tuple[int, str, str, int]]:
    """Number of the message, code, what became of it and since which message."""
    passed, changes = node.process(list(msgs))
    assert passed == list(msgs)
    return [
        (p["seq"], p["code"], p["state"], (p["since_ms"] - START_MS) // 10_000)
        for p in (msg.payload for msg in changes)
    ]


def test_codes_that_appear_and_are_gone() -> None:
    assert told(dtc(), *codes("", "P0A1F", "P0A1F U0100", "U0100", "")) == [
        (1, "P0A1F", "appeared", 1), (2, "U0100", "appeared", 2), (3, "P0A1F", "cleared", 1), (4, "U0100", "cleared", 2),
    ]  # fmt: skip


def test_message_says_all_of_a_change() -> None:
    [change] = dtc().process(codes("A1"))[1]
    assert change.topic == "ev/v1/depot/P1/dtc"
    assert change.payload == {
        "fleet": "depot", "pack": "P1", "boot": 1, "seq": 0, "ts_ms": START_MS, "code": "A1", "state": "appeared",
        "since_ms": START_MS, "codes": ["A1"],
    }  # fmt: skip


def test_code_that_is_left_out_for_a_moment_still_stands() -> None:
    node = dtc(clearAfter="3")
    assert told(node, *codes("A1", "", "", "A1", "", "", "")) == [
        (0, "A1", "appeared", 0),
        (6, "A1", "cleared", 0),
    ]
    assert node.status() == {"packs": 0, "codes": 0, "changes": 2}


def test_late_and_invalid_lists_are_not_looked_at() -> None:
    node = dtc()
    assert told(node, *codes("A1")) == [(0, "A1", "appeared", 0)]
    assert told(node, *codes("", late=True), *codes("", invalid=["dtc"])) == []
    assert node.status() == {"packs": 1, "codes": 1, "changes": 1}


def test_packs_are_told_apart() -> None:
    node = dtc()
    assert told(node, *codes("A1"), *codes("A1", pack="P2"), *codes("")) == [
        (0, "A1", "appeared", 0), (0, "A1", "appeared", 0), (0, "A1", "cleared", 0),
    ]  # fmt: skip
    assert node.status()["packs"] == 1


def test_codes_that_stand_are_remembered_over_a_restart() -> None:
    contexts = Contexts()
    told(dtc(contexts), *codes("A1", "A1 B2"))
    after = Contexts()
    after.restore(b"".join(contexts.copy()()))
    assert told(dtc(after), *codes("A1 B2", "B2")) == [(1, "A1", "cleared", 0)]
    assert told(dtc(after), *codes("")) == [(0, "B2", "cleared", 1)]
    assert after.scope("node", "n").keys() == []


def test_full_contexts_keep_nothing_and_stop_nothing() -> None:
    contexts = Contexts(limit_bytes=10)
    assert len(told(dtc(contexts), *codes("A1"))) == 1
    assert contexts.scope("node", "n").keys() == []


def test_what_is_no_reading_fails_alone() -> None:
    errors: list[str] = []
    node = dtc()
    ports = isolate(
        node.process, [*codes("A1"), Msg("t", {}), *codes("")], 2, lambda _, error: errors.append(str(error))
    )
    assert [len(port) for port in ports] == [2, 2]
    assert errors == ["expected a twin's reading: wire a twin node before this one"]


LISTS = st.lists(
    st.tuples(st.sampled_from(["P1", "P2"]), st.sets(st.sampled_from(["A1", "B2", "C3"])), st.booleans())
)


@given(LISTS, st.integers(1, 3))
def test_batch_gives_what_single_messages_give(
    lists: list[tuple[str, set[str], bool]], clear_after: int
) -> None:
    msgs = [
        reading(seq, pack=pack, dtc=sorted(found), late=late) for seq, (pack, found, late) in enumerate(lists)
    ]
    whole, single = dtc(clearAfter=clear_after), dtc(clearAfter=clear_after)
    assert told(whole, *msgs) == [item for msg in msgs for item in told(single, msg)]
