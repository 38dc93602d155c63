"""`/api/alerts`: what is raised, what was, and who has seen to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import msgspec
from msgspec import Meta

from edge.acknowledgements import Acknowledgement, AlertKey
from edge.bands import is_silent
from edge.quantities import alerted
from edge.queries import AlertsQuery, ApiError, find_pack
from edge.state import AppState
from edge.writing import MAY_NOT, Change
from voltflow.clock import receive_clock
from voltflow.telemetry import Alert

ACKNOWLEDGE = "/api/alerts/{id}/acknowledge"
FAILURES = {
    **MAY_NOT,
    "404": "No such alert is active",
    "503": "It cannot be kept on disk",
}
AlertId = Annotated[str, Meta(pattern="^[0-9a-f]{16}$", description="`id` of an active alert")]


class AlertEntry(Alert, kw_only=True, rename={"schema_": "schema"}):
    """An alert that was raised or cleared. `id` is the same for both; `active`: it is raised and not cleared; `acknowledged`
    says who has seen to it. `value` is that of the moment in which it was raised or cleared; of an active one `now` is what the
    pack was heard to have last, `worst` the worst since it was raised; `silent`: the pack has not been heard of
    for a while, so `now` is old. All in `unit`."""

    id: str
    active: bool
    acknowledged: Acknowledgement | None
    now: float | None = None
    worst: float | None = None
    silent: bool = False


class Alerts(msgspec.Struct):
    """Alerts, the newest first. `active` is how many are raised and not cleared, of all packs, `acknowledged` how many of
    them somebody has seen to."""

    active: int
    acknowledged: int
    alerts: list[AlertEntry]


class Note(msgspec.Struct, forbid_unknown_fields=True):
    """What who has seen to an alert wants to say of it."""

    note: Annotated[str, Meta(max_length=500)] = ""


def alerts(state: AppState, query: AlertsQuery) -> Alerts:
    """What is asked for."""
    active = _active(state)
    if query.state == "active":
        found = list(active.values())
    else:
        found = list(state.store.recent_alerts)
        if query.state == "all":
            told = {AlertKey.of(alert) for alert in found if alert.state == "raised"}
            found += [alert for key, alert in active.items() if key not in told]
    if query.pack is not None:
        twin = find_pack(state, query.pack)
        found = [alert for alert in found if (alert.fleet, alert.pack) == (twin.fleet, twin.pack)]
    found.reverse()  # of those of one moment the last one is the newest
    found.sort(key=lambda alert: alert.ts_ms, reverse=True)
    seen = sum(state.acknowledgements.of(alert) is not None for alert in active.values())
    return Alerts(len(active), seen, [_entry(state, alert, active) for alert in found[: query.limit]])


def acknowledge(state: AppState, path: Mapping[str, str], change: Change) -> AlertEntry:
    """Note that who asks has seen to an active alert; said again it replaces what was said before."""
    alert, active = _wanted(state, path)
    said = Acknowledgement(change.by, round(receive_clock.now_s() * 1000), change.body.note)
    try:
        state.acknowledgements.add(alert, said)
    except OSError as error:
        raise _not_kept(error) from None
    state.roster.outdated()
    return _entry(state, alert, active)


def take_back(state: AppState, path: Mapping[str, str], _: Change) -> AlertEntry:
    """Nobody has seen to it."""
    alert, active = _wanted(state, path)
    try:
        state.acknowledgements.remove(alert)
    except OSError as error:
        raise _not_kept(error) from None
    state.roster.outdated()
    return _entry(state, alert, active)


def _active(state: AppState) -> dict[AlertKey, Alert]:
    twins = list(state.store.packs)
    return {AlertKey.of(alert): alert for twin in twins for alert in list(twin.alerts.values())}


def _wanted(state: AppState, path: Mapping[str, str]) -> tuple[Alert, dict[AlertKey, Alert]]:
    try:
        wanted = msgspec.convert(path["id"], AlertId)
    except msgspec.ValidationError:
        raise ApiError(400, "bad_parameter", "an alert's id has 16 hex digits") from None
    active = _active(state)
    for key, alert in active.items():
        if key.id == wanted:
            return alert, active
    raise ApiError(404, "unknown_alert", f"no alert {wanted} is active; it may have been cleared")


def _entry(state: AppState, alert: Alert, active: Mapping[AlertKey, Alert]) -> AlertEntry:
    key = AlertKey.of(alert)
    entry = AlertEntry(
        **{name: getattr(alert, name) for name in Alert.__struct_fields__},
        id=key.id,
        active=key in active,
        acknowledged=state.acknowledgements.of(alert),
    )
    twin = state.store.by_name.get((alert.fleet, alert.pack))
    if twin is not None and entry.active:
        now, worst = alerted(twin, alert.code), twin.worst.get(alert.code)
        entry.now, entry.worst = _rounded(now), _rounded(worst)
        entry.silent = is_silent(twin)
    return entry


def _rounded(value: float | None) -> float | None:
    """With the digits of `value`."""
    return None if value is None else round(value, 3)


def _not_kept(error: OSError) -> ApiError:
    return ApiError(503, "not_kept", f"that cannot be written to state_dir: {error.strerror or error}")
