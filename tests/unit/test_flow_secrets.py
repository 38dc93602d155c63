"""Secrets of the programs in flows: passwords of brokers and the like may name them, nothing else gets to see them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from cloud.bridge import BridgeSettings
from edge.agent import load_flow
from edge.settings import AgentSettings
from tests.flows import raw, running, until
from voltflow.flow.environment import Environment, Hidden, Shown, declare
from voltflow.flow.flow import Flow
from voltflow.node import REGISTRY, ConfigError, load_nodes, process_env

load_nodes("voltflow.nodes", "edge.nodes", "cloud.nodes")

NAME = "VOLTFLOW_AGENT_BROKER_PASSWORD"
HELD = "${" + NAME + "}"
SECRET = "the password itself"
BROKER = {"broker": "127.0.0.1"}
TAB = {"id": "tab", "type": "tab", "env": [
    {"name": "OTHER", "type": "env", "value": NAME}, {"name": "LONGER", "type": "env", "value": f"a {HELD}"},
    {"name": "PLAIN", "type": "env", "value": "SITE"},
]}  # fmt: skip


def agent_env(tmp_path: Path) -> dict[str, str]:
    return load_flow(AgentSettings(gateway="gw1", state_dir=tmp_path, broker_password=SECRET))[1]


def set_payload(to: str, kind: str) -> dict[str, Any]:
    rules = [{"t": "set", "p": "payload", "pt": "msg", "to": to, "tot": kind}]
    return {"id": "n", "type": "change", "z": "tab", "rules": rules, "wires": [["k"]]}


def template(text: str) -> dict[str, Any]:
    return {"id": "n", "type": "template", "z": "tab", "template": text, "wires": [["k"]]}


def python(func: str) -> dict[str, Any]:
    return {"id": "n", "type": "python", "z": "tab", "func": func, "wires": [["k"]]}


@pytest.mark.parametrize(
    "node",
    [
        set_payload(NAME, "env"), set_payload(f"it is {HELD}", "env"), set_payload("OTHER", "env"),
        set_payload("LONGER", "env"), set_payload("$parent.OTHER", "env"), set_payload(f'$env("{NAME}")', "jsonata"),
        set_payload('$env("LONGER")', "jsonata"), template("{{{env." + NAME + "}}}"), template("{{{env.OTHER}}}"),
        python("msg.payload = [env.get('" + NAME + "'), dict(env), repr(env), list(env.values())]\nreturn msg"),
    ],
    ids=["env", "text with it", "by another name", "text in a variable", "of further out", "jsonata", "jsonata by another name",
         "template", "template by another name", "python"],
)  # fmt: skip
def test_no_node_that_gives_values_to_the_flow_reads_it(tmp_path: Path, node: dict[str, Any]) -> None:
    async def scenario() -> None:
        env = {**agent_env(tmp_path), "SITE": "depot"}
        async with running(TAB, raw("s", "source", ["n"]), node, raw("k", "sink"), env=env) as lab:
            await lab.feed("s", "before")
            assert lab["k"].payloads() != ["before"], "what it was set to came"
            assert SECRET not in repr(lab["k"].payloads())

    asyncio.run(scenario())


def test_other_variables_are_read_as_ever(tmp_path: Path) -> None:
    async def scenario() -> None:
        env = {**agent_env(tmp_path), "SITE": "depot"}
        node = set_payload('$env("PLAIN") & $env("VOLTFLOW_AGENT_GATEWAY")', "jsonata")
        async with running(TAB, raw("s", "source", ["n"]), node, raw("k", "sink"), env=env) as lab:
            await lab.feed("s", 1)
            await until(lambda: lab["k"].payloads() == ["depotgw1"], "both")

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("kind", "properties"),
    [
        ("mqtt-broker", {**BROKER, "birthPayload": HELD}), ("mqtt-broker", {**BROKER, "user": HELD}),
        ("mqtt-broker", {"broker": HELD}), ("template", {"template": HELD}), ("http request", {"url": HELD}),
        ("http request", {"url": "http://127.0.0.1", "authType": "bearer", "password": HELD}),
    ],
    ids=["text it publishes", "user name", "address", "template", "address asked", "password of a node that gives answers"],
)  # fmt: skip
def test_properties_that_are_no_passwords_may_not_name_it(
    tmp_path: Path, kind: str, properties: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError, match=f"{NAME} is a secret of the program") as caught:
        REGISTRY[kind].build("n", properties, agent_env(tmp_path))
    assert SECRET not in str(caught.value)


def test_password_of_a_broker_may_name_it_also_by_another_name(tmp_path: Path) -> None:
    env = Environment(declare({}, TAB["env"]), agent_env(tmp_path))
    for value, expected in ((HELD, SECRET), ("${OTHER}", SECRET), ("${LONGER}", f"a {SECRET}")):
        node = REGISTRY["mqtt-broker"].build("n", {**BROKER, "password": value}, env)
        assert node.password == expected  # type: ignore[attr-defined]
        assert type(node.password) is str  # type: ignore[attr-defined]


def test_check_of_a_flow_names_the_property(tmp_path: Path) -> None:
    flow = Flow([{"id": "t", "type": "template", "template": HELD, "wires": []}])
    assert any(
        p.severity == "error" and 'property "template"' in p.text for p in flow.check(agent_env(tmp_path))
    )


def test_variables_of_the_process_are_hidden_whatever_program_they_are_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("VOLTFLOW_BRIDGE_DATABASE", "VOLTFLOW_BRIDGE_INFLUX_TOKEN", "VOLTFLOW_SIM_PASSWORD"):
        monkeypatch.setenv(name, SECRET)
    monkeypatch.setenv("MY_PASSWORD", "a flow's own")
    shown = Shown(Environment({}, process_env()))
    assert SECRET not in shown.values()
    assert shown["MY_PASSWORD"] == "a flow's own"
    assert len(shown) == len(list(shown))


def test_every_secret_setting_of_the_bridge_is_hidden() -> None:
    variables = BridgeSettings(metrics_token=SECRET, mqtt_password=SECRET, database=SECRET).variables()
    assert {type(value) for value in variables.values() if value == SECRET} == {Hidden}
