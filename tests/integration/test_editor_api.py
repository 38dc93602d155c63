"""The editor's endpoints and websocket on the agent's web server, with a real engine behind them."""

from __future__ import annotations

import gzip
import json
import logging
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from socket import create_connection
from typing import Any
from urllib.parse import urlencode

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from edge.editor.comms import QUEUE_LIMIT
from tests.conftest import do_without
from tests.editors import PASSWORD, TAB, Gateway, Socket, editing, inject_to_debug, need_files, wait_for
from tests.gateway import request
from tests.servers import Missing
from voltflow.admin.credentials import decrypt, encrypt
from voltflow.admin.editor_files import VERSION
from voltflow.admin.users import hash_password, make_user, write_users
from voltflow.nodes.mqtt_broker import MqttBroker

BROKER = {"id": "b", "type": "mqtt-broker", "name": "b", "broker": "127.0.0.1", "port": "1"}


@pytest.fixture(scope="module", autouse=True)
def files() -> None:
    try:
        need_files()
    except Missing as reason:
        do_without(reason)


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    with editing(tmp_path, inject_to_debug()) as running:
        yield running


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Gateway]:
    """One with users."""
    with editing(tmp_path, inject_to_debug(), {"reader": "read", "writer": "*"}) as running:
        yield running


# -- the page ---------------------------------------------------------------------------------------------------------


def test_address_without_its_slash_is_sent_on(gateway: Gateway) -> None:
    answer = gateway.ask("GET", "")
    assert (answer.status, answer.headers["location"]) == (301, "editor/")


def test_page_names_its_files_under_addresses_that_may_be_kept(gateway: Gateway) -> None:
    answer = gateway.ask("GET", "/")
    page, buster = answer.body.decode(), gateway.editor.files.buster
    assert "<title>Voltflow</title>" in page
    assert f'<script src="red/red.min.js?v={buster}"></script>' in page
    assert f'<script src="voltflow/editor.js?v={buster}"></script>' in page
    assert answer.headers["cache-control"] == "no-cache"
    kept = gateway.ask("GET", f"/red/red.min.js?v={buster}")
    assert kept.headers["cache-control"] == "public, max-age=31536000, immutable"


def test_file_is_sent_as_it_is_stored_and_asked_for_once(gateway: Gateway) -> None:
    small = gateway.ask("GET", "/red/style.min.css", Accept_Encoding="gzip")
    plain = gateway.ask("GET", "/red/style.min.css")
    assert small.headers["content-encoding"] == "gzip"
    assert gzip.decompress(small.body) == plain.body
    assert plain.headers["content-type"] == "text/css; charset=utf-8"
    again = gateway.ask("GET", "/red/style.min.css", If_None_Match=plain.headers["etag"])
    assert (again.status, again.body) == (304, b"")


@pytest.mark.parametrize(
    "path", ["/red/../../NOTICE", "/red/%2e%2e/%2e%2e/installed.json", "/vendor//etc/passwd"]
)
def test_nothing_but_the_editors_files_is_sent(gateway: Gateway, path: str) -> None:
    assert gateway.ask("GET", path).status == 404


def test_content_policy_is_the_editors_own_and_only_its(gateway: Gateway) -> None:
    editors = gateway.ask("GET", "/").headers["content-security-policy"]
    pages = request(gateway.server, "/").headers["content-security-policy"]
    assert "script-src 'self' 'unsafe-inline'; " in editors
    assert "unsafe" not in pages
    for policy in (editors, pages):
        assert "frame-ancestors 'none'" in policy


def test_texts_and_icons(gateway: Gateway) -> None:
    for query in ("", "?lng=en-US"):
        assert gateway.get(f"/locales/node-red{query}")["inject"]["inject"] == "inject"
    assert gateway.get("/locales/node-red?lng=de") == {}
    assert gateway.get("/locales/nobody") == {}
    svg = gateway.ask("GET", "/icons/node-red/inject.svg")
    assert svg.headers["content-type"] == "image/svg+xml; charset=utf-8"
    assert svg.headers["cache-control"] == "public, max-age=86400"
    unknown = gateway.ask("GET", "/icons/elsewhere/nothing.png")
    assert unknown.body == gateway.ask("GET", "/icons/node-red/arrow-in.svg").body


# -- palette and settings ---------------------------------------------------------------------------------------------


def test_settings_keep_the_browser_from_asking_outside(gateway: Gateway) -> None:
    settings = gateway.get("/settings")
    assert settings["version"] == VERSION
    assert settings["telemetryEnabled"] is False
    assert settings["externalModules"] == {"palette": {"allowInstall": False, "allowUpload": False}}
    assert settings["context"] == {"default": "memory", "stores": ["memory"]}
    assert "user" not in settings


def test_settings_of_a_user_are_merged_and_outlive_a_restart(tmp_path: Path) -> None:
    with editing(tmp_path, [TAB]) as gateway:
        for part in (
            {"editor": {"view": {"grid": True}}},
            {"editor": {"view": {"snap": 5}}},
            {"old": 1},
            {"old": None},
        ):
            assert gateway.ask("POST", "/settings/user", part).status == 204
    with editing(tmp_path, [TAB]) as gateway:
        assert gateway.get("/settings/user") == {"editor": {"view": {"grid": True, "snap": 5}}}


def test_nodes_are_a_list_or_html_as_asked(gateway: Gateway) -> None:
    sets = {item["id"]: item for item in gateway.get("/nodes", Accept="application/json")}
    assert sets["node-red/inject"] == {
        "id": "node-red/inject", "name": "inject", "types": ["inject"], "enabled": True, "local": False, "user": False,
        "module": "node-red", "version": VERSION,
    }  # fmt: skip
    assert sets["voltflow/alert"]["types"] == ["alert"]
    page = gateway.ask("GET", "/nodes", Accept="text/html").body.decode()
    assert page.count("<!-- --- [red-module:") == len(sets)
    one = gateway.ask("GET", "/nodes/voltflow/alert", Accept="text/html").body.decode()
    assert one.startswith("<!-- --- [red-module:voltflow/alert] --- -->")
    assert one in page
    assert gateway.ask("GET", "/nodes/nobody").status == 404


def test_set_is_switched_off_unless_it_is_used(gateway: Gateway) -> None:
    used = gateway.ask("PUT", "/nodes/node-red/debug", {"enabled": False})
    assert used.json() == {
        "code": "type_in_use",
        "message": "the flow uses debug: take those nodes out first",
    }
    with Socket(gateway.url) as socket:
        assert gateway.ask("PUT", "/nodes/voltflow/alert", {"enabled": False}).json()["enabled"] is False
        assert socket.until("notification/node/disabled")["id"] == "voltflow/alert"
    assert "red-module:voltflow/alert" not in gateway.ask("GET", "/nodes").body.decode()
    refused = gateway.deploy([TAB, {"id": "a", "type": "alert", "z": "tab", "wires": []}])
    assert refused.json()["message"] == "switched off here: alert"
    assert gateway.ask("PUT", "/nodes/voltflow/alert", {"enabled": True}).json()["enabled"] is True


@pytest.mark.parametrize(("method", "path"), [("POST", "/nodes"), ("DELETE", "/nodes/voltflow")])
def test_nothing_is_installed_or_removed(gateway: Gateway, method: str, path: str) -> None:
    answer = gateway.ask(method, path, {"module": "node-red-contrib-x"})
    assert (answer.status, answer.json()["code"]) == (400, "not_supported")


# -- flows ------------------------------------------------------------------------------------------------------------


def test_flows_in_both_versions_of_the_api(gateway: Gateway) -> None:
    v2 = gateway.get("/flows", Node_RED_API_Version="v2")
    assert v2 == {"flows": inject_to_debug(), "rev": gateway.store.rev}
    assert gateway.get("/flows") == inject_to_debug()
    wrong = gateway.ask("GET", "/flows", Node_RED_API_Version="v3")
    assert (wrong.status, wrong.json()["code"]) == (400, "invalid_api_version")
    assert gateway.ask("POST", "/flows", inject_to_debug("v1")).status == 204
    assert gateway.get("/flows") == inject_to_debug("v1")


def test_deploy_gives_the_revision_and_a_stale_one_is_refused(gateway: Gateway) -> None:
    before = gateway.store.rev
    first = gateway.deploy(inject_to_debug("one"), before, "nodes")
    assert first.json() == {"rev": gateway.store.rev}
    stale = gateway.deploy(inject_to_debug("two"), before)
    assert (stale.status, stale.json()["code"]) == (409, "version_mismatch")
    assert gateway.deploy(inject_to_debug("two")).status == 200
    assert gateway.get("/flows") == inject_to_debug("two")


def test_deploy_of_what_cannot_run_changes_nothing_and_names_it(gateway: Gateway) -> None:
    wrong = inject_to_debug()
    wrong[1] |= {"repeat": "-1", "name": "<b>press</b>"}
    answer = gateway.deploy(wrong)
    assert answer.status == 400
    assert b"<" not in answer.body
    assert b">" not in answer.body
    assert answer.json()["message"].startswith(
        "inject '<b>press</b>': property \"repeat\": -1.0 is out of range"
    )
    shown = gateway.deploy_as_the_page(wrong)
    assert shown.body.startswith(
        b"<ul><li>inject &#x27;&lt;b&gt;press&lt;/b&gt;&#x27;: property &quot;repeat&quot;"
    )
    assert gateway.get("/flows") == inject_to_debug()


@pytest.mark.parametrize("body", ["{", '{"flows": 1}', '{"flows": [{"id": 1}]}', "[]"])
def test_deploy_of_what_is_no_flow(gateway: Gateway, body: str) -> None:
    answer = gateway.ask("POST", "/flows", body, Content_Type="application/json", Node_RED_API_Version="v2")
    assert answer.status == 400
    assert gateway.get("/flows") == inject_to_debug()


@pytest.mark.parametrize("number", ["NaN", "-Infinity", "1e400"])
def test_number_that_no_browser_reads_is_refused(gateway: Gateway, number: str) -> None:
    """Every page that asked for it afterwards would hang."""
    text = json.dumps(inject_to_debug()).replace("140", number)
    for path, body in (
        ("/flows", text),
        ("/settings/user", f'{{"x": {number}}}'),
        ("/flow", f'{{"x": {number}}}'),
    ):
        refused = gateway.ask("POST", path, body, Content_Type="application/json")
        assert (refused.status, refused.json()["code"]) == (400, "invalid_json")
        assert refused.json()["message"] == f"the body is not JSON: {number} is no finite number"
    assert gateway.get("/flows") == inject_to_debug()
    assert gateway.get("/settings/user") == {}


@pytest.mark.parametrize("connection", ["close", "keep-alive"])
@pytest.mark.parametrize(("token", "status"), [("", 413), ("0123456789abcdef", 403)])
def test_body_that_is_not_wanted_is_answered(
    tmp_path: Path, connection: str, token: str, status: int
) -> None:
    """`flow push` closes the connection behind the answer."""
    with editing(tmp_path, token=token) as gateway:
        body = b"[" + b" " * 60_000_000
        answer = gateway.ask("POST", "/flows", body, Connection=connection)
        assert (answer.status, bool(answer.json()["message"])) == (status, True)
        if status == 413:  # what is refused unread, who expects this does not send
            answer = gateway.ask("POST", "/flows", body, Connection=connection, Expect="100-continue")
            assert answer.status == 413


def test_large_flow_with_any_text_is_taken(gateway: Gateway) -> None:
    nodes = inject_to_debug("°C → 漢字 😀" + "x" * 300_000)
    assert gateway.deploy(nodes).status == 200
    assert gateway.get("/flows") == nodes
    half = gateway.deploy(inject_to_debug("\ud83d"))
    assert (half.status, half.json()["code"]) == (400, "invalid_flow")
    assert gateway.ask("POST", "/flows", b"[" + b" " * 5_000_001).status == 413


def test_reload_takes_what_the_file_says(gateway: Gateway) -> None:
    gateway.store.files.path.write_text(json.dumps(inject_to_debug("by hand")))
    answer = gateway.ask("POST", "/flows", Node_RED_API_Version="v2", Node_RED_Deployment_Type="reload")
    assert answer.json() == {"rev": gateway.store.rev}
    assert gateway.get("/flows") == inject_to_debug("by hand")


def test_flow_stops_and_starts(gateway: Gateway) -> None:
    assert gateway.get("/flows/state") == {"state": "start"}
    form = urlencode({"state": "stop"})
    answer = gateway.ask("POST", "/flows/state", form, Content_Type="application/x-www-form-urlencoded")
    assert answer.json() == {"state": "stop"}
    with Socket(gateway.url) as socket:
        socket.send(subscribe="notification/#")
        socket.until("notification/runtime-state", state="stop")
        assert gateway.ask("POST", "/flows/state", {"state": "start"}).json() == {"state": "start"}
        socket.until("notification/runtime-state", state="start")
    assert gateway.ask("POST", "/flows/state", {"state": "fly"}).json()["code"] == "invalid_run_state"


def test_one_tab_is_added_read_replaced_and_deleted(gateway: Gateway) -> None:
    comment = {"id": "c", "type": "comment", "name": "hello", "x": 1, "y": 1, "wires": []}
    id = gateway.ask("POST", "/flow", {"label": "second", "nodes": [comment]}).json()["id"]
    assert gateway.get(f"/flow/{id}") == {"id": id, "label": "second", "nodes": [{**comment, "z": id}]}
    double = gateway.ask("POST", "/flow", {"label": "third", "nodes": [comment]})
    assert double.json() == {"code": "invalid_flow", "message": "duplicate id: c"}
    assert gateway.ask("PUT", f"/flow/{id}", {"label": "new", "nodes": []}).json() == {"id": id}
    assert gateway.get(f"/flow/{id}") == {"id": id, "label": "new", "nodes": []}
    assert gateway.ask("DELETE", f"/flow/{id}").status == 204
    assert gateway.ask("GET", f"/flow/{id}").status == 404
    assert gateway.get("/flows") == inject_to_debug()


def test_flow_that_would_run_where_nobody_sees_it_is_refused(gateway: Gateway) -> None:
    lost = {"id": "n", "type": "debug", "name": "lost", "z": "gone", "wires": []}
    refused = gateway.deploy([TAB, lost])
    assert (refused.status, refused.json()["message"]) == (
        400,
        'debug \'lost\': property "z": tab "gone" is not in the flow',
    )
    nothing = gateway.ask("POST", "/flow", {})
    assert (nothing.status, nothing.json()["message"]) == (
        400,
        'property "nodes" is missing: a list of nodes, which may be empty',
    )
    assert gateway.get("/flows") == inject_to_debug()


def test_global_flow_is_config_nodes_and_subflows(gateway: Gateway) -> None:
    subflow = {"id": "s", "type": "subflow", "name": "s", "in": [], "out": []}
    inner = {"id": "i", "type": "comment", "z": "s", "name": "", "x": 1, "y": 1, "wires": []}
    assert gateway.deploy([*inject_to_debug(), BROKER, subflow, inner]).status == 200
    found = gateway.get("/flow/global")
    assert found == {"id": "global", "configs": [BROKER], "subflows": [{**subflow, "nodes": [inner]}]}
    assert gateway.ask("PUT", "/flow/global", {**found, "configs": []}).status == 200
    assert gateway.get("/flow/global") == {**found, "configs": []}


def test_credentials_are_cut_out_and_only_told_of(gateway: Gateway) -> None:
    secret = {"user": "ann", "password": "s3cret-of-ann"}
    assert gateway.deploy([TAB, {**BROKER, "credentials": secret}]).status == 200
    assert gateway.get("/flows") == [TAB, BROKER]
    assert gateway.get("/credentials/mqtt-broker/b") == {"user": "ann", "has_password": True}
    assert gateway.get("/credentials/mqtt-broker/nobody") == {}
    for wrong in (
        "inject",
        "tls-config",
        "debug",
        "mqtt-out",
        "mqtt%20out",
        "subflow",
        "subflow:b",
        "tab",
        "nothing",
    ):
        answer = gateway.ask("GET", f"/credentials/{wrong}/b")
        assert (answer.status, answer.json()["code"]) == (404, "not_found"), wrong
        assert b"s3cret" not in answer.body
        assert gateway.get(f"/credentials/{wrong}/nobody") == {}


OTHER = {**BROKER, "id": "c", "port": "2"}
ANN = {"user": "ann", "password": "s3cret-of-ann"}
BOB = {"user": "bob", "password": "s3cret-of-bob"}


def deploy_with(gateway: Gateway, credentials: Any, *nodes: Any) -> Any:
    body = {"flows": [TAB, *nodes], "credentials": credentials}
    return gateway.ask("POST", "/flows", body, Node_RED_API_Version="v2")


def kept_credentials(folder: Path) -> Any:
    """What Node-RED would read with the same secret."""
    secret = (folder / "credential_secret").read_text()
    return decrypt(json.loads((folder / "flows_cred.json").read_bytes()), secret)


def test_credentials_may_be_sent_as_a_whole_beside_the_flow(gateway: Gateway, tmp_path: Path) -> None:
    assert deploy_with(gateway, {"b": ANN, "gone": BOB}, BROKER, OTHER).status == 200
    assert gateway.get("/flows") == [TAB, BROKER, OTHER]
    assert kept_credentials(tmp_path) == {"b": ANN}, "of nodes that are there"
    running = gateway.engine.nodes["b"].node
    assert isinstance(running, MqttBroker)
    assert (running.user, running.password) == ("ann", "s3cret-of-ann")
    # plain ones are those of the nodes they name, whatever the nodes bring; others keep theirs
    assert deploy_with(gateway, {"c": {"user": "bob"}}, BROKER, {**OTHER, "credentials": BOB}).status == 200
    assert kept_credentials(tmp_path) == {"b": ANN, "c": {"user": "bob"}}


def test_encrypted_credentials_are_all_there_are(gateway: Gateway, tmp_path: Path) -> None:
    assert deploy_with(gateway, {"b": ANN}, BROKER, OTHER).status == 200
    secret = (tmp_path / "credential_secret").read_text()
    assert deploy_with(gateway, encrypt({"c": BOB}, secret), BROKER, OTHER).status == 200
    assert kept_credentials(tmp_path) == {"c": BOB}
    assert gateway.get("/credentials/mqtt-broker/b") == {}
    assert gateway.get("/credentials/mqtt-broker/c") == {"user": "bob", "has_password": True}


@pytest.mark.parametrize(
    ("credentials", "text"),
    [
        (encrypt({"c": BOB}, "another secret"), "the credentials cannot be decrypted"),
        (["b"], "credentials are an object of objects"),
        ("text", "credentials are an object of objects"),
    ],
)
def test_credentials_that_cannot_be_read_are_refused(
    gateway: Gateway, tmp_path: Path, credentials: Any, text: str
) -> None:
    assert deploy_with(gateway, {"b": ANN}, BROKER).status == 200
    answer = deploy_with(gateway, credentials, OTHER)
    assert (answer.status, answer.json()["code"]) == (400, "invalid_credentials")
    assert text in answer.json()["message"]
    assert kept_credentials(tmp_path) == {"b": ANN}
    assert gateway.get("/flows") == [TAB, BROKER]


# -- the running flow -------------------------------------------------------------------------------------------------


def test_button_is_pressed_and_debug_tells_every_editor(gateway: Gateway) -> None:
    with Socket(gateway.url) as one, Socket(gateway.url) as other:
        assert gateway.ask("POST", "/inject/press").body == b"OK"
        for socket in (one, other):
            told = socket.until("debug")
            assert (told["id"], told["msg"], told["format"], told["topic"]) == (
                "show",
                "hello",
                "string[5]",
                "t",
            )
        props = {"__user_inject_props__": [{"p": "payload", "v": "7", "vt": "num"}]}
        assert gateway.ask("POST", "/inject/press", props).status == 200
        assert one.until("debug")["msg"] == "7"
    assert gateway.ask("POST", "/inject/nobody").status == 404
    assert gateway.ask("POST", "/inject/show").status == 404


def test_debug_node_is_switched(gateway: Gateway) -> None:
    assert gateway.ask("POST", "/debug/show/disable").status == 201
    assert gateway.engine.nodes["show"].node.active is False  # type: ignore[attr-defined]
    form = urlencode({"nodes[]": ["show"]}, doseq=True)
    many = gateway.ask("POST", "/debug/enable", form, Content_Type="application/x-www-form-urlencoded")
    assert many.status == 200
    assert gateway.engine.nodes["show"].node.active is True  # type: ignore[attr-defined]
    assert gateway.ask("POST", "/debug/nobody/enable").status == 404


def test_contexts_are_read_and_deleted(gateway: Gateway) -> None:
    gateway.in_loop(lambda: gateway.contexts.scope("global").set("n", 42))
    gateway.in_loop(lambda: gateway.contexts.scope("node", "show").set("a/b", [1]))
    assert gateway.get("/context/global") == {"memory": {"n": {"msg": "42", "format": "number"}}}
    assert gateway.get("/context/global?keysOnly") == {"memory": {"keys": ["n"]}}
    assert gateway.get("/context/global/n?store=memory") == {"msg": "42", "format": "number"}
    assert gateway.get("/context/node/show/a/b") == {"msg": "[1]", "format": "array[1]"}
    assert gateway.get("/context/flow/tab") == {"memory": {}}
    assert gateway.ask("DELETE", "/context/global/n").status == 204
    assert gateway.get("/context/global/n") == {"msg": "(undefined)", "format": "undefined"}
    assert gateway.ask("GET", "/context/global?store=disk").status == 404


# -- /comms -----------------------------------------------------------------------------------------------------------


def test_a_deploy_is_told_to_open_editors_and_to_later_ones(gateway: Gateway) -> None:
    with Socket(gateway.url) as socket:
        rev = gateway.deploy(inject_to_debug("new")).json()["rev"]
        assert socket.until("notification/runtime-deploy") == {"revision": rev}
    with Socket(gateway.url) as later:
        later.send(subscribe="notification/#")
        assert later.until("notification/runtime-deploy") == {"revision": rev}


def test_node_without_a_badge_shows_what_flows(gateway: Gateway) -> None:
    with Socket(gateway.url) as socket:
        gateway.ask("POST", "/inject/press")
        shown = socket.until("status/show", fill="grey", shape="ring")
        assert shown["text"].endswith("/s")
        socket.until("status/show", text="0/s")
        with Socket(gateway.url) as later:  # which is told of what others have seen
            later.send(subscribe="status/#")
            later.until("status/show", text="0/s")


def test_nodes_own_badge_is_shown_at_once_and_goes_with_the_node(gateway: Gateway) -> None:
    nodes = inject_to_debug()
    nodes[2]["tostatus"] = True
    gateway.deploy(nodes)
    with Socket(gateway.url) as socket:
        socket.send(subscribe="status/#")
        gateway.ask("POST", "/inject/press")
        socket.until("status/show", fill="grey", shape="dot", text="hello")
        gateway.deploy(nodes[:1])
        while socket.until("status/show"):
            pass


def test_nobody_listens_when_nobody_looks(gateway: Gateway) -> None:
    """Debug messages are only made where somebody sees them."""
    with Socket(gateway.url):
        wait_for(lambda: gateway.engine.events.heard, "listening")
    wait_for(lambda: not gateway.engine.events.heard, "not listening")


def test_browser_that_reads_nothing_costs_no_memory(gateway: Gateway) -> None:
    with Socket(gateway.url) as slow, Socket(gateway.url) as quick:
        text = {"msg": "x" * 2_000, "format": "string[2000]"}

        def flood() -> None:
            for number in range(QUEUE_LIMIT + 500):
                gateway.editor.comms.publish("debug", {**text, "number": number})

        gateway.in_loop(flood)
        lost = quick.until("debug", level=30)
        assert lost["msg"] == "500 messages are not shown: the browser did not take them in time"
        slow.connection.close()


def test_page_of_another_site_is_refused(gateway: Gateway) -> None:
    with pytest.raises(InvalidStatus), Socket(gateway.url, origin="http://evil.example"):
        pass
    refused = gateway.ask("POST", "/inject/press", Origin="http://evil.example")
    assert (refused.status, refused.json()["code"]) == (403, "wrong_origin")
    own = f"http://{gateway.server.host}:{gateway.server.port}"
    assert gateway.ask("POST", "/inject/press", Origin=own).status == 200
    with Socket(gateway.url, origin=own):
        pass
    assert gateway.ask("GET", "/flows", Host="evil.example").status == 421


def test_who_deployed_what_stands_in_the_log(guarded: Gateway, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "edge.editor")
    writer, reader = guarded.login("writer"), guarded.login("reader")
    nodes = [*inject_to_debug("other"), {**BROKER, "credentials": {"password": "s3cret"}}]
    rev = guarded.deploy(nodes, kind="nodes", token=writer).json()["rev"]
    assert (
        f"writer from 127.0.0.1 deployed (nodes): 1 added, 1 changed; revision {rev[:12]}" in caplog.messages
    )
    guarded.ask("POST", "/flows/state", {"state": "stop"}, token=writer)
    assert "writer from 127.0.0.1: flows stopped" in caplog.messages

    caplog.clear()
    assert guarded.deploy([], token=reader).status == 401
    assert guarded.deploy([], "0" * 64, token=writer).status == 409
    wrong = {**BROKER, "name": "a\nb\x1b[2J", "port": "many"}
    assert guarded.deploy([TAB, wrong], kind="flows", token=writer).status == 400
    assert {record.levelname for record in caplog.records} == {"WARNING"}
    refused = "POST /flows ({}) of {} from 127.0.0.1 refused ({}): {}"
    wanted = [
        refused.format("full", "reader", 401, "log in as a user with the permission flows.write"),
        refused.format(
            "full", "writer", 409, "the flow has been deployed by somebody else since it was read"
        ),
        refused.format("flows", "writer", 400, r"mqtt-broker 'a\nb\x1b[2J': property"),
    ]
    assert [told[: len(line)] for told, line in zip(caplog.messages, wanted, strict=True)] == wanted
    assert "s3cret" not in caplog.text


# -- logins -----------------------------------------------------------------------------------------------------------


def test_without_users_nobody_logs_in(gateway: Gateway) -> None:
    assert gateway.get("/auth/login") == {}


def test_login_by_form_and_by_json_then_what_the_user_may(guarded: Gateway) -> None:
    assert [prompt["id"] for prompt in guarded.get("/auth/login")["prompts"]] == ["username", "password"]
    fields = {"client_id": "node-red-editor", "grant_type": "password", "scope": "", "username": "reader",
              "password": PASSWORD}  # fmt: skip
    form = guarded.ask(
        "POST", "/auth/token", urlencode(fields), Content_Type="application/x-www-form-urlencoded"
    )
    login = form.json()
    assert (login["expires_in"], login["token_type"]) == (604_800, "Bearer")
    token = login["access_token"]
    json_token = guarded.ask(
        "POST", "/auth/token", {**fields, "client_id": "node-red-admin", "scope": "read"}
    ).json()
    assert set(json_token) == {"access_token", "expires_in", "token_type"}

    assert guarded.ask("GET", "/flows").status == 401
    assert guarded.ask("GET", "/flows", token=token).status == 200
    assert guarded.ask("GET", "/settings", token=token).json()["user"] == {
        "username": "reader",
        "permissions": "read",
    }
    assert guarded.deploy([TAB], token=token).status == 401
    revoked = urlencode({"token": token})
    form_type = {"Content_Type": "application/x-www-form-urlencoded"}
    assert guarded.ask("POST", "/auth/revoke", revoked, token=token, **form_type).status == 200
    assert guarded.ask("GET", "/flows", token=token).status == 401


def test_wrong_logins(guarded: Gateway) -> None:
    fields = {
        "client_id": "node-red-admin",
        "grant_type": "password",
        "username": "reader",
        "password": "wrong",
    }
    wrong = guarded.ask("POST", "/auth/token", fields)
    assert (wrong.status, wrong.json()["error"]) == (403, "invalid_grant")
    wide = guarded.ask("POST", "/auth/token", {**fields, "password": PASSWORD, "scope": "*"})
    assert (wide.status, wide.json()["error"]) == (403, "invalid_grant")
    other = guarded.ask("POST", "/auth/token", {**fields, "client_id": "other"})
    assert (other.status, other.json()["error"]) == (400, "invalid_request")


def test_page_is_open_and_everything_else_is_not(guarded: Gateway) -> None:
    for path in ("/", "/theme", "/locales/editor", "/red/red.min.js", "/icons/node-red/inject.svg", "/auth/login",
                 "/debug/view/debug-utils.js", "/voltflow/editor.js"):  # fmt: skip
        assert guarded.ask("GET", path).status == 200, path
    for route in guarded.editor.wsgi.routes:
        path = route.rule.replace("<", "").replace(">", "")
        if not path.startswith(("/theme", "/locales", "/red", "/vendor", "/icons/", "/auth", "/favicon", "/voltflow", "/types",
                                "/debug/view")) and path != "/":  # fmt: skip
            assert guarded.ask(route.method, path, {}).status in (401, 404), path


def test_websocket_wants_a_token_first(guarded: Gateway) -> None:
    with Socket(guarded.url) as good:
        good.send(auth=guarded.login("reader"))
        assert good.packet() == {"auth": "ok"}
        guarded.ask("POST", "/inject/press", token=guarded.login("writer"))
        assert good.until("debug")["msg"] == "hello"
    for packet in ({"auth": "no such token"}, {"subscribe": "status/#"}):
        with Socket(guarded.url) as bad:
            bad.send(**packet)
            assert bad.packet() == {"auth": "fail"}
            with pytest.raises(ConnectionClosed):
                bad.packet()


def test_the_apis_token_does_not_stand_before_the_editor(tmp_path: Path) -> None:
    """It has logins of its own; the API still asks for the token."""
    with editing(tmp_path, inject_to_debug(), {"writer": "*"}, token="0123456789abcdef") as gateway:
        assert gateway.ask("GET", "/").status == 200
        assert gateway.ask("GET", "/flows").status == 401
        assert gateway.ask("GET", "/flows", token="0123456789abcdef").status == 401
        assert request(gateway.server, "/api/flow").status == 401


def test_with_the_apis_token_and_no_users_the_editor_is_closed(tmp_path: Path) -> None:
    """A page whose name was rebound to this machine, or a proxy, must not deploy what the token keeps from the API."""
    with editing(tmp_path, inject_to_debug(), token="0123456789abcdef") as gateway:
        own = {
            "Host": f"evil.example:{gateway.server.port}",
            "Origin": f"http://evil.example:{gateway.server.port}",
        }
        for headers in ({}, own):
            for method, path in (
                ("GET", "/flows"),
                ("POST", "/flows"),
                ("POST", "/inject/press"),
                ("POST", "/auth/token"),
            ):
                refused = gateway.ask(method, path, **headers)
                assert (refused.status, refused.json()["code"]) == (403, "closed"), path
            page = gateway.ask("GET", "/", **headers)
            assert (page.status, b"voltflow users add NAME" in page.body) == (403, True)
        with pytest.raises(InvalidStatus), Socket(gateway.url):
            pass
        write_users(tmp_path / "users.json", [make_user("ann", hash_password(PASSWORD), "*")])
        assert gateway.ask("GET", "/flows", token=gateway.login("ann"), Host="gateway.example").status == 200


def as_host(gateway: Gateway, name: str) -> Socket:
    """The websocket of a page of that name, which leads to the gateway."""
    address = (gateway.server.host, gateway.server.port)
    url = f"http://{name}:{gateway.server.port}"
    return Socket(f"{url}/editor", origin=url, sock=create_connection(address))


def test_where_nobody_logs_in_a_foreign_host_is_refused(tmp_path: Path) -> None:
    """Whoever made the server with a token, and forgot to tell the editor."""
    for token in ("", "0123456789abcdef"):
        with editing(tmp_path, inject_to_debug(), token=token) as gateway:
            gateway.auth._api_token = False
            own = {"Host": "evil.example", "Origin": "http://evil.example"}
            for method, path in (("GET", "/"), ("GET", "/flows"), ("POST", "/inject/press")):
                assert gateway.ask(method, path, **own).status == 421, path
            with as_host(gateway, "localhost"):
                pass
            with pytest.raises(InvalidStatus), as_host(gateway, "evil.example"):
                pass


def test_stop_does_not_wait_for_open_editors(tmp_path: Path) -> None:
    with ExitStack() as stack:
        with editing(tmp_path, inject_to_debug()) as gateway:
            open_editor = stack.enter_context(Socket(gateway.url))
            gateway.ask("GET", "/flows")
            begun = time.monotonic()
        assert time.monotonic() - begun < 5
        with pytest.raises(ConnectionClosed):
            open_editor.until("never")
