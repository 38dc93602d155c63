"""What people do with a running flow: press a button, switch a debug node, look into contexts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

from edge.editor.http import NO_CONTENT, Api, EditorError, Reply, Request
from edge.editor.loop import Loop
from voltflow.engine.context import Contexts, Memory
from voltflow.engine.engine import Engine
from voltflow.flow.properties import UNDEFINED
from voltflow.nodes.debug import Debug
from voltflow.nodes.inject import USER_PROPS, Inject
from voltflow.shown import shown

N = TypeVar("N")

STORE: Final = "memory"
"""The one store; what it keeps outlives a restart."""
_OK: Final = Reply(b"OK")
_SWITCHED: Final = {"enable": _OK, "disable": Reply(b"Created", status=201)}
"""The editor knows by the status what the node is now."""


class Runtime:
    """The handlers."""

    def __init__(self, engine: Engine, loop: Loop, contexts: Contexts) -> None:
        self._engine, self._loop, self._contexts = engine, loop, contexts

    def add_to(self, api: Api) -> None:
        api.route("POST", "/inject/<id>", self.inject, needs="inject.write")
        for action in ("enable", "disable"):
            api.route("POST", f"/debug/<id>/{action}", self._debug(action), needs="debug.write")
            api.route("POST", f"/debug/{action}", self._debug_many(action), needs="debug.write")
        for rule in ("/context/<kind:re:global>", "/context/<kind:re:flow|node>/<id>"):
            api.get(rule, self.context, needs="context.read")
            api.get(f"{rule}/<key:path>", self.context, needs="context.read")
            api.route("DELETE", f"{rule}/<key:path>", self.forget, needs="context.write")

    # -- nodes --------------------------------------------------------------------------------------------------------

    def inject(self, request: Request, id: str) -> Reply:
        props = request.fields().get(USER_PROPS) if request.body else None
        if props is not None and not (
            isinstance(props, list) and all(isinstance(item, dict) for item in props)
        ):
            raise EditorError(400, "invalid_request", f'"{USER_PROPS}" is to be a list of objects')
        self._loop.call(lambda: self._node(id, Inject).press(props))
        return _OK

    def _debug(self, action: str) -> Callable[..., Reply]:
        def switch(request: Request, id: str) -> Reply:
            self._loop.call(lambda: self._switch([id], action))
            return _SWITCHED[action]

        return switch

    def _debug_many(self, action: str) -> Callable[..., Reply]:
        def switch(request: Request) -> Reply:
            ids = request.fields().get("nodes", [])
            if not isinstance(ids, list):
                raise EditorError(400, "invalid_request", '"nodes" is to be a list of ids')
            self._loop.call(lambda: self._switch([str(id) for id in ids], action))
            return _SWITCHED[action]

        return switch

    def _switch(self, ids: list[str], action: str) -> None:
        for node in [self._node(id, Debug) for id in ids]:
            node.active = action == "enable"

    def _node(self, id: str, kind: type[N]) -> N:
        """The running node; in the loop."""
        wired = self._engine.nodes.get(id)
        if wired is None or not isinstance(wired.node, kind):
            raise EditorError(404, "not_found", "there is no such node in the running flow; deploy it first")
        return wired.node

    # -- contexts -----------------------------------------------------------------------------------------------------

    def context(self, request: Request, kind: str, id: str = "", key: str = "") -> Any:
        """All values of a scope by store, or one of them."""
        _check_store(request)
        keys_only = "keysOnly" in request.query
        return self._loop.call(lambda: self._context(self._memory(kind, id), key, keys_only))

    def _context(self, memory: Memory, key: str, keys_only: bool) -> Any:
        names = sorted(memory.keys())
        if key:
            return _facts(memory.get(key) if key in names else UNDEFINED)
        if keys_only:
            return {STORE: {"keys": names}}
        return {STORE: {name: _facts(memory.get(name)) for name in names}}

    def forget(self, request: Request, kind: str, key: str, id: str = "") -> Reply:
        _check_store(request)
        self._loop.call(lambda: self._memory(kind, id).delete(key))
        return NO_CONTENT

    def _memory(self, kind: str, id: str) -> Memory:
        return self._contexts.scope(
            "global" if kind == "global" else "flow" if kind == "flow" else "node", id
        )


def _check_store(request: Request) -> None:
    store = request.query.get("store", STORE)
    if store != STORE:
        raise EditorError(404, "not_found", f"there is no store {store!r}, only {STORE!r}")


def _facts(value: Any) -> dict[str, Any]:
    """A value as the context sidebar shows it."""
    format, msg = shown(value)
    return {"msg": msg, "format": format}
