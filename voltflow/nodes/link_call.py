"""The `link call` node: calls a part of the flow."""

from __future__ import annotations

from typing import Any

from voltflow.message import Msg
from voltflow.node import ConfigError, Transform, config, node


@node("link call", category="common", color="#dddddd", icon="link-call.svg")
class LinkCall(Transform):
    """Call a part of the flow that begins at a link in node and ends at a link out that returns.

    The message that comes back goes on here. One that does not come back in time fails with "timeout"; until then it is
    not acknowledged.
    """

    links: list[str] = config([], help="the link in node, by id")
    linkType: str = config(
        "static",
        help="static: the link chosen; dynamic: the link in named by msg.target",
        choices=("static", "dynamic"),
    )
    timeout: float = config(30.0, help="how long to wait", unit="s", low=0.001, high=86400)

    # state
    names: dict[str, list[str]] | None = None
    """Link in nodes by name and id; the engine sets it."""

    def __post_init__(self) -> None:
        if self.linkType == "static" and len(self.links) != 1:
            raise ConfigError('property "links": choose the link in node to call')

    def target_of(self, msg: Msg) -> str:
        """The link in node a message goes to; raises LookupError."""
        if self.linkType == "static":
            return self.links[0]
        wanted: Any = (msg.props or {}).get("target")
        found = (self.names or {}).get(wanted, []) if isinstance(wanted, str) else []
        if len(found) != 1:
            problem = "there is none" if not found else f"there are {len(found)}"
            raise LookupError(f"msg.target is {wanted!r}, of link in nodes with that name {problem}")
        return found[0]

    def process(self, msgs: list[Msg]) -> list[Msg]:
        raise AssertionError("the engine calls the link in node instead")
