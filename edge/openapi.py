"""The OpenAPI 3.1 document, generated from the declared routes and the structs of their answers."""

from __future__ import annotations

from typing import Any

import msgspec

from edge.alert_views import AlertId
from edge.answers import Error
from edge.queries import PackName
from edge.routes import ROUTES, Route
from voltflow import __version__

METRICS_PATH = "/metrics"
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_REFERENCE = "#/components/schemas/{name}"

Json = dict[str, Any]
_PATH_PARAMETERS = {"pack": PackName, "id": AlertId}


def document(*, token_required: bool = False) -> Json:
    """The document; `token_required` says whether this server asks for a bearer token."""
    bodies = [route.body for route in ROUTES if route.body is not None]
    types = [Error, *bodies, *(route.answer for route in ROUTES)]
    schemas, components = msgspec.json.schema_components(types, ref_template=_REFERENCE)
    error, *rest = schemas
    taken = dict(zip(bodies, rest, strict=False))
    paths: dict[str, Json] = {}
    for route, schema in zip(ROUTES, rest[len(bodies) :], strict=True):
        operation = _operation(route, schema, error, token_required=token_required)
        if route.body is not None:
            content = {"application/json": {"schema": taken[route.body]}}
            operation["requestBody"] = {"required": True, "content": content}
        paths.setdefault(route.path, {})[route.method.lower()] = operation
    paths["/api/openapi.json"] = {
        "get": _plain("This document", "openapi", "application/json", {"type": "object"})
    }
    paths[METRICS_PATH] = {
        "get": _plain("Metrics for Prometheus", "metrics", "text/plain", {"type": "string"})
    }
    result: Json = {
        "openapi": "3.1.0",
        "info": {
            "title": "Voltflow gateway",
            "version": __version__,
            "description": "All but the level of the log and who has seen to an alert is read-only. Times `ts_ms` are device time, milliseconds since 1970; a value that is not "
            "known is null; currents are positive into the battery.",
        },
        "paths": paths,
        "components": {"schemas": components},
    }
    if token_required:
        result["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        result["security"] = [{"token": []}]
    return result


def _operation(route: Route, answer: Json, error: Json, *, token_required: bool) -> Json:
    has_pack = "{pack}" in route.path
    of_path = [
        _path_parameter(name, kind) for name, kind in _PATH_PARAMETERS.items() if f"{{{name}}}" in route.path
    ]
    parameters = [*of_path, *_query_parameters(route.query)]
    failures = {"400": "A parameter is wrong"} if parameters else {"400": "This route takes no parameters"}
    if has_pack or any(parameter["name"] == "pack" for parameter in parameters):
        failures["404"] = "There is no such pack, or several"
    failures |= route.failures
    if token_required:
        failures.setdefault("401", "The token is missing or wrong")
    responses = {"200": _response(route.summary, route.media, answer)}
    responses |= {
        str(code): _response("The same, when it is bad", route.media, answer) for code in route.statuses
    }
    responses |= {code: _response(text, "application/json", error) for code, text in failures.items()}
    return {
        "summary": route.summary,
        "operationId": operation_id(route.path)
        + ("" if route.method == "GET" else f"_{route.method.lower()}"),
        "parameters": parameters,
        "responses": responses,
    }


def operation_id(path: str) -> str:
    """
    >>> operation_id("/api/packs/{pack}/status")
    'packs_pack_status'
    """
    return path.removeprefix("/api/").replace("{", "").replace("}", "").replace("/", "_")


def _plain(summary: str, name: str, media: str, schema: Json) -> Json:
    return {"summary": summary, "operationId": name, "responses": {"200": _response(summary, media, schema)}}


def _response(text: str, media: str, schema: Json) -> Json:
    return {"description": text, "content": {media: {"schema": schema}}}


def _query_parameters(struct: type[msgspec.Struct]) -> list[Json]:
    properties = msgspec.json.schema(struct)["$defs"][struct.__name__]["properties"]
    return [_parameter(name, dict(schema)) for name, schema in properties.items()]


def _parameter(name: str, schema: Json) -> Json:
    """A query parameter: absent means null, so null itself is not a value that can be given."""
    if "anyOf" in schema:
        schema = next(dict(option) for option in schema["anyOf"] if option.get("type") != "null")
    text = schema.pop("description", "")
    return {"name": name, "in": "query", "required": False, "description": text, "schema": schema}


def _path_parameter(name: str, type_: Any) -> Json:
    schema = msgspec.json.schema(type_)
    text = schema.pop("description", "")
    return {"name": name, "in": "path", "required": True, "description": text, "schema": schema}
