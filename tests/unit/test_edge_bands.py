"""What worries about a pack, in words and points, and what it counts as."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edge.bands import worries, worry
from tests.gateway import START_MS, Gateway, ask, request
from voltflow.message import now_ms


@pytest.fixture
def gateway(tmp_path: Path) -> Gateway:
    return Gateway(tmp_path)


def packs(gateway: Gateway) -> dict[str, Any]:
    answer: dict[str, Any] = ask(gateway.state, lambda server: request(server, "/api/packs")).json()
    return answer


def test_worries_come_in_the_order_of_their_severity(gateway: Gateway) -> None:
    gateway.feed("depot/P1", cell_temp_max_c=44.0)
    raised = (
        ("soc_low", "info"),
        ("bms_alarm", "critical"),
        ("cell_spread", "warning"),
        ("cell_temp_critical", "critical"),
    )
    for code, severity in raised:
        gateway.alert("depot/P1", code, severity)
    twin = gateway.store.packs[0]
    twin.acknowledged["bms_alarm"] = START_MS
    told = [text.split(":")[0] for text in worries(twin)]
    assert told == ["critical", "warning", "info", "hottest cell 44 °C", "critical"]
    assert worries(twin)[-1].endswith("(acknowledged)")


def test_a_pack_of_which_nothing_is_known_is_not_good(gateway: Gateway) -> None:
    gateway.feed("depot/A")
    gateway.birth("depot/Z")
    gateway.store.packs[1].received_ms = gateway.store.packs[0].received_ms  # not silent
    gateway.feed("depot/HOT", cell_temp_max_c=44.0)
    answer = packs(gateway)
    told = [(row["pack"], row["grade"], row["worry"]) for row in answer["packs"]]
    assert told == [("HOT", "fair", 40), ("Z", "unknown", 39), ("A", "good", 0)]
    assert [answer["fleet"][level] for level in ("poor", "fair", "unknown", "good")] == [0, 1, 1, 1]
    assert worries(gateway.store.packs[1]) == ["no value is known"]


def test_one_value_is_enough_to_be_graded(gateway: Gateway) -> None:
    gateway.birth("depot/P1")
    gateway.predict("depot/P1", "soh", 95.0)
    twin = gateway.store.packs[0]
    twin.received_ms = None
    assert (worry(twin), packs(gateway)["packs"][0]["grade"]) == (0, "good")


def test_values_that_are_impossible_are_named(gateway: Gateway) -> None:
    gateway.feed("depot/P1", cell_temp_max_c=900.0)
    assert "impossible and left out: cell_temp_max_c" in worries(gateway.store.packs[0])
    gateway.feed("depot/P1")
    assert worries(gateway.store.packs[0]) == []


def test_packs_that_are_away_are_found_the_longest_first(gateway: Gateway) -> None:
    for name, age_s in (("LONG", 9000), ("HERE", 0), ("SHORT", 2000), ("LEFT", 1)):
        gateway.feed(f"depot/{name}", received_ms=now_ms() - 1000 * age_s)
    gateway.birth("depot/LEFT", online=False)
    path = "/api/packs?only=away&sort=oldest"
    answer = ask(gateway.state, lambda server: request(server, path)).json()
    assert [row["pack"] for row in answer["packs"]] == ["LONG", "SHORT", "LEFT"]
    assert (answer["total"], answer["fleet"]["packs"]) == (3, 4)


def test_mqtt_nodes_name_their_broker(gateway: Gateway) -> None:
    flow = ask(gateway.state, lambda server: request(server, "/api/flow")).json()
    brokers = {node["id"]: node.get("broker", "") for node in flow["nodes"]}
    assert (brokers["in"], brokers["out"], brokers["local"], brokers["twin"]) == ("local", "local", "", "")
