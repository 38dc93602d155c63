"""The way into each node that does not answer at once: a line for each kind of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from voltflow.clock import receive_clock
from voltflow.engine.call_lines import CallLine, ReturnLine
from voltflow.engine.holder_line import HolderLine
from voltflow.engine.lines import WorkerLine
from voltflow.engine.network_sink import NetworkSink
from voltflow.engine.sink_queue import SinkQueue
from voltflow.engine.store_forward import SpoolingQueue, folder_name, spools_folder
from voltflow.engine.wiring import Line
from voltflow.node import Holder, Node, Sink, Worker
from voltflow.nodes.link_call import LinkCall
from voltflow.nodes.link_out import LinkOut
from voltflow.spool.spool import Spool, SpoolOptions

if TYPE_CHECKING:
    from voltflow.engine.engine import Engine


def line_into(node: Node, engine: Engine) -> Line | None:
    """The line into a node of that engine; none where messages need no waiting."""
    stats = engine.stats[node.id]
    if isinstance(node, Sink):
        return _queue(node, engine)
    if isinstance(node, Worker):
        return WorkerLine(node, stats, engine)
    if isinstance(node, Holder):
        return HolderLine(node, stats, engine.held, engine)
    if isinstance(node, LinkCall):
        return CallLine(node, stats, engine, node.target_of, node.timeout)
    if isinstance(node, LinkOut) and node.mode == "return":
        return ReturnLine(stats, lambda node_id: _call_line(engine.wiring.lines.get(node_id)))
    return None


def _call_line(line: Line | None) -> CallLine | None:
    return line if isinstance(line, CallLine) else None


def _queue(sink: Sink, engine: Engine) -> SinkQueue:
    stats = engine.stats[sink.id]
    if not isinstance(sink, NetworkSink) or not sink.spool:
        return SinkQueue(sink, stats, engine.outcomes.refuse)
    options = SpoolOptions(
        folder=spools_folder(engine.state_dir) / folder_name(sink.id),
        telemetry_bytes=round(sink.spoolMaxMb * 1e6),
        telemetry_age_s=sink.spoolMaxAgeH * 3600,
        protected_bytes=round(sink.spoolProtectedMb * 1e6),
        segment_bytes=int(min(max(sink.spoolMaxMb * 1e6 / 50, 2**14), 2**22)),
        gateway=engine.gateway,
    )
    return SpoolingQueue(sink, stats, engine.outcomes.refuse, Spool(options, now_ms=receive_clock.now_ms))
