"""What stands below the nodes of a broker: whether it is connected, as Node-RED shows it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from voltflow.engine.events import Badge
from voltflow.mqtt.link import LinkState, MqttLink
from voltflow.node import Node

BADGES: Final[Mapping[LinkState, Badge]] = {
    "connected": {"fill": "green", "shape": "dot", "text": "connected"},
    "connecting": {"fill": "yellow", "shape": "ring", "text": "connecting"},
    "disconnected": {"fill": "red", "shape": "ring", "text": "disconnected"},
}


class LinkBadge:
    """Shows below a node what its link does, from its start on until `end`."""

    def __init__(self, node: Node, link: MqttLink) -> None:
        self._node, self._link = node, link
        link.watchers.append(self._show)
        self._show(link.state)

    def end(self) -> None:
        self._link.watchers.remove(self._show)

    def _show(self, state: LinkState) -> None:
        self._node.show(BADGES[state])
