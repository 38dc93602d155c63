"""What API, page and metrics read: the store, the engine, and the packs in order of worry."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

from edge.bands import worry
from edge.editor.auth import Auth
from edge.editor.flow_store import FlowStore
from edge.survey import Surveyor
from edge.twin import PackTwin, TwinStore
from voltflow.clock import receive_clock
from voltflow.engine.engine import Engine
from voltflow.log_levels import LogLevels
from voltflow.state.state import StateStore

ROSTER_S = 1.0


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
    flows: FlowStore | None = None
    auth: Auth | None = None
    log_levels: LogLevels = field(default_factory=LogLevels.of_process)
    metrics_max_packs: int = 200
    """Packs with series of their own in `/metrics`."""
    roster: Roster = field(init=False)
    surveyor: Surveyor = field(init=False)

    def __post_init__(self) -> None:
        self.roster = Roster(self.store)
        self.surveyor = Surveyor(self.store, self.metrics_max_packs)
        self._started_monotonic_s = time.monotonic() - (time.time() - self.started)

    @property
    def uptime_s(self) -> float:
        """Since the start, also where the wall clock was set meanwhile."""
        return time.monotonic() - self._started_monotonic_s


class Roster:
    """The packs in order of worry, sorted at most once a second however many ask."""

    def __init__(self, store: TwinStore) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._ranked: list[PackTwin] = []
        self._fresh_until = -1.0

    def ranked(self) -> list[PackTwin]:
        """All packs, the most worrying first; equal ones by name."""
        with self._lock:
            if time.monotonic() > self._fresh_until or len(self._ranked) != len(self._store.packs):
                started, now_s = time.monotonic(), receive_clock.now_s()
                self._ranked = sorted(self._store.packs, key=lambda twin: (-worry(twin, now_s), twin.name))
                cost_s = time.monotonic() - started
                self._fresh_until = time.monotonic() + max(ROSTER_S, 20 * cost_s)  # at most 5 % of a core
            return self._ranked
