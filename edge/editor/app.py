"""Node-RED's editor on this gateway: all of it as one ASGI application below `/editor`.

    editor = Editor(engine, store, Auth(…), contexts, state_dir)
    server = WebServer(state, host, port, token, editor=editor)

Its requests are answered by threads of its own, so that a deploy that waits for a far side holds up nobody else.
"""

from __future__ import annotations

import html
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from a2wsgi import WSGIMiddleware

from edge.editor.api_flows import Flows
from edge.editor.api_login import Logins
from edge.editor.api_nodes import Nodes
from edge.editor.api_page import Page
from edge.editor.api_runtime import Runtime
from edge.editor.auth import Auth
from edge.editor.comms import Comms, Receive, Send
from edge.editor.flow_store import FlowStore
from edge.editor.http import Api
from edge.editor.loop import Loop
from edge.editor.palette import Palette
from edge.editor.preferences import Preferences
from edge.editor.static import Files
from voltflow.engine.context import Contexts
from voltflow.engine.engine import Engine

ROOT: Final = "/editor"
COMMS: Final = f"{ROOT}/comms"
WORKERS: Final = 8

CONTENT_POLICY: Final = (
    "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    "connect-src 'self'; img-src 'self' data: blob:; font-src 'self' data:; worker-src 'self' blob:; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
"""What the editor needs: node sets are html with scripts and styles in it, its text editor runs workers."""


class Editor:
    """Serves the editor for an engine. Everything but `serve`, `open` and `close` happens through HTTP."""

    def __init__(
        self,
        engine: Engine,
        store: FlowStore,
        auth: Auth,
        contexts: Contexts,
        state_dir: Path,
        files: Files | None = None,
    ) -> None:
        self.files = files = files or Files()
        self.auth = auth
        self.comms = Comms(engine, auth, self._notices)
        self._engine, self._store, self._loop = engine, store, Loop()
        palette = Palette(files)
        nodes = Nodes(palette, Preferences(state_dir), auth, self._used_types, self._tell)
        api = Api(auth)
        for handlers in (
            Page(files, lambda: auth.closed),
            Logins(auth),
            Flows(store, self._loop, nodes.refuse_disabled, self._deployed),
            nodes,
            Runtime(engine, self._loop, contexts),
        ):
            handlers.add_to(api)
        self.wsgi = api.app
        self._threads: Any = None

    def open(self) -> None:
        """Called in the engine's event loop, before the first request."""
        self._loop.open()
        self._threads = WSGIMiddleware(self.wsgi, workers=WORKERS)

    async def close(self) -> None:
        """End connections; requests under way are answered, or told that the gateway is stopping."""
        await self.comms.close()
        self._loop.close()
        if self._threads is not None:
            self._threads.executor.shutdown(wait=False)

    async def serve(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        """An ASGI application for paths below `/editor`, and the websocket."""
        if scope["type"] == "websocket":
            await self.comms.serve(scope, receive, send)
            return
        path = scope["path"].removeprefix(ROOT)
        if not path:  # without the slash every address in the page would be another one
            headers = [(b"location", b"editor/"), (b"content-length", b"0")]
            await send({"type": "http.response.start", "status": 301, "headers": headers})
            await send({"type": "http.response.body", "body": b""})
            return
        await self._threads({**scope, "path": path}, receive, send)

    # -- between its parts --------------------------------------------------------------------------------------------

    def _deployed(self, rev: str) -> None:
        """Other open editors offer to show what is new."""

        def tell() -> None:
            self.comms.publish("notification/runtime-deploy", {"revision": rev}, retain=True)
            self.comms.refresh()

        self._loop.call(tell)

    def _tell(self, topic: str, data: Any) -> None:
        self._loop.call(lambda: self.comms.publish(topic, data))

    def _used_types(self) -> set[str]:
        return self._loop.call(lambda: {str(node["type"]) for node in self._store.read()[0]})

    def _notices(self) -> Mapping[str, Any]:
        """What an editor that opens is to know: whether the flow runs, and what of it people should hear."""
        told: dict[str, Any] = {"notification/runtime-state": {"state": self._store.state}}
        for notice in self._store.notices:
            if notice.code != "flow_stopped":  # its own sign in the editor says so
                # the editor makes html of the text
                told[f"notification/{notice.code}"] = {"text": html.escape(notice.text), "type": "warning"}
        return told
