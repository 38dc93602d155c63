"""The editor's files as they are sent: found by path, compressed as they are stored, with what browsers may keep.

Use: `Files().find("editor-client/public/red/red.min.js")`; None where there is no such file, or the editor is not
installed. Whoever installs it while the agent runs need not restart it.
"""

from __future__ import annotations

import gzip
import hashlib
import html
import mimetypes
import threading
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Final

from voltflow import __version__
from voltflow.admin import editor_files

OWN: Final = Path(__file__).with_name("assets")
"""What Voltflow adds to the page."""
PUBLIC: Final = "editor-client/public/"
_TEXT: Final = frozenset({"application/json", "text/javascript", "image/svg+xml"})
_TYPES: Final = {
    "js": "text/javascript", "map": "application/json", "svg": "image/svg+xml", "ttf": "font/ttf", "woff": "font/woff",
    "woff2": "font/woff2", "eot": "application/vnd.ms-fontobject", "ico": "image/x-icon", "json": "application/json",
    "LICENSE": "text/plain", "NOTICE": "text/plain",
}  # fmt: skip


@dataclass(frozen=True)
class Stored:
    """A file as it lies on disk; `compressed`: by gzip."""

    path: Path
    compressed: bool

    @property
    def media(self) -> str:
        """Its content type."""
        name = self.path.name.removesuffix(".gz") if self.compressed else self.path.name
        media = _TYPES.get(name.rpartition(".")[2]) or mimetypes.guess_type(name)[0]
        media = media or "application/octet-stream"
        return f"{media}; charset=utf-8" if media.startswith("text/") or media in _TEXT else media

    @cached_property
    def tag(self) -> str:
        """Changes with the file."""
        stat = self.path.stat()
        return f'"{stat.st_size:x}-{stat.st_mtime_ns:x}"'

    def data(self) -> bytes:
        """The content, not compressed."""
        raw = self.path.read_bytes()
        return gzip.decompress(raw) if self.compressed else raw


class Files:
    """The installed files by their path in the packages, `editor-client/…` and `nodes/…`, and our own, `voltflow/…`."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or editor_files.folder()
        self._lock = threading.Lock()
        self._found: dict[str, Stored] = {}

    @property
    def present(self) -> bool:
        """Whether the editor is installed."""
        return bool(self._all())

    def find(self, path: str) -> Stored | None:
        return self._all().get(path)

    def text(self, path: str) -> str:
        """The content of a text file; empty where it is not there."""
        stored = self.find(path)
        return stored.data().decode() if stored else ""

    def under(self, prefix: str) -> list[str]:
        """The paths that begin so, sorted."""
        return sorted(path for path in self._all() if path.startswith(prefix))

    @cached_property
    def buster(self) -> str:
        """Stands in the addresses of what browsers keep for good; changes with Voltflow and the editor."""
        own = b"".join(path.read_bytes() for path in sorted(OWN.iterdir()) if path.is_file())
        return hashlib.sha256(f"{__version__} {editor_files.VERSION}".encode() + own).hexdigest()[:12]

    def _all(self) -> dict[str, Stored]:
        """By path. What is not in it cannot be asked for, whatever a path says."""
        with self._lock:
            if not self._found and editor_files.installed(self.folder):
                self._found = _index(self.folder, "") | _index(OWN, "voltflow/")
            return self._found


def _index(folder: Path, prefix: str) -> dict[str, Stored]:
    found = {}
    for path in folder.rglob("*"):
        if path.is_file():
            name = path.relative_to(folder).as_posix()
            compressed = path.suffix == ".gz"
            found[prefix + (name.removesuffix(".gz") if compressed else name)] = Stored(path, compressed)
    return found


def closed_page(reason: str) -> str:
    """What is shown where nobody may use the editor."""
    return (
        "<!doctype html><meta charset=utf-8><title>Voltflow</title>"
        f"<h1>The editor is closed</h1><p>{html.escape(reason)}</p>"
        "<p>The gateway runs without it: <a href='../'>its page</a>.</p>"
    )


@lru_cache(maxsize=1)
def missing_page() -> str:
    """What is shown where the editor is not installed."""
    return (
        "<!doctype html><meta charset=utf-8><title>Voltflow</title>"
        "<h1>The editor is not installed</h1>"
        f"<p>Run <code>{editor_files.INSTALL_COMMAND}</code> where the agent is installed, then load this page again. "
        "It fetches two archives with npm; for a machine without network, fetch them elsewhere with "
        f"<code>{editor_files.bundle().pack_command}"
        f"</code> and run <code>{editor_files.INSTALL_COMMAND} --from *.tgz</code>.</p>"
        "<p>The gateway runs without it: <a href='../'>its page</a>.</p>"
    )
