"""Who may do what at the brokers of an installation, and mosquitto's files of it: passwords and rights (`acl_file`)."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from voltflow import topics

ITERATIONS: Final = 101
"""What mosquitto_passwd takes. More of them would protect passwords that people choose; these are random."""
_SALT_BYTES: Final = 12

_UP: Final = (topics.TWIN, topics.ALERT, topics.DEAD, topics.LOSS, topics.STATE, topics.DTC)
"""What gateways send to the cloud."""


class Right(NamedTuple):
    """May `read`, `write` or `readwrite` what the filter matches."""

    how: str
    topic: str


_DOCTOR: Final = Right("readwrite", topics.DOCTOR_FILTER)
"""With it `voltflow doctor` can ask for the other rights without anybody hearing of it."""


def of_device(fleet: str, pack: str) -> list[Right]:
    """A battery management system speaks for itself only."""
    sends = [Right("write", kind.of(fleet, pack)) for kind in (topics.TELEMETRY, topics.CELLS, topics.STATE)]
    return [*sends, Right("read", topics.CMD.of(fleet, pack))]


def of_simulator() -> list[Right]:
    """It is many devices, of any fleet, and says what a device does not know."""
    sends = [Right("write", kind.filter) for kind in (topics.TELEMETRY, topics.CELLS, topics.STATE)]
    return [*sends, Right("write", topics.truth("+", "+")), Right("read", topics.CMD.filter)]


def of_gateway(gateway: str) -> list[Right]:
    """At the cloud's broker."""
    sends = [Right("write", kind.filter) for kind in _UP]
    own = [Right("write", topics.gateway_state(gateway)), Right("read", topics.gateway_down(gateway))]
    return [*sends, *own, _DOCTOR]


def of_agent() -> list[Right]:
    """At its own broker everything: what its flow publishes is its author's affair."""
    return [Right("readwrite", "#")]


def of_bridge() -> list[Right]:
    """At the cloud's broker: it stores, publishes dead letters and requests, and says whether it is there."""
    reads = [Right("read", kind.filter) for kind in _UP]
    own = [Right("readwrite", topics.BRIDGES_FILTER), Right("write", topics.gateway_down("+"))]
    return [
        *reads,
        *own,
        Right("read", topics.gateway_state("+")),
        Right("write", topics.DEAD.filter),
        _DOCTOR,
    ]


def of_health_check() -> list[Right]:
    """It reads how long the broker has been up."""
    return [Right("read", "$SYS/broker/uptime")]


def acl_file(rights: Mapping[str, Sequence[Right]]) -> str:
    """mosquitto's `acl_file`: what is not listed is not allowed.

    >>> print(acl_file({"meter": [Right("write", "a/b")]}), end="")
    # Made by `voltflow secrets`, which makes it anew.
    <BLANKLINE>
    user meter
    topic write a/b
    """
    parts = ["# Made by `voltflow secrets`, which makes it anew."]
    for user, allowed in rights.items():
        parts += ["", f"user {user}", *(f"topic {right.how} {right.topic}" for right in allowed)]
    return "\n".join(parts) + "\n"


def password_file(passwords: Mapping[str, str], known: str = "") -> str:
    """mosquitto's `password_file`, PBKDF2 with SHA-512; users whose line in `known` still fits keep it."""
    old = dict(line.split(":", 1) for line in known.splitlines() if ":" in line)
    lines = []
    for user, password in passwords.items():
        entry = old.get(user, "")
        lines.append(f"{user}:{entry if fits(password, entry) else hashed(password)}")
    return "\n".join(lines) + "\n"


def hashed(password: str) -> str:
    """A password as mosquitto keeps it.

    >>> fits("right", hashed("right")), fits("wrong", hashed("right"))
    (True, False)
    """
    salt = secrets.token_bytes(_SALT_BYTES)
    digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, ITERATIONS)
    return f"$7${ITERATIONS}${base64.b64encode(salt).decode()}${base64.b64encode(digest).decode()}"


def fits(password: str, entry: str) -> bool:
    """Whether an entry of a password file is this password's."""
    try:
        _, kind, iterations, salt, digest = entry.split("$")
        found = hashlib.pbkdf2_hmac("sha512", password.encode(), base64.b64decode(salt), int(iterations))
        return kind == "7" and hmac.compare_digest(found, base64.b64decode(digest))
    except ValueError:
        return False
