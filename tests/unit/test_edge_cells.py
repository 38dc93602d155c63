"""Single cells: what is taken, what is kept and for how long, and what the API says of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from edge.cells import CellsOfPacks, PackCells, compact
from tests.gateway import START_MS, Gateway, ask, request
from voltflow.message import Msg


@pytest.fixture
def gateway(tmp_path: Path) -> Gateway:
    return Gateway(tmp_path)


def _cells(gateway: Gateway, pack: str = "depot/P1") -> Any:
    answer = ask(gateway.state, lambda server: request(server, f"/api/packs/{pack}/cells"))
    assert answer.status == 200
    return answer.json()


def test_cells_of_a_pack(gateway: Gateway) -> None:
    gateway.birth("depot/P1")
    voltages = [3650] * 94 + [3601.5, 3662]
    gateway.feed_cells(
        "depot/P1", voltages_mv=voltages, temps_c=[25.5, None], balancing=[False] * 95 + [True]
    )
    found = _cells(gateway)
    assert found["voltages_v"] == [volt / 1000 for volt in voltages]
    assert (found["spread_mv"], found["min_id"], found["max_id"]) == (60.5, 95, 96)
    assert found["temps_c"] == [25.5, None]
    assert found["balancing"][94:] == [False, True]
    assert (found["ts_ms"], found["series"], found["reason"]) == (START_MS, 96, None)


def test_what_cannot_be_is_null_and_said(gateway: Gateway) -> None:
    gateway.birth("depot/P1")
    checked = gateway.feed_cells("depot/P1", voltages_mv=[0, 65535, 3600, None], temps_c=[-40, 25])
    assert (checked.voltages_mv, checked.temps_c) == ([None, None, 3600, None], [None, 25])
    found = _cells(gateway)
    assert (found["voltages_v"], found["temps_c"]) == ([None, None, 3.6, None], [None, 25.0])
    assert (found["spread_mv"], found["min_id"], found["max_id"]) == (0.0, 3, 3)
    assert found["reason"] == (
        "the message has 4 voltages, the nameplate says 96 cells in series; 3 values were impossible and null"
    )


def test_the_newest_message_counts(gateway: Gateway) -> None:
    gateway.feed_cells("depot/P1", voltages_mv=[3600, 3700])
    gateway.feed_cells("depot/P1", ts_ms=START_MS - 5, voltages_mv=[3500])
    assert _cells(gateway)["voltages_v"] == [3.5], "also where the device's clock went back"


def test_nothing_yet_has_a_reason_and_empty_lists(gateway: Gateway) -> None:
    gateway.birth("depot/P1")
    found = _cells(gateway)
    assert (found["voltages_v"], found["temps_c"], found["series"]) == ([], [], 96)
    assert found["reason"].startswith("nothing has come on ev/v1/depot/P1/cells since the gateway started")
    del gateway.engine.nodes["cells"]
    assert _cells(gateway)["reason"].startswith("the flow has no cells node: wire one")


@pytest.mark.parametrize(
    ("topic", "changes", "error"),
    [
        ("ev/v1/depot/P1/telemetry", {}, "is not ev/v1/{fleet}/{pack}/cells"),
        ("ev/v1/depot/P2/cells", {}, "pack 'P1' of the payload is not the topic's 'P2'"),
        ("ev/v1/depot/P1/cells", {"schema": "bms.cells/2"}, "Invalid enum value 'bms.cells/2'"),
        ("ev/v1/depot/P1/cells", {"voltages_mv": [0] * 1001}, "length <= 1000"),
        ("ev/v1/depot/P1/cells", {"balancing": [True]}, "balancing has 1 flags for 0 voltages"),
    ],
)
def test_what_is_no_cells_message_fails(
    gateway: Gateway, topic: str, changes: dict[str, Any], error: str
) -> None:
    item = {"schema": "bms.cells/1", "pack": "P1", "boot": 1, "ts_ms": 1, **changes}
    with pytest.raises((ValueError, msgspec.ValidationError)) as caught:
        gateway._cells.process([Msg(topic, msgspec.json.encode(item))])
    assert error in str(caught.value)
    assert not len(gateway.store.cells)


def test_a_batch_with_a_bad_message_changes_nothing(gateway: Gateway) -> None:
    """The engine calls again with its parts."""
    good = Msg("ev/v1/depot/P1/cells", b'{"schema":"bms.cells/1","pack":"P1","boot":1,"ts_ms":1}')
    with pytest.raises(ValueError, match="is not ev/v1"):
        gateway._cells.process([good, Msg("ev/v1/depot/P1/state", good.payload)])
    assert (len(gateway.store.cells), gateway._cells.messages) == (0, 0)


def test_more_values_than_allowed_push_out_who_was_heard_of_least_lately() -> None:
    kept = CellsOfPacks(limit=10)
    for slot in (0, 1, 0, 2):
        kept.put(slot, PackCells(slot, compact([3.6] * 4), compact([]), None))
    assert [kept.get(slot) is not None for slot in range(3)] == [True, False, True]
    kept.put(3, PackCells(3, compact([3.6] * 50), compact([]), None))
    assert (len(kept), kept.get(3) is not None) == (1, True), "one pack is always there"
