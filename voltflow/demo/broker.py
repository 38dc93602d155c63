"""The demo's MQTT broker: the one that runs already, or iotcore (rumqttd) from pip.

What iotcore 0.4 (rumqttd 0.20) can and cannot do, as measured:

* A listener speaks MQTT 3.1.1 or MQTT 5, never both: tools get 3.1.1 on the usual port, our parts use MQTT 5.
* Persistent sessions, retained messages, wills and QoS 1 hold, over reconnects too. Nothing is kept on disk.
* Shared subscriptions: the broker's router panics when such a client disconnects and the broker is dead. So the
  demo's bridge subscribes alone (`shared = false`).
* Messages are kept by topic filter in a ring of segments; a subscriber who falls behind by more than the whole ring
  loses them without notice. Hence the sizes below.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from collections.abc import Iterable
from pathlib import Path

from voltflow.demo.settings import DemoSettings
from voltflow.mqtt.link import MqttLink, MqttOptions
from voltflow.settings import SettingsError

SEGMENT_BYTES = 8 * 2**20
SEGMENTS = 8
"""The ring of one topic filter, 64 MB: two minutes of twin messages of the default fleet, and the memory it may take."""
MAX_PAYLOAD_BYTES = 1 << 20
PROBE_TIMEOUT_S = 2.0

_DISCONNECT = b"\xe0\x00"


def configuration(host: str, mqtt_port: int, mqtt5_port: int) -> str:
    """rumqttd's TOML for a listener of each version of the protocol."""
    text = f"""id = 0
[router]
id = 0
max_connections = 10000
max_outgoing_packet_count = 200
max_segment_size = {SEGMENT_BYTES}
max_segment_count = {SEGMENTS}
"""
    for version, port in (("v4", mqtt_port), ("v5", mqtt5_port)):
        text += f"""
[{version}.1]
name = "{version}"
listen = "{host}:{port}"
next_connection_delay_ms = 1
[{version}.1.connections]
connection_timeout_ms = 10000
max_payload_size = {MAX_PAYLOAD_BYTES}
max_inflight_count = 500
dynamic_filters = true
"""
    return text


def command(config: Path) -> list[str]:
    """The embedded broker's command line; it ends by SIGTERM."""
    # rumqttd reports each packet as an error span, so nothing below CRITICAL is of use.
    return [sys.executable, "-m", "iotcore", "--config", str(config), "--log-level", "CRITICAL"]


def use_running(settings: DemoSettings) -> bool:
    """Whether to use a broker that runs already; raises SettingsError when what is there or missing does not fit."""
    login = (settings.broker_user, settings.broker_password)
    answer = (
        None if settings.broker == "embedded" else probe(settings.broker_host, settings.broker_port, *login)
    )
    where = f"broker_port = {settings.broker_port}"
    if answer == "mqtt":
        return True
    if answer == "refused":
        raise SettingsError(
            f"{where}: the MQTT broker there refuses broker_user = '{settings.broker_user}':"
            " set broker_user and broker_password (as --broker-password-file), or another broker_port"
        )
    if answer == "other":
        raise SettingsError(
            f"{where}: a program on {settings.broker_host} listens there that is no MQTT broker:"
            " end it or set another broker_port"
        )
    if settings.broker == "running":
        raise SettingsError(
            f"broker = running, but no MQTT broker answers at {settings.broker_host}:{settings.broker_port}:"
            " start it, correct broker_host and broker_port, or set broker = auto"
        )
    if not _is_local(settings.broker_host):
        raise SettingsError(
            f"broker_host = '{settings.broker_host}' has no MQTT broker on port {settings.broker_port},"
            " and an embedded one can only be on this machine: broker_host = 127.0.0.1"
        )
    return False


def probe(host: str, port: int, user: str = "", password: str = "") -> str | None:
    """What listens there: `mqtt`, `refused` (MQTT, but not for this user), `other`, or None when nothing does."""
    try:
        with socket.create_connection((host, port), timeout=PROBE_TIMEOUT_S) as connection:
            try:
                connection.sendall(_connect_packet(user, password))
                answer = connection.recv(4)
                connection.sendall(_DISCONNECT)
            except OSError:
                return "other"
    except OSError:
        return None
    if answer[:1] != b"\x20":  # CONNACK
        return "other"
    return "refused" if answer[3:] in {b"\x04", b"\x05"} else "mqtt"


def _connect_packet(user: str, password: str) -> bytes:
    """CONNECT of MQTT 3.1.1, which every broker answers: clean session, keep-alive 10 s (3.1)."""
    flags = 0x02 | (0x80 if user else 0) | (0x40 if user and password else 0)
    texts = ["voltflow-demo-probe", *([user] if user else []), *([password] if user and password else [])]
    payload = b"".join(len(text.encode()).to_bytes(2) + text.encode() for text in texts)
    body = b"\x00\x04MQTT\x04" + flags.to_bytes() + b"\x00\x0a" + payload
    length = len(body)
    size = length.to_bytes() if length < 128 else bytes((length & 0x7F | 0x80, length >> 7))
    return b"\x10" + size + body


def listens(host: str, port: int) -> bool:
    """Whether something accepts connections there."""
    try:
        with socket.create_connection((host, port), timeout=PROBE_TIMEOUT_S):
            return True
    except OSError:
        return False


def _is_local(host: str) -> bool:
    with contextlib.suppress(OSError):
        return all(str(info[4][0]).startswith(("127.", "::1")) for info in socket.getaddrinfo(host, None))
    return False


async def forget(options: MqttOptions, client_ids: Iterable[str], retained: Iterable[str]) -> None:
    """Leave nothing in a broker that is not ours: our clients' sessions and our retained messages."""
    with contextlib.suppress(TimeoutError, OSError):
        async with asyncio.timeout(5):
            for client_id in client_ids:
                await _forget_session(options, client_id)
            link = MqttLink(_as(options, "voltflow-demo-forget"), name="demo")
            await link.open()
            await link.connected.wait()
            await link.publish_batch([(topic, b"") for topic in retained], retain=True)
            await link.close()


async def _forget_session(options: MqttOptions, client_id: str) -> None:
    """A clean start ends the session of that client id (MQTT 5, 3.1.2.4; MQTT 3.1.1, 3.1.2.4)."""
    link = MqttLink(_as(options, client_id), name="demo")
    await link.open()
    await link.connected.wait()
    await link.close()


def _as(options: MqttOptions, client_id: str) -> MqttOptions:
    return MqttOptions(
        host=options.host, port=options.port, username=options.username, password=options.password,
        client_id=client_id, clean_start=True,
    )  # fmt: skip
