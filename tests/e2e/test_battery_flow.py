"""The battery gateway in the browser: a model behind a broker with passwords, drawn, deployed, watched and broken."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests import servers
from tests.conftest import Use
from tests.e2e.desk import DEPLOY, Desk
from tests.editors import TAB
from tests.programs import device

USER, SECRET = "gw", "s3cret-of-gw"
NEEDS_TWIN = "expected a twin's reading: wire a twin node before this one"


@pytest.fixture
def broker(own: Use[servers.Mosquitto], tmp_path: Path) -> servers.Mosquitto:
    """A broker that asks for a password."""
    passwords = tmp_path / "passwords"
    program = servers.program("mosquitto_passwd", "mosquitto")
    subprocess.run([program, "-b", "-c", str(passwords), USER, SECRET], check=True, capture_output=True)
    passwords.chmod(0o644)
    return own(servers.Mosquitto(allow_anonymous="false", password_file=str(passwords)))


@contextmanager
def driving(broker: servers.Mosquitto, fleet: str, tmp_path: Path) -> Iterator[None]:
    """Two packs whose devices publish two messages a second each, in which ten seconds pass for them."""
    secret = tmp_path / "secret"
    secret.write_text(SECRET)
    options = ("--username", USER, "--password-file", str(secret), "--fleet", fleet, "--packs", "2", "--hz", "2",
               "--speedup", "20", "--connections", "shared", "--no-gaps")  # fmt: skip
    with device(broker, "run", *options):
        yield


def draw(at: Desk, broker: servers.Mosquitto, fleet: str) -> tuple[str, str, str, str]:
    """mqtt in → onnx → threshold → debug, with a broker and its login; their ids."""
    page = at.page
    source, model, limit, debug = (
        at.drag("mqtt in", 120, 140),
        at.drag("onnx", 780, 140),
        at.drag("threshold", 420, 280),
        at.drag("debug", 700, 280),
    )
    for one, next in ((source, model), (model, limit), (limit, debug)):
        at.wire(one, next)
    at.edit(source)
    page.fill("#node-input-name", "telemetry")
    page.fill("#node-input-topic", f"ev/v1/{fleet}/+/telemetry")
    page.click("#node-input-btn-broker-add")
    page.fill("#node-config-input-broker", "127.0.0.1")
    page.fill("#node-config-input-port", str(broker.port))
    page.click("li:has-text('Security') a")
    page.fill("#node-config-input-user", USER)
    page.fill("#node-config-input-password", SECRET)
    at.shot("broker-with-login")
    page.click("#node-config-dialog-ok")
    page.select_option("#node-input-datatype", "buffer")
    at.done()
    at.edit(model)
    page.select_option("#node-input-model", "temperature")
    at.shot("onnx-form")
    at.done()
    at.edit(limit)
    page.fill("#node-input-field", "predictions.temperature.value")
    page.fill("#node-input-high", "90")
    at.shot("threshold-form")
    at.done()
    at.edit(debug)
    page.locator(".red-ui-tray .red-ui-typedInput-input").first.fill("payload.predictions.temperature")
    at.done()
    return source, model, limit, debug


def draw_nameplates(at: Desk, source: str, fleet: str) -> None:
    """What a model has to know of a pack, from the same broker into the node that telemetry goes to."""
    states = at.drag("mqtt in", 120, 220)
    at.edit(states)
    at.page.fill("#node-input-name", "nameplates")
    at.page.select_option("#node-input-broker", at.stored()[source]["broker"])
    at.page.fill("#node-input-topic", f"ev/v1/{fleet}/+/state")
    at.page.select_option("#node-input-datatype", "buffer")
    at.done()
    at.wire(states, at.page.evaluate("id => RED.nodes.getDownstreamNodes(RED.nodes.node(id))[0].id", source))


def test_model_is_drawn_deployed_watched_and_broken(
    broker: servers.Mosquitto, desk: Any, unique: str, tmp_path: Path
) -> None:
    at: Desk = desk([TAB]).open()
    page = at.page
    source, model, limit, _ = draw(at, broker, unique)
    at.deploy()
    assert SECRET not in (tmp_path / "flows.json").read_text()
    with driving(broker, unique, tmp_path):
        # a model needs what a twin makes of telemetry, and says so
        page.locator(".red-ui-debug-msg-level-20", has_text=NEEDS_TWIN).first.wait_for()
        at.badge(model, "error")
        at.shot("flow-that-fails")

        before = source
        for type, part in (("validate", 0.22), ("twin", 0.28), ("features", 0.4)):
            before = at.drag_onto_wire(type, before, part)
        draw_nameplates(at, source, unique)
        at.deploy()
        nodes = at.stored()
        way = [source]
        while nodes[way[-1]]["wires"]:
            way.append(nodes[way[-1]]["wires"][0][0])
        assert [nodes[id]["type"] for id in way] == [
            "mqtt in", "validate", "twin", "features", "onnx", "threshold", "debug",
        ]  # fmt: skip
        page.locator(".red-ui-debug-msg", has_text="value: ").first.wait_for()  # a prediction
        for id in way:
            at.badge(id, "/s")
        at.shot("flow-that-runs")

        at.edit(limit)
        page.fill("#node-input-field", "cell_temp_maxc")
        at.done()
        page.click(DEPLOY)
        at.notice('property "field": a reading has no')
        at.shot("bad-property")
        at.expected("400")
        assert at.is_dirty()
        assert at.stored()[limit]["field"] == "predictions.temperature.value"
