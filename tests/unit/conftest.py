"""What several unit tests of the gateway's web server begin with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from edge.web import WebServer
from tests.gateway import Gateway, running, three_packs


@pytest.fixture
def gateway(tmp_path: Path) -> Gateway:
    return Gateway(tmp_path)


@pytest.fixture
def fleet(tmp_path: Path) -> Gateway:
    return three_packs(tmp_path)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebServer]:
    """One server for the tests that change nothing."""
    with running(three_packs(tmp_path_factory.mktemp("gateway")).state) as server:
        yield server
