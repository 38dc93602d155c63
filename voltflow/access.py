"""Who may ask an HTTP server of this machine: a token, or only programs of the machine itself."""

from __future__ import annotations

import hmac
import ipaddress
import socket
from urllib.parse import urlsplit

from voltflow.settings import SettingsError

MIN_TOKEN_LENGTH = 16


def address_of(host: str, port: int) -> tuple[socket.AddressFamily, str]:
    """Family and address to listen on for a host's name, IPv4 first; raises OSError where it has none.

    >>> address_of("127.0.0.1", 80)[1]
    '127.0.0.1'
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, _, _, _, address = min(found, key=lambda item: item[0] != socket.AF_INET)
    return family, str(address[0])


def is_loopback(address: str) -> bool:
    """Whether only programs of this machine reach an address.

    >>> [is_loopback(address) for address in ("127.0.0.1", "::1", "0.0.0.0", "192.0.2.7", "fe80::1%eth0")]
    [True, True, False, False, False]
    """
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback


def require_token(section: str, host: str, address: str, token: str, setting: str) -> None:
    """Raise SettingsError where a server would answer other machines without a token, or with one that is too short.

    `section` is the beginning of the settings' names (`metrics` of `metrics_host`), `setting` the token's name.
    """
    if token and len(token) < MIN_TOKEN_LENGTH:
        raise SettingsError(
            f"{setting} has {len(token)} characters, at least {MIN_TOKEN_LENGTH} are needed; "
            "`openssl rand -hex 16` makes one"
        )
    if not token and not is_loopback(address):
        raise SettingsError(
            f"{section}_host = '{host}' is reachable from other machines and {setting} is not set: set {setting} "
            f"(or {setting}_file), or {section}_host to 127.0.0.1"
        )


def refusal(token: str, authorization: str, host: str) -> tuple[int, str] | None:
    """Status and reason for who may not ask, by the headers Authorization and Host; None for who may.

    Without a token, Host must not be a name that a foreign web page can have (DNS rebinding).

    >>> refusal("", "", "localhost:9092") is refusal("t0p", "Bearer t0p", "gw.example") is None
    True
    >>> [refusal("", "", "evil.example")[0], refusal("t0p", "Bearer no", "localhost")[0]]
    [421, 401]
    """
    if not token:
        if is_local_name(host):
            return None
        return 421, "without a token only localhost and addresses are answered to"
    if hmac.compare_digest(authorization.encode("latin-1", "replace"), f"Bearer {token}".encode()):
        return None
    return 401, "send the header Authorization: Bearer TOKEN"


def is_local_name(host: str) -> bool:
    """Whether a Host header names this machine or is an address.

    >>> [is_local_name(host) for host in ("localhost:5002", "[::1]:5002", "127.0.0.1", "evil.example", "")]
    [True, True, True, False, False]
    """
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
