"""The cloud bridge: a flow on Voltflow's engine from the broker to the history, Kafka and InfluxDB.

`Bridge(settings).run(stop)` runs it; the settings are those of `cloud-bridge`, and the flow names them as
`${VOLTFLOW_BRIDGE_<NAME>}`, which are also their names in the environment.
"""

from __future__ import annotations

import asyncio
import copy
import logging
import re
import socket
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from voltflow.engine import Engine
from voltflow.flow import Flow, RawNode
from voltflow.node import load_nodes, process_env
from voltflow.program import flow_variables
from voltflow.settings import Secret
from voltflow.topics import is_name

log = logging.getLogger(__name__)

PREFIX = "VOLTFLOW_BRIDGE_"
SinkName = Literal["timescale", "kafka", "influx"]
SWITCHES: dict[SinkName, str] = {"timescale": "database", "kafka": "kafka_bootstrap", "influx": "influx_url"}
"""The setting that must not be empty for a sink to be there, by the sink."""

Port = Annotated[int, Meta(ge=1, le=65535)]


class BridgeSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of `cloud-bridge`; the table [bridge] of the settings file."""

    name: Annotated[
        str, Meta(description="name of this bridge, different for each one; empty: the host's name")
    ] = ""
    mqtt_host: Annotated[str, Meta(description="host of the MQTT broker")] = "127.0.0.1"
    mqtt_port: Annotated[Port, Meta(description="port of the MQTT broker")] = 1883
    mqtt_user: Annotated[str, Meta(description="user at the broker; empty: none")] = ""
    mqtt_password: Annotated[Secret, Meta(description="password at the broker")] = ""
    mqtt_tls: Annotated[bool, Meta(description="encrypt the connection to the broker")] = False
    mqtt_ca: Annotated[
        str, Meta(description="file with the authorities to trust (PEM); empty: the system's")
    ] = ""
    mqtt_cert: Annotated[str, Meta(description="file with this bridge's certificate (PEM); empty: none")] = ""
    mqtt_key: Annotated[str, Meta(description="file with the key of the certificate (PEM); empty: none")] = ""
    shared: Annotated[
        bool,
        Meta(
            description="share the messages with other bridges; one bridge needs it not. With several set it true at each of "
            "them and uplink_needs_subscriber at the gateways, because mosquitto 2.0 forgets shared subscriptions at a "
            "restart and throws away what comes before a bridge is back"
        ),
    ] = False
    receive_maximum: Annotated[
        int, Meta(ge=1, le=65535, description="messages the broker may have under way to the bridge")
    ] = 5000
    database: Annotated[
        Secret, Meta(description="connection string of PostgreSQL or TimescaleDB; empty: no history")
    ] = ""
    kafka_bootstrap: Annotated[
        str, Meta(description="Kafka brokers, host:port separated by commas; empty: no Kafka")
    ] = ""
    influx_url: Annotated[str, Meta(description="address of InfluxDB; empty: no InfluxDB")] = ""
    influx_token: Annotated[Secret, Meta(description="API token of InfluxDB")] = ""
    influx_org: Annotated[str, Meta(description="organisation in InfluxDB")] = "voltflow"
    influx_bucket: Annotated[str, Meta(description="bucket in InfluxDB")] = "voltflow"
    sinks: Annotated[
        list[SinkName],
        Meta(description="sinks to use, of timescale, kafka, influx; empty: all that are configured"),
    ] = []
    metrics_host: Annotated[
        str, Meta(description="address of /metrics; beyond localhost metrics_token is required")
    ] = "127.0.0.1"
    metrics_port: Annotated[
        int, Meta(ge=0, le=65535, description="port where /metrics is served; 0: not served")
    ] = 9092
    metrics_token: Annotated[Secret, Meta(description="token that /metrics asks for; empty: none")] = ""
    flow: Annotated[Path | None, Meta(description="flow file; empty: the one that comes with the bridge")] = (
        None
    )
    state_dir: Annotated[Path, Meta(description="folder for what the bridge keeps between runs")] = Path(
        ".voltflow/bridge"
    )
    grace_s: Annotated[
        float, Meta(ge=0, le=600, description="when stopping, wait for batches under way at most, in seconds")
    ] = 10.0
    watchdog_s: Annotated[
        float, Meta(ge=1, le=3600, description="report what holds up a batch for longer, in seconds")
    ] = 30.0
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], Meta(description="least severity that is logged")
    ] = "info"

    def __post_init__(self) -> None:
        if self.name and not is_name(self.name):
            raise ValueError(f"name = {self.name!r} is not allowed: letters, digits, - and _, at most 64")
        for sink in self.sinks:
            if not getattr(self, SWITCHES[sink]):
                raise ValueError(
                    f"sinks names {sink}, but {SWITCHES[sink]} is not set: set it, or leave {sink} out"
                )

    @property
    def bridge_name(self) -> str:
        """The name, or one made from the host's."""
        return self.name or re.sub(r"[^A-Za-z0-9_-]", "-", f"bridge-{socket.gethostname()}")[:64]

    @property
    def active_sinks(self) -> list[SinkName]:
        """The sinks that are to be there."""
        return [
            s
            for s, setting in SWITCHES.items()
            if getattr(self, setting) and (not self.sinks or s in self.sinks)
        ]

    def variables(self) -> dict[str, str]:
        """The settings as what a flow's `${VOLTFLOW_BRIDGE_…}` stands for."""
        return flow_variables("bridge", self)


class NoSinkError(ValueError):
    """The flow would take messages and store them nowhere."""


def load_flow(settings: BridgeSettings) -> Flow:
    """The flow with the sinks left out that are not configured, and without `$share` where `shared` is off.

    Raises FlowError, OSError or NoSinkError.

    A node is left out (`"d": true`) when one of its properties stands for the switching setting of an inactive sink.
    """
    load_nodes("voltflow.nodes", "cloud.nodes")
    text = (settings.flow or files("cloud") / "flows.json").read_text(encoding="utf-8")
    off = {
        f"${{{PREFIX}{setting.upper()}}}" for s, setting in SWITCHES.items() if s not in settings.active_sinks
    }
    nodes = copy.deepcopy(Flow.parse(text).nodes)
    disabled = [raw for raw in nodes if off & {value for value in raw.values() if isinstance(value, str)}]
    for raw in disabled:
        raw["d"] = True
    if not settings.shared:
        _unshare(nodes)
    flow = Flow(nodes)
    if disabled and not any(_is_sink(raw) for raw in flow.active()):
        wanted = ", ".join(SWITCHES.values())
        raise NoSinkError(f"no sink is configured: set one of {wanted} (for instance {PREFIX}DATABASE)")
    return flow


def _unshare(nodes: list[RawNode]) -> None:
    for raw in nodes:
        if raw["type"] == "mqtt in":
            raw["topic"] = re.sub(r"^\$share/[^/]+/", "", str(raw.get("topic", "")))


def _is_sink(raw: RawNode) -> bool:
    from voltflow.node import REGISTRY, DeadLetterSink, Sink

    spec = REGISTRY.get(raw["type"])
    return spec is not None and issubclass(spec.cls, Sink) and not issubclass(spec.cls, DeadLetterSink)


class Bridge:
    """The engine with the bridge's flow, and its metrics."""

    def __init__(self, settings: BridgeSettings) -> None:
        self.settings = settings
        settings.state_dir.mkdir(parents=True, exist_ok=True)
        self.engine = Engine(
            load_flow(settings),
            env=process_env(settings.variables()),
            gateway=settings.bridge_name,
            state_dir=settings.state_dir,
            watchdog_s=settings.watchdog_s,
            grace_s=settings.grace_s,
        )

    async def run(self, stop: asyncio.Event) -> bool:
        """Run until `stop` is set, then drain; True when nothing was left under way."""
        from cloud.metrics import serve

        sinks = ", ".join(self.settings.active_sinks) or "those of the flow"
        log.info("bridge %s: broker %s:%d, sinks: %s", self.settings.bridge_name,
                 self.settings.mqtt_host, self.settings.mqtt_port, sinks)  # fmt: skip
        s = self.settings
        with serve(self.engine, s.metrics_host, s.metrics_port, s.metrics_token):
            return await self.engine.run(stop)


def problems(settings: BridgeSettings) -> Iterator[str]:
    """What is wrong with the flow under these settings, for `cloud-bridge check`."""
    for problem in load_flow(settings).check(process_env(settings.variables())):
        yield str(problem)
