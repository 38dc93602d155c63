"""Who may change something through the API, and how a request must look that does."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final, Protocol

import bottle
import msgspec

from edge.editor.http import EditorError, check_origin
from edge.queries import ApiError
from edge.state import AppState

BODY_BYTES: Final = 10_000
BY_TOKEN: Final = "token"  # noqa: S105 - says that somebody had one
BY_ANYBODY: Final = "local"
"""Of a gateway without token and users, which answers this machine only."""
MAY_NOT: Final = {
    "401": "Nobody is logged in, or the token is missing or wrong",
    "403": "It comes from another site's page, or who is logged in may not",
}
"""Answers of every route that changes something."""


class Changing(Protocol):
    """What a route says of a change: what it takes, and whom it takes it from."""

    @property
    def body(self) -> type[msgspec.Struct] | None:
        """What is sent; None: nothing."""
        ...

    @property
    def permission(self) -> str:
        """The user's, where no token is asked for."""
        ...


@dataclass(frozen=True)
class Change:
    """A change that may be made: `by` whom, and the body (None where the route takes none)."""

    by: str
    body: Any


def change(state: AppState, request: bottle.LocalRequest, route: Changing, *, has_token: bool) -> Change:
    """The change that a request wants; raises ApiError where it may not, or is not what is wanted.

    `has_token`: the API asks for a token, which who comes here has shown already.
    """
    try:
        check_origin(request.get_header("Origin"), request.get_header("Host", ""))
    except EditorError as error:
        raise ApiError(error.status, error.code, str(error)) from None
    if request.get_header("Sec-Fetch-Site", "none") not in {"same-origin", "none"}:
        raise ApiError(403, "wrong_origin", "only the gateway's own pages may change something")
    by = BY_TOKEN if has_token else _user(state, request, route.permission)
    return Change(by, None if route.body is None else _body(request, route.body))


def _user(state: AppState, request: bottle.LocalRequest, permission: str) -> str:
    auth = state.auth
    if auth is None or not auth.required:
        return BY_ANYBODY
    scheme, _, token = request.get_header("Authorization", "").partition(" ")
    user = auth.user_of(token.strip()) if scheme.lower() == "bearer" else None
    if user is None:
        raise ApiError(
            401,
            "unauthorized",
            "log in (POST /editor/auth/token) and send the header Authorization: Bearer TOKEN",
        )
    if not auth.allows(user, permission):
        raise ApiError(403, "forbidden", f"{user.username} has not the permission {permission}")
    return user.username


def _body(request: bottle.LocalRequest, body: type[msgspec.Struct]) -> Any:
    if request.content_type.partition(";")[0].strip().lower() != "application/json":
        raise ApiError(400, "bad_body", "send the header Content-Type: application/json")
    data: bytes = request.body.read(BODY_BYTES + 1)
    if len(data) > BODY_BYTES:
        raise ApiError(400, "bad_body", f"the body has more than {BODY_BYTES:,} bytes")
    try:
        return msgspec.json.decode(data, type=body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        fields = ", ".join(body.__struct_fields__)
        raise ApiError(
            400, "bad_body", f"{error}{_allowed(error, body)}; a JSON object with any of {fields} is wanted"
        ) from None


def _allowed(error: Exception, body: type[msgspec.Struct]) -> str:
    """The values of a field that takes only some, which msgspec does not name."""
    match = re.search(r"Invalid enum value .* at `\$\.(\w+)", str(error))
    if match is None:
        return ""
    schema = msgspec.json.schema(body)["$defs"][body.__name__]["properties"][match[1]]
    return f", allowed are {', '.join(map(str, _enum(schema)))}"


def _enum(schema: Any) -> list[Any]:
    """The first list of allowed values anywhere in a JSON Schema."""
    if isinstance(schema, dict) and "enum" in schema:
        return list(schema["enum"])
    parts = schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ()
    return next((found for part in parts if (found := _enum(part))), [])
