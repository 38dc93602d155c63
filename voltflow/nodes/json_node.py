"""The `json` node."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from voltflow.flow.properties import UNDEFINED, get, plain, put, remove
from voltflow.flow.typed import check
from voltflow.message import Msg
from voltflow.node import ConfigError, Context, Transform, config, node
from voltflow.nodelib.json_schema import Schemas
from voltflow.nodelib.loose import json_text


@node("json", category="parser", color="#debd5c", icon="parser-json.svg")
class Json(Transform):
    """Turn a JSON text into values, or values into a JSON text.

    What has the wanted form already passes as it is, as does a message without the property. A text that is no JSON makes the
    message fail; bytes are taken for a text. With `msg.schema`, a JSON schema (draft-07), the values have to fit it: the schema
    is taken off a message that does, one that does not fails. That needs the extra `schema`.
    """

    property: str = config("payload", help="the property that is converted", types=("msg",))
    action: str = config(
        "",
        help="into what: the other form (empty), always a text, always an object",
        choices=("", "str", "obj"),
    )
    pretty: bool = config(False, help="write the text in lines, indented by 4")

    def __post_init__(self) -> None:
        try:
            check(self.property, "msg")
        except ConfigError as error:
            raise ConfigError(f'property "property": {error}') from None

    async def start(self, ctx: Context) -> None:
        self._schemas = Schemas()

    def process(self, msgs: list[Msg]) -> list[Msg]:
        return [self._converted(msg) for msg in msgs]

    def _converted(self, msg: Msg) -> Msg:
        value = plain(get(msg, self.property))
        schema = (msg.props or {}).get("schema")
        if schema and value is not UNDEFINED:
            msg = self._checked(msg, value, schema)
        if isinstance(value, bytes) and self.action != "str":
            value = self._decoded(value)
        if value is UNDEFINED or self.action == ("str" if isinstance(value, str | bytes) else "obj"):
            return msg
        return put(
            msg, self.property, self._parsed(value) if isinstance(value, str) else self._written(value)
        )

    def _checked(self, msg: Msg, value: Any, schema: Any) -> Msg:
        text = self._decoded(value) if isinstance(value, bytes) else value
        values = self._parsed(text) if isinstance(text, str) else value
        self._schemas.check(values, schema, f"msg.{self.property}")
        return remove(msg, "schema")

    def _decoded(self, value: bytes) -> str:
        try:
            return value.decode()
        except UnicodeDecodeError as error:
            raise ValueError(
                f"msg.{self.property} is not JSON: its bytes are no UTF-8 text: {error}"
            ) from None

    def _parsed(self, text: str) -> Any:
        try:
            return msgspec.json.decode(text)
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            raise ValueError(
                f"msg.{self.property} is not JSON: {_where(text) or error}: {text!r:.80}"
            ) from None

    def _written(self, value: Any) -> str:
        try:
            return json_text(value, 4 if self.pretty else None)
        except (TypeError, ValueError) as error:
            raise TypeError(f"msg.{self.property} cannot be written as JSON: {error}") from None


def _where(text: str) -> str:
    """What is wrong with a text: msgspec reads it faster, the standard library says it better."""
    try:
        json.loads(text)
    except (ValueError, RecursionError) as error:
        return str(error)
    return ""
