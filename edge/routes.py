"""The API's routes, declared once: the Bottle application and the OpenAPI document both come from here.

Handlers run in threads beside the event loop and only read. To add an answer, add a struct to `edge/answers.py` and a
`Route` or `PackView` here; the document, the checks of its parameters and the tests follow from that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from edge import alert_views, answers, health, log_api, pack_views
from edge.answers import Detailed, Flow, History, Models, ModelState, Packs, Status
from edge.bands import BANDS, is_silent
from edge.comparison import Comparison, compare
from edge.quantities import predicted
from edge.queries import (
    AlertsQuery,
    ApiError,
    HistoryQuery,
    NoQuery,
    PackName,
    PacksQuery,
    SessionsQuery,
    StreamQuery,
    find_pack,
)
from edge.state import AppState
from edge.twin import PackTwin, TwinStore
from voltflow.battery.features import FEATURES
from voltflow.clock import receive_clock
from voltflow.log_levels import Now

# -- handlers ---------------------------------------------------------------------------------------------------


_SORT_KEYS: dict[str, Callable[[PackTwin], float | str | None]] = {
    "name": lambda twin: twin.name,
    "newest": lambda twin: -(twin.received_ms or 0),
    "oldest": lambda twin: twin.received_ms or 0,
    "soc": lambda twin: twin.telemetry.soc_pct if twin.telemetry else None,
    "soh": lambda twin: predicted(twin, "soh"),
    "temperature": lambda twin: _negative(twin.telemetry.cell_temp_max_c if twin.telemetry else None),
    "rul": lambda twin: predicted(twin, "rul"),
    "failure": lambda twin: _negative(predicted(twin, "failure")),
}


def _negative(value: float | None) -> float | None:
    return None if value is None else -value


def _packs(state: AppState, query: PacksQuery) -> Packs:
    twins = state.roster.ranked()
    if query.fleet is not None:
        twins = [twin for twin in twins if twin.fleet == query.fleet]
    if query.only == "away":
        twins = [twin for twin in twins if answers.online(twin) is False or is_silent(twin)]
    if query.q:
        text = query.q.lower()
        twins = [twin for twin in twins if text in twin.name.lower()]
    if query.sort != "worry":
        keyed = [(_SORT_KEYS[query.sort](twin), twin) for twin in twins]
        known = sorted((pair for pair in keyed if pair[0] is not None), key=lambda pair: pair[0])  # type: ignore[arg-type, return-value]  # one sort has one type
        twins = [twin for _, twin in known] + [twin for key, twin in keyed if key is None]
    first = query.offset + (0 if query.after is None else _place_after(twins, query.after))
    page, now_s = twins[first : first + query.limit], receive_clock.now_s()
    rows = [answers.row(twin, now_s) for twin in page]
    return Packs(len(twins), query.limit, first, rows, BANDS, state.roster.counts())


def _place_after(twins: list[PackTwin], name: str) -> int:
    for place, twin in enumerate(twins, 1):
        if twin.name == name:
            return place
    raise ApiError(404, "unknown_pack", f"after: {name} is not among the packs asked for")


def _flow(state: AppState) -> dict[str, Any]:
    flows, running = state.flows, state.engine.describe()
    notices = [notice.text for notice in flows.notices] if flows is not None else []
    for node in running["nodes"]:
        wired = state.engine.nodes.get(node["id"])
        broker = getattr(wired.node, "broker", "") if wired is not None else ""
        if broker in state.engine.nodes:  # a broker's own `broker` is its address
            node["broker"] = broker
    return {
        **running,
        "state": "stop" if state.engine.paused else "start",
        "safe_mode": flows is not None and flows.safe_mode,
        "notices": notices,
    }


def _models(state: AppState, _: NoQuery) -> Models:
    loaded = health.loaded_models(state)
    made = dict(state.store.predictions_made)
    models = []
    for name in dict.fromkeys([*FEATURES, *loaded]):
        model, item = loaded.get(name), ModelState(name, loaded=False, predictions=made.get(name, 0))
        if model is None:
            item.reason = "not loaded; the flow has not started or refused it" if name in loaded else (
                "the flow has no onnx node for it"
            )  # fmt: skip
        else:
            item = msgspec.convert(
                {**model.describe(), "loaded": True, "predictions": item.predictions}, ModelState
            )
        models.append(item)
    return Models(models, _temperature_errors(state.store))


def _temperature_errors(store: TwinStore) -> answers.TemperatureErrors:
    errors = list(store.joined_errors)  # actual minus predicted
    result = answers.TemperatureErrors(len(errors), store.missed_joins)
    if errors:
        result.mean_absolute_c = round(sum(map(abs, errors)) / len(errors), 3)
        result.mean_c = round(-sum(errors) / len(errors), 3)
    return result


# -- the declaration --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Route:
    """One path and what it answers to `method`, which takes a `body` where it changes something. `statuses` are codes whose answer has the shape of 200's, `failures` those of an error."""

    path: str
    summary: str
    answer: Any
    handle: Callable[[AppState, Mapping[str, str], Any], Any]
    query: type[msgspec.Struct] = NoQuery
    media: str = "application/json"
    statuses: tuple[int, ...] = ()
    failures: Mapping[str, str] = field(default_factory=dict)
    status_of: Callable[[Any], int] = lambda _: 200
    native: bool = False  # answered by the event loop itself, not by Bottle
    method: Literal["GET", "POST", "PUT", "DELETE"] = "GET"
    body: type[msgspec.Struct] | None = None
    permission: str = ""
    """Of the editor's user who may change something where no token is asked for."""

    @property
    def changes(self) -> bool:
        """Whether it changes something: `handle` then gets an `edge.writing.Change` instead of a query."""
        return self.method != "GET"


@dataclass(frozen=True)
class PackView:
    """An answer about one pack, below `/api/battery` (the seed's paths, `?pack=`) and below `/api/packs/{pack}`."""

    name: str
    summary: str
    answer: Any
    handle: Callable[[AppState, PackTwin, Any], Any]
    query: type[msgspec.Struct] = NoQuery

    def routes(self) -> Iterator[Route]:
        fields = [
            (f.name, f.type, f.default) for f in msgspec.structs.fields(self.query)
        ]  # every parameter of a route has a default
        with_pack = msgspec.defstruct(
            f"Pack{self.query.__name__}",
            [("pack", PackName | None, None), *fields],
            forbid_unknown_fields=True,
        )
        yield Route(f"/api/battery/{self.name}", f"{self.summary} (default: the first pack by name)",
                    self.answer, lambda state, _, q: self.handle(state, find_pack(state, q.pack), q), with_pack)  # fmt: skip
        yield Route(f"/api/packs/{{pack}}/{self.name}", self.summary, self.answer,
                    lambda state, path, q: self.handle(state, _pack_of(state, path), q), self.query)  # fmt: skip


def _pack_of(state: AppState, path: Mapping[str, str]) -> PackTwin:
    try:
        return find_pack(state, msgspec.convert(path["pack"], PackName))
    except msgspec.ValidationError:
        raise ApiError(400, "bad_parameter", "pack must be `fleet/pack` or a pack's id") from None


PACK_VIEWS = (
    PackView("status", "A pack now", Status, lambda _, twin, __: answers.status(twin)),
    PackView("detailed", "All that is known of a pack", Detailed, lambda _, twin, __: answers.detailed(twin)),
    PackView("comparison", "Predictions beside actual values", Comparison, lambda _, twin, __: compare(twin)),
    PackView("history", "The pack's last points", History,
             lambda state, twin, query: pack_views.history(state.store, twin, query.limit), HistoryQuery),
    PackView("sessions", "The pack's last charges and discharges", answers.Sessions,
             lambda state, twin, query: pack_views.sessions(state.store, twin, query.limit), SessionsQuery),
    PackView("cells", "The pack's single cells and probes", answers.Cells,
             lambda state, twin, _: pack_views.cells(state, twin)),
)  # fmt: skip

ROUTES: tuple[Route, ...] = (
    *(route for view in PACK_VIEWS for route in view.routes()),
    Route("/api/packs", "All packs, the most worrying first", Packs, lambda state, _, q: _packs(state, q), PacksQuery,
          failures={"404": "`after` is not among the packs asked for"}),
    Route("/api/alerts", "Alerts, the newest first", alert_views.Alerts, lambda state, _, q: alert_views.alerts(state, q),
          AlertsQuery),
    Route(alert_views.ACKNOWLEDGE, "Say that somebody has seen to an active alert", alert_views.AlertEntry,
          alert_views.acknowledge, method="POST", body=alert_views.Note, permission="alerts.write", failures=alert_views.FAILURES),
    Route(alert_views.ACKNOWLEDGE, "Take that back", alert_views.AlertEntry, alert_views.take_back, method="DELETE", permission="alerts.write",
          failures=alert_views.FAILURES),
    Route("/api/health", "Is the gateway well, and if not why", health.Health, lambda state, *_: health.health(state),
          statuses=(503,), status_of=lambda answer: 503 if answer.status == "unhealthy" else 200),
    Route("/api/flow", "The running flow and its counters", Flow, lambda state, *_: _flow(state)),
    Route("/api/models", "The models and how they do", Models, lambda state, _, q: _models(state, q)),
    Route(log_api.PATH, "What the gateway logs", Now, lambda state, *_: log_api.read(state)),
    Route(log_api.PATH, "Change what is logged, for a time or until the gateway ends", Now, log_api.change, method="PUT",
          body=log_api.LogChange, permission="log.write", failures=log_api.FAILURES),
    Route("/api/spool", "What is held and not yet safe", health.Spool, lambda state, *_: health.spool(state.engine)),
    Route("/api/stream", "Server-sent events `packs` with the packs that changed, at most one a second", str,
          lambda *_: None, StreamQuery, media="text/event-stream",
          failures={"503": "Too many streams are open"}, native=True),  # edge/stream.py answers
)  # fmt: skip
