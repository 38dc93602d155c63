"""Installing the editor's files: checked, whole, and only what is needed."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import os
import tarfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from voltflow.admin import editor_files, npm_files
from voltflow.admin.editor_files import install, installed
from voltflow.admin.npm_files import NpmFilesError
from voltflow.cli import main

CLIENT = {
    "package/LICENSE": "Apache",
    "package/public/red/red.min.js": "let a = 1;",
    "package/public/red/red.js": "let theSameThing = 1;",
    "package/public/vendor/ace/ace.js": "not used",
    "package/public/vendor/logo.png": "png",
    "package/locales/en-US/editor.json": "{}",
    "package/locales/de/editor.json": "{}",
    "package/public/../../../outside": "evil",
}
NODES = {
    "package/LICENSE": "Apache",
    "package/core/common/20-inject.html": "<script></script>",
    "package/core/common/20-inject.js": "module.exports",
    "package/core/common/lib/debug/debug-utils.js": "let d;",
    "package/icons/inject.svg": "<svg/>",
}


def archive(path: Path, files: Mapping[str, str]) -> str:
    """Write an npm archive; its integrity."""
    with tarfile.open(path, "w:gz") as tar:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text.encode()))
    return f"sha512-{base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()}"


@pytest.fixture
def given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Archives that are the pinned ones."""
    packages, paths = [], []
    for package, files in zip(editor_files.PACKAGES, (CLIENT, NODES), strict=True):
        path = tmp_path / package.archive
        packages.append(replace(package, integrity=archive(path, files)))
        paths.append(path)
    monkeypatch.setattr(editor_files, "PACKAGES", tuple(packages))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return paths


def content(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_what_is_needed_is_put_there_compressed(given: list[Path], tmp_path: Path) -> None:
    said: list[str] = []
    assert install(given, into=tmp_path / "files", say=said.append)
    assert content(tmp_path / "files") == {
        "NOTICE", "installed.json", "editor-client/LICENSE", "editor-client/public/red/red.min.js.gz",
        "editor-client/public/vendor/logo.png", "editor-client/locales/en-US/editor.json.gz", "nodes/LICENSE",
        "nodes/core/common/20-inject.html.gz", "nodes/core/common/lib/debug/debug-utils.js.gz",
        "nodes/icons/inject.svg.gz",
    }  # fmt: skip
    packed = (tmp_path / "files/editor-client/public/red/red.min.js.gz").read_bytes()
    assert gzip.decompress(packed) == b"let a = 1;"
    assert "Nothing in them was changed" in (tmp_path / "files/NOTICE").read_text()
    assert said[:2] == ["@node-red/editor-client 5.0.7: 4 files", "@node-red/nodes 5.0.7: 4 files"]


def test_second_time_does_nothing(given: list[Path], tmp_path: Path) -> None:
    folder = tmp_path / "files"
    install(given, into=folder, say=lambda _: None)
    before = folder.stat().st_ino
    assert not install(given, into=folder, say=lambda _: None)
    assert (folder.stat().st_ino, installed(folder)) == (before, True)


def test_other_version_is_replaced_as_a_whole(given: list[Path], tmp_path: Path) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "installed.json").write_text('{"version": "4.0.0"}')
    (folder / "of the old one").touch()
    assert install(given, into=folder, say=lambda _: None)
    assert "of the old one" not in content(folder)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_archive_that_is_not_the_pinned_one_is_refused(given: list[Path], tmp_path: Path) -> None:
    archive(given[0], {**CLIENT, "package/public/red/red.min.js": "evil()"})
    with pytest.raises(
        NpmFilesError, match=r"is not the archive of @node-red/editor-client@5\.0\.7 or"
    ) as error:
        install(given, into=tmp_path / "files", say=lambda _: None)
    assert "fetch it again with `npm pack @node-red/editor-client@5.0.7" in str(error.value)
    assert not (tmp_path / "files").exists()


def test_failure_on_the_way_leaves_the_old_files(
    given: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "old").touch()

    def fail(*args: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(npm_files, "_extract", fail)
    with pytest.raises(OSError, match="No space left"):
        install(given, into=folder, say=lambda _: None)
    assert content(folder) == {"old"}
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def npm(folder: Path, script: str) -> None:
    """An `npm` that does what the script says, first on the path."""
    program = folder / "npm"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


def test_what_npm_fetches_is_checked_and_kept_for_later(
    given: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    npm(tools, f'cp {tmp_path}/*.tgz "$4"/')
    assert install(into=tmp_path / "files", say=lambda _: None)
    npm(tools, "exit 1")
    assert install(into=tmp_path / "again", say=lambda _: None)


NO_NETWORK = "npm cannot fetch @node-red/editor-client@5.0.7: npm error network unreachable; fetch it elsewhere with `npm pack"
OTHER = "it is not used; see where npm fetches from"


@pytest.mark.parametrize(
    ("script", "text"),
    [
        ("echo 'npm error network unreachable' >&2; exit 1", NO_NETWORK),
        ('echo other > "$4"/node-red-editor-client-5.0.7.tgz', OTHER),
    ],
)
def test_what_npm_cannot_fetch_is_said(
    given: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, text: str
) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    npm(tools, script)
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(NpmFilesError) as error:
        install(into=tmp_path / "files", say=lambda _: None)
    assert text in str(error.value)


def test_without_npm_the_command_says_what_to_do(
    given: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(editor_files, "folder", lambda: tmp_path / "files")
    assert main(["editor", "install"]) == 2
    assert "npm is not here: install it (any version), or fetch it elsewhere" in capsys.readouterr().err
    assert main(["editor", "install", "--from", *map(str, given)]) == 0
    assert "is there already" not in capsys.readouterr().out
    assert main(["editor", "install", "--from", *map(str, given)]) == 0
    assert "is there already" in capsys.readouterr().out
