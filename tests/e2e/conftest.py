"""Chromium, and in it the editor or the page of a gateway."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import do_without, require
from tests.e2e.desk import Desk
from tests.e2e.site import PageWindow, Site
from tests.editors import chromium, editing, need_files
from tests.programs import Agent
from tests.servers import Missing, Mosquitto

playwright = pytest.importorskip("playwright.sync_api", reason="pip install 'voltflow[test]'")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """For one file: while Playwright is there an event loop runs in this thread, and tests elsewhere need their own."""
    try:
        path = chromium()
        need_files()
    except Missing as reason:
        do_without(reason)
    with playwright.sync_playwright() as api:
        started = api.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def desk(browser: Any, tmp_path: Path) -> Iterator[Any]:
    """`desk(nodes)` is the editor of a gateway with that flow; `desk(of=another)` one more window of the same gateway."""
    opened: list[Desk] = []
    with ExitStack() as stack:

        def start(nodes: list[dict[str, Any]] | None = None, of: Desk | None = None, **options: Any) -> Desk:
            gateway = of.gateway if of else stack.enter_context(editing(tmp_path, nodes or [], **options))
            made = Desk(browser, gateway)
            stack.callback(made.context.close)
            opened.append(made)
            return made

        yield start
    for item in opened:
        assert item.wrong == []


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A gateway for one file's tests; packs of their own keep them apart."""
    with ExitStack() as stack:
        broker = require(stack, Mosquitto())
        yield Site(broker, require(stack, Agent(broker, tmp_path_factory.mktemp("state"))))


@pytest.fixture
def window(browser: Any, site: Site) -> Iterator[Any]:
    """`window(width=390, …)` is the page of the site in a window; nothing may go wrong in it."""
    opened: list[PageWindow] = []

    def start(at: Site | None = None, **options: Any) -> PageWindow:
        opened.append(PageWindow(browser, at or site, **options))
        return opened[-1]

    yield start
    for item in opened:
        item.context.close()
    for item in opened:
        assert item.wrong == []
