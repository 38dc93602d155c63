"""The documentation as a site: built without a warning, complete, and without anything loaded from elsewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.servers import REPOSITORY

USERS = ("technician", "flows", "fleet-operator", "data-scientist", "contributing", "tutorial")


def build(out: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(out), *arguments]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}  # news of the theme's makers, not of this site
    return subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=250, check=False
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site")
    done = build(out)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    return out


def test_each_user_has_a_page_and_each_picture_is_there(site: Path) -> None:
    assert {f"{name}.html" for name in USERS} <= {path.name for path in site.glob("*.html")}
    for page in site.glob("*.html"):
        for source in re.findall(r'<img [^>]*src="([^"]+)"', page.read_text("utf-8")):
            assert (page.parent / source).exists(), f"{page.name}: {source}"


def test_a_page_loads_nothing_from_elsewhere(site: Path) -> None:
    for page in site.glob("*.html"):
        loaded = re.findall(
            r'<(?:script|img|link)\b[^>]*(?:src|href)="(https?:[^"]+)"', page.read_text("utf-8")
        )
        assert loaded == [], page.name


def test_links_to_the_sources_became_their_names(site: Path) -> None:
    text = (site / "flows.html").read_text("utf-8")
    assert "<code>edge/flows.json</code>" in text
    assert 'href="contributing.html"' in (site / "index.html").read_text("utf-8")


def test_a_broken_link_fails_the_build(tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "index.md").write_text("# Here\n\n[there](no-such-page.md)\n")
    config = (REPOSITORY / "mkdocs.yml").read_text("utf-8")
    config = re.sub(r"^nav:.*", "", config, flags=re.MULTILINE | re.DOTALL)
    config = config.replace("docs_dir: docs", f"docs_dir: {docs}")
    config = config.replace("hooks: [packaging/docs_site.py]", "")
    (tmp_path / "mkdocs.yml").write_text(config)
    done = build(tmp_path / "site", "--config-file", str(tmp_path / "mkdocs.yml"))
    assert done.returncode != 0
    assert "no-such-page.md" in done.stderr
