"""Example flows after Node-RED's cookbook: imported, run and exported again, by a gateway and by genuine Node-RED.

Each is a file of tests/data/node_red/recipes that names its recipe. What it does is said once, below, and holds for both.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests import servers
from tests.conftest import require
from tests.cookbook import PICTURE, House, web_server
from tests.node_red import FLOWS, NodeRed, Operator, flow_of, subscribed
from tests.programs import Agent
from tests.servers import wait_until


@pytest.fixture(scope="module", params=["voltflow", "node-red"])
def house(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("house")
    with ExitStack() as stack:
        broker = require(stack, servers.Mosquitto(log_type="subscribe"))
        web = stack.enter_context(web_server())
        environment = {"RECIPES_MQTT_PORT": str(broker.port), "RECIPES_WEB": web}
        (folder / "picture.bin").write_bytes(PICTURE)
        program: servers.Server
        if request.param == "node-red":
            program = NodeRed(environment, folder)
        else:
            program = Agent(broker, folder / "state", "--files-dir", str(folder))
            program.environment = environment
        require(stack, program)
        operator = stack.enter_context(Operator(program))
        yield House(operator, broker, f"http://127.0.0.1:{program.port}/endpoint")


# -- what each of them does -------------------------------------------------------------------------------------------

Scenario = Callable[[House], None]
RECIPES: dict[str, Scenario] = {}


def recipe(scenario: Scenario) -> Scenario:
    """The scenario of the flow file that has its name."""
    RECIPES[scenario.__name__.replace("_", "-")] = scenario
    return scenario


@recipe
def set_fixed(house: House) -> None:
    house.operator.press("set-fixed-press")
    assert house.operator.shown(2) == [("show", "LFP"), ("whole", {"low_v": 2.5, "high_v": 3.65})]


@recipe
def delete_property(house: House) -> None:
    house.operator.press("delete-property-press")
    [message] = house.operator.values()
    assert message["payload"] == {"soc_pct": 71, "gps": {"lon": 13.4}}
    assert not message.get("topic")


@recipe
def move_property(house: House) -> None:
    house.operator.press("move-property-press")
    [message] = house.operator.values()
    assert (message["payload"], message["pack"]) == ({"cell_v": 3.31}, {"name": "pack/7"})


@recipe
def map_range(house: House) -> None:
    house.operator.press(
        "map-range-steps-0", "map-range-steps-512", "map-range-steps-1023", "map-range-steps-2046"
    )
    shown = house.operator.shown(8)
    assert [value for name, value in shown if name == "show"] == [0, pytest.approx(2.5024438), 5, 5]
    assert [value for name, value in shown if name == "unbounded"] == [0, 3, 5, 10]


@recipe
def route_property(house: House) -> None:
    house.operator.press(*(f"route-property-{name}" for name in ("at-4", "at-61", "at-25", "no-number")))
    assert house.operator.shown(4) == [("cold", 4), ("hot", 61), ("fine", 25), ("else", "n/a")]


@recipe
def route_context(house: House) -> None:
    house.operator.press("route-context-reading")  # nothing is set yet: it goes nowhere
    for place in ("depot", "workshop"):
        house.operator.press(f"route-context-to-{place}")
        assert house.operator.shown() == [("told", place)]
        house.operator.press("route-context-reading")
        assert house.operator.shown() == [(place, 3.31)]
    house.operator.press("route-context-to-nowhere", "route-context-reading", "route-context-to-depot")
    assert house.operator.shown(2) == [("told", "nowhere"), ("told", "depot")]


@recipe
def at_start(house: House) -> None:
    assert house.operator.values() == ["started"]


@recipe
def at_interval(house: House) -> None:
    times_ms = house.operator.values(4)
    assert times_ms == sorted(set(times_ms))


@recipe
def slow_down(house: House) -> None:
    house.operator.press("slow-down-press")
    assert house.operator.values(6) == [1, 2, 3, 4, 5, 6]


@recipe
def newest_only(house: House) -> None:
    house.operator.press("newest-only-press", "newest-only-press")
    assert Counter(house.operator.shown(13)) == Counter(
        [("show", 1), *(("came", n) for n in (1, 2, 3, 4, 5, 6) * 2)]
    )


@recipe
def only_changes(house: House) -> None:
    house.operator.press("only-changes-press")
    assert house.operator.values(3) == ["open", "closed", "open"]
    house.operator.press("only-changes-other")
    assert house.operator.values() == ["open"]
    house.operator.press("only-changes-volts")
    assert house.operator.values(3) == [3.3, 3.36, 3.3]


@recipe
def join_streams(house: House) -> None:
    house.operator.press(
        "join-streams-temp_c", "join-streams-current_a", "join-streams-temp_c", "join-streams-voltage_v"
    )
    assert house.operator.values() == [{"voltage_v": 351.2, "current_a": -12, "temp_c": 24.5}]


@recipe
def number_lines(house: House) -> None:
    house.operator.press("number-lines-press")
    assert house.operator.values() == ["1. charge\n2. rest\n3. drive"]


@recipe
def each_element(house: House) -> None:
    house.operator.press("each-element-press")
    assert house.operator.values() == [[71, 72, 89, 90]]


@recipe
def watchdog(house: House) -> None:
    for _ in range(2):
        house.operator.press("watchdog-reading")
        assert house.operator.shown(2) == [("seen", 3.31), ("silent", "silent")]


@recipe
def placeholder(house: House) -> None:
    house.operator.press("placeholder-reading")
    assert house.operator.values(4) == [3.31, 0, 0, 0]
    house.operator.press("placeholder-reading")
    wait_until(lambda: house.operator.values() == [3.31], "the reading after the zeros")
    assert house.operator.values(2) == [0, 0]


@recipe
def convert_json(house: House) -> None:
    house.operator.press("convert-json-text", "convert-json-object")
    assert house.operator.values(2) == [
        {"pack": "P7", "cells": [3.31, 3.3]}, '{"pack":"P7","cells":[3.31,3.3],"ok":true,"error":null}',
    ]  # fmt: skip


@recipe
def convert_yaml(house: House) -> None:
    house.operator.press("convert-yaml-text", "convert-yaml-object")
    assert house.operator.values(2) == [
        {"pack": "P7", "cells": [3.31, 3.3], "note": None}, "pack: P7\ncells:\n  - 3.31\n  - 3.3\n",
    ]  # fmt: skip


@recipe
def write_csv(house: House) -> None:
    house.operator.press("write-csv-one", "write-csv-many")
    assert house.operator.values(2) == ['P7,71,"a, b"\n', 'pack,soc,note\nP7,71,\nP8,3.5,"""new"""\n']


@recipe
def read_csv(house: House) -> None:
    rows = [
        {"pack": "P7", "soc": 71, "note": "a, b"},
        {"pack": "P8", "soc": 3.5},
        {"pack": "P9", "soc": 100, "note": "ok"},
    ]
    house.operator.press("read-csv-press")
    shown = house.operator.shown(4)
    assert [value for name, value in shown if name == "show"] == [rows]
    assert [value for name, value in shown if name == "row"] == rows


@recipe
def on_error(house: House) -> None:
    house.operator.press("on-error-press")
    source = {"id": "on-error-parse", "type": "json", "name": "read it", "count": 1}
    assert house.operator.shown(2) == [("source", source), ("topic", "pack/7")]


@recipe
def retry(house: House) -> None:
    house.operator.press("retry-press")
    assert house.operator.shown(2) == [("failed", "json"), ("show", {"soc_pct": 71})]


@recipe
def endpoint(house: House) -> None:
    answer = house.ask("/about")
    assert (answer.status, answer.body) == (
        200,
        b"<html><head></head><body><h1>Hello, pack!</h1></body></html>",
    )
    assert answer.headers["content-type"] == "text/html; charset=utf-8"


@recipe
def query(house: House) -> None:
    assert house.page("/where?pack=%3CP7%3E&place=%3CJena%3E") == "<h1>Pack &lt;P7&gt; at <Jena></h1>"


@recipe
def url_parameter(house: House) -> None:
    assert house.page("/packs/P%207/cells/12") == "<h1>P 7, cell 12</h1>"
    assert house.ask("/packs/P7/cells").status == 404


@recipe
def request_headers(house: House) -> None:
    page = house.page("/who", User_Agent="tests/1", X_Asked_By="somebody")
    assert page == "<h1>User agent: tests&#x2F;1, somebody</h1>"


@recipe
def from_another_flow(house: House) -> None:
    house.operator.press("from-another-flow-reading")
    assert house.operator.values() == [3.31]
    assert house.page("/newest") == "<h1>3.31 V</h1>"


@recipe
def serve_json(house: House) -> None:
    answer = house.ask("/pack.json")
    assert (answer.status, answer.json()) == (200, {"pack": "P7", "soc_pct": 71})
    assert answer.headers["content-type"] == "application/json; charset=utf-8"


@recipe
def serve_file(house: House) -> None:
    answer = house.ask("/picture")
    assert (answer.status, answer.headers["content-type"], answer.body) == (200, "image/png", PICTURE)


@recipe
def post(house: House) -> None:
    page = "<p>Driver: Ann</p>"
    assert house.page("/name", b"name=Ann", Content_Type="application/x-www-form-urlencoded") == page
    assert house.page("/name", b'{"name": "Ann"}', Content_Type="application/json") == page
    assert house.page("/raw-name", b"Ann", Content_Type="text/plain") == page


@recipe
def cookies(house: House) -> None:
    assert house.page("/visits", Cookie="seen=yes; last=P7") == '<pre>{"seen":"yes","last":"P7"}</pre>'
    added, cleared = house.ask("/visits/add"), house.ask("/visits/clear")
    for answer in (added, cleared):
        assert (answer.status, answer.headers["location"]) == (302, "/endpoint/visits")


@recipe
def simple_get(house: House) -> None:
    house.operator.press("simple-get-press")
    assert house.operator.shown(2) == [("show", "hello from the web"), ("status", 200)]


@recipe
def url_template(house: House) -> None:
    house.operator.press("url-template-press")
    assert house.operator.values() == ["/packs/2"]


@recipe
def query_string(house: House) -> None:
    house.operator.press("query-string-press")
    [value] = house.operator.values()
    assert json.loads(value) == {"q": ['cells where text="a, b" & more'], "format": ["json"]}


@recipe
def parsed_answer(house: House) -> None:
    house.operator.press("parsed-answer-press")
    assert house.operator.values() == ["a title"]


@recipe
def binary_answer(house: House) -> None:
    house.operator.press("binary-answer-press")
    assert house.operator.values() == [PICTURE]


@recipe
def own_header(house: House) -> None:
    house.operator.press("own-header-press")
    assert house.operator.values() == [
        {"body": "from the depot", "x-auth-user": "ann", "x-auth-key": "a key"}
    ]


@recipe
def publish(house: House) -> None:
    house.operator.press("publish-press")
    assert house.operator.shown(2) == [("topic", "sensors/cell/temp"), ("show", 22)]


@recipe
def publish_topic(house: House) -> None:
    house.operator.press("publish-topic-press")
    assert house.operator.values() == ["sensors/kitchen/temp"]


@recipe
def retained(house: House) -> None:
    house.operator.press("retained-press", "retained-said")
    assert sorted(house.operator.values(2)) == [22, 23]
    assert (house.kept("sensors/roof/temp"), house.kept("sensors/yard/temp")) == (b"22", b"23")


@recipe
def receive_json(house: House) -> None:
    house.operator.press("receive-json-press")
    value = {"cell": 12, "temp_c": 13}
    assert sorted(house.operator.shown(2)) == [("detected", value), ("show", value)]


# ---------------------------------------------------------------------------------------------------------------------


def test_every_flow_names_its_recipe_and_has_its_scenario() -> None:
    assert {path.stem for path in FLOWS.glob("recipes/*.json")} == RECIPES.keys()
    for name in RECIPES:
        tabs = [node for node in flow_of(f"recipes/{name}") if node["type"] == "tab"]
        assert all("https://cookbook.nodered.org/" in tab["info"] for tab in tabs), name


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_flow_of_the_cookbook_is_imported_runs_and_is_exported_as_it_was(house: House, name: str) -> None:
    nodes = flow_of(f"recipes/{name}")
    before = len(house.broker.log)
    house.operator.deploy(nodes)
    subscribed(house.broker, nodes, before)
    RECIPES[name](house)
    assert house.operator.exported() == nodes
