"""What a support bundle has in it: files of texts, all without secrets, with a manifest; bounded in size.

Settings and texts are blanked by what is known to be secret and by what looks like it. Of a flow only those texts stay that
are no free ones (topics, hosts, names): code, templates, payloads and headers are replaced by their length, because
nobody can tell what people have written there.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import platform
import re
import tarfile
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from voltflow import __version__
from voltflow.doctor.blank import BLANK, Blanker, is_reference, is_secret_name
from voltflow.doctor.program import Address, ask
from voltflow.flow.expand import RawNode
from voltflow.node import REGISTRY
from voltflow.setting import settings_of
from voltflow.settings import Loaded

FILE_LIMIT = 2 * 1024 * 1024
"""Bytes of one file; of a longer one the end is kept, where what happened last stands."""
LISTED_LIMIT = 5000
"""Files of a folder that are listed."""
LOG_LINES = 5000

STAYS = frozenset({
    "id", "type", "z", "g", "label", "name", "topic", "broker", "port", "host", "model", "models", "folder", "field",
    "property", "qos", "tls", "usetls", "ca", "cert", "key_file", "clientid", "server", "units", "unit", "datatype", "action",
    "birthTopic", "closeTopic", "willTopic", "bootstrap", "org", "bucket", "only", "icon", "color", "category", "version",
})  # fmt: skip
"""Properties of nodes whose texts stay (blanked like all others)."""


@dataclass
class Bundle:
    """Files by name, in the order in which they were added; each is blanked when it is."""

    blanker: Blanker
    files: dict[str, bytes] = field(default_factory=dict)
    about: dict[str, str] = field(default_factory=dict)

    def add_text(self, name: str, about: str, text: str) -> None:
        data = self.blanker.text(text).encode("utf-8", "replace")
        if len(data) > FILE_LIMIT:
            begin = data.find(b"\n", len(data) - FILE_LIMIT) + 1
            data = b"(the beginning is left out)\n" + data[begin or len(data) - FILE_LIMIT :]
        self.files[name], self.about[name] = data, about

    def add_json(self, name: str, about: str, document: Any) -> None:
        """A document; blanked as such, so that it stays one."""
        text = json.dumps(self.blanker.tree(document), indent=1, ensure_ascii=False, default=str)
        data = text.encode("utf-8", "replace")
        if len(data) > FILE_LIMIT:
            about = f"{about}; only its beginning, it was too long"
            data = data[:FILE_LIMIT]
        self.files[name], self.about[name] = data, about

    def manifest(self) -> dict[str, Any]:
        """Every file with its size and SHA-256, and what it is."""
        return {
            "schema": "voltflow.support/1", "version": __version__,
            "made": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "files": [
                {"name": name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest(), "about": self.about[name]}
                for name, data in self.files.items()
            ],
        }  # fmt: skip

    def write(self, path: Path) -> None:
        """As `.tar.gz`, readable by its owner alone; a file of that name is replaced when the new one is whole."""
        manifest = json.dumps(self.manifest(), indent=1, ensure_ascii=False).encode()
        partial = path.with_name(f".{path.name}.part")
        try:
            with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                with tarfile.open(fileobj=file, mode="w:gz") as archive:
                    for name, data in {"manifest.json": manifest, **self.files}.items():
                        info = tarfile.TarInfo(f"voltflow-support/{name}")
                        info.size, info.mtime, info.mode = len(data), int(time.time()), 0o600
                        archive.addfile(info, io.BytesIO(data))
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


# -- what goes into it --------------------------------------------------------------------------------------------


def settings_of_program(loaded: Loaded[Any]) -> dict[str, Any]:
    """Each setting with its value and where that comes from; secret ones only whether they are set."""
    shown = {}
    cls: type[msgspec.Struct] = type(loaded.values)
    for item in settings_of(cls):
        value = getattr(loaded.values, item.name)
        if item.secret:
            value = BLANK if value else ""
        shown[item.name] = {"value": value, "from": loaded.origins[item.name]}
    return shown


def flow_without_texts(nodes: Iterable[RawNode]) -> list[dict[str, Any]]:
    """The nodes of a flow without credentials and free texts."""
    return [_node(raw) for raw in nodes]


def _node(raw: RawNode) -> dict[str, Any]:
    spec = REGISTRY.get(str(raw.get("type")))
    harmless = {f.name for f in spec.fields if not f.secret and (f.choices or f.reference)} if spec else set()
    secret = {f.name for f in spec.fields if f.secret} if spec else set()
    shown: dict[str, Any] = {}
    for name, value in raw.items():
        if name == "credentials":
            continue
        if name in secret:
            shown[name] = value if isinstance(value, str) and is_reference(value) else BLANK
        elif name == "url" and isinstance(value, str):
            shown[name] = _host_of(value)
        elif name == "wires" or name in harmless or (name in STAYS and isinstance(value, str)):
            shown[name] = value
        else:
            shown[name] = _without_texts(value)
    return shown


def _host_of(url: str) -> str:
    """An address as far as its host: what follows may be a token. A path alone is one of our own and stays.

    >>> (
    ...     _host_of("https://hooks.example.org/services/T0/B0/geheim"),
    ...     _host_of("http://ann:a/b@h/"),
    ...     _host_of("/orders"),
    ... )
    ('https://hooks.example.org/…', 'http://***', '/orders')
    """
    if url.startswith("/") or not url or is_reference(url):
        return url
    scheme, mark, rest = url.partition("://")
    if not mark:
        return f"({len(url)} characters)"
    host = re.split(r"[/?#\\]", rest, maxsplit=1)[0]
    if "@" in rest[len(host) :]:  # a password with such a letter in it, perhaps
        return f"{scheme}://{BLANK}"
    user, at, host_alone = host.rpartition("@")
    shown = f"{scheme}://{BLANK if at else user}{at}{host_alone}"
    return shown if host == rest else f"{shown}/…"


def _without_texts(value: Any) -> Any:
    """Numbers and what is true or false; a text as its length, `${NAME}` as it is."""
    if isinstance(value, Mapping):
        return {name if len(name) < 40 else "…": BLANK if is_secret_name(name) else _without_texts(item)
                for name, item in value.items()}  # fmt: skip
    if isinstance(value, list):
        return [_without_texts(item) for item in value]
    if isinstance(value, str) and value and not is_reference(value):
        return f"({len(value)} characters)"
    return value


def listing(folder: Path) -> str:
    """The files in a folder: mode, size, time of change, name; nothing of what is in them."""
    lines = [f"{folder}:"]
    for number, path in enumerate(_walk(folder)):
        if number >= LISTED_LIMIT:
            lines.append("… and more")
            break
        try:
            found = path.lstat()
        except OSError as error:
            lines.append(f"{error.strerror}  {path}")
            continue
        changed = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(found.st_mtime))
        lines.append(
            f"{found.st_mode & 0o7777:04o} {found.st_uid:5} {found.st_size:12,} {changed}  {path.relative_to(folder)}"
        )
    return "\n".join(lines) + "\n"


def _walk(folder: Path) -> Iterator[Path]:
    for place, folders, names in os.walk(folder):
        folders.sort()
        yield from (Path(place) / name for name in sorted(names))


def platform_facts(environ: Mapping[str, str]) -> dict[str, Any]:
    """The machine, its libraries, the names of the variables that concern Voltflow (not their values)."""
    import importlib.metadata

    packages = {str(found.metadata["Name"]): found.version for found in importlib.metadata.distributions()}
    return {
        "voltflow": __version__, "python": platform.python_version(), "platform": platform.platform(),
        "machine": platform.machine(), "processors": os.cpu_count(), "uptime_s": _first_word("/proc/uptime"),
        "load": _whole("/proc/loadavg"), "memory": _whole("/proc/meminfo").splitlines()[:5],
        "board": _whole("/proc/device-tree/model").strip("\0"), "mounts": _mounts(),
        "variables": sorted(name for name in environ if name.startswith("VOLTFLOW_")),
        "packages": dict(sorted(packages.items(), key=lambda item: item[0].lower())),
    }  # fmt: skip


def _whole(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace").strip()
    except OSError:
        return ""


def _first_word(path: str) -> str:
    return _whole(path).partition(" ")[0]


def _mounts() -> list[str]:
    """File systems on disks, with their options: whether one is read-only stands there."""
    lines = (line.split() for line in _whole("/proc/mounts").splitlines())
    return [" ".join(fields[:4]) for fields in lines if len(fields) > 3 and fields[0].startswith("/dev/")]


def tail(path: Path, lines: int = LOG_LINES) -> str:
    """The last lines of a log; raises OSError."""
    with path.open("r", encoding="utf-8", errors="replace") as file:
        return "".join(deque(file, maxlen=lines))


def answer(bundle: Bundle, name: str, address: Address) -> str:
    """Add what a running program answers; else why there is nothing."""
    try:
        status, body = ask(address)
    except (OSError, ValueError) as error:  # a token with letters that no header can have
        return f"{address.url}: {getattr(error, 'reason', None) or error}"
    if status not in (200, 503):
        return f"{address.url}: answers {status}"
    text = body.decode("utf-8", "replace")
    try:
        bundle.add_json(name, f"what {address.url} answered", json.loads(text))
    except ValueError:
        bundle.add_text(name, f"what {address.url} answered", text)
    return ""
