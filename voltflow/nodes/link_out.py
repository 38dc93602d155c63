"""The `link out` node: a wire that is not drawn, or the way back to a link call."""

from __future__ import annotations

from voltflow.message import Msg
from voltflow.node import Transform, config, node


@node("link out", category="common", color="#dddddd", icon="link-out.svg")
class LinkOut(Transform):
    """Send messages to link in nodes, or back to the link call node they came by.

    A message that is to return and came by no call is dropped, as in Node-RED.
    """

    mode: str = config(
        "link", help="link: to link in nodes; return: to the link call", choices=("link", "return")
    )
    links: list[str] = config([], help="the link in nodes, by id")

    def process(self, msgs: list[Msg]) -> list[Msg]:
        return msgs
