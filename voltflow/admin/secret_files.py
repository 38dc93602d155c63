"""The secrets of an installation in containers: what there is, who made it from what, and how it lies in its folder.

A container reads a secret as a file that is mounted into it, with the owner and mode it has here, and its program runs as
a user that this machine does not know. So the files may be read by all (0444) in a folder that only its owner may enter
(0700); what no container needs is the owner's alone (0600). Nothing that is there is made again, unless it is asked for.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from voltflow import kept_file, topics
from voltflow.admin import broker_rights as rights
from voltflow.admin.certificates import (
    Pair,
    belong_together,
    hosts_of,
    is_issued_by,
    make_authority,
    make_server,
)

FOLDER_MODE: Final = 0o700
SHARED: Final = 0o444
PRIVATE: Final = 0o600

TOKENS: Final = {
    "agent_broker_password": "the agent at its devices' broker",
    "simulator_password": "the simulator there",
    "edge_health_password": "the health check of that broker",
    "bridge_mqtt_password": "the bridge at the cloud's broker",
    "cloud_health_password": "the health check of that broker",
    "agent_api_token": "page, API and metrics of the agent",
    "bridge_metrics_token": "metrics of the bridge",
    "postgres_password": "the database's superuser",
    "bridge_database_password": "the bridge at the database; it owns the tables",
    "grafana_database_password": "Grafana at the database; it reads",
    "mlflow_database_password": "MLflow at its own database",
    "grafana_admin_password": "Grafana's user `operator`",
    "grafana_secret_key": "Grafana encrypts the passwords of its data sources with it",
    "influx_password": "InfluxDB's user `operator`",
    "influx_token": "the bridge at InfluxDB",
    "minio_password": "MinIO's user `voltflow`",
}
"""Random texts, and whose they are."""

AUTHORITY: Final = "ca"
BROKERS: Final = {"edge_broker": "mosquitto", "cloud_broker": "cloud-mosquitto"}
"""The certificates, and the name of the service that has one."""
GATEWAYS, DEVICES = "gateways", "devices"
"""Folders with a password for each."""

_BYTES: Final = 24
_SQLALCHEMY: Final = "postgresql+psycopg2"
"""With the driver that the image has; without a name it depends on SQLAlchemy's version."""


@dataclass
class SecretFolder:
    """A folder of secrets; `made` and `kept` say what became of each."""

    path: Path
    renew: Callable[[str], bool] = lambda name: False
    made: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)

    def fill(self, gateways: Sequence[str], devices: Sequence[str], hosts: Sequence[str]) -> None:
        """Make what is missing; raises OSError and ValueError (a name, or a file that is not what it should be)."""
        self._open_folder(self.path)
        known = {name: self._random(name) for name in TOKENS}
        self._derived(known)
        self._certificates(hosts)
        simulator = {"simulator": known["simulator_password"]}
        at_edge = {
            "agent": known["agent_broker_password"],
            **simulator,
            "health": known["edge_health_password"],
        }
        at_cloud = {"bridge": known["bridge_mqtt_password"], "health": known["cloud_health_password"]}
        of_gateways = self._members(GATEWAYS, gateways, _gateway, SHARED)
        of_devices = self._members(DEVICES, devices, _device, PRIVATE)
        self._broker("edge", at_edge | of_gateways | of_devices)
        self._broker("cloud", at_cloud | of_gateways)

    def _derived(self, known: dict[str, str]) -> None:
        """The secrets in the form in which a program reads them."""
        for user, scheme, database in (
            ("bridge", "postgresql", "voltflow"),
            ("mlflow", _SQLALCHEMY, "mlflow"),
        ):
            password = known[f"{user}_database_password"]
            self._follow(f"{user}_database", f"{scheme}://{user}:{password}@timescale:5432/{database}\n")
        text = f"[default]\naws_access_key_id = voltflow\naws_secret_access_key = {known['minio_password']}\n"
        self._follow("mlflow_s3", text)
        for broker in ("edge", "cloud"):
            login = f"-u health\n-P {known[f'{broker}_health_password']}\n"
            self._follow(f"{broker}_health", f"-h localhost\n-p 8883\n--cafile /run/secrets/ca.crt\n{login}")

    def _certificates(self, hosts: Sequence[str]) -> None:
        authority = self._pair(AUTHORITY, lambda: make_authority("Voltflow"), key_mode=PRIVATE)
        for name, service in BROKERS.items():
            path = self.path / f"{name}.crt"
            known = path.read_bytes() if path.exists() else b""
            old = hosts_of(known) if known else []
            wanted = list(dict.fromkeys([service, "localhost", "127.0.0.1", *old, *hosts]))
            outdated = wanted != old or not is_issued_by(known, authority)
            self._pair(name, lambda: make_server(authority, service, wanted), outdated=outdated)  # noqa: B023

    def _pair(
        self, name: str, make: Callable[[], Pair], *, outdated: bool = False, key_mode: int = SHARED
    ) -> Pair:
        files = {f"{name}.crt": SHARED, f"{name}.key": key_mode}
        paths = [self.path / file for file in files]
        if all(path.exists() for path in paths) and not outdated and not self.renew(name):
            pair = Pair(*(path.read_bytes() for path in paths))
            if belong_together(pair):  # not where a run ended between the two
                self.kept += files
                return pair
        pair = make()
        for (file, mode), data in zip(files.items(), pair, strict=True):
            self._write(file, data, mode)
        return pair

    def _members(
        self, folder: str, names: Iterable[str], check: Callable[[str], str], mode: int
    ) -> dict[str, str]:
        """The passwords of the gateways or devices, those of earlier runs too, by user name."""
        self._open_folder(self.path / folder)
        old = [path.name for path in (self.path / folder).iterdir() if not path.name.endswith(".new")]
        users = sorted({*old, *map(check, names)})
        return {user: self._random(f"{folder}/{user}", mode) for user in users}

    def _broker(self, name: str, passwords: dict[str, str]) -> None:
        path = self.path / f"{name}_passwords"
        known = path.read_text() if path.exists() else ""
        self._follow(path.name, rights.password_file(passwords, known))
        at_edge = name == "edge"
        self._follow(
            f"{name}_acl", rights.acl_file({user: _rights(user, at_edge=at_edge) for user in passwords})
        )

    def _random(self, name: str, mode: int = SHARED) -> str:
        path = self.path / name
        if path.exists() and not self.renew(name):
            self.kept.append(name)
            path.chmod(mode)
            return path.read_text().strip()
        password = secrets.token_urlsafe(_BYTES)
        self._write(name, f"{password}\n".encode(), mode)
        return password

    def _follow(self, name: str, text: str) -> None:
        """What is made of other secrets is as they are."""
        path = self.path / name
        if path.exists() and path.read_text() == text:
            self.kept.append(name)
            path.chmod(SHARED)
        else:
            self._write(name, text.encode(), SHARED)

    def _write(self, name: str, data: bytes, mode: int) -> None:
        path = self.path / name
        kept_file.write(path, data)
        path.chmod(mode)  # after the umask, and never readable by more before it is whole
        self.made.append(name)

    @staticmethod
    def _open_folder(path: Path) -> None:
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(FOLDER_MODE)


def _rights(user: str, *, at_edge: bool) -> list[rights.Right]:
    fixed = {
        "agent": rights.of_agent, "simulator": rights.of_simulator, "bridge": rights.of_bridge,
        "health": rights.of_health_check,
    }  # fmt: skip
    if user in fixed:
        return fixed[user]()
    fleet, dot, pack = user.partition(".")
    return rights.of_device(fleet, pack) if dot and at_edge else rights.of_gateway(user)


_TAKEN = ("agent", "simulator", "bridge", "health")


def _gateway(name: str) -> str:
    if not topics.is_name(name) or name in _TAKEN:
        raise ValueError(
            f"gateway {name!r} is not allowed: letters, digits, - and _, and none of {', '.join(_TAKEN)}"
        )
    return name


def _device(name: str) -> str:
    """The user name of a device, `fleet.pack`; neither has a dot in it."""
    if not re.fullmatch(f"{topics.NAME_PATTERN}/{topics.NAME_PATTERN}", name):
        raise ValueError(f"device {name!r} is not allowed: FLEET/PACK, each of letters, digits, - and _")
    return name.replace("/", ".")
