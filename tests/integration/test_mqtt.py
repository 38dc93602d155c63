"""The MQTT client against a real mosquitto: what is acknowledged, confirmed, sent again, refused, noticed."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import shutil
import signal
import ssl
import subprocess
import time
from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from tests import servers
from tests.conftest import do_without
from tests.flows import until
from tests.mqtt import Inbox, StubBroker, cut, linked, reconnected
from voltflow.demo.relay import Relay
from voltflow.message import Msg
from voltflow.mqtt.link import (
    Delivery,
    LinkClosed,
    MqttLink,
    MqttOptions,
    Publication,
    PublishRefused,
    Receiver,
    tls_context,
)

Own = Callable[[AbstractContextManager[servers.Mosquitto]], servers.Mosquitto]
KEPT = {"clean_start": False}


def run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(scenario())


def numbered(topic: str, count: int) -> list[tuple[str, bytes]]:
    return [(topic, b"%d" % i) for i in range(count)]


# -- acknowledging ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("qos", [1, 2])
def test_only_what_was_not_acknowledged_comes_again(
    mosquitto: servers.Mosquitto, unique: str, qos: int
) -> None:
    """The fourth is held back because the third is missing: the broker hears of them in its own order."""

    async def scenario() -> None:
        async with linked(mosquitto.port, client_id=unique, **KEPT) as link, linked(mosquitto.port) as sender:
            inbox = Inbox(link, unique, qos, acknowledge=False)
            await until(lambda: link._client.subscriptions[0].acknowledged, "the subscription")
            await sender.publish_batch(numbered(unique, 5), qos=qos)
            assert await inbox.have(5) == [b"0", b"1", b"2", b"3", b"4"]
            link.acknowledge([inbox.deliveries[i] for i in (1, 0, 3)])
            await sender.publish(unique, b"5", qos=qos)
            await inbox.have(
                6
            )  # later on the same connection, so the acknowledgements have gone out before the cut
            cut(link)
            await reconnected(link, 0)
            await inbox.have(10)
            assert inbox.payloads[6:] == [b"2", b"3", b"4", b"5"]
            link.acknowledge(inbox.deliveries[2:6])  # of the old connection: they must count for nothing
            cut(link)
            await reconnected(link, 1)
            await inbox.have(14)
            link.acknowledge(inbox.deliveries[10:])
            await sender.publish(unique, b"6", qos=qos)
            await inbox.have(15)
            cut(link)
            await reconnected(link, 2)
            await inbox.have(16)
            assert inbox.payloads[10:] == [b"2", b"3", b"4", b"5", b"6", b"6"]

    run(scenario)


@pytest.mark.parametrize("full", [False, True], ids=["at once", "when nothing more is read"])
def test_what_was_acknowledged_right_before_a_clean_stop_does_not_come_again(own: Own, full: bool) -> None:
    """The socket was once closed with messages unread in it: the reset took the last acknowledgements with it."""
    broker = own(servers.Mosquitto(max_inflight_messages="200", max_queued_messages="0"))
    options = {"client_id": "receiver", "receive_maximum": 50, **KEPT}
    acknowledged: set[int] = set()
    again: set[int] = set()

    async def some(of_one_run: int) -> None:
        """Acknowledge so many as they come; more follow unacknowledged."""
        link = MqttLink(MqttOptions(port=broker.port, **options), name="link")
        stop, enough = len(acknowledged) + of_one_run, asyncio.Event()

        def receive(msg: Msg, delivery: Delivery | None) -> None:
            number = int(msg.payload)
            if number in acknowledged:
                again.add(number)
            if len(acknowledged) < stop:
                acknowledged.add(number)
                link.acknowledge([delivery])
            else:
                enough.set()

        link.subscribe("t", 1, receive)
        await link.open()
        async with asyncio.timeout(20):
            await enough.wait()
        if full:
            await until(lambda: not link._inbound.room.is_set(), "a full window")
        await link.close()

    async def scenario() -> None:
        async with linked(broker.port, **options) as link:
            Inbox(link, "t")
            await until(lambda: link._client.subscriptions[0].acknowledged, "the subscription")
        async with linked(broker.port) as sender:
            sent = sender.publish_batch([("t", b"%d" % i + b" " * 2000) for i in range(10_000)])
            for _ in range(10):
                await some(700)
            await sent
        assert not again

    run(scenario)


def test_no_more_than_receive_maximum_and_one_read_is_unacknowledged(
    mosquitto: servers.Mosquitto, unique: str
) -> None:
    """mosquitto 2.0.11 honours Receive Maximum once and sends its whole queue after the first acknowledgement."""
    size, of_one_read = 20_000, 65536 // 20_000 + 2

    async def scenario() -> None:
        async with linked(mosquitto.port, receive_maximum=5) as link, linked(mosquitto.port) as sender:
            inbox = Inbox(link, unique, acknowledge=False)
            await until(lambda: link._client.subscriptions[0].acknowledged, "the subscription")
            await sender.publish_batch([(unique, b"%d " % i + b"x" * size) for i in range(100)])
            for done in range(100):
                await inbox.have(min(5 + done, 100))
                assert len(inbox.msgs) - done <= 5 + of_one_read
                link.acknowledge([inbox.deliveries[done]])
            assert [int(payload.split()[0]) for payload in inbox.payloads] == list(range(100))

    run(scenario)


@pytest.mark.parametrize("window", ["kept by the broker", "overrun by the broker"])
def test_slow_consumer_keeps_its_connection_longer_than_the_keep_alive(
    mosquitto: servers.Mosquitto, unique: str, window: str
) -> None:
    """mosquitto drops a client that is silent for 1.5 keep-alive intervals (7.5 s here)."""

    async def scenario() -> None:
        options = {"client_id": unique, "keepalive_s": 5, "receive_maximum": 2, **KEPT}
        async with linked(mosquitto.port, **options) as link, linked(mosquitto.port) as sender:
            inbox = Inbox(link, unique, acknowledge=False)
            await until(lambda: link._client.subscriptions[0].acknowledged, "the subscription")
            await sender.publish_batch(numbered(unique, 6))
            await inbox.have(2)
            if window == "overrun by the broker":  # then the link stops reading
                link.acknowledge(inbox.deliveries[:1])
                await inbox.have(4)
            held_since = time.monotonic()
            await until(lambda: time.monotonic() > held_since + 8, "more than 1.5 intervals", 20)
            assert link.reconnects == 0
            link.acknowledge(inbox.deliveries)
            await inbox.have(4)
            link.acknowledge(inbox.deliveries)
            assert await inbox.have(6) == [payload for _, payload in numbered(unique, 6)]
            assert link.reconnects == 0

    run(scenario)


def test_shared_subscription_splits_the_messages(mosquitto: servers.Mosquitto, unique: str) -> None:
    async def scenario() -> None:
        port = mosquitto.port
        async with linked(port) as first, linked(port) as second, linked(port) as sender:
            boxes = [Inbox(link, f"$share/{unique}/{unique}/+") for link in (first, second)]
            await until(
                lambda: all(link._client.subscriptions[0].acknowledged for link in (first, second)), "both"
            )
            await sender.publish_batch([(f"{unique}/{i}", b"%d" % i) for i in range(100)])
            await until(lambda: sum(len(box.msgs) for box in boxes) >= 100, "all messages")
            assert sorted(int(p) for box in boxes for p in box.payloads) == list(range(100))
            assert all(len(box.msgs) > 10 for box in boxes)

    run(scenario)


# -- publishing ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_published_batch_arrives_in_order_and_is_counted(
    mosquitto: servers.Mosquitto, unique: str, qos: int
) -> None:
    async def scenario() -> None:
        async with linked(mosquitto.port) as link, linked(mosquitto.port) as sender:
            inbox = Inbox(link, unique, 2)
            await until(lambda: link._client.subscriptions[0].acknowledged, "the subscription")
            await sender.publish_batch(numbered(unique, 500), qos=qos)
            assert await inbox.have(500) == [payload for _, payload in numbered(unique, 500)]
            assert sender.confirmed == sender.published == (500 if qos else 0)

    run(scenario)


def test_qos_0_is_dropped_and_counted_while_the_broker_is_away() -> None:
    async def scenario() -> None:
        async with linked(servers.free_port(), wait=False) as link:
            await link.publish_batch(numbered("t", 3), qos=0)
            assert link.dropped_offline_qos0 == 3

    run(scenario)


@pytest.mark.parametrize("how", ["stop", "kill"])
@pytest.mark.parametrize("qos", [1, 2])
def test_what_the_broker_did_not_confirm_is_sent_again_after_its_restart(
    own: Own, how: str, qos: int
) -> None:
    """Each message is retained on a topic of its own, so that who asks afterwards sees what the broker has."""
    broker = own(servers.Mosquitto(max_inflight_messages="50"))

    async def scenario() -> None:
        async with linked(broker.port, client_id="sender", **KEPT) as sender:
            broker.pause()
            items = [(f"kept/{i}", b"%d" % i) for i in range(300)]
            confirmed = sender.publish_batch(items, qos=qos, retain=True)
            await until(lambda: sender.published == 50, "a full window")
            await asyncio.to_thread(broker.stop if how == "stop" else broker.kill)
            assert not confirmed.done()
            await asyncio.to_thread(broker.start)
            async with asyncio.timeout(20):
                await confirmed
            async with linked(broker.port) as link:
                inbox = Inbox(link, "kept/+")
                await inbox.have(300)
                assert sorted(inbox.payloads) == sorted(payload for _, payload in items)

    run(scenario)


def test_messages_in_flight_over_a_clean_restart_reach_a_session_in_order(own: Own) -> None:
    broker = own(servers.Mosquitto())

    async def scenario() -> None:
        async with (
            linked(broker.port, client_id="receiver", **KEPT) as link,
            linked(broker.port, client_id="sender", **KEPT) as sender,
        ):
            inbox = Inbox(link, "t")
            await until(lambda: link._client.subscriptions[0].acknowledged, "the subscription")
            batches = [
                sender.publish_batch([("t", b"%d" % i) for i in range(n, n + 500)])
                for n in range(0, 5000, 500)
            ]
            await inbox.have(100)
            await asyncio.to_thread(broker.restart)
            async with asyncio.timeout(20):
                await asyncio.gather(*batches)
            await until(lambda: len(set(inbox.payloads)) == 5000, "every message", 20)
            seen: dict[bytes, None] = dict.fromkeys(inbox.payloads)
            assert [int(payload) for payload in seen] == list(range(5000)), "first arrivals are in order"

    run(scenario)


@pytest.mark.parametrize("stopped", [False, True], ids=["paused", "paused, then stopped"])
@pytest.mark.parametrize("qos", [1, 2])
def test_batch_that_is_given_up_leaves_only_what_was_sent(own: Own, qos: int, stopped: bool) -> None:
    """What nobody waits for any more must not pile up while the broker is away, nor come in late."""
    broker = own(servers.Mosquitto(max_inflight_messages="20"))

    async def scenario() -> None:
        async with (
            linked(broker.port, client_id="receiver", **KEPT) as link,
            linked(broker.port, client_id="sender", **KEPT) as sender,
        ):
            inbox = Inbox(link, "t", qos)
            await until(lambda: link._client.subscriptions[0].acknowledged, "the subscription")
            broker.pause()
            for first in range(0, 500, 100):
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.01):
                        await sender.publish_batch(
                            [("t", b"%d" % i) for i in range(first, first + 100)], qos=qos
                        )
            await until(lambda: not sender._outbound._queue, "an empty queue")
            assert (len(sender._outbound._inflight), sender.published) == (20, 20)
            if stopped:
                await asyncio.to_thread(broker.stop)
                await until(lambda: not sender.is_up, "the loss of the connection")
                abandoned = sender.publish_batch([("t", b"never")] * 100, qos=qos)
                abandoned.cancel()
                await until(lambda: not sender._outbound._queue, "an empty queue")
            later = sender.publish_batch([("t", b"later %d" % i) for i in range(100)], qos=qos)
            await asyncio.to_thread(broker.start) if stopped else broker.resume()
            async with asyncio.timeout(20):
                await later
            await until(lambda: b"later 99" in inbox.payloads, "the last one", 20)
            assert [text for text in inbox.payloads if text.startswith(b"later")] == [
                b"later %d" % i for i in range(100)
            ]
            assert {text for text in inbox.payloads if not text.startswith(b"later")} <= {
                b"%d" % i for i in range(20)
            }
            assert (len(sender._outbound._queue), len(sender._outbound._inflight)) == (0, 0)

    run(scenario)


def test_broker_that_forgot_the_session_gets_nothing_that_was_given_up(own: Own) -> None:
    broker = own(servers.Mosquitto(persistence="false"))

    async def scenario() -> None:
        async with linked(broker.port, client_id="sender", **KEPT) as sender:
            broker.pause()
            sender.publish_batch([(f"kept/{i}", b"given up") for i in range(10)], retain=True).cancel()
            confirmed = sender.publish("kept/a", b"wanted", retain=True)
            await until(lambda: sender.published == 11, "all on their way")
            await asyncio.to_thread(broker.kill)
            await asyncio.to_thread(broker.start)
            async with asyncio.timeout(20):
                await confirmed
            await sender.publish("kept/b", b"last", retain=True)
            async with linked(broker.port) as link:
                inbox = Inbox(link, "kept/+")
                await inbox.have(2)
                assert sorted(inbox.payloads) == [b"last", b"wanted"]

    run(scenario)


def test_identifier_of_a_message_that_was_given_up_is_not_used_before_its_answer(own: Own) -> None:
    broker = own(servers.Mosquitto(max_inflight_messages="20"))

    async def scenario() -> None:
        async with linked(broker.port, client_id="sender", **KEPT) as sender:
            broker.pause()
            sender.publish_batch(numbered("t", 10)).cancel()
            assert list(sender._outbound._inflight) == list(range(1, 11))
            sender._outbound._next_mid = 65535  # all others have been used
            confirmed = sender.publish_batch([(f"kept/{i}", b"%d" % i) for i in range(10)], retain=True)
            assert list(sender._outbound._inflight) == list(range(1, 21))
            cut(sender)
            broker.resume()
            async with asyncio.timeout(20):
                await confirmed
            assert (sender.confirmed, sender.reconnects) == (20, 1)
            async with linked(broker.port) as link:
                inbox = Inbox(link, "kept/+")
                assert sorted(await inbox.have(10)) == [b"%d" % i for i in range(10)]

    run(scenario)


def test_packet_the_broker_does_not_take_is_refused_and_the_others_go_on(own: Own) -> None:
    broker = own(servers.Mosquitto(max_packet_size="2000"))

    async def scenario() -> None:
        async with linked(broker.port) as link:
            inbox = Inbox(link, "t")
            await until(lambda: link._client.subscriptions[0].acknowledged, "the subscription")
            with pytest.raises(PublishRefused) as raised:
                await link.publish_batch([("t", b"first"), ("t", b"x" * 3000), ("t", b"last")])
            assert raised.value.refused == [(1, 0x95)]
            assert str(raised.value).endswith("the first with reason code 0x95 (packet too large)")
            assert await inbox.have(2) == [b"first", b"last"]
            assert link.reconnects == 0

    run(scenario)


@pytest.mark.parametrize("qos", [1, 2])
def test_message_on_which_the_broker_closes_the_connection_is_refused_in_the_end(own: Own, qos: int) -> None:
    """At MQTT 3.1.1 a broker cannot say that a packet is too large: it closes, and got it again, for ever."""
    broker = own(servers.Mosquitto(max_packet_size="20000"))

    async def scenario() -> None:
        async with linked(broker.port) as watcher:
            inbox = Inbox(watcher, "t", 2)
            await until(lambda: watcher._client.subscriptions[0].acknowledged, "the subscription")
            link = MqttLink(MqttOptions(port=broker.port, client_id="old", **KEPT), name="link")
            link._version.refused()
            await link.open()
            await link.publish("t", b"small")
            first = [("t", b"%d" % i) for i in range(30)]
            first[11:11] = first[20:20] = [("t", b"x" * 30_000)]
            with pytest.raises(PublishRefused) as raised:
                async with asyncio.timeout(90):
                    await link.publish_batch(first, qos=qos)
            assert raised.value.refused == [(11, 0x100), (20, 0x100)]
            assert str(raised.value) == (
                "the broker refused 2 message(s), the first with reason code none "
                "(it closed the connection each time it got the message)"
            )
            assert (link.closed_on, link.max_packet_bytes) == (2, 15_004)
            await link.publish_batch(numbered("t", 100), qos=qos)
            await until(lambda: b"99" in inbox.payloads, "the last message, which the answer may overtake")
            assert list(dict.fromkeys(inbox.payloads)) == [b"small", *(b"%d" % i for i in range(100))]
            await link.close()

    run(scenario)


def test_broker_that_restarts_again_and_again_makes_no_message_refused(own: Own) -> None:
    broker = own(servers.Mosquitto())

    async def scenario() -> None:
        async with linked(broker.port, client_id="sender", **KEPT) as sender:
            for number in range(6):
                confirmed = sender.publish_batch(numbered("t", 200))
                await asyncio.to_thread(broker.kill if number % 2 else broker.stop)
                await asyncio.to_thread(broker.start)
                async with asyncio.timeout(30):
                    await confirmed
            assert sender.closed_on == 0

    run(scenario)


@pytest.mark.parametrize("sends_only", [True, False])
def test_client_that_only_sends_begins_with_a_session_of_its_own(unique: str, sends_only: bool) -> None:
    """A QoS 2 message that an earlier run left half taken would swallow a new one with its packet identifier (4.3.3);
    what this run sent must stay known over its own reconnects."""

    async def scenario() -> None:
        async with (
            StubBroker() as broker,
            linked(broker.port, client_id=unique, sends_only=sends_only, **KEPT) as link,
        ):
            cut(link)
            await reconnected(link, 0)
            assert list(broker.clean_starts) == [sends_only, False]

    run(scenario)


def test_close_raises_link_closed_for_what_was_not_confirmed(own: Own) -> None:
    """It once cancelled what it waited for: who awaited a publish seemed to be cancelled himself."""
    broker = own(servers.Mosquitto())

    async def scenario() -> None:
        async with linked(broker.port) as link:
            broker.pause()
            waiting = asyncio.create_task(_publish(link))
            await until(lambda: link.published == 1, "the message on its way")
            await link.close(timeout_s=0.1)
            broker.resume()
            with pytest.raises(LinkClosed, match="link was closed before the broker confirmed"):
                await waiting
            with pytest.raises(LinkClosed, match="link is closing"):
                await link.publish("t", b"")

    async def _publish(link: MqttLink) -> None:
        await link.publish("t", b"")

    run(scenario)


# -- birth, farewell, will ----------------------------------------------------------------------------------------


def own_messages(topic: str) -> dict[str, Publication]:
    return {name: Publication(topic, name.encode()) for name in ("birth", "farewell", "will")}


def test_birth_will_and_farewell_tell_what_became_of_the_client(
    mosquitto: servers.Mosquitto, unique: str
) -> None:
    async def scenario() -> None:
        async with linked(mosquitto.port) as watcher:
            inbox = Inbox(watcher, unique)
            await until(lambda: watcher._client.subscriptions[0].acknowledged, "the subscription")
            async with linked(mosquitto.port, client_id=unique, **own_messages(unique)) as link:
                await inbox.have(1)
                cut(link)
                await inbox.have(3)
            assert await inbox.have(4) == [b"birth", b"will", b"birth", b"farewell"]
        async with linked(mosquitto.port) as late:
            assert await Inbox(late, unique).have(1) == [b"farewell"]

    run(scenario)


def test_client_that_cannot_say_farewell_leaves_its_will(own: Own) -> None:
    """A retained "online" of a gateway that is gone would be a lie."""
    broker = own(servers.Mosquitto())

    async def scenario() -> None:
        async with linked(broker.port, client_id="w") as watcher:
            inbox = Inbox(watcher, "state")
            await until(lambda: watcher._client.subscriptions[0].acknowledged, "the subscription")
            async with linked(broker.port, client_id="c", **own_messages("state")) as link:
                await inbox.have(1)
                broker.pause()
                await link.close(timeout_s=0.1)
            broker.resume()
            got = await inbox.have(2)
            assert got[0] == b"birth"
            assert b"will" in got or b"farewell" in got
            await until(lambda: inbox.payloads[-1] in (b"will", b"farewell"), "what was left")

    run(scenario)


# -- connecting ---------------------------------------------------------------------------------------------------


def test_refused_password_is_named_and_tried_again_until_it_is_right(own: Own, tmp_path: Path) -> None:
    passwords = tmp_path / "passwords"
    set_password(passwords, "other")
    broker = own(servers.Mosquitto(allow_anonymous="false", password_file=str(passwords)))

    async def scenario() -> None:
        async with linked(broker.port, wait=False, username="gw", password="right") as link:
            await until(lambda: link.last_error, "the refusal")
            assert link.last_error == "MQTTConnectError: code 135 (Connection Refused: Not authorized)"
            set_password(passwords, "right")
            os.kill(broker.pid, signal.SIGHUP)
            await until(link.connected.is_set, "the connection")
            await link.publish("t", b"")

    run(scenario)


def set_password(file: Path, password: str) -> None:
    command = [servers.program("mosquitto_passwd", "mosquitto"), "-b", "-c", str(file), "gw", password]
    subprocess.run(command, check=True, capture_output=True)
    file.chmod(0o644)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ca, server (for 127.0.0.1), client and an authority nobody trusts, each `.crt` and `.key`."""
    folder = tmp_path_factory.mktemp("tls")
    openssl(folder, "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=ca -keyout ca.key -out ca.crt")
    openssl(
        folder, "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=other -keyout other.key -out other.crt"
    )
    (folder / "san").write_text("subjectAltName=IP:127.0.0.1")
    for name in ("server", "client"):
        openssl(folder, f"req -newkey rsa:2048 -nodes -subj /CN={name} -keyout {name}.key -out {name}.csr")
        openssl(
            folder,
            f"x509 -req -in {name}.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile san -out {name}.crt",
        )
    return folder


def openssl(folder: Path, arguments: str) -> None:
    if shutil.which("openssl") is None:
        do_without("openssl is not installed: sudo apt-get install openssl")
    subprocess.run(["openssl", *arguments.split()], cwd=folder, check=True, capture_output=True)


def test_tls_with_client_certificate_and_the_refusals(own: Own, certificates: Path) -> None:
    at = {
        name: str(certificates / name)
        for name in ("ca.crt", "server.crt", "server.key", "client.crt", "client.key")
    }
    broker = own(
        servers.Mosquitto(
            cafile=at["ca.crt"],
            certfile=at["server.crt"],
            keyfile=at["server.key"],
            require_certificate="true",
        )
    )

    async def scenario() -> None:
        trusted = tls_context(at["ca.crt"], at["client.crt"], at["client.key"])
        async with linked(broker.port, tls=trusted) as link:
            await link.publish_batch(numbered("t", 2000))
            assert link.confirmed == 2000
        stranger = tls_context(str(certificates / "other.crt"))
        async with linked(broker.port, wait=False, tls=stranger) as link:
            await until(lambda: link.last_error, "the refusal of the server")
            assert "CERTIFICATE_VERIFY_FAILED" in link.last_error
        async with linked(broker.port, wait=False, tls=tls_context(at["ca.crt"])) as link:
            await until(lambda: link.last_error, "the refusal of the client")
            assert not link.connected.is_set()

    run(scenario)


def test_certificate_file_that_is_not_there_is_an_error_at_once(tmp_path: Path) -> None:
    with pytest.raises((OSError, ssl.SSLError)):
        tls_context(str(tmp_path / "none.crt"))


@pytest.mark.parametrize(
    ("refusal", "versions"),
    [(b"\x20\x02\x00\x01", [5, 4]), (b"\x20\x03\x00\x84\x00", [5, 4]), (b"", [5, 5, 4])],
    ids=["CONNACK code 1", "CONNACK 0x84", "closes"],
)
def test_broker_of_mqtt_3_1_1_only_is_spoken_to_in_its_version(refusal: bytes, versions: list[int]) -> None:
    async def scenario() -> None:
        async with StubBroker(refusal) as broker, linked(broker.port) as link:
            await link.publish_batch(numbered("t", 3))
            assert broker.published == [b"0", b"1", b"2"]
            assert list(broker.versions) == versions
            cut(link)
            await reconnected(link, len(versions) - 1)
            known = bool(refusal)
            assert list(broker.versions) == versions + ([4] if known else versions), (
                "a guess counts for one connection"
            )

    run(scenario)


def test_broker_that_closes_all_connections_for_a_while_is_not_taken_for_an_old_one(own: Own) -> None:
    """A proxy in front of a broker that restarts does that; the link once spoke 3.1.1 for ever after."""

    async def scenario() -> None:
        closed = 0

        async def close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal closed
            closed += 1
            writer.close()

        proxy = await asyncio.start_server(close, "127.0.0.1", 0)
        port = proxy.sockets[0].getsockname()[1]
        async with linked(port, wait=False) as link:
            await until(lambda: closed >= 4, "four attempts", 20)
            proxy.close()
            await proxy.wait_closed()
            broker = servers.Mosquitto()
            broker.port = port
            await asyncio.to_thread(own, broker)
            await until(link.connected.is_set, "the connection", 20)
            if link._version.is_5:
                return
            cut(link)
            await reconnected(link, link.reconnects)
            assert link._version.is_5

    run(scenario)


def test_a_broker_that_has_spoken_mqtt_5_is_not_taken_for_an_old_one_after_an_outage(
    mosquitto: servers.Mosquitto,
) -> None:
    """A tunnel whose far end is away takes connections and closes them."""

    async def scenario() -> None:
        relay = Relay("127.0.0.1", mosquitto.port)
        await relay.open()
        async with linked(relay.port) as link:
            relay.cut()
            await until(lambda: link._version._closed_unanswered == 2, "two attempts", 20)
            relay.mend()
            await reconnected(link, 0)
            assert link._version.is_5
        await relay.close()

    run(scenario)


def test_broker_that_says_nothing_more_is_left_although_data_waits_to_be_sent(own: Own) -> None:
    """An orderly close waits for that data, until the kernel gives up after a quarter of an hour."""
    broker = own(servers.Mosquitto(max_inflight_messages="65000"))

    async def scenario() -> None:
        async with linked(broker.port, client_id="c", keepalive_s=5, **KEPT) as link:
            broker.pause()
            confirmed = link.publish_batch(
                [("t", b"x" * 100_000)] * 200
            )  # more than the sockets' buffers hold
            await until(lambda: link.reconnects, "the link to give up", 25)
            assert link.last_error
            broker.resume()
            async with asyncio.timeout(30):
                await confirmed

    run(scenario)


def test_reason_of_a_disconnect_is_named() -> None:
    """Two gateways with one client id throw each other out for ever; somebody must be told."""

    async def scenario() -> None:
        async with (
            StubBroker(disconnect=b"\xe0\x02\x8e\x00") as broker,
            linked(broker.port, wait=False, client_id="twice") as link,
        ):
            Inbox(link, "t")
            await until(lambda: link.last_error, "the reason")
            assert link.last_error == (
                "the broker disconnected with reason code 0x8e (another client came with the same client id): "
                "'twice' is in use twice, give each client an id of its own"
            )

    run(scenario)


def test_clients_that_throw_each_other_out_say_so(
    mosquitto: servers.Mosquitto, unique: str, caplog: pytest.LogCaptureFixture
) -> None:
    """mosquitto before 2.0.15 only closes the connection. They came back five times a second once, for ever."""
    guess = (
        "closed by the broker or the network again and again: "
        f"perhaps another client has the client id {unique!r}"
    )
    told = (
        "the broker disconnected with reason code 0x8e (another client came with the same client id): "
        f"{unique!r} is in use twice, give each client an id of its own"
    )

    async def scenario() -> None:
        options = {"client_id": unique, **KEPT}
        async with linked(mosquitto.port, **options) as first, linked(mosquitto.port, **options) as second:
            links = (first, second)
            await until(lambda: first.taken_over or second.taken_over, "one that knows", 30)
            for link in links:
                confirmed = link.publish_batch(numbered(unique, 200))
                async with asyncio.timeout(40):
                    await confirmed
                assert link.closed_on == 0

    run(scenario)
    errors = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert errors[0].split(" lost: ")[1] in (guess, told)


def test_client_that_was_told_of_another_with_its_id_stays_away_for_longer(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scenario() -> None:
        async with (
            StubBroker(disconnect=b"\xe0\x02\x8e\x00") as taken,
            StubBroker(disconnect=b"\xe0\x02\x89\x00") as busy,
            linked(taken.port, wait=False, client_id="twice") as link,
            linked(busy.port, wait=False) as other,
        ):
            Inbox(link, "t")
            Inbox(other, "t")
            await until(lambda: other.reconnects >= 4, "four back-offs", 20)
            assert (link.taken_over, link.reconnects, link.is_up) == (1, 0, False)
            assert (other.taken_over, other.closed_on) == (0, 0)

    run(scenario)
    assert [record.levelname for record in caplog.records if "in use twice" in record.getMessage()] == [
        "ERROR"
    ]


def test_host_name_that_cannot_be_is_an_error_and_the_link_lives_on() -> None:
    """Any error but a few once ended the supervisor, unseen."""

    async def scenario() -> None:
        async with linked(1, wait=False, host="a" * 70 + ".example") as link:
            await until(lambda: link.reconnects >= 2, "a second attempt")
            assert "UnicodeError" in link.last_error or "gaierror" in link.last_error

    run(scenario)


# -- subscriptions ------------------------------------------------------------------------------------------------


def test_subscription_that_left_the_configuration_is_dropped_from_the_session(
    mosquitto: servers.Mosquitto, unique: str, tmp_path: Path
) -> None:
    memory = tmp_path / "state" / "session.json"
    options = {"client_id": unique, "memory": memory, **KEPT}

    async def scenario() -> None:
        async with linked(mosquitto.port) as sender:
            async with linked(mosquitto.port, **options) as link:
                Inbox(link, f"{unique}/old/ä")
                Inbox(link, f"{unique}/kept")
                await until(
                    lambda: all(s.acknowledged for s in link._client.subscriptions), "the subscriptions"
                )
            assert json.loads(memory.read_text()) == [f"{unique}/kept", f"{unique}/old/ä"]
            link = MqttLink(MqttOptions(port=mosquitto.port, **options))
            inbox = Inbox(link, f"{unique}/kept")
            await link.open()
            await until(
                lambda: json.loads(memory.read_text()) == [f"{unique}/kept"], "the broker's confirmation"
            )
            await sender.publish_batch([(f"{unique}/old/ä", b"old"), (f"{unique}/kept", b"kept")])
            assert await inbox.have(1) == [b"kept"]
            assert (link.unrouted, link.reconnects) == (0, 0)
            await link.close()

    run(scenario)


def test_refused_subscription_is_named(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        async with StubBroker(granted=0x87) as broker, linked(broker.port) as link:
            Inbox(link, "secret/#")
            await until(lambda: link.refused_subscriptions, "the refusal")
            assert link.refused_subscriptions == {"secret/#": 0x87}

    run(scenario)
    assert (
        "the broker refused the subscription to secret/# with reason code 0x87 (not authorized)"
        in caplog.text
    )


def test_more_subscriptions_than_the_broker_has_window_are_no_trouble(own: Own) -> None:
    """gmqtt's identifiers end at the Receive Maximum of the broker; mosquitto's default is 20."""
    broker = own(servers.Mosquitto(max_inflight_messages="3"))

    async def scenario() -> None:
        link = MqttLink(MqttOptions(port=broker.port))
        boxes = [Inbox(link, f"t/{i}") for i in range(30)]
        await link.open()
        await until(lambda: link._client and len(link._client.subscriptions) == 30, "the subscriptions")
        await link.publish_batch([(f"t/{i}", b"") for i in range(30)])
        await until(lambda: all(box.msgs for box in boxes), "a message on each")
        await link.close()

    run(scenario)


def test_client_id_and_topics_may_be_of_any_language(mosquitto: servers.Mosquitto, unique: str) -> None:
    async def scenario() -> None:
        async with linked(mosquitto.port, client_id=f"{unique}-Gerät-電池", **KEPT) as link:
            inbox = Inbox(link, f"{unique}/電池/+")
            await until(lambda: link._client.subscriptions[0].acknowledged, "the subscription")
            await link.publish(f"{unique}/電池/ä", "ü".encode())
            assert await inbox.have(1) == ["ü".encode()]
            link.unsubscribe(f"{unique}/電池/+")
            await link.publish(f"{unique}/電池/ä", b"")
            assert link.reconnects == 0

    run(scenario)


def test_receivers_of_one_filter_all_get_a_message_and_all_must_acknowledge_it(
    mosquitto: servers.Mosquitto, unique: str
) -> None:
    async def scenario() -> None:
        async with linked(mosquitto.port, client_id=unique, **KEPT) as link, linked(mosquitto.port) as sender:
            first = Inbox(link, unique, 0, acknowledge=False)
            second = Inbox(link, unique, 1, acknowledge=False)
            await until(lambda: all(s.acknowledged for s in link._client.subscriptions), "the subscription")
            await sender.publish_batch(numbered(unique, 3))
            assert await first.have(3) == await second.have(3) == [b"0", b"1", b"2"]
            link.acknowledge(first.deliveries)
            link.acknowledge(second.deliveries[:1])
            await sender.publish(unique, b"3")
            await first.have(4)
            cut(link)
            await reconnected(link, 0)
            assert (await first.have(7))[4:] == [b"1", b"2", b"3"]

    run(scenario)


# -- receivers that come and go, sessions that are handed over ------------------------------------------------------


async def subscribed(link: MqttLink) -> None:
    def ready() -> bool:
        client = link._client
        return bool(client and client.subscriptions and all(s.acknowledged for s in client.subscriptions))

    await until(ready, "the subscriptions")


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_message_that_two_filters_have_comes_to_each_receiver_once(
    mosquitto: servers.Mosquitto, unique: str, qos: int
) -> None:
    """mosquitto sends it for each subscription. The same message published again is another one."""

    async def scenario() -> None:
        async with linked(mosquitto.port, client_id=unique, **KEPT) as link, linked(mosquitto.port) as sender:
            first, second = Inbox(link, f"{unique}/+", qos), Inbox(link, f"{unique}/#", qos)
            await subscribed(link)
            for payload in (b"1", b"1", b"2", b"1"):
                await sender.publish(f"{unique}/a", payload, qos=qos)
            await sender.publish(f"{unique}/a/b", b"3", qos=qos)
            assert await second.have(5) == [b"1", b"1", b"2", b"1", b"3"]
            assert first.payloads == [b"1", b"1", b"2", b"1"]
            await until(lambda: not link._inbound._unacked, "all acknowledgements")
            assert first.msgs[0].props.keys() == {"qos", "retain"}
            assert link.received == 5

    run(scenario)


def test_filters_may_change_under_traffic_without_a_message_lost_or_doubled(
    mosquitto: servers.Mosquitto, unique: str
) -> None:
    async def scenario() -> None:
        async with linked(mosquitto.port, client_id=unique, **KEPT) as link, linked(mosquitto.port) as sender:
            got: list[bytes] = []
            newest: list[Receiver] = []

            def make() -> Receiver:
                def receive(msg: Msg, delivery: Delivery | None) -> None:
                    if newest[-1] is receive:
                        got.append(msg.payload)
                    link.acknowledge([delivery] if delivery else [])

                return receive

            topic_filter = itertools.cycle([f"{unique}/+", f"{unique}/#"])
            old = next(topic_filter)
            newest.append(make())
            link.subscribe(old, 1, newest[0])
            await subscribed(link)
            sent = []
            for number in range(600):
                sent.append(sender.publish(f"{unique}/a", b"%d" % (number // 2)))  # each twice
                if number % 20 == 0:
                    new, receiver = next(topic_filter), make()
                    link.subscribe(new, 1, receiver)
                    newest.append(receiver)
                    link.release(old, newest[-2])
                    old = new
                await asyncio.sleep(0)
            await asyncio.gather(*sent)
            await until(lambda: len(got) >= 600, "all messages")
            assert got == [b"%d" % (number // 2) for number in range(600)]
            assert link.unrouted == 0

    run(scenario)


def test_subscription_ends_with_its_last_receiver_and_has_the_qos_of_those_that_are_left(
    mosquitto: servers.Mosquitto, unique: str, tmp_path: Path
) -> None:
    async def scenario() -> None:
        memory = tmp_path / "session.json"
        async with (
            linked(mosquitto.port, client_id=unique, memory=memory, **KEPT) as link,
            linked(mosquitto.port) as sender,
        ):
            await sender.publish(f"{unique}/a", b"retained", retain=True)
            low, high = Inbox(link, f"{unique}/a", 0), Inbox(link, f"{unique}/a", 1)
            assert await low.have(1) == await high.have(1) == [b"retained"]
            await subscribed(link)
            link.release(f"{unique}/a", high._receive)
            await subscribed(link)
            await sender.publish(f"{unique}/a", b"1")
            assert await low.have(2) == [b"retained", b"1"]
            assert (low.deliveries, high.payloads) == ([None, None] if low.deliveries[0] is None else
                                                       [low.deliveries[0], None], [b"retained"])  # fmt: skip
            link.release(f"{unique}/a", low._receive)
            await until(lambda: memory.read_text() == "[]", "the session without it")
            await sender.publish(f"{unique}/a", b"2")
            assert (link.unrouted, link.subscriptions) == (0, set())
            await sender.publish(f"{unique}/a", b"", retain=True)

    run(scenario)


def test_link_that_is_held_takes_nothing_and_leaves_it_to_the_next_of_its_session(
    mosquitto: servers.Mosquitto, unique: str
) -> None:
    async def scenario() -> None:
        async with linked(mosquitto.port) as sender:
            async with linked(mosquitto.port, client_id=unique, **KEPT) as link:
                inbox = Inbox(link, unique, acknowledge=False)
                await subscribed(link)
                await sender.publish(unique, b"1")
                await inbox.have(1)
                following = MqttLink(MqttOptions(port=mosquitto.port, client_id=unique, **KEPT))
                link.hold(following)
                await sender.publish(unique, b"2")
                link.acknowledge([delivery for delivery in inbox.deliveries if delivery])
                link.release(unique, inbox._receive)
                await sender.publish(unique, b"3")
            next_inbox = Inbox(following, unique)
            await following.open()
            assert await next_inbox.have(2) == [b"2", b"3"]
            assert inbox.payloads == [b"1"]
            await following.close()

    run(scenario)


def test_link_that_was_held_in_vain_has_the_broker_send_again_what_it_did_not_take(
    mosquitto: servers.Mosquitto, unique: str
) -> None:
    async def scenario() -> None:
        async with linked(mosquitto.port) as sender, linked(mosquitto.port, client_id=unique, **KEPT) as link:
            inbox = Inbox(link, unique)
            await subscribed(link)
            await sender.publish(unique, b"1")
            await inbox.have(1)
            link.hold(MqttLink(MqttOptions(port=mosquitto.port, client_id=unique, **KEPT)))
            await sender.publish(unique, b"2")
            cut(link)
            await until(lambda: not link.connected.is_set(), "the end of the connection")
            assert link.held
            link.go_on()
            await sender.publish(unique, b"3")
            assert await inbox.have(3) == [b"1", b"2", b"3"]

    run(scenario)


# -- subscribers that are not there ---------------------------------------------------------------------------------


@pytest.mark.parametrize("qos", [1, 2])
def test_publisher_that_is_back_before_a_persistent_subscription_loses_nothing(own: Own, qos: int) -> None:
    broker = own(servers.Mosquitto())

    async def scenario() -> None:
        async with linked(broker.port, client_id="sender", **KEPT) as sender:
            async with linked(broker.port, client_id="bridge", **KEPT) as link:
                Inbox(link, "ev/+", 2)
                await until(lambda: link._client.subscriptions[0].acknowledged, "the subscription")
            before = sender.reconnects
            await asyncio.to_thread(broker.restart)
            await reconnected(sender, before)
            await sender.publish_batch(numbered("ev/a", 200), qos=qos)
            assert sender.without_subscriber == 0
            link = MqttLink(MqttOptions(port=broker.port, client_id="bridge", **KEPT))
            inbox = Inbox(link, "ev/+", 2)
            await link.open()
            assert await inbox.have(200) == [payload for _, payload in numbered("ev/a", 200)]
            await link.close()

    run(scenario)


def test_message_without_a_subscriber_is_counted_and_said_once(
    mosquitto: servers.Mosquitto, unique: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")

    async def scenario() -> None:
        async with linked(mosquitto.port) as sender, linked(mosquitto.port) as link:
            await sender.publish(
                f"{unique}/state", b"{}", retain=True
            )  # for whoever comes later: nothing to say
            await sender.publish_batch(numbered(unique, 3))
            with pytest.raises(PublishRefused) as raised:
                await sender.publish_batch(numbered(unique, 2), needs_subscriber=True)
            assert raised.value.refused == [(0, 0x10), (1, 0x10)]
            assert sender.without_subscriber == 6
            inbox = Inbox(link, unique)
            await until(lambda: link._client.subscriptions[0].acknowledged, "the subscription")
            await sender.publish_batch(numbered(unique, 2), needs_subscriber=True)
            assert await inbox.have(2) == [b"0", b"1"]

    run(scenario)
    assert [record.getMessage() for record in caplog.records if "subscri" in record.getMessage()] == [
        f"link: nobody subscribes to what is published, the first topic is {unique}",
        "link: what is published has subscribers again",
    ]


def test_after_a_reconnect_one_message_that_was_heard_ends_the_wait_for_subscribers(
    own: Own, unique: str
) -> None:
    """A topic that nobody ever wants must not hold up the others for a minute."""
    broker = own(servers.Mosquitto())

    async def scenario() -> None:
        async with linked(broker.port) as sender, linked(broker.port) as link:
            inbox = Inbox(link, unique)
            await until(lambda: link._client.subscriptions[0].acknowledged, "the subscription")
            await sender.publish_batch(numbered(unique, 1), patient=True)
            cut(sender)
            await reconnected(sender, 0)
            with pytest.raises(PublishRefused):
                await sender.publish_batch(numbered(f"{unique}/unwanted", 2), patient=True)
            await sender.publish_batch(numbered(unique, 1), patient=True)
            await sender.publish_batch(numbered(f"{unique}/unwanted", 2), patient=True)
            assert await inbox.have(2) == [b"0", b"0"]

    run(scenario)


@pytest.mark.parametrize("heard", [True, False], ids=["heard before", "never heard"])
def test_after_a_broker_forgot_its_subscribers_a_patient_batch_is_held_until_they_are_back(
    own: Own, unique: str, heard: bool
) -> None:
    broker = own(servers.Mosquitto())

    async def scenario() -> None:
        async with linked(broker.port) as sender:
            async with linked(broker.port) as link:
                if heard:
                    inbox = Inbox(link, unique)
                    await until(lambda: link._client.subscriptions[0].acknowledged, "the subscription")
                await sender.publish_batch(numbered(unique, 2), patient=True)
            before = sender.reconnects
            await asyncio.to_thread(broker.kill)
            await asyncio.to_thread(broker.start)
            await reconnected(sender, before)
            if not heard:
                await sender.publish_batch(numbered(unique, 2), patient=True)
                return
            with pytest.raises(PublishRefused) as raised:
                await sender.publish_batch(numbered(unique, 2), patient=True)
            assert raised.value.refused == [(0, 0x10), (1, 0x10)]
            async with linked(broker.port) as link:
                inbox = Inbox(link, unique)
                await until(lambda: link._client.subscriptions[0].acknowledged, "the subscription")
                await sender.publish_batch(numbered(unique, 2), patient=True)
                assert await inbox.have(2) == [b"0", b"1"]

    run(scenario)


def test_session_that_the_broker_forgot_is_counted_and_said(
    own: Own, caplog: pytest.LogCaptureFixture
) -> None:
    broker = own(servers.Mosquitto(persistence="false"))

    async def scenario() -> None:
        async with linked(broker.port, client_id="kept", **KEPT) as kept, linked(broker.port) as kept_too:
            cut(kept)
            await reconnected(kept, 0)
            assert kept.sessions_lost == 0
            before = kept.reconnects
            await asyncio.to_thread(broker.restart)
            await reconnected(kept, before)
            await until(lambda: kept.sessions_lost == 1, "the count")
            await until(kept_too.connected.is_set, "the other", 20)

    run(scenario)
    assert "has forgotten the session: what it kept for this client is lost" in caplog.text


# -- the log --------------------------------------------------------------------------------------------------------


def test_broker_that_stays_away_is_said_once_and_its_return_with_the_attempts(
    own: Own, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "voltflow.mqtt")
    broker = own(servers.Mosquitto())

    async def scenario() -> None:
        async with linked(broker.port, clean_start=True) as link:
            await asyncio.to_thread(broker.kill)
            await until(lambda: link.reconnects >= 4, "some attempts", 20)
            await asyncio.to_thread(broker.start)
            await until(link.connected.is_set, "the connection", 20)

    run(scenario)
    said = [record.getMessage() for record in caplog.records if record.name == "voltflow.mqtt"]
    assert [text.split(":")[1].split(" to ")[0].strip() for text in said] == [
        "connected", "connection", "cannot connect", "connected",
    ]  # fmt: skip
    assert said[1].endswith("lost: closed by the broker or the network")
    assert "failed attempt(s)" in said[3]
