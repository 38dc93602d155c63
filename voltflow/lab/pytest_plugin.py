"""The pytest fixture `flow`: a flow in the lab, for tests that say more than a file of cases can.

    def test_hot_cell_raises_an_alert(flow):
        lab = flow("edge/flows.json")
        lab.send("telemetry", {"pack": "P1", …}, topic="ev/v1/depot/P1/telemetry")
        lab.advance(3600)
        assert [seen.payload["code"] for seen in lab.reached("alert#2")] == ["cell_temp_warning"]

pytest finds it by itself where Voltflow is installed. Nothing else of Voltflow imports pytest.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from voltflow.lab.lab import FlowLab


@pytest.fixture
def flow(request: pytest.FixtureRequest) -> Iterator[Callable[..., FlowLab]]:
    """`flow(FILE or list of nodes, env=…, answers=…)`: a running `voltflow.lab.lab.FlowLab`; stopped after the test.

    A file is looked for beside the test, then below the folder pytest was started in.
    """
    from voltflow.flow.flow import (
        Flow,  # not before a test asks for it: pytest loads this module in every run
    )
    from voltflow.lab.lab import FlowLab

    with contextlib.ExitStack() as stack:

        def start(source: str | Path | list[dict[str, Any]], **options: Any) -> FlowLab:
            if isinstance(source, list):
                found = Flow(source)
            else:
                beside = request.path.parent / source
                found = Flow.load(beside if beside.exists() else Path(source))
            return stack.enter_context(FlowLab(found, **options))

        yield start
