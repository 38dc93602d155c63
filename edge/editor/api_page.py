"""What the page is made of: itself, its files, texts and icons. Open to whoever reaches the gateway: nothing in it is
of this gateway, and the login is one of its dialogs."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

import pystache

from edge.editor.http import Api, EditorError, Reply, Request
from edge.editor.static import PUBLIC, Files, Stored, closed_page, missing_page

TITLE: Final = "Voltflow"
_FOREVER: Final = "public, max-age=31536000, immutable"
"""For addresses that change with the content."""
_ASK: Final = "no-cache"
"""For others: browsers ask whether it has changed."""
_A_DAY: Final = "public, max-age=86400"
"""For pictures and fonts under addresses that stay: dozens are on a page, and to ask for each takes longer than all else."""
_PICTURES: Final = ("image/", "font/")
LANGUAGE: Final = "en-US"
_CATALOGS: Final = {
    "editor": "editor-client/locales/en-US/editor.json",
    "jsonata": "editor-client/locales/en-US/jsonata.json",
    "infotips": "editor-client/locales/en-US/infotips.json",
    "node-red": "nodes/locales/en-US/messages.json",
}
_DEBUG: Final = "nodes/core/common/lib/debug/"
_UNKNOWN_ICON: Final = "nodes/icons/arrow-in.svg"


class Page:
    """The handlers; `files` are the editor's, `closed` says why nobody may use it."""

    def __init__(self, files: Files, closed: Callable[[], str]) -> None:
        self._files, self._closed = files, closed

    def add_to(self, api: Api) -> None:
        api.get("/", self.index)
        api.get("/theme", self.theme)
        api.get("/favicon.ico", lambda request: self._file(request, f"{PUBLIC}favicon.ico"))
        api.get("/locales/<name:path>", self.locale)
        api.get("/icons/<module>/<name>", self.icon)
        api.get("/icons/<scope>/<module>/<name>", self.icon)
        for folder in ("red", "vendor"):
            api.get(f"/{folder}/<path:path>", self._below(f"{PUBLIC}{folder}/"))
        api.get("/vendor/mermaid/mermaid.min.js", lambda request: self._file(request, "voltflow/mermaid.js"))
        api.get("/types/<path:path>", self.types)
        api.get("/voltflow/<path:path>", self._below("voltflow/"))
        api.get("/debug/view/<path:path>", self._below(_DEBUG))

    def index(self, request: Request) -> Reply:
        if reason := self._closed():
            return Reply(closed_page(reason).encode(), "text/html; charset=utf-8", status=403)
        template = self._files.text("editor-client/templates/index.mst")
        if not template:
            return Reply(missing_page().encode(), "text/html; charset=utf-8", status=503)
        theme = self.theme(request)
        theme["page"] |= {
            name: [self._ours(path) for path in theme["page"][name]] for name in ("css", "scripts")
        }
        text = pystache.Renderer(missing_tags="ignore").render(
            template, {**theme, "cacheBuster": self._files.buster}
        )
        return Reply(text.encode(), "text/html; charset=utf-8", headers={"Cache-Control": _ASK})

    def theme(self, request: Request) -> dict[str, Any]:
        return {
            "page": {
                "title": TITLE,
                "favicon": "favicon.ico",
                "tabicon": {"icon": "red/images/node-red-icon-black.svg", "colour": "#8f0000"},
                "css": ["voltflow/editor.css"],
                "scripts": ["voltflow/editor.js"],
            },
            "header": {"title": TITLE},
            "asset": {
                "red": "red/red.min.js",
                "main": "red/main.min.js",
                "vendorMonaco": "voltflow/monaco.js",
            },
            "themes": [],
        }

    def types(self, request: Request, path: str) -> Reply:
        """What a JavaScript library declares, for the completion of JavaScript: nothing, for none is run here."""
        return Reply(b"", "text/plain; charset=utf-8", headers={"Cache-Control": _A_DAY})

    def _ours(self, path: str) -> str:
        return f"{path}?v={self._files.buster}"

    def locale(self, request: Request, name: str) -> Any:
        """The editor's texts in the one language there is; the editor asks for it beside any other."""
        if request.query.get("lng", LANGUAGE) != LANGUAGE:
            return {}
        stored = self._files.find(_CATALOGS.get(name.removesuffix(".json").rstrip("/"), ""))
        return {} if stored is None else self._send(request, stored)

    def icon(self, request: Request, module: str, name: str, scope: str = "") -> Reply:
        known = self._files.find(f"nodes/icons/{re.sub(r'[.]png$', '.svg', name)}")
        return self._send(request, known or self._files.find(_UNKNOWN_ICON))

    def _below(self, prefix: str) -> Any:
        return lambda request, path: self._file(request, f"{prefix}{path}")

    def _file(self, request: Request, path: str) -> Reply:
        return self._send(request, self._files.find(path))

    def _keep(self, request: Request, stored: Stored) -> str:
        if request.query.get("v") == self._files.buster:
            return _FOREVER
        return _A_DAY if stored.media.startswith(_PICTURES) else _ASK

    def _send(self, request: Request, stored: Stored | None) -> Reply:
        if stored is None:
            raise EditorError(404, "not_found", "there is no such file")
        headers = {
            "ETag": stored.tag,
            "Cache-Control": self._keep(request, stored),
            "Vary": "Accept-Encoding",
        }
        if request.header("If-None-Match") == stored.tag:
            return Reply(b"", stored.media, 304, headers)
        if stored.compressed and "gzip" in request.header("Accept-Encoding"):
            return Reply(
                stored.path.read_bytes(), stored.media, headers={**headers, "Content-Encoding": "gzip"}
            )
        return Reply(stored.data(), stored.media, headers=headers)
