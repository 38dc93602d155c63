"""The `complete` node."""

from __future__ import annotations

from voltflow.message import Msg
from voltflow.node import Transform, config, node


@node("complete", category="common", color="#e49191", icon="alert.svg", inputs=0)
class Complete(Transform):
    """Get a message when the chosen nodes are done with it.

    A sink is done with a message when it is safe at the far side; that is not acknowledged before what follows here is
    safe as well.
    """

    scope: list[str] = config([], help="the nodes, by id")

    def process(self, msgs: list[Msg]) -> list[Msg]:
        return msgs
