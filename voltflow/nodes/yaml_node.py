"""The `yaml` node."""

from __future__ import annotations

from typing import Any

from voltflow.flow.properties import UNDEFINED, get, plain, put
from voltflow.flow.typed import check
from voltflow.message import Msg
from voltflow.node import ConfigError, Transform, config, node
from voltflow.nodelib.loose import is_object
from voltflow.nodelib.yaml_text import YamlError, dump, load


@node("yaml", category="parser", color="#debd5c", icon="parser-yaml.svg")
class Yaml(Transform):
    """Turn a YAML text into values, or values into a YAML text.

    The text is read by YAML 1.2: `yes` and dates are texts. A message without the property passes as it is; a text that is not YAML,
    more than one document, bytes, a number or a bool make it fail. A hundred values take milliseconds to write, and the gateway
    waits: this is for settings and reports, not for each message of a fleet.
    """

    property: str = config("payload", help="the property that is converted", types=("msg",))
    propertyOut: str = config(
        "", help="where the result goes; empty: the same property", types=("msg",), advanced=True
    )

    def __post_init__(self) -> None:
        for name in ("property", "propertyOut"):
            try:
                check(getattr(self, name) or self.property, "msg")
            except ConfigError as error:
                raise ConfigError(f'property "{name}": {error}') from None

    def process(self, msgs: list[Msg]) -> list[Msg]:
        return [self._converted(msg) for msg in msgs]

    def _converted(self, msg: Msg) -> Msg:
        value = plain(get(msg, self.property))
        if value is UNDEFINED:
            return msg
        return put(msg, self.propertyOut or self.property, self._other(value))

    def _other(self, value: Any) -> Any:
        if isinstance(value, str):
            try:
                return load(value)
            except YamlError as error:
                raise ValueError(f"msg.{self.property} is not YAML: {error}") from None
        if not is_object(value) or isinstance(value, bytes):
            raise TypeError(
                f"msg.{self.property} is {type(value).__name__}, expected a text, an object or a list"
            )
        try:
            return dump(value)
        except YamlError as error:
            raise ValueError(f"msg.{self.property} cannot be written as YAML: {error}") from None
