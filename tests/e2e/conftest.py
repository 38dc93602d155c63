"""Chromium, and the editor of a gateway in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import do_without
from tests.e2e.desk import Desk
from tests.editors import chromium, editing, need_files
from tests.servers import Missing

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
