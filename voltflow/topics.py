"""Every MQTT topic of Voltflow, in one place.

>>> TELEMETRY.of("demo", "SIM000001")
'ev/v1/demo/SIM000001/telemetry'
>>> TELEMETRY.filter
'ev/v1/+/+/telemetry'
>>> parse("ev/v1/demo/SIM000001/telemetry")
PackTopic(fleet='demo', pack='SIM000001', kind='telemetry')
>>> parse("ev/v1/demo/a b/telemetry") is None
True
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

NAME_PATTERN = "[A-Za-z0-9_-]{1,64}"
_NAME = re.compile(NAME_PATTERN)
_PACK_TOPIC = re.compile(f"ev/v1/({NAME_PATTERN})/({NAME_PATTERN})/([a-z]+)")


class PackTopic(NamedTuple):
    """The parts of `ev/v1/{fleet}/{pack}/{kind}`."""

    fleet: str
    pack: str
    kind: str

    def sibling(self, kind: str) -> str:
        """The topic of another kind of the same pack."""
        return f"ev/v1/{self.fleet}/{self.pack}/{kind}"


class _PackKind:
    """One row of the topic table: a kind of message of a pack."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.filter = f"ev/v1/+/+/{kind}"

    def of(self, fleet: str, pack: str) -> str:
        return f"ev/v1/{fleet}/{pack}/{self.kind}"


TELEMETRY = _PackKind("telemetry")  # device -> edge, bms.telemetry/1
CELLS = _PackKind("cells")  # device -> edge, bms.cells/1
STATE = _PackKind("state")  # device -> all, retained: birth with the nameplate, last will
CMD = _PackKind("cmd")  # edge -> device
TWIN = _PackKind("twin")  # edge -> cloud, twin.prediction/1
ALERT = _PackKind("alert")  # edge -> cloud, alert/1
DEAD = _PackKind("dead")  # edge -> cloud, dead/1
LOSS = _PackKind("loss")  # edge -> cloud, loss/1
DTC = _PackKind("dtc")  # of the dtc node: trouble codes that appear or are gone; published where a flow does


def truth(fleet: str, pack: str) -> str:
    """The simulator's hidden state, for scoring; never subscribed by the agent."""
    return f"sim/v1/{fleet}/{pack}/truth"


def gateway_state(gateway: str) -> str:
    """Retained health and versions of a gateway; also its last will."""
    return f"gw/v1/{gateway}/state"


def gateway_down(gateway: str) -> str:
    """What the cloud has a gateway publish at its devices' broker: requests for lost messages, repaired dead letters."""
    return f"gw/v1/{gateway}/down"


BRIDGES_FILTER = "br/v1/+/state"


def bridge_state(bridge: str) -> str:
    """Retained: whether a bridge that shares messages with others is there; also its last will."""
    return f"br/v1/{bridge}/state"


DOCTOR_FILTER = "voltflow/doctor/#"


def doctor(client_id: str) -> str:
    """What `voltflow doctor` says to itself, to find out whether a broker passes on what it is only asked about."""
    return f"voltflow/doctor/{client_id}"


@lru_cache(maxsize=65536)
def parse(topic: str) -> PackTopic | None:
    """The parts of a pack's topic, or None when it is not one (wrong depth, or a name out of `NAME_PATTERN`)."""
    match = _PACK_TOPIC.fullmatch(topic)
    return PackTopic(*match.groups()) if match else None


def is_name(text: str) -> bool:
    """Whether a fleet's, pack's or gateway's name can stand in a topic."""
    return _NAME.fullmatch(text) is not None
