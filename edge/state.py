"""What API, page and metrics read: the store, the engine, what was made of both."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from edge.acknowledgements import Acknowledgements
from edge.editor.auth import Auth
from edge.editor.flow_store import FlowStore
from edge.roster import Roster
from edge.survey import Surveyor
from edge.twin import TwinStore
from voltflow.engine.engine import Engine
from voltflow.log_levels import LogLevels
from voltflow.state.state import StateStore


class ModelNode(Protocol):
    """A node that runs a model; it has `loaded` once the flow has started."""

    model: str


@dataclass
class AppState:
    """What API, page and metrics read. `started` is the wall clock at the gateway's start, seconds since 1970."""

    store: TwinStore
    engine: Engine
    gateway: str
    started: float
    models: Iterable[ModelNode] = ()
    durable: StateStore | None = None
    acknowledged_file: Path | None = None
    """Where it is kept which alerts somebody has seen to; None: in memory only."""
    flows: FlowStore | None = None
    auth: Auth | None = None
    log_levels: LogLevels = field(default_factory=LogLevels.of_process)
    metrics_max_packs: int = 200
    """Packs with series of their own in `/metrics`."""
    roster: Roster = field(init=False)
    surveyor: Surveyor = field(init=False)
    acknowledgements: Acknowledgements = field(init=False)

    def __post_init__(self) -> None:
        self.roster = Roster(self.store)
        self.acknowledgements = Acknowledgements(self.store, self.acknowledged_file)
        self.surveyor = Surveyor(self.store, self.metrics_max_packs)
        self._started_monotonic_s = time.monotonic() - (time.time() - self.started)

    @property
    def uptime_s(self) -> float:
        """Since the start, also where the wall clock was set meanwhile."""
        return time.monotonic() - self._started_monotonic_s
