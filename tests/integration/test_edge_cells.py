"""Single cells and sessions on their whole way: simulator, broker, the agent's own flow, API; and over a restart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests import servers
from tests.programs import Agent, device
from tests.servers import wait_until


def test_cells_and_sessions_of_simulated_packs(tmp_path: Path) -> None:
    with servers.mosquitto() as broker:
        with Agent(broker, tmp_path) as agent, device(
            broker, "run", "--packs", "3", "--hz", "10", "--speedup", "300", "--cells-s", "0.5"
        ):  # fmt: skip

            def answer(view: str) -> Any:
                return agent.get(f"/api/packs/demo/SIM000001/{view}")

            wait_until(lambda: agent.get("/api/packs")["total"] == 3, "the packs", 60)
            wait_until(lambda: answer("cells")["voltages_v"], "single cells", 60)
            cells = answer("cells")
            assert (len(cells["voltages_v"]), cells["reason"]) == (cells["series"], None)
            assert 0 < cells["spread_mv"] < 500
            wait_until(lambda: len(answer("sessions")["sessions"]) > 1, "a session that has ended", 120)
            ended = answer("sessions")["sessions"][-1]
            assert ended["charge_ah"] > 0
            assert answer("history")["step_ms"] == 30_000
        with Agent(broker, tmp_path) as agent:
            assert ended in answer("sessions")["sessions"]
            assert answer("cells")["reason"].startswith("nothing has come on ev/v1/demo/SIM000001/cells")
