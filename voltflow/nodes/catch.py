"""The `catch` node."""

from __future__ import annotations

from typing import Any

from voltflow.message import Msg
from voltflow.node import Transform, config, node


@node("catch", category="common", color="#e49191", icon="catch.svg", inputs=0)
class Catch(Transform):
    """Get the messages that nodes of this tab fail on.

    The message comes as it came to the node, with `msg.error`: its `message`, and its `source` with id, type, name and how
    often it came back (`count`). What is caught becomes no dead letter. A message that fails at the same node for the
    tenth time does.
    """

    scope: Any = config(None, help='null: all of the tab; "group": all of the group; or the ids of nodes')
    uncaught: bool = config(False, help="only what no other catch node gets")

    def process(self, msgs: list[Msg]) -> list[Msg]:
        return msgs
