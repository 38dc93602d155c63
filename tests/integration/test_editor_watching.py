"""What an open editor sees of a flow: errors in the sidebar, and what runs inside of subflows."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.editors import TAB, Gateway, Socket, editing, inject_to_debug
from voltflow.engine.failure_notes import TOLD_PER_S

NO_JSON = "no JSON at all"


def fails(payload: str = NO_JSON) -> list[dict[str, Any]]:
    """Press `press`, and `parse` fails."""
    press, show = inject_to_debug(payload)[1:]
    parse = {"id": "parse", "type": "json", "z": "tab", "name": "to objects", "property": "payload", "action": "obj",
             "pretty": False, "x": 250, "y": 100, "wires": [["show"]]}  # fmt: skip
    return [TAB, {**press, "wires": [["parse"]]}, parse, show]


def subflow(*inside: dict[str, Any], entry: str) -> list[dict[str, Any]]:
    definition = {"id": "sub", "type": "subflow", "name": "Sub", "in": [{"x": 40, "y": 40, "wires": [{"id": entry}]}], "out": []}  # fmt: skip
    return [definition, *({**node, "z": "sub"} for node in inside)]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Any]:
    """`opened(nodes)`: a gateway with that flow, and an editor that looks at it."""
    with ExitStack() as stack:

        def start(nodes: list[dict[str, Any]]) -> tuple[Gateway, Socket]:
            gateway = stack.enter_context(editing(tmp_path, nodes))
            socket = stack.enter_context(Socket(gateway.url))
            socket.send(subscribe="status/#")
            return gateway, socket

        yield start


def press(gateway: Gateway, node: str = "press") -> None:
    assert gateway.ask("POST", f"/inject/{node}").status == 200


def debugged(socket: Socket) -> Iterator[dict[str, Any]]:
    """All that the sidebar gets; `until` passes over the rest of a frame."""
    while True:
        yield from (message["data"] for message in socket.packet() if message["topic"] == "debug")


# -- errors -----------------------------------------------------------------------------------------------------------


def test_message_that_fails_is_shown_with_its_node(opened: Any) -> None:
    gateway, socket = opened(fails())
    press(gateway)
    told = socket.until("debug", level=20)
    assert (told["id"], told["z"], told["path"], told["name"], told["type"]) == (
        "parse", "tab", "tab", "to objects", "json",
    )  # fmt: skip
    assert "JSON" in told["msg"]
    assert told["format"] == f"string[{len(told['msg'])}]"


def test_error_that_a_catch_node_hears_of_is_left_to_it(opened: Any) -> None:
    catch = {"id": "catch", "type": "catch", "z": "tab", "name": "", "scope": None, "uncaught": False, "x": 140, "y": 200,
             "wires": [["show"]]}  # fmt: skip
    gateway, socket = opened([*fails(), catch])
    press(gateway)
    first = socket.until("debug")
    assert (first["id"], first["msg"]) == ("show", NO_JSON)


def test_node_that_a_deploy_has_made_anew_is_red_no_longer(opened: Any) -> None:
    gateway, socket = opened(fails())
    press(gateway)
    socket.until("status/parse", fill="red", text="0/s, 1 error")
    assert gateway.deploy(fails()).status == 200
    socket.until("status/parse", fill="grey", text="0/s")


def test_many_errors_are_counted_and_not_all_shown(opened: Any) -> None:
    nodes = fails(json.dumps([NO_JSON] * 100))
    nodes[1] |= {"payloadType": "json", "wires": [["split"]]}
    split = {"id": "split", "type": "split", "z": "tab", "name": "", "splt": "\\n", "spltType": "str", "arraySplt": 1,
             "arraySpltType": "len", "stream": False, "addname": "", "property": "payload", "x": 200, "y": 100,
             "wires": [["parse"]]}  # fmt: skip
    gateway, socket = opened([*nodes, split])
    press(gateway)
    told = list(itertools.islice(debugged(socket), TOLD_PER_S + 1))
    assert [one["level"] for one in told] == [20] * TOLD_PER_S + [30]
    assert told[-1]["msg"] == f"{100 - TOLD_PER_S} more errors are not shown"


# -- subflows ---------------------------------------------------------------------------------------------------------


def test_subflow_shows_what_flows_through_its_instance_and_inside(opened: Any) -> None:
    _, press_node, show = inject_to_debug()
    parse = fails()[2]
    nodes = [
        TAB,
        {**press_node, "wires": [["one", "two"]]},
        *({"id": id, "type": "subflow:sub", "z": "tab", "name": "", "x": 300, "y": 100, "wires": []} for id in ("one", "two")),
        *subflow({**parse, "wires": [["show"]]}, show, entry="parse"),
    ]  # fmt: skip
    gateway, socket = opened(nodes)
    press(gateway)
    told = socket.until("debug", level=20)
    assert (told["id"], told["path"], told["_alias"]) == ("one-parse", "tab/one", "parse")
    seen = {"one": "0/s, 1 error", "two": "0/s, 1 error", "parse": "0/s, 2 errors"}  # drawn once, runs twice
    while seen:
        for message in socket.packet():
            id = message["topic"].removeprefix("status/")
            if id in seen and message["data"].get("text") == seen[id]:
                del seen[id]


def test_instance_shows_what_comes_to_the_status_output_of_its_subflow(opened: Any) -> None:
    _, press_node, show = inject_to_debug("charging")
    definition, *inside = subflow(show, entry="show")
    status = {"x": 300, "y": 40, "wires": [{"id": "sub", "port": 0}]}
    nodes = [
        TAB,
        {**press_node, "wires": [["one"]]},
        {"id": "one", "type": "subflow:sub", "z": "tab", "name": "", "x": 300, "y": 100, "wires": []},
        {**definition, "status": status},
        *inside,
    ]
    gateway, socket = opened(nodes)
    press(gateway)
    socket.until("status/one", text="charging")
    socket.until("status/press", fill="grey")  # once a second those that say nothing show what flows
    with Socket(gateway.url) as later:
        later.send(subscribe="status/#")
        later.until("status/one", text="charging")


def test_node_inside_shows_what_it_says_where_that_is_the_same_in_every_instance(opened: Any) -> None:
    _, press_node, show = inject_to_debug()
    counting = {**show, "tostatus": True, "statusType": "counter"}
    nodes = [
        TAB,
        {**press_node, "wires": [["one", "two"]]},
        {**press_node, "id": "again", "wires": [["one"]]},
        *({"id": id, "type": "subflow:sub", "z": "tab", "name": "", "x": 300, "y": 100, "wires": []} for id in ("one", "two")),
        *subflow(counting, entry="show"),
    ]  # fmt: skip
    gateway, socket = opened(nodes)
    press(gateway)
    socket.until("status/show", fill="blue", text="1")
    press(gateway, "again")
    told = socket.until("debug")
    assert (told["id"], told["z"], told["path"], told["_alias"]) == ("one-show", "one", "tab/one", "show")
    socket.until("status/show", fill="grey", text="0/s")  # one says 2, the other 1
