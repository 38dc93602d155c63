"""The house of the chaos: every program of the product as real processes, in three places joined by bad networks.

    field          gateway                    cloud
    sim-device ==> mosquitto -> agent ======> mosquitto -> bridge -> PostgreSQL, Kafka

`==>` is a link of `tests.chaos.network`. Where such links cannot be made everything runs in one place.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from tests import programs, servers
from tests.chaos import network
from tests.chaos.places import Agent, Database, Device, Member, Place

KEEPALIVE_S = 2
"""Of every connection; a freeze of 1.8 times this is noticed."""
GATEWAY = "test"
LOCALHOST = "127.0.0.1"
SPOOL_DISK_MB = 24
START_S = 60.0
DATABASE = "history"
FLEET = "chaos"
AGENT_SETTINGS = {
    "spool_after_s": "1", "spool_max_mb": "12", "spool_protected_mb": "4", "spool_drain_share": "0.5",
    "state_period_s": "2",
}  # fmt: skip
BRIDGE_OPTIONS = (
    "--ledger-period-s",
    "1",
    "--ledger-window-h",
    "1",
    "--repair-after-s",
    "2",
    "--repair-attempts",
    "100",
)
"""Repair that is quick and stubborn: one round may hold several reasons to ask again."""


@dataclass(frozen=True)
class Plan:
    """What kind of house."""

    seed: int = 1
    packs: int = 10
    hz: float = 20.0
    kafka: bool = True
    clock: bool = True
    networks: bool = True


class House:
    """Start with `with House(plan, folder) as house`; everything ends with the block."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        self.plan, self.folder = plan, folder
        self.network: network.Network | None = None
        self.links: dict[str, network.Link] = {}
        self.members: dict[str, Member] = {}
        self.spool_disk: Path | None = None
        self.clock: Path | None = None
        self._stack = ExitStack()
        self._places: dict[str, Place] = dict.fromkeys(("field", "gateway", "cloud"), contextlib.nullcontext)

    def __getitem__(self, name: str) -> Member:
        return self.members[name]

    # -- building -----------------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        try:
            self._build()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._stack.close()

    def _build(self) -> None:
        if self.plan.networks:
            self._make_networks()
        if self.plan.clock:
            self.clock = self.folder / "clock"
            self.clock.write_text("+0\n")
        self._start_cloud()
        self._start_gateway()
        # What is published before anybody subscribed is nobody's; so it is with every broker.
        servers.wait_until(lambda: not self.unready(), "bridge and agent to be connected", START_S, 0.1)
        self._start_device()

    def _make_networks(self) -> None:
        self.network = net = self._stack.enter_context(network.Network(self.plan.seed))
        field, gateway, cloud = (net.namespace(name) for name in ("field", "gateway", "cloud"))
        self._places = {"field": field.inside, "gateway": gateway.inside, "cloud": cloud.inside}
        self.links = {
            "devices": net.link("devices", field, gateway),
            "uplink": net.link("uplink", gateway, cloud),
        }
        net.start()

    def _start_cloud(self) -> None:
        self.database = database = Database(servers.Postgres())
        self._add(database)
        _make_database(database)
        self.uplink_broker = self._broker("uplink-broker", "cloud", self._address("uplink"))
        arguments = ["--flow", str(self._flow("cloud")), "--name", "chaos-bridge", *BRIDGE_OPTIONS]
        if self.plan.kafka:
            with self._places["cloud"]():
                kafka = servers.Kafka()
            self._add(Member("kafka", kafka, self._places["cloud"]))
            arguments += ["--kafka-bootstrap", kafka.bootstrap]
        with self._places["cloud"]():
            self.bridge = programs.Bridge(
                self.uplink_broker, database.dsn(DATABASE), self.folder / "bridge", *arguments
            )
        self._add(Member("bridge", self.bridge, self._places["cloud"]))

    def _start_gateway(self) -> None:
        self.local_broker = self._broker("local-broker", "gateway", self._address("devices"))
        self.state_dir = self.folder / "agent"
        self._mount_spool()
        self.agent = self.make_agent(self.state_dir)
        self._add(Member("agent", self.agent, self._places["gateway"]))

    def _start_device(self) -> None:
        plan, host = self.plan, self._address("devices") or LOCALHOST
        options = {
            "packs": plan.packs,
            "hz": plan.hz,
            "seed": plan.seed,
            "fleet": FLEET,
            "truth-s": 0,
            "state-s": 2,
        }
        known = _help_of("sim_device.cli", "run")
        arguments = [
            part
            for name, value in options.items()
            if f"--{name}" in known
            for part in (f"--{name}", str(value))
        ]
        self.device = Device(host, self.local_broker.port, "--no-gaps", *arguments)
        self._add(Member("device", self.device, self._places["field"]))

    def make_agent(self, state_dir: Path, **settings: str) -> Agent:
        """An agent of this gateway's name with its state elsewhere; `settings` replace those of `AGENT_SETTINGS`."""
        chosen = {**AGENT_SETTINGS, **settings}
        known = _help_of("edge.cli", "run")
        options = [part for name, value in chosen.items() if f"--{(n := name.replace('_', '-'))}" in known
                   for part in (f"--{n}", value)]  # fmt: skip
        with self._places["gateway"]():
            return Agent(
                self.local_broker, state_dir, "--uplink-host", self._address("uplink") or LOCALHOST,
                "--uplink-port", str(self.uplink_broker.port), "--flow", str(self._flow("edge")), *options,
                clock=self.clock,
            )  # fmt: skip

    def _broker(self, name: str, place: str, address: str) -> servers.Mosquitto:
        with self._places[place]():
            broker = servers.Mosquitto()
            if address:
                broker.options["listener"] = f"{broker.port} {LOCALHOST}\nlistener {broker.port} {address}"
        self._add(Member(name, broker, self._places[place]))
        return broker

    def _address(self, link: str) -> str:
        """Where the far end of a link listens; empty where there are no links."""
        return self.links[link].second if link in self.links else ""

    def _flow(self, package: str) -> Path:
        """The product's flow with a keep-alive that lets a freeze be short."""
        path = self.folder / f"{package}-flow.json"
        nodes: list[dict[str, Any]] = json.loads((servers.REPOSITORY / package / "flows.json").read_text())
        for node in nodes:
            if node["type"] == "mqtt-broker":
                node["keepalive"] = KEEPALIVE_S
            if node["type"] == "sequence":
                node["ask_after"] = 1
        path.write_text(json.dumps(nodes))
        return path

    def _mount_spool(self) -> None:
        """A small disk of its own for the spool, where that may be made."""
        spool = self.state_dir / "spool"
        spool.mkdir(parents=True)
        options = ["mount", "-t", "tmpfs", "-o", f"size={SPOOL_DISK_MB}m", "voltflow-chaos", str(spool)]
        done = subprocess.run(options, check=False, capture_output=True, text=True)
        if done.returncode == 0:
            self.spool_disk = spool
            self._stack.callback(subprocess.run, ["umount", "-l", str(spool)], check=False)

    def _add(self, member: Member) -> None:
        self.members[member.name] = member
        self._stack.callback(_discard, member)
        member.launch()

    # -- living in it ---------------------------------------------------------------------------------------------------

    def replace_agent(self, agent: Agent) -> None:
        """From the next start on the agent is this one; the current one must have ended."""
        member = self.members["agent"]
        if agent.folder != member.server.folder:  # one log for all of them
            shutil.rmtree(agent.folder, ignore_errors=True)
            agent.folder = member.server.folder
        member.server = self.agent = agent

    def unready(self) -> list[str]:
        """The members that are not ready; raises AssertionError where one ended by itself."""
        return [name for name, member in self.members.items() if not member.ready()]

    def check_alive(self) -> None:
        for member in self.members.values():
            member.check_alive()

    def spooled(self) -> str:
        """What the agent's spool still has to deliver; empty: nothing."""
        try:
            text = self.members["agent"].here(self.agent.metrics)
        except OSError as error:
            return f"the agent does not say: {error}"
        lines = [line for line in text.splitlines() if line.startswith("voltflow_spool_messages{")]
        waiting = sum(float(line.split()[-1]) for line in lines)
        return f"{waiting:g} messages" if waiting else ""

    def possible(self) -> dict[str, str]:
        """What faults may need, and why it is not there; empty: it is."""
        return {
            "": "",
            "network": "" if self.links else network.why_not() or "switched off",
            "disk": "" if self.spool_disk and self.links else "no disk of its own could be mounted (root?)",
            "clock": "" if self.clock else "libfaketime is not used",
            "kafka": "" if "kafka" in self.members else "Kafka is not used",
        }

    def keep_logs(self, folder: Path) -> None:
        """Copy the logs of all programs, and what agent and bridge say of themselves."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, member in self.members.items():
            with contextlib.suppress(OSError):
                shutil.copy(member.log_file(), folder / f"{name}.log")
        agent, bridge = self.members["agent"], self.members["bridge"]
        asked: dict[str, tuple[Member, Callable[[], str]]] = {
            "agent.metrics": (agent, self.agent.metrics),
            "agent.health": (agent, lambda: json.dumps(self.agent.get("/api/health"), indent=1)),
            "bridge.metrics": (bridge, self.bridge.metrics),
        }
        for name, (member, ask) in asked.items():
            with contextlib.suppress(OSError):
                (folder / name).write_text(member.here(ask))


def _make_database(database: Database) -> None:
    import psycopg2

    with contextlib.closing(psycopg2.connect(database.postgres.dsn)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(f"CREATE DATABASE {DATABASE}")


def _discard(member: Member) -> None:
    member.close()
    folder = member.postgres.folder if isinstance(member, Database) else member.server.folder
    shutil.rmtree(folder, ignore_errors=True)


def _help_of(module: str, command: str) -> str:
    done = subprocess.run([sys.executable, "-m", module, command, "--help"], check=True, capture_output=True, text=True)  # fmt: skip
    return done.stdout
