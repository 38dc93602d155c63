"""A gateway without a broker: the real store, nodes and engine, fed with messages by hand."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import math
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

import msgspec

from edge.api import AppState
from edge.reading import Reading
from edge.twin import TwinStore
from edge.web import MetricsServer, WebServer
from voltflow.engine.engine import Engine
from voltflow.flow.flow import Flow
from voltflow.message import Msg, now_ms
from voltflow.node import Context, Node, load_nodes
from voltflow.telemetry import Alert, Cells, Prediction

T = TypeVar("T")
S = TypeVar("S", WebServer, MetricsServer)

TOKEN = "0123456789abcdef-of-a-test"
START_MS = 1_700_000_000_000
NODES = [
    {"id": "tab", "type": "tab", "label": "test"},
    {"id": "local", "type": "mqtt-broker", "name": "local", "broker": "127.0.0.1", "port": 1},
    {"id": "in", "type": "mqtt in", "z": "tab", "topic": "ev/v1/+/+/telemetry", "qos": 1, "datatype": "buffer",
     "broker": "local", "wires": [["validate"]]},
    {"id": "validate", "type": "validate", "z": "tab", "wires": [["twin"]]},
    {"id": "twin", "type": "twin", "z": "tab", "wires": [["features"]]},
    {"id": "features", "type": "features", "z": "tab", "wires": [["out"]]},
    {"id": "cellsin", "type": "mqtt in", "z": "tab", "topic": "ev/v1/+/+/cells", "qos": 0, "datatype": "buffer",
     "broker": "local", "wires": [["cells"]]},
    {"id": "cells", "type": "cells", "z": "tab", "wires": [[]]},
    {"id": "out", "type": "mqtt out", "z": "tab", "topic": "", "qos": 1, "broker": "local", "wires": []},
]  # fmt: skip


@dataclass
class LoadedModel:
    """What an `onnx` node has once its flow runs, without the model."""

    model: str

    @property
    def loaded(self) -> LoadedModel:
        return self

    def describe(self) -> dict[str, Any]:
        return {"name": self.model, "hash": "0123456789ab", "unit": "pct", "size_bytes": 1, "outputs": ["value"],
                "card": {"target": self.model}}  # fmt: skip


class Gateway:
    """Feed it, then ask its API. `state` is what the web servers read."""

    def __init__(self, folder: Path, started: float | None = None) -> None:
        load_nodes("voltflow.nodes", "edge.nodes")
        self.store = TwinStore()
        flow_file = folder / "flows.json"
        flow_file.write_text(json.dumps(NODES))
        self.engine = Engine(
            Flow.load(flow_file), env={}, services={TwinStore: self.store}, gateway="gw1", state_dir=folder
        )
        models = [LoadedModel(name) for name in ("soh", "temperature", "rul", "failure")]
        self.state = AppState(self.store, self.engine, "gw1", started or time.time(), models)
        nodes = {node_id: wired.node for node_id, wired in self.engine.nodes.items()}
        context = Context(nodes, {TwinStore: self.store}, "gw1", self.engine.flow.revision, folder)
        asyncio.run(
            _start(
                [nodes[name] for name in ("local", "in", "validate", "twin", "features", "cells")], context
            )
        )
        self._cells: Any = nodes["cells"]
        self._chain: list[Any] = [nodes[name] for name in ("validate", "twin", "features")]
        self._seq: dict[str, int] = {}

    def birth(self, name: str, *, online: bool = True, capacity_ah: float = 150.0) -> None:
        """The device's `bms.state/1`."""
        state = {"schema": "bms.state/1", "pack": name.split("/")[1], "online": online, "chemistry": "NMC",
                 "cells_series": 96, "capacity_rated_ah": capacity_ah, "boot": 1}  # fmt: skip
        self._chain[0].process([Msg(f"ev/v1/{name}/state", msgspec.json.encode(state), received_ms=now_ms())])

    def feed_cells(self, name: str, **fields: Any) -> Cells:
        """One `bms.cells/1` of `fleet/pack` through the cells node."""
        item = {"schema": "bms.cells/1", "pack": name.split("/")[1], "boot": 1, "ts_ms": START_MS, **fields}
        found: list[Msg] = self._cells.process([Msg(f"ev/v1/{name}/cells", msgspec.json.encode(item))])
        cells: Cells = found[0].payload
        return cells

    def feed(
        self, name: str, ts_ms: int | None = None, *, props: Mapping[str, Any] | None = None,
        received_ms: int | None = None, **fields: Any,
    ) -> Reading:  # fmt: skip
        """One telemetry message of `fleet/pack` through validate, twin and features."""
        msg = self._telemetry(name, ts_ms, fields, now_ms() if received_ms is None else received_ms, props)
        return self._run([msg])[0]

    def feed_all(self, names: Sequence[str], props: Mapping[str, Any] | None = None) -> list[Reading]:
        """One message of each, in one batch."""
        return self._run([self._telemetry(name, None, {}, now_ms(), props) for name in names])

    def _run(self, msgs: list[Msg]) -> list[Reading]:
        for node in self._chain:
            found = node.process(msgs)
            msgs = found[0] if isinstance(found, tuple) else found
        return [msg.payload for msg in msgs]

    def _telemetry(
        self, name: str, ts_ms: int | None, fields: Mapping[str, Any], received_ms: int,
        props: Mapping[str, Any] | None,
    ) -> Msg:  # fmt: skip
        seq = self._seq[name] = self._seq.get(name, -1) + 1
        item = {
            "schema": "bms.telemetry/1", "pack": name.split("/")[1], "boot": 1, "seq": seq,
            "ts_ms": START_MS + 1000 * seq if ts_ms is None else ts_ms, "vehicle_state": "driving",
            "charging_state": "not_charging", "pack_voltage_v": 350.0, "pack_current_a": -20.0, "soc_pct": 60.0,
            "cell_voltage_min_v": 3.64, "cell_voltage_max_v": 3.66, "cell_voltage_avg_v": 3.65,
            "cell_temp_min_c": 24.0, "cell_temp_max_c": 26.0, "cell_temp_avg_c": 25.0, **fields,
        }  # fmt: skip
        return Msg(f"ev/v1/{name}/telemetry", msgspec.json.encode(item), received_ms=received_ms, props=props)

    def predict(self, name: str, model: str, value: float | None, **fields: Any) -> None:
        """A model's answer for a pack."""
        twin = self.store.find(name)
        assert twin is not None
        prediction = Prediction(unit="pct", model="0123456789ab", value=value, **fields)
        self.store.on_prediction(twin, model, prediction)

    def alert(
        self, name: str, code: str = "cell_temp_critical", severity: str = "critical", *, since_ms: int = START_MS,
        cleared_ms: int | None = None,
    ) -> None:  # fmt: skip
        """An alert that is raised; with `cleared_ms` its end."""
        twin = self.store.find(name)
        assert twin is not None
        alert = Alert(
            schema_="alert/1", fleet=twin.fleet, pack=twin.pack, boot=1, seq=0, code=code,
            state="raised" if cleared_ms is None else "cleared", severity=severity,  # type: ignore[arg-type]
            since_ms=since_ms, ts_ms=cleared_ms or since_ms, value=61.0, limit=60.0, unit="c",
            text="the hottest cell is too hot: stop and keep away",
        )  # fmt: skip
        self.store.on_alert(twin, alert)

    def drive(self, name: str, minutes: int, warm: float = 0.0) -> None:
        """Messages every 10 s with slowly changing values, and temperature predictions that come true."""
        for step in range(minutes * 6):
            ts_ms = START_MS + step * 10_000
            temp = 25 + warm + 6 * math.sin(step / 60)
            self.feed(name, ts_ms, soc_pct=80 - step / 20, cell_temp_max_c=round(temp, 1), cell_temp_avg_c=24.0 + warm,
                      pack_current_a=round(-40 + 35 * math.sin(step / 7), 1),
                      pack_voltage_v=round(360 - step / 50 + 3 * math.sin(step / 7), 1))  # fmt: skip
            ahead = 25 + warm + 6 * math.sin((step + 60) / 60)
            self.predict(name, "temperature", round(ahead + 0.4, 2), made_ms=ts_ms, target_ms=ts_ms + 600_000)


def three_packs(folder: Path) -> Gateway:
    """A gateway with three packs; two fleets have a pack P2; depot/P1 has driven for half an hour."""
    gateway = Gateway(folder)
    gateway.birth("depot/P1")
    gateway.drive("depot/P1", 30)
    gateway.feed("depot/P2", cell_temp_max_c=61.5)
    gateway.feed("north/P2")
    return gateway


async def _start(nodes: list[Node], context: Context) -> None:
    for node in nodes:
        await node.start(context)


@dataclass
class Answer:
    """What a request got."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


def error_of(answer: Answer, status: int) -> dict[str, str]:
    """What an answer that is to have that status says of its error."""
    assert answer.status == status
    assert answer.headers["content-type"] == "application/json"
    error: dict[str, str] = answer.json()["error"]
    return error


def request(server: Any, path: str, method: str = "GET", body: str | None = None, **headers: str) -> Answer:
    """One request on a connection of its own."""
    connection = http.client.HTTPConnection(server.host, server.port, timeout=10)
    try:
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
    finally:
        connection.close()


class Events:
    """The events of one open stream; reading one waits up to 10 s."""

    def __init__(self, server: WebServer, path: str = "/api/stream") -> None:
        self.connection = http.client.HTTPConnection(server.host, server.port, timeout=10)
        self.connection.request("GET", path)
        self.response = self.connection.getresponse()

    def lines(self) -> Iterator[str]:
        while line := self.response.readline():
            yield line.decode().rstrip("\n")

    def next(self) -> dict[str, Any]:
        data = next(line for line in self.lines() if line.startswith("data: "))
        changes: dict[str, Any] = json.loads(data[6:])
        return changes

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.response.close()
        self.connection.close()


@contextlib.asynccontextmanager
async def serving(server: S) -> AsyncIterator[S]:
    """The server while the block runs."""
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


@contextlib.contextmanager
def running(state: AppState, token: str | None = None) -> Iterator[WebServer]:
    """A real server on a free port, in an event loop of its own, while the block runs."""
    server, up, stop = WebServer(state, "127.0.0.1", 0, token), threading.Event(), asyncio.Event()

    async def serve() -> None:
        async with serving(server):
            up.set()
            await stop.wait()

    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_until_complete, args=[serve()], name="web server of a test")
    thread.start()
    try:
        assert up.wait(10), "the server did not start"
        yield server
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


def ask(state: AppState, questions: Callable[[WebServer], T], token: str | None = None) -> T:
    """What `questions` returns when they are asked of a real server."""
    with running(state, token) as server:
        return questions(server)
