"""The edge agent: the flow, the twins, the web server, in one event loop."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path

import msgspec

from edge.api import AppState
from edge.model import Model
from edge.nodes.onnx import Onnx
from edge.settings import AgentSettings
from edge.twin import TwinStore
from edge.web import MetricsServer, WebServer
from voltflow import __version__, topics
from voltflow.engine import Engine
from voltflow.flow import Flow
from voltflow.node import load_nodes, process_env
from voltflow.program import flow_variables, stop_on_signals
from voltflow.settings import SettingsError

log = logging.getLogger(__name__)

DEFAULT_FLOW = Path(__file__).with_name("flows.json")
SEPARATE_UPLINK = "separate uplink"
"""The property `only` of a node that is left out where the uplink is the devices' broker: it would publish its own input."""


def load_flow(settings: AgentSettings) -> tuple[Flow, dict[str, str]]:
    """The agent's flow and the variables it may use; raises FlowError, or SettingsError where there is no such file."""
    load_nodes("voltflow.nodes", "edge.nodes")
    path = Path(settings.flow) if settings.flow else DEFAULT_FLOW
    try:
        flow = Flow.load(path)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SettingsError(f"flow = '{path}' cannot be read: {reason}; name a flow file, or leave it empty "
                            "for the default flow") from None  # fmt: skip
    if not settings.uplink_host:
        _leave_out(flow, SEPARATE_UPLINK)
    return flow, process_env(_variables(settings.with_uplink()))


def _leave_out(flow: Flow, only: str) -> None:
    """Switch off the nodes that say they are for another case."""
    for raw in flow.nodes:
        if raw.get("only") == only:
            raw["d"] = True


def load_models(flow: Flow, env: Mapping[str, str]) -> list[Model]:
    """The models of the flow's `onnx` nodes, read as at the start; raises ConfigError naming what cannot run."""
    return [wired.node.load() for wired in flow.build(env).values() if isinstance(wired.node, Onnx)]


def _variables(settings: AgentSettings) -> Mapping[str, str]:
    return flow_variables(
        "agent",
        settings,
        {
            "state_topic": topics.gateway_state(settings.gateway),
            "down_topic": topics.gateway_down(settings.gateway),
            "birth": _gateway_state(settings, online=True),
            "farewell": _gateway_state(settings, online=False),
            "will": _gateway_state(settings, online=False),
        },
    )


def _gateway_state(settings: AgentSettings, *, online: bool) -> str:
    state = {"schema": "gw.state/1", "gateway": settings.gateway, "online": online, "version": __version__}
    return msgspec.json.encode(state).decode()


async def run_agent(settings: AgentSettings) -> None:
    """Run until SIGTERM or SIGINT.

    What is not safe at every sink by then is logged by the engine. It is no failure: it was not acknowledged either, so
    the broker sends it to the next start.
    """
    stop = stop_on_signals()
    flow, env = load_flow(settings)
    store = TwinStore()
    engine = Engine(
        flow,
        env=env,
        services={TwinStore: store},
        gateway=settings.gateway,
        state_dir=settings.state_dir,
        watchdog_s=settings.watchdog_s,
        grace_s=settings.grace_s,
    )
    state = AppState(
        store=store,
        engine=engine,
        gateway=settings.gateway,
        started=time.time(),
        models=[wired.node for wired in engine.nodes.values() if isinstance(wired.node, Onnx)],
    )
    token = settings.api_token or None
    web = WebServer(state, settings.api_host, settings.api_port, token=token)
    metrics = MetricsServer(state, settings.metrics_host, settings.metrics_port, token=token)
    await web.start()
    try:
        await metrics.start()
        log.info("gateway %s, flow %s: page and API on http://%s:%d/, metrics on http://%s:%d/metrics",
                 settings.gateway, flow.revision, settings.api_host, settings.api_port,
                 settings.metrics_host, settings.metrics_port)  # fmt: skip
        await engine.run(stop)
    finally:
        await metrics.stop()
        await web.stop()
