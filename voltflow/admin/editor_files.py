"""The files of Node-RED's editor: where they are, and how they are fetched, checked and put there.

They are two npm packages, unchanged: of `editor-client` the page, of `nodes` the core nodes' forms, help and icons. Of
32.8 + 2.9 MB a gateway needs 5 MB, compressed once, here. They are not part of this repository: a checkout fetches them
with `voltflow editor install`, a wheel brings them as package data.

    >>> [package.name for package in PACKAGES]
    ['@node-red/editor-client', '@node-red/nodes']
"""

from __future__ import annotations

import base64
import contextlib
import gzip
import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["INSTALL_COMMAND", "PACKAGES", "VERSION", "EditorFilesError", "folder", "install", "installed"]

INSTALL_COMMAND: Final = "voltflow editor install"
VERSION: Final = "5.0.7"
STAMP: Final = "installed.json"
COMPRESSED: Final = frozenset({"css", "html", "js", "json", "mst", "svg", "txt", "map"})
"""Endings of what is stored as `NAME.gz` only, and sent so."""
_FORMAT: Final = 1
"""Of the folder; another one is made anew."""
_DOWNLOAD_S: Final = 600


class EditorFilesError(OSError):
    """The editor's files cannot be installed; the message says why and what to do."""


@dataclass(frozen=True)
class Package:
    """An npm package, pinned: `integrity` is what the registry says of it; of its files those are kept that match
    `keep` and not `leave`."""

    name: str
    integrity: str
    keep: str
    leave: str = r"(?!)"

    @property
    def short(self) -> str:
        return self.name.rpartition("/")[2]

    @property
    def archive(self) -> str:
        """The name that `npm pack` gives it."""
        return f"{self.name.lstrip('@').replace('/', '-')}-{VERSION}.tgz"

    def wants(self, path: str) -> bool:
        return re.match(self.keep, path) is not None and re.match(self.leave, path) is None


PACKAGES: Final = (
    Package(
        "@node-red/editor-client",
        "sha512-bvgOGXvArCxTeB43P18Wu8UZAc3qXKPArr83a8BG7F2vcXFbYFbw6nbe9Euz9uWEVAEPrz3cPrGp8xVCZSyUwg==",
        keep=r"LICENSE$|templates/|public/|locales/en-US/",
        # what is here a second time, or only for JavaScript, for what is not loaded here, for other languages
        leave=r"public/(types|vendor/ace|vendor/mermaid|vendor/monaco/dist/locale|red/tours)/"
        r"|public/red/(red|main)\.js$|public/vendor/monaco/dist/ts\.worker\.js",
    ),
    Package(
        "@node-red/nodes",
        "sha512-VBebFd8jBg8E7wga1tqWetTx+Iv9SfnFCc/Ik4/cci6827WIlbrZLVwqmc278IGmZti7rQeu9LCo9CjVzBsrWw==",
        keep=r"LICENSE$|icons/|locales/en-US/|core/.*\.html$|core/common/lib/debug/",
    ),
)

NOTICE = f"""\
The files in this folder are parts of the npm packages {PACKAGES[0].name} and {PACKAGES[1].name}, version {VERSION}.
Copyright OpenJS Foundation and other contributors, https://openjsf.org/
Licensed under the Apache License, Version 2.0: editor-client/LICENSE and nodes/LICENSE.

Nothing in them was changed. Files that are not needed were left out; those whose name ends in .gz were compressed.
editor-client/public/vendor holds works of others under their own licences, named in the files themselves; for the
text editor, Monaco, see editor-client/public/vendor/monaco (ThirdPartyNotices.txt).
"""

Say = Callable[[str], None]


def folder() -> Path:
    """Where the files belong: package data of the gateway's agent."""
    spec = importlib.util.find_spec("edge")
    if spec is None or spec.origin is None:
        raise EditorFilesError(
            "the gateway's agent is not installed here, and the editor belongs to it: pip install 'voltflow[edge]'"
        )
    return Path(spec.origin).parent / "editor" / "files"


def installed(into: Path | None = None) -> bool:
    """Whether the files of this version are there."""
    try:
        stamp = json.loads(((into or folder()) / STAMP).read_text())
    except (OSError, ValueError):
        return False
    return bool(stamp == _stamp())


def install(given: Sequence[Path] = (), *, into: Path | None = None, say: Say = print) -> bool:
    """Put the files there; False where they are there already. Raises EditorFilesError.

    `given` are archives that were fetched elsewhere. The folder is made beside and renamed when it is complete: whatever
    ends this in between, it is never half there.
    """
    into = into or folder()
    for path in given:  # what was given is checked, also where nothing is to be done
        _package_of(path)
    if installed(into):
        say(f"the editor {VERSION} is there already: {into}")
        return False
    archives = [_archive(package, given, say) for package in PACKAGES]
    with _replacing(into) as new:
        for package, archive in zip(PACKAGES, archives, strict=True):
            count = _extract(package, archive, new / package.short)
            say(f"{package.name} {VERSION}: {count} files")
        (new / "NOTICE").write_text(NOTICE)
        (new / STAMP).write_text(json.dumps(_stamp(), indent=2) + "\n")
    size = sum(path.stat().st_size for path in into.rglob("*") if path.is_file())
    say(f"the editor {VERSION} is in {into} ({size / 1e6:.1f} MB)")
    return True


def _stamp() -> dict[str, object]:
    return {
        "format": _FORMAT,
        "version": VERSION,
        **{package.name: package.integrity for package in PACKAGES},
    }


# -- archives ---------------------------------------------------------------------------------------------------------


def _package_of(path: Path) -> Package:
    """Which package an archive is, by its checksum."""
    found = _integrity(path)
    for package in PACKAGES:
        if package.integrity == found:
            return package
    wanted = " or ".join(f"{package.name}@{VERSION}" for package in PACKAGES)
    raise EditorFilesError(
        f"{path} is not the archive of {wanted}: its checksum is {found[:22]}…; fetch it again with "
        f"`npm pack {PACKAGES[0].name}@{VERSION} {PACKAGES[1].name}@{VERSION}`"
    )


def _integrity(path: Path) -> str:
    try:
        digest = hashlib.sha512(path.read_bytes()).digest()
    except OSError as error:
        raise EditorFilesError(f"{path} cannot be read: {error.strerror or error}") from None
    return f"sha512-{base64.b64encode(digest).decode()}"


def _archive(package: Package, given: Sequence[Path], say: Say) -> Path:
    """The package's archive: one that was given, of an earlier time, or fetched now."""
    for path in given:
        if _package_of(path) is package:
            return path
    cached = _cache() / package.archive
    if cached.is_file():
        if _integrity(cached) == package.integrity:
            return cached
        cached.unlink()
    say(f"fetching {package.name} {VERSION} …")
    return _fetch(package, cached)


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "voltflow" / "editor"


def _fetch(package: Package, cached: Path) -> Path:
    by_hand = f"fetch it elsewhere with `npm pack {package.name}@{VERSION}`, then `{INSTALL_COMMAND} --from {package.archive}`"
    npm = shutil.which("npm")
    if npm is None:
        raise EditorFilesError(f"npm is not here: install it (any version), or {by_hand}")
    cached.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cached.parent) as temporary:
        command = [npm, "pack", "--silent", "--pack-destination", temporary, f"{package.name}@{VERSION}"]
        try:
            subprocess.run(
                command, cwd=temporary, check=True, capture_output=True, text=True, timeout=_DOWNLOAD_S
            )
        except subprocess.SubprocessError as error:
            reason = str(getattr(error, "stderr", "") or error).strip().splitlines()
            raise EditorFilesError(
                f"npm cannot fetch {package.name}@{VERSION}: {reason[-1] if reason else error}; {by_hand}"
            ) from None
        fetched = Path(temporary) / package.archive
        if (found := _integrity(fetched)) != package.integrity:
            raise EditorFilesError(
                f"what npm fetched for {package.name}@{VERSION} has the checksum {found[:22]}…, not "
                f"{package.integrity[:22]}…: it is not used; see where npm fetches from (`npm config get registry`)"
            )
        return fetched.replace(cached)


# -- the folder -------------------------------------------------------------------------------------------------------


def _extract(package: Package, archive: Path, into: Path) -> int:
    """Write the files that are needed, compressed where that helps; how many."""
    count = 0
    with tarfile.open(archive, "r:gz") as tar:
        for member in tar:
            path = member.name.partition("/")[2]
            if not member.isfile() or not package.wants(path) or ".." in Path(path).parts:
                continue
            content = tar.extractfile(member)
            assert content is not None  # it is a file
            _write(into / path, content.read())
            count += 1
    return count


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix[1:] in COMPRESSED:
        path = path.with_name(f"{path.name}.gz")
        data = gzip.compress(data, 9, mtime=0)
    path.write_bytes(data)


@contextlib.contextmanager
def _replacing(into: Path) -> Iterator[Path]:
    """A new folder that takes the place of `into` when the block is done; nothing is left of it when that fails."""
    try:
        into.parent.mkdir(parents=True, exist_ok=True)
        new = Path(tempfile.mkdtemp(prefix=f".{into.name}-", dir=into.parent))
    except OSError as error:
        raise EditorFilesError(
            f"{into.parent} cannot be written to: {error.strerror or error}; run it as who owns it"
        ) from None
    try:
        yield new
        new.chmod(0o755)
        old = new.with_name(f"{new.name}-old")
        if into.exists():
            into.replace(old)
        new.replace(into)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(new, ignore_errors=True)
