"""The edge agent: the flow, the twins, the web server, in one event loop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Mapping
from pathlib import Path

from edge.api import AppState
from edge.gateway_state import Teller, presence
from edge.model import Model
from edge.nodes.onnx import Onnx
from edge.settings import AgentSettings
from edge.snapshot import copy_twins, mark_after_crash, restore_twins
from edge.twin import TwinStore
from edge.web import MetricsServer, WebServer
from voltflow import topics
from voltflow.clock import receive_clock
from voltflow.context import Contexts
from voltflow.engine import Engine
from voltflow.flow import Flow
from voltflow.node import load_nodes, process_env
from voltflow.program import flow_variables, stop_on_signals
from voltflow.settings import SettingsError
from voltflow.state import StateStore

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
            "birth": presence(settings.gateway, online=True),
            "farewell": presence(settings.gateway, online=False),
            "will": presence(settings.gateway, online=False),
        },
    )


async def run_agent(settings: AgentSettings) -> None:
    """Run until SIGTERM or SIGINT.

    What is not safe at every sink by then is logged by the engine. It is no failure: it was not acknowledged either, so
    the broker sends it to the next start.
    """
    stop = stop_on_signals()
    flow, env = load_flow(settings)
    store, contexts = TwinStore(receive_clock), Contexts()
    engine = Engine(
        flow,
        env=env,
        services={TwinStore: store, Contexts: contexts},
        gateway=settings.gateway,
        state_dir=settings.state_dir,
        watchdog_s=settings.watchdog_s,
        grace_s=settings.grace_s,
    )
    durable = StateStore(settings.state_dir, settings.state_period_s, settings.disk_write_budget_mb_per_day)
    durable.register(
        "twins", lambda: copy_twins(store), lambda data: restore_twins(store, data),
        urgent=lambda: store.alert_changes,
    )  # fmt: skip
    durable.register("contexts", contexts.copy, contexts.restore)
    state = AppState(
        store=store,
        engine=engine,
        gateway=settings.gateway,
        started=time.time(),
        models=[wired.node for wired in engine.nodes.values() if isinstance(wired.node, Onnx)],
        durable=durable,
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
        await _restore(durable, store)
        contexts.keep_only(*_scopes(engine))
        telling = asyncio.create_task(Teller(state).run(), name="gateway state")
        try:
            await _run_flow(engine, durable, stop)
        finally:
            telling.cancel()
    finally:
        await metrics.stop()
        await web.stop()


async def _restore(durable: StateStore, store: TwinStore) -> None:
    restored = await durable.open()
    if restored is None:
        log.info("no state in '%s': all packs start anew", durable.folder)
        return
    if not restored.clean:
        mark_after_crash(store)
    log.info("state of %d packs %s", len(store.packs), restored)


def _scopes(engine: Engine) -> tuple[set[str], set[str]]:
    """The nodes and tabs whose context is still of use."""
    return set(engine.nodes), {wired.node.tab for wired in engine.nodes.values()}


async def _run_flow(engine: Engine, durable: StateStore, stop: asyncio.Event) -> None:
    """Run, writing the state meanwhile; the last one is marked clean where nothing was left under way. Otherwise the last
    but one stands: the batches that were given up come again, and it knows nothing of them."""
    writing = asyncio.create_task(durable.run(engine.settled), name="state")
    try:
        clean = await engine.run(stop)
    finally:
        writing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await writing
    if clean:
        await durable.close()
