"""The `status` node."""

from __future__ import annotations

from typing import Any

from voltflow.message import Msg
from voltflow.node import Transform, config, node


@node("status", category="common", color="#e49191", icon="status.svg", inputs=0)
class Status(Transform):
    """Get what nodes of this tab show below them, when that changes.

    `msg.status` has fill, shape, text and source. While more than 1,000 such messages are under way further ones are
    dropped and counted.
    """

    scope: Any = config(None, help='null: all of the tab; "group": all of the group; or the ids of nodes')

    def process(self, msgs: list[Msg]) -> list[Msg]:
        return msgs
