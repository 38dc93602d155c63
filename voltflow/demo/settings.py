"""The demo's settings, section `[demo]` of `voltflow.toml`, `VOLTFLOW_DEMO_*` in the environment."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from voltflow.logs import LogFormat, LogLevel, LogLevels
from voltflow.settings import Secret
from voltflow.topics import NAME_PATTERN

Port = Annotated[int, Meta(ge=1, le=65535)]


class DemoSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that can be set of the demo. At the default speed-up all four models answer within a minute."""

    seconds: Annotated[
        float, Meta(ge=0, description="end after so long, counted from the first message; 0: at Ctrl-C")
    ] = 0.0
    packs: Annotated[
        int,
        Meta(
            ge=1, le=20_000, description="number of simulated packs; beyond 1,000 they share one connection"
        ),
    ] = 20
    hz: Annotated[float, Meta(gt=0, le=100, description="messages of one pack in a second")] = 10.0
    speedup: Annotated[
        float,
        Meta(gt=0, le=100_000, description="seconds of device time in one second; 1: real time"),
    ] = 300.0
    seed: Annotated[int, Meta(ge=0, description="another seed is another fleet")] = 1
    fleet: Annotated[str, Meta(pattern=f"^{NAME_PATTERN}$", description="fleet in the topics")] = "demo"
    state_dir: Annotated[Path, Meta(description="folder for database, state and logs")] = Path(".voltflow")
    broker: Annotated[
        Literal["auto", "embedded", "running"],
        Meta(description="auto: the MQTT broker that runs on broker_port, or else an embedded one"),
    ] = "auto"
    broker_host: Annotated[str, Meta(min_length=1, description="where the MQTT broker is")] = "127.0.0.1"
    broker_port: Annotated[Port, Meta(description="its port; an embedded one speaks MQTT 3.1.1 there")] = 1883
    broker_mqtt5_port: Annotated[Port, Meta(description="port of the embedded broker for MQTT 5")] = 1884
    broker_user: Annotated[str, Meta(description="user at a running broker; empty: none")] = ""
    broker_password: Annotated[Secret, Meta(description="password at it")] = ""
    api_port: Annotated[Port, Meta(description="port of the agent's page and API")] = 5002
    agent_metrics_port: Annotated[Port, Meta(description="port of the agent's /metrics")] = 9091
    bridge_metrics_port: Annotated[Port, Meta(description="port of the bridge's /metrics")] = 9092
    outage_s: Annotated[
        float,
        Meta(ge=0, le=86400, description="cut the gateway's way to the cloud for so long, seconds; 0: never"),
    ] = 0.0
    outage_after_s: Annotated[
        float, Meta(ge=0, le=86400, description="when to cut it, seconds after the first message")
    ] = 20.0
    agent_outage_s: Annotated[
        float,
        Meta(
            ge=0, le=86400, description="kill the agent and start it again after so long, seconds; 0: never"
        ),
    ] = 0.0
    agent_outage_after_s: Annotated[
        float, Meta(ge=0, le=86400, description="when to kill it, seconds after the first message")
    ] = 20.0
    start_s: Annotated[float, Meta(ge=1, le=600, description="time for each part to start, seconds")] = 60.0
    drain_s: Annotated[
        float,
        Meta(ge=1, le=3600, description="at the end, give up when no row arrives for so long, seconds"),
    ] = 20.0

    log_level: LogLevel = "info"
    log_levels: LogLevels = []
    log_format: LogFormat = "text"

    @property
    def step_s(self) -> float:
        """Device time between two messages of a pack, seconds."""
        return self.speedup / self.hz

    def __post_init__(self) -> None:
        taken: dict[int, str] = {}
        for name in self.port_settings():
            port: int = getattr(self, name)
            if port in taken:
                raise ValueError(f"{taken[port]} and {name} are both {port}: give each a port of its own")
            taken[port] = name

    @staticmethod
    def port_settings() -> tuple[str, ...]:
        """The names of the settings that are ports of this machine."""
        return ("broker_port", "broker_mqtt5_port", "api_port", "agent_metrics_port", "bridge_metrics_port")
