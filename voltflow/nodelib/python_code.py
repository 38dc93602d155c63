"""A person's Python in a flow: compiled once, called with messages it may change as it likes, its answers made messages.

>>> code = Code("msg.payload['v'] *= 2\\nreturn msg", "func", ("msg",))
>>> call = code.bind({})
>>> original = Msg("t", {"v": 1})
>>> [made] = messages_of(call(Message(original)), 1, original)[0]
>>> made.payload, original.payload
({'v': 2}, {'v': 1})
"""

from __future__ import annotations

import ast
import inspect
import typing
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from types import CodeType
from typing import Any

from voltflow.flow.field import ConfigError
from voltflow.flow.properties import UNDEFINED, plain, topic_text
from voltflow.message import Msg, message_id
from voltflow.nodelib.time_limit import TimeIsUp

TIME_IS_UP = "_TimeIsUp"
"""The name under which code that catches everything lets the end of its time through."""


class PythonError(Exception):
    """A person's code failed; the message names the line."""


class Code:
    """A piece of a person's code, compiled: the body of a function with these arguments, or (None) of a module.

    Raises ConfigError naming property and line where it is no Python.
    """

    def __init__(self, text: str, name: str, arguments: tuple[str, ...] | None = None) -> None:
        self.name, self._lines = name, text.splitlines()
        self.filename = f"<{name}>"
        try:
            self._code = self._compile(ast.parse(text, self.filename), arguments)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise ConfigError(f'property "{name}": {self._syntax(error)}') from None

    def _compile(self, tree: ast.Module, arguments: tuple[str, ...] | None) -> CodeType:
        tree = _LetThrough().visit(tree)
        if arguments is None:
            return self._compiled(tree)
        function = ast.parse(f"def {self.name}({', '.join(arguments)}): pass").body[0]
        assert isinstance(function, ast.FunctionDef)
        function.body = tree.body or function.body
        code = self._compiled(ast.Module([function], []))
        inner = next(item for item in code.co_consts if isinstance(item, CodeType))
        if inner.co_flags & (inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR):
            raise SyntaxError("'yield' is not possible here; return a list of messages")
        return code

    def _compiled(self, tree: ast.Module) -> CodeType:
        return compile(ast.fix_missing_locations(tree), self.filename, "exec", dont_inherit=True)

    def _syntax(self, error: Exception) -> str:
        line = getattr(error, "lineno", None)
        text = str(getattr(error, "msg", None) or str(error) or type(error).__name__)
        return f"{self._where(line)}: {text}" if line else text

    def _where(self, line: int) -> str:
        source = self._lines[line - 1].strip() if 0 < line <= len(self._lines) else ""
        return f"line {line}" + (f" ({source[:80]})" if source else "")

    def run(self, names: dict[str, Any]) -> None:
        """Run a module's code; what it defines is in `names` then."""
        names[TIME_IS_UP] = TimeIsUp
        exec(self._code, names)  # noqa: S102 - what the node is for; only who has the right to may deploy it

    def bind(self, names: dict[str, Any]) -> Callable[..., Any]:
        """The function, with these global names."""
        self.run(names)
        function = names.pop(self.name)
        assert callable(function)
        return typing.cast("Callable[..., Any]", function)

    def error(self, error: BaseException) -> PythonError:
        """What the code raised, with its line."""
        text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        if isinstance(error, PythonError):
            text = str(error)
        line = self._line_of(error)
        return PythonError(f"{self._where(line)}: {text}" if line else text)

    def time_is_up(self, error: BaseException, limit_s: float) -> PythonError:
        """It took too long."""
        line = self._line_of(error)
        at = f" at {self._where(line)}" if line else ""
        return PythonError(f"took longer than {limit_s:g} s and was ended{at}")

    def _line_of(self, error: BaseException) -> int:
        """The line of this code where the error came up, or where it called what failed; 0: in none."""
        line, trace = 0, error.__traceback__
        while trace is not None:
            if trace.tb_frame.f_code.co_filename == self.filename:
                line = trace.tb_lineno
            trace = trace.tb_next
        return line


class _LetThrough(ast.NodeTransformer):
    """Lets TimeIsUp pass where the code catches everything: `except:` in a loop would keep it running."""

    def visit_Try(self, node: ast.Try) -> ast.Try:
        self.generic_visit(node)
        if any(_catches_all(handler.type) for handler in node.handlers):
            name = ast.Name(TIME_IS_UP, ast.Load())
            node.handlers.insert(0, ast.ExceptHandler(name, None, [ast.Raise(None, None)]))
        return node


def _catches_all(kind: ast.expr | None) -> bool:
    if isinstance(kind, ast.Tuple):
        return any(map(_catches_all, kind.elts))
    return kind is None or (isinstance(kind, ast.Name) and kind.id == "BaseException")


class Message(MutableMapping[str, Any]):
    """A message for a person's code: `msg.payload`, `msg.topic` or `msg["topic"]`, and whatever else it has or is given.

    It may be changed as one likes: what it shows of the original is a copy, made when it is looked at. A name that a dict has
    (`values`, `items`, `get` …) is read with brackets only.

    >>> msg = Message(topic="t", payload=1)
    >>> msg.unit = "V"
    >>> dict(msg), "unit" in msg, msg.get("none")
    ({'topic': 't', 'payload': 1, 'unit': 'V'}, True, None)
    """

    __slots__ = ("_original", "_values")
    _original: Msg | None
    _values: dict[str, Any]

    def __init__(self, original: Msg | None = None, **values: Any) -> None:
        object.__setattr__(self, "_original", original)
        object.__setattr__(self, "_values", values)

    def __getitem__(self, name: str) -> Any:
        value = self._values.get(name, _NOT_LOOKED_AT)
        if value is _NOT_LOOKED_AT:
            value = self._load(name)
        if value is UNDEFINED:
            raise KeyError(name)
        return value

    def _load(self, name: str) -> Any:
        original = self._original
        if original is None:
            return UNDEFINED
        if name == "topic":
            return original.topic
        if name == "_msgid":
            return message_id(original)
        if name == "payload":
            value = copied(plain(original.payload))
        else:
            value = copied((original.props or {}).get(name, UNDEFINED))
        if value is not UNDEFINED:
            self._values[name] = value
        return value

    def __setitem__(self, name: str, value: Any) -> None:
        self._values[name] = value

    def __delitem__(self, name: str) -> None:
        if name not in self:
            raise KeyError(name)
        self._values[name] = UNDEFINED

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"the message has no property {name!r}") from None

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    def __delattr__(self, name: str) -> None:
        if name not in self:
            raise AttributeError(f"the message has no property {name!r}")
        del self[name]

    def __iter__(self) -> Iterator[str]:
        names = dict.fromkeys(self._values)
        if self._original is not None:
            names = dict.fromkeys(("_msgid", "topic", "payload", *(self._original.props or ()), *names))
        return (name for name in names if self._values.get(name) is not UNDEFINED)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __repr__(self) -> str:
        return f"Message({dict(self)!r})"

    def made(self, current: Msg) -> Msg:
        """The message it stands for; `current` is the one that is worked on."""
        original, values = self._original, self._values
        if original is not None and not values:
            return original
        base = current if original is None else original
        topic = values.get("topic", "" if original is None else original.topic)
        props = dict(original.props or {}) if original is not None else {}
        for name, value in values.items():
            if value is UNDEFINED:
                props.pop(name, None)
            elif name not in {"topic", "payload"} and not (name == "_msgid" and value == message_id(base)):
                props[name] = copied(value)
        return base.derive(
            topic=topic_text(topic),
            payload=self._payload(),
            props=props or None,
        )

    def _payload(self) -> Any:
        original = self._original
        value = self._values.get("payload", _NOT_LOOKED_AT)
        if value is _NOT_LOOKED_AT:
            return None if original is None else original.payload
        if value is UNDEFINED:
            return None
        if original is not None and type(original.payload) not in _PLAIN and value == plain(original.payload):
            return original.payload  # one of the gateway's own stays one where it was only looked at
        return copied(value)


_NOT_LOOKED_AT = object()
_ATOMS = frozenset({str, int, float, bool, type(None), bytes})
_PLAIN = _ATOMS | {dict, list}


def copied(value: Any) -> Any:
    """Objects and lists anew, so that whoever has the value may change it; what else there is as it is."""
    kind = type(value)
    if kind in _ATOMS:
        return value
    if kind is dict:
        return {name: item if type(item) in _ATOMS else copied(item) for name, item in value.items()}
    if kind is list or kind is tuple:
        return [item if type(item) in _ATOMS else copied(item) for item in value]
    if isinstance(value, Mapping):
        return {name: copied(item) for name, item in value.items()}
    return bytes(value) if kind is bytearray else value


def messages_of(result: Any, outputs: int, current: Msg) -> list[list[Msg]]:
    """What the code returned or sent, by output: a message, a list with one for each output, or with lists of them; nothing
    where there is None. Raises PythonError."""
    items = result if isinstance(result, list | tuple) else (result,)
    ports = [_messages(item, current) for item in items]
    for number, extra in enumerate(ports[outputs:], outputs + 1):
        if extra:
            raise PythonError(f"a message for output {number}, but the node has {outputs}")
    return ports[:outputs]


def _messages(item: Any, current: Msg) -> list[Msg]:
    if item is None:
        return []
    if isinstance(item, Message):
        return [item.made(current)]
    if isinstance(item, Mapping):
        return [Message(None, **{str(name): value for name, value in item.items()}).made(current)]
    if isinstance(item, list | tuple) and not any(isinstance(inner, list | tuple) for inner in item):
        return [msg for inner in item for msg in _messages(inner, current)]
    raise PythonError(f"{type(item).__name__} is no message; expected are a message (msg, or a dict), a list of them for each "
                      "output, or None")  # fmt: skip
