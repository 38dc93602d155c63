"""Where the demo keeps what, what each part is started with, and which ports must be free."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from voltflow import topics
from voltflow.demo import broker
from voltflow.demo.figures import Endpoints
from voltflow.demo.parts import Part
from voltflow.demo.settings import DemoSettings
from voltflow.mqtt.link import MqttOptions
from voltflow.setting import toml_value
from voltflow.settings import SettingsError

HOST = "127.0.0.1"
OWN_CONNECTIONS = 1000
"""Up to so many packs each is an MQTT client of its own, as in the field; more would take this machine, not the gateway."""


class Layout:
    """The demo under given settings; `embedded` says that it brings its own broker."""

    def __init__(self, settings: DemoSettings, *, embedded: bool) -> None:
        self.settings = settings
        self.embedded = embedded
        self.folder = settings.state_dir.resolve()
        self.logs = self.folder / "logs"
        self.data = self.folder / "postgres"
        self.config = self.folder / "demo.toml"
        self.address = self.folder / "postgres.txt"
        self.published = self.folder / "published.json"
        self.broker_config = self.folder / "broker.toml"
        self.gateway = settings.fleet
        self.bridge = f"{settings.fleet[:57]}-bridge"
        host = HOST if embedded else settings.broker_host
        port = settings.broker_mqtt5_port if embedded else settings.broker_port
        self.uplink_port = 0
        """Where the agent reaches the cloud's broker, when that is to be cut; 0: as the devices do."""
        self.mqtt = MqttOptions(
            host=host, port=port, username=settings.broker_user, password=settings.broker_password
        )

    @property
    def server_log(self) -> Path:
        """PostgreSQL's own log: the server may run as another user, who writes only to its own folder."""
        return self.data / "log"

    def make(self) -> None:
        """Make the folders and the broker's configuration; the agent starts without the twins of an earlier run."""
        self.logs.mkdir(parents=True, exist_ok=True)
        self._forget_twins()
        self.data.mkdir(exist_ok=True)
        s = self.settings
        text = broker.configuration(HOST, s.broker_port, s.broker_mqtt5_port)
        self.broker_config.write_text(text)

    def _forget_twins(self) -> None:
        """Simulated time starts anew: an earlier run's twins may be hours ahead, and all of this run would be late. What its
        spool has not yet sent is of no twin and still goes."""
        for path in (self.folder / "agent").glob("*"):
            if path.is_dir() and path.name != "spool":
                shutil.rmtree(path, ignore_errors=True)
            elif path.is_file():
                path.unlink(missing_ok=True)

    def write_config(self, dsn: str) -> None:
        """Write the settings of agent, bridge and simulator; also to start one of them again by hand."""
        text = (
            "# Made by `voltflow demo` at each start. A part of it alone: edge-agent run --config THIS_FILE\n"
        )
        for section, values in self._sections(dsn).items():
            text += f"\n[{section}]\n" + "".join(
                f"{name} = {toml_value(value)}\n" for name, value in values.items()
            )
        self.config.write_text(text)

    def _sections(self, dsn: str) -> dict[str, dict[str, Any]]:
        s, mqtt = self.settings, self.mqtt
        log = {"log_format": s.log_format, "log_levels": s.log_levels}
        return {
            "agent": {
                "gateway": self.gateway, "broker_host": mqtt.host, "broker_port": mqtt.port,
                "broker_user": mqtt.username, "api_port": s.api_port, "metrics_port": s.agent_metrics_port,
                "state_dir": self.folder / "agent", "log_level": s.log_level, **log, **self._uplink(),
            },
            # Alone: see voltflow/demo/broker.py; on a broker with other bridges it would take their messages.
            "bridge": {
                "name": self.bridge, "mqtt_host": mqtt.host, "mqtt_port": mqtt.port, "mqtt_user": mqtt.username,
                "shared": False, "database": dsn, "metrics_port": s.bridge_metrics_port,
                "state_dir": self.folder / "bridge", "log_level": s.log_level, **log,
            },
            "sim": {
                "host": mqtt.host, "port": mqtt.port, "username": mqtt.username, "fleet": s.fleet, "packs": s.packs,
                "hz": s.hz, "speedup": s.speedup, "seed": s.seed,
                "connections": "per-pack" if s.packs <= OWN_CONNECTIONS else "shared",
                **log,  # it has a level of its own: a line for each of a thousand connections is too much
            },
        }  # fmt: skip

    def _uplink(self) -> dict[str, Any]:
        if not self.uplink_port:
            return {}
        return {"uplink_host": HOST, "uplink_port": self.uplink_port, "uplink_user": self.mqtt.username}

    def broker_part(self) -> Part:
        return self._part("broker", broker.command(self.broker_config), clean=(-15, 0))

    def postgres_part(self) -> Part:
        return self._part("postgres", ["-m", "voltflow.demo.postgres", str(self.data)], output=self.address)

    def agent_part(self) -> Part:
        return self._part("agent", ["-m", "edge.cli", "run", "--config", str(self.config)])

    def bridge_part(self) -> Part:
        return self._part("bridge", ["-m", "cloud.cli", "run", "--config", str(self.config)])

    def packs_part(self) -> Part:
        arguments = ["-m", "sim_device.cli", "run", "--json", "--config", str(self.config)]
        return self._part("packs", arguments, output=self.published)

    def _part(self, name: str, arguments: list[str], **how: Any) -> Part:
        """Parts run by the interpreter of the demo, so an activated environment is not needed."""
        command = arguments if arguments[0] == sys.executable else [sys.executable, *arguments]
        return Part(name, command, self.logs / f"{name}.log", env=self._environment(os.environ), **how)

    def _environment(self, environ: Mapping[str, str]) -> dict[str, str]:
        """Without the user's own settings of agent, bridge and simulator: those are for the real ones."""
        kept = {name: value for name, value in environ.items() if not name.startswith("VOLTFLOW_")}
        password = self.settings.broker_password
        names = ["AGENT_BROKER_PASSWORD", "BRIDGE_MQTT_PASSWORD", "SIM_PASSWORD"]
        if self.uplink_port:
            names.append("AGENT_UPLINK_PASSWORD")
        return kept | ({f"VOLTFLOW_{name}": password for name in names} if password else {})

    @property
    def endpoints(self) -> Endpoints:
        s = self.settings
        return Endpoints(
            api=f"http://{HOST}:{s.api_port}",
            agent_metrics=f"http://{HOST}:{s.agent_metrics_port}/metrics",
            bridge_metrics=f"http://{HOST}:{s.bridge_metrics_port}/metrics",
        )

    def urls(self, dsn: str) -> dict[str, str]:
        """What a user may open, by its name."""
        s, e = self.settings, self.endpoints
        tool = f"mosquitto_sub -h {self.mqtt.host} -p {s.broker_port} -t 'ev/v1/#' -v"
        return {
            "page": f"{e.api}/", "API": f"{e.api}/api/battery/status", "metrics": f"{e.agent_metrics}  {e.bridge_metrics}",
            "messages": tool, "database": f"psql '{dsn}'",
        }  # fmt: skip

    def broker_text(self) -> str:
        s = self.settings
        if self.embedded:
            return f"embedded iotcore, port {s.broker_port} (MQTT 3.1.1) and {s.broker_mqtt5_port} (MQTT 5)"
        return f"the one that runs on {s.broker_host}:{s.broker_port}"

    def client_ids(self) -> list[str]:
        """The MQTT clients with a session that outlives them: `voltflow-<gateway>-<id of the mqtt-broker node>`."""
        return [
            f"voltflow-{self.gateway}-local",
            f"voltflow-{self.gateway}-uplink",
            f"voltflow-{self.bridge}-broker",
        ]

    def retained(self, packs: list[str]) -> list[str]:
        """The topics with a retained message of this demo."""
        fleet = self.settings.fleet
        return [topics.gateway_state(self.gateway), *(topics.STATE.of(fleet, pack) for pack in packs)]

    def check_ports(self) -> None:
        """Raise SettingsError for the first port that another program holds."""
        for name in DemoSettings.port_settings():
            if self.embedded or not name.startswith("broker"):
                check_port(name, getattr(self.settings, name))


def check_port(name: str, port: int) -> None:
    """Raise SettingsError when the port of a setting cannot be opened."""
    with socket.socket() as probe:
        probe.setsockopt(
            socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
        )  # a port just left is free for the parts too
        try:
            probe.bind((HOST, port))
        except OSError as error:
            why = "another program listens there" if error.errno == errno.EADDRINUSE else str(error.strerror)
            raise SettingsError(
                f"{name} = {port} cannot be opened ({why}): end that program or choose another port,"
                f" for instance --{name.replace('_', '-')} {port + 1000 if port < 64000 else port - 1000}"
            ) from None
