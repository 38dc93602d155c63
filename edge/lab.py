"""What the agent gives a flow that is tested (`voltflow.lab.host`): its variables and services, in the flow's time."""

from __future__ import annotations

from pathlib import Path

from edge.settings import AgentSettings
from edge.twin import TwinStore
from voltflow import topics
from voltflow.clock import Clock
from voltflow.engine.context import Contexts
from voltflow.engine.timer import Timer
from voltflow.lab.host import Surroundings
from voltflow.nodelib.files import Files
from voltflow.program import flow_variables

GATEWAY = "lab"


def surroundings(timer: Timer, folder: Path) -> Surroundings:
    """As with the default settings and a cloud broker of its own; files are in a folder below `folder`."""
    files = Files(folder / "files")
    settings = AgentSettings(gateway=GATEWAY, uplink_host="uplink").with_uplink()
    places = {
        "files_dir": str(files.folder),
        "state_topic": topics.gateway_state(GATEWAY),
        "down_topic": topics.gateway_down(GATEWAY),
    }
    said = dict.fromkeys(("birth", "farewell", "will"), "")
    env = flow_variables("agent", settings, {**places, **said})
    return Surroundings(env, {TwinStore: TwinStore(_clock(timer)), Contexts: Contexts(), Files: files})


def _clock(timer: Timer) -> Clock:
    def now_ns() -> int:
        return round(timer.now_s() * 1e9)

    return Clock(wall_ns=now_ns, counted_ns=now_ns, synchronised=lambda: True)
