"""A real agent that is killed again and again after a deploy starts the flow before it, and says so everywhere."""

from __future__ import annotations

import json
from pathlib import Path

from tests import servers
from tests.programs import Agent
from voltflow.admin.client import AdminClient


def test_an_agent_that_dies_after_a_deploy_comes_back_with_the_flow_before(
    mosquitto: servers.Mosquitto, tmp_path: Path
) -> None:
    agent = Agent(mosquitto, tmp_path / "state").start()
    client = AdminClient(f"http://127.0.0.1:{agent.port}/editor")
    try:
        nodes, before = client.flows()
        renamed = [{**node, "label": "Another"} if node["type"] == "tab" else node for node in nodes]
        bad = client.deploy(renamed, before, "nodes")
        for _ in range(2):
            agent.kill()
            agent.start()
            assert agent.get("/api/flow")["revision"] == bad[:12]
            assert client.flows()[1] == bad
        agent.kill()
        agent.start()
        flow = agent.get("/api/flow")
        assert (flow["revision"], flow["safe_mode"]) == (before[:12], True)
        assert client.flows() == (nodes, before)
        reasons = {reason["code"]: reason["message"] for reason in agent.get("/api/health")["reasons"]}
        assert flow["notices"] == [reasons["safe_mode"]]
        assert reasons["safe_mode"] in agent.log
        assert json.loads((tmp_path / "state/flows.json").read_text()) == renamed

        repaired = client.deploy(nodes, before, "nodes")
        assert agent.get("/api/flow")["safe_mode"] is False
        agent.restart()
        assert client.flows()[1] == repaired
    finally:
        agent.kill()
