"""The page's files as they are sent: what lies in `edge/page` is what is served, compressed for who can read that.

Nothing is built: a file edited is a file served. What the page draws with (`page/vendor`) is installed by
`voltflow page install` and lies there compressed. Browsers ask each time whether a file changed.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Awaitable, Callable, MutableMapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from edge.editor.static import Stored

PAGE: Final = Path(__file__).with_name("page")
_PATH: Final = re.compile(r"/(?:[\w-]+/)*(?:[\w.-]+\.(?:html|js|css|svg)|NOTICE|LICENSE)", re.ASCII)
"""What may be asked for; no name begins with a dot."""
_KNOWN: Final = 200

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class PageFiles:
    """An ASGI application for the paths that `find` finds.

    >>> PageFiles().find("/").path.name
    'index.html'
    >>> PageFiles().find("/../web.py") is None
    True
    """

    def __init__(self, folder: Path = PAGE) -> None:
        self._folder = folder

    def find(self, path: str) -> Stored | None:
        """The file of an address; None where there is none."""
        path = "/index.html" if path == "/" else path
        if _PATH.fullmatch(path) is None or "/." in path:
            return None
        plain = self._folder / path[1:]
        packed = plain.with_name(f"{plain.name}.gz")
        if plain.is_file():
            return Stored(plain, compressed=False)
        return Stored(packed, compressed=True) if packed.is_file() else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer GET and HEAD."""
        stored = self.find(scope["path"])
        assert stored is not None  # the caller looked
        asked = {name: value.decode("latin-1") for name, value in scope["headers"]}
        headers = {"etag": stored.tag, "cache-control": "no-cache", "vary": "accept-encoding"}
        status, body = 200, b""
        if asked.get(b"if-none-match") == stored.tag:
            status = 304
        else:
            body = _read(stored, stored.tag, gzipped := "gzip" in asked.get(b"accept-encoding", ""))
            headers |= {"content-type": stored.media, "content-length": str(len(body))}
            headers |= {"content-encoding": "gzip"} if gzipped else {}
        sent = [(name.encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": status, "headers": sent})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})


@lru_cache(_KNOWN)
def _read(stored: Stored, tag: str, gzipped: bool) -> bytes:
    """The content; `tag` is there so that an edited file is read again."""
    if not gzipped:
        return stored.data()
    raw = stored.path.read_bytes()
    return raw if stored.compressed else gzip.compress(raw, 6, mtime=0)
