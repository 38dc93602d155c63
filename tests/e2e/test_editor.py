"""Node-RED's genuine editor on a running gateway, used in Chromium as people use it. Screenshots: tests/e2e/artifacts."""

from __future__ import annotations

from typing import Any

from paho.mqtt import publish

from tests.e2e.desk import DEPLOY
from tests.editors import TAB, inject_to_debug, wait_for
from tests.servers import Mosquitto
from voltflow.node import REGISTRY, ConfigNode, load_nodes


def test_drag_wire_deploy_press_and_see(desk: Any) -> None:
    """What everybody does first: the battery palette is there, a flow is drawn, runs, and shows what it does."""
    at = desk([TAB]).open()
    page = at.page
    battery = page.locator("#red-ui-palette-battery .red-ui-palette-node")
    assert {"alert", "features", "onnx", "twin", "validate"} <= set(
        battery.evaluate_all("nodes => nodes.map(node => node.dataset.paletteType)")
    )
    at.shot("palette")

    inject, change, debug = (
        at.drag("inject", 150, 120),
        at.drag("change", 350, 120),
        at.drag("debug", 560, 120),
    )
    at.wire(inject, change)
    at.wire(change, debug)
    at.edit(change)
    at.done()
    at.deploy()
    nodes = {node["id"]: node for node in at.gateway.store.read()[0]}
    assert nodes[inject]["wires"] == [[change]]
    assert nodes[change]["wires"] == [[debug]]

    page.locator(f"[id='{inject}'] .red-ui-flow-node-button-button").click()
    page.wait_for_selector(".red-ui-debug-msg")
    page.wait_for_selector(f"[id='{debug}'] .red-ui-flow-node-status-label:has-text('/s')")
    at.shot("debug-and-status")


def test_broker_is_made_in_its_dialog_and_messages_flow(desk: Any, mosquitto: Mosquitto, unique: str) -> None:
    """A config node from the dialog of the node that needs it, a generated node behind it, the rate below each."""
    at = desk([TAB]).open()
    page = at.page
    source, keep, debug = (
        at.drag("mqtt in", 150, 120),
        at.drag("deadband", 400, 120),
        at.drag("debug", 640, 120),
    )
    at.wire(source, keep)
    at.wire(keep, debug)
    at.edit(source)
    page.fill("#node-input-topic", unique)
    page.click("#node-input-btn-broker-add")
    page.fill("#node-config-input-broker", "127.0.0.1")
    page.fill("#node-config-input-port", str(mosquitto.port))
    page.click("#node-config-dialog-ok")
    at.done()
    at.edit(keep)
    at.shot("deadband-form")
    at.done()
    at.deploy()
    # retained, so that it comes whenever the subscription stands
    publish.single(unique, "71.5", qos=1, retain=True, hostname="127.0.0.1", port=mosquitto.port)
    page.locator(".red-ui-debug-msg", has_text="71.5").wait_for()
    page.wait_for_selector(f"[id='{debug}'] .red-ui-flow-node-status-label:has-text('/s')")
    at.shot("mqtt-to-debug")


def test_form_of_a_battery_node_checks_what_is_typed(desk: Any) -> None:
    at = desk(
        [TAB, {"id": "a", "type": "alert", "z": "tab", "name": "", "x": 200, "y": 100, "wires": [[], []]}]
    ).open()
    page = at.page
    at.edit("a")
    field = page.locator("#node-input-temp_warning_c")
    assert field.input_value() == "45"
    assert "highest cell temperature, warning; -40 … 150 °C; default 45" in page.inner_text(".red-ui-tray")
    field.fill("200")
    field.press("Tab")
    page.wait_for_selector("#node-input-temp_warning_c.input-error")
    at.shot("form-with-an-error")
    field.fill("50.5")
    field.press("Tab")
    page.wait_for_selector("#node-input-temp_warning_c:not(.input-error)")
    at.done()
    at.deploy()
    assert at.gateway.in_loop(lambda: at.gateway.engine.nodes["a"].node.temp_warning_c) == 50.5


def test_form_of_a_window_shows_what_its_mode_uses(desk: Any) -> None:
    at = desk(
        [TAB, {"id": "w", "type": "window", "z": "tab", "name": "", "x": 200, "y": 100, "wires": [[], []]}]
    ).open()
    page = at.page
    at.edit("w")

    def shown() -> set[str]:
        rows = page.locator(".red-ui-tray .voltflow-row:visible")
        return set(rows.evaluate_all("rows => rows.map(row => row.dataset.field)"))

    always = {"mode", "time", "key", "rules"}
    event = {"timestamp", "lateness", "idle", "ahead"}
    assert shown() == always | event | {"size"}
    page.select_option("#node-input-mode", "sliding")
    assert shown() == always | event | {"size", "every"}
    at.shot("window-form")
    page.select_option("#node-input-mode", "session")
    assert shown() == always | event | {"gap"}
    page.select_option("#node-input-time", "receive")
    assert shown() == always | {"gap"}
    at.done()
    at.deploy()
    assert {name: at.stored()["w"][name] for name in ("mode", "time", "size")} == {
        "mode": "session", "time": "receive", "size": "60",
    }  # fmt: skip


def test_core_type_keeps_our_fields_beside_the_genuine_ones(desk: Any) -> None:
    """The editor drops what a type does not declare: here a spool that an operator has set."""
    nodes = [
        TAB,
        {"id": "b", "type": "mqtt-broker", "name": "", "broker": "127.0.0.1", "port": "1", "receiveMaximum": 77},
        {"id": "o", "type": "mqtt out", "z": "tab", "name": "", "topic": "t", "qos": "1", "retain": "", "broker": "b",
         "spool": True, "spoolMaxMb": 12, "x": 200, "y": 100, "wires": []},
    ]  # fmt: skip
    at = desk(nodes).open()
    page = at.page
    at.edit("o")
    page.click(".voltflow-more summary")
    assert page.is_checked("#node-input-spool")
    page.fill("#node-input-spoolMaxMb", "13")
    at.shot("core-form-with-our-fields")
    at.done()
    at.deploy()
    found = {node["id"]: node for node in at.gateway.store.read()[0]}
    assert (found["o"]["spool"], found["o"]["spoolMaxMb"], found["b"]["receiveMaximum"]) == (True, "13", 77)
    assert "<h3>In Voltflow</h3>" in page.evaluate("() => RED.nodes.getNodeHelp('mqtt out')")


def test_every_dialog_opens_and_saves_what_was_there(desk: Any) -> None:
    """Each type's form, generated or genuine with our fields, on a node that says nothing: defaults, and no more."""
    load_nodes("voltflow.nodes", "edge.nodes")
    types = [
        spec.type
        for spec in REGISTRY.values()
        if not issubclass(spec.cls, ConfigNode)
        and spec.cls.__module__.startswith(("voltflow.nodes.", "edge.nodes."))
    ]
    nodes = [{"id": f"n{at}", "type": type, "z": "tab", "name": "", "x": 200, "y": 100 + at * 60, "wires": []}
             for at, type in enumerate(types)]  # fmt: skip
    at = desk([TAB]).open()
    at.page.evaluate("nodes => RED.nodes.import(nodes)", nodes)
    at.text_editor()
    for node in nodes:
        at.edit(node["id"])
        if node["type"] == "python":
            at.page.wait_for_selector(".monaco-editor .view-line")
            at.shot("python-form")
        at.done()
    saved = {node["id"]: node for node in at.page.evaluate("() => RED.nodes.createCompleteNodeSet()")}
    genuine = set(at.page.evaluate(
        "() => RED.nodes.registry.getNodeList().filter(s => s.module === 'node-red').flatMap(s => s.types)"
    ))  # fmt: skip
    for node in nodes:
        for field in () if node["type"] in genuine else REGISTRY[node["type"]].fields:
            if not field.required:
                value = saved[node["id"]].get(field.name)
                assert field.coerce(value) == field.coerce(field.default), (
                    f"{node['type']}.{field.name} is {value!r}"
                )


def test_deploy_that_is_refused_says_why(desk: Any) -> None:
    at = desk(inject_to_debug()).open()
    at.page.evaluate(
        "() => { const n = RED.nodes.node('press'); n.repeat = '-5'; n.changed = true; RED.nodes.dirty(true) }"
    )
    at.page.click(DEPLOY)
    at.notice('property "repeat"')
    at.shot("deploy-refused")
    assert at.is_dirty()
    at.expected("400")


def test_refused_deploy_is_told_until_somebody_closes_it(desk: Any) -> None:
    at = desk(inject_to_debug()).open()
    page = at.page
    page.clock.install()

    def deploy(repeat: str) -> None:
        page.evaluate("repeat => { RED.nodes.node('press').repeat = repeat; RED.nodes.dirty(true) }", repeat)
        page.click(DEPLOY)

    notices = page.locator(".red-ui-notification", has_text='property "repeat"')
    deploy("-5")
    at.notice("-5")
    page.clock.run_for(60_000)
    assert notices.count() == 1
    deploy("-6")
    at.notice("-6")
    page.clock.run_for(60_000)
    assert notices.count() == 1, "one takes the other's place"
    notices.get_by_role("button", name="Close").click()
    page.clock.run_for(1000)
    notices.wait_for(state="detached")
    deploy("-7")
    at.notice("-7")
    page.clock.run_for(1000)
    deploy("7")
    wait_for(lambda: at.stored()["press"]["repeat"] == "7", "the deploy")
    page.clock.run_for(1000)
    notices.wait_for(state="detached")
    at.expected("400")


def test_function_and_exec_show_what_they_have_and_are_kept(desk: Any) -> None:
    kept = [
        {"id": "f", "type": "function", "z": "tab", "name": "mean of three", "func": "let a = 1;\r\nreturn msg;", "outputs": 2,
         "timeout": "", "noerr": 0, "initialize": "// at the start", "finalize": "", "libs": [{"var": "os", "module": "os"}],
         "d": True, "x": 200, "y": 100, "wires": [[], ["e"]]},
        {"id": "e", "type": "exec", "z": "tab", "command": "ls -l", "addpay": "payload", "append": "/tmp", "useSpawn": "false",
         "timer": "5", "winHide": False, "oldrc": False, "name": "", "d": True, "x": 400, "y": 100, "wires": [[], [], []]},
    ]  # fmt: skip
    at = desk([TAB]).open()
    page = at.page
    page.evaluate("nodes => RED.nodes.import(nodes, { generateIds: false })", kept)
    page.evaluate("() => { RED.nodes.dirty(true); RED.view.redraw(true) }")
    page.wait_for_selector("[id='f'] .red-ui-flow-node-label:has-text('mean of three')")
    at.shot("function-and-exec")
    for id, shown in (
        ("f", {"On message": "let a = 1;\nreturn msg;", "On start": "// at the start"}),
        ("e", {"Command": "ls -l", "Appended": "/tmp"}),
    ):
        at.edit(id)
        assert "Use a python node in its place" in page.inner_text(".red-ui-tray")
        areas = page.locator("textarea.voltflow-kept:visible")
        assert {area.get_attribute("id"): area.input_value() for area in areas.all()} == {
            page.get_by_label(label, exact=True).get_attribute("id"): text for label, text in shown.items()
        }
        assert not any(area.is_editable() for area in areas.all())
        at.shot(f"kept-{id}")
        at.done()
    saved = {node["id"]: node for node in page.evaluate("() => RED.nodes.createCompleteNodeSet()")}
    assert [saved[node["id"]] for node in kept] == kept
    assert (
        page.locator(
            ".red-ui-palette-node:is([data-palette-type=function], [data-palette-type=exec])"
        ).count()
        == 0
    )

    page.evaluate("() => RED.typeSearch.show({ x: 300, y: 300, add() {} })")
    offered = page.locator(".red-ui-type-search .red-ui-search-result-node-label")
    offered.filter(has_text="python").first.wait_for(state="attached")
    assert "exec" not in {text.partition(" ")[0] for text in offered.all_text_contents()}
    page.evaluate("() => RED.typeSearch.hide()")

    at.deploy()  # they are disabled
    assert [at.stored()[node["id"]] for node in kept] == kept
    page.evaluate("() => { delete RED.nodes.node('f').d; RED.nodes.dirty(true) }")
    page.click(DEPLOY)
    at.notice("JavaScript and commands are not run here")
    at.expected("400")


def test_secrets_of_a_broker_do_not_come_back(desk: Any) -> None:
    nodes = [TAB, {"id": "b", "type": "mqtt-broker", "name": "b", "broker": "127.0.0.1", "port": "1"}]
    at = desk(nodes).open()
    page = at.page
    page.evaluate("() => RED.editor.editConfig('', 'mqtt-broker', 'b')")
    page.click("a[href='#mqtt-broker-tab-security'], li:has-text('Security') a")
    page.fill("#node-config-input-user", "ann")
    page.fill("#node-config-input-password", "s3cret-of-ann")
    at.shot("broker-credentials")
    page.click("#node-config-dialog-ok")
    at.deploy()
    assert "s3cret-of-ann" not in page.evaluate("() => fetch('flows').then(r => r.text())")
    assert at.gateway.get("/credentials/mqtt-broker/b") == {"user": "ann", "has_password": True}


def test_diagram_of_a_description_is_shown_as_text(desk: Any) -> None:
    diagram = {"id": "c", "type": "comment", "z": "tab", "name": "", "info": "```mermaid\ngraph TD; A-->B;\n```", "x": 200, "y": 100,
               "wires": []}  # fmt: skip
    at = desk([TAB, diagram]).open()
    at.page.evaluate(
        "() => { RED.view.select({ nodes: [RED.nodes.node('c')] }); RED.actions.invoke('core:show-info-tab') }"
    )
    shown = at.page.locator("pre.mermaid", has_text="Diagrams are not drawn here").first
    shown.wait_for()
    assert "graph TD; A-->B;" in shown.inner_text()


def test_code_and_json_editors_open_under_the_content_policy(desk: Any) -> None:
    """The text editor runs workers and makes styles; nothing of it may need more than the policy allows."""
    nodes = [
        TAB,
        {"id": "t", "type": "template", "z": "tab", "name": "", "field": "payload", "fieldType": "msg", "format": "handlebars",
         "syntax": "mustache", "template": "{{payload}}", "output": "str", "x": 200, "y": 100, "wires": [[]]},
    ]  # fmt: skip
    at = desk(nodes).open()
    at.text_editor()
    at.edit("t")
    at.page.wait_for_selector(".monaco-editor .view-line")
    at.shot("text-editor")
    at.done()


def test_dialog_that_is_opened_before_the_text_editor_has_come_has_a_plain_one(desk: Any) -> None:
    at = desk(
        [
            TAB,
            {
                "id": "p",
                "type": "python",
                "z": "tab",
                "name": "",
                "func": "return msg",
                "x": 200,
                "y": 100,
                "wires": [],
            },
        ]
    )
    at.context.route("**/monaco/dist/editor.js", lambda route: route.abort())
    at.open()
    page = at.page
    at.edit("p")
    plain = page.locator("#node-input-func-editor textarea")
    assert plain.input_value() == "return msg"
    plain.fill("return None")
    at.shot("plain-text-editor")
    at.done()
    at.deploy()
    assert at.stored()["p"]["func"] == "return None"
    at.expected("ERR_FAILED")


def test_subflow_shows_what_flows_in_it_and_leads_to_what_fails(desk: Any) -> None:
    press, show = inject_to_debug()[1:]
    nodes = [
        TAB,
        {**press, "wires": [["one", "two"]]},
        {"id": "sub", "type": "subflow", "name": "Sub", "in": [{"x": 40, "y": 100, "wires": [{"id": "parse"}]}], "out": []},
        {"id": "one", "type": "subflow:sub", "z": "tab", "name": "", "x": 340, "y": 60, "wires": []},
        {"id": "two", "type": "subflow:sub", "z": "tab", "name": "", "x": 340, "y": 140, "wires": []},
        {"id": "parse", "type": "json", "z": "sub", "name": "to objects", "property": "payload", "action": "obj",
         "pretty": False, "x": 200, "y": 100, "wires": [["show"]]},
        {**show, "z": "sub"},
    ]  # fmt: skip
    at = desk(nodes).open()
    page = at.page
    page.locator("[id='press'] .red-ui-flow-node-button-button").click()
    for instance in ("one", "two"):
        at.badge(instance, "1 error")
    failed = page.locator(".red-ui-debug-msg-level-20", has_text="not JSON")
    failed.first.wait_for()
    at.shot("subflow-instances")
    failed.first.locator(".red-ui-debug-msg-name").hover()
    page.locator(".red-ui-popover a", has_text="to objects").click()
    at.badge("parse", "2 errors")
    at.shot("subflow-inside")


def test_flow_stops_and_starts(desk: Any) -> None:
    at = desk(inject_to_debug()).open()
    at.page.evaluate("() => RED.actions.invoke('core:stop-flows')")
    wait_for(lambda: at.gateway.store.state == "stop", "stopped")
    at.page.wait_for_function("() => RED.runtime && !RED.runtime.started")
    at.shot("stopped")
    at.page.evaluate("() => RED.actions.invoke('core:start-flows')")
    wait_for(lambda: at.gateway.store.state == "start", "started")


def test_context_sidebar_shows_and_deletes(desk: Any) -> None:
    at = desk(inject_to_debug()).open()
    at.gateway.in_loop(lambda: at.gateway.contexts.scope("global").set("limit", {"high": 55}))
    page = at.page
    page.evaluate("() => RED.actions.invoke('core:show-context-tab')")
    page.locator("button[data-tab-id='context'].selected").wait_for()
    refresh = page.locator(".red-ui-palette-header:has-text('Global') button:has(.fa-refresh)").first
    refresh.click()
    name = page.locator(".red-ui-sidebar-context-property:has-text('limit')").first
    name.wait_for()
    at.shot("context")
    page.locator("tr:has-text('limit') button:has(.fa-trash)").first.dispatch_event("click")
    page.locator(".red-ui-popover button.primary:has-text('Delete')").click()
    wait_for(lambda: at.gateway.in_loop(at.gateway.contexts.scope("global").keys) == [], "the value deleted")
