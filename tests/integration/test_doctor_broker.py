"""`voltflow doctor` at real brokers: what is wrong is named, with the setting to change, and nobody hears of it."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
import subprocess
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests import servers
from tests.doctors import Authority, Report, doctor
from tests.integration.test_sim_device import listening
from tests.mqtt import StubBroker
from voltflow.demo import broker as demo_broker
from voltflow.doctor.probe import Probe, Where
from voltflow.topics import DOCTOR_FILTER

Own = Callable[[AbstractContextManager[servers.Mosquitto]], servers.Mosquitto]

LOCAL, UPLINK = "broker local", "broker uplink"
GATEWAY = "gw1"
ACL = """user gw1
topic read ev/v1/+/+/telemetry
topic read ev/v1/+/+/cells
topic readwrite ev/v1/+/+/state
topic read gw/v1/gw1/down
topic write gw/v1/gw1/state
topic write ev/v1/+/+/cmd
topic write ev/v1/+/+/twin
topic write ev/v1/+/+/alert
topic write ev/v1/+/+/dead
topic write ev/v1/+/+/loss
"""


def examine(folder: Path, broker: servers.Mosquitto | int, **settings: object) -> Report:
    port = broker if isinstance(broker, int) else broker.port
    return doctor("agent", folder, {"gateway": GATEWAY, "broker_port": port, **settings})


def passwords(folder: Path, **users: str) -> Path:
    path = folder / "passwords"
    path.touch(mode=0o600)
    for user, password in users.items():
        command = [servers.program("mosquitto_passwd", "mosquitto"), "-b", str(path), user, password]
        subprocess.run(command, check=True, capture_output=True)
    return path


def test_a_broker_that_grants_everything_is_well_and_hears_nothing(own: Own, tmp_path: Path) -> None:
    broker = own(servers.Mosquitto())
    with listening(broker.port, "#") as got:
        report = examine(tmp_path, broker)
        assert report.status(LOCAL) == report.status(UPLINK) == "ok", report.document
        assert "asked without anybody hearing it" in report.texts(UPLINK, "ok")
        with Probe(Where("127.0.0.1", broker.port)) as probe:
            probe.settle()
        said = {topic for topic in got.by_topic if not topic.startswith("voltflow/doctor/")}
    assert said == set()


def test_nobody_there(tmp_path: Path) -> None:
    port = servers.free_port()
    report = examine(tmp_path, port)
    assert f"nobody listens at 127.0.0.1:{port}" in report.texts(LOCAL, "problem")
    assert "broker_host and broker_port" in report.texts(UPLINK, "problem"), (
        "the uplink is the devices' broker"
    )
    assert report.exit_code == 2


def test_a_name_without_an_address(tmp_path: Path) -> None:
    report = examine(tmp_path, 1883, broker_host="no-such-host.invalid")
    assert "the name 'no-such-host.invalid' has no address" in report.texts(LOCAL, "problem")


def test_a_wrong_password_is_told_and_never_shown(own: Own, tmp_path: Path) -> None:
    broker = own(
        servers.Mosquitto(allow_anonymous="false", password_file=str(passwords(tmp_path, gw1="right-one")))
    )
    secret = tmp_path / "secret"
    secret.write_text("wrong-one-here")
    settings = {"broker_user": "gw1", "broker_password_file": secret}
    report = examine(tmp_path, broker, **settings)
    told = report.texts(LOCAL, "problem")
    assert "does not take the user 'gw1' with this password" in told
    assert "broker_user and broker_password" in told
    assert "wrong-one-here" not in json.dumps(report.document)
    secret.write_text("right-one")
    assert examine(tmp_path, broker, **settings).status(LOCAL) == "ok"
    assert "a client without a user" in examine(tmp_path, broker).texts(LOCAL, "problem")


def with_rights(own: Own, folder: Path, rules: str) -> servers.Mosquitto:
    (folder / "acl").write_text(rules)
    (folder / "acl").chmod(0o600)
    return own(servers.Mosquitto(allow_anonymous="true", acl_file=str(folder / "acl"),
                                 password_file=str(passwords(folder, gw1="secret"))))  # fmt: skip


def test_a_topic_that_may_not_be_published_is_named(own: Own, tmp_path: Path) -> None:
    rules = ACL.replace("topic write ev/v1/+/+/alert\n", "") + f"topic readwrite {DOCTOR_FILTER}\n"
    broker = with_rights(own, tmp_path, rules)
    (tmp_path / "secret").write_text("secret")
    report = examine(tmp_path, broker, broker_user="gw1", broker_password_file=tmp_path / "secret")
    told = report.texts(UPLINK, "problem")
    assert "does not let this program publish ev/v1/voltflow-doctor/voltflow-doctor/alert with 0x87" in told
    assert "/twin" not in told
    assert "allow the user 'gw1' to write there" in told
    assert report.status(LOCAL) == "ok"


def test_where_it_cannot_be_known_that_nobody_hears_it_nothing_is_published(own: Own, tmp_path: Path) -> None:
    broker = with_rights(own, tmp_path, ACL)
    (tmp_path / "secret").write_text("secret")
    report = examine(tmp_path, broker, broker_user="gw1", broker_password_file=tmp_path / "secret")
    assert f"read and write {DOCTOR_FILTER}" in report.texts(UPLINK, "skipped")
    with_version = with_rights(own, tmp_path, f"{ACL}topic read $SYS/broker/version\n")
    report = examine(tmp_path, with_version, broker_user="gw1", broker_password_file=tmp_path / "secret")
    assert "it takes what is published" in report.texts(UPLINK, "ok"), "mosquitto is known to wait for PUBREL"


def test_a_topic_that_may_not_be_subscribed_is_named(own: Own, tmp_path: Path) -> None:
    """mosquitto's acl_file grants every subscription; its other way of keeping rights refuses them."""
    plugin = next(Path("/usr/lib").glob("*/mosquitto_dynamic_security.so"), None)
    if plugin is None:
        raise servers.Missing(
            "mosquitto_dynamic_security.so is not installed: sudo apt-get install mosquitto"
        )
    allowed = {"acltype": "subscribePattern", "topic": "ev/v1/+/+/state", "priority": 0, "allow": True}
    everything = {"acltype": "publishClientSend", "topic": "#", "priority": 0, "allow": True}
    config = {
        "defaultACLAccess": {"publishClientSend": True, "publishClientReceive": True, "subscribe": False, "unsubscribe": True},
        "clients": [{"username": "gw1", "roles": [{"rolename": "some"}], **hashed("secret")}],
        "roles": [{"rolename": "some", "acls": [allowed, everything]}],
    }  # fmt: skip
    (tmp_path / "rights.json").write_text(json.dumps(config))
    broker = own(servers.Mosquitto(plugin=str(plugin), plugin_opt_config_file=str(tmp_path / "rights.json"),
                                   allow_anonymous="false"))  # fmt: skip
    (tmp_path / "secret").write_text("secret")
    report = examine(tmp_path, broker, broker_user="gw1", broker_password_file=tmp_path / "secret")
    told = report.texts(LOCAL, "problem")
    assert (
        "does not let this program read ev/v1/+/+/cells with 0x87 (not authorized), ev/v1/+/+/telemetry"
        in told
    )
    assert "ev/v1/+/+/state" not in told


def hashed(password: str) -> dict[str, object]:
    salt = b"twelve bytes"
    made = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, 101)
    return {
        "password": base64.b64encode(made).decode(),
        "salt": base64.b64encode(salt).decode(),
        "iterations": 101,
    }


def test_a_broker_that_passes_messages_on_early_is_not_asked() -> None:
    """No broker at hand does it; the stub answers a PUBLISH of QoS 2 with the message itself."""

    class Early(StubBroker):
        def _answer(self, kind: int, body: bytes) -> tuple[bytes, bool]:
            if kind == 3:
                end = 2 + int.from_bytes(body[:2])
                message = body[:end] + b"\x00{}"
                return b"\x30" + bytes([len(message)]) + message + b"\x50\x02" + body[end : end + 2], True
            if kind == 12:
                return b"\xd0\x00", True
            return super()._answer(kind, body)

    async def ask() -> bool | None:
        async with Early() as stub:

            def probe() -> bool | None:
                with Probe(Where("127.0.0.1", stub.port)) as connected:
                    return connected.passes_on_early()

            return await asyncio.to_thread(probe)

    assert asyncio.run(ask()) is True


def test_what_a_broker_has_for_everybody_comes_and_is_taken_for_a_sign(own: Own, tmp_path: Path) -> None:
    broker = own(servers.Mosquitto())
    command = [servers.program("mosquitto_pub", "mosquitto-clients"), "-p", str(broker.port), "-r", "-q", "1"]
    subprocess.run([*command, "-t", "ev/v1/depot/PACK1/state", "-m", "{}"], check=True)
    report = examine(tmp_path, broker)
    assert "messages come" in report.texts(LOCAL, "ok")
    assert "ev/v1/depot/PACK1/cmd" in report.texts(LOCAL, "ok"), (
        "rights may be by fleet: a known one is asked for"
    )


# -- TLS ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "ca")


def encrypted(own: Own, pair: tuple[Path, Path], **options: str) -> servers.Mosquitto:
    return own(servers.Mosquitto(certfile=str(pair[0]), keyfile=str(pair[1]), **options))


def test_tls_that_fits_is_well(own: Own, authority: Authority, tmp_path: Path) -> None:
    broker = encrypted(own, authority.issue("server"))
    report = examine(tmp_path, broker, broker_tls="true", broker_ca=authority.ca)
    assert "the broker's certificate fits and is valid for 299 more days" in report.texts(LOCAL, "ok")
    assert report.status(LOCAL) == "ok"


def test_a_certificate_that_ends_soon_is_a_warning(own: Own, authority: Authority, tmp_path: Path) -> None:
    broker = encrypted(own, authority.issue("server", days=9.5))
    report = examine(tmp_path, broker, broker_tls="true", broker_ca=authority.ca)
    assert "valid for 9 more days" in report.texts(
        LOCAL, "warning"
    ) or "valid for 10 more days" in report.texts(LOCAL, "warning")


@pytest.mark.parametrize(
    ("issued", "told"),
    [
        ({"days": -2}, "has expired → renew it at the broker"),
        ({"host": "other.example"}, "is for another name than '127.0.0.1' → set broker_host"),
    ],
)
def test_a_certificate_that_does_not_fit(
    own: Own, authority: Authority, tmp_path: Path, issued: dict[str, float], told: str
) -> None:
    broker = encrypted(own, authority.issue("server", **issued))  # type: ignore[arg-type]
    report = examine(tmp_path, broker, broker_tls="true", broker_ca=authority.ca)
    assert told in report.texts(LOCAL, "problem")


def test_an_authority_that_is_not_trusted(own: Own, authority: Authority, tmp_path: Path) -> None:
    broker = encrypted(own, authority.issue("server"))
    other = Authority(tmp_path, "other")
    report = examine(tmp_path, broker, broker_tls="true", broker_ca=other.ca)
    told = report.texts(LOCAL, "problem")
    assert f"an authority that is not among those in {other.ca}" in told
    assert "set broker_ca" in told
    assert "the system's authorities" in examine(tmp_path, broker, broker_tls="true").texts(LOCAL, "problem")


def test_tls_at_a_plain_port_and_none_at_a_tls_port(own: Own, authority: Authority, tmp_path: Path) -> None:
    plain, tls = own(servers.Mosquitto()), encrypted(own, authority.issue("server"))
    assert "does not speak TLS" in examine(tmp_path, plain, broker_tls="true", broker_ca=authority.ca).texts(
        LOCAL, "problem"
    )
    told = examine(tmp_path, tls).texts(LOCAL, "problem")
    assert "if it is a TLS port, switch broker_tls on" in told


def test_a_client_certificate_is_asked_for(own: Own, authority: Authority, tmp_path: Path) -> None:
    broker = encrypted(own, authority.issue("server"), cafile=str(authority.ca), require_certificate="true")
    settings = {"broker_tls": "true", "broker_ca": authority.ca}
    told = examine(tmp_path, broker, **settings).texts(LOCAL, "problem")
    assert re.search("asks for a client certificate.* → set broker_cert and broker_key", told)
    cert, key = authority.issue("client")
    assert examine(tmp_path, broker, **settings, broker_cert=cert, broker_key=key).status(LOCAL) == "ok"


def test_something_else_answers(own: Own, tmp_path: Path) -> None:
    store = own(servers.ObjectStore())  # type: ignore[arg-type]
    assert "does not talk MQTT" in examine(tmp_path, store.port).texts(LOCAL, "problem")


class Iotcore(servers.Server):
    """The demo's own broker: its first port has MQTT 3.1.1 only, and closes the connection on a CONNECT of MQTT 5."""

    def command(self) -> list[str]:
        path = self.folder / "broker.toml"
        path.write_text(demo_broker.configuration("127.0.0.1", self.port, servers.free_port()))
        return demo_broker.command(path)


def test_a_broker_of_mqtt_3_1_1_is_told_as_one(own: Own, tmp_path: Path) -> None:
    """It closes the connection on MQTT 5; that is no reason to look for a TLS port."""
    broker = own(Iotcore())  # type: ignore[arg-type]
    report = examine(tmp_path, broker)
    told = report.texts(LOCAL, "warning")
    assert f"127.0.0.1:{broker.port} speaks MQTT 3.1.1 only: it works" in told
    assert "three attempts" in told
    assert "broker_tls" not in told
    assert not report.texts(LOCAL, "problem")


def test_a_broker_of_mqtt_3_1_1_that_says_so_or_refuses_the_user(tmp_path: Path) -> None:
    """There is none that says so at hand (`StubBroker`)."""

    class Closed(StubBroker):
        def _answer(self, kind: int, body: bytes) -> tuple[bytes, bool]:
            old = kind == 1 and body[6] == 4
            return (b"\x20\x02\x00\x05", False) if old else super()._answer(kind, body)

    async def told(stub: StubBroker, status: str) -> str:
        async with stub:
            return (await asyncio.to_thread(examine, tmp_path, stub.port)).texts(LOCAL, status)

    unsupported = b"\x20\x03\x00\x84\x00"
    said = asyncio.run(told(StubBroker(unsupported), "warning"))
    assert "speaks MQTT 3.1.1 only: it works" in said
    assert "attempts" not in said
    assert "does not take a client without a user" in asyncio.run(told(Closed(unsupported), "problem"))
