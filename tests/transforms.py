"""A transform by itself, with contexts of its own: what it makes of messages."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

import voltflow.nodes.base64_node
import voltflow.nodes.change
import voltflow.nodes.csv_node
import voltflow.nodes.json_node
import voltflow.nodes.range
import voltflow.nodes.rbe
import voltflow.nodes.switch
import voltflow.nodes.template
import voltflow.nodes.yaml_node  # noqa: F401 - registers
from voltflow.engine.context import Contexts
from voltflow.engine.timer import VirtualTimer
from voltflow.engine.turn import isolate
from voltflow.flow.properties import as_object
from voltflow.message import Msg
from voltflow.node import REGISTRY, ConfigError, Context, Node, Transform

START_S = 1_700_000_000.0


def msg(payload: Any = None, topic: str = "", **props: Any) -> Msg:
    return Msg(topic, payload, props=props or None)


def build(kind: str, **properties: Any) -> Node:
    return REGISTRY[kind].build("n", {"z": "tab", **properties}, {})


def refused(kind: str, **properties: Any) -> str:
    """What is wrong with the properties."""
    with pytest.raises(ConfigError) as caught:
        build(kind, **properties)
    return str(caught.value)


class Bench:
    """A started node: `bench(msg)` gives what leaves its first output, `bench.ports(msg)` what leaves each."""

    def __init__(
        self,
        kind: str,
        *,
        flow: Mapping[str, Any] | None = None,
        env: Mapping[str, str] | None = None,
        **properties: Any,
    ) -> None:
        contexts = Contexts()
        self.flow, self.everywhere = contexts.scope("flow", "tab"), contexts.scope("global")
        for key, value in (flow or {}).items():
            self.flow.set(key, value)
        node = build(kind, **properties)
        assert isinstance(node, Transform)
        self.node = node
        context = Context(
            {}, {Contexts: contexts}, "gw", "rev", Path("unused"), timer=VirtualTimer(START_S), env=env or {}
        )
        with contextlib.suppress(StopIteration):  # a transform's start waits for nothing
            node.start(context).send(None)

    def ports(self, *msgs: Msg) -> Sequence[list[Msg]]:
        found = self.node.process(list(msgs))
        return found if isinstance(found, tuple) else (found,)  # type: ignore[return-value]

    def __call__(self, *msgs: Msg) -> list[Msg]:
        return list(self.ports(*msgs)[0])

    def payloads(self, *msgs: Msg) -> list[Any]:
        return [made.payload for made in self(*msgs)]

    def isolated(self, batches: Sequence[list[Msg]]) -> dict[str, Any]:
        """What the engine gets of a node that is given batches: messages by port, errors, what is remembered."""
        ports: list[list[Any]] = [[] for _ in range(max(1, self.node.ports))]
        errors: list[Any] = []

        def failed(bad: Msg, error: Exception) -> None:
            errors.append((as_object(bad), f"{type(error).__name__}: {error}"))

        for batch in batches:
            for port, msgs in enumerate(isolate(self.node.process, batch, self.node.ports, failed)):
                ports[port] += map(as_object, msgs)
        return {
            "ports": ports,
            "errors": errors,
            "flow": {key: self.flow.get(key) for key in self.flow.keys()},  # noqa: SIM118 - it is no dict
        }


def batch_is_one_by_one(kind: str, msgs: Sequence[Msg], **properties: Any) -> dict[str, Any]:
    """The same comes of a batch as of its messages one after the other; what that is."""
    together = Bench(kind, **properties).isolated([list(msgs)])
    assert together == Bench(kind, **properties).isolated([[each] for each in msgs])
    return together
