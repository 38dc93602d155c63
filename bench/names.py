"""How the load's packs and messages are named: fixed widths, so that a sink finds them without parsing."""

from __future__ import annotations

FLEET = "bench"
FIRST_SEQ = 1_000_000
"""Round 0 of a load; seven digits, so that no number of a message changes its width."""
BOOT = 1_000_001
PROBE_SEQ = 0
"""Messages that only ask whether the system under test works yet."""
OUT_TOPIC = "bench/out"
"""Where the trivial systems publish to."""


def pack_name(pack: int) -> str:
    """>>> pack_name(7)
    'B00007'
    """
    return f"B{pack:05d}"


def telemetry_topic(pack: int) -> str:
    return f"ev/v1/{FLEET}/{pack_name(pack)}/telemetry"


def state_topic(pack: int) -> str:
    return f"ev/v1/{FLEET}/{pack_name(pack)}/state"


def head(pack: int) -> bytes:
    """The beginning of a message, up to the sequence number."""
    return f'{{"schema":"bms.telemetry/1","pack":"{pack_name(pack)}","boot":{BOOT},"seq":'.encode()
