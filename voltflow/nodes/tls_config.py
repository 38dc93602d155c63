"""The `tls-config` config node: certificates for an encrypted connection."""

from __future__ import annotations

import ssl

from voltflow.mqtt.link import tls_context
from voltflow.node import ConfigNode, config, node


@node("tls-config", category="config", color="#d8bfd8", icon="font-awesome/fa-lock")
class TlsConfig(ConfigNode):
    """Certificate files for TLS. Without `ca` the system's authorities are trusted."""

    ca: str = config("", help="file with the authorities to trust (PEM)")
    cert: str = config("", help="file with this client's certificate (PEM)")
    key: str = config("", help="file with its private key (PEM)")
    verifyservercert: bool = config(True, help="refuse a server whose certificate does not fit")

    def context(self) -> ssl.SSLContext:
        """The TLS context; raises OSError or ssl.SSLError where a file cannot be read."""
        return tls_context(self.ca, self.cert, self.key, verify=self.verifyservercert)
