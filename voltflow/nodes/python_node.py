"""The `python` node: a function in Python."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any, ClassVar

from voltflow.engine.events import Badge
from voltflow.engine.turn import Partly
from voltflow.message import Msg
from voltflow.node import ConfigError, Context, Ports, Transform, config, node
from voltflow.nodelib.python_code import Code, Message, PythonError, messages_of
from voltflow.nodelib.time_limit import REST, STRIKES, TimeIsUp, TimeLimit
from voltflow.shown import ERROR, WARN, log_message

log = logging.getLogger("voltflow.python")


@node("python", category="function", color="#fdd0a2", icon="function.svg")
class Python(Transform):
    """A function in Python, called for each message.

    `msg` has `payload`, `topic` and what else the message has, as attributes or with brackets; it may be changed. The function
    returns it, another message (a dict), a list with one for each output or with lists of them, or None for nothing. There
    are `node` (`send`, `status`, `warn`, `error`, `log`, `id`, `name`), `context`, `flow` and `global_` (`get`, `set`,
    `delete`, `keys`), `env` and `Message`; what `initialize` imports and defines is known to the function too. `node.error(text,
    msg)` sends the message to `catch` nodes, as an exception does.

    The code runs with the rights of the gateway, and nothing else runs meanwhile: no waiting, no requests. What takes longer
    than `timeout` is ended (five times that where it only waits), between two steps of Python; a single call that never comes
    back is not. After three such messages
    in a row the node rests for 30 times as long, and messages fail at once. Memory is not limited. Readings of the battery
    nodes are dicts here and stay readings where they are not changed. Names that the code gives values are gone after a
    restart, contexts are durable; a message that comes again after a crash is counted again in both.
    """

    needs_permission: ClassVar[str] = "python"
    """Whoever deploys it may run whatever the gateway may."""

    func: str = config("return msg", help="the body of the function", code="python", label="On message")
    outputs: int = config(1, help="how many outputs there are", low=0, high=100)
    initialize: str = config(
        "", help="runs once at the start: imports, functions, names", code="python", label="On start"
    )
    finalize: str = config("", help="runs once at the stop", code="python", label="On stop")
    timeout: float = config(1.0, help="how long a message may take", unit="s", low=0.01, high=10)

    # state
    ended: int = 0
    strikes: int = 0

    def __post_init__(self) -> None:
        self._function = Code(self.func, "func", ("msg",))
        self._at_start = Code(self.initialize, "initialize")
        self._at_stop = Code(self.finalize, "finalize")

    async def start(self, ctx: Context) -> None:
        self._events, self._timer = ctx.events, ctx.timer
        self._limit = TimeLimit(
            self.timeout, (code.filename for code in (self._function, self._at_start, self._at_stop))
        )
        self._rests_until_s = 0.0
        self._current: Msg | None = None
        self._ports: list[list[Msg]] = []
        self._failed: list[tuple[Msg, Exception]] = []
        self._names = {
            "__name__": "python", "node": NodeApi(self), "env": ctx.env, "Message": Message, "context": ctx.memory("node", self),
            "flow": ctx.memory("flow", self), "global_": ctx.memory("global", self),
        }  # fmt: skip
        if not TimeLimit.works():
            log.warning(
                "%s: the flow does not run in the main thread, so its time limit does not hold", self.label
            )
        TimeLimit.open()
        try:
            self._once(self._at_start)
            self._call = self._function.bind(self._names)
        except PythonError as error:
            TimeLimit.close()
            raise ConfigError(f'property "initialize": {error}') from None

    async def stop(self) -> None:
        try:
            self._once(self._at_stop)
        except PythonError as error:
            self.say(ERROR, f"finalize: {error}")
        finally:
            TimeLimit.close()

    def _once(self, code: Code) -> None:
        """Run it within the limit; raises PythonError."""
        with self._limit.armed():
            try:
                self._limit.begin()
                code.run(self._names)
                self._limit.end()
            except TimeIsUp as error:
                raise code.time_is_up(error, self.timeout) from None
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # noqa: BLE001 - also SystemExit
                raise code.error(error) from None

    def process(self, msgs: list[Msg]) -> Ports:
        ports: list[list[Msg]] = [[] for _ in range(self.outputs)]
        failed: list[tuple[Msg, Exception]] = []
        self._ports, self._failed = ports, failed
        with self._limit.armed():
            for msg in msgs:
                error = self._run(msg)
                if error is not None:
                    failed.append((msg, error))
        if failed:
            raise Partly(tuple(ports), failed)
        return tuple(ports)

    def _run(self, msg: Msg) -> PythonError | None:
        """Call the function for a message; what it failed with."""
        if self.strikes >= STRIKES and time.monotonic() < self._rests_until_s:
            return PythonError(
                f"rests, because it took longer than {self.timeout:g} s {self.strikes} times in a row"
            )
        self._current = msg
        try:
            self._limit.begin()
            result = self._call(Message(msg))
            self._limit.end()
            self.put(messages_of(result, self.outputs, msg))
        except TimeIsUp as error:
            return self._too_long(self._function.time_is_up(error, self.timeout))
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 - also SystemExit, which must not end the gateway
            return self._function.error(error)
        finally:
            self._limit.end()
            self._current = None
        if self.strikes:
            self._again()
        return None

    def _too_long(self, error: PythonError) -> PythonError:
        self.ended += 1
        self.strikes += 1
        self._rests_until_s = time.monotonic() + REST * self.timeout
        self.say(ERROR, str(error))
        if self.strikes >= STRIKES:
            self.show({"fill": "red", "shape": "ring", "text": "takes too long, rests"})
        return error

    def _again(self) -> None:
        if self.strikes >= STRIKES:
            self.show({})
        self.strikes = 0

    # -- for `node` -----------------------------------------------------------------------------------------------

    @property
    def current(self) -> Msg:
        """The message that is worked on."""
        if self._current is None:
            raise PythonError("nothing can be sent here: only while the function works on a message")
        return self._current

    def put(self, ports: list[list[Msg]]) -> None:
        for port, msgs in zip(self._ports, ports, strict=False):
            port += msgs

    def fail(self, msg: Msg, text: str) -> None:
        self._failed.append((msg, PythonError(text)))

    def say(self, level: int, value: Any) -> None:
        told = log_message(self, level, value, self._timer.now_s())
        log.log(logging.ERROR if level == ERROR else logging.WARNING, "%s: %s", self.label, told["msg"])
        if self._events.heard:
            self._events.tell("debug", told)

    def status(self) -> dict[str, Any]:
        return {"ended": self.ended, "strikes": self.strikes}


class NodeApi:
    """What the code knows as `node`."""

    def __init__(self, node: Python) -> None:
        self._node = node
        self.id, self.name = node.id, node.name

    def send(self, msgs: Any) -> None:
        """Give messages out now, as the function's return value does at its end."""
        node = self._node
        node.put(messages_of(msgs, node.outputs, node.current))

    def status(self, badge: Mapping[str, Any] | str | None = None) -> None:
        """Show below the node: fill, shape and text, or a text alone; nothing clears it."""
        found: Badge = {}
        if isinstance(badge, Mapping):
            for name in ("fill", "shape", "text"):
                if name in badge:
                    found[name] = str(badge[name])
        elif badge is not None:
            found["text"] = str(badge)
        self._node.show(found)

    def log(self, value: Any) -> None:
        log.info("%s: %s", self._node.label, value)

    def warn(self, value: Any) -> None:
        self._node.say(WARN, value)

    def error(self, value: Any, msg: Any = None) -> None:
        """Say that something went wrong; with a message, that message fails."""
        if msg is None:
            self._node.say(ERROR, value)
            return
        current = self._node.current
        for failed in messages_of(msg, 1, current)[0]:
            self._node.fail(failed, str(value))

    def done(self) -> None:
        """For code that was written for Node-RED; a message is done when the function returns."""
