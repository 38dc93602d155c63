"""What the Kafka nodes share: how to reach the brokers, the names of the topics, and a producer that confirms."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from voltflow.node import ConfigError, Node, config

if TYPE_CHECKING:
    from kafka import KafkaProducer

log = logging.getLogger(__name__)

Headers = list[tuple[str, bytes]]

KINDS = ("twin", "alert", "dead", "loss", "state")
"""The kinds of messages that have a Kafka topic: the last level of their MQTT topic."""

MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")


@dataclass(kw_only=True, eq=False)
class KafkaNode(Node):
    """A node that talks to Kafka: the settings of the connection, and the topics."""

    bootstrap: str = config(help="brokers, separated by commas", example="kafka-1:9092,kafka-2:9092")
    topic_twin: str = config("ev.twin", help="Kafka topic of readings with predictions; empty: none")
    topic_alert: str = config("ev.alert", help="Kafka topic of alerts; empty: none")
    topic_dead: str = config("ev.dead", help="Kafka topic of dead letters; empty: none")
    topic_loss: str = config("ev.loss", help="Kafka topic of losses; empty: none")
    topic_state: str = config("ev.state", help="Kafka topic of nameplates; empty: none")
    security: str = config(
        "plaintext", help="how the brokers are reached: encrypted, with a login, both",
        choices=("plaintext", "ssl", "sasl_plaintext", "sasl_ssl"),
    )  # fmt: skip
    ca: str = config("", help="file with the authorities to trust (PEM); empty: the system's", advanced=True)
    cert: str = config("", help="file with the client's certificate (PEM); empty: none", advanced=True)
    key: str = config("", help="file with the key of the certificate (PEM); empty: none", advanced=True)
    sasl_mechanism: str = config("SCRAM-SHA-512", help="how the login is proved", choices=MECHANISMS)
    user: str = config("", help="user of the login")
    password: str = config("", help="password of the login", secret=True)

    def __post_init__(self) -> None:
        if not self.bootstrap.strip(" ,"):
            raise ConfigError('property "bootstrap" is empty: set the brokers, for instance kafka-1:9092')
        if self.security.startswith("sasl") and not self.user:
            raise ConfigError(
                f'property "user" is empty: security = {self.security} needs a user and password'
            )

    @property
    def topics(self) -> dict[str, str]:
        """The Kafka topic of each kind that has one."""
        names = {kind: str(getattr(self, f"topic_{kind}")) for kind in KINDS}
        return {kind: name for kind, name in names.items() if name}

    def client_options(self, client_id: str) -> dict[str, Any]:
        """The options of a producer or consumer that say how to reach the brokers. Reads the certificates."""
        options: dict[str, Any] = {
            "bootstrap_servers": [part.strip() for part in self.bootstrap.split(",") if part.strip()],
            "client_id": client_id,
            "security_protocol": self.security.upper(),
            "reconnect_backoff_max_ms": 1000,
        }
        if self.security.endswith("ssl"):
            options["ssl_context"] = self._tls()
        if self.security.startswith("sasl"):
            options |= {"sasl_mechanism": self.sasl_mechanism, "sasl_plain_username": self.user,
                        "sasl_plain_password": self.password}  # fmt: skip
        return options

    def _tls(self) -> Any:
        from voltflow.mqtt.options import tls_context

        try:
            return tls_context(self.ca, self.cert, self.key)
        except OSError as error:  # a missing file, or one that is no certificate (ssl.SSLError)
            raise ConfigError(f'properties "ca", "cert" and "key" cannot be used: {error}') from None


class Outgoing(NamedTuple):
    """A record to send; `key` says the partition."""

    topic: str
    key: bytes
    value: bytes
    headers: Headers


class KafkaUnavailableError(Exception):
    """No confirmation for some records; what was confirmed is in `confirmed` by its place in the list."""

    def __init__(self, text: str, confirmed: list[int]) -> None:
        super().__init__(text)
        self.confirmed = confirmed


class ConfirmedProducer:
    """Sends records and returns when all in-sync replicas have them; for one thread, only `give_up` is for any.

    A record may be in its topic twice only after the program crashed, or after it gave up on the brokers
    (`timeout_s`) although they had the record. Records of one key keep their order.
    """

    def __init__(self, options: dict[str, Any], *, timeout_s: float, linger_ms: int, max_bytes: int) -> None:
        timeout_ms = int(timeout_s * 1000)
        self._timeout_s = timeout_s
        self._options = options | {
            "acks": "all", "enable_idempotence": True, "linger_ms": linger_ms, "max_request_size": max_bytes,
            "bootstrap_timeout_ms": timeout_ms, "max_block_ms": timeout_ms, "delivery_timeout_ms": timeout_ms,
            "request_timeout_ms": max(500, timeout_ms // 2),
        }  # fmt: skip
        self._producer: KafkaProducer | None = None
        self._given_up = threading.Event()

    @property
    def connected(self) -> bool:
        return self._producer is not None

    def give_up(self) -> None:
        """Wait for no confirmation any more; from any thread."""
        self._given_up.set()

    def send(self, records: Iterable[Outgoing]) -> dict[int, str]:
        """Send in order, wait for all; the reasons of those the brokers refuse for good, by their place.

        Raises KafkaUnavailableError. Nothing is under way afterwards, so the rest can be sent again.
        """
        from kafka.errors import KafkaError

        refused: dict[int, str] = {}
        failure: Exception | None = None
        pending: list[Any] = []
        try:
            for record in records:
                producer = self._connected()
                future = producer.send(
                    record.topic, key=record.key, value=record.value, headers=record.headers
                )
                pending.append(future)
        except (KafkaError, OSError, ValueError) as error:
            failure = error  # no more of them now, but what was sent before may arrive
        confirmed, failure = self._collect(pending, refused, failure)
        if failure is not None:
            self.close()
            raise KafkaUnavailableError(f"{type(failure).__name__}: {failure}", confirmed)
        return refused

    def _collect(
        self, pending: list[Any], refused: dict[int, str], failure: Exception | None
    ) -> tuple[list[int], Exception | None]:
        from kafka.errors import (
            InvalidRecordError,
            KafkaError,
            MessageSizeTooLargeError,
            PolicyViolationError,
        )

        confirmed: list[int] = []
        deadline = time.monotonic() + self._timeout_s + 2  # by then the producer itself has given up
        for place, future in enumerate(pending):
            try:
                self._wait(future, deadline)
                confirmed.append(place)
            except (InvalidRecordError, MessageSizeTooLargeError, PolicyViolationError) as error:
                refused[place] = f"kafka refused it: {type(error).__name__}: {error}"
            except KafkaError as error:
                if failure is None:
                    self.close()  # at once: what follows of the same key must not arrive before this one
                failure = failure or error
        return confirmed, failure

    def _wait(self, future: Any, deadline: float) -> None:
        from kafka.errors import KafkaTimeoutError

        while not future.is_done:
            if self._given_up.is_set() or time.monotonic() > deadline:
                raise KafkaTimeoutError("no confirmation from the broker")
            with contextlib.suppress(KafkaTimeoutError):
                future.get(timeout=0.2)
        future.get()

    def _connected(self) -> KafkaProducer:
        if self._producer is None:
            from kafka import KafkaProducer

            self._producer = KafkaProducer(**self._options)
            log.info("kafka: connected to %s", ",".join(self._options["bootstrap_servers"]))
        return self._producer

    def close(self) -> None:
        """End the producer and what it still holds. Its `close` flushes first and gives up, still sending, while
        something is pending (kafka-python 3.0), and then only its sender can be told."""
        from kafka.errors import KafkaError

        producer, self._producer = self._producer, None
        if producer is None:
            return
        try:
            producer.close(timeout=1)
        except KafkaError:
            producer._sender.force_close()
            producer._sender.join(5)
