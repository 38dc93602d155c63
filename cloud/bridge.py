"""The cloud bridge: a flow on Voltflow's engine from the broker to the history, Kafka and InfluxDB.

`Bridge(settings).run(stop)` runs it; the settings are those of `cloud-bridge`, and the flow names them as
`${VOLTFLOW_BRIDGE_<NAME>}`, which are also their names in the environment.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import logging
import re
import socket
from collections.abc import AsyncIterator, Iterator
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
from msgspec import Meta

from voltflow import topics
from voltflow.engine.engine import Engine
from voltflow.flow.flow import Flow, RawNode
from voltflow.logs import LogFormat, LogLevel, LogLevels
from voltflow.node import load_nodes, process_env
from voltflow.nodes.mqtt_broker import MqttBroker
from voltflow.program import flow_variables
from voltflow.settings import Secret
from voltflow.topics import is_name

if TYPE_CHECKING:
    from cloud.ledger_task import LedgerTask
    from cloud.retention_task import RetentionTask
    from voltflow.mqtt.link import MqttLink

log = logging.getLogger(__name__)

PREFIX = "VOLTFLOW_BRIDGE_"
SinkName = Literal["timescale", "kafka", "influx"]
SWITCHES: dict[SinkName, str] = {"timescale": "database", "kafka": "kafka_bootstrap", "influx": "influx_url"}
"""The setting that must not be empty for a sink to be there, by the sink."""

SHIPPED = {"from-kafka": files("cloud") / "flows-from-kafka.json"}
"""Flows that come with the bridge, by what the setting `flow` calls them."""

Port = Annotated[int, Meta(ge=1, le=65535)]
Days = Annotated[int, Meta(ge=0, le=36_500)]


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
    takeover_s: Annotated[
        float,
        Meta(
            ge=0.1,
            le=86400,
            description="where messages are shared: when another bridge is gone for so long, in seconds, take over what the "
            "broker holds for it",
        ),
    ] = 10.0
    receive_maximum: Annotated[
        int, Meta(ge=1, le=65535, description="messages the broker may have under way to the bridge")
    ] = 5000
    database: Annotated[
        Secret, Meta(description="connection string of PostgreSQL or TimescaleDB; empty: no history")
    ] = ""
    kafka_bootstrap: Annotated[
        str, Meta(description="Kafka brokers, host:port separated by commas; empty: no Kafka")
    ] = ""
    kafka_security: Annotated[
        Literal["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"],
        Meta(description="how Kafka is reached: ssl encrypts, sasl has a login"),
    ] = "plaintext"
    kafka_ca: Annotated[
        str, Meta(description="file with the authorities to trust for Kafka (PEM); empty: the system's")
    ] = ""
    kafka_cert: Annotated[
        str, Meta(description="file with this bridge's certificate for Kafka (PEM); empty: none")
    ] = ""
    kafka_key: Annotated[
        str, Meta(description="file with the key of that certificate (PEM); empty: none")
    ] = ""
    kafka_sasl_mechanism: Annotated[
        Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"],
        Meta(description="how the login at Kafka is proved"),
    ] = "SCRAM-SHA-512"
    kafka_user: Annotated[str, Meta(description="user at Kafka; needed where kafka_security has sasl")] = ""
    kafka_password: Annotated[Secret, Meta(description="password at Kafka")] = ""
    kafka_group: Annotated[
        str, Meta(description="consumer group of the bridges that read from Kafka (flow = from-kafka)")
    ] = "voltflow-history"
    influx_url: Annotated[str, Meta(description="address of InfluxDB; empty: no InfluxDB")] = ""
    influx_token: Annotated[Secret, Meta(description="API token of InfluxDB")] = ""
    influx_org: Annotated[str, Meta(description="organisation in InfluxDB")] = "voltflow"
    influx_bucket: Annotated[str, Meta(description="bucket in InfluxDB")] = "voltflow"
    sinks: Annotated[
        list[SinkName],
        Meta(description="sinks to use, of timescale, kafka, influx; empty: all that are configured"),
    ] = []
    ledger_period_s: Annotated[
        float,
        Meta(
            ge=0,
            le=86400,
            description="look at the ledger of the newest history so often, in seconds; 0: never",
        ),
    ] = 60.0
    ledger_window_h: Annotated[
        float,
        Meta(gt=0, le=8760, description="after a start the ledger looks at what was stored in so many hours"),
    ] = 48.0
    repair_after_s: Annotated[
        float,
        Meta(
            ge=0,
            le=86400,
            description="ask the device again for messages missing for so long, in seconds; 0: never",
        ),
    ] = 60.0
    repair_attempts: Annotated[
        int,
        Meta(
            ge=1, le=100, description="ask so often, each time after twice the wait; then they are given up"
        ),
    ] = 10
    keep_telemetry_days: Annotated[
        Days,
        Meta(
            description="days that telemetry is kept, with the predictions in the same rows, by device time and time of "
            "storing; 0: for ever"
        ),
    ] = 0
    keep_alerts_days: Annotated[
        Days, Meta(description="days that alerts are kept, those that stand for longer; 0: for ever")
    ] = 0
    keep_dead_letters_days: Annotated[
        Days,
        Meta(description="days that dead letters are kept, also those nobody has looked at; 0: for ever"),
    ] = 0
    keep_losses_days: Annotated[Days, Meta(description="days that loss records are kept; 0: for ever")] = 0
    compress_telemetry_days: Annotated[
        Days,
        Meta(description="days after which telemetry is compressed, with TimescaleDB only; 0: never"),
    ] = 0
    retention_period_s: Annotated[
        float,
        Meta(
            ge=0,
            le=86400,
            description="take out what is old, and measure the tables, so often, in seconds; 0: never",
        ),
    ] = 3600.0
    metrics_host: Annotated[
        str, Meta(description="address of /metrics; beyond localhost metrics_token is required")
    ] = "127.0.0.1"
    metrics_port: Annotated[
        int, Meta(ge=0, le=65535, description="port where /metrics is served; 0: not served")
    ] = 9092
    metrics_token: Annotated[Secret, Meta(description="token that /metrics asks for; empty: none")] = ""
    flow: Annotated[
        Path | None,
        Meta(
            description="flow file; empty: the one that comes with the bridge, from the MQTT broker; from-kafka: the other "
            "one, which reads what such a bridge sent to Kafka"
        ),
    ] = None
    state_dir: Annotated[Path, Meta(description="folder for what the bridge keeps between runs")] = Path(
        ".voltflow/bridge"
    )
    grace_s: Annotated[
        float, Meta(ge=0, le=600, description="when stopping, wait for batches under way at most, in seconds")
    ] = 10.0
    watchdog_s: Annotated[
        float, Meta(ge=1, le=3600, description="report what holds up a batch for longer, in seconds")
    ] = 30.0
    log_level: LogLevel = "info"
    log_levels: LogLevels = []
    log_format: LogFormat = "text"

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
        state_topic = topics.bridge_state(self.bridge_name) if self.shared else ""
        return flow_variables("bridge", self, {"state_topic": state_topic})


class NoSinkError(ValueError):
    """The flow would take messages and store them nowhere."""


def load_flow(settings: BridgeSettings) -> Flow:
    """The flow with the sinks left out that are not configured, and without `$share` where `shared` is off.

    Raises FlowError, OSError or NoSinkError.

    A sink is left out (`"d": true`) when one of its properties stands for the switching setting of an inactive sink.
    """
    load_nodes("voltflow.nodes", "cloud.nodes")
    text = _flow_file(settings).read_text(encoding="utf-8")
    off = {
        f"${{{PREFIX}{setting.upper()}}}" for s, setting in SWITCHES.items() if s not in settings.active_sinks
    }
    nodes = copy.deepcopy(Flow.parse(text).nodes)
    disabled = [
        raw for raw in nodes if _is_sink(raw) and off & {v for v in raw.values() if isinstance(v, str)}
    ]
    for raw in disabled:
        raw["d"] = True
    if not settings.shared:
        _unshare(nodes)
    flow = Flow(nodes)
    if disabled and not any(_is_sink(raw) for raw in flow.active()):
        wanted = ", ".join(SWITCHES.values())
        raise NoSinkError(f"no sink is configured: set one of {wanted} (for instance {PREFIX}DATABASE)")
    return flow


def _flow_file(settings: BridgeSettings) -> Path | Traversable:
    if settings.flow is None:
        return files("cloud") / "flows.json"
    return SHIPPED.get(str(settings.flow), settings.flow)


def _unshare(nodes: list[RawNode]) -> None:
    for raw in nodes:
        if raw["type"] == "mqtt heir":
            raw["d"] = True
        elif raw["type"] == "mqtt in":
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
        self.ledger = _ledger_task(settings)
        self.retention = _retention_task(settings)

    async def run(self, stop: asyncio.Event) -> bool:
        """Run until `stop` is set, then drain; True when nothing was left under way."""
        from cloud.metrics import serve

        sinks = ", ".join(self.settings.active_sinks) or "those of the flow"
        log.info("bridge %s: broker %s:%d, sinks: %s", self.settings.bridge_name,
                 self.settings.mqtt_host, self.settings.mqtt_port, sinks)  # fmt: skip
        s = self.settings
        with serve(self.engine, s.metrics_host, s.metrics_port, s.metrics_token, self.ledger, self.retention):
            async with self._aside_runs(stop):
                return await self.engine.run(stop)

    @contextlib.asynccontextmanager
    async def _aside_runs(self, stop: asyncio.Event) -> AsyncIterator[None]:
        """The continuous ledger and retention beside the flow; they end with the block, however that ends."""
        over = asyncio.Event()
        tasks = [asyncio.create_task(_pass_on(stop, over), name="stop of what runs beside the flow")]
        if self.ledger is not None:
            tasks.append(asyncio.create_task(self.ledger.run(over, self._sender), name="ledger"))
        if self.retention is not None:
            tasks.append(asyncio.create_task(self.retention.run(over), name="retention"))
        try:
            yield
        finally:
            over.set()
            tasks[0].cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _sender(self) -> MqttLink | None:
        """The connection over which the flow publishes at the bridge's broker."""
        nodes = (wired.node for wired in self.engine.nodes.values())
        broker = next(
            (node for node in nodes if isinstance(node, MqttBroker) and node.receiver is not None), None
        )
        return None if broker is None else await broker.open_sender()


async def _pass_on(event: asyncio.Event, other: asyncio.Event) -> None:
    await event.wait()
    other.set()


def _ledger_task(settings: BridgeSettings) -> LedgerTask | None:
    """The continuous ledger, where there is a history and it is wanted."""
    if not settings.ledger_period_s or "timescale" not in settings.active_sinks:
        return None
    from cloud.ledger_task import LedgerTask

    return LedgerTask(
        settings.database,
        period_s=settings.ledger_period_s,
        window_h=settings.ledger_window_h,
        repair_after_s=settings.repair_after_s,
        repair_attempts=settings.repair_attempts,
    )


def _retention_task(settings: BridgeSettings) -> RetentionTask | None:
    """What takes out of the history what is old, and measures it, where there is one."""
    if not settings.retention_period_s or "timescale" not in settings.active_sinks:
        return None
    from cloud.retention import Keep
    from cloud.retention_task import RetentionTask

    keep = Keep(
        telemetry=settings.keep_telemetry_days,
        alert=settings.keep_alerts_days,
        dead_letter=settings.keep_dead_letters_days,
        loss=settings.keep_losses_days,
        compress=settings.compress_telemetry_days,
    )
    return RetentionTask(settings.database, keep, settings.retention_period_s)


def problems(settings: BridgeSettings) -> Iterator[str]:
    """What is wrong with the flow under these settings, for `cloud-bridge check`."""
    for problem in load_flow(settings).check(process_env(settings.variables())):
        yield str(problem)
