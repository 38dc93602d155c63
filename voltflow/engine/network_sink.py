"""What every sink that writes over a network has: the options of its spool."""

from __future__ import annotations

from dataclasses import dataclass

from voltflow.message import Msg, encode_payload
from voltflow.node import Sink, config

REPLAYED = "replayed"
"""The property of a message that comes out of a spool: its payload is what `to_spool` gave."""


@dataclass(kw_only=True, eq=False)
class NetworkSink(Sink):
    """A sink whose far side may be away. With `spool` on, what it does not take in time waits on disk."""

    spool: bool = config(False, help="keep on disk what the far side does not take in time", advanced=True)
    spoolAfter: float = config(
        5.0, help="how long the far side may take before a batch goes to disk", unit="s", low=0.1, high=3600,
        advanced=True,
    )  # fmt: skip
    spoolMaxMb: float = config(
        1000.0, help="telemetry on disk at most; beyond it thinned, then the oldest dropped", unit="MB", low=0.1,
        high=1e6, advanced=True,
    )  # fmt: skip
    spoolMaxAgeH: float = config(
        168.0, help="telemetry on disk is kept so long", unit="h", low=0.01, high=1e5, advanced=True
    )
    spoolProtectedMb: float = config(
        100.0, help="alerts, dead letters and the like on disk; never dropped, beyond it the flow waits", unit="MB",
        low=0.1, high=1e6, advanced=True,
    )  # fmt: skip
    drainShare: float = config(
        0.3, help="share of the far side's time that the backlog may use", low=0.01, high=1, advanced=True
    )

    def to_spool(self, msg: Msg) -> tuple[str, bytes] | None:
        """Topic and bytes to keep of a message; None where nothing is to be written. Raises where it cannot be.

        The message comes back to `write` with these bytes as payload and the property REPLAYED.
        """
        return msg.topic, encode_payload(msg.payload)

    def forget(self, msgs: list[Msg]) -> None:
        """A batch that `write` did not get through is safe on disk: this list will not be written again."""

    def trouble(self) -> str:
        """Why the far side may not answer, as far as the sink knows now; empty: it does not."""
        return ""
