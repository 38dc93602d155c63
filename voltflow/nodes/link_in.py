"""The `link in` node: where messages come from elsewhere in the flow."""

from __future__ import annotations

from voltflow.message import Msg
from voltflow.node import Transform, config, node


@node("link in", category="common", color="#dddddd", icon="link-out.svg")
class LinkIn(Transform):
    """Where messages come from link out and link call nodes, on any tab."""

    links: list[str] = config([], help="the link out nodes that lead here, by id")

    def process(self, msgs: list[Msg]) -> list[Msg]:
        return msgs
