"""The `link call` node: calls a part of the flow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from voltflow.message import Msg
from voltflow.node import ConfigError, Transform, config, node


@node("link call", category="common", color="#dddddd", icon="link-call.svg")
class LinkCall(Transform):
    """Call a part of the flow that begins at a link in node and ends at a link out that returns.

    The message that comes back goes on here, and so does what comes back a second time or late. One that does not come
    back in time fails with "timeout"; until then it is not acknowledged.
    """

    links: list[str] = config([], help="the link in node, by id", example=["8b2c7e7d74d38a01"])
    linkType: str = config(
        "static",
        help="static: the link chosen; dynamic: the link in named by msg.target",
        choices=("static", "dynamic"),
    )
    timeout: float = config(30.0, help="how long to wait", unit="s", low=0.001, high=86400)

    # state
    link_ins: Sequence[tuple[str, str, str]] = ()
    """Id, name and tab of all link in nodes; the engine sets it."""

    def __post_init__(self) -> None:
        if self.linkType == "static" and len(self.links) != 1:
            raise ConfigError('property "links": choose the link in node to call')

    def target_of(self, msg: Msg) -> str:
        """The link in node a message goes to: by its id, or by its name on this tab, or on any; raises LookupError."""
        wanted: Any = self.links[0] if self.linkType == "static" else (msg.props or {}).get("target")
        if any(id == wanted for id, _, _ in self.link_ins):
            return str(wanted)
        named = [
            item for item in self.link_ins if item[1] == wanted and wanted and self.linkType == "dynamic"
        ]
        found = [item for item in named if item[2] == self.tab] or named
        if len(found) != 1:
            problem = "is not there" if not found else f"is the name of {len(found)}"
            raise LookupError(f"target link in node {wanted!r} {problem}")
        return found[0][0]

    def process(self, msgs: list[Msg]) -> list[Msg]:
        raise AssertionError("the engine calls the link in node instead")
