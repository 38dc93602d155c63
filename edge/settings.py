"""The agent's settings, section `[agent]` of `voltflow.toml`, `VOLTFLOW_AGENT_*` in the environment."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from voltflow.logs import LogFormat, LogLevel, LogLevels
from voltflow.settings import Secret
from voltflow.topics import NAME_PATTERN


def _gateway_name() -> str:
    name = "".join(c if c.isascii() and (c.isalnum() or c in "_-") else "-" for c in socket.gethostname())
    return name[:64] or "gateway"


class AgentSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that can be set of an edge agent."""

    gateway: Annotated[
        str,
        Meta(
            pattern=f"^{NAME_PATTERN}$",
            description="this gateway's name, unique in the fleet; default: the host's",
        ),
    ] = msgspec.field(default_factory=_gateway_name)
    broker_host: Annotated[str, Meta(description="MQTT broker the devices publish to")] = "127.0.0.1"
    broker_port: Annotated[int, Meta(ge=1, le=65535, description="its port")] = 1883
    broker_user: Annotated[str, Meta(description="user name at it; empty: none")] = ""
    broker_password: Annotated[Secret, Meta(description="password at it")] = ""
    broker_tls: Annotated[bool, Meta(description="encrypt the connection to it")] = False
    broker_ca: Annotated[str, Meta(description="file with the authorities to trust; empty: the system's")] = (
        ""
    )
    broker_cert: Annotated[str, Meta(description="file with the client certificate")] = ""
    broker_key: Annotated[str, Meta(description="file with its private key")] = ""
    uplink_host: Annotated[
        str, Meta(description="cloud broker; empty: the devices' broker, then no uplink_* is set")
    ] = ""
    uplink_port: Annotated[
        int, Meta(ge=0, le=65535, description="its port; 0: 8883 with uplink_tls, else 1883")
    ] = 0
    uplink_user: Annotated[str, Meta(description="user name at it; empty: none")] = ""
    uplink_password: Annotated[Secret, Meta(description="password at it")] = ""
    uplink_tls: Annotated[bool, Meta(description="encrypt the connection to it")] = False
    uplink_ca: Annotated[str, Meta(description="file with the authorities to trust; empty: the system's")] = (
        ""
    )
    uplink_cert: Annotated[str, Meta(description="file with the client certificate")] = ""
    uplink_key: Annotated[str, Meta(description="file with its private key")] = ""
    uplink_needs_subscriber: Annotated[
        bool,
        Meta(
            description="what nobody subscribes to at the uplink is not safe: hold it until somebody does; for bridges "
            "with shared subscriptions at mosquitto 2.0, which forgets those at a restart"
        ),
    ] = False
    spool: Annotated[
        bool, Meta(description="keep on disk (state_dir/spool) what the uplink does not take in time")
    ] = True
    spool_after_s: Annotated[
        float, Meta(ge=0.1, le=3600, description="how long the uplink may take before a batch goes to disk")
    ] = 5.0
    spool_max_mb: Annotated[
        float,
        Meta(
            ge=1, le=1e6, description="telemetry on disk at most; beyond it thinned, then the oldest dropped"
        ),
    ] = 1000.0
    spool_max_age_h: Annotated[
        float, Meta(ge=0.01, le=1e5, description="telemetry on disk is kept so long, hours")
    ] = 168.0
    spool_protected_mb: Annotated[
        float,
        Meta(
            ge=1,
            le=1e6,
            description="alerts, dead letters and loss records on disk; never dropped, beyond it the gateway "
            "takes no more",
        ),
    ] = 100.0
    spool_drain_share: Annotated[
        float, Meta(ge=0.01, le=1, description="share of the uplink's rate that the backlog may use")
    ] = 0.3
    window: Annotated[
        int,
        Meta(
            ge=1, le=65535, description="telemetry messages under way unacknowledged (MQTT 5 Receive Maximum)"
        ),
    ] = 1000
    flow: Annotated[
        str,
        Meta(
            description="flow file, which deploys replace; empty: the default flow, and once something was deployed "
            "state_dir/flows.json"
        ),
    ] = ""
    editor: Annotated[
        bool, Meta(description="serve the flow editor at /editor; beyond localhost it needs users")
    ] = True
    users_file: Annotated[
        str, Meta(description="file of the editor's users (`voltflow users`); empty: state_dir/users.json")
    ] = ""
    credential_secret: Annotated[
        Secret,
        Meta(
            description="what credentials of the flow are encrypted with, Node-RED's credentialSecret; empty: one that "
            "is made and kept in state_dir/credential_secret"
        ),
    ] = ""
    files_dir: Annotated[
        str, Meta(description="folder that nodes may read and write files in; empty: state_dir/files")
    ] = ""
    models_dir: Annotated[str, Meta(description="folder of the models; empty: the released ones")] = ""
    state_dir: Annotated[Path, Meta(description="folder for what survives a restart")] = Path(
        ".voltflow/agent"
    )
    state_period_s: Annotated[
        float, Meta(ge=1, le=86400, description="how often twins and contexts are written there, seconds")
    ] = 60.0
    disk_write_budget_mb_per_day: Annotated[
        float,
        Meta(
            ge=1,
            le=1e6,
            description="MB of them that may be written in a day; where so many packs would cost more they are written "
            "less often. 500: a card of 32 GB with 1,000 cycles, of whose writes a tenth is data, lasts 17 years",
        ),
    ] = 500.0
    api_host: Annotated[
        str, Meta(description="address of API and page; beyond localhost a token is required")
    ] = "127.0.0.1"
    api_port: Annotated[int, Meta(ge=1, le=65535, description="port of API and page")] = 5002
    api_token: Annotated[Secret, Meta(description="token that API and page ask for; empty: none")] = ""
    metrics_host: Annotated[
        str, Meta(description="address of /metrics; beyond localhost the token is required")
    ] = "127.0.0.1"
    metrics_port: Annotated[int, Meta(ge=1, le=65535, description="port of /metrics for Prometheus")] = 9091
    metrics_max_packs: Annotated[
        int,
        Meta(
            ge=0,
            le=1_000_000,
            description="packs with series of their own in /metrics, the most worrying ones; all are in the fleet's series",
        ),
    ] = 200
    silent_after_s: Annotated[
        float,
        Meta(
            ge=1,
            le=604800,
            description="a pack that says nothing for longer is silent, seconds; parked ones send every 15 minutes at least",
        ),
    ] = 1200.0
    watchdog_s: Annotated[
        float, Meta(ge=1, le=3600, description="report what holds the flow for longer, seconds")
    ] = 30.0
    grace_s: Annotated[
        float, Meta(ge=0.1, le=300, description="time for batches under way at a stop, seconds")
    ] = 10.0
    log_level: LogLevel = "info"
    log_levels: LogLevels = []
    log_format: LogFormat = "text"

    def __post_init__(self) -> None:
        if self.uplink_host:
            return
        values, defaults = msgspec.structs.asdict(self), _uplink_defaults()
        if ignored := [name for name, default in defaults.items() if values[name] != default]:
            raise ValueError(
                f"{' and '.join(ignored)} set without uplink_host: name the cloud broker with uplink_host, or leave "
                "them out to send to the devices' broker with its own settings (broker_*)"
            )

    @property
    def flow_path(self) -> Path:
        """The file that deploys replace."""
        return Path(self.flow) if self.flow else self.state_dir / "flows.json"

    @property
    def users_path(self) -> Path:
        return Path(self.users_file) if self.users_file else self.state_dir / "users.json"

    @property
    def files_path(self) -> Path:
        return Path(self.files_dir) if self.files_dir else self.state_dir / "files"

    def with_uplink(self) -> AgentSettings:
        """The settings as the flow uses them: the uplink's port filled in, or all of it as the devices' broker."""
        if self.uplink_host:
            return msgspec.structs.replace(
                self, uplink_port=self.uplink_port or (8883 if self.uplink_tls else 1883)
            )
        same = {name: getattr(self, name.replace("uplink", "broker")) for name in _uplink_defaults()}
        return msgspec.structs.replace(self, uplink_host=self.broker_host, **same)


def _uplink_defaults() -> dict[str, Any]:
    """What describes the uplink beside its host, and the value that means: not set."""
    connection = [f"uplink_{name}" for name in ("port", "user", "password", "tls", "ca", "cert", "key")]
    return {f.name: f.default for f in msgspec.structs.fields(AgentSettings) if f.name in connection}
