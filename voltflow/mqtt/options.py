"""How to reach a broker and as whom, and what the client says of itself there."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from pathlib import Path

NEVER_EXPIRES_S = 0xFFFFFFFF


@dataclass(frozen=True)
class Publication:
    """A message the client sends by itself: birth, farewell, last will."""

    topic: str
    payload: bytes
    qos: int = 1
    retain: bool = True


@dataclass(frozen=True)
class MqttOptions:
    """How to reach a broker and as whom."""

    host: str = "127.0.0.1"
    port: int = 1883
    client_id: str = ""
    username: str = ""
    password: str = field(default="", repr=False)
    tls: ssl.SSLContext | None = None
    keepalive_s: int = 30
    clean_start: bool = False
    session_expiry_s: int = NEVER_EXPIRES_S
    receive_maximum: int = 1000
    sends_only: bool = False
    """Nothing is subscribed: what the broker keeps for this client from an earlier run is forgotten at the first connect."""
    birth: Publication | None = None
    will: Publication | None = None
    farewell: Publication | None = None
    memory: Path | None = None
    """File that remembers the session's subscriptions over restarts, so that those no longer wanted are dropped."""

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    @property
    def persistent(self) -> bool:
        """Whether the broker is to keep the session while the client is away."""
        return not self.clean_start and self.session_expiry_s > 0


def tls_context(ca: str = "", cert: str = "", key: str = "", *, verify: bool = True) -> ssl.SSLContext:
    """A TLS context: the system's authorities or the file `ca`; `cert` and `key` for a client certificate."""
    context = ssl.create_default_context(cafile=ca or None)
    if cert:
        context.load_cert_chain(cert, key or None)
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
