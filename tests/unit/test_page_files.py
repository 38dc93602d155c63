"""The page's files: light, whole, asking no other server; and the installation of what it draws with."""

from __future__ import annotations

import asyncio
import base64
import gzip
import hashlib
import io
import json
import posixpath
import re
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edge.page_files import PAGE, PageFiles
from voltflow.admin import npm_files, page_files
from voltflow.admin.npm_files import NpmFilesError
from voltflow.cli import main

FIRST_VIEW_BYTES = 300_000
OWN = sorted(
    path
    for path in PAGE.rglob("*")
    if path.suffix in {".html", ".js", ".css"} and "vendor" not in path.relative_to(PAGE).parts
)
_IMPORT = re.compile(r"""(?:\bfrom|\bimport)\s*\(?\s*"(\.[^"]+)\"""")

_VENDORED = re.compile(r"""\bvendored\(("[^)]+)\)""")


def name_of(path: Path) -> str:
    return path.relative_to(PAGE).as_posix()


def text_of(name: str) -> str:
    stored = PageFiles().find(f"/{name}")
    assert stored is not None, f"{name} is asked for, and is not there"
    return stored.data().decode()


# -- what the page is made of -----------------------------------------------------------------------------------------


def imports(name: str, *, lazy: bool) -> Iterator[str]:
    """What a module loads: with its start, or later by `import(…)`."""
    for match in _IMPORT.finditer(text_of(name)):
        if ("(" in match[0]) == lazy:
            yield posixpath.normpath(posixpath.join(posixpath.dirname(name), match[1]))


def loaded_with(start: list[str]) -> set[str]:
    found, left = set(start), list(start)
    while left:
        for name in imports(left.pop(), lazy=False):
            if name not in found:
                found.add(name)
                left.append(name)
    return found


def first_view() -> set[str]:
    index = text_of("index.html")
    styles = re.findall(r'<link rel="stylesheet" href="([^"]+)"', index)
    scripts = re.findall(r'<script type="module" src="([^"]+)"', index)
    assert styles
    assert scripts
    return {"index.html", *styles, *loaded_with(scripts)}


def test_first_view_is_light_and_has_neither_charts_nor_3d() -> None:
    files = first_view()
    size = sum(len(text_of(name).encode()) for name in files)
    assert size < FIRST_VIEW_BYTES, {name: len(text_of(name)) for name in files}
    assert not [name for name in files if name.startswith("vendor/") or name == "pack3d/pack3d.js"]


def test_first_view_with_charts_is_light(vendor: Path) -> None:
    """Where somebody opens a pack at once."""
    chart = (vendor / "uplot/dist/uPlot.esm.js.gz", vendor / "uplot/dist/uPlot.min.css.gz")
    size = sum(len(text_of(name).encode()) for name in first_view())
    assert size + sum(len(gzip.decompress(path.read_bytes())) for path in chart) < FIRST_VIEW_BYTES


@pytest.mark.parametrize("path", OWN, ids=name_of)
def test_file_asks_no_other_server_and_makes_no_html_of_text(path: Path) -> None:
    text = path.read_text().replace("http://www.w3.org/2000/svg", "").replace("http://127.0.0.1:5002", "")
    assert re.findall(r"https?://|\b(?:src|href)=\"//", text) == []
    assert (
        re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", text)
        == []
    )
    assert text.count("\n") <= 400


@pytest.mark.parametrize("path", [path for path in OWN if path.suffix == ".js"], ids=name_of)
def test_what_a_module_imports_is_there(path: Path) -> None:
    for lazy in (False, True):
        for name in imports(name_of(path), lazy=lazy):
            if not name.startswith("vendor/"):  # is not there before it is installed
                assert PageFiles().find(f"/{name}") is not None, name


def test_index_has_no_script_or_style_of_its_own() -> None:
    """The content policy would not let them run."""
    index = text_of("index.html")
    assert re.findall(r"<style|<script(?![^>]*\bsrc=)|\son\w+=|\sstyle=", index) == []


# -- texts ------------------------------------------------------------------------------------------------------------

TEXTS = text_of("texts.js")
KEYS = set(re.findall(r'"([a-z_0-9]+(?:\.[a-z_0-9]+)*)": "', TEXTS))


def used() -> tuple[set[str], set[str]]:
    """Keys, and beginnings of keys whose end is known at run time."""
    keys: set[str] = set()
    beginnings: set[str] = set()
    for path in OWN:
        if path.name == "texts.js" or "pack3d" in path.parts:
            continue
        text = path.read_text()
        keys |= set(re.findall(r'\bt\(\s*"([^"]+)"', text)) | set(re.findall(r'data-t="([^"]+)"', text))
        keys |= {key for pair in re.findall(r'\bt\([^?"`]+\? "([^"]+)" : "([^"]+)"', text) for key in pair}
        keys |= {key for key in re.findall(r'"([a-z_0-9]+\.[a-z_0-9.]+)"', text) if key in KEYS}  # given on
        for key in re.findall(r'\bcount\([^"`]*"([^"]+)"', text):
            keys |= {f"{key}.one", f"{key}.many"}
        beginnings |= set(re.findall(r"\bcount\([^`\"]*`([^`$]+)\$", text))
        beginnings |= set(re.findall(r"\bt\(\s*`([^`$]+)\$", text))
    return keys, beginnings


def test_every_text_that_is_used_is_there() -> None:
    keys, beginnings = used()
    assert len(keys) > 100
    assert sorted(keys - KEYS) == []
    assert [begin for begin in sorted(beginnings) if not any(key.startswith(begin) for key in KEYS)] == []


def test_every_text_that_is_there_is_used() -> None:
    keys, beginnings = used()
    assert [key for key in sorted(KEYS - keys) if not key.startswith(tuple(beginnings))] == []


def test_health_quantities_and_severities_have_words() -> None:
    """Keys whose end comes from the gateway."""
    wanted = {
        "health": ("ok", "degraded", "unhealthy"), "severity": ("critical", "warning", "info"), "kind": ("charge", "discharge"),
        "compare": ("soh", "temperature", "rul", "failure"), "grade": ("good", "fair", "poor", "unknown"),
    }  # fmt: skip
    assert [
        f"{group}.{end}" for group, ends in wanted.items() for end in ends if f"{group}.{end}" not in KEYS
    ] == []


# -- serving ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    ["/../web.py", "/%2e%2e/web.py", "/.hidden.js", "/style", "/style/", "/vendor/installed.json", "/api.py", "//app.js"],
)  # fmt: skip
def test_what_is_not_the_pages_is_not_found(path: str) -> None:
    assert PageFiles().find(path) is None


@pytest.mark.parametrize(
    ("path", "media"),
    [
        ("/", "text/html; charset=utf-8"), ("/app.js", "text/javascript; charset=utf-8"),
        ("/style/base.css", "text/css; charset=utf-8"),
    ],
)  # fmt: skip
def test_media_type(path: str, media: str) -> None:
    stored = PageFiles().find(path)
    assert stored is not None
    assert stored.media == media


def ask(
    files: PageFiles, path: str, method: str = "GET", **headers: str
) -> tuple[int, dict[bytes, bytes], bytes]:
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        raise AssertionError("nothing is to be read")

    asked = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    asyncio.run(files({"path": path, "method": method, "headers": asked}, receive, send))
    return sent[0]["status"], dict(sent[0]["headers"]), sent[1]["body"]


def own(tmp_path: Path) -> PageFiles:
    (tmp_path / "app.js").write_text("let a = 1;\n")
    (tmp_path / "packed.js.gz").write_bytes(gzip.compress(b"let b = 2;\n"))
    return PageFiles(tmp_path)


@pytest.mark.parametrize(("path", "text"), [("/app.js", b"let a = 1;\n"), ("/packed.js", b"let b = 2;\n")])
@pytest.mark.parametrize("encoding", ["gzip, deflate", "identity"])
def test_file_is_compressed_for_who_can_read_that(
    tmp_path: Path, path: str, text: bytes, encoding: str
) -> None:
    status, headers, body = ask(own(tmp_path), path, accept_encoding=encoding)
    is_packed = headers.get(b"content-encoding") == b"gzip"
    assert (status, is_packed) == (200, "gzip" in encoding)
    assert (gzip.decompress(body) if is_packed else body) == text
    assert (headers[b"vary"], headers[b"cache-control"]) == (b"accept-encoding", b"no-cache")
    assert int(headers[b"content-length"]) == len(body)


def test_file_is_sent_again_only_when_it_was_edited(tmp_path: Path) -> None:
    files = own(tmp_path)
    _, headers, _ = ask(files, "/app.js")
    tag = headers[b"etag"].decode()
    assert (ask(files, "/app.js", if_none_match=tag))[::2] == (304, b"")
    (tmp_path / "app.js").write_text("let a = 'edited';\n")
    assert (ask(files, "/app.js", if_none_match=tag))[::2] == (200, b"let a = 'edited';\n")


# -- installing -------------------------------------------------------------------------------------------------------

CONTENT = {
    "uplot": {"LICENSE": "MIT", "dist/uPlot.esm.js": "export default 1", "dist/uPlot.min.css": ".u{}", "dist/uPlot.cjs.js": "x"},
    "three": {"LICENSE": "MIT", "build/three.module.min.js": "a", "build/three.core.min.js": "b", "src/Three.js": "x"},
}  # fmt: skip


def archive(path: Path, files: dict[str, str]) -> str:
    with tarfile.open(path, "w:gz") as tar:
        for name, text in files.items():
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text.encode()))
    return f"sha512-{base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()}"


@pytest.fixture
def given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Archives that are the pinned ones."""
    paths = [tmp_path / package.archive for package in page_files.PACKAGES]
    pinned = tuple(
        replace(package, integrity=archive(path, CONTENT[package.name]))
        for package, path in zip(page_files.PACKAGES, paths, strict=True)
    )
    monkeypatch.setattr(page_files, "PACKAGES", pinned)
    monkeypatch.setattr(page_files, "folder", lambda: tmp_path / "vendor")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return paths


def test_install_from_archives_needs_no_network(
    given: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # no npm
    assert main(["page", "install", "--from", *map(str, given)]) == 0
    names = {path.relative_to(tmp_path / "vendor").as_posix() for path in (tmp_path / "vendor").rglob("*.*")}
    assert names == {
        "installed.json", "uplot/dist/uPlot.esm.js.gz", "uplot/dist/uPlot.min.css.gz",
        "three/build/three.module.min.js.gz", "three/build/three.core.min.js.gz",
    }  # fmt: skip
    assert page_files.installed(tmp_path / "vendor")
    capsys.readouterr()
    assert main(["page", "install"]) == 0
    assert "is there already" in capsys.readouterr().out


def test_install_refuses_what_is_not_the_pinned_archive(
    given: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    archive(given[0], {**CONTENT["uplot"], "dist/uPlot.esm.js": "evil()"})
    assert main(["page", "install", "--from", *map(str, given)]) == 2
    told = capsys.readouterr().err
    assert "is not the archive of uplot@" in told
    assert "fetch it again with `npm pack uplot@" in told
    assert not (tmp_path / "vendor").exists()


def test_without_npm_the_command_says_what_to_do(
    given: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    with pytest.raises(NpmFilesError, match=r"then `voltflow page install --from uplot-[\d.]+tgz`"):
        page_files.install(say=lambda _: None)


def test_page_says_the_command_that_installs() -> None:
    assert f'"{page_files.INSTALL_COMMAND}"' in text_of("pack/charts.js")


# -- what is installed here -------------------------------------------------------------------------------------------


@pytest.fixture
def vendor() -> Path:
    """What the page draws with, as `make install-test` put it there."""
    if not page_files.installed():
        pytest.skip(f"run: {page_files.INSTALL_COMMAND}")
    return page_files.folder()


def test_licences_are_there_and_listed(vendor: Path) -> None:
    notice = (vendor / "NOTICE").read_text()
    for package in page_files.PACKAGES:
        assert f"{package.spec} " in notice
        assert f"{package.short}/LICENSE" in notice
        assert "MIT" in (vendor / package.short / "LICENSE").read_text()
    assert '"vendor/NOTICE"' in text_of("app.js")  # the page leads there
    for name in ("NOTICE", "uplot/LICENSE", "three/LICENSE"):
        stored = PageFiles().find(f"/vendor/{name}")
        assert stored is not None
        assert stored.media == "text/plain; charset=utf-8"


def test_what_the_page_imports_from_packages_is_installed(vendor: Path) -> None:
    scripts = [text_of(name_of(path)) for path in OWN if path.suffix == ".js"]
    wanted = {
        f"vendor/{name}" for text in scripts for call in _VENDORED.findall(text) for name in re.findall(r'"([^"]+)"', call)
    }  # fmt: skip
    wanted |= {name for text in scripts for name in re.findall(r'styleSheet\("(vendor/[^"]+)"', text)}
    assert {name.split("/")[1] for name in wanted} == {package.short for package in page_files.PACKAGES}
    assert [name for name in sorted(wanted) if PageFiles().find(f"/{name}") is None] == []
    assert json.loads((vendor / npm_files.STAMP).read_text()) == page_files.bundle().stamp
