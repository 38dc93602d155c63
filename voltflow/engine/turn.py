"""A batch's way through the flow: in one go, in topological order, all of it under one transaction."""

from __future__ import annotations

import itertools
import operator
import typing
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from voltflow.engine.sink_queue import Transaction
from voltflow.engine.why import for_catch
from voltflow.engine.wiring import Wiring
from voltflow.message import Msg
from voltflow.node import Node, Ports

Process = Callable[[list[Msg]], "list[Msg] | Ports"]


class FailedMsg(typing.NamedTuple):
    """A message a node failed on, as it came there."""

    msg: Msg
    error: str


class Partly(Exception):
    """Raised by a transform that has taken every message of its batch and must not be called again for any of them: what
    it gives out for the others, and the messages it failed on."""

    def __init__(self, ports: Ports, failed: list[tuple[Msg, Exception]]) -> None:
        super().__init__(f"{len(failed)} message(s), the first: {failed[0][1]}")
        self.ports, self.failed = ports, failed


class Host(Protocol):
    """What a turn needs of the engine."""

    def transform(self, node: Node, msgs: list[Msg], transaction: Transaction) -> Ports:
        """What a node gives out at once."""
        ...


class Turn:
    """One run of a wiring. Use: `Turn(…).go(node_id, ports)`."""

    def __init__(self, host: Host, wiring: Wiring, transaction: Transaction, msgs: list[Msg]) -> None:
        self._host, self._wiring, self._transaction = host, wiring, transaction
        self._order = _Order(msgs)

    def go(self, node_id: str, ports: Ports) -> None:
        """Hand what a node gave out to all it can reach."""
        inputs: dict[str, list[Msg]] = {}
        self._distribute(ports, self._wiring.nodes[node_id].targets, inputs)
        for step in self._wiring.plan(node_id):
            batch = inputs.pop(step.node_id, None)
            if not batch:
                continue
            if step.line is not None:
                step.line.put(batch, self._transaction)
            else:
                ports = self._host.transform(step.node, batch, self._transaction)
                self._distribute(ports, step.targets, inputs)

    def _distribute(
        self, ports: Ports, targets: tuple[tuple[str, ...], ...], inputs: dict[str, list[Msg]]
    ) -> None:
        # A port no wire leads from is fine, as in Node-RED; more ports than the node has are not (`ports_of`).
        for msgs, port_targets in zip(ports, targets, strict=False):
            if not msgs:
                continue
            for target in port_targets:
                # a list is shared by all it goes to; only where wires join is a new one made
                inputs[target] = self._order.merge(inputs[target], msgs) if target in inputs else msgs


MOST_ERRORS = 10
"""The time at which a message fails at the same node and no longer goes to `catch` nodes."""


def with_error(node: Node, failed: FailedMsg) -> Msg | None:
    """The message for a `catch` node; None where it has failed there again and again."""
    old = (failed.msg.props or {}).get("error")
    count = _errors_before(node, old) + 1
    if count >= MOST_ERRORS:
        return None
    error = {
        **for_catch(failed.error),
        "source": {"id": node.id, "type": node.type, "name": node.name, "count": count},
    }
    props = {**(failed.msg.props or {}), "error": error}
    if old is not None:
        props["_error"] = old
    return failed.msg.derive(props=props)


def _errors_before(node: Node, error: object) -> int:
    """How often a message has failed at this node in a row. What it brings as its error may be anything: flows set it."""
    source = error.get("source") if isinstance(error, dict) else None
    if not isinstance(source, dict) or source.get("id") != node.id:
        return 0
    count = source.get("count")
    return max(0, count) if type(count) is int else 0


def with_complete(node: Node, msg: Msg) -> Msg:
    """The message for a `complete` node."""
    source = {"id": node.id, "type": node.type, "name": node.name}
    return msg.derive(props={**(msg.props or {}), "complete": {"source": source}})


_only_messages = frozenset({Msg}).issuperset
"""Whether all types are Msg: 20 ns a message, so that every list can be looked at."""


def ports_of(result: list[Msg] | Ports, outputs: int) -> Ports:
    """What `process` returned as one list for each port.

    A node that forgets its `return`, returns something else than messages or has more ports than it declares fails
    like one that raises: further down it could only be lost or hold up the flow.
    """
    ports = result if isinstance(result, tuple) else (result,)
    if len(ports) > outputs:
        raise TypeError(f"process returned lists for {len(ports)} outputs, declared are {outputs}")
    for port in ports:
        if not isinstance(port, list):
            raise TypeError(f"process returned {type(port).__name__}, expected a list of messages")
        if not _only_messages(map(type, port)):
            found = next((type(item).__name__ for item in port if not isinstance(item, Msg)), None)
            if found is not None:
                raise TypeError(f"process returned a list with {found} in it, expected a list of messages")
    return typing.cast("Ports", ports)


def isolate(
    process: Process, msgs: list[Msg], outputs: int, on_error: Callable[[Msg, Exception], Any]
) -> Ports:
    """The outputs of a batch; where `process` raises, it is halved until the messages it fails on stand alone."""
    try:
        return ports_of(process(msgs), outputs)
    except Partly as some:
        for msg, why in some.failed:
            on_error(msg, why)
        return ports_of(tuple(some.ports), outputs)
    except Exception as error:  # noqa: BLE001 - whatever a node raises is its answer
        if len(msgs) == 1:
            on_error(msgs[0], error)
            return ()
    middle = len(msgs) // 2
    return join_ports(
        isolate(process, msgs[:middle], outputs, on_error), isolate(process, msgs[middle:], outputs, on_error)
    )


def join_ports(first: Ports, second: Ports) -> Ports:
    """Two answers as one."""
    nothing: list[Msg] = []
    return tuple(a + b for a, b in itertools.zip_longest(first, second, fillvalue=nothing))


class _Order:
    """Where wires join, messages stand in the order in which the source emitted what they were made from."""

    def __init__(self, msgs: list[Msg]) -> None:
        self._msgs = msgs
        self._positions: dict[int, int] = {}

    def merge(self, first: list[Msg], second: list[Msg]) -> list[Msg]:
        if not self._positions:  # most batches never join
            self._positions = {id(msg.origin or msg): i for i, msg in enumerate(self._msgs)}
        keyed = [*self._keyed(first), *self._keyed(second)]
        keyed.sort(key=operator.itemgetter(0))
        return [msg for _, msg in keyed]

    def _keyed(self, msgs: list[Msg]) -> Iterator[tuple[int, Msg]]:
        position = 0
        for msg in msgs:  # one that a node made from nothing stays behind the one before it
            position = self._positions.get(id(msg.origin or msg), position)
            yield position, msg
