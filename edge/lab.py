"""What the agent gives a flow that is tested (`voltflow.lab.lab`): its variables and services, in the flow's time."""

from __future__ import annotations

from edge.settings import AgentSettings
from edge.twin import TwinStore
from voltflow import topics
from voltflow.clock import Clock
from voltflow.engine.context import Contexts
from voltflow.engine.timer import Timer
from voltflow.lab.lab import Surroundings
from voltflow.program import flow_variables

GATEWAY = "lab"


def surroundings(timer: Timer) -> Surroundings:
    """As with the default settings and a cloud broker of its own."""
    settings = AgentSettings(gateway=GATEWAY, uplink_host="uplink").with_uplink()
    places = {"state_topic": topics.gateway_state(GATEWAY), "down_topic": topics.gateway_down(GATEWAY)}
    said = dict.fromkeys(("birth", "farewell", "will"), "")
    env = flow_variables("agent", settings, {**places, **said})
    return Surroundings(env, {TwinStore: TwinStore(_clock(timer)), Contexts: Contexts()})


def _clock(timer: Timer) -> Clock:
    def now_ns() -> int:
        return round(timer.now_s() * 1e9)

    return Clock(wall_ns=now_ns, counted_ns=now_ns, synchronised=lambda: True)
