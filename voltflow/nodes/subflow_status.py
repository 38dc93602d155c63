"""What stands below a subflow instance: the end of its subflow's status output."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from voltflow.engine.events import Badge
from voltflow.flow.expand import STATUS
from voltflow.message import Msg
from voltflow.node import Ports, Transform, node
from voltflow.nodelib.loose import as_cell

LOOKS: tuple[str, ...] = ("fill", "shape", "text")
LONGEST = 32


@node(STATUS, category="", outputs=0)
class SubflowStatus(Transform):
    """Shows what comes to a subflow's status output below its instance; every instance of such a subflow has one.

    A text, or an object with fill, shape and text, as payload; without payload what a status node heard.
    """

    @property
    def badge_id(self) -> str:
        return self.id.removesuffix(f":{STATUS}")

    def process(self, msgs: list[Msg]) -> Ports:
        for msg in msgs:
            if (badge := _badge_of(msg)) is not None:
                self.show(badge)
        return ()


def _badge_of(msg: Msg) -> Badge | None:
    value = msg.payload
    if value is None:
        heard = (msg.props or {}).get("status")
        return _looks(heard) if isinstance(heard, Mapping) else None
    if isinstance(value, str):
        return {"text": value}
    if isinstance(value, Mapping) and (not value or any(name in value for name in LOOKS)):
        return _looks(value)
    text = as_cell(value)
    return {"text": text if len(text) <= LONGEST else f"{text[:LONGEST]}..."}


def _looks(said: Mapping[str, object]) -> Badge:
    return cast("Badge", {name: str(said[name]) for name in LOOKS if said.get(name) is not None})
