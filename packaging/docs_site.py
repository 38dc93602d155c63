"""Hooks of the documentation's site (mkdocs.yml): pages and links beyond `docs/`.

The pages are read on a code host as well, where a link such as `../CONTRIBUTING.md` works. On the site the pages that stand
elsewhere are pages too, and a link to a source file is its name.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

REPOSITORY = Path(__file__).resolve().parents[1]
ELSEWHERE = {
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "mosquitto/README.md": "mosquitto.md",
    "grafana/README.md": "grafana-files.md",
    "README.md": "index.md",
}
"""Files of the repository that are pages of the site, under these names; the README is `docs/index.md` there."""

_LINK = re.compile(r"\[(?P<text>[^\]]*)\]\((?P<target>[^)#\s]+)(?P<anchor>#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for source, name in ELSEWHERE.items():
        path = REPOSITORY / source
        if name != "index.md" and path.exists():
            files.append(File.generated(config, name, content=path.read_text("utf-8")))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    source = next((path for path, name in ELSEWHERE.items() if name == page.file.src_uri), None)
    folder = "docs" if source is None or page.file.src_uri == "index.md" else posixpath.dirname(source)

    def link(found: re.Match[str]) -> str:
        target = found["target"]
        if ":" in target:
            return found[0]
        path = posixpath.normpath(posixpath.join(folder, target))
        if path.startswith("docs/") and (REPOSITORY / path).suffix:
            return f"[{found['text']}]({path.removeprefix('docs/')}{found['anchor'] or ''})"
        if path in ELSEWHERE:
            return f"[{found['text']}]({ELSEWHERE[path]}{found['anchor'] or ''})"
        return found["text"]  # a file of the sources, or a folder: its name is enough

    return _LINK.sub(link, markdown)
