"""What the agent makes of its settings for the editor: which flow it starts, who may use it, what flows may know."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edge import agent, health
from edge.agent import DEFAULT_FLOW, load_flow, make_auth, open_flow
from edge.editor.flow_files import Notice
from edge.editor.flow_store import FlowStore
from edge.settings import AgentSettings
from tests.gateway import Gateway, ask, request
from voltflow.admin.credentials import CompleteFlow
from voltflow.admin.users import make_user, write_users
from voltflow.engine.engine import Engine
from voltflow.flow.flow import Flow
from voltflow.settings import SettingsError


def settings(folder: Path, **given: Any) -> AgentSettings:
    return AgentSettings(gateway="gw1", state_dir=folder, **given)


def test_files_of_the_editor_are_in_the_state_dir_unless_they_are_named(tmp_path: Path) -> None:
    here = settings(tmp_path)
    assert (here.flow_path, here.users_path, here.files_path) == (
        tmp_path / "flows.json", tmp_path / "users.json", tmp_path / "files",
    )  # fmt: skip
    named = settings(tmp_path, flow="f.json", users_file="u.json", files_dir="d")
    assert (named.flow_path, named.users_path, named.files_path) == (
        Path("f.json"),
        Path("u.json"),
        Path("d"),
    )


def test_the_default_flow_runs_with_its_secrets_cut_out(tmp_path: Path) -> None:
    flow, env = load_flow(settings(tmp_path, broker_user="ann", broker_password="hidden"))
    assert isinstance(flow, CompleteFlow)
    assert flow.credentials["local"] == {
        "user": "${VOLTFLOW_AGENT_BROKER_USER}", "password": "${VOLTFLOW_AGENT_BROKER_PASSWORD}",
    }  # fmt: skip
    assert "BROKER_PASSWORD" not in flow.dumps()
    assert flow.build(env)["local"].node.password == "hidden"  # type: ignore[attr-defined]
    assert env["VOLTFLOW_AGENT_FILES_DIR"] == str(tmp_path / "files")
    assert list(tmp_path.iterdir()) == []


def test_flows_do_not_get_the_keys_of_the_gateway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who may deploy could have them shown."""
    monkeypatch.setenv("VOLTFLOW_AGENT_CREDENTIAL_SECRET", "the secret itself")
    monkeypatch.setenv("VOLTFLOW_AGENT_API_TOKEN", "the token itself")
    given = settings(tmp_path, credential_secret="the secret itself", api_token="the token itself")
    _, env = load_flow(given)
    assert not {"the secret itself", "the token itself"} & set(env.values())


def test_a_node_for_a_separate_uplink_follows_the_setting(tmp_path: Path) -> None:
    def states(flow: CompleteFlow) -> set[bool]:
        return {bool(raw.get("d")) for raw in flow.bare if raw.get("only")}

    _, together, _ = open_flow(settings(tmp_path))
    assert states(together) == {True}
    (tmp_path / "flows.json").write_text(together.dumps())
    _, separate, _ = open_flow(settings(tmp_path, uplink_host="mqtt.example.org"))
    assert states(separate) == {False}, "what a deploy wrote follows it, too"
    nodes = [{"d": raw["d"], **raw} if "d" in raw else raw for raw in together.bare]
    (tmp_path / "flows.json").write_text(json.dumps(nodes))
    _, again, _ = open_flow(settings(tmp_path))
    assert [list(raw) for raw in again.bare] == [list(raw) for raw in nodes], "as it is written"
    assert again.rev == together.rev, "whatever the order"


def test_a_flow_file_that_is_not_there_names_the_setting(tmp_path: Path) -> None:
    for read in (load_flow, open_flow):
        with pytest.raises(
            SettingsError, match=r"^flow = 'none\.json' cannot be read: No such file or directory; name"
        ):
            read(settings(tmp_path, flow="none.json"))


@pytest.mark.parametrize(
    ("given", "closed"),
    [
        ({}, ""),
        ({"api_host": "localhost"}, ""),
        ({"api_host": "0.0.0.0"}, "api_host = '0.0.0.0' is reachable from other machines and the editor has no users"),
        ({"api_token": "0123456789abcdef"}, "api_token is set and the editor has no users: add one with"),
        ({"editor": False}, "the editor is switched off: set editor = true"),
    ],
    ids=["default", "by name", "exposed", "token", "off"],
)  # fmt: skip
def test_the_editor_is_open_where_nobody_else_reaches_it(
    tmp_path: Path, given: dict[str, Any], closed: str
) -> None:
    assert make_auth(settings(tmp_path, **given)).closed.startswith(closed)
    assert bool(make_auth(settings(tmp_path, **given)).closed) == bool(closed)


def test_with_users_other_machines_may_use_it(tmp_path: Path) -> None:
    write_users(tmp_path / "users.json", [make_user("ann", "$2b$04$", "*")])
    auth = make_auth(settings(tmp_path, api_host="0.0.0.0"))
    assert (auth.closed, auth.required) == ("", True)


def test_health_and_flow_say_what_is_wrong_with_the_flow(tmp_path: Path) -> None:
    gateway = Gateway(tmp_path)
    state = gateway.state
    state.auth = make_auth(settings(tmp_path))
    state.flows = FlowStore(tmp_path / "flows.json", gateway.engine)
    (facts,) = [ask(state, lambda server: request(server, "/api/flow").json())]
    assert (facts["state"], facts["safe_mode"], facts["notices"]) == ("start", False, [])

    state.flows.files.notices = [Notice("safe_mode", "safe mode: the flow before it runs")]
    (tmp_path / "users.json").write_text("{")
    facts = ask(state, lambda server: request(server, "/api/flow").json())
    assert (facts["safe_mode"], facts["notices"]) == (True, ["safe mode: the flow before it runs"])
    assert state.auth.required
    reasons = {reason.code: reason.message for reason in health.health(state).reasons}
    assert reasons["safe_mode"] == "safe mode: the flow before it runs"
    assert reasons["users_unreadable"].startswith(f"users file '{tmp_path}/users.json' cannot be used")
    assert json.loads(DEFAULT_FLOW.read_text()), "nothing was written there"


def test_context_of_a_tab_with_nothing_but_a_subflow_is_kept() -> None:
    flow = Flow([
        {"id": "t", "type": "tab"}, {"id": "n", "type": "subflow:s", "z": "t", "wires": []},
        {"id": "s", "type": "subflow", "in": [], "out": []}, {"id": "d", "type": "debug", "z": "s", "wires": []},
    ])  # fmt: skip
    assert agent._scopes(Engine(flow, env={})) == ({"n-d"}, {"n", "t"})
