"""`/api/log`: what the gateway logs, and changing it while it runs."""

from __future__ import annotations

from typing import Annotated, Any

import bottle
import msgspec
from msgspec import Meta

from edge.state import AppState
from voltflow.log_levels import Now
from voltflow.logs import Level

PATH = "/api/log"
BODY_BYTES = 10_000
LoggerName = Annotated[str, Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_.]{0,99}$")]


class LogChange(msgspec.Struct, forbid_unknown_fields=True):
    """What is to be logged: the least `level` (null: as it is) and those of loggers that shall have one of their own; other
    loggers lose theirs. After `for_s` seconds it is again as the settings say; null: it stays until the gateway ends.
    An empty object takes it back to the settings at once."""

    level: Level | None = None
    levels: Annotated[dict[LoggerName, Level], Meta(max_length=50)] = {}
    for_s: Annotated[float, Meta(ge=1, le=86400)] | None = None


class RefusedError(Exception):
    """The change cannot be made; the message says why."""


def read(state: AppState) -> Now:
    """What is logged now."""
    return state.log_levels.now()


def change(state: AppState, body: bytes) -> Now:
    """Log as the body says; raises RefusedError."""
    try:
        wanted = msgspec.json.decode(body, type=LogChange)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        fields = ", ".join(LogChange.__struct_fields__)
        raise RefusedError(f"{error}; a JSON object with any of {fields} is wanted") from None
    if wanted == LogChange():
        state.log_levels.reset()
    else:
        state.log_levels.set(wanted.level, wanted.levels, wanted.for_s)
    return read(state)


def body_of(request: bottle.LocalRequest) -> bytes:
    """The request's body; raises RefusedError where it is too long, or of a type that a foreign page could send."""
    if request.content_type.partition(";")[0].strip().lower() != "application/json":
        raise RefusedError("send the header Content-Type: application/json")
    body: bytes = request.body.read(BODY_BYTES + 1)
    if len(body) > BODY_BYTES:
        raise RefusedError(f"the body has more than {BODY_BYTES:,} bytes")
    return body


def operation(schema: dict[str, Any], error: dict[str, Any], *, token_required: bool) -> dict[str, Any]:
    """PUT in the OpenAPI document; `schema` is that of `LogChange`."""
    failures = {"400": "The body is not what is wanted"} | (
        {"401": "The token is missing or wrong"} if token_required else {}
    )
    answer = {"$ref": "#/components/schemas/Now"}
    return {
        "summary": "Change what is logged, for a time or until the gateway ends",
        "operationId": "log_put",
        "requestBody": {"required": True, "content": {"application/json": {"schema": schema}}},
        "responses": {
            "200": {"description": "What is logged now", "content": {"application/json": {"schema": answer}}},
            **{
                code: {"description": text, "content": {"application/json": {"schema": error}}}
                for code, text in failures.items()
            },
        },
    }  # fmt: skip
