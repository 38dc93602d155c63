"""Alerts in the API say what is so now beside what was so when they were raised."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edge.api import AppState
from tests.gateway import Gateway, ask, request
from tests.twins import Chain, reading


@pytest.fixture
def gateway(tmp_path: Path) -> Gateway:
    return Gateway(tmp_path)


def entry(state: AppState, code: str, query: str = "") -> dict[str, Any]:
    answer = ask(state, lambda server: request(server, f"/api/alerts{query}")).json()
    found: dict[str, Any] = next(one for one in answer["alerts"] if one["code"] == code)
    return found


def of_chain(gateway: Gateway, chain: Chain) -> AppState:
    """The API over the twins that the nodes themselves have made."""
    return AppState(chain.store, gateway.engine, "gw1", gateway.state.started)


def test_an_alert_says_what_is_so_now_and_the_worst_since(gateway: Gateway) -> None:
    chain = Chain()
    state = of_chain(gateway, chain)
    chain.feed([reading("P1", 0, cell_temp_max_c=60.5)])
    chain.feed([reading("P1", 1, cell_temp_max_c=97.0)])
    chain.feed([reading("P1", 2, cell_temp_max_c=91.2)])
    for code in ("cell_temp_critical", "cell_temp_warning"):
        told = entry(state, code)
        assert (told["value"], told["now"], told["worst"]) == (60.5, 91.2, 97.0)
    chain.feed([reading("P1", 3, cell_temp_max_c=25.0)])
    over = entry(state, "cell_temp_critical", "?state=recent")
    assert (over["state"], over["now"], over["worst"]) == ("cleared", None, None)
    chain.feed([reading("P1", 4, cell_temp_max_c=61.0)])
    assert entry(state, "cell_temp_critical")["worst"] == 61.0, "that of the alert before is forgotten"


def test_the_worst_is_no_better_after_a_restart(gateway: Gateway) -> None:
    chain = Chain()
    chain.feed([reading("P1", 0, cell_temp_max_c=75.0)])
    chain.feed([reading("P1", 1, cell_temp_max_c=85.0)])
    chain = chain.restarted()
    chain.feed([reading("P1", 2, cell_temp_max_c=62.0)])
    told = entry(of_chain(gateway, chain), "cell_temp_critical")
    assert (told["value"], told["now"], told["worst"]) == (75.0, 62.0, 85.0)


def test_the_worst_of_an_older_state_is_that_of_the_moment_of_raising(gateway: Gateway) -> None:
    chain = Chain()
    chain.feed([reading("P1", 0, cell_temp_max_c=75.0)])
    chain.store.packs[0].worst.clear()
    chain.feed([reading("P1", 1, cell_temp_max_c=62.0)])
    assert entry(of_chain(gateway, chain), "cell_temp_critical")["worst"] == 75.0


def test_the_worst_of_a_low_value_is_the_lowest(gateway: Gateway) -> None:
    chain = Chain()
    for seq, soc_pct in enumerate((4.5, 2.0, 3.0)):
        chain.feed([reading("P1", seq, cell_temp_max_c=25.0, soc_pct=soc_pct)])
    told = entry(of_chain(gateway, chain), "soc_low")
    assert (told["value"], told["now"], told["worst"]) == (4.5, 3.0, 2.0)


@pytest.mark.parametrize(
    ("code", "now"),
    [("cell_temp_critical", 44.0), ("cell_spread", 20.0), ("soc_low", 60.0), ("insulation_low", 1000.0),
     ("bms_alarm", 1.0), ("failure_likely", 70.0), ("cell_temp_predicted", 52.0), ("clock_jumps", None)],
)  # fmt: skip
def test_what_an_alert_is_about_is_told_in_its_unit(gateway: Gateway, code: str, now: float | None) -> None:
    gateway.feed("depot/P1", cell_temp_max_c=44.0, insulation_kohm=350.0, alarm_level=1)
    gateway.predict("depot/P1", "failure", 70.0)
    gateway.predict("depot/P1", "temperature", 52.0)
    gateway.alert("depot/P1", code)
    assert entry(gateway.state, code)["now"] == now


def test_of_a_silent_pack_what_is_so_now_is_old(gateway: Gateway) -> None:
    gateway.feed("depot/P1", received_ms=1_600_000_000_000, cell_temp_max_c=97.0)
    gateway.feed("depot/P2", cell_temp_max_c=97.0)
    told = {}
    for name in ("depot/P1", "depot/P2"):
        gateway.alert(name)
        told[name] = entry(gateway.state, "cell_temp_critical", f"?pack={name}")
    assert [(one["now"], one["silent"]) for one in told.values()] == [(97.0, True), (97.0, False)]
