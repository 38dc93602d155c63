"""Kafka over TLS with a client certificate. The broker of the tests cannot do TLS (tansu 0.6 takes a certificate or a
key, not both), so a program in front of it does, as a load balancer would."""

import asyncio
import contextlib
import gc
import logging
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest

from cloud.nodes.kafka_in import KafkaIn
from cloud.nodes.kafka_out import KafkaOut
from tests import cloud_samples as samples
from tests import servers
from tests.cloud_samples import run_sink, twin
from voltflow.message import Msg
from voltflow.node import SinkUnavailable

# kafka-python 3.0 leaves the socket of a refused connection to the garbage collector (kafka/net/inet.py).
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <s:ResourceWarning")


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    caplog.set_level(logging.CRITICAL, "kafka")  # captured records would keep the sockets
    yield
    gc.collect()


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certificates")
    (folder / "san").write_text("subjectAltName=IP:127.0.0.1")
    commands = ["req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=ca -keyout ca.key -out ca.crt"]
    for name in ("server", "client"):
        commands += [
            f"req -newkey rsa:2048 -nodes -subj /CN={name} -keyout {name}.key -out {name}.csr",
            f"x509 -req -in {name}.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile san -out {name}.crt",
        ]
    for command in commands:
        subprocess.run(
            [servers.program("openssl", "openssl"), *command.split()],
            cwd=folder,
            check=True,
            capture_output=True,
        )
    return folder


class TlsFront:
    """Takes TLS connections of clients with a certificate and passes on what is in them; in a thread of its own."""

    def __init__(self, certificates: Path) -> None:
        self.port = servers.free_port()
        self.target = 0
        self._context = ssl.create_default_context(
            ssl.Purpose.CLIENT_AUTH, cafile=str(certificates / "ca.crt")
        )
        self._context.load_cert_chain(certificates / "server.crt", certificates / "server.key")
        self._context.verify_mode = ssl.CERT_REQUIRED
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))

    async def _serve(self) -> None:
        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        async with await asyncio.start_server(self._handle, "127.0.0.1", self.port, ssl=self._context):
            self._ready.set()
            await self._over.wait()

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", self.target)
        ways = [
            asyncio.create_task(_copy(reader, inner_writer)),
            asyncio.create_task(_copy(inner_reader, writer)),
        ]
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for way in ways:
            way.cancel()
        for each in (writer, inner_writer):
            each.close()

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *exc: object) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(10)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()


@pytest.fixture
def bootstrap(own: Any, certificates: Path) -> str:
    front = own(TlsFront(certificates))
    front.target = own(servers.Kafka(advertised=front.port)).port
    return f"127.0.0.1:{front.port}"


def test_out_and_in_over_tls_with_client_certificates(
    bootstrap: str, certificates: Path, unique: str
) -> None:
    tls = {"security": "ssl", **{name: str(certificates / file) for name, file in
           (("ca", "ca.crt"), ("cert", "client.crt"), ("key", "client.key"))}}  # fmt: skip
    sent = [twin(seq) for seq in range(50)]
    got: list[Msg] = []

    async def use(sink: KafkaOut) -> None:
        await sink.write(sent)
        node = KafkaIn(bootstrap=bootstrap, group=unique, **tls)
        await node.start(samples.context())

        async def emit(msgs: list[Msg]) -> None:
            got.extend(msgs)

        running = asyncio.create_task(node.run(emit))
        await asyncio.to_thread(servers.wait_until, lambda: len(got) >= 50, "the messages", 40)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await node.stop()

    run_sink(KafkaOut(bootstrap=bootstrap, **tls), use)
    assert [m.payload for m in got] == [m.payload for m in sent]


def test_without_a_certificate_or_with_a_wrong_authority_batches_wait(
    bootstrap: str, certificates: Path
) -> None:
    for wrong in ({"ca": str(certificates / "ca.crt")}, {"ca": ""}):

        async def use(sink: KafkaOut) -> None:
            with pytest.raises(SinkUnavailable, match="kafka 127"):
                await sink.write([twin(0)])
            assert sink.status()["error"]

        run_sink(KafkaOut(bootstrap=bootstrap, security="ssl", timeout_s=2.0, **wrong), use)
