"""The settings of `sim-device` (table [sim]); what `run` and `replay` share comes first."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from voltflow.logs import LogFormat, LogLevel, LogLevels
from voltflow.mqtt.link import MqttOptions, tls_context
from voltflow.settings import Secret
from voltflow.topics import NAME_PATTERN


class CommonSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Where to publish, and how fast simulated time runs."""

    host: Annotated[str, Meta(min_length=1, description="broker's host name or address")] = "127.0.0.1"
    port: Annotated[int, Meta(ge=1, le=65535, description="broker's port")] = 1883
    username: Annotated[str, Meta(description="user at the broker, empty for none")] = ""
    password: Annotated[Secret, Meta(description="password at the broker")] = ""
    tls: Annotated[bool, Meta(description="connect with TLS")] = False
    tls_ca: Annotated[str, Meta(description="file with the broker's authority, empty for the system's")] = ""
    fleet: Annotated[str, Meta(pattern=f"^{NAME_PATTERN}$", description="fleet in the topics")] = "demo"
    speedup: Annotated[
        float,
        Meta(
            ge=0,
            le=100_000,
            description="seconds of device time in one second; 0 (replay): as fast as confirmed",
        ),
    ] = 1.0
    window: Annotated[
        int,
        Meta(
            ge=1,
            le=65535,
            description="unconfirmed messages of one pack before it stops and waits for the broker",
        ),
    ] = 200
    drain_s: Annotated[
        float, Meta(ge=0, le=3600, description="at the end, wait so long for confirmations")
    ] = 10.0
    linger_s: Annotated[
        float,
        Meta(
            ge=0,
            description="when everything is published, stay so long (or until stopped) to answer commands",
        ),
    ] = 0.0
    state_s: Annotated[
        float, Meta(ge=0.1, le=86400, description="say so often how much was published (state, retained)")
    ] = 30.0
    ring_messages: Annotated[
        int,
        Meta(
            ge=0,
            le=100_000_000,
            description="messages of a pack that are kept to be published again on request (24 h at 1 Hz); 0: none",
        ),
    ] = 86_400
    ring_max_mb: Annotated[
        float,
        Meta(
            ge=0,
            le=1_000_000,
            description="disk (TMPDIR) for what is kept, all packs together; each keeps fewer messages where it is short",
        ),
    ] = 512.0
    log_level: LogLevel = "warning"
    log_levels: LogLevels = []
    log_format: LogFormat = "text"


class Settings(CommonSettings, frozen=True, kw_only=True):
    """All settings of the simulated device."""

    packs: Annotated[int, Meta(ge=1, le=100_000, description="number of packs")] = 10
    hz: Annotated[
        float,
        Meta(gt=0, le=100, description="messages of one pack in a second of wall clock, at any speed-up"),
    ] = 2.0
    seed: Annotated[int, Meta(ge=0, description="another seed is another fleet")] = 1
    seconds: Annotated[float, Meta(ge=0, description="stop after so long, wall clock; 0: until stopped")] = (
        0.0
    )
    prefix: Annotated[
        str, Meta(pattern="^[A-Za-z0-9_-]{1,40}$", description="names of packs: prefix and number")
    ] = "SIM"
    connections: Annotated[
        Literal["per-pack", "shared"],
        Meta(
            description="per-pack: each pack is a client with its own last will, as in the field. shared: one"
            " connection for all, less work for both sides, but if this program is killed no pack goes offline"
        ),
    ] = "per-pack"
    truth_s: Annotated[
        float, Meta(ge=0, description="publish the hidden state (QoS 0, only for scoring) so often; 0: never")
    ] = 5.0
    cells_s: Annotated[
        float,
        Meta(ge=0, description="publish every cell's voltage and every probe (QoS 0) so often; 0: never"),
    ] = 30.0
    gaps: Annotated[bool, Meta(description="leave out messages now and then, as vehicles do")] = True


def broker(settings: CommonSettings) -> MqttOptions:
    """How the settings say to reach the broker; identity and last will are the device's."""
    return MqttOptions(
        host=settings.host,
        port=settings.port,
        username=settings.username,
        password=settings.password,
        tls=tls_context(settings.tls_ca) if settings.tls else None,
        clean_start=True,
    )
