"""A page that a flow makes, in Chromium: its style, script and form work."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import do_without
from tests.editors import chromium
from tests.flows import raw
from tests.integration.test_edge_endpoints import RESPONSE, house, inlet, props_of
from tests.servers import Missing
from voltflow.message import Msg

playwright = pytest.importorskip("playwright.async_api", reason="pip install 'voltflow[test]'")

PAGE = """<!doctype html><style>p { color: rgb(1, 2, 3) }</style><p id=told>no script</p>
<form method=post><input name=pack value=P7><button>send</button></form>
<script>document.getElementById("told").textContent = "script"</script>"""


def answered(msg: Msg) -> Msg:
    request: Any = props_of(msg)["req"]
    html = PAGE if request["method"] == "GET" else f"<p id=told>{request['body']['pack']}</p>"
    return msg.derive(payload=html, props={**props_of(msg), "headers": {"content-type": "text/html"}})


def test_page_of_a_flow_is_styled_runs_its_script_and_sends_its_form(tmp_path: Path) -> None:
    try:
        path = chromium()
    except Missing as reason:
        do_without(reason)

    async def scenario() -> None:
        inlets = inlet("/form"), inlet("/form", "post", id="sent")
        async with (
            house(tmp_path, *inlets, raw("t", "transform", ["out"]), RESPONSE) as here,
            playwright.async_playwright() as api,
        ):
            here.answering(answered)
            browser = await api.chromium.launch(executable_path=path, args=["--no-sandbox"])
            page = await browser.new_page()
            await page.goto(f"{here.server.url}/endpoint/form")
            told = page.locator("#told")
            assert await told.text_content() == "script"
            assert await told.evaluate("it => getComputedStyle(it).color") == "rgb(1, 2, 3)"
            await page.click("button")
            await page.wait_for_function("document.getElementById('told').textContent == 'P7'")
            await browser.close()

    asyncio.run(scenario())
