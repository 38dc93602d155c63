"""The edge agent: the flow, the twins, the web server, in one event loop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from edge.acknowledgements import FILE as ACKNOWLEDGED
from edge.api import AppState
from edge.editor.app import Editor
from edge.editor.auth import Auth
from edge.editor.flow_files import CredentialSecret, FlowFiles
from edge.editor.flow_store import FlowStore
from edge.gateway_state import Teller, presence
from edge.model import Model
from edge.nodes.onnx import Onnx
from edge.settings import AgentSettings
from edge.snapshot import copy_twins, mark_after_crash, restore_twins
from edge.twin import TwinStore
from edge.web import MetricsServer, WebServer
from voltflow import topics
from voltflow.access import address_of, is_loopback
from voltflow.admin.credentials import CompleteFlow
from voltflow.clock import receive_clock
from voltflow.engine.context import Contexts
from voltflow.engine.engine import Engine
from voltflow.flow.expand import RawNode
from voltflow.flow.flow import Flow
from voltflow.log_levels import LogLevels
from voltflow.node import load_nodes, process_env
from voltflow.nodelib.files import Files
from voltflow.nodelib.http_endpoints import HttpEndpoints
from voltflow.program import flow_variables, stop_on_signals
from voltflow.settings import SettingsError
from voltflow.state.state import StateStore

log = logging.getLogger(__name__)

DEFAULT_FLOW = Path(__file__).with_name("flows.json")
SEPARATE_UPLINK = "separate uplink"
"""The property `only` of a node that is left out where the uplink is the devices' broker: it would publish its own input."""


def load_flow(settings: AgentSettings) -> tuple[Flow, dict[str, str]]:
    """The agent's flow and the variables it may use; raises FlowError, or SettingsError where there is no such file."""
    files, env = flow_files(settings), _environment(settings)
    try:
        return files.load(), env
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(files, error) from None


def open_flow(settings: AgentSettings) -> tuple[FlowFiles, CompleteFlow, dict[str, str]]:
    """As `load_flow`, for a run: a file that is broken, or has ended the gateway too often, is not the one to start."""
    files, env = flow_files(settings), _environment(settings)
    try:
        return files, files.open(lambda flow: flow.check(env)), env
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(files, error) from None


def flow_files(settings: AgentSettings) -> FlowFiles:
    """Where the agent's flow is kept."""
    load_nodes("voltflow.nodes", "edge.nodes")
    return FlowFiles(
        settings.flow_path,
        secret=CredentialSecret(settings.credential_secret, settings.state_dir / "credential_secret"),
        default=None if settings.flow else DEFAULT_FLOW,
        adapt=lambda nodes: _adapt(nodes, separate=bool(settings.uplink_host)),
    )


def _unreadable(files: FlowFiles, error: OSError | UnicodeDecodeError) -> SettingsError:
    reason = getattr(error, "strerror", None) or error
    return SettingsError(f"flow = '{files.path}' cannot be read: {reason}; name a flow file, or leave it empty "
                         "for the default flow")  # fmt: skip


def _adapt(nodes: list[RawNode], *, separate: bool) -> None:
    """Switch off the nodes that say they are for another case, and on those that are for this one."""
    for raw in nodes:
        if raw.get("only") != SEPARATE_UPLINK or bool(raw.get("d")) != separate:
            continue  # it is so already, and stays as it is written
        if separate:
            del raw["d"]
        else:
            raw["d"] = True


def make_auth(settings: AgentSettings) -> Auth:
    """Who may use the editor."""
    try:
        exposed = not is_loopback(address_of(settings.api_host, settings.api_port)[1])
    except OSError:
        exposed = True  # it has no address: the web server says so at its start
    return Auth(
        settings.users_path, settings.state_dir / "tokens.json",
        enabled=settings.editor, exposed=exposed, api_token=bool(settings.api_token),
        host=settings.api_host,
    )  # fmt: skip


def load_models(flow: Flow, env: Mapping[str, str]) -> list[Model]:
    """The models of the flow's `onnx` nodes, read as at the start; raises ConfigError naming what cannot run."""
    return [wired.node.load() for wired in flow.build(env).values() if isinstance(wired.node, Onnx)]


HIDDEN = ("VOLTFLOW_AGENT_CREDENTIAL_SECRET", "VOLTFLOW_AGENT_API_TOKEN")
"""Variables that no flow may use: who may deploy would read them with it."""


def _environment(settings: AgentSettings) -> dict[str, str]:
    env = process_env(_variables(settings.with_uplink()))
    return {name: value for name, value in env.items() if name not in HIDDEN}


def _variables(settings: AgentSettings) -> Mapping[str, str]:
    return flow_variables(
        "agent",
        settings,
        {
            "files_dir": str(settings.files_path),
            "state_topic": topics.gateway_state(settings.gateway),
            "down_topic": topics.gateway_down(settings.gateway),
            "birth": presence(settings.gateway, online=True),
            "farewell": presence(settings.gateway, online=False),
            "will": presence(settings.gateway, online=False),
        },
    )


async def run_agent(settings: AgentSettings, levels: LogLevels) -> None:
    """Run until SIGTERM or SIGINT; `levels` are what the API changes.

    What is not safe at every sink by then is logged by the engine. It is no failure: it was not acknowledged either, so
    the broker sends it to the next start.
    """
    stop = stop_on_signals()
    agent = _made(settings, levels)
    await agent.web.start()
    try:
        await agent.metrics.start()
        agent.tell(settings)
        await agent.restore()
        telling = asyncio.create_task(Teller(agent.state).run(), name="gateway state")
        try:
            async with agent.flows.running():
                await _run_flow(agent.engine, agent.durable, stop)
        finally:
            telling.cancel()
    finally:
        await agent.metrics.stop()
        await agent.web.stop()


@dataclass
class _Agent:
    """What the agent is made of."""

    engine: Engine
    contexts: Contexts
    flows: FlowStore
    auth: Auth
    durable: StateStore
    state: AppState
    web: WebServer
    metrics: MetricsServer

    def tell(self, settings: AgentSettings) -> None:
        log.info("gateway %s, flow %s: page and API on http://%s:%d/, metrics on http://%s:%d/metrics",
                 settings.gateway, self.engine.flow.revision, settings.api_host, settings.api_port,
                 settings.metrics_host, settings.metrics_port)  # fmt: skip
        if self.auth.closed:
            log.warning("no flow editor: %s", self.auth.closed)

    async def restore(self) -> None:
        """Go on with what the last run has kept."""
        await _restore(self.durable, self.state.store)
        self.state.acknowledgements.open()
        self.contexts.keep_only(*_scopes(self.engine))


def _made(settings: AgentSettings, levels: LogLevels) -> _Agent:
    """Everything, and nothing of it started; raises SettingsError or FlowError."""
    files, flow, env = open_flow(settings)
    store, contexts = TwinStore(receive_clock, silent_after_s=settings.silent_after_s), Contexts()
    endpoints = HttpEndpoints()
    services: dict[type, object] = {
        TwinStore: store, Contexts: contexts, HttpEndpoints: endpoints, Files: Files(settings.files_path),
    }  # fmt: skip
    engine = Engine(
        flow, env=env, services=services, gateway=settings.gateway, state_dir=settings.state_dir,
        watchdog_s=settings.watchdog_s, grace_s=settings.grace_s,
    )  # fmt: skip
    flows, auth, durable = (
        FlowStore(files.path, engine, files=files),
        make_auth(settings),
        _durable(settings, store, contexts),
    )
    state = AppState(
        store=store, engine=engine, gateway=settings.gateway, started=time.time(), models=_OnnxNodes(engine), durable=durable,
        acknowledged_file=settings.state_dir / ACKNOWLEDGED, flows=flows, auth=auth,
        metrics_max_packs=settings.metrics_max_packs, log_levels=levels,
    )  # fmt: skip
    token, editor = settings.api_token or None, Editor(engine, flows, auth, contexts, settings.state_dir)
    web = WebServer(
        state, settings.api_host, settings.api_port, token=token, editor=editor, endpoints=endpoints
    )
    metrics = MetricsServer(state, settings.metrics_host, settings.metrics_port, token=token)
    return _Agent(engine, contexts, flows, auth, durable, state, web, metrics)


def _durable(settings: AgentSettings, store: TwinStore, contexts: Contexts) -> StateStore:
    durable = StateStore(settings.state_dir, settings.state_period_s, settings.disk_write_budget_mb_per_day)
    durable.register(
        "twins", lambda: copy_twins(store), lambda data: restore_twins(store, data),
        urgent=lambda: store.alert_changes,
    )  # fmt: skip
    durable.register("contexts", contexts.copy, contexts.restore)
    return durable


class _OnnxNodes:
    """The nodes that run models; a deploy may have replaced them."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def __iter__(self) -> Iterator[Onnx]:
        return iter([wired.node for wired in self._engine.nodes.values() if isinstance(wired.node, Onnx)])


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
    parts = [wired.part for wired in engine.nodes.values()]
    tabs = {tab for part in parts for tab in (part.tab, *engine.wiring.flows_around(part))}
    return set(engine.nodes), tabs


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
