"""The `template` node."""

from __future__ import annotations

import json
import re
from typing import Any

from voltflow.flow.properties import UNDEFINED, as_object, put
from voltflow.flow.typed import check, context_get
from voltflow.message import Msg
from voltflow.node import ConfigError, Context, Transform, config, node
from voltflow.nodelib.context_writes import Writes, writes
from voltflow.nodelib.loose import as_cell, as_text
from voltflow.nodelib.mustache import TemplateError, parse, render
from voltflow.nodelib.yaml_text import load

_IN_CONTEXT = re.compile(r"(flow|global)(\[\w*\])?\.(.+)", re.DOTALL)


@node("template", category="function", color="#f3b567", icon="template.svg")
class Template(Transform):
    """Set a property to a text made from a template.

    A Mustache template is filled with properties of the message, `{{payload.soc_pct}}`, of the context, `{{flow.limit}}`
    and `{{global.site}}`, and with variables, `{{env.NAME}}`. Three braces keep letters such as < as they are. Without a template of its own the node takes
    `msg.template`. The text can be read as JSON or YAML; one that is neither makes the message fail. Partials are empty.

    Nothing is kept but what is set in a context.
    """

    field: str = config(
        "payload", help="the property that is set", types=("msg", "flow", "global"), type_property="fieldType"
    )
    fieldType: str = config("msg", help="where the property is", choices=("msg", "flow", "global"))
    format: str = config(
        "handlebars", help="language of the template, for the editor's colors", advanced=True
    )
    syntax: str = config("mustache", help="what the template is", choices=("mustache", "plain"))
    template: str = config("This is the payload: {{payload}} !", help="the template", code="mustache")
    output: str = config(
        "str", help="what is set: the text, or what it says as JSON or YAML", choices=("str", "json", "yaml")
    )

    def __post_init__(self) -> None:
        try:
            check(self.field, self.fieldType)
        except ConfigError as error:
            raise ConfigError(f'property "field": {error}') from None
        try:
            if self.syntax == "mustache":
                parse(self.template)
        except TemplateError as error:
            raise ConfigError(f'property "template": {error}') from None

    async def start(self, ctx: Context) -> None:
        self._env = ctx.env
        self._memories = {"flow": ctx.memory("flow", self), "global": ctx.memory("global", self)}

    def process(self, msgs: list[Msg]) -> list[Msg]:
        with writes() as done:
            return [self._filled(msg, done) for msg in msgs]

    def _filled(self, msg: Msg, done: Writes) -> Msg:
        value = self._value(self._text(msg))
        if self.fieldType == "msg":
            return put(msg, self.field, as_cell(value) if self.field == "topic" else value)
        done.put(self._memories[self.fieldType], self.field, value, msg)
        return msg

    def _text(self, msg: Msg) -> str:
        template = self.template
        if not template:
            template = as_text((msg.props or {}).get("template", ""))
        if self.syntax == "plain":
            return template
        return render(parse(template), self._look_up, as_object(msg), for_json=self.output == "json")

    def _look_up(self, name: str) -> Any:
        if name.startswith("env."):
            return self._env.get(name[4:], "")
        found = _IN_CONTEXT.fullmatch(name)
        if found is None:
            return UNDEFINED
        try:
            return context_get(self._memories[found[1]], found[3], Msg("", None))
        except ValueError:
            return UNDEFINED  # not a path: nothing is there

    def _value(self, text: str) -> Any:
        if self.output == "str":
            return text
        try:
            return json.loads(text) if self.output == "json" else load(text)
        except ValueError as error:
            raise ValueError(
                f"what the template gives is not {self.output.upper()}: {error}: {text!r:.200}"
            ) from None
