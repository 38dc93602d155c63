"""What may be asked of the API: parameters with their limits, and the pack that a name means."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from urllib.parse import parse_qsl

import msgspec
from msgspec import Meta

from edge.answers import Error, ErrorBody
from edge.state import AppState
from edge.twin import ALERTS_KEPT, PackTwin
from voltflow.telemetry import Name
from voltflow.topics import NAME_PATTERN


class ApiError(Exception):
    """An answer that is not 2xx."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.body = Error(ErrorBody(code, message))


# -- parameters -------------------------------------------------------------------------------------------------

PackName = Annotated[
    str,
    Meta(
        pattern=f"^{NAME_PATTERN}(/{NAME_PATTERN})?$",
        description="`fleet/pack`, or the pack's id alone where only one fleet has it",
    ),
]
FULL_NAME = f"^{NAME_PATTERN}/{NAME_PATTERN}$"
STREAM_PACKS = 200
Limit = Annotated[int, Meta(ge=1, le=1000, description="how many at most")]


class NoQuery(msgspec.Struct, forbid_unknown_fields=True):
    """No parameters."""


class HistoryQuery(msgspec.Struct, forbid_unknown_fields=True):
    """Which part of the history."""

    limit: Limit = 360


class SessionsQuery(msgspec.Struct, forbid_unknown_fields=True):
    """How many sessions."""

    limit: Limit = 20


class PacksQuery(msgspec.Struct, forbid_unknown_fields=True):
    """Which packs in which order."""

    limit: Limit = 100
    offset: Annotated[int, Meta(ge=0, le=1_000_000, description="how many to skip")] = 0
    sort: Annotated[
        Literal["worry", "name", "newest", "oldest", "soc", "soh", "temperature", "rul", "failure"],
        Meta(description="what decides; the worst first, unknown values last"),
    ] = "worry"
    fleet: Annotated[Name, Meta(description="packs of this fleet only")] | None = None
    only: Annotated[
        Literal["all", "away"],
        Meta(description="`away`: only packs that are silent or said to be offline"),
    ] = "all"
    q: Annotated[
        str, Meta(max_length=100, description="packs whose `fleet/pack` has this text in it, in any case")
    ] = ""
    after: (
        Annotated[
            str,
            Meta(
                pattern=FULL_NAME, description="begin after this pack (`fleet/pack`) in the order asked for"
            ),
        ]
        | None
    ) = None


class AlertsQuery(msgspec.Struct, forbid_unknown_fields=True):
    """Which alerts."""

    state: Annotated[
        Literal["active", "recent", "all"],
        Meta(description=f"raised and not cleared, or the last {ALERTS_KEPT} changes, or both"),
    ] = "active"
    pack: PackName | None = None
    limit: Limit = 100


class StreamQuery(msgspec.Struct, forbid_unknown_fields=True):
    """Which packs."""

    pack: PackName | None = None
    packs: (
        Annotated[
            str,
            Meta(
                pattern=f"^({NAME_PATTERN}/{NAME_PATTERN}(,{NAME_PATTERN}/{NAME_PATTERN}){{0,{STREAM_PACKS - 1}}})?$",
                description=f"those that are on screen: up to {STREAM_PACKS} `fleet/pack`, with commas; none: counts only",
            ),
        ]
        | None
    ) = None


def parse_query(query_string: str, struct: type[msgspec.Struct]) -> Any:
    """The parameters, checked; raises ApiError 400 naming what is wrong.

    >>> parse_query("limit=5", HistoryQuery).limit
    5
    """
    pairs = parse_qsl(query_string, keep_blank_values=True)
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ApiError(400, "bad_parameter", "a parameter is given twice")
    try:
        return msgspec.convert(values, struct, strict=False)
    except msgspec.ValidationError as error:
        allowed = ", ".join(struct.__struct_fields__) or "none"
        raise ApiError(400, "bad_parameter", f"{error}; parameters here: {allowed}") from None


def find_pack(state: AppState, name: str | None) -> PackTwin:
    """The pack of that name, or the first by name, which is the same at each call; raises ApiError 404."""
    store = state.store
    if name is None:
        first = min(list(store.packs), key=lambda twin: twin.name, default=None)
        if first is None:
            raise ApiError(
                404, "no_packs", "no pack has sent anything yet; /api/health says what may be wrong"
            )
        return first
    if (found := store.find(name)) is not None:
        return found
    fleets = sorted(twin.fleet for twin in list(store.packs) if twin.pack == name)
    if fleets:
        raise ApiError(
            404, "ambiguous_pack", f"fleets {', '.join(fleets)} have a pack {name}: ask for fleet/{name}"
        )
    raise ApiError(404, "unknown_pack", f"there is no pack {name} at this gateway; /api/packs lists them")
